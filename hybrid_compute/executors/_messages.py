"""What a ProcessExecutor sends at a time: which items go together in a message, and its bytes.

Part of `_dispatch`, whose docstring tells about threads, about the lock, and about signal
handlers that may raise after any call.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hybrid_compute._functions import is_interrupt, on_main_thread
from hybrid_compute.errors import TaskEncodeError
from hybrid_compute.executors._estimates import key_of
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._dispatch import Pool

__all__ = ["Messages"]

# A message costs some 50 us of both sides (benchmarks/process.py): 2 ms of
# work make that small, and hold nobody up for longer than one would notice.
_BATCH_SECONDS = 0.002
_SHORT_SECONDS = 0.001  # a second message goes to a busy worker only for what is this short
_BATCH_ITEMS = 2048


class Messages:
    """Makes the messages of one pool. Used by whoever feeds a worker, with its hand."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def take(self, worker: Worker, hand: list[WorkItem], window: int) -> bool:
        """Take the items of the next message from the queues. Under the lock.

        Args:
            worker: who will get it.
            hand: gets the items; none if the worker shall have no more now.
            window: see `Pool.feed`.

        Returns:
            Whether they must be started.
        """
        pool, busy = self._pool, len(worker.messages)
        if worker.dead or worker.revoked or busy >= window:
            return False
        queue = pool.alone or pool.again or pool.fresh
        if not queue:
            return False
        fresh = queue is pool.fresh  # the others run already, as far as their futures know
        fn = queue[0].fn
        seconds = None if queue is pool.alone else pool.estimates.of(key_of(fn))
        if seconds is None or seconds > _SHORT_SECONDS or window == 1:
            if not busy:
                _move(queue, worker, hand)
            return fresh
        left = _BATCH_SECONDS
        for _ in range(min(_BATCH_ITEMS, max(1, len(queue) // (2 * pool.size)))):
            item = queue[0]
            if item.fn is not fn:
                fn = item.fn
                seconds = pool.estimates.of(key_of(fn))
                if seconds is None:
                    break
            left -= seconds
            if left < 0 and hand:
                break
            _move(queue, worker, hand)
        return fresh

    def send(self, worker: Worker, hand: list[WorkItem]) -> bool:
        """Encode and send what is in the hand; False if the worker is dead: then some is left."""
        together = len(hand) > 1
        while hand:
            body = self._encode_all(hand) if together else self._encode_first(hand)
            if body is None:
                together = False  # one is to blame: find out which
                continue
            key = key_of(hand[0].fn)
            if together and any(key_of(each.fn) is not key for each in hand):
                key = None
            with self._pool.lock:
                if worker.dead:
                    return False
                worker.put_calls(hand, len(hand) if together else 1, body, key)
        worker.flush()
        return True

    def _encode_all(self, hand: list[WorkItem]) -> bytes | None:
        """Pickle the items as one message; None if that cannot be."""
        try:
            calls = [(each.fn, each.args, each.kwargs) for each in hand]
            return self._pool.encoder.encode_calls(calls)  # type: ignore[arg-type]  # not released
        except BaseException as error:  # a __reduce__ may raise anything
            if is_interrupt(error):
                raise
            return None

    def _encode_first(self, hand: list[WorkItem]) -> bytes | None:
        """Pickle the first of the items; if that cannot be, it leaves the hand and will fail."""
        pool, item = self._pool, hand[0]
        fn, args, kwargs = item.fn, item.args, item.kwargs
        try:
            return pool.encoder.encode_call(fn, args, kwargs, name=item.name)  # type: ignore[arg-type]
        except Exception as error:
            if not isinstance(error, TaskEncodeError) and on_main_thread():
                raise  # a signal handler's
            # The reader delivers it: callbacks may do anything, and this thread holds a worker.
            with pool.lock:
                pool.failed += ((item, error),)
                del hand[0]
                pool.wake()
            return None


def _move(queue: deque[WorkItem], worker: Worker, hand: list[WorkItem]) -> None:
    """Move the first item to the hand. It is in one place at a time for who looks at `taken`."""
    worker.taken = queue[0]
    del queue[0]
    hand.append(worker.taken)
    worker.taken = None
