"""Router: what the placement law leaves of the fleet, and the policy's choice from it.

Owns the order of the questions: what the options say, whether the work may move, who can and may
run it, and only then the policy. Pure, but for the policy's own memory.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hybrid_compute.abc import Fleet, Policy, SubExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    PlacementError,
    PolicyError,
    UnknownExecutorError,
)
from hybrid_compute.items import WorkItem
from hybrid_compute.policy.adaptive import Adaptive
from hybrid_compute.privacy import SENSITIVE, guard_of, why_here
from hybrid_compute.tasks import NO_OPTIONS, Task, has_body

if TYPE_CHECKING:
    from hybrid_compute.privacy import Guard
    from hybrid_compute.routed import RoutedItem
    from hybrid_compute.tasks import TaskOptions

__all__ = ["Router", "as_policy"]


_ON_THREADS = ("thread",)
_MODULES = sys.modules


class Router:
    """A fleet and a policy; answers where an item is to be tried.

    Attributes:
        moves_plain: whether the policy was built to move plain callables too.
        remotes: names of the executors that leave this machine.
        asks_nobody: whether every executor takes every item, so that nothing need be asked.
    """

    def __init__(self, fleet: Fleet, policy: Policy) -> None:
        self._fleet = fleet
        self._policy = policy
        self._ask = policy.route
        self.moves_plain: bool = bool(getattr(policy, "moves_plain", False))
        self._fleet_of_held = MappingProxyType(
            {name: each for name, each in fleet.items() if not each.capabilities.blocks}
        )
        self.asks_nobody: bool = not any(
            each.capabilities.remote or type(each).can_run is not SubExecutor.can_run
            for each in fleet.values()
        )
        self.remotes: tuple[str, ...] = tuple(
            n for n, each in fleet.items() if each.capabilities.remote
        )

    def route(self, item: WorkItem, *, held: bool = False) -> tuple[tuple[str, ...] | None, Fleet]:
        """Return where to try the item, in order, and the executors to find there.

        Args:
            item: what is to be done.
            held: its submitter has gone: no executor that would run it in him is asked.

        Returns:
            None for the route if the policy cannot tell yet.

        Raises:
            PlacementError: nobody can and may run it; a policy may say so as well.
            PolicyError: the policy raised, or its answer is not a route.
            UnknownExecutorError: the options name an executor that is not in the fleet.
        """
        fn = item.fn
        if type(fn) is not Task:
            fn = item.target
        every = self.asks_nobody and not item.streams and has_body(fn)
        fleet = self._fleet if every else self._eligible(item)
        if held:
            fleet = self._without_blocking(fleet)
        route = self._choose(item, fleet)
        if route is None:
            return None, fleet
        kept = self._kept(route, fleet, item)
        if kept:
            return kept, fleet
        if held and route:  # inline, and its submitter has gone
            return self.for_want_of_an_answer(fleet), fleet
        # Perhaps there is only somebody who is away at the moment: he will say so himself.
        fleet = self._eligible(item, away_too=True)
        kept = self._kept(self._choose(item, fleet) or (), fleet, item)
        if not kept:
            raise self._nobody(route, fleet, item)
        return kept, fleet

    def _choose(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        """Return where the options say that the item is to go, or the law, or the policy."""
        if item.options.executor is not None:
            return (self.known(item.options.executor),)
        if not self._may_move(item):
            return _ON_THREADS
        try:
            route = self._ask(item, fleet)
        except Exception as error:
            self._fault(error, item)
        if route is not None and type(route) is not tuple:
            raise PolicyError(
                f"policy {self._policy!r} answered {route!r} for {item.name!r}; "
                f"a route is a tuple of executors' names"
            )
        return route

    def _fault(self, error: Exception, item: WorkItem) -> NoReturn:
        """Raise what is to become of an item whose policy has raised."""
        if isinstance(error, PlacementError):
            raise error  # no fault of the policy, but its answer
        failure = PolicyError(
            f"policy {self._policy!r} raised {error!r} for {item.name!r}; its route() has to "
            "answer for every item (this error's notes have the traceback)"
        )
        failure.add_note(traceback.format_exc())  # as text: see HybridExecutor._submit
        raise failure from error

    def _without_blocking(self, fleet: Fleet) -> Fleet:
        if fleet is self._fleet:
            return self._fleet_of_held
        return {name: each for name, each in fleet.items() if not each.capabilities.blocks}

    def for_want_of_an_answer(self, fleet: Fleet) -> tuple[str, ...]:
        """Return the route of an item for which the policy has had no answer for too long."""
        usual = tuple(name for name in ("process", "thread") if name in fleet)
        return usual or tuple(fleet)

    def guard(
        self,
        said: TaskOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
    ) -> Guard | None:
        """Return the guard of a call that has something to hide, and may leave the pool.

        Args:
            said: the options of the call.
            fn: what is called.
            args: its arguments.
            kwargs: its keywords.
            options: those of the call, completed by the task's.
        """
        if (self.remotes or SENSITIVE in _MODULES) and self.opens(said, fn):
            return guard_of(fn, args, kwargs, options)
        return None

    def opens(self, said: TaskOptions, fn: Callable[..., Any]) -> bool:
        """Say whether a Sensitive is opened for a function: any other gets what it was given."""
        return isinstance(fn, Task) or said is not NO_OPTIONS or self.moves_plain

    def audit(self, item: RoutedItem) -> None:
        """Have an item tell from which executor privacy keeps it, if it might have gone there."""
        options, out = item.options, self.remotes
        if options.executor is not None:
            out = tuple(name for name in out if name == options.executor)
        elif not self._may_move(item):
            return
        why = why_here(item) if out else None
        if why is not None:
            more = "" if len(out) == 1 else f"; kept out are {list(out)}"
            item.tell_privacy("withheld", out[0], why + more)

    def _may_move(self, item: WorkItem) -> bool:
        movable = item.options.movable
        if movable is not None:
            return movable
        return self.moves_plain or isinstance(item.target, Task)

    def known(self, name: str) -> str:
        """Return the name, if the fleet has it; else raise UnknownExecutorError."""
        if name not in self._fleet:
            raise UnknownExecutorError(
                f"executor={name!r}: the fleet has {list(self._fleet)}; "
                f"add it with HybridExecutor(executors={{{name!r}: ...}})"
            )
        return name

    def _eligible(self, item: WorkItem, *, away_too: bool = False) -> Fleet:
        """Return who may and can run an item; of services that do not answer only if `away_too`."""
        here = has_body(item.target)
        opened = item.guard is not None and item.guard.opened
        local = bool(self.remotes) and (opened or why_here(item) is not None)
        fleet = {
            name: each
            for name, each in self._fleet.items()
            if not (local and each.capabilities.remote)
            and (each.capabilities.remote or here)
            and (each.capabilities.streams or not item.streams)
            and each.can_run(item)
        }
        if away_too or item.options.executor is not None:
            return fleet
        away = [name for name in self.remotes if name in fleet and not fleet[name].is_available()]
        if len(away) < len(fleet):
            for name in away:
                del fleet[name]
        return fleet

    def _kept(self, route: tuple[str, ...], fleet: Fleet, item: WorkItem) -> tuple[str, ...]:
        """Return those names of a route that the item's fleet has."""
        for name in route:
            if name not in fleet:
                break
        else:
            return route
        for name in route:
            if name not in self._fleet:
                raise PolicyError(
                    f"policy {self._policy!r} answered {name!r} for {item.name!r}; "
                    f"the fleet has {list(self._fleet)}; answer one of these, or add it with "
                    f"HybridExecutor(executors={{{name!r}: ...}})"
                )
        return tuple(name for name in route if name in fleet)

    def _nobody(self, route: tuple[str, ...], fleet: Fleet, item: WorkItem) -> PlacementError:
        why = why_here(item) if self.remotes else None
        local = f" ({why})" if why else ""
        return PlacementError(
            f"no executor may run {item.name!r}{local}: it was to go to {list(route)}, and those "
            f"of the fleet that can and may run it are {list(fleet)}; name one of them in the "
            f"policy or in options(executor=...)" + self._why_not(route, item)
        )

    def _why_not(self, route: tuple[str, ...], item: WorkItem) -> str:
        """Say what services wanted, if the item was for them."""
        fleet = self._fleet
        remote = [each for each in route or fleet if fleet[each].capabilities.remote]
        if not remote or item.options.local_only:
            return ""
        if isinstance(item.target, Task):
            return (
                f". No task of that name is known of {remote}: GET /tasks lists those of a service"
            )
        return f". To {remote} go only tasks, which are declared with @task"


def as_policy(policy: Policy | str | None, fleet: Fleet) -> Policy:
    """Return the policy that a constructor was given, checked against the fleet."""
    if policy is None:
        return Adaptive()
    if isinstance(policy, str):
        from hybrid_compute.policy._named import named_policy  # noqa: PLC0415 - most name none

        policy = cast("Policy", named_policy(policy))
    if isinstance(policy, type) or not callable(getattr(policy, "route", None)):
        raise ConfigurationError(
            f"policy={policy!r} has no method route(item, fleet); see hybrid_compute.policy"
        )
    unknown = sorted(frozenset(getattr(policy, "names", ())) - frozenset(fleet))
    if unknown:
        raise UnknownExecutorError(
            f"policy {policy!r} names {unknown}, and the fleet has {list(fleet)}; "
            f"add it with HybridExecutor(executors={{{unknown[0]!r}: ...}})"
        )
    return policy
