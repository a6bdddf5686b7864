"""LeastLoaded, asked directly, and in a fleet."""

from __future__ import annotations

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.errors import ConfigurationError, UnknownExecutorError
from hybrid_compute.policy import LeastLoaded, Policy
from tests.policy.places import Place, make_item


def fleet(**loads: float) -> dict[str, Place]:
    return {name: Place(name, load=load, blocks=name == "inline") for name, load in loads.items()}


@pytest.mark.parametrize(
    ("names", "loads", "route"),
    [
        ((), {"inline": 0, "thread": 2, "process": 1}, ("process", "thread")),
        ((), {"inline": 0, "thread": 0, "process": 0}, ("thread", "process")),
        ((), {"thread": 3, "process": 2, "remote": 1}, ("remote", "process", "thread")),
        ((), {"inline": 0}, ("inline",)),
        ((), {"thread": 2, "process": 1, "lane": 0}, ("process", "thread")),
        (("lane", "thread"), {"thread": 2, "lane": 0}, ("lane", "thread")),
        (("process", "thread"), {"thread": 1, "process": 1}, ("process", "thread")),
        (("process", "thread"), {"thread": 0.5, "process": 1, "gpu": 0}, ("thread", "process")),
        (("inline", "thread"), {"inline": 0, "thread": 1}, ("inline", "thread")),
        (("process", "thread"), {"thread": 9}, ("thread",)),
        (("process",), {"thread": 9}, ()),
    ],
)
def test_the_least_loaded_comes_first_and_ties_stay_in_order(
    names: tuple[str, ...], loads: dict[str, float], route: tuple[str, ...]
) -> None:
    assert LeastLoaded(*names).route(make_item(), fleet(**loads)) == route


def test_it_is_a_policy_that_prints_as_it_is_written() -> None:
    assert isinstance(LeastLoaded(), Policy)
    assert repr(LeastLoaded()) == "LeastLoaded()"
    assert repr(LeastLoaded("process", "thread")) == "LeastLoaded('process', 'thread')"


def test_it_moves_plain_callables_only_if_asked() -> None:
    assert not LeastLoaded().moves_plain
    assert LeastLoaded(move="all").moves_plain


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LeastLoaded(3), "LeastLoaded: 3 is no name of an executor; give a string"),
        (lambda: LeastLoaded(move="some"), r"LeastLoaded\(move='some'\): move is 'declared'"),
    ],
)
def test_a_wrong_argument_is_refused(make: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()  # type: ignore[operator]


def test_a_name_that_the_fleet_has_not_is_refused_when_the_executor_is_made() -> None:
    with pytest.raises(UnknownExecutorError, match=r"LeastLoaded\('gpu'\) names \['gpu'\]"):
        HybridExecutor(policy=LeastLoaded("gpu"))


def test_it_has_a_name_of_its_own() -> None:
    with HybridExecutor(1, policy="least-loaded") as executor:
        assert executor.submit(task(pow), 2, 5).result() == 32
    assert repr(executor._policy) == "LeastLoaded()"
