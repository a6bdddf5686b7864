"""Seats: which thread runs what, and what it waits for.

Owns the one note that each thread of a pool has of itself (`here`), the list of what a waiting
thread waits for, and the search for circles of work that waits for itself. Knows no pool but by
`Bench`. A thread that is nobody's has no seat, and pays one look at `here` for a wait.

    future.result(), wait(), as_completed(), a map's next result  -- on a thread that has a seat
       seat.begin(Wait) -> the circle? raise DeadlockError : bench.block(seat), keeper.urge(items)
          ... who completes what it waits for: seat.resume(), before he takes more work
       seat.end()       -> bench.resume(seat), if nobody has done it

No lock: a seat is its own thread's, but for `resume`, which is any thread's, and which the bench
guards. A circle cannot be missed: each thread notes first what it waits for and looks then, so
the last of them sees all. Nor can one be seen that is none: what is pending after its waiter's
note was read is still waited for, so each link that was seen is there until all are looked at.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

from hybrid_compute.errors import DeadlockError

__all__ = [
    "Bench",
    "Limit",
    "Node",
    "Seat",
    "SeatEvent",
    "Wait",
    "Waiters",
    "here",
    "known",
    "locals_of",
    "urge",
    "wait_for_any",
]


class Node(Protocol):
    """What can be waited for: a future, or the results of a map."""

    def _held_up_by(self) -> tuple[Wait, ...]:
        """Return the waits of which one must end before it goes on; (): it goes on by itself."""
        ...

    def _urge(self, queued: dict[Any, set[Any]]) -> None:
        """Note that a thread which has a seat waits for it; add its item to its keeper's."""
        ...


class Wait:
    """What a thread waits for.

    Attributes:
        awaited: what is not there yet.
        everything: it waits for all of these; else for one of them.
        timed: it ends by itself.
    """

    __slots__ = ("awaited", "everything", "timed")

    def __init__(
        self, awaited: Iterable[Node], *, everything: bool = True, timed: bool = False
    ) -> None:
        self.awaited: tuple[Node, ...] = tuple(awaited)
        self.everything: bool = everything
        self.timed: bool = timed


def wait_for_any(futures: Iterable[Any], *, timed: bool) -> Wait:
    """Return a wait for one of some futures, of which only ours can be looked into."""
    known, others = [], False
    for each in futures:
        if hasattr(each, "_waits"):
            known.append(each)
        else:
            others = True
    return Wait(known, everything=False, timed=timed or others)


class Bench(Protocol):
    """Where seats are: a pool. Any thread; may be called under the lock of a future."""

    owner: Callable[[], Any]  # the executor whose pool it is; None once that is gone

    def block(self, seat: Seat) -> None:
        """Note that the seat's thread is about to wait, and needs no place meanwhile."""

    def resume(self, seat: Seat) -> None:
        """Note that it goes on; more than once does no harm."""

    def check(self, seat: Seat) -> None:
        """Raise if what the seat's thread waits for cannot be done, since nobody is there."""


class Seat:
    """A thread of a pool.

    Attributes:
        bench: the pool; None: a mere note of what it runs.
        job: what it runs; None: nothing.
        wait: what it waits for; None: nothing.
        blocked: the bench counts it among those that wait.
        stuck: the bench counts it among those whose item's time is up.
    """

    __slots__ = ("bench", "blocked", "job", "stuck", "wait")

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.job: Any = None
        self.wait: Wait | None = None
        self.blocked = self.stuck = False

    @property
    def item(self) -> Any:
        """The work item that it runs, or None."""
        job = self.job
        return getattr(job, "_item", job if hasattr(job, "future") else None)

    def begin(self, wait: Wait) -> bool:
        """Note that the thread is about to wait; False if it does already: leave it at that.

        Raises:
            DeadlockError: what it waits for waits for the very work that this thread runs.
            RuntimeError: nobody can be had to do it.
        """
        if self.wait is not None or not wait.awaited:
            return False
        item = self.item
        future: Any = None if item is None else item.future
        self.wait = wait
        if future is not None:
            future._waits = wait
        try:
            if not wait.timed:
                _refuse_circle(wait, item)
            self.bench.block(self)
            urge(wait.awaited)
            self.bench.check(self)
        except BaseException:
            self.end()
            raise
        return True

    def resume(self) -> None:
        """Note that the wait is over, or will be in a moment. Any thread."""
        if self.blocked:
            self.bench.resume(self)

    def end(self) -> None:
        """Note that the thread goes on."""
        self.resume()
        self.wait = None
        item = self.item
        if item is not None:
            item.future._waits = None

    # What `concurrent.futures` calls on whoever waits for a future: under the future's lock.

    def add_result(self, future: object) -> None:
        """Go on: the future has a result."""
        self.resume()

    add_exception = add_cancelled = add_result


