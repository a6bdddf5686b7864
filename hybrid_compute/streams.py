"""Stream: the items of a generator, here, while it produces them somewhere else.

Owns `Channel`, what one producer and one consumer share, and `Stream`, the consumer's end of it.
Knows no executor: where the items come from is a `Source`, which each executor brings along.

    producer: ready.append(item) or chunks.append(...); wake() if attention     ... finish | fail
    consumer: ready.popleft() ... empty: open a chunk, or ask the source, or wait

Locks. `Channel.lock` guards `waiting`, `waker`, `ended` and `source`; it is re-entrant, since a
finalizer that closes a stream may land in the middle. No user code runs under it. `ready` and
`chunks` need none: each end of a deque belongs to one side.

Why no item is forgotten. The consumer says under the lock that it waits, and looks once more
before it does; the producer adds the item first and then looks whether somebody waits. On builds
without the GIL a processor may show these two in the other order; so a wait ends by itself after
`_LOOK` seconds, and looks again. `ended` is set under the lock after the last item was added, and
looked at before the last look for items.
"""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from itertools import repeat
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from hybrid_compute.errors import StreamError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hybrid_compute.futures import HybridFuture

__all__ = ["BUFFER_BYTES", "BUFFER_ITEMS", "SMALL", "Channel", "Large", "Source", "Stream", "large_size_of"]

T = TypeVar("T")

BUFFER_ITEMS = 1024  # queue.Queue(1024) is what people write for this
BUFFER_BYTES = 1 << 24

_LOOK = 0.1  # seconds; see above
SMALL = frozenset({int, float, bool, type(None), complex})
_LARGE_BYTES = 1024


class Large:
    """An item in the channel, with the bytes that it counts for."""

    __slots__ = ("size", "value")

    def __init__(self, value: Any, size: int) -> None:
        self.value = value
        self.size = size


def large_size_of(value: Any) -> int:
    """Return about how many bytes an item has, if it tells, and if they are many; else 0."""
    kind = type(value)
    if kind in SMALL:
        return 0
    if kind is str or kind is bytes or kind is bytearray:
        size = len(value)
    else:
        size = getattr(value, "nbytes", 0)  # arrays, memoryviews
        if type(size) is not int:
            return 0
    return size if size > _LARGE_BYTES else 0


class Source:
    """Where a channel's items come from, as its consumer sees it. Called on its thread."""

    def moved(self, items: int, size: int) -> None:
        """Note that the consumer has taken items of so many bytes since it said so last."""

    def pull(self) -> bool:
        """Produce an item right here, or the end; False if that is not done here."""
        return False

    def close(self) -> None:
        """Stop producing: nobody wants the rest. Does not wait; any thread."""

    def over(self) -> None:
        """Note that nothing more will come. Called by whoever ends the channel."""


