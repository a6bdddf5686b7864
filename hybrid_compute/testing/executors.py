"""The contract of `abc.SubExecutor` as a suite of checks.

Owns the two functions that people call; the rules are in `_life_rules`, `_closing_rules` and
`_ability_rules`, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.testing._ability_rules import ABILITY_RULES
from hybrid_compute.testing._checks import Check, run_all, some_of
from hybrid_compute.testing._closing_rules import CLOSING_RULES
from hybrid_compute.testing._life_rules import LIFE_RULES
from hybrid_compute.testing._scene import Scene

__all__ = ["MakeExecutor", "check_executor", "executor_checks"]

MakeExecutor: TypeAlias = Callable[[], SubExecutor]

_CHECKS: tuple[Check[MakeExecutor], ...] = tuple(
    Check.of(rule, Scene) for rule in (*LIFE_RULES, *CLOSING_RULES, *ABILITY_RULES)
)


def executor_checks(capabilities: Capabilities | None = None) -> tuple[Check[MakeExecutor], ...]:
    """Return the rules that a `SubExecutor` must keep, each as a check.

    For `@pytest.mark.parametrize("check", executor_checks(), ids=str)` and a test that says
    `check(make)`. Neither blocks nor makes anything; any thread.

    Args:
        capabilities: leave out the rules that say nothing of an executor with these; None leaves
            out none. A rule that says nothing is kept.
    """
    if capabilities is None:
        return _CHECKS
    return tuple(
        each
        for each in _CHECKS
        if each.needs is None
        or bool(getattr(capabilities, each.needs.removeprefix("not ")))
        != each.needs.startswith("not ")
    )


def check_executor(make: MakeExecutor, *, timeout: float = 10.0, skip: Sequence[str] = ()) -> None:
    """Raise if an executor breaks a rule of the contract of `abc.SubExecutor`.

    Blocks until all rules were looked at; from any thread. What the executor runs are the tasks of
    `hybrid_compute.testing.work`, which need nothing but to run somewhere on this machine. For one
    that asks a service, let that serve `hybrid_compute.testing.work:TASKS`.

    Args:
        make: returns a new executor for each rule, with at most eight workers. It is called, and
            its executors are shut down, about forty times.
        timeout: seconds that nothing may take which is to happen at some time. Only what is
            broken takes that long.
        skip: names of checks to leave out.

    Raises:
        ContractBroken: names the rule, and what the executor did instead.
        ValueError: `skip` has a name that no check has.
    """
    run_all(some_of(_CHECKS, tuple(skip)), make, timeout)
