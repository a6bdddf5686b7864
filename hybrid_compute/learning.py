"""Learning: between a policy that learns and the fleet that it learns about.

Owns the items that are held since the policy answered "not yet", and carries measurements to the
policy. What is held is not bound to any executor: it is routed again when its policy has learned
something, or when it was held for long enough. ::

    submit -> route: None -> hold --.     a first call ends -> Learning.end -> news?
                                    |                                           |
                                    '--> release <------------------------------'
                                            ^-------- the look-out, at 4 and 8 ms: has it used CPU?

Threads. `hold` runs on submitters, `end` and `reconsider` on the executors' threads, the look-out
is a thread of its own, which is there only while something is held.

The lock guards the held items and who releases. It is re-entrant, as a
signal handler or a finalizer that submits may land on a thread that holds it. No policy is asked,
no executor called and no future settled under it.

Why no item is forgotten. It is in one of: a queue here, the hands of one `release`, an executor.
A queue that is not empty has a look-out: `hold` starts it under the same lock under which it ends
itself, when nothing is held. At the last look, 50 ms after the first item came, all of a queue is
routed, known or not. An item counts as outstanding from `hold` to its end, so that a shutdown
waits for it before it closes the fleet; and at the interpreter's exit `flush` comes first. A
thread that releases and is interrupted by Ctrl-C has the item that it had in hand abandoned, and
leaves the rest to the look-out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from threading import get_ident
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._first_calls import FirstCalls
from hybrid_compute.decisions import Choice, Decision
from hybrid_compute.errors import PlacementError, PolicyError
from hybrid_compute.executors._delivery import cancel as cancel_item
from hybrid_compute.routed import RoutedItem

if TYPE_CHECKING:
    from hybrid_compute._alarm import Alarm
    from hybrid_compute.abc import Fleet
    from hybrid_compute.router import Router

__all__ = ["Learning"]

_FIRST_LOOK = 0.008  # seconds: two switch intervals of the GIL, so that a first call has run
# At half of that most can be told: who computes has had his core, and keeps the GIL for a switch
# interval once he has it; who has hardly used it until then does not want it.
_CLEARLY_WAITS = 0.1  # of its time so far is CPU, at most
_LAST_LOOK = 0.050
_MUCH = 0.003  # seconds of CPU from which on a call that still runs is known to compute

_HELD = Choice(rule="held, until more is known of its task")


def _nobody() -> None:
    return None


class _Queue:
    """Items of one task that wait for the same news."""

    __slots__ = ("due", "first", "items", "last")

    def __init__(self, now: float) -> None:
        self.items: deque[tuple[RoutedItem, Alarm | None]] = deque()
        self.due = now + _FIRST_LOOK / 2
        self.first = now + _FIRST_LOOK
        self.last = now + _LAST_LOOK


class Learning(_exit.Member):
    """Holds items, and is the meter of those that a learning policy routes.

    Attributes:
        learns: whether the policy wants measurements; any policy may have items held.
        owner: the executor that it is a part of; None once that is gone.
    """

    def __init__(self, policy: Any, router: Router, fleet: Fleet) -> None:
        self._policy = policy if callable(getattr(policy, "ran_here", None)) else None
        self.learns: bool = self._policy is not None
        self._router = router
        self.owner: Callable[[], Any] = _nobody  # HybridExecutor sets it
        self._fleet = fleet
        self._changed = threading.Condition(threading.RLock())  # guards all below
        self._held: dict[Any, _Queue] = {}
        self._releasing: list[int] = []  # threads that have an item in hand
        self._closed = False
        self._look_out: threading.Thread | None = None
        self._first_calls = FirstCalls()
        _exit.register(self)

    # Holding.

    def hold(self, item: RoutedItem, alarm: Alarm | None) -> bool:
        """Keep an item until its policy knows more; False if it must be routed now."""
        now = time.monotonic()
        with self._changed:
            if self._closed:
                return False
            self._post()
            queue = self._held.get(item.belief)
            if queue is None:
                queue = self._held[item.belief] = _Queue(now)
                self._changed.notify_all()
            if item.decision is None:
                item.decision = item.future._decision = Decision(_HELD, time.perf_counter())
            queue.items.append((item, alarm))
        if self.learns and item.belief is not None and item.belief.known:
            self._release(item.belief)  # what it was to wait for came before it was here
        return True

    def _post(self) -> None:
        """See that there is a look-out. Under the lock."""
        if self._look_out is None:
            thread = threading.Thread(target=self._watch, name="look-out", daemon=True)
            thread.start()  # it may not be possible; it waits for our lock
            self._look_out = thread

    def flush(self) -> None:
        """Hold nothing any more: the interpreter exits, and executors close next."""
        self.close()

    def _drain(self) -> None:
        """Route all that is held, now; return when it is in its executors."""
        me = get_ident()
        with self._changed:
            waiting = list(self._held)
        for belief in waiting:
            self._release(belief, late=True)
        with self._changed:
            if me not in self._releasing:  # or two callbacks might wait for each other
                self._changed.wait_for(lambda: not self._releasing)

    def close(self, *, cancel: bool = False) -> None:
        """Hold nothing any more; route, or cancel, what is held."""
        with self._changed:
            self._closed = True
        # One by one: whatever comes out of one's callbacks, the others are not forgotten.
        while cancel and (item := self._take_held()) is not None:
            cancel_item(item)
        self._drain()

    def _take_held(self) -> RoutedItem | None:
        with self._changed:
            for queue in self._held.values():
                if queue.items:
                    return queue.items.popleft()[0]
            self._held.clear()
            self._changed.notify_all()
            return None

    def join(self) -> None:
        """Block until the look-out has gone, which has nothing left to do."""
        thread = self._look_out
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _release(self, belief: Any, *, late: bool = False) -> None:
        """Route what is held of a task, as far as its policy answers.

        Args:
            belief: what the policy knows of it.
            late: it was held for long enough.
        """
        me = get_ident()
        while True:
            with self._changed:
                queue = self._held.get(belief)
                if queue is None:
                    return
                if not queue.items:
                    del self._held[belief]
                    self._changed.notify_all()
                    return
                item, alarm = queue.items.popleft()
                self._releasing.append(me)
            kept = False
            try:
                kept = not self._route(item, alarm, late=late)
                if kept:
                    with self._changed:
                        self._held.setdefault(belief, queue).items.appendleft((item, alarm))
                        self._post()  # another thread may have found the queue empty
                        late = self._closed  # then nobody will come for it
                    if not late:
                        return
            except BaseException:
                if not kept:
                    item.abandon(RuntimeError("interrupted while it was routed"))
                raise
            finally:
                with self._changed:
                    self._releasing.remove(me)
                    self._changed.notify_all()
                del item

    def _route(self, item: RoutedItem, alarm: Alarm | None, *, late: bool) -> bool:
        """Route an item and hand it over; False if its policy still cannot tell."""
        try:
            if item.future.cancelled():
                item.start()  # tells those who wait() for it
                return True
            route, fleet = self._router.route(item, held=True)
            if item.meter is None and item.belief is not None and self._policy is not None:
                self._policy.left(item)  # it was cancelled meanwhile, and may count as a first call
            if route is None:
                if not late:
                    return False
                route = self._router.for_want_of_an_answer(fleet)
            if item.decision is not None and item.choice is not None:
                item.decision.choice = item.choice
            item._place = 0  # it may have gone some way along another route
            item.launch(route, fleet, alarm, late=True)
        except (PlacementError, PolicyError) as error:
            if error.__cause__ is not None:
                error.__cause__.with_traceback(None)
            item.abandon(error.with_traceback(None))
        except Exception as error:  # shut down meanwhile, or whatever a foreign submit raises
            item.abandon(error.with_traceback(None))
        return True

    def _watch(self) -> None:
        """The life of the look-out: see after each queue in its time."""
        while True:
            with self._changed:
                if not self._held:
                    self._look_out = None
                    return
                now = time.monotonic()
                held = self._held.copy()  # a finalizer that submits would change it under our eyes
                due = [(belief, each) for belief, each in held.items() if each.due <= now]
                if not due:
                    soonest = min(each.due for each in held.values())
                    held.clear()
                    self._changed.wait(soonest - now)
                    continue
                held.clear()
                for _, queue in due:
                    following = [each for each in (queue.first, queue.last) if now < each]
                    queue.due = following[0] if following else now + _LAST_LOOK
            for belief, queue in due:
                try:
                    late = now >= queue.last
                    if self._look(belief, early=now < queue.first, late=late):
                        self._release(belief, late=late)
                except BaseException:
                    LOGGER.exception("exception routing held work items")
            due.clear()
            belief = queue = None  # type: ignore[assignment]  # nothing is kept while it waits

    def _look(self, belief: Any, *, early: bool, late: bool) -> bool:
        """Tell the policy what can be seen of first calls that still run; say if it is enough."""
        policy = self._policy
        if policy is None or belief is None:
            return not early
        if belief.known:
            return True
        longest, cpu, kept = self._first_calls.look(belief) or (0.0, 0.0, 0.0)
        busy = cpu + kept
        # Early on, to have been kept from a core on a busy machine may be all that has happened.
        if (cpu if early else busy) >= _MUCH:
            used = min(busy, longest)  # for the rest others had the GIL
            return bool(policy.seen(belief, used, used, together=busy))
        if longest >= _FIRST_LOOK * (3 / 8 if early else 1 / 2) and (
            not early or busy <= _CLEARLY_WAITS * longest
        ):
            return bool(policy.seen(belief, longest, busy))
        return late and bool(policy.seen(belief, _LAST_LOOK, None))

    # Measuring: the Meter of items.

    def begin(self, item: RoutedItem) -> float | None:
        """Say that the item begins on this thread; return its CPU time if that is wanted."""
        belief = item.belief
        if not belief.wants_cpu:
            return None
        if not belief.known:
            self._first_calls.begin(belief)
        return time.thread_time()

    def end(self, item: RoutedItem, begun: float, cpu: float | None, value: Any) -> bool:
        """Say that it has ended; return whether to call `reconsider`."""
        ended = time.perf_counter()
        used = None if cpu is None else time.thread_time() - cpu
        decision = item.decision
        if decision is not None:
            decision.wall, decision.cpu = ended - begun, used
        # As if it had had its core all the time; both clocks have their own idea of when it began.
        begun = min(begun + self._first_calls.end(), ended - (used or 0.0))
        assert self._policy is not None  # noqa: S101 - else there is no meter
        try:
            return bool(self._policy.ran_here(item, begun, ended, used, value))
        except Exception:
            LOGGER.exception("policy %r cannot learn from %r", self._policy, item.name)
            return False

    def handed(self, item: RoutedItem, name: str) -> None:
        """Say that an executor is about to get the item."""
        item.handed_at = time.perf_counter()
        assert self._policy is not None  # noqa: S101 - else there is no meter
        self._policy.handed(item, name, self._fleet)

    def left(self, item: RoutedItem, *, done: bool = False) -> None:
        """Say that the item has left its executor; `done`: with a result."""
        policy = self._policy
        assert policy is not None  # noqa: S101 - else there is no meter
        counted = item.counted
        if done and counted is not None and not counted[0].shares and item.handed_at is not None:
            policy.answered(item, time.perf_counter() - item.handed_at)
        policy.left(item)

    def ran(self, belief: Any, count: int, wall: float, cpu: float) -> None:
        """Say that so many calls have run in another process of this machine."""
        assert self._policy is not None  # noqa: S101 - else there is no meter
        if self._policy.ran(belief, count, wall, cpu):
            self.reconsider(belief)

    def pickled(self, item: RoutedItem, size: int, seconds: float) -> None:
        """Say how long it took to pickle so many bytes, which go where the item goes."""
        learn = getattr(self._policy, "pickled", None)  # a policy that learns need not learn that
        if learn is not None:
            try:
                learn(item, size, seconds)
            except Exception:
                LOGGER.exception("policy %r cannot learn from %r", self._policy, item.name)

    def usual(self, fn: Any) -> Any:
        """Return what the policy knows best of a function; None if nothing."""
        return None if self._policy is None else self._policy.usual(fn)

    def slow(self, belief: Any, seconds: float) -> None:
        """Say that a call took long on its submitter's thread."""
        assert self._policy is not None  # noqa: S101 - else there is no meter
        self._policy.slow(belief, seconds)

    def reconsider(self, belief: Any) -> None:
        """Route what is held of a task, and move what waits where it does not belong any more."""
        if belief in self._held:
            self._release(belief)
        assert self._policy is not None  # noqa: S101 - else there is no meter
        me = get_ident()
        with self._changed:
            if self._closed:  # the executors are about to refuse what they would get anew
                return
            self._releasing.append(me)
        escaped: BaseException | None = None
        try:
            for name in self._policy.wrong_places(belief):
                executor = self._fleet.get(name)
                for item in () if executor is None else executor.give_back(belief):
                    try:
                        item._leave()
                        self._route(item, item._alarm, late=True)
                    except BaseException as error:  # a callback's SystemExit, or Ctrl-C
                        escaped = escaped or error  # the others are in nobody's hands but ours
                        if not item.future.done():
                            item.abandon(RuntimeError("interrupted while it was routed"))
            if escaped is not None:
                raise escaped
        finally:
            escaped = None
            with self._changed:
                self._releasing.remove(me)
                self._changed.notify_all()

    def after_fork(self) -> None:
        """Forget the parent's items and thread."""
        self._changed = threading.Condition(threading.RLock())
        self._held = {}
        self._first_calls = FirstCalls()
        self._releasing = []
        self._look_out = None
