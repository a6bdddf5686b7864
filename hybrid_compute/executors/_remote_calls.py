"""Calls: one attempt at one item by a remote executor, and a clock that looks after them.

Owns what is known of one call, and what may become of it. `Timers` has a
lock, which guards its heap, and a thread, which is there only while something is set; it calls
with no lock held.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from hybrid_compute.errors import (
    HybridComputeError,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskTimeout,
)
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._remote_signed import SignedCall
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.tasks import Task

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_line import Line
    from hybrid_compute.protocol.outcomes import LostCall

__all__ = [
    "LINE",
    "Call",
    "Owner",
    "Timers",
    "arguments_of",
    "copy_of",
    "deadline_of",
    "in_vain",
    "lost_for_good",
    "may_go_again",
    "name_on_the_wire",
    "time_is_up",
]

_GOING_AWAY = (None, 1001, 1006, 1012, 1013)  # codes after which a service comes back
_MOST_RESENT = 3
_SPARE = 64
_LINGER = 0.010  # seconds that the thread stays when nothing is set: starting one takes 60 us


class Call(Keeper):
    """An item on its way through a line. Its line's lock guards it, but for `item` and `running`.

    Attributes:
        item: None once somebody has taken it, to deliver its outcome.
        id: in the session; 0: in none.
        deadline: monotonic; None: none.
        plain: nothing but positional arguments goes with it.
        variables: context variables that go along, by their names; None: none.
        busy: how often the server had no room for it.
        resent: how often it was given to another connection since there was news of it.
        ran: it was sent over a connection that was lost, so that it may have run.
        seq: of a stream: number of the first item that has not come.
        running: whether the item was marked as running; None: that was not tried yet.
        signed: its envelope's maker, if it goes as a signed pickle; else None.
        awaited: somebody reads the connection until it is over.
        passed_on: its outcome is with the thread that delivers it.
        withdrawn: whether its future is cancelled, or about to be: it must not be sent.
    """

    __slots__ = (
        *("awaited", "busy", "deadline", "id", "item", "line", "name", "passed_on", "plain"),
        *("ran", "resent", "running", "seq", "signed", "timeout", "variables", "withdrawn"),
    )

    def __init__(
        self, line: Line, item: WorkItem, timeout: float | None, signed: SignedCall | None = None
    ) -> None:
        self.line = line
        self.item: WorkItem | None = item
        self.name: str
        self.deadline: float | None = None
        self.signed: SignedCall | None = None
        self.running: bool | None = None
        self.timeout = 0.0
        self.id = self.busy = self.resent = self.seq = 0
        self.ran = self.withdrawn = self.awaited = self.passed_on = False
        self.plain = True
        self.variables: dict[str, Any] | None = None
        fn: Any = item.fn
        if type(fn) is Task and signed is None:
            self.name = fn.name
            if type(item) is WorkItem and timeout is None:  # most are; such has no key, no deadline
                if item.kwargs:
                    self.plain = False
                return
        else:
            self.name = name_on_the_wire(item) if signed is None else item.name
            self.signed = signed
            self.plain = signed is None and not item.streams
        if item.kwargs or item.key is not None:
            self.plain = False
        if item.variables is not None:
            self.variables = item.variables
            self.plain = False
        elif item.context is not None and line.carried is not None:
            self.variables = line.carried.named(item.context)
            self.plain = False
        if timeout is not None or item.deadline is not None:
            self.deadline, self.timeout = deadline_of(item, timeout)
            self.plain = False

    def withdraw(self, item: WorkItem) -> bool:
        """Take it back, unless a part of it may have been sent."""
        return self.line.withdraw(self)

    def stop(self, item: WorkItem) -> bool | None:
        """Have the server stop it, if that understands."""
        return self.line.stop(self)

    def drop(self, item: WorkItem) -> None:
        """Have the server stop it, if that understands: nobody wants it."""
        self.line.stop(self)

    def attend(self, timeout: float | None) -> None:
        """Read the connection, if who waits for the call may do that."""
        self.line.attend(self, timeout)

    def watched(self) -> None:
        """Have the connection read by its thread."""
        self.line.recall()

    def is_out_of_hand(self) -> bool:
        """Say whether nothing more will come of its own."""
        return self.item is None or self.passed_on

    def begin(self) -> bool:
        """Mark the item as running, once; False if nobody wants it any more. Any thread."""
        if self.running is None:
            with self.line.starting:  # who comes second must not go on before that is done
                self.start()
        return bool(self.running)

    def start(self) -> None:
        """Do what `begin` does. With `Line.starting` held."""
        if self.running is None:
            item = self.item
            self.running = item is not None and _delivery.start(item)

    def lose(self, lost: LostCall) -> None:
        """Note that its connection is lost. Under the line's lock."""
        self.id = 0
        self.ran = self.ran or lost.may_have_run
        if lost.next_seq > self.seq:  # a stream that gets on may be lost any number of times
            self.seq, self.resent = lost.next_seq, 0

    def time_is_up(self) -> TaskTimeout:
        """Return the error for a call whose deadline has passed."""
        return time_is_up(self.name, self.timeout)


