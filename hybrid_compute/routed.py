"""RoutedItem: a work item that carries itself along its route, attempt after attempt.

Owns what happens between a policy's answer and the end of an item: handing over, retrying,
falling back. Decides nothing: `attempts` does.

(A few lines over 400: the way of an item is better seen in one place.)

Threads and locks: an item is in one pair of hands at a time, so it has no lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures._base import CANCELLED
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from hybrid_compute import _exit
from hybrid_compute._failures import add_note, text_of
from hybrid_compute._metered import run_measured
from hybrid_compute._pauses import Pause
from hybrid_compute._seats import here, known, urge
from hybrid_compute.attempts import Verdict, after_failure, has_not_begun
from hybrid_compute.decisions import Attempt, Choice, Decision
from hybrid_compute.errors import (
    ExecutorUnavailable,
    ResultEncodeError,
    TaskDecodeError,
    TaskEncodeError,
    TaskTimeout,
)
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.privacy import Withheld, last_word
from hybrid_compute.tasks import TaskOptions

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute._alarm import Alarm
    from hybrid_compute.abc import Fleet, SubExecutor
    from hybrid_compute.items import Keeper, Meter
    from hybrid_compute.privacy import Guard

__all__ = ["RoutedItem", "alarm_in", "alarm_of", "limit_of", "time_is_up"]


_NO_FLEET: Fleet = MappingProxyType({})
_BY_POLICY = Choice(rule="as the policy, or the options, said")


def limit_of(item: WorkItem) -> str:
    """Say what time an item had that has a deadline."""
    timeout = item.options.timeout
    if timeout is None:
        return "the time that was left to the work that submitted it"
    return f"its timeout of {timeout:g} s"


def alarm_of(executor: object, item: RoutedItem) -> Alarm | None:
    """Return the alarm of an executor if an item may need it; else None."""
    retries = item.options.retries
    if item.deadline is None and (retries is None or isinstance(retries, int)):
        return None
    return alarm_in(executor)


def alarm_in(executor: Any) -> Alarm:
    """Return the alarm of an executor, made when the first item needs it."""
    alarm: Alarm | None = executor._alarm
    if alarm is None:
        from hybrid_compute._alarm import Alarm  # noqa: PLC0415 - most need none

        made = Alarm()
        with _exit.guard():  # whichever thread comes first
            alarm = executor._alarm
            if alarm is None:
                executor._alarm = alarm = made
    return alarm


def time_is_up(item: WorkItem) -> TaskTimeout:
    """Return the error of an item whose deadline has passed."""
    return TaskTimeout(
        f"{item.name!r} was not done within {limit_of(item)}",
        item_name=item.name,
        timeout=item.options.timeout or 0.0,
    )


class RoutedItem(WorkItem):
    """A work item with a route.

    Attributes:
        executor: name of the executor where it is, or was last; None before the first.
        decision: what `HybridFuture.explain` will tell; None before the first executor.
        observed: whether the class wants to know of each hand-over.
    """

    behind: int
    belief: Any
    choice: Choice | None
    counted: Any
    deadline: float | None
    fn: Callable[..., Any] | None
    future: HybridFuture[Any]
    guard: Guard | None
    handed_at: float | None
    keeper: Keeper | None
    kwargs: dict[str, Any] | None
    meter: Meter | None
    probes: bool
    context: Context | None

    observed = False

    __slots__ = (
        "_again",
        "_alarm",
        "_failures",
        "_fleet",
        "_inside",
        "_last",
        "_pause",
        "_place",
        "_raised",
        "_repeats",
        "_route",
        "_settled",
        "_started",
        "behind",
        "belief",
        "choice",
        "context",
        "counted",
        "deadline",
        "decision",
        "executor",
        "guard",
        "handed_at",
        "meter",
        "probes",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
    ) -> None:
        # By hand: super().__init__(fn, args, kwargs, options), as every submit comes by here.
        self.fn = fn
        self.args = args
        self.kwargs = kwargs or None
        self.options = options
        self.keeper = self.guard = None
        self.future = HybridFuture(self)
        self._failures = self._place = 0
        self._route: tuple[str, ...] = ()
        self._fleet: Fleet = _NO_FLEET
        self._again = self._inside = self._raised = self._repeats = False
        self._started = self._settled = False
        self._last: BaseException | None = None  # what ended the attempt before
        self.executor: str | None = None
        self.deadline: float | None = None
        if options.timeout is not None:
            self.deadline = time.monotonic() + options.timeout
            known.deadlines = True
        if known.deadlines and here.limit.deadline is not None:
            self._inherit(here.limit.deadline)
        self._alarm: Alarm | None = None
        self._pause = 0.0
        self.belief = self.choice = self.counted = self.meter = self.handed_at = None
        self.context = None
        self.probes = False
        self.behind = 0
        self.decision: Decision | None = None

    def _inherit(self, deadline: float) -> None:
        # What submits it has that.
        if self.deadline is None or deadline < self.deadline:
            self.deadline = deadline

    @classmethod
    def in_place_of(cls, item: WorkItem) -> RoutedItem:
        """Return a routed item for the same call, with the same future."""
        assert item.fn is not None  # noqa: S101 - it was just submitted
        routed = cls(item.fn, item.args, item.kwargs, item.options)
        routed.context = item.context
        if item.deadline is not None:
            routed.deadline = item.deadline
        routed.future = item.future
        routed.future._item = routed
        return routed

    def take_over(self, executor: SubExecutor, alarm: Alarm | None, *, since: float) -> None:
        """Be where an item was that had one executor to go to, and in whose place this one is.

        Args:
            executor: where that one was, which alone is the route.
            alarm: as for `launch`.
            since: when it was submitted, by the performance counter.
        """
        self.executor = name = executor.name
        self._route, self._fleet, self._alarm = (name,), {name: executor}, alarm
        if self.decision is None:
            self.decision = self.future._decision = Decision(_BY_POLICY, since)
        self.decision.executor = name

    def launch(
        self,
        route: tuple[str, ...],
        fleet: Fleet,
        alarm: Alarm | None = None,
        *,
        late: bool = False,
    ) -> None:
        """Hand the item to the first executor of the route that accepts it.

        Args:
            route: the executors' names.
            fleet: where they are found.
            alarm: sees to the item's deadline where the executor cannot, and to pauses between
                attempts; see `alarm_of`.
            late: an attempt has failed: who shuts down need not refuse another.
        """
        self._route = route
        self._fleet = fleet
        self._alarm = alarm
        decision = self.decision
        if decision is None:
            decision = Decision(self.choice or _BY_POLICY, time.perf_counter())
            self.decision = self.future._decision = decision
        while True:
            self.executor = route[self._place]
            decision.executor = self.executor
            executor = fleet[self.executor]
            # One that blocks runs the item, and fails it, inside execute(): it then only leaves
            # word, and the loop goes round, or a hundred retries would be a hundred calls deep.
            # No other executor may be asked afterwards: the item is in other hands by then.
            self._inside = blocks = executor.capabilities.blocks
            self._again = False
            self.keeper = None
            self._prepare(executor, alarm)
            try:
                if self.guard is not None:
                    self.guard.present(self, executor)
                (executor.execute_late if late else executor.execute)(self)
            except ExecutorUnavailable as error:
                self._leave()
                # Without its traceback, which would lead back to this item.
                if not self._has_another(error.with_traceback(None)):
                    return
                continue
            if late and self.future._awaited:
                urge((self.future,))  # who waits for it has looked for it elsewhere
            if not (blocks and self._again):
                return
            if self._pause:
                # Who runs his own work waits for it himself.
                try:
                    threading.Event().wait(min(self._pause, threading.TIMEOUT_MAX))
                except BaseException:
                    self.give_up(self._last or CancelledError())
                    raise

    def refused(self, error: ExecutorUnavailable) -> None:
        """Be told that nobody took the item."""
        if self._has_another(error):
            self.go_on()

    def _has_another(self, error: ExecutorUnavailable) -> bool:
        """Say whether somebody is to be asked now, as nobody took it; else it is seen to."""
        last = self._what_counts(last_word(error))
        # What must not leave this machine will not be let out by another attempt.
        alone = self._place + 1 >= len(self._route)
        exits = self._alarm is not None and self._alarm.timer.at_once
        if (alone and (exits or isinstance(error, Withheld))) or not self._goes_on(error):
            self.abandon(last)
            return False
        self._last = last
        return not self._pauses()

    def _what_counts(self, error: BaseException) -> BaseException:
        """Return the error to deliver: one that has not begun says less than what had, and failed.

        Args:
            error: the newest one.
        """
        last = self._last
        return error if last is None or has_not_begun(last) else last

    def _pauses(self) -> bool:
        """Have the next attempt begin later; False: it is to begin now."""
        if not self._pause or self._alarm is None:
            return False
        try:
            Pause(self, self._alarm, self._pause)
        except RuntimeError:  # there can be no thread for the timer
            return False
        return True

    def _prepare(self, executor: SubExecutor, alarm: Alarm | None) -> None:
        """Tell all who must know that this executor is about to get the item."""
        if self.observed:
            self.handed_over()
        if self.deadline is not None and not (executor.capabilities.kills or executor._keeps_time):
            assert alarm is not None  # noqa: S101 - see `launch`
            alarm.set(self)
        if executor.retry_budget is not None and not self._failures:
            executor.retry_budget.earn()
        meter = self.meter
        if meter is not None:
            meter.handed(self, self.executor or "")
            if self.meter is None:
                meter.left(self)  # it was cancelled meanwhile, by whoever has its future

    @property
    def was_tried(self) -> bool:
        """Whether an attempt has failed."""
        return self._failures > 0

    def handed_over(self) -> None:
        """Do nothing: called before each hand-over if `observed`."""

    def tell_privacy(self, kind: Literal["withheld", "redacted"], who: str, reason: str) -> None:
        """Do nothing: called if `observed`, when privacy kept the item, or a part, from `who`."""

    def start(self) -> bool:
        """Mark the item as running; a later attempt finds it so."""
        self._last = None
        if not self._started:
            self._started = self.future._begin()
            return self._started
        return self.deadline is None or not self.future.done()

    def cancel(self) -> None:
        """Cancel the item; if it waits for another attempt, the last one's failure stands."""
        if self._started:
            self.give_up(self._last or CancelledError())
        else:
            super().cancel()

    run = run_measured  # pyright: ignore[reportAssignmentType]  # its `self` has another name

    def _leave(self) -> None:
        """Say, once, that the item is in no executor any more."""
        meter = self.meter
        if meter is not None:
            meter.left(self)

    def _is_over(self, *, done: bool = False) -> None:
        self._fleet = _NO_FLEET
        if self.decision is not None:
            self.decision.ended = time.perf_counter()
        # Gone first, since it leads to the fleet as well, and `launch` looks at it afterwards.
        meter, self.meter = self.meter, None
        if meter is not None:
            meter.left(self, done=done)
        if self._alarm is not None and self.deadline is not None:
            self._alarm.over(self.future)

    def release(self) -> None:
        """Let go of the call, which was cancelled."""
        super().release()
        self.guard = None  # it has the arguments as well
        self._last = None
        self._is_over()
        keeper = self.keeper
        if isinstance(keeper, Pause):
            self.keeper = None
            if keeper.ended:
                self.future._begin()  # nobody else tells those who wait() for it

    def succeed(self, value: Any) -> None:
        """Deliver the result."""
        # Whoever keeps this item, such as the traceback of a callback that raised, must not keep
        # the executors: they end when they are dropped.
        self._is_over(done=True)
        if self._settles():
            self._deliver(value)

    def _deliver(self, value: Any) -> None:
        self.future.set_result(value)

    def _settles(self) -> bool:
        """Say whether who asks is the one that settles the item; with a deadline, two want to."""
        if self.deadline is None:
            return True
        with self.future._lock:
            if self._settled or self.future.done():
                return False
            self._settled = True
            return True

    def fail(self, error: BaseException) -> None:
        """Deliver the failure of this attempt; another one may follow."""
        self._leave()
        if not self._goes_on(error):
            self.give_up(self._what_counts(error))
            return
        self._last = self._what_counts(error)
        if self._inside:
            self._again = True
        elif not self._pauses():
            self.go_on()

    def go_on(self) -> None:
        """Begin another attempt, now. The last one's failure stands if that cannot be."""
        error, fleet = self._last, self._fleet  # before the look: whoever ends it takes them away
        if self.future.done():  # its time was up meanwhile, or it was cancelled
            if self.future._state == CANCELLED:
                self.start()  # tells those who wait() for it
            return
        if error is None:
            return  # somebody is ending it at this very moment
        try:
            self.launch(self._elsewhere(fleet), fleet, self._alarm, late=True)
        except Exception:  # shut down meanwhile, or a foreign submit raised: what is known stays
            self.abandon(error)

    def _elsewhere(self, fleet: Fleet) -> tuple[str, ...]:
        """Return the route without those who would run it here: who submitted it has gone on.

        This thread is another executor's, and others wait for it.
        """
        if "thread" not in fleet:
            return self._route
        return tuple("thread" if fleet[each].capabilities.blocks else each for each in self._route)

    def raised(self, error: BaseException) -> None:
        """Deliver what the work itself raised; only `retries` has it run again."""
        self._raised = True
        self.fail(error)

    def abandon(self, error: BaseException) -> None:
        """Deliver that nobody took the item, unless it was cancelled; it did not start."""
        if self._started or self.future._begin():
            self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """Deliver the failure for good."""
        self._is_over()
        self._last = None
        if self._settles():
            self._deliver_failure(error)

    def _deliver_failure(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def end(self) -> None:
        """Deliver that the work was ended because that was asked for."""
        self._is_over()
        self._last = None
        if self._settles():
            super().end()

    time_is_up = time_is_up

    def _goes_on(self, error: BaseException) -> bool:
        raised, self._raised = self._raised, False
        if self.future.done():
            return False  # its time was up, or it was given up
        if (
            self.belief is not None
            and not raised
            and isinstance(error, (TaskEncodeError, TaskDecodeError))
            and self._place + 1 < len(self._route)
        ):
            # It has not run, and threads need no pickle. The policy has chosen the process, not
            # the caller, who need not know that he could have.
            self.belief.unpicklable = True
            self.belief.left = 0
            self._place += 1
            self._pause = 0.0
            self._note(error)
            return True
        if self.belief is not None and not raised and isinstance(error, ResultEncodeError):
            self.belief.unpicklable = True  # the work was done, and is not done again
            self.belief.left = 0
        fleet = self._fleet
        if self._repeats and not raised and fleet and has_not_begun(error):
            budget = fleet[self._route[self._place]].retry_budget
            if budget is not None:
                budget.give_back()
        fallbacks = len(self._route) - self._place - 1
        if raised or not (fallbacks and has_not_begun(error)):
            self._failures += 1
        verdict, self._pause = after_failure(
            error,
            self.options,
            failures=self._failures,
            fallbacks=fallbacks,
            raised=raised,
            elapsed=time.perf_counter() - self.decision.submitted if self.decision else 0.0,
        )
        if verdict is Verdict.GIVE_UP:
            return False
        place = self._place_after(verdict, error)
        if place is None:
            return False
        self._place = place
        self._note(error)
        return True

    def _place_after(self, verdict: Verdict, error: BaseException) -> int | None:
        """Return the place in the route that is to have it next; None: none may.

        An attempt that repeats another is paid for by who makes it: the first one whose budget has
        a retry for it. A budget spares its executor, and the item may run on the others as well.
        """
        fleet, now, first = self._fleet, time.monotonic(), 0
        if not fleet:
            return None  # its time was up a moment ago, and somebody is about to say so
        if verdict is Verdict.SAME_ROUTE:
            if self._pause and self.deadline is not None and now + self._pause >= self.deadline:
                return None  # there is no time left for another attempt
            self._repeats = True
        else:
            first = self._place + 1
            if not self._repeats:
                return first
        for place in range(first, len(self._route)):
            budget = fleet[self._route[place]].retry_budget
            if budget is None or budget.spend(now):
                return place
        names = " and ".join(map(repr, self._route[first:]))
        for each in (error, self._last):  # of which one is delivered
            if each is not None:
                told = f"{names} had as many retries of late as RetryBudget allows"
                add_note(each, f"not tried again: {told}")
        return None

    def _note(self, error: BaseException) -> None:
        if self.decision is not None and self.executor is not None:
            text = f"{type(error).__name__}: {text_of(error)}"
            self.decision.earlier += (Attempt(executor=self.executor, error=text),)
            self.decision.executor = None
