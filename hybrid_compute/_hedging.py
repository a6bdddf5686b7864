"""Hedging: a second attempt at a call that takes long, elsewhere; the first answer wins.

Owns the race of two attempts, which `_legs` are, each an item with a future of its own; the caller
has the race's. ::

    submit -> Leg 1 -> executor A ------------------ ... ------- its call is ended, or in vain
                 |                                         ^
                 '-- after `hedge`, if there is budget      |
                     for it: Leg 2 -> executor B -- answer -'-> the caller's future

An answer is a value, or what the work itself raised, or that the time is up. A leg that is lost
otherwise (its worker died, its connection was cut) loses the race, if the other one is still out.
Only what is idempotent gets here. (The method, and that a twentieth of the calls suffices: J. Dean
and L. A. Barroso, "The Tail at Scale", 2013.)

Threads and locks. A leg is in one pair of hands at a time, as any item; the second one is made by
the timer's thread. The lock of a race guards who is out and whether it is over: whoever finds under
it that it is, by his leg, is the only one to settle the caller's future, with no lock held. Nothing
waits for another leg: the loser is told to end, and whoever has it sees to that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any

from hybrid_compute._failures import add_note, text_of
from hybrid_compute._hedge import Waits, share_of
from hybrid_compute._keys import key_of
from hybrid_compute._legs import HedgedLeg, Leg
from hybrid_compute._timer import Timer
from hybrid_compute.decisions import Attempt, Choice, Decision, seconds_in_words
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.items import ContextItem, Keeper, WorkItem, name_of
from hybrid_compute.retry import RetryBudget
from hybrid_compute.routed import alarm_of
from hybrid_compute.tasks import Task, TaskOptions

if TYPE_CHECKING:
    from hybrid_compute.abc import Fleet
    from hybrid_compute.futures import HybridFuture
    from hybrid_compute.hybrid import HybridExecutor
    from hybrid_compute.privacy import Guard

__all__ = ["HedgedCall", "Hedging", "Race", "check_hedge", "submit_hedged"]

_BY_POLICY = Choice(rule="as the policy, or the options, said")


class _HedgeTimer(Timer):
    """Calls that are forgotten when their executor, or the interpreter, ends."""

    def __init__(self) -> None:
        super().__init__("hedges")
        self._closed = False  # goes to True once; an entry that slips past it does nothing

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Have `call` called on the timer's thread, unless the end comes before."""
        if not self._closed:
            super().after(seconds, call)

    def flush(self) -> None:
        """Forget all, also what comes from now on."""
        self._closed = True
        self.withdraw_all()


class Hedging:
    """What all races of one executor share: a budget, what was measured, and a clock."""

    def __init__(self, budget: RetryBudget | None) -> None:
        # A tenth of the hedged calls, one a second, and ten after a pause.
        self.budget = RetryBudget(share=0.1, least=1.0, most=10.0) if budget is None else budget
        self.waits = Waits()
        self.timer = _HedgeTimer()

    def wait_of(self, key: Any, hedge: float | str) -> float | None:
        """Return the seconds after which a call gets a second attempt; None: not known yet."""
        if not isinstance(hedge, str):
            return hedge
        share = share_of(hedge)
        return None if share is None else self.waits.percentile(key, share)


def check_hedge(fn: Callable[..., Any] | None, options: TaskOptions, *, streams: bool) -> None:
    """See to it that a call may be hedged.

    Raises:
        ConfigurationError: it must not be run twice, or it is a stream.
    """
    if streams:
        raise ConfigurationError(
            f"hedge={options.hedge!r}: {name_of(fn)!r} is a generator, and a stream is not hedged; "
            "leave `hedge` out"
        )
    if not options.idempotent:
        raise ConfigurationError(
            f"hedge={options.hedge!r}: {name_of(fn)!r} is not declared idempotent, and what is "
            "hedged may run twice; say @task(idempotent=True) if that does no harm, or leave "
            "`hedge` out"
        )


def submit_hedged(
    executor: HybridExecutor, head: HedgedCall, guard: Guard | None
) -> HybridFuture[Any]:
    """Submit a call that gets a second attempt if the first one takes long.

    Args:
        executor: whose fleet and policy it is for.
        head: the call; its future is returned.
        guard: what it has to hide.

    Raises:
        ConfigurationError: it must not be run twice, or it is a stream.
    """
    fn = head.fn
    check_hedge(fn, head.options, streams=isinstance(fn, Task) and fn.streams)
    # One, whichever thread comes first.
    hedging = executor.__dict__.setdefault("_hedging", Hedging(executor._hedge_budget))
    race = Race(executor, hedging, head)
    leg = race.first_leg(guard)
    executor._outstanding.watch(race.future)
    executor._route(leg)  # whatever it raises has cancelled the leg, and the race with it
    return race.future


