"""Binding: what a policy is asked and told in a simulation, as `router` and `learning` do it.

Owns the items that are held since their policy answered "not yet", and the order of the questions:
what the options say, whether the work may move, who can and may run it, and only then the policy.
A policy that learns gets the measurements of simulated runs by the methods of `Adaptive` that
`hybrid_compute.learning` calls, and events if it has `observe`. Pure: it is told the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hybrid_compute.abc import Policy
from hybrid_compute.errors import PlacementError, PolicyError
from hybrid_compute.routed import RoutedItem
from hybrid_compute.simulate._jobs import Job
from hybrid_compute.simulate.fleet import SimulatedExecutor
from hybrid_compute.tasks import Task, TaskOptions

__all__ = ["Binder"]

# As in `learning`: after so long, what can be seen of first calls that run is told; after so long,
# an item is bound as it is.
_FIRST_LOOK = 0.008
_LAST_LOOK = 0.050
_MUCH = 0.003
_CLEARLY_WAITS = 0.1


class Binder:
    """Asks a policy where items go, and sends them there.

    Args:
        policy: the policy.
        fleet: the executors.
        at: has something called at a time.
        send: takes an item and the executor that gets it.
        refuse: takes an item that nobody may run.
    """

    def __init__(
        self,
        policy: Policy,
        fleet: Mapping[str, SimulatedExecutor],
        *,
        at: Callable[[float, Callable[[], None]], None],
        send: Callable[[Job, SimulatedExecutor], None],
        refuse: Callable[[Job], None],
    ) -> None:
        self._policy = policy
        self._meter: Any = policy if callable(getattr(policy, "ran_here", None)) else None
        self._moves_plain = bool(getattr(policy, "moves_plain", False))
        self._fleet = fleet
        self._at, self._send, self._refuse = at, send, refuse
        # The part of the fleet for items of some options, declared or not.
        self._eligible_for: dict[tuple[TaskOptions, bool], dict[str, SimulatedExecutor]] = {}
        self._held: dict[Any, deque[Job]] = {}  # by what the policy knows of them
        self._first: dict[int, Job] = {}  # first calls that run on threads, by their ids

    def bind(self, job: Job, now: float) -> None:
        """Send an item that was just submitted where the policy says, or hold it."""
        fleet = self._eligible(job.item)
        route = self._ask(job.item, fleet)
        if route is not None:
            self._follow(job, route, fleet, now)
            return
        belief = job.item.belief
        if belief not in self._held:
            queue = self._held[belief] = deque()
            for at in (now + _FIRST_LOOK / 2, now + _FIRST_LOOK):
                early = at < now + _FIRST_LOOK
                self._at(at, partial(self._look, belief, queue, at, early=early))
            self._at(
                now + _LAST_LOOK, partial(self._look, belief, queue, now + _LAST_LOOK, late=True)
            )
        self._held[belief].append(job)

    def _eligible(self, item: RoutedItem) -> dict[str, SimulatedExecutor]:
        key = (item.options, isinstance(item.fn, Task))
        if key not in self._eligible_for:
            local = item.options.local_only
            self._eligible_for[key] = {
                name: each
                for name, each in self._fleet.items()
                if not (local and each.record.remote) and each.can_run(item)
            }
        return self._eligible_for[key]

    def _ask(
        self, item: RoutedItem, fleet: Mapping[str, SimulatedExecutor]
    ) -> tuple[str, ...] | None:
        """Return where an item may go, by its options, by the placement law, by the policy."""
        options, policy = item.options, self._policy
        if options.executor is not None:
            return (options.executor,)
        if not (
            options.movable
            or (options.movable is None and (self._moves_plain or isinstance(item.fn, Task)))
        ):
            return ("thread",)
        try:
            route: object = policy.route(item, fleet)  # whatever somebody else's code says
        except PlacementError:
            return ()  # a policy may say so
        except Exception as error:
            raise PolicyError(f"policy {policy!r} raised {error!r} for {item.name!r}") from error
        if route is None:
            return None
        if not isinstance(route, tuple) or any(name not in self._fleet for name in route):
            raise PolicyError(
                f"policy {policy!r} answered {route!r} for {item.name!r}; a route is a tuple of "
                f"names of the fleet, which has {list(self._fleet)}"
            )
        return route

    def _follow(
        self,
        job: Job,
        route: tuple[str, ...],
        fleet: Mapping[str, SimulatedExecutor],
        now: float,
    ) -> None:
        for name in route:
            if name in fleet:
                item = job.item
                if self._meter is not None and item.belief is not None:
                    item.handed_at = now
                    self._meter.handed(item, name, self._fleet)
                self._send(job, fleet[name])
                return
        self._refuse(job)

    # Holding.

    def _rebind(self, job: Job, now: float, *, late: bool) -> bool:
        """Bind an item whose submitter has gone; False if the policy cannot tell yet."""
        whole = self._eligible(job.item)
        fleet = {name: each for name, each in whole.items() if not each.record.blocks}
        usual = [name for name in ("process", "thread") if name in fleet]
        route = self._ask(job.item, fleet)
        if route is None and not late:
            return False
        if route is None or (route and not any(name in fleet for name in route)):
            route = tuple(usual or fleet)
        self._follow(job, route, fleet, now)
        return True

    def _release(self, belief: Any, now: float, *, late: bool = False) -> None:
        queue = self._held.get(belief)
        while queue:
            job = queue.popleft()
            if not self._rebind(job, now, late=late):
                queue.appendleft(job)
                return
        self._held.pop(belief, None)

    def _look(
        self,
        belief: Any,
        queue: deque[Job],
        now: float,
        *,
        early: bool = False,
        late: bool = False,
    ) -> None:
        """Tell the policy what can be seen of first calls that still run; release if it may be."""
        if self._held.get(belief) is not queue:
            return  # nobody is held any more
        enough = late
        if self._meter is None or belief is None:
            enough = not early
        else:
            looks = [job.seen(now) for job in self._first.values() if job.item.belief is belief]
            longest, busy = max(looks, default=(0.0, 0.0))
            waits = longest >= _FIRST_LOOK * 3 / 8 and busy <= _CLEARLY_WAITS * longest
            if busy >= _MUCH or waits or (not early and longest >= _FIRST_LOOK / 2):
                enough = bool(self._meter.seen(belief, longest, busy))
            elif late:
                self._meter.seen(belief, _LAST_LOOK, None)
        if enough:
            self._release(belief, now, late=late)

    # Measuring.

    def began(self, job: Job) -> None:
        """Say that an item's own work begins."""
        belief = job.item.belief
        shares = job.executor is not None and job.executor.record.shares_memory
        if self._meter is not None and shares and belief is not None and not belief.known:
            self._first[job.record.id] = job

    def left(self, job: Job, now: float) -> None:
        """Say that an item's work is over: its outcome is known now."""
        item, executor, meter = job.item, job.executor, self._meter
        belief = item.belief
        if meter is None or belief is None or executor is None:
            return
        self._first.pop(job.record.id, None)
        news = False
        wall = job.begun + job.busy - job.working
        if executor.record.remote:
            meter.answered(
                item, now - (job.submitted if item.handed_at is None else item.handed_at)
            )
        elif executor.record.shares_memory:
            news = bool(meter.ran_here(item, now - wall, now, job.cpu, None))
        else:
            news = bool(meter.ran(belief, 1, wall, job.cpu))
        meter.left(item)
        if news:
            self._reconsider(belief, now)

    def _reconsider(self, belief: Any, now: float) -> None:
        self._release(belief, now)
        for name in self._meter.wrong_places(belief):
            executor = self._fleet.get(name)
            if executor is None:
                continue
            wrong = [job for job in executor.queue if job.item.belief is belief]
            for job in wrong:
                executor.queue.remove(job)
                self._meter.left(job.item)
            for job in wrong:
                self._rebind(job, now, late=True)