def name_on_the_wire(item: WorkItem) -> str:
    """Return the task's name."""
    fn = item.target
    assert isinstance(fn, Task)  # noqa: S101 - can_run has seen to that, and execute
    return fn.name


def arguments_of(item: WorkItem) -> tuple[Any, ...]:
    """Return the positional arguments of the task."""
    return item.args[4:] if item.streams else item.args  # see `_producer.run_stream`


def deadline_of(item: WorkItem, timeout: float | None) -> tuple[float | None, float]:
    """Return when a call must be over, and how many seconds it had."""
    now = time.monotonic()
    own = item.options.timeout
    if own is None:  # it was submitted by what has a deadline, and has that
        own = 0.0 if item.deadline is None else max(0.0, item.deadline - now)
    if timeout is None:
        return item.deadline, own
    deadline = now + timeout
    if item.deadline is not None and item.deadline < deadline:
        return item.deadline, own
    return deadline, timeout


def time_is_up(name: str, timeout: float) -> TaskTimeout:
    """Return the error for a call of that task."""
    return TaskTimeout(
        f"{name!r} was not done within its timeout of {timeout:g} s; it may be running still",
        item_name=name,
        timeout=timeout,
    )


def may_go_again(call: Call, why: Exception, *, may_have_run: bool) -> bool:
    """Say whether a call whose connection was lost may be given to another."""
    if not isinstance(why, RemoteConnectionLost) or call.resent >= _MOST_RESENT:
        return False
    if not may_have_run:
        return True
    idempotent = call.item is not None and call.item.options.idempotent
    return bool(idempotent) and getattr(why, "code", None) in _GOING_AWAY


def copy_of(error: Exception) -> Exception:
    """Return an error for one more call: two threads may not raise the same one."""
    if not isinstance(error, HybridComputeError):
        return RemoteUnavailable(f"no connection: {error!r}; nothing was sent")
    make, args = error.__reduce__()[:2]
    copy: Exception = make(*args)
    copy.__cause__ = error.__cause__
    return copy


def in_vain(call: Call, error: Exception) -> Exception:
    """Return the error for a call that waits for a connection, when there will be none."""
    return lost_for_good(error) if call.ran else copy_of(error)


def lost_for_good(error: Exception) -> RemoteConnectionLost:
    """Return the error for a call that may have run, and cannot be sent again."""
    lost = RemoteConnectionLost(
        f"the connection was lost before the answer came, so that it may have run; and there is no "
        f"other: {error}",
        may_have_run=True,
    )
    lost.__cause__ = error
    return lost


class Owner(Protocol):
    """Whose time it is.

    Attributes:
        item: None: it is over.
    """

    @property
    def item(self) -> object: ...


class _Line:
    """A line as the owner of a time that is soon: it is never over."""

    item: object = "line"


LINE: Owner = _Line()


class Timers:
    """Calls functions at their times."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition(threading.RLock())  # guards all below
        self._heap: list[tuple[float, int, Callable[[], object], Owner]] = []
        self._size = _SPARE  # at that many entries, those of calls that are over are removed
        self._numbers = itertools.count()
        self._until = 0.0  # when the thread looks again by itself; 0: it is about to
        self._lingers = False  # it waits for a moment only, and not for a time
        self._emptied = False  # there was no call that is not over, since it looked
        self.thread: threading.Thread | None = None

    def at(self, when: float, do: Callable[[], object], owner: Owner) -> None:
        """Call `do` at a monotonic time, unless its owner is over by then.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._changed:
            if len(self._heap) >= self._size:
                self._sweep()
            if self.thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # it may not be possible; it waits for our lock
                self.thread = thread
            heapq.heappush(self._heap, (when, next(self._numbers), do, owner))
            # Waking it costs more than all else here, and most times are later than others.
            if when < self._until:
                self._changed.notify_all()

    def look(self) -> None:
        """Forget what belongs to calls that are over: then the thread may end."""
        self._emptied = True  # before it is asked how the thread waits: see `_run`
        if self.thread is None or self._lingers:
            return
        with self._changed:
            self._sweep()
            if not self._lingers:  # else it has seen it, and is not to be cut short
                self._changed.notify_all()

    def _sweep(self) -> None:
        self._heap = [each for each in self._heap if each[3].item is not None]
        heapq.heapify(self._heap)
        self._size = 2 * len(self._heap) + _SPARE

    def _run(self) -> None:
        while True:
            with self._changed:
                # In this order, as who looks is not under the lock. Where one call follows another,
                # it is not woken for each.
                lingered, self._lingers = self._lingers, False
                emptied, self._emptied = self._emptied, False
                while self._heap and self._heap[0][3].item is None:
                    heapq.heappop(self._heap)
                if lingered and not emptied and not self._heap:
                    self.thread = None
                    return
                now = time.monotonic()
                self._lingers = emptied or not self._heap
                when = self._heap[0][0] if self._heap else inf
                if self._lingers:
                    when = min(when, now + _LINGER)
                if when > now:
                    self._until = when
                    self._changed.wait(min(when - now, threading.TIMEOUT_MAX))
                    self._until = 0.0
                    continue
                do = heapq.heappop(self._heap)[2]
            try:
                do()
            except BaseException:
                LOGGER.exception("exception ending a remote call")
            del do  # keep nothing alive meanwhile
