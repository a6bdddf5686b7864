"""Production: a worker process runs a generator, and sends its items.

Loaded by a worker with its first stream. Owns the pace: an item leaves at once if the caller waits
for it, else with others, at most `_BATCH` of them or what came within a millisecond; and when there
is no room at the caller's, the generator waits.

    words of the caller                     answers of the worker
    CONSUMED, CONSUMED_BYTES  in all, of    BEGUN       before the first item
    CONSUMING  the call of that number
    ATTENTION  1: look here; the worker     ITEMS       `number` of them: a pickled list
               writes 0 when it looks       PICKLES     `number` of them, each a LENGTH, a pickle
    CLOSING    number of the call of which  ITEM_APART  one through shared memory, of `number` bytes
               nobody wants the rest        VALUE, ERROR  the end, as of any call
    ENDING     1: wait for no consumer      the word PARKED: 1 while the generator waits for long

What is simple and cannot change goes into a batch as it is, and is pickled with it. Anything else
is pickled at its `yield`: its generator may change it afterwards.

Threads. One besides the worker's own, which sends what has waited for a millisecond, since the
generator may be busy for long with its next item. It starts with the first stream that is ahead of
its consumer, and sleeps while there is none. `lock` guards the sending, of batches and of all
else while a generator runs. Both threads take items from one end of a deque, under it.

Why nothing can hang: the generator waits only for CONSUMED, CLOSING and ENDING, which it looks at
again and again; if the caller dies, so does this process.
"""

from __future__ import annotations

import _thread
from collections import deque

from hybrid_compute import _pickling
from hybrid_compute._producer import close_iterator
from hybrid_compute.executors._frames import (
    ATTENTION,
    BEGUN,
    CLOSING,
    CONSUMED,
    CONSUMED_BYTES,
    CONSUMING,
    ENDING,
    ITEM_APART,
    ITEMS,
    LENGTH,
    PARKED,
    PICKLES,
    STARTED,
)

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from hybrid_compute.executors._worker import _Worker

__all__ = ["Producer"]

_BATCH = 512
_TICK = 0.001  # seconds; see above
_QUIET = 5  # ticks without an item
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02  # seconds between two looks for room
_LONG_PAUSE = 0.002  # when pauses have grown to that it has waited for about four times as long
_AS_IT_IS = frozenset({int, float, bool, type(None)})
_TEXT = frozenset({str, bytes})
_SHORT = 1024  # characters or bytes


class _Ended(Exception):
    """The caller wants no more."""


def _join(pickles: list[bytes]) -> bytes:
    return b"".join([part for each in pickles for part in (LENGTH.pack(len(each)), each)])


class _Pickled(bytes):
    """A pickled item among others that are not."""

    __slots__ = ()


