"""Deadlines: which items' time is up, and a thread that waits for it where no executor can.

`Deadlines` is a heap and nothing else; who has one guards it. `Alarm` has a lock, which guards its
heap, and a thread, which is there only while there are items that are not done. It waits, looks,
and fails items, with no lock held; what an item's executor does with it afterwards finds the future
done, and is dropped.

Light items cost next to nothing, since they are in no heap: where they are until they are over, on
a *shelf*, which is a pool's queue and its threads, the alarm finds them. It looks through all that
is there at the first deadline that it has seen there, or that somebody who came later told it of.
Mostly they are over long before that, and it finds others, whose deadlines are later. Where many
are late it would look all the time, so it rests in between, for 9 times as long as the look took.

Why no deadline is missed: who has put an item on the shelf looks afterwards until when the thread
waits, if there is one. The thread says first that whoever comes is to wake it, and only then looks
at the shelf. Who wakes it rings, and what was rung is heard, whether it waits already or is about
to: the ringing may be a finalizer's, on that very thread.

When the last one is done, the thread is told so, and then ends, though its deadline is far away. It
lingers for a moment before, as another call may follow; meanwhile nobody need tell it anything.
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
from typing import TYPE_CHECKING, Any, Protocol, cast

from hybrid_compute import _exit
from hybrid_compute._bell import Bell
from hybrid_compute._timer import Timer

if TYPE_CHECKING:
    from hybrid_compute.items import WorkItem
    from hybrid_compute.routed import RoutedItem

__all__ = ["Alarm", "Deadlines", "Shelf"]

_LONGEST = 3600.0  # seconds of one wait: there are limits to what a lock can wait for
_LINGER = 0.010  # seconds that the thread stays when nothing is out: starting one takes 60 us
_SPARE = 64  # entries of items that are done, before they are looked for
_REST = 9  # times as long as a look has taken: of a long queue it is not to take all of a core


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


class Shelf(Protocol):
    """Where an executor's light items are until they are over.

    Attributes:
        alarm: which looks through it, to be told by `nothing_there`; None: none does.
    """

    alarm: weakref.ref[Alarm] | None

    def take_due(self, now: float, due: list[Any]) -> float:
        """Claim those whose time is up, into `due`; return when to look again.

        That is the deadline of the next one, as far as can be seen; inf: there is none. Holds no
        lock as it looks at them. Any thread.
        """
        ...


class Alarm(_exit.Member):
    """Fails items at their deadlines.

    Attributes:
        thread: None while there is none.
        until: when it looks again by itself; 0: it is about to; inf: there is none, or it looks
            just now, and may have passed by what comes.
        came: an item has come since it looked.
        timer: for those that pause between two attempts.
    """

    def __init__(self) -> None:
        # Guards all below. Without it items go from `_out`, who comes reads `thread` and `until`,
        # and the notes are made: if one is lost the thread ends sooner, or later, than it might.
        self._lock = threading.RLock()
        self._bell = Bell()  # for the thread
        self._deadlines = Deadlines()
        self._out: set[int] = set()  # futures of these, by id, not done yet; needs no lock
        self._shelf: weakref.ref[Shelf] | None = None
        self.until: float = inf
        self.came = False
        self._lingers = False  # it waits for a moment only, and not for a deadline
        self._emptied = False  # there was none that is not done, since it looked
        self._expects = False  # it waits for the deadline of something on the shelf
        self.thread: threading.Thread | None = None
        self.timer: Timer = Timer("pauses")
        _exit.register(self)

    def look_through(self, shelf: Shelf) -> None:
        """Look through a shelf from now on, which is its executor's only one."""
        with self._lock:
            self._shelf, shelf.alarm = weakref.ref(shelf), weakref.ref(self)

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
                self._expects = True
                # Waking it costs more than all else here, and most deadlines are later than others.
                if deadline < self.until:
                    self._bell.ring()

    def set(self, item: RoutedItem) -> None:
        """See to it that the item, unless it is done before, fails at its deadline."""
        with self._lock:
            self._start()  # first, as it may raise
            self._deadlines.add(item)
            self._out.add(id(item.future))
            self.came = True
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
                self._emptied = True
                if not self._lingers:  # else it looks soon, and is not to be cut short
                    self._bell.ring()

    def nothing_there(self) -> None:
        """Be told that nothing is on the shelf any more. Any thread; takes no lock."""
        self._emptied = True
        if self._expects and not self._lingers:  # as above
            self._bell.ring()

    def _run(self) -> None:
        try:
            with self._lock:
                # Else a finalizer had started another one, as this one was being started, or the
                # reverse; or an interrupt came then, and it is nobody's.
                mine = self.thread is threading.current_thread()
            if mine:
                self._watch()
        finally:
            with self._lock:
                if self.thread is threading.current_thread():
                    # Whatever has ended it, the next item has another one.
                    self.thread, self.until = None, inf

    def _watch(self) -> None:
        due: list[Any] = []
        while True:
            with self._lock:
                self._bell.wait(0.0)  # what was rung until now is seen by this look
                self.until = inf  # before anything is looked at
                self._expects = True
                begun = time.monotonic()
                due += self._deadlines.due(begun)
            spent = time.thread_time()  # not what others did meanwhile
            shelf = None if self._shelf is None else self._shelf()
            later = inf if shelf is None else shelf.take_due(begun, due)  # it has locks of its own
            del shelf
            not_before = time.monotonic() + _REST * (time.thread_time() - spent)
            with self._lock:
                seconds = 0.0
                if not due:
                    if self._deadlines.next() is None:
                        # Who was done before `set` noted it, in another's hands, said so too early.
                        self._out.clear()
                    self._expects = later < inf
                    lingered, self._lingers = self._lingers, False
                    emptied, self._emptied = self._emptied, False
                    came, self.came = self.came, False
                    idle = later == inf and not self._out
                    if lingered and idle and not came:
                        me, self.thread = self.thread, None  # who comes now starts another one
                        if not self._bell.wait(0.0) or self.thread is not None:
                            return
                        self.thread = me  # somebody has come since it began to look
                        continue
                    # Where one call follows another, it is not woken for each.
                    self._lingers = idle or (came and emptied)
                    seconds = self._plan(later)
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
            while (rest := not_before - time.monotonic()) > 0.0:
                self._bell.wait(rest)  # who rings meanwhile is seen by the next look

    def _plan(self, later: float) -> float:
        """Return the seconds until it looks again. Under the lock."""
        now = time.monotonic()
        soonest = min(later, now + (_LINGER if self._lingers else _LONGEST))
        following = self._deadlines.next()
        self.until = until = soonest if following is None else min(soonest, following)
        return max(0.0, until - now)

    def after_fork(self) -> None:
        """Forget the parent's items and thread."""
        self._lock = threading.RLock()
        self._bell = Bell()
        self._deadlines = Deadlines()
        self._out = set()
        self.came = self._lingers = self._emptied = self._expects = False
        self.until, self.thread = inf, None
