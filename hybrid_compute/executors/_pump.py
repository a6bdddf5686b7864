"""Pump: runs a generator on the threads of a pool, as far as its consumer lets it.

A job of `_threads.Pool`, again and again. It produces until the channel is full. Then it does not
wait, which would take a thread from others, perhaps from those whom the consumer waits for: it
*parks*, the thread goes on to other jobs, and the consumer queues the pump anew when it has taken
half of what was there. So a thousand streams that nobody reads keep no thread.

    queued -> running -> ended
       ^         | full
       `--- parked ---- closed by the consumer, or the pool is shut down: queued, to end

Locks: the pool's guards `parked` and the pool's set of those that are. Why none is forgotten: the
pump parks first and then looks once more whether there is room; the consumer, before it waits,
looks under the lock whether the pump is parked. One of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from threading import RLock
from typing import Any, Protocol

from hybrid_compute._producer import close_iterator
from hybrid_compute._seats import here
from hybrid_compute.channels import SMALL, Large, Source, large_size_of
from hybrid_compute.errors import StreamError
from hybrid_compute.streamed import StreamItem

__all__ = ["Lanes", "Pump"]


class Lanes(Protocol):
    """The threads that run pumps: our pool, or somebody else's.

    Attributes:
        lock: guards the two others, and whether a pump of these is parked.
        pumps: those that are.
        ending: none parks any more.
        attention: whoever is at work should soon see whether he has to make room for others.
    """

    @property
    def lock(self) -> RLock: ...

    pumps: set[Pump]
    ending: bool
    attention: bool

    def push(self, job: Pump, /, *, late: bool = False) -> None:
        """Have a thread run a pump that has room again."""

    def urge_job(self, job: Pump, /) -> None:
        """Have a pump that is queued run first."""


class Pump(Source):
    """One generator."""

    def __init__(
        self,
        pool: Lanes,
        item: StreamItem,
        iterator: Iterator[Any],
        interrupt: Callable[[], object] | None = None,
    ) -> None:
        self._interrupt = interrupt
        self._pool = pool
        self._item = item
        self._iterator = iterator
        self._channel = item.channel
        self._put = self._taken = 0  # bytes of large items, since the start; each has one writer
        self.parked = self.queued = False

    # The producer's side: a job of the pool.

    def run(self) -> None:
        """Produce, until the generator ends, the consumer has closed, or the channel is full."""
        deadline = self._item.deadline
        if deadline is not None and here.limit.deadline != deadline:
            here.limit.deadline = deadline  # for what it submits; this thread is a pool's
            try:
                self._produce()
            finally:
                here.limit.deadline = None
        else:
            self._produce()

    def _produce(self) -> None:  # noqa: C901, PLR0912 - the hot loop and its ends
        self.queued = False
        channel = self._channel
        ready = channel.ready
        append = ready.append
        produce = self._iterator.__next__
        try:
            while True:
                if not channel.is_wanted():
                    self._close()
                    return
                room = self._room()
                if not room:
                    if self._park():
                        return
                    continue
                for _ in repeat(None, room):
                    value = produce()
                    if type(value) in SMALL or not (size := large_size_of(value)):
                        append(value)
                    else:
                        append(Large(value, size))
                        self._put += size
                        if self._put - self._taken >= channel.most_bytes:
                            channel.wake()
                            break
                    if channel.attention:
                        channel.wake()
                        if not channel.is_wanted():
                            break
                        if self._pool.attention:
                            # Perhaps there are too many at work, now that the consumer is.
                            self.queued = True
                            self._pool.push(self, late=True)
                            return
        except StopIteration as end:
            self._item.succeed(end.value)
        except BaseException as error:
            self._item.fail(error)
            del error

    def _room(self) -> int:
        """Return how many items may be added, if they are small."""
        channel = self._channel
        if self._put - self._taken >= channel.most_bytes:
            return 0
        return max(0, channel.most - len(channel.ready))

    def _park(self) -> bool:
        """Wait for room without a thread; False if there is some already."""
        pool, channel = self._pool, self._channel
        with pool.lock:
            ending = pool.ending
            if not ending:
                self.parked = True
                pool.pumps.add(self)
        if ending:
            self._close()
            self._item.fail(_shut_down(self._item))
            return True
        if self._room() or not channel.is_wanted():
            return not self._unpark()
        return True

    def _unpark(self) -> bool:
        """Take it out of the parked; False if somebody has."""
        with self._pool.lock:
            if not self.parked:
                return False
            self.parked = False
            self._pool.pumps.discard(self)
            return True

    def cancel(self) -> None:
        """End, since all that is queued in the pool is cancelled."""
        self.reject(_shut_down(self._item))

    def reject(self, error: BaseException) -> None:
        """End with an error, since the pool runs nothing more."""
        try:
            self._close()
        finally:
            self._item.fail(error)

    def _close(self) -> None:
        """Run what the generator has to do at its end."""
        close_iterator(self._iterator)
        if self._channel.closed:
            self._item.end()

    # The consumer's side.

    def moved(self, items: int, size: int) -> None:
        """Go on when half of the channel is empty."""
        self._taken += size
        if self.parked and 2 * self._room() >= self._channel.most:
            self.resume()

    def pull(self) -> bool:
        """Go on: the consumer is about to wait."""
        with self._pool.lock:
            parked = self.parked
        if parked:
            self.resume()
        return False

    def urge(self) -> None:
        """Go on first."""
        self.resume()
        if self.queued:
            self._pool.urge_job(self)

    def close(self) -> None:
        """End at the next `yield`."""
        if self._interrupt is not None:
            self._interrupt()
        self.resume()

    def resume(self) -> None:
        """Queue a parked pump. Any thread."""
        if not self._unpark():
            return
        self.queued = True
        try:
            self._pool.push(self, late=True)
        except RuntimeError as error:  # no thread can be started
            self.reject(error)


def _shut_down(item: StreamItem) -> StreamError:
    return StreamError(
        f"the executor of {item.name!r} was shut down while the stream waited to be read; read it "
        "before that"
    )
