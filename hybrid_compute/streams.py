"""Stream: the items of a generator, here, while it produces them somewhere else.

Owns the consumer's end of a `Channel`: who may read, and when it is closed. No locks of its own:
all methods but `close` are for one thread at a time.
"""

from __future__ import annotations

import _thread
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from hybrid_compute.channels import LOOK, Channel, items_of
from hybrid_compute.errors import StreamError

if TYPE_CHECKING:
    from types import TracebackType

    from hybrid_compute.futures import HybridFuture

__all__ = ["Stream"]

T = TypeVar("T")

_NOTHING: Iterator[Any] = iter(())


class Stream(Iterator[T], Generic[T]):
    """The items of a generator that runs in an executor, as they are produced.

    An iterator for one consumer: `for item in stream`, `next(stream)`, or `async for`. The
    producer goes ahead by at most `buffersize` items, and by at most `buffer_bytes` (see
    `TaskOptions`), then it waits. What the generator raises is raised behind the items before it.

    `close()`, leaving a `with` block, or dropping the stream ends the generator at its next
    `yield`: its `finally` blocks run, where it runs. A stream that is neither read nor closed
    keeps its worker process, though no thread, and `shutdown` closes it.

    All methods but `close` are for one thread at a time.
    """

    def __init__(self, channel: Channel, name: str, future: HybridFuture[Any] | None) -> None:
        self._channel = channel
        self._name = name
        self._future = None if future is None else weakref.ref(future)  # to cancel; not to keep
        self._loop: Any = None  # a weak reference to the iterator of the last `for`
        self._thread = 0  # who runs that
        self._reader: Any = None  # that of next()
        self._waiter = 0  # the thread that is in get(); 0: none

    def __iter__(self) -> Iterator[T]:  # noqa: PYI034 - so we see when a loop was left
        """Return an iterator; a second one only when the first is gone.

        Raises:
            RuntimeError: another one reads this stream, or it was read to its end.
        """
        if self._channel.done:
            raise RuntimeError(f"{self!r} was read to its end; submit the task again for another")
        if self._loop is not None and self._loop() is not None:
            raise RuntimeError(f"{self!r} is being read already, and can have one consumer only")
        self._thread = _thread.get_ident()
        loop = items_of(self._channel, self)
        self._loop = weakref.ref(loop)
        return loop

    def __next__(self) -> T:
        """Return the next item; block until there is one."""
        self._check_reader()
        if self._reader is None:
            # Not `self`: what refers to itself is not freed when it is dropped.
            self._reader = items_of(self._channel)
        item: T = next(self._reader)
        return item

    def get(self, timeout: float | None = None) -> T:
        """Return the next item, as `next` does, but wait for at most so many seconds.

        Raises:
            TimeoutError: none came in time; the stream goes on.
            StopIteration: there is none.
        """
        self._check_reader()
        channel = self._channel
        if timeout is not None and not channel.ready:
            self._waiter = _thread.get_ident()
            try:
                channel.advance(time.monotonic() + timeout)
            finally:
                self._waiter = 0
        return next(self)

    def _check_reader(self) -> None:
        """Raise RuntimeError if another thread reads."""
        me = _thread.get_ident()
        if self._loop is not None and self._thread != me:
            if self._loop() is not None:
                raise RuntimeError(f"{self!r} is being read by another thread")
            self._loop = None
        if self._waiter not in (0, me) or getattr(self._reader, "gi_running", False):
            raise RuntimeError(f"{self!r} is being read by another thread")

    @property
    def value(self) -> Any:
        """What the generator returned.

        Raises:
            StreamError: the stream was not read to its end, or did not come to its own.
        """
        if not self._channel.complete:
            raise StreamError(f"{self!r} has no value: it was not read to its end, or failed")
        return self._channel.value

    def close(self) -> None:
        """Want no more items: the generator is closed at its next `yield`. Idempotent.

        May be called from any thread, and does not wait for the generator.
        """
        future = None if self._future is None else self._future()
        if future is not None:
            future.cancel()
        self._channel.close()
        # An item may have come in meanwhile: nobody shall get it.
        for reading in (self._reader, None if self._loop is None else self._loop()):
            if reading not in (None, _NOTHING):
                with suppress(ValueError):  # another thread is in it, and sees by itself
                    reading.close()
        self._reader = _NOTHING

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self.close()

    def __aiter__(self) -> AsyncIterator[T]:
        return self._read_async(iter(self))

    async def _read_async(self, items: Iterator[T]) -> AsyncIterator[T]:
        import asyncio  # noqa: PLC0415 - who gets here has it

        loop = asyncio.get_running_loop()
        channel = self._channel
        while True:
            if not channel.ready and not channel.chunks and not channel.ended:
                channel.report()
                news = loop.create_future()

                def tell(news: Any = news) -> None:
                    def settle() -> None:
                        if not news.done():
                            news.set_result(None)

                    with suppress(RuntimeError):  # the loop is closed: nobody waits
                        loop.call_soon_threadsafe(settle)

                source = channel.source
                if (source is None or not source.pull()) and not channel.listen(tell):
                    await asyncio.wait((news,), timeout=LOOK)
                if not channel.has_news():
                    continue
            try:
                item = next(items)
            except StopIteration:
                return
            yield item

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied: its items come to this process. Send a list "
            "of them, or iterate over it here and submit the items one by one"
        )

    def __repr__(self) -> str:
        channel = self._channel
        state = "running"
        if channel.closed:
            state = "closed"
        elif channel.ended:
            failed = channel.error is not None or (channel.done and not channel.complete)
            state = "failed" if failed else "ended"
        return f"<Stream of {self._name} {state}>"
