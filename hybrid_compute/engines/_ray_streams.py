"""Streams of Ray: one event loop, on one thread, reads all of them.

The thread starts with the first stream and ends with the last. It reads a stream's next object only
when its consumer has had the one before. `_lock` guards the loop and the count of its streams; all
else is the loop's. Consumers only leave word for it, since a stream may be closed by a finalizer,
in the middle of anything.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from hybrid_compute.channels import Source

__all__ = ["Reader", "Tap"]


class Tap(Source):
    """One stream, as its consumer sees it.

    Args:
        loop: that of the reader.
        generator: Ray's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, generator: Any) -> None:
        self._loop = loop
        self._generator = generator
        self._out = 0  # items that the consumer has not had; the loop's
        # Its outcome is here; the loop's. To cancel it then would do nothing, but for a check of
        # Ray's that may fail, and end this process, as its last reply arrives.
        self.ended = False
        self._room = asyncio.Event()
        self._room.set()

    async def next(self) -> Any:
        """Return the next object, once there is room; None at the end."""
        await self._room.wait()
        try:
            return await (await self._generator.__anext__())
        except StopAsyncIteration:
            return None

    def put(self, items: int) -> None:
        """Note that the consumer gets so many items."""
        self._out += items
        if self._out > 0:
            self._room.clear()

    def _take(self, items: int) -> None:
        self._out -= items
        if self._out <= 0:
            self._room.set()

    def moved(self, items: int, size: int) -> None:
        """Have the reader go on, if that was all."""
        if items:
            self._tell(self._take, items)

    def close(self) -> None:
        """Have Ray cancel the generator, which runs what it has to do at its end."""
        self._tell(self._cancel)

    def _cancel(self) -> None:
        self._room.set()
        if not self.ended:
            with suppress(Exception):  # it has ended, or Ray has
                ray.cancel(self._generator)

    def _tell(self, what: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is read any more
            self._loop.call_soon_threadsafe(what, *args)


class Reader:
    """Reads streams.

    Args:
        name: of its thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()  # see above
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams = 0

    def read(
        self, generator: Any, tell: Callable[[Tap, Any], object], end: Callable[[Any], object]
    ) -> Tap:
        """Read a stream; return what its consumer has of it.

        Args:
            generator: Ray's.
            tell: called with each object, on the loop's thread; returns how many items it has.
            end: called last, with what Ray raised, or None.
        """
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run, args=(self._loop,), name=self._name, daemon=True
                ).start()
            self._streams += 1
            loop = self._loop
        tap = Tap(loop, generator)
        loop.call_soon_threadsafe(
            lambda: asyncio.ensure_future(self._pass_on(tap, tell, end), loop=loop)
        )
        return tap

    def reads(self) -> bool:
        """Say whether there are streams, as far as this thread knows."""
        return self._streams > 0

    async def _pass_on(
        self, tap: Tap, tell: Callable[[Tap, Any], Any], end: Callable[[Any], object]
    ) -> None:
        failure = None
        try:
            while (found := await tap.next()) is not None:
                tap.put(tell(tap, found))
        except Exception as error:
            failure = error
        end(failure)
        with self._lock:
            self._streams -= 1
            if not self._streams and self._loop is not None:
                self._loop.stop()
                self._loop = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