class Producer:
    """The streams of one worker, one after the other."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._words = worker.words
        self.lock = _thread.allocate_lock()
        self._pending: deque[Any] = deque()
        self._bytes = 0  # sent of this stream
        self._ahead = False  # the other thread is not to sleep
        self._ticking = False  # it is there
        self._armed = _thread.allocate_lock()  # held while it may sleep
        self._armed.acquire()
        self._pause = _thread.allocate_lock()  # never released: waiting for it is a pause
        self._pause.acquire()

    def run(self, iterator: Iterator[Any], most: int, most_bytes: int, *, announced: bool) -> Any:
        """Send the items of an iterator; return what a generator returned.

        Args:
            iterator: where they come from.
            announced: somebody waits to hear that it has begun; else that goes with the first item.
            most: how many items may be on their way.
            most_bytes: how many bytes, but for one item.
        """
        words = self._words
        number = words[STARTED]
        self._bytes = 0
        with self.lock:
            self._worker.answer(BEGUN, number, b"")
            if announced:
                self._worker.flush()
        produce = iterator.__next__
        batch = min(_BATCH, max(1, most // 2))
        produced = 0
        close = True
        words[ATTENTION] = 1  # the first item goes at once
        try:
            while words[CLOSING] != number:
                consumed, consumed_bytes = self._consumed(number)
                room = most - (produced - consumed)
                if room <= 0 or self._bytes - consumed_bytes >= most_bytes:
                    self._send()
                    self._wait(number, produced - most, most_bytes)
                    words[PARKED] = 0
                    continue
                produced += self._take(produce, min(room, batch), number)
                if len(self._pending) >= batch:
                    self._send()
        except StopIteration as end:
            close = False
            return end.value
        except _Ended:
            pass
        finally:
            self._ahead = False
            words[PARKED] = 0
            try:
                if close:
                    close_iterator(iterator)
            finally:
                self._send()  # whatever happens: what is left here would go to the next stream
        return None

    def _consumed(self, number: int) -> tuple[int, int]:
        """Return how many items and bytes the consumer of a call has taken.

        The words may still be about the call before: its consumer knows later than we that it has
        ended, and writes them until then.
        """
        words = self._words
        if words[CONSUMING] != number:
            return 0, 0
        return words[CONSUMED], words[CONSUMED_BYTES]

    def _take(self, produce: Callable[[], Any], most: int, number: int) -> int:
        """Produce at most so many items; fewer if there is something to look at."""
        words, append = self._words, self._pending.append
        for count in range(1, most + 1):
            value = produce()
            kind = type(value)
            if kind in _AS_IT_IS or (kind in _TEXT and len(value) < _SHORT):
                append(value)
            elif self._add(value):
                return count  # it was large: look for room
            if words[ATTENTION]:
                self._send()
                if words[CLOSING] == number:
                    return count
            elif not self._ahead:
                self._arm()
        return most

    def _add(self, value: Any) -> bool:
        """Pickle an item now; True if it was large, and is on its way."""
        worker, apart = self._worker, _pickling.Buffers()
        try:
            data = _pickling.dumps(_pickling.flat(value) if type(value) is bytes else value, apart)
            size = len(data) + apart.size()
            _pickling.check_size(value, size)
        except BaseException as failure:
            from hybrid_compute.executors._worker import refused  # noqa: PLC0415 - it imports us

            raise refused(value, failure) from failure
        if not apart and size < _pickling.BIG:
            self._pending.append(_Pickled(data))
            return False
        self._send()
        with self.lock:
            self._bytes += size
            if not worker.answer_apart(ITEM_APART, size, data, apart):
                worker.answer(PICKLES, 1, _pickling.dumps(value) if apart else data)
            worker.flush()
        return True

    def _send(self) -> None:
        """Send all that waits."""
        answer, dumps = self._worker.answer, _pickling.dumps
        with self.lock:
            self._words[ATTENTION] = 0
            pending = self._pending
            while pending:
                items = [pending.popleft() for _ in range(min(len(pending), _BATCH))]
                while items:
                    single = type(items[0]) is _Pickled
                    end = len(items)
                    for place, item in enumerate(items):
                        if (type(item) is _Pickled) is not single:
                            end = place
                            break
                    body = _join(items[:end]) if single else dumps(items[:end])
                    self._bytes += len(body)
                    answer(PICKLES if single else ITEMS, end, body)
                    del items[:end]
            self._worker.flush()

    def _wait(self, number: int, least: int, most_bytes: int) -> None:
        """Wait until the consumer has taken more than `least` items, and enough bytes."""
        self._ahead = False
        words, pause = self._words, _FIRST_PAUSE
        while True:
            consumed, consumed_bytes = self._consumed(number)
            if consumed > least and self._bytes - consumed_bytes < most_bytes:
                return
            if words[CLOSING] == number:
                raise _Ended
            if words[ENDING]:
                from hybrid_compute.errors import StreamError  # noqa: PLC0415 - only when it fails

                raise StreamError(
                    "the executor was shut down while the stream waited to be read; read it "
                    "before that"
                )
            # By a quarter: it is never pausing for longer than that of what it has waited.
            self._pause.acquire(True, pause)
            pause = min(1.25 * pause, _LONGEST_PAUSE)
            if pause > _LONG_PAUSE:
                words[PARKED] = 1

    def _arm(self) -> None:
        """See to it that what waits is sent within a tick."""
        self._ahead = True
        if not self._ticking:
            try:
                _thread.start_new_thread(self._tick, ())
            except RuntimeError:  # then there is no waiting
                self._ahead = False
                self._send()
                return
            self._ticking = True
        if self._armed.locked():
            self._armed.release()

    def _tick(self) -> None:
        words = self._words
        while True:
            self._armed.acquire()
            quiet = 0
            while self._ahead:
                self._pause.acquire(True, _TICK)
                if self._pending:
                    self._send()
                    quiet = 0
                elif quiet < _QUIET:
                    quiet += 1
                else:
                    self._ahead = False
                    self._pause.acquire(
                        True, _TICK
                    )  # by then it has seen that, or we see what it has added
                    self._ahead = self._ahead or bool(self._pending)
                if words[CLOSING] == words[STARTED]:
                    words[ATTENTION] = 1  # we may have been the one who was to look
