"""A policy that learns, asked directly: calls that take as long as is said, in no time at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from hybrid_compute import Task, TaskOptions
from hybrid_compute.abc import Capabilities, Fleet, SubExecutor, WorkItem
from hybrid_compute.policy import Adaptive
from hybrid_compute.quick import quick_belief
from hybrid_compute.routed import RoutedItem

HELD = "held"
TRIP = 5e-3  # seconds to a remote and back


class Idle(SubExecutor):
    """An executor that takes what it is given and never does it."""

    def __init__(self, name: str, workers: int, **capabilities: bool) -> None:
        self.name = name
        self.workers = workers
        self.capabilities = Capabilities(**capabilities)

    def execute(self, item: WorkItem) -> None:
        pass

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def fleet(*, remotes: Mapping[str, int] = MappingProxyType({})) -> Fleet:
    """Return the fleet of a HybridExecutor on two cores, with remotes of so many workers."""
    return {
        "inline": Idle("inline", 1, shares_memory=True, blocks=True),
        "thread": Idle("thread", 6, shares_memory=True),
        "process": Idle("process", 2, isolates=True, chunks=True, kills=True),
        "lane": Idle("lane", 64, shares_memory=True),
        **{name: Idle(name, workers, remote=True) for name, workers in remotes.items()},
    }


def item(fn: Callable[..., Any], *args: Any, behind: int = 0, **options: Any) -> RoutedItem:
    """Return an item as HybridExecutor makes it."""
    own = fn.options if isinstance(fn, Task) else TaskOptions()
    made = RoutedItem(fn, args, None, TaskOptions(**options).over(own) if options else own)
    made.behind = behind
    return made


class Bench:
    """An Adaptive and a fleet, whose clock goes on by what the calls take."""

    def __init__(
        self, policy: Adaptive | None = None, *, remotes: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.policy = policy or Adaptive(cores=2)
        self.fleet = fleet(remotes=remotes)
        self.now = 0.0

    def hand(self, fn: Callable[..., Any], *args: Any, **options: Any) -> tuple[RoutedItem, str]:
        """Route an item and hand it over; return it, and where it is now."""
        routed = item(fn, *args, **options)
        route = self.policy.route(routed, self.fleet)
        if route is None:
            return routed, HELD
        routed.handed_at = self.now
        if routed.belief is not None:
            self.policy.handed(routed, route[0], self.fleet)
        return routed, route[0]

    def end(
        self, routed: RoutedItem, where: str, wall: float, cpu: float, value: Any = None
    ) -> None:
        """Say that an item, which was handed over, took so long."""
        policy, belief = self.policy, routed.belief
        if belief is None:
            pass  # nothing is learned of it
        elif where == "process":
            policy.ran(belief, routed.calls, wall, cpu)
        elif self.fleet[where].capabilities.remote:
            policy.answered(routed, wall + TRIP)
        else:
            policy.ran_here(routed, self.now, self.now + wall, cpu, value)
        policy.left(routed)
        self.now += wall

    def call(
        self, fn: Task[..., Any], *args: Any, wall: float, cpu: float | None = None, **options: Any
    ) -> str:
        """Make one call that takes so long, all of it CPU unless said; return where it was."""
        quick = None if options else quick_belief(self.policy.quick, fn, args, {})
        if quick is not None:
            if quick.ran_inline(wall):
                self.policy.slow(quick, wall)
            return "inline"
        routed, where = self.hand(fn, *args, **options)
        if where != HELD:
            self.end(routed, where, wall, wall if cpu is None else cpu)
        return where

    def calls(
        self, count: int, fn: Task[..., Any], *args: Any, wall: float, cpu: float | None = None
    ) -> list[str]:
        """Make so many of them, one after the other; return where each was."""
        return [self.call(fn, *args, wall=wall, cpu=cpu) for _ in range(count)]

    def burst(self, count: int, fn: Task[..., Any], *args: Any) -> list[str]:
        """Hand so many over that none has begun before the last is there; return where they are."""
        handed = [self.hand(fn, *args) for _ in range(count)]
        for routed, _ in handed:
            self.policy.left(routed)
        return [where for _, where in handed]
