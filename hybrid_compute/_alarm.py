"""Deadlines: which items' time is up, and a thread that waits for it where no executor can.

`Deadlines` is a heap and nothing else; who has one guards it. Light items stand in rows, those that
have the same time in one: the order of their coming is that of their deadlines, but for moments.
They come and go without a lock, so that it costs next to nothing. `Alarm` has a lock, which guards
its heap, and a thread, which is there only while there are items that are not done. It waits, and
fails items, with no lock held; what an item's executor does with it afterwards finds the future
done, and is dropped.

Why no deadline is missed: who adds to a row looks afterwards until when the thread waits, if there
is one. The thread says first that whoever comes is to wake it, and only then looks into the rows.
Who wakes it rings, and what was rung is heard, whether it waits already or is about to: the ringing
may be a finalizer's, on that very thread.

Who is done says so without the lock: it leaves the row, or the set of those in the heap, notes that
it was the last, and then looks whether the thread waits for a deadline that nobody has any more.
The thread says first that it may, and then looks at that note.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from concurrent.futures import InvalidStateError
from concurrent.futures._base import LOGGER
from math import inf
from typing import TYPE_CHECKING, Any, cast

from hybrid_compute import _exit
from hybrid_compute._bell import Bell
from hybrid_compute._rows import Row
from hybrid_compute._timer import Timer

if TYPE_CHECKING:
    from hybrid_compute.items import WorkItem
    from hybrid_compute.routed import RoutedItem

__all__ = ["Alarm", "Deadlines"]

_LONGEST = 3600.0  # seconds of one wait: there are limits to what a lock can wait for
_LINGER = 0.010  # seconds that the thread stays when nothing is out: starting one takes 60 us
_SPARE = 64  # entries of items that are done, before they are looked for
_ROWS = 64  # the thread looks at each of them


class Deadlines:
    """Items by deadline. Keeps neither an item nor its future alive. Not thread-safe."""

    __slots__ = ("_heap", "_numbers", "_size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, weakref.ref[Any]]] = []
        self._numbers = itertools.count()
        self._size = _SPARE  # at that many entries, the dead ones are removed

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: WorkItem) -> None:
        """Add an item that has a deadline."""
        assert item.deadline is not None  # noqa: S101 - see above
        if len(self._heap) >= self._size:
            self._heap = [each for each in self._heap if _item_of(each[2]) is not None]
            heapq.heapify(self._heap)
            self._size = 2 * len(self._heap) + _SPARE
        entry = (item.deadline, next(self._numbers), weakref.ref(item.future))
        heapq.heappush(self._heap, entry)

    def due(self, now: float) -> list[WorkItem]:
        """Remove and return the items whose time is up and that are not done."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            item = _item_of(heapq.heappop(self._heap)[2])
            if item is not None:
                found.append(item)
        return found

    def next(self) -> float | None:
        """Return the next deadline of an item that is not done; None if there is none."""
        while self._heap:
            if _item_of(self._heap[0][2]) is not None:
                return self._heap[0][0]
            heapq.heappop(self._heap)
        return None


def _item_of(reference: weakref.ref[Any]) -> WorkItem | None:
    future = reference()
    item: WorkItem | None = None if future is None else future._item
    return item


