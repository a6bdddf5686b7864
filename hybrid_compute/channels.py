"""Channel: what the producer and the consumer of a stream share.

Knows no executor: where the items come from is a `Source`, which each executor brings along.

    producer: ready.append(item) or chunks.append(...); wake() if attention     ... finish | fail
    consumer: ready.popleft() ... empty: open a chunk, or ask the source, or wait

Locks. `Channel.lock` guards `waiting`, `waker`, `ended` and `source`; it is re-entrant, since a
finalizer that closes a stream may land in the middle. No user code runs under it. `ready` and
`chunks` need none: each end of a deque belongs to one side.

Why no item is forgotten. The consumer says under the lock that it waits, and looks once more
before it does; the producer adds the item first and then looks whether somebody waits. On builds
without the GIL a processor may show these two in the other order; so a wait ends by itself after
`LOOK` seconds, and looks again. `ended` is set under the lock after the last item was added, and
looked at before the last look for items.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any

from hybrid_compute._seats import Seat, Wait, here

if TYPE_CHECKING:
    from hybrid_compute.futures import HybridFuture

__all__ = [
    "BUFFER_BYTES",
    "BUFFER_ITEMS",
    "SMALL",
    "Channel",
    "Large",
    "Source",
    "items_of",
    "large_size_of",
]

BUFFER_ITEMS = 1024  # queue.Queue(1024) is what people write for this
BUFFER_BYTES = 1 << 24

LOOK = 0.1  # seconds; see above
SMALL = frozenset({int, float, bool, type(None), complex})
_LARGE_BYTES = 1024


class Large:
    """An item in the channel, with the bytes that it counts for."""

    __slots__ = ("size", "value")

    def __init__(self, value: Any, size: int) -> None:
        self.value: Any = value
        self.size: int = size


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

    def urge(self) -> None:
        """Go on first, since a thread of a pool waits for the next item. Any thread."""

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
        complete: the consumer has all, up to the generator's own end.
        error: what ended it, if it was not its end.
        value: what the generator returned.
        most: items that may be in here.
        most_bytes: their bytes; one item more than that may be in here.
    """

    __slots__ = (
        *("attention", "chunks", "closed", "complete", "ended", "error", "lock"),
        *("done", "most", "most_bytes", "ready", "source", "value", "waiting", "waker"),
        *("_gate", "_open", "_seat", "_taken_bytes", "begins"),
    )

    attention: bool
    closed: bool
    done: bool
    ended: bool
    waiting: bool

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self.ready: deque[Any] = deque()
        self.chunks: deque[tuple[Callable[[], Iterable[Any]], int, int]] = deque()
        self.lock: threading.RLock = threading.RLock()
        self.attention = self.closed = self.ended = self.done = self.waiting = False
        self.complete: bool = False
        self.error: BaseException | None = None
        self.value: Any = None
        self.source: Source | None = None
        self.waker: Callable[[], object] | None = None
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._seat: Seat | None = None  # that of the consumer's thread, while it waits
        self.begins: Callable[[], HybridFuture[Any] | None] | None = None  # of what will produce
        self._taken_bytes = 0  # of Large ones; the source was not told yet
        self._open: tuple[int, int] | None = None  # the chunk that is in `ready`

    # For the producer.

    def is_wanted(self) -> bool:
        """Say whether anybody wants more items."""
        return not (self.closed or self.ended)

    def wake(self) -> None:
        """Wake the consumer, if it waits."""
        with self.lock:
            self.attention = self.closed or self.ended
            if not self.waiting:
                return
            self.waiting = False
            if (seat := self._seat) is not None:
                seat.resume()
            waker, self.waker = self.waker, None
            if waker is None:
                with suppress(RuntimeError):  # Ctrl-C cut a wait short, and it was opened already
                    self._gate.release()
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
            self.chunks = deque(maxlen=0)  # nothing comes behind it, also what is on its way
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
        if self.done:
            return True
        self.done = True
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # the traceback must not hold itself
        self.complete = True
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
        seat = here.seat
        # A thread of a pool gives up its place to whoever brings the next item: see `_seats`.
        if seat is None or not seat.begin(Wait((self,), timed=True)):
            self._wait(deadline)
            return
        self._seat = seat
        try:
            self._wait(deadline)
        finally:
            self._seat = None
            seat.end()

    def _held_up_by(self) -> tuple[Wait, ...]:
        return ()

    def _urge(self, queued: dict[Any, set[Any]]) -> None:
        source, begins = self.source, self.begins
        future = None if begins is None else begins()
        if source is not None:
            source.urge()
        elif future is not None:
            future._urge(queued)

    def _wait(self, deadline: float | None) -> None:
        if self.listen(None):
            return
        pause = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
        if pause > 0 and self._gate.acquire(True, pause):
            return
        with self.lock:
            if self.waiting:
                self.waiting = False
            else:
                self._gate.acquire(False)  # it was opened just now
        if deadline is not None and time.monotonic() >= deadline and not self.has_news():
            raise TimeoutError("no item of the stream came in time; it goes on")

    def poll(self, waker: Callable[[], object]) -> bool:
        """Say whether there is an item in `ready`, or else have `waker` called at the next news.

        For those who must not wait.

        Raises:
            StopIteration: it has ended, and all was taken.
            BaseException: what ended it.
        """
        self.report()
        while not self.ready:
            if self.fill():
                continue
            if self.closed or self._over():
                raise StopIteration(self.value)
            source = self.source
            if (source is None or not source.pull()) and not self.listen(waker):
                return False
        return True

    def listen(self, waker: Callable[[], object] | None) -> bool:
        """Have `waker` called, or the gate opened, at the next news; True if there are some."""
        with self.lock:
            self.waiting = self.attention = True
            self.waker = waker
            if self.has_news():
                self.waiting = False
                self.waker = None
                return True
        return False

    def has_news(self) -> bool:
        """Say whether the consumer has no reason to wait."""
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


def items_of(channel: Channel, keep: object = None) -> Generator[Any, None, Any]:
    """Iterate over what comes through a channel; keeps `keep` alive meanwhile."""
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