class Channel:
    """What the two ends share.

    Attributes:
        ready: items that can be taken as they are, or in a `Large`.
        chunks: what comes behind them: a function that gives the items, how many they are, and
            their bytes.
        attention: the producer should look at `waiting` and `closed`.
        closed: the consumer wants no more.
        ended: nothing more will be added.
        done: the consumer knows, and has all; or it has closed.
        error: what ended it, if it was not its end.
        value: what the generator returned.
        most: items that may be in here.
        most_bytes: their bytes; one item more than that may be in here.
    """

    __slots__ = (
        *("attention", "chunks", "closed", "ended", "error", "lock", "most", "most_bytes"),
        *("done", "ready", "source", "value", "waiting", "waker"),
        *("_gate", "_open", "_taken_bytes"),
    )

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.ready: deque[Any] = deque()
        self.chunks: deque[tuple[Callable[[], Iterable[Any]], int, int]] = deque()
        self.lock = threading.RLock()
        self.attention = self.closed = self.ended = self.done = self.waiting = False
        self.error: BaseException | None = None
        self.value: Any = None
        self.source: Source | None = None
        self.waker: Callable[[], object] | None = None
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._taken_bytes = 0  # of Large ones; the source was not told yet
        self._open: tuple[int, int] | None = None  # the chunk that is in `ready`

    # For the producer.

    def wake(self) -> None:
        """Wake the consumer, if it waits."""
        with self.lock:
            self.attention = self.closed or self.ended
            if not self.waiting:
                return
            self.waiting = False
            waker, self.waker = self.waker, None
            if waker is None:
                try:
                    self._gate.release()
                except RuntimeError:  # Ctrl-C cut a wait short, and it was opened already
                    pass
        if waker is not None:
            waker()

    def put_chunk(self, decode: Callable[[], Iterable[Any]], items: int, size: int) -> None:
        """Add items that the consumer will decode, and wake it."""
        self.chunks.append((decode, items, size))
        if self.attention:
            self.wake()

    def finish(self, value: Any) -> None:
        """End, with what the generator returned."""
        self._end(value, None)

    def fail(self, error: BaseException) -> None:
        """End with an error, behind the items that are in here."""
        self._end(None, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        with self.lock:
            if self.ended:
                return
            self.value, self.error = value, error
            source, self.source = self.source, None
            self.ended = True
        if source is not None:
            source.over()
        self.wake()

    def on_done(self, future: Future[Any]) -> None:
        """Fail with the future of what should have produced, if that failed; a done-callback."""
        if future.cancelled():
            self.fail(CancelledError())
        elif future._exception is not None:
            self.fail(future._exception)

    # For the consumer.

    def advance(self, deadline: float | None = None) -> bool:
        """See that there is an item in `ready`; False at the end. Blocks until one of them.

        Raises:
            TimeoutError: the deadline has passed.
            BaseException: what ended the stream.
        """
        self.report()
        while not self.ready:
            if self.fill():
                continue
            if self.closed or self._over():
                return False
            source = self.source
            if source is None or not source.pull():
                self.wait(deadline)
        return True

    def fill(self) -> bool:
        """Open the next chunk; False if there is none, or `ready` has something."""
        if self.ready or not self.chunks:
            return False
        decode, items, size = self.chunks.popleft()
        self._open = items, size
        try:
            self.ready.extend(decode())
        except BaseException as error:
            self.chunks.clear()
            source = self.source
            self.fail(error)
            self.error = error  # whatever came behind it
            if source is not None:
                source.close()
        return True

    def _over(self) -> bool:
        """Say whether it has ended, and all was taken; raise what ended it."""
        if not self.ended or self.ready or self.chunks:
            return False
        self.done = True
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # the traceback must not hold itself
        return True

    def taken(self, large: Large) -> Any:
        """Note that the consumer has taken a large item, and return it as it is."""
        self._taken_bytes += large.size
        return large.value

    def report(self) -> None:
        """Tell the source what was taken."""
        source = self.source
        if self._open is not None:
            if self.ready:
                return
            (items, size), self._open = self._open, None
        else:
            items, size = 0, self._taken_bytes
            self._taken_bytes = 0
        if source is not None:
            source.moved(items, size)

    def wait(self, deadline: float | None = None) -> None:
        """Wait for something to happen, for a while."""
        if self.listen(None):
            return
        pause = _LOOK if deadline is None else min(_LOOK, deadline - time.monotonic())
        if pause > 0 and self._gate.acquire(True, pause):
            return
        with self.lock:
            if self.waiting:
                self.waiting = False
            else:
                self._gate.acquire(False)  # it was opened just now
        if deadline is not None and time.monotonic() >= deadline and not self._has_news():
            raise TimeoutError("no item of the stream came in time; it goes on")

    def listen(self, waker: Callable[[], object] | None) -> bool:
        """Have `waker` called, or the gate opened, at the next news; True if there are some."""
        with self.lock:
            self.waiting = self.attention = True
            self.waker = waker
            if self._has_news():
                self.waiting = False
                self.waker = None
                return True
        return False

    def _has_news(self) -> bool:
        return bool(self.ready or self.chunks or self.ended or self.closed)

    def close(self) -> None:
        """Want no more. Any thread."""
        with self.lock:
            if self.closed:
                return
            self.closed = self.done = self.attention = True
            source, self.source = self.source, None
        self.ready.clear()
        self.chunks.clear()
        if source is not None:
            source.close()
        self.wake()


class Stream(Generic[T], Iterator[T]):
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
        self._reader: Iterator[T] | None = None  # that of next()

    def __iter__(self) -> Iterator[T]:
        """Return an iterator; a second one only when the first is gone.

        Raises:
            RuntimeError: another one reads this stream, or it was read to its end.
        """
        if self._channel.done:
            raise RuntimeError(f"{self!r} was read to its end; submit the task again for another")
        if self._loop is not None and self._loop() is not None:
            raise RuntimeError(f"{self!r} is being read already, and can have one consumer only")
        self._thread = _thread.get_ident()
        loop = _items(self._channel, self)
        self._loop = weakref.ref(loop)
        return loop

    def __next__(self) -> T:
        """Return the next item; block until there is one."""
        if self._loop is not None and self._thread != _thread.get_ident():
            if self._loop() is not None:
                raise RuntimeError(f"{self!r} is being read by another thread")
            self._loop = None
        if self._reader is None:
            # Not `self`: what refers to itself is not freed when it is dropped.
            self._reader = _items(self._channel, None)
        return next(self._reader)

    def get(self, timeout: float | None = None) -> T:
        """Return the next item, as `next` does, but wait for at most so many seconds.

        Raises:
            TimeoutError: none came in time; the stream goes on.
            StopIteration: there is none.
        """
        channel = self._channel
        if timeout is not None and not channel.ready:
            channel.advance(time.monotonic() + timeout)
        return next(self)

    @property
    def value(self) -> Any:
        """What the generator returned.

        Raises:
            StreamError: the stream was not read to its end.
        """
        if not self._channel.done or not self._channel.ended:
            raise StreamError(f"{self!r} was not read to its end, so it has no value yet")
        return self._channel.value

    def close(self) -> None:
        """Want no more items: the generator is closed at its next `yield`. Idempotent.

        May be called from any thread, and does not wait for the generator.
        """
        future = None if self._future is None else self._future()
        if future is not None:
            future.cancel()
        self._channel.close()

    def __enter__(self) -> Self:
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

                    try:
                        loop.call_soon_threadsafe(settle)
                    except RuntimeError:
                        pass  # the loop is closed: nobody waits

                source = channel.source
                if (source is None or not source.pull()) and not channel.listen(tell):
                    await asyncio.wait((news,), timeout=_LOOK)
                if not channel._has_news():
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
            state = "ended" if channel.error is None else "failed"
        return f"<Stream of {self._name} {state}>"


def _items(channel: Channel, stream: Stream[Any] | None) -> Iterator[Any]:
    """Iterate over what comes through a channel; keeps `stream` alive, and so open."""
    ready = channel.ready
    pop = ready.popleft
    step = max(1, channel.most // 2)
    while True:
        for _ in repeat(None, step):
            try:
                value = pop()
            except IndexError:
                break
            yield channel.taken(value) if type(value) is Large else value
        if not channel.advance():
            return channel.value
