"""Feed: the items of one stream, from the executor to a caller, as far as he has room.

Owns the way of the items: it takes what is there, gives it to a sink, and has itself called again
when more comes or the sink has room. Where the caller takes no stream, the sink keeps the items
and they become one result.

Threads: all on the event loop, but for the waker, which only wakes that. Nothing waits: a stream
whose caller does not read is not read either, so that its generator waits in its executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from hybrid_compute.channels import Large, large_size_of
from hybrid_compute.errors import PayloadTooLarge

if TYPE_CHECKING:
    from hybrid_compute.streams import Stream

__all__ = ["Collector", "Feed", "Sink"]

_AT_ONCE = 512  # items, before others have their turn on the event loop


class Sink(Protocol):
    """Where the items of one stream go. On the loop."""

    def room(self) -> int | None:
        """Return how many items it takes now; None: no more at all."""

    def item(self, value: Any) -> None:
        """Take one; raise what ends the stream if the caller cannot get it."""

    def turn(self) -> None:
        """Note that for the moment these were all."""


class Collector:
    """A sink for a caller who takes no stream: all items become one result.

    Attributes:
        items: what has come.
    """

    def __init__(self, most_bytes: int) -> None:
        self.items: list[Any] = []
        self._left = self._most = most_bytes

    def room(self) -> int | None:
        """Return that there is always some."""
        return _AT_ONCE

    def item(self, value: Any) -> None:
        """Keep an item; raise PayloadTooLarge if they are too many."""
        self._left -= max(2, large_size_of(value))  # the least that any takes in an answer
        if self._left < 0:
            raise PayloadTooLarge(
                f"the items have more than {self._most} bytes; ask for them as a stream",
                limit=self._most,
            )
        self.items.append(value)

    def turn(self) -> None:
        """Do nothing: they wait for the end."""


class Feed:
    """Moves the items of one stream.

    Args:
        stream: the executor's.
        sink: the caller's.
        on_end: called once, with what the generator returned and what ended it, if that was not
            its end. Not called after `close`.
    """

    def __init__(
        self,
        stream: Stream[Any],
        sink: Sink,
        on_end: Callable[[Any, BaseException | None], object],
    ) -> None:
        self._stream: Stream[Any] | None = stream
        self._channel = stream._channel
        self._sink = sink
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._due = False

    def pump(self) -> None:
        """Move what is there, as far as there is room."""
        self._due = False
        if self._stream is None:
            return
        channel, sink = self._channel, self._sink
        try:
            moved = self._move(channel.ready.popleft)
        except StopIteration as end:
            self._end(end.value, None)
        except BaseException as error:
            self._end(None, error)
        else:
            if moved:
                sink.turn()

    def _move(self, take: Callable[[], Any]) -> bool:
        """Move items; ask to be called again when there is a reason to."""
        channel, sink, left = self._channel, self._sink, _AT_ONCE
        while True:
            room = sink.room()
            if room is None:
                self.close()
                return False
            if room <= 0:
                return left < _AT_ONCE
            if not channel.ready and not channel.poll(self._wake):
                return left < _AT_ONCE
            for _ in range(min(room, left, len(channel.ready))):
                value = take()
                sink.item(channel.taken(value) if type(value) is Large else value)
                left -= 1
            if not left:
                self.again()
                return True

    def again(self) -> None:
        """Have `pump` called soon. On the loop."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self.pump)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(self.pump)

    def _end(self, value: Any, error: BaseException | None) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
            self._on_end(value, error)

    def close(self) -> None:
        """Want no more: the generator is closed."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