class Alarm(_exit.Member):
    """Fails items at their deadlines.

    Attributes:
        rows: light items, by the seconds that they have. No row is ever removed.
        thread: None while there is none.
        until: when it looks again by itself; 0: it is about to; inf: there is none, or it looks
            just now, and may have passed by what comes.
        timer: for those that pause between two attempts.
    """

    def __init__(self) -> None:
        # Guards all below. Without it items come to rows, and go from them and from `_out`; and who
        # comes reads `until`: see above.
        self._lock = threading.RLock()
        self._bell = Bell()  # for the thread
        self._deadlines = Deadlines()
        self._out: set[int] = set()  # futures of these, by id, not done yet; needs no lock
        self.rows: dict[float | None, Row] = {}  # None is none's, but may be asked for
        self.until: float = inf
        self._lingers = False  # it waits for a moment only, and not for a deadline
        self._emptied = False  # there was none that is not done, since it looked
        self.thread: threading.Thread | None = None
        self.timer: Timer = Timer("pauses")
        _exit.register(self)

    def add_row(self, seconds: float) -> Row | None:
        """Return the row of the items that have so much time; None: there are too many rows."""
        with self._lock:
            if len(self.rows) >= _ROWS and seconds not in self.rows:
                return None
            return self.rows.setdefault(seconds, Row())

    def _all_rows(self) -> list[Row]:
        """Return all rows: a finalizer that submits may add one under our eyes."""
        return [*self.rows.values()]

    def _start(self) -> None:
        """See to it that there is a thread. With the lock held, for which it waits."""
        if self.thread is None:
            thread = threading.Thread(target=self._run, name="alarm", daemon=True)
            thread.start()  # it may not be possible
            self.thread, self.until = thread, 0.0

    def rouse(self, deadline: float) -> None:
        """See to it that there is a thread, and that it does not wait beyond a deadline."""
        if deadline < self.until:
            with self._lock:
                self._start()
                # Waking it costs more than all else here, and most deadlines are later than others.
                if deadline < self.until:
                    self._bell.ring()

    def set(self, item: RoutedItem) -> None:
        """See to it that the item, unless it is done before, fails at its deadline."""
        with self._lock:
            self._start()  # first, as it may raise
            self._deadlines.add(item)
            self._out.add(id(item.future))
            self.rouse(cast("float", item.deadline))
        if item.streams:  # it has another future once the stream has begun
            item.future.add_done_callback(self.over)

    def runs_here(self) -> bool:
        """Say whether the current thread is the alarm's, or that of its timer."""
        return self.thread is threading.current_thread() or self.timer.runs_here()

    def over(self, future: object) -> None:
        """Be told that a future is done, or about to be. Any thread; does nothing for others."""
        out, key = self._out, id(future)
        if key in out:
            out.discard(key)
            if not out:
                self.emptied()

    def emptied(self) -> None:
        """Be told that there may be none any more that is not done. Any thread."""
        self._emptied = True
        if not self._lingers:
            with self._lock:
                if not self._lingers:  # else it has seen it, and is not to be cut short
                    self._bell.ring()

    def _is_idle(self) -> bool:
        return not self._out and not any(self._all_rows())

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            with self._lock:
                # Whatever has ended it, the next item has another one. (It has no name here if an
                # interrupt came as it started.)
                if self.thread in (None, threading.current_thread()):
                    self.thread, self.until = None, inf

    def _watch(self) -> None:
        while True:
            with self._lock:
                self._bell.wait(0.0)  # what was rung until now is seen by this look
                self.until = inf  # before the rows are looked into
                now = time.monotonic()
                due: list[Any] = self._deadlines.due(now)
                seconds = 0.0
                for row in self._all_rows():
                    row.take_due(now, due)
                if not due:
                    if self._deadlines.next() is None:
                        # Who was done before `set` noted it, in another's hands, said so too early.
                        self._out.clear()
                    lingered, self._lingers = self._lingers, False
                    emptied, self._emptied = self._emptied, False
                    if lingered and not emptied and self._is_idle():
                        me, self.thread = self.thread, None  # `until` says so as well
                        if self._is_idle() or self.thread is not None:
                            return
                        self.thread = me  # a finalizer has submitted something in between
                    # Where one call follows another, it is not woken for each.
                    self._lingers = emptied or self._is_idle()
                    seconds = self._plan()
            self._bell.wait(seconds)
            self.until = 0.0
            for item in due:
                try:
                    keeper = item.keeper
                    item.give_up(item.time_is_up())
                    if keeper is not None:
                        keeper.withdraw(item)  # from a queue that is not ours
                except InvalidStateError:
                    pass  # it was cancelled at this very moment
                except BaseException:
                    LOGGER.exception("exception ending a work item whose time was up")
            item = keeper = None
            due.clear()

    def _plan(self) -> float:
        """Return the seconds until the next deadline, or a moment if it lingers. Under the lock."""
        now = time.monotonic()
        soonest = [self._deadlines.next(), *(each.deadline() for each in self._all_rows())]
        until = now + (_LINGER if self._lingers else _LONGEST)
        self.until = until = min([until, *(each for each in soonest if each is not None)])
        return max(0.0, until - now)

    def after_fork(self) -> None:
        """Forget the parent's items and thread."""
        self._lock = threading.RLock()
        self._bell = Bell()
        self._deadlines = Deadlines()
        self._out, self.rows = set(), {}
        self.until, self._lingers, self._emptied = inf, False, False
        self.thread = None