def urge(awaited: Iterable[Node]) -> None:
    """Tell who holds the work that a thread which has a seat waits for it."""
    queued: dict[Any, set[Any]] = {}
    for each in awaited:
        each._urge(queued)
    for keeper, items in queued.items():
        keeper.urge(items)


def _refuse_circle(wait: Wait, item: Any) -> None:
    """Raise if the wait can never end."""
    graph: dict[Any, tuple[Wait, ...]] = {}
    todo: list[Any] = [*wait.awaited]
    while todo:
        node = todo.pop()
        if node not in graph:
            graph[node] = waits = node._held_up_by()
            for each in waits:
                todo += each.awaited
    free = {node for node, waits in graph.items() if not waits}

    def ends(wait: Wait) -> bool:
        return (all if wait.everything else any)(each in free for each in wait.awaited)

    grows = len(free) < len(graph)
    while grows:
        more = {n for n, waits in graph.items() if n not in free and any(map(ends, waits))}
        free |= more
        grows = bool(more)
    if ends(wait):
        return
    names = tuple(sorted({_name_of(each) for each in graph if each not in free}))
    me = "it" if item is None else repr(item.name)
    raise DeadlockError(
        f"{me} would wait for ever, since what it waits for waits for {me}: "
        f"{', '.join(map(repr, names))}. Do not wait for work from within work that it waits for",
        item_names=names,
    )


def _name_of(node: Any) -> str:
    item = getattr(node, "_item", None)
    return "a map" if item is None else str(item.name)


class SeatEvent(threading.Event):
    """The event of a waiter of `concurrent.futures`, which a thread that has a seat waits for."""

    def __init__(self, seat: Seat, *, everything: bool) -> None:
        super().__init__()
        self.futures: list[Any] = []
        self._seat = seat
        self._everything = everything

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is set; as `threading.Event`."""
        pending = [each for each in self.futures if not each.done()]
        timed = timeout is not None or not (self._everything or _waits_for(self.futures))
        wait = Wait(pending, everything=self._everything, timed=timed)
        if (timeout is not None and timeout <= 0) or self.is_set() or not self._seat.begin(wait):
            return super().wait(timeout)
        try:
            return super().wait(timeout)
        finally:
            self._seat.end()

    def set(self) -> None:
        """Let the thread go on; as `threading.Event`."""
        self._seat.resume()
        super().set()


def _waits_for(futures: list[Any]) -> bool:
    """Say whether whoever called `SeatEvent.wait` waits for these futures and for no others.

    Only one that is not ours could end a wait for any of them without our seeing how.
    """
    with locals_of(sys._getframe(2)) as names:
        others = names.get("fs")
    return isinstance(others, (set, frozenset)) and all(hasattr(each, "_waits") for each in others)


@contextlib.contextmanager
def locals_of(frame: FrameType) -> Iterator[Any]:
    """Give the local variables of a frame, to look at."""
    names = frame.f_locals
    try:
        yield names
    finally:
        if type(names) is dict:  # before Python 3.13, a copy that would live as long as the frame
            names.clear()


class Waiters:
    """What `future._waiters` is to a thread that has a seat: it may put its own waiter there."""

    __slots__ = ("_future", "_made", "_seat")

    def __init__(self, future: Any, made: list[Any], seat: Seat) -> None:
        self._future = future
        self._made = made
        self._seat = seat

    def append(self, waiter: Any) -> None:
        """Add a waiter, before its thread waits: with the locks of all of its futures held."""
        event = waiter.event
        if type(event) is threading.Event:
            everything = getattr(waiter, "stop_on_exception", None) is False
            event = waiter.event = SeatEvent(self._seat, everything=everything)
        if type(event) is SeatEvent:
            event.futures.append(self._future)
        self._made.append(waiter)

    def remove(self, waiter: Any) -> None:
        """Take a waiter out."""
        self._made.remove(waiter)

    def __iter__(self) -> Any:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class Limit:
    """How long a thread has for what it runs.

    An object of its own, as a thread's own attribute takes long to be set.

    Attributes:
        deadline: monotonic time by which it must be done; None: never mind.
    """

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline: float | None = None


class _Here(threading.local):
    """What the current thread knows of itself.

    Attributes:
        seat: its own, in a pool; None: it is nobody's.
        limit: for what it runs; always the same one.
    """

    seat: Seat | None = None
    limit: Limit = Limit()  # for a finalizer that comes while the thread's own is being made

    def __init__(self) -> None:  # for each thread
        self.limit = Limit()


here = _Here()


class _Known:
    """What the process knows.

    Attributes:
        deadlines: there was one at some time: before that, nobody need look for his own.
    """

    __slots__ = ("deadlines",)

    def __init__(self) -> None:
        self.deadlines = False


known = _Known()
