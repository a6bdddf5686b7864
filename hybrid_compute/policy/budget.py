"""Budget: keeps what is spent on priced executors under a ceiling, around another policy.

Owns the accounts: what was spent in this window, what is set aside for items under way, and what
each task has cost so far. Executors' prices are theirs; what an attempt has cost is told by its
event (see `hybrid_compute.observed`).

    route(item):  predicted costs -> take who is too dear out of the fleet -> ask the inner policy
                  -> set aside the dearest of its answer; gone meanwhile? once more, without those
    observe(event): an attempt is over: book its cost. The item is over: what is left is set free

Why `observe`, and no leaner hook: events tell of every attempt, of refusals and of what was
cancelled, for all kinds of items, and a budget that misses one is wrong for good. The price is
that all items of the executor make their four events, about 10 us, also those that run for
nothing. Where there is a price a call takes far longer. Routing takes about 5 us, or one where
nothing has a price.

Threads and locks: one lock guards the accounts. It is re-entrant, since a finalizer that submits
may land in the middle; the inner policy is asked, and told, with no lock held. That an item fits
is therefore asked again when it is set aside, under the same lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from hybrid_compute import _exit
from hybrid_compute._values import Value
from hybrid_compute.abc import Fleet, Policy, WorkItem
from hybrid_compute.errors import ConfigurationError, PlacementError
from hybrid_compute.policy._base import check_policy, learner_of, observer_of
from hybrid_compute.prices import Price, amount, bytes_of

if TYPE_CHECKING:
    from hybrid_compute.events import Event
    from hybrid_compute.tasks import TaskOptions

__all__ = ["Budget", "Spending"]

_PERIODS = {"hour": 3600.0, "day": 86400.0}
_OVER = frozenset({"succeeded", "failed", "cancelled"})
# Sums of floats are not exact: so much of the limit may be missing and it still fits.
_ROUNDING = 1e-9


class Spending(Value):
    """The accounts of a `Budget` at one moment. Numbers are in the currency of the prices.

    Attributes:
        limit: the most that may be spent in one window.
        in_window: what was spent in the present one.
        reserved: what is set aside for items under way.
        left: what may still be spent in the present one.
        ends_in: seconds until it ends; None: it never does.
        spent: all that was ever spent, by executor.
        saved: what was not spent: for each item that succeeded, the highest cost that was
            predicted, when it was routed, on a priced executor that could have run it and did not
            run it in the end, less what the item has cost; nothing where that is negative.
    """

    __slots__ = ("ends_in", "in_window", "left", "limit", "reserved", "saved", "spent")

    limit: float
    in_window: float
    reserved: float
    left: float
    ends_in: float | None
    spent: Mapping[str, float]
    saved: float

    def __init__(
        self,
        *,
        limit: float,
        in_window: float,
        reserved: float,
        left: float,
        ends_in: float | None,
        spent: Mapping[str, float],
        saved: float,
    ) -> None:
        self._set(
            ends_in=ends_in,
            in_window=in_window,
            left=left,
            limit=limit,
            reserved=reserved,
            saved=saved,
            spent=MappingProxyType(dict(spent)),
        )

    def __hash__(self) -> int:
        return hash((self.limit, self.in_window, self.reserved, self.saved))


class _Hold:
    """What is known of an item under way: guarded by the lock.

    Attributes:
        amount: what is set aside for it.
        attempt: what one attempt was predicted to cost.
        cost: what its attempts have cost so far.
        costs: what one attempt was predicted to cost on each priced executor that could run it.
    """

    __slots__ = ("amount", "attempt", "cost", "costs")

    def __init__(self, amount: float, attempt: float, costs: Mapping[str, float]) -> None:
        self.amount = amount
        self.attempt = attempt
        self.cost = 0.0
        self.costs = costs


class Budget(_exit.Member):
    """Keeps spending under a ceiling: who is too dear for what is left is not shown to `policy`.

    An item's cost is predicted as the mean of what its task has cost so far on that executor;
    before that, from the price, the task's last known seconds anywhere, and the size of its
    arguments. So much is set aside while it is under way, for each attempt that its `retries`
    allow (a `tenacity.Retrying` does not tell: for one). Windows follow each other from the moment
    the budget is made; what is under way when one ends counts in the next. Spending passes the
    limit by no more than what items cost beyond their predictions. Free executors are never held
    back.

    An item that names its executor itself (`options(executor=...)`) passes any policy by: what it
    costs is booked, but not held back. Give a budget to one executor at a time.

    Args:
        policy: chooses among the rest.
        limit: the most that may be spent in one window, in the currency of the prices.
        per: "hour", "day" or seconds: how long a window is. None: the limit is for good.
        unknown_seconds: how long a call is taken to last whose task has never ended anywhere. With
            0 such calls count with their `per_call` and `per_megabyte` only, however many are sent
            before the first one is back.
        clock: tells the seconds by which windows begin and end.

    Attributes:
        names: those of `policy`.
        moves_plain: that of `policy`.
        learner: who gets the measurements of runs, if he wants them: `policy`, or the one in it.

    Raises:
        ConfigurationError: an argument has a wrong value.
    """

    def __init__(
        self,
        policy: Policy,
        limit: float,
        per: Literal["hour", "day"] | float | None = None,
        *,
        unknown_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = check_policy("Budget", policy)
        self._limit = amount("Budget", "limit", limit)
        self._per = _period(per)
        self._unknown_seconds = amount("Budget", "unknown_seconds", unknown_seconds)
        if not callable(clock):
            raise ConfigurationError(
                f"Budget(clock={clock!r}): give a function such as time.monotonic"
            )
        self._clock = clock
        self._began = clock()
        self._text = f"{policy!r}, {limit!r}" + ("" if per is None else f", per={per!r}")
        self._observe_inner = observer_of(policy)
        self.learner: Any = learner_of(policy)
        self.names: frozenset[str] = frozenset(getattr(policy, "names", ()))
        self.moves_plain: bool = bool(getattr(policy, "moves_plain", False))
        self._lock = threading.RLock()  # guards all below
        self._window = 0
        self._in_window = self._reserved = self._saved = 0.0
        self._spent: dict[str, float] = {}
        self._holds: dict[int, _Hold] = {}
        self._seconds: dict[str, float] = {}  # that a task took last
        self._costs: dict[tuple[str, str], tuple[int, float]] = {}  # of a task on an executor
        _exit.register(self)

    def after_fork(self) -> None:
        """Forget the parent's lock and items: what they cost is booked there."""
        self._lock = threading.RLock()
        self._holds = {}
        self._reserved = 0.0

    # Before an item runs.

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        """Return what the inner policy answers of those that the item can be paid for on.

        Raises:
            PlacementError: nothing that may be spent is enough for what is left to choose from.
        """
        prices = {name: price for name, each in fleet.items() if (price := each.price)}
        if not prices:
            return self._policy.route(item, fleet)  # type: ignore[no-any-return]
        times, calls = _attempts(item.options), item.calls
        size = bytes_of(item) if any(each.per_megabyte for each in prices.values()) else 0
        name = item.name
        now = self._clock()
        with self._lock:
            self._turn(now)
            costs = {each: self._predict(name, each, prices[each], size, calls) for each in prices}
            too_dear = {each for each in costs if not self._fits(costs[each] * times, item)}
        while True:
            shown = {each: fleet[each] for each in fleet if each not in too_dear}
            route: object = self._policy.route(item, shown) if shown else ()
            if type(route) is not tuple:
                return route  # type: ignore[return-value]  # no answer yet, or none at all
            kept = tuple(each for each in route if each not in too_dear)
            if not kept:
                if too_dear:
                    self._undo(item)
                    raise self._nothing_left(item, costs, times, shown)
                return kept
            with self._lock:
                dear = {
                    each
                    for each in kept
                    if each in costs and not self._fits(costs[each] * times, item)
                }
                if not dear:
                    most = max((costs[each] for each in kept if each in costs), default=0.0)
                    self._set_aside(item, most * times, most, costs)
                    break
            too_dear |= dear  # another thread was quicker
            self._undo(item)
        if item.future.done():
            self._forget(item)  # it was cancelled before anything was set aside
        return kept

    def _undo(self, item: WorkItem) -> None:
        """Have the inner policy forget an answer that nobody will heed, if it notes them."""
        left = getattr(self.learner, "left", None)
        if callable(left):
            left(item)

    def _predict(self, task: str, executor: str, price: Price, size: int, calls: int) -> float:
        count, total = self._costs.get((task, executor), (0, 0.0))
        if count:
            return total / count * calls
        return price.of(calls * self._seconds.get(task, self._unknown_seconds), size, calls)

    def _fits(self, cost: float, item: WorkItem) -> bool:
        """Say whether a cost fits into what is left. With the lock held."""
        left = self._limit - self._in_window - self._reserved
        hold = self._holds.get(item.item_id) if item.item_id is not None else None
        if hold is not None:  # it is routed anew
            left += hold.amount
        # Once all is spent, nothing goes whose cost is only not known.
        rounding = self._limit * _ROUNDING
        return rounding < left and cost <= left + rounding

    def _set_aside(
        self, item: WorkItem, total: float, attempt: float, costs: Mapping[str, float]
    ) -> None:
        if item.item_id is None:
            return  # it stands for the calls of a map, and does not run
        old = self._holds.get(item.item_id)
        self._holds[item.item_id] = hold = _Hold(total, attempt, costs)
        self._reserved += total
        if old is not None:
            self._reserved -= old.amount
            hold.cost = old.cost

    def _forget(self, item: WorkItem) -> None:
        with self._lock:
            if item.item_id is not None:
                self._free(item.item_id)

    def _nothing_left(
        self, item: WorkItem, costs: Mapping[str, float], times: int, shown: Fleet
    ) -> PlacementError:
        now = self.spending()
        ends = "" if now.ends_in is None else f"; the window ends in {now.ends_in:.0f} s"
        dear = ", ".join(f"{name} {cost * times:g}" for name, cost in costs.items())
        rest = f", and {self._policy!r} answers none of {list(shown)}" if shown else ""
        return PlacementError(
            f"{item.name!r} would cost too much for {self!r}: {dear}{rest}; of the limit of "
            f"{now.limit:g}, {now.in_window:g} are spent and {now.reserved:g} set aside for work "
            f"under way{ends}; raise the limit, wait, or let the policy answer a free executor too"
        )

    # When it has run.

    def observe(self, event: Event) -> None:
        """Book what the attempt of an `event` has cost, and set free what was set aside. Quick."""
        if event.kind in _OVER or event.kind in ("retried", "dropped"):
            now = self._clock()
            with self._lock:
                self._turn(now)
                self._book(event)
        if self._observe_inner is not None:
            self._observe_inner(event)

    def _book(self, event: Event) -> None:
        hold = self._holds.get(event.item_id)
        if event.kind == "succeeded" and event.seconds is not None:
            self._seconds[event.name] = event.seconds / event.calls
        if event.cost is not None and event.executor is not None:
            executor, cost = event.executor, event.cost
            self._in_window += cost
            self._spent[executor] = self._spent.get(executor, 0.0) + cost
            count, total = self._costs.get((event.name, executor), (0, 0.0))
            self._costs[event.name, executor] = count + event.calls, total + cost
            if hold is not None:
                hold.cost += cost
                freed = min(hold.attempt, hold.amount)
                hold.amount -= freed
                self._reserved -= freed
        if hold is None or event.kind not in _OVER:
            return
        if event.kind == "succeeded":
            others = (cost for name, cost in hold.costs.items() if name != event.executor)
            self._saved += max(0.0, max(others, default=0.0) - hold.cost)
        self._free(event.item_id)

    def _free(self, item_id: int) -> None:
        hold = self._holds.pop(item_id, None)
        if hold is not None:
            self._reserved -= hold.amount
        if not self._holds:
            self._reserved = 0.0  # exactly, whatever the sums have lost

    def _turn(self, now: float) -> None:
        """Begin a new window, if it is time to. With the lock held."""
        if self._per is not None:
            window = math.floor((now - self._began) / self._per)
            if window > self._window:
                self._window, self._in_window = window, 0.0

    def spending(self) -> Spending:
        """Return what was spent, saved and set aside so far. Does not block."""
        now = self._clock()
        with self._lock:
            self._turn(now)
            ends_in = None
            if self._per is not None:
                end = self._began + (self._window + 1) * self._per
                ends_in = max(0.0, end - now)
            return Spending(
                limit=self._limit,
                in_window=self._in_window,
                reserved=self._reserved,
                left=max(0.0, self._limit - self._in_window - self._reserved),
                ends_in=ends_in,
                spent=self._spent,
                saved=self._saved,
            )

    def __repr__(self) -> str:
        return f"Budget({self._text})"


def _attempts(options: TaskOptions) -> int:
    retries, hedges = options.retries, int(options.hedge is not None)
    if retries is None or isinstance(retries, int):
        return 1 + (retries or 0) + hedges
    return int(getattr(retries, "attempts", 1)) + hedges  # a `Retry` has them


def _period(per: object) -> float | None:
    if per is None:
        return None
    if isinstance(per, str):
        seconds = _PERIODS.get(per)
    else:
        good = isinstance(per, (int, float)) and not isinstance(per, bool) and 0 < per < math.inf
        seconds = float(per) if good else None  # type: ignore[arg-type]  # it is a number
    if seconds is None:
        raise ConfigurationError(
            f"Budget(per={per!r}): give 'hour', 'day', a number of seconds greater than 0, or None"
        )
    return seconds
