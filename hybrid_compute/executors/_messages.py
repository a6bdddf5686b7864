"""What a ProcessExecutor sends at a time: which items go together in a message, and its bytes.

Part of `_dispatch`, whose docstring tells about threads, about the lock, and about signal
handlers that may raise after any call.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hybrid_compute._contexts import packed_call
from hybrid_compute._functions import is_interrupt, on_main_thread
from hybrid_compute._keys import key_of
from hybrid_compute._pickling import BIG, Buffers
from hybrid_compute.errors import PayloadTooLarge, TaskEncodeError
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Metered, Worker
    from hybrid_compute.executors._dispatch import Pool
    from hybrid_compute.executors._segments import Parcel

__all__ = ["Messages"]

# A message costs some 50 us of both sides (benchmarks/process.py): 2 ms of
# work make that small, and hold nobody up for longer than one would notice.
_BATCH_SECONDS = 0.002
_SHORT_SECONDS = 0.001  # a second message goes to a busy worker only for what is this short
_BATCH_ITEMS = 2048
_BATCH_BYTES = 1 << 20  # that much is copied in some 200 us
_MEMORABLE_BYTES = 1 << 14  # a message that is smaller says nothing about batches
_LARGE_BYTES = 1 << 16  # from which on the time to pickle says something about bytes


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
        if worker.dead or worker.revoked or worker.retiring or busy >= window or worker.waits:
            return False
        queue = pool.alone or pool.again or pool.urgent
        if not queue and not pool.is_crowded():
            queue = pool.fresh  # else it is here for the sake of those who wait, and nobody else
        if not queue:
            return False
        fresh = (
            queue is pool.fresh or queue is pool.urgent
        )  # the others run already, as far as their futures know
        fn = queue[0].fn
        seconds = None if queue is pool.alone else pool.estimates.of(key_of(fn))
        if seconds is None or seconds > _SHORT_SECONDS or window == 1:
            if not busy:
                _move(queue, worker, hand)
            return fresh
        left, bytes_left = _BATCH_SECONDS, _BATCH_BYTES
        size = pool.estimates.size_of(key_of(fn))
        most = min(_BATCH_ITEMS, max(1, len(queue) // (2 * pool.size)), worker.left)
        for _ in range(most):
            item = queue[0]
            if item.fn is not fn:
                fn = item.fn
                seconds = pool.estimates.of(key_of(fn))
                size = pool.estimates.size_of(key_of(fn))
                if seconds is None:
                    break
            left -= seconds
            bytes_left -= size
            if (left < 0 or bytes_left < 0) and hand:
                break
            _move(queue, worker, hand)
        return fresh

    def send(self, worker: Worker, hand: list[WorkItem]) -> bool:
        """Encode and send what is in the hand; False if the worker is dead: then some is left."""
        together, pool = len(hand) > 1, self._pool
        while hand:
            key = key_of(hand[0].fn)
            if together and any(key_of(each.fn) is not key for each in hand):
                key = None
            payload = self._payload(worker, hand, key, together=together)
            if payload is None:
                together = False  # one is to blame: find out which
                continue
            count = len(hand) if together else 1
            metered = _metered(hand, count)
            levels = None if pool.levels is None else pool.levels.now()
            with self._pool.lock:
                if worker.dead:
                    return False
                worker.put_calls(hand, count, payload, key, metered, levels)
        worker.flush()
        return True

    def _payload(
        self, worker: Worker, hand: list[WorkItem], key: Any, *, together: bool
    ) -> bytes | Parcel | None:
        """Pickle the items, or the first of them; None if that cannot be: see `_encode_first`."""
        pool, encode = self._pool, self._encode_all if together else self._encode_first
        apart = Buffers()
        first = hand[0]
        begun = 0.0 if first.meter is None else perf_counter()
        body = encode(worker, hand, apart)
        if body is None:
            return None
        size = len(body) + apart.size()
        if first.meter is not None and size >= _LARGE_BYTES:
            first.meter.pickled(first, size, perf_counter() - begun)  # type: ignore[arg-type]
        if pool.settings.max_payload is not None and size > pool.settings.max_payload:
            if not together:
                self._fail_first(hand, _too_large(hand[0].name, size, pool.settings.max_payload))
            return None
        if size > _MEMORABLE_BYTES:
            pool.estimates.learn_size(key, size // (len(hand) if together else 1))
        if not apart and size < BIG:
            return body
        parcel = worker.sender.store(body, apart)
        if parcel is not None:
            return parcel
        # There is no shared memory to be had: all of it must go through the socket.
        return encode(worker, hand, None) if apart else body

    def _encode_all(
        self, worker: Worker, hand: list[WorkItem], apart: Buffers | None
    ) -> bytes | None:
        """Pickle the items as one message; None if that cannot be."""
        try:
            carried = self._pool.carried
            calls: Any = (
                [(each.fn, each.args, each.kwargs) for each in hand]
                if carried is None
                else [packed_call(carried, each) for each in hand]
            )
            return self._pool.encoder.encode_calls(calls, library=worker.library, apart=apart)
        except BaseException as error:  # a __reduce__ may raise anything
            if is_interrupt(error):
                raise
            return None

    def _encode_first(
        self, worker: Worker, hand: list[WorkItem], apart: Buffers | None
    ) -> bytes | None:
        """Pickle the first of the items; if that cannot be, it leaves the hand and will fail."""
        item = hand[0]
        carried = self._pool.carried
        encode = partial(
            self._pool.encoder.encode_call,
            name=item.name,
            library=worker.library,
            apart=apart,
            private=item.guard is not None,
        )
        fn: Any = item.fn
        try:
            if carried is not None and item.context is not None:
                with suppress(TaskEncodeError):  # which blames the right part only without it
                    return encode(*packed_call(carried, item))
            return encode(fn, item.args, item.kwargs)
        except Exception as error:
            if not isinstance(error, TaskEncodeError) and on_main_thread():
                raise  # a signal handler's
            self._fail_first(hand, error)
            return None

    def _fail_first(self, hand: list[WorkItem], error: Exception) -> None:
        # The reader delivers it: callbacks may do anything, and this thread holds a worker.
        item = hand[0]
        with self._pool.lock:
            self._pool.failed += ((item, error),)
            del hand[0]
            self._pool.wake()


def _metered(hand: list[WorkItem], count: int) -> Metered | None:
    """Return who is to be told of the time that the first items of the hand take together."""
    first = hand[0]
    meter, belief = first.meter, first.belief
    if meter is None:
        return None
    calls = first.calls
    for each in hand[1:count]:
        if each.belief is not belief:
            return None  # nobody could tell whose time it was
        calls += each.calls
    return meter, belief, calls


def _too_large(what: str, size: int, limit: int) -> PayloadTooLarge:
    """Return the error of a call that is larger than allowed."""
    return PayloadTooLarge(
        f"the call of {what!r} pickles to {size} bytes, and max_payload allows {limit}; "
        "nothing was sent. Pass the name of a file, or raise max_payload",
        size=size,
        limit=limit,
    )


def _move(queue: deque[WorkItem], worker: Worker, hand: list[WorkItem]) -> None:
    """Move the first item to the hand. It is in one place at a time for who looks at `taken`."""
    worker.taken = queue[0]
    del queue[0]
    hand.append(worker.taken)
    worker.taken = None
