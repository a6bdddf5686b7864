"""Shadow: one policy decides, and another says what it would have done.

Owns the counts of how often they agree. Its one lock guards these; neither policy is asked, and
nobody is told, under it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures._base import LOGGER
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._values import Value
from hybrid_compute.abc import Fleet, Policy, WorkItem
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy._base import check_policy, learner_of, observer_of
from hybrid_compute.routed import RoutedItem

if TYPE_CHECKING:
    from hybrid_compute.events import Event

__all__ = ["Agreement", "Shadow", "ShadowReport"]


class Agreement(Value):
    """How often two policies chose the same executor for one task.

    Attributes:
        agreed: both had the same first choice.
        differed: they had not.
        undecided: the second one had no choice: an empty route, or "not yet".
        failed: the second one raised, or answered no route.
    """

    __slots__ = ("agreed", "differed", "failed", "undecided")

    agreed: int
    differed: int
    undecided: int
    failed: int

    def __init__(
        self, *, agreed: int = 0, differed: int = 0, undecided: int = 0, failed: int = 0
    ) -> None:
        self._set(agreed=agreed, differed=differed, failed=failed, undecided=undecided)


class ShadowReport(Value):
    """What a `Shadow` has counted so far.

    Attributes:
        tasks: an `Agreement` by task name.
        total: their sum.
        last_failure: what the second policy raised or answered last, as text; "" if nothing.
    """

    __slots__ = ("last_failure", "tasks", "total")

    tasks: Mapping[str, Agreement]
    total: Agreement
    last_failure: str

    def __init__(
        self, *, tasks: Mapping[str, Agreement], total: Agreement, last_failure: str
    ) -> None:
        self._set(last_failure=last_failure, tasks=MappingProxyType(dict(tasks)), total=total)

    def __hash__(self) -> int:
        return hash((self.total, self.last_failure, frozenset(self.tasks.items())))


class Shadow(_exit.Member):
    """The first policy decides; the second one only predicts, for comparing them in production.

    The second one is asked for each item that the first one has decided, and gets the same events,
    if it has `observe`. Its time is spent on every `submit`. Whatever it raises is counted, and
    never disturbs the first. What is measured of runs is for the first one only: an `Adaptive` that
    predicts goes by the `estimates` that it was given.

    Args:
        policy_a: decides.
        policy_b: predicts.
        report: called for each item on which they differ, with its name and both routes, on the
            thread that submits it; must be quick. If it raises, it is called no more.

    Attributes:
        names: what the first one may answer; HybridExecutor checks them when it is made.
        moves_plain: whether the first one routes plain callables too.
        learner: who gets the measurements of runs, if he wants them: the first, or the one in it.

    Raises:
        ConfigurationError: one of them is no policy, or `report` cannot be called.
    """

    learner: Any

    def __init__(
        self,
        policy_a: Policy,
        policy_b: Policy,
        report: Callable[[str, tuple[str, ...], tuple[str, ...]], object] | None = None,
    ) -> None:
        self._a = check_policy("Shadow(policy_a, ...)", policy_a)
        self._b = check_policy("Shadow(..., policy_b)", policy_b)
        if report is not None and not callable(report):
            raise ConfigurationError(
                f"Shadow(report={report!r}): give a function of a name and two routes, or None"
            )
        self._tell = report
        self.names: frozenset[str] = frozenset(getattr(policy_a, "names", ()))
        self.moves_plain: bool = bool(getattr(policy_a, "moves_plain", False))
        self._lock = threading.RLock()  # guards both below; re-entrant: finalizers may submit
        self._counts: dict[str, list[int]] = {}  # in the order of _KINDS
        self._last_failure = ""
        self._observe_a, self._observe_b = observer_of(policy_a), observer_of(policy_b)
        if self._observe_a or self._observe_b:  # else nobody has to make events for us
            self.observe: Callable[[Event], None] = self._observe
        self.learner, learns_b = learner_of(policy_a), learner_of(policy_b)
        self._learns_b = learns_b if callable(getattr(learns_b, "ran_here", None)) else None
        spending = getattr(policy_a, "spending", None)
        if callable(spending):
            self.spending = spending
        _exit.register(self)

    def after_fork(self) -> None:
        """Forget a lock that another thread of the parent may have held."""
        self._lock = threading.RLock()

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        """Return the first policy's answer."""
        route: tuple[str, ...] | None = self._a.route(item, fleet)
        if type(route) is tuple and route:  # else nothing was decided
            self._compare(item, fleet, route)
        return route

    def _compare(self, item: WorkItem, fleet: Fleet, route: tuple[str, ...]) -> None:
        failure = ""
        other: object = None
        try:
            other = self._predict(item, fleet)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        name = item.name
        if not failure and other is not None and type(other) is not tuple:
            failure = f"answered {other!r}, which is no route"
        if failure:
            kind = "failed"
        elif not isinstance(other, tuple) or not other:
            kind = "undecided"
        else:
            kind = "agreed" if other[0] == route[0] else "differed"
        with self._lock:
            counts = self._counts.setdefault(name, [0] * len(_KINDS))
            counts[_KINDS.index(kind)] += 1
            if failure:
                self._last_failure = failure[:200]
        tell = self._tell
        if kind == "differed" and tell is not None and isinstance(other, tuple):
            try:
                tell(name, route, other)
            except Exception:
                self._tell = None
                LOGGER.exception("report %r of %r raised, and is called no more", tell, self)

    def _predict(self, item: WorkItem, fleet: Fleet) -> object:
        if self._learns_b is None or not isinstance(item, RoutedItem):
            return self._b.route(item, fleet)
        if item.streams:
            choice = item.choice
            try:
                return self._b.route(item, fleet)
            finally:
                item.choice = choice
        # One that learns leaves notes on the items that it routes: this one is not its own.
        other = RoutedItem(item.fn or int, item.args, item.kwargs, item.options)
        other.behind = item.behind
        try:
            return self._b.route(other, fleet)
        finally:
            self._learns_b.left(other)  # it has no first call to wait for
            other.future.cancel()  # it and its future refer to each other
            other.release()

    def _observe(self, event: Event) -> None:
        if self._observe_b is not None:
            try:
                self._observe_b(event)
            except Exception as error:  # the first one has done nothing wrong: it is told on
                self._observe_b = None
                LOGGER.exception("observe of %r raised, and is told no more", self._b)
                with self._lock:
                    self._last_failure = f"observe: {type(error).__name__}: {error}"[:200]
        if self._observe_a is not None:
            self._observe_a(event)

    def report(self) -> ShadowReport:
        """Return what was counted so far. Does not block."""
        with self._lock:
            counts = {name: tuple(each) for name, each in self._counts.items()}
            failure = self._last_failure
        tasks = {
            name: Agreement(**dict(zip(_KINDS, each, strict=True))) for name, each in counts.items()
        }
        sums = map(sum, zip(*counts.values(), strict=True)) if counts else [0] * len(_KINDS)
        total = Agreement(**dict(zip(_KINDS, sums, strict=True)))
        return ShadowReport(tasks=tasks, total=total, last_failure=failure)

    def __repr__(self) -> str:
        return f"Shadow({self._a!r}, {self._b!r})"


_KINDS = ("agreed", "differed", "undecided", "failed")
