"""The contract of `transports.Transport` as a suite of checks.

Owns the two functions that people call; the rules are in `_transport_rules`, and what they need, a
transport and its other end, in `_link`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_compute.testing._checks import Check, run_all, some_of
from hybrid_compute.testing._link import Link, LinkScene, MakeLink
from hybrid_compute.testing._transport_rules import TRANSPORT_RULES

__all__ = ["Link", "check_transport", "transport_checks"]

_CHECKS: tuple[Check[MakeLink], ...] = tuple(Check.of(each, LinkScene) for each in TRANSPORT_RULES)


def transport_checks() -> tuple[Check[MakeLink], ...]:
    """Return the rules that a `Transport` must keep, each as a check.

    For `@pytest.mark.parametrize("check", transport_checks(), ids=str)` and a test that says
    `check(make)`. Neither blocks nor makes anything; any thread.
    """
    return _CHECKS


def check_transport(make: MakeLink, *, timeout: float = 10.0, skip: Sequence[str] = ()) -> None:
    """Raise if a transport breaks a rule of the contract of `transports.Transport`.

    Blocks until all rules were looked at; from any thread.

    Args:
        make: returns a new `Link` for each rule: the transport, not yet open, and its other end.
            It is called, and what it returns is closed, about fifteen times.
        timeout: seconds that nothing may take which is to happen at some time. Only what is
            broken takes that long.
        skip: names of checks to leave out.

    Raises:
        ContractBroken: names the rule, and what the transport did instead.
        ValueError: `skip` has a name that no check has.
    """
    run_all(some_of(_CHECKS, tuple(skip)), make, timeout)