class _Due:
    """What the timer calls; it outlives a race that is over, and then holds nothing."""

    __slots__ = ("race",)

    def __init__(self, race: Race) -> None:
        self.race: Race | None = race

    def __call__(self) -> None:
        race, self.race = self.race, None
        if race is not None:
            race.hedge()


class HedgedCall(ContextItem):
    """What the caller's future has for its item. It runs nowhere itself."""

    __slots__ = ()

    def release(self) -> None:
        """Let go of the call, which was cancelled, and tell those who wait() for it."""
        super().release()
        self.start()


class Race(Keeper):
    """One call, and the one or two attempts at it.

    Attributes:
        future: the caller's.
        options: of the call.
    """

    def __init__(self, executor: HybridExecutor, hedging: Hedging, head: HedgedCall) -> None:
        fn = head.fn
        assert fn is not None  # noqa: S101 - it was just submitted
        head.keeper = self
        self.options = head.options
        self._head: WorkItem | None = head
        self.future = head.future
        self._executor: HybridExecutor | None = executor
        self._hedging = hedging
        self._key = fn.key if isinstance(fn, Task) else key_of(fn)
        self._lock = threading.RLock()  # guards all below; re-entrant for signal handlers
        self._out: list[HedgedLeg] = []
        self._first: HedgedLeg | None = None
        self._over = self._begun = self._closed = False
        self._handed_at: float | None = None
        self._due: _Due | None = None
        # What a leg has come to that has brought no answer, and where.
        self._lost: tuple[HedgedLeg, str, BaseException] | None = None
        self._decision = Decision(_BY_POLICY, time.perf_counter())
        self.future._decision = self._decision

    # The attempts.

    def first_leg(self, guard: Guard | None) -> HedgedLeg:
        """Return the first attempt, which is to be routed."""
        executor, head = self._executor, self._head
        assert executor is not None  # noqa: S101 - it begins
        assert head is not None  # noqa: S101 - likewise
        leg = self._leg(executor, head, None)
        leg.guard = guard
        leg.decision = leg.future._decision = self._decision
        self._out = [leg]
        self._first = leg
        self._hedging.budget.earn()
        if executor._observed:
            executor._router.audit(leg)
        return leg

    def _leg(self, executor: HybridExecutor, head: WorkItem, before: HedgedLeg | None) -> HedgedLeg:
        assert head.fn is not None  # noqa: S101 - nobody has released it
        kind: type[HedgedLeg] = Leg
        more: dict[str, Any] = {}
        if executor._observed:
            from hybrid_compute import observed  # noqa: PLC0415 - most have nobody who looks

            kind, number = observed.ObservedLeg, before and before.item_id
            more = {"observers": executor._observers, "item_id": number or next(executor._ids)}
        make: Any = kind if executor._recorder is None else executor._recorder.maker(kind)
        return make(self, head, before, **more)  # type: ignore[no-any-return]

    def handed(self, leg: HedgedLeg) -> bool:
        """Say that an executor is about to get a leg; return whether to `arm` afterwards."""
        if leg is not self._first:
            return False
        if leg.choice is not None:
            self._decision.choice = leg.choice
        if self._handed_at is not None:
            return False
        self._handed_at = time.monotonic()
        return True

    def arm(self) -> None:
        """Have `hedge` called in time."""
        hedge = self.options.hedge
        seconds = None if hedge is None else self._hedging.wait_of(self._key, hedge)
        if seconds is None:
            return
        with self._lock:
            if self._over or self._closed:
                return
            self._due = due = _Due(self)
        self._hedging.timer.after(seconds, due)

    def hedge(self) -> None:
        """Have a second attempt made elsewhere, if the first is still out. The timer's thread."""
        with self._lock:
            first, executor, head = self._first, self._executor, self._head
            if first is None or executor is None or head is None or not self._waits_for(first):
                return
        fleet = first.fleet
        route = self._elsewhere(first, fleet)
        if not route or head.fn is None or not self._hedging.budget.spend(time.monotonic()):
            return
        second = self._leg(executor, head, first)
        with self._lock:
            if not self._waits_for(first):
                return
            self._out.append(second)
        waited = seconds_in_words(time.monotonic() - (self._handed_at or 0.0))
        why = f"no answer from {first.executor!r} after {waited} (hedge={self.options.hedge!r})"
        self._decision.hedge = f"{why}: a second attempt on {route[0]!r}"
        first.tell_hedged(route[0], why)
        try:
            second.launch(route, fleet, alarm_of(executor, second), late=True)
        except Exception:  # shut down meanwhile, or whatever a foreign submit raises
            second.future.cancel()

    def _waits_for(self, first: HedgedLeg) -> bool:
        """Say whether there is this leg only, and somebody who wants to know. Under the lock."""
        return self._out == [first] and not self._over and not self._closed

    def _elsewhere(self, first: HedgedLeg, fleet: Fleet) -> tuple[str, ...]:
        """Return where a second attempt may go: to others of the route, or to a free worker."""
        others = tuple(
            name
            for name in first.route
            if name != first.executor and name in fleet and not fleet[name].capabilities.blocks
        )
        if others:
            return others
        same = None if first.executor is None else fleet.get(first.executor)
        if first.executor is None or same is None or same.capabilities.blocks or same.load() >= 1:
            return ()  # it would only wait behind the first one
        return (first.executor,)

    # What becomes of them.

    def begin(self) -> bool:
        """Say that the work of a leg is about to begin; return whether it still should."""
        with self._lock:
            if self._over:
                return False
            begun, self._begun = self._begun, True
        if not begun:
            self.future._begin()
        return True

    def leave(self, leg: HedgedLeg, *, answers: bool = False) -> bool:
        """Note that a leg is over; say whether the race is, by that.

        Args:
            leg: which.
            answers: what it has come to is an answer.
        """
        with self._lock:
            if leg in self._out:
                self._out.remove(leg)
            if self._over or (self._out and not answers):
                return False
            self._over = True
            return True

    def is_over(self) -> bool:
        """Say whether the caller has his answer."""
        return self._over

    def note_loss(self, leg: HedgedLeg, error: BaseException) -> None:
        """Keep what one leg has come to: the other may come to nothing as well."""
        with self._lock:
            if self._lost is None:
                self._lost = leg, leg.executor or "", error

    def win(self, leg: HedgedLeg, value: Any) -> None:
        """Deliver the result of a leg, the first to have one."""
        if self._handed_at is not None:
            self._hedging.waits.add(self._key, time.monotonic() - self._handed_at)
        self._end(leg)
        try:
            self.future.set_result(value)
        finally:
            self._drop_others()

    def lose(self, leg: HedgedLeg, error: BaseException) -> None:
        """Deliver the failure of a leg, which is an answer, or the last one."""
        self._end(leg)
        lost = self._lost
        if lost is not None and lost[0] is not leg:
            add_note(error, f"{lost[1]!r} had come to this before: {lost[2]!r}")
        try:
            self.future.set_exception(error)
        finally:
            self._drop_others()

    def cancelled(self, leg: HedgedLeg) -> None:
        """Deliver that the last leg was cancelled, or ended."""
        self._end(leg)
        lost = self._lost
        if not self._begun:
            self.future.cancel()
        elif lost is not None:
            self.future.set_exception(lost[2])
        elif not self.future.done():
            self.future._end()

    def _end(self, leg: HedgedLeg) -> None:
        """Let go of everything, and have the caller's future tell how it went."""
        with self._lock:
            due, self._due = self._due, None
            others, lost = list(self._out), self._lost
            first, self._first = self._first, None
            self._executor = self._head = None
        if due is not None:
            due.race = None
        # A copy: a leg that goes on in vain writes to its own.
        told, mine = self._decision.copy(), leg.decision
        if leg is not first and mine is not None:
            told.executor, told.wall, told.cpu = leg.executor, mine.wall, mine.cpu
            told.earlier += mine.earlier
        if lost is not None and lost[0] is not leg:
            text = f"{type(lost[2]).__name__}: {text_of(lost[2])}"
            told.earlier += (Attempt(executor=lost[1], error=text),)
        for other in others:
            if other.executor is not None:
                given_up = f"given up: the other attempt, on {leg.executor!r}, was first"
                told.earlier += (Attempt(executor=other.executor, error=given_up),)
        told.ended = time.perf_counter()
        self.future._decision = told

    def _drop_others(self) -> None:
        """Have the loser end: taken from its queue, or told to whoever runs it."""
        with self._lock:
            others = list(self._out)
        for leg in others:
            try:
                if not leg.future.cancel() and (keeper := leg.keeper) is not None:
                    keeper.drop(leg)
            except Exception:
                LOGGER.exception("exception ending the slower of two attempts at %r", leg.name)

    # The keeper of the caller's future.

    def withdraw(self, item: WorkItem) -> bool:
        """Cancel the attempts; False if one has begun."""
        with self._lock:
            self._closed = True
            legs = list(self._out)
        return [leg.future.cancel() for leg in legs].count(False) == 0  # each is asked

    def stop(self, item: WorkItem) -> bool | None:
        """End the attempts although they run; say whether the call is cancelled by that."""
        with self._lock:
            self._closed = True
            legs = list(self._out)
        for leg in legs:
            leg.future.cancel_running()
        return self.future.cancelled()
