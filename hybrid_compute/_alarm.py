"""Deadlines: which items' time is up, and a thread that waits for it where no executor can.

`Deadlines` is a heap and nothing else; who has one guards it. `Alarm` has a lock, which guards its
heap, and a thread, which is there only while there are items that are not done. It waits, looks,
and fails items, with no lock held; what an item's executor does with it afterwards finds the future
done, and is dropped.

Light items cost next to nothing, since mostly they are in no heap: where they are until they are
over, on a *shelf*, which is a pool's queue and its threads, the alarm finds them. It looks through
all that is there at the first deadline that it has seen there. Mostly what had that one is over by
then, and it finds others, whose deadlines are later. What is due soon when it looks, it puts into
the heap: else where many are late it would look all the time. How soon, depends on how long a look
takes (`supervised.look_through`).

Why no deadline is missed: who has put an item on the shelf reads afterwards when the alarm looks,
`until`. If its deadline is earlier, he has it put into the heap. The thread says first that
everybody is to do so, and only then looks at the shelf. While it waits, who has changed what it
waits for rings, and what was rung is heard, whether it waits already or is about to: the ringing
may be a finalizer's, on that very thread.

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
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, cast

from hybrid_compute import _exit
from hybrid_compute._bell import Bell
from hybrid_compute._seats import known
from hybrid_compute._timer import Timer

if TYPE_CHECKING:
    from hybrid_compute.items import WorkItem
    from hybrid_compute.routed import RoutedItem

__all__ = ["Alarm", "Deadlines", "Shelf"]

_LONGEST = 3600.0  # seconds of one wait: there are limits to what a lock can wait for
_LINGER = 0.010  # seconds that the thread stays when nothing is out: starting one takes 60 us
_DEADLINE = attrgetter("deadline")
_HANDED = 0.005  # seconds after which what nobody saw is looked for again
_SPARE = 64  # entries of items that are done, before they are looked for


class Deadlines:
    """Items by deadline. Keeps neither an item nor its future alive. Not thread-safe.

    To look at one may free it, and that may run a finalizer, which adds another in the middle.
    """

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
            self._sweep()
        entry = (item.deadline, next(self._numbers), weakref.ref(item.future))
        heapq.heappush(self._heap, entry)

    def _sweep(self) -> None:
        """Remove those that are done."""
        alive, self._heap = self._heap, []  # which is where what comes meanwhile goes
        self._size = 2 * len(alive) + _SPARE
        try:
            alive = [each for each in alive if _item_of(each[2]) is not None]
        finally:
            self._heap += alive
            heapq.heapify(self._heap)
            self._size = 2 * len(self._heap) + _SPARE

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
            first = self._heap[0]
            if _item_of(first[2]) is not None:
                return min(first[0], self._heap[0][0])
            if self._heap[0] is first:
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

    def look(self, now: float, due: list[Any], soon: list[Any]) -> tuple[float, float, bool]:
        """Look through all that is there: see `supervised.look_through`.

        Says also whether there may be others that nobody sees at the moment, in a thread's hand.
        What is over meanwhile may be freed by who looks.
        """
        ...

    def peek(self, seen: list[Any]) -> bool:
        """Look for those that were in a hand, where they are now; say whether some still are."""
        ...


class Alarm(_exit.Member):
    """Fails items at their deadlines.

    Attributes:
        thread: None while there is none.
        until: by when it looks through the shelf again; 0: it is about to; inf: there is no thread,
            or it looks just now, and may have passed by what comes.
        came: an item has come since it looked.
        timer: for those that pause between two attempts.
    """

    def __init__(self) -> None:
        # Guards all below. Without it items go from `_out`, who comes reads `thread` and `until`,
        # and the notes are made: if one is lost the thread ends sooner, or later, than it might.
        self._lock = threading.RLock()
        self._bell = Bell()  # for the thread
        self._deadlines = Deadlines()
        self._out: set[int] = set()  # futures of routed items, by id, not done yet; needs no lock
        self._shelf: weakref.ref[Shelf] | None = None
        self.until: float = inf
        self._wakes: float = inf  # when the thread does something by itself
        self._rests: float = 0.0  # until then it does not look again: it has noted what is due
        self.came: bool = False
        self._lingers = False  # it waits for a moment only, and not for a deadline
        self._emptied = False  # there was none that is not done, since it looked
        self._expects = False  # it waits for something on the shelf
        self._noted = False  # something there was put into the heap
        self.thread: threading.Thread | None = None
        self.timer: Timer = Timer("pauses")
        _exit.register(self)

    def look_through(self, shelf: Shelf) -> None:
        """Look through a shelf from now on, which is its executor's only one."""
        with self._lock:
            self._shelf, shelf.alarm = weakref.ref(shelf), weakref.ref(self)

    def start(self) -> None:
        """See to it that there is a thread, which waits for the lock.

        Raises:
            RuntimeError: there can be none.
        """
        with self._lock:
            known.deadlines = True
            if self.thread is None:
                thread = threading.Thread(target=self._run, name="alarm", daemon=True)
                thread.start()  # it may not be possible
                self.thread, self.until, self._wakes = thread, 0.0, 0.0

    def note(self, item: WorkItem) -> None:
        """See to the deadline of an item that is on the shelf, and earlier than `until`.

        Raises:
            RuntimeError: there can be no thread.
        """
        deadline = cast("float", item.deadline)
        with self._lock:
            self._noted = self._expects = True
            self._add(item, deadline)
            until = max(deadline, self._rests)
            # Others come behind it, and need not be noted. With no call in between, as below.
            if until < self.until:  # noqa: PLR1730
                self.until = until

    def _add(self, item: WorkItem, deadline: float) -> None:
        self.start()  # first, as it may raise
        self._deadlines.add(item)
        # Waking it costs more than all else here, and most deadlines are later than others.
        if deadline < self._wakes:
            self._bell.ring()

    def set(self, item: RoutedItem) -> None:
        """See to it that the item, unless it is done before, fails at its deadline."""
        with self._lock:
            self.came = True
            self._add(item, cast("float", item.deadline))
            self._out.add(id(item.future))
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
                    self.thread, self.until, self._wakes = None, inf, inf

    def _watch(self) -> None:
        due: list[Any] = []
        soon: list[Any] = []
        peeks, emptied = inf, False
        while True:
            later, hidden = inf, False
            with self._lock:
                self._bell.wait(0.0)  # what was rung until now is seen from here on
                now = time.monotonic()
                looks = now >= self.until or (self._emptied and not self._lingers)
                if looks:
                    self.until = inf  # before anything is looked at
                    self._emptied, emptied = False, self._emptied
                    self._expects = True
                due += self._deadlines.due(now)
            shelf = None if self._shelf is None else self._shelf()
            if shelf is not None:  # it has locks of its own
                if looks:
                    later, self._rests, hidden = shelf.look(now, due, soon)
                elif now >= peeks:
                    hidden = shelf.peek(soon)
                del shelf
            if looks or now >= peeks:
                peeks = now + _HANDED if hidden else inf
            with self._lock:
                for item in soon:
                    if item.deadline < self.until:  # else it is found by the next look
                        self._deadlines.add(item)
                        self._noted = self._expects = True
                soon.clear()
                if looks and self._ends(later, over=not (due or hidden), emptied=emptied):
                    return
                self._wakes = inf  # whatever a finalizer adds while this is looked at, it rings
                wakes = min(self.until, self._deadlines.next() or inf, peeks)
                if self._emptied and not self._lingers:
                    wakes = 0.0  # it was told so while it lingered, and nobody rang
                self._wakes = wakes
            due.sort(key=_DEADLINE)  # on a shelf they stand in the order of their coming
            item = None
            for each in due:
                _give_up(each)
            each = None
            due.clear()
            self._bell.wait(max(0.0, self._wakes - time.monotonic()))

    def _ends(self, later: float, *, over: bool, emptied: bool) -> bool:
        """Say whether the thread ends; else plan the next look. With the lock held, after a look.

        Args:
            later: the next deadline of what is on the shelf, and in no heap; inf: there is none.
            over: nothing was due, and nothing was hidden.
            emptied: before the look, there was a moment when there was nothing.
        """
        now, following = time.monotonic(), self._deadlines.next()
        if following is None:
            self._out.clear()  # who was done before `set` noted it had said so too early
        if over and following is None:
            self._noted = False
        self._expects = later < inf or self._noted
        lingered, self._lingers = self._lingers, False
        came, self.came = self.came, False
        idle = over and later == inf and following is None
        # Others may rely on a look that was promised, as what was noted is over by now.
        if lingered and idle and not came and self.until == inf:
            self._wakes = inf
            me, self.thread = self.thread, None  # who comes now starts another one
            if self._deadlines.next() is None or self.thread is not None:
                return True
            self.thread = me  # a finalizer has put something there in between
        # Where one call follows another, it is not woken for each.
        self._lingers = idle or (came and emptied)
        until = now + (_LINGER if self._lingers else _LONGEST)
        if later < inf:
            until = min(until, later)
        elif following is not None:
            until = min(until, max(following, self._rests))
        elif not over:
            until = max(now + _HANDED, self._rests)
        # Else a finalizer has just said so, on this very thread; none comes between these two.
        if until < self.until:  # noqa: PLR1730
            self.until = until
        return False

    def after_fork(self) -> None:
        """Forget the parent's items and thread."""
        self._lock = threading.RLock()
        self._bell = Bell()
        self._deadlines = Deadlines()
        self._out = set()
        self.came = self._lingers = self._emptied = self._expects = self._noted = False
        self.until, self._wakes, self.thread = inf, inf, None


def _give_up(item: Any) -> None:
    """Fail an item whose time is up. Its callbacks run: hold no lock."""
    try:
        if item.claim():
            keeper = item.keeper
            try:
                item.give_up(item.time_is_up())
            finally:
                if keeper is not None:
                    keeper.withdraw(item)  # from a queue that is not ours
    except InvalidStateError:
        pass  # it was cancelled at this very moment
    except BaseException:
        LOGGER.exception("exception ending a work item whose time was up")
