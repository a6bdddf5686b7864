"""Nearest, asked directly: which remote comes first, and for how long."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.abc import Fleet
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy import Nearest, Policy
from tests.policy.places import Guarded, Place, make_item


def fleet(**ways: float | None) -> dict[str, Place]:
    remotes = {name: Place(name, latency=way, remote=True) for name, way in ways.items()}
    return {"thread": Place("thread"), "process": Place("process"), **remotes}


def firsts(policy: Policy, fleet: Fleet, keys: list[str | None]) -> list[str]:
    return [policy.route(make_item(key=key), fleet)[0] for key in keys]


@pytest.mark.parametrize(
    ("names", "ways", "route"),
    [
        ((), {"eu": 0.03, "us": 0.1}, ("eu", "us")),
        ((), {"us": 0.1, "eu": 0.03, "asia": 0.2}, ("eu", "us", "asia")),
        ((), {}, ()),
        (("us", "asia"), {"us": 0.1, "eu": 0.03, "asia": 0.2}, ("us", "asia")),
        (
            ("process", "us", "eu", "thread"),
            {"us": 0.1, "eu": 0.03},
            ("eu", "us", "process", "thread"),
        ),
        (("us", "thread"), {}, ("thread",)),
        (("us",), {}, ()),
    ],
)
def test_remotes_come_by_their_distance_and_named_others_behind_them(
    names: tuple[str, ...], ways: dict[str, float | None], route: tuple[str, ...]
) -> None:
    assert Nearest(*names).route(make_item(), fleet(**ways)) == route


def test_unknown_ones_are_tried_first_once_each() -> None:
    policy, away = Nearest(), fleet(a=None, b=0.01, c=None)
    assert policy.route(make_item(), away) == ("a", "b", "c")
    assert policy.route(make_item(), away) == ("c", "b", "a")
    assert policy.route(make_item(), away) == ("b", "a", "c")


def test_with_nothing_known_and_all_tried_the_first_is_taken() -> None:
    assert firsts(Nearest(), fleet(a=None, b=None), [None] * 4) == ["a", "b", "a", "a"]


def test_one_that_became_known_takes_its_place() -> None:
    policy, away = Nearest(), fleet(a=None, b=0.01)
    assert firsts(policy, away, [None, None]) == ["a", "b"]
    away["a"].now_latency = 0.002
    assert policy.route(make_item(), away) == ("a", "b")


@pytest.mark.parametrize(
    ("was", "now", "changes"),
    [
        (0.100, 0.095, False),
        (0.100, 0.081, False),
        (0.100, 0.079, True),
        (0.0010, 0.0006, False),  # much nearer by share, and next to nothing in seconds
        (0.0010, 0.0004, True),
    ],
)
def test_the_nearest_changes_only_by_a_margin(was: float, now: float, changes: bool) -> None:
    policy, away = Nearest(), fleet(a=was, b=was + 1)
    assert firsts(policy, away, [None]) == ["a"]
    away["b"].now_latency = now
    assert firsts(policy, away, [None]) == ["b" if changes else "a"]


@given(st.lists(st.tuples(st.floats(0.09, 0.11), st.floats(0.09, 0.11)), min_size=1))
def test_it_does_not_flap_between_two_that_differ_by_noise(ways: list[tuple[float, float]]) -> None:
    policy, away = Nearest(), fleet(a=0.1, b=0.1)
    seen = set()
    for away["a"].now_latency, away["b"].now_latency in ways:
        seen.update(firsts(policy, away, [None]))
    assert len(seen) == 1


def test_an_item_that_cannot_go_to_the_nearest_does_not_change_it() -> None:
    policy, away = Nearest(), fleet(a=0.1, b=0.105)
    assert firsts(policy, away, [None]) == ["a"]
    assert firsts(policy, {"b": away["b"]}, [None]) == ["b"]
    assert firsts(policy, away, [None]) == ["a"]


def test_a_key_stays_where_it_was_although_another_became_nearer() -> None:
    policy, away = Nearest(sticky=True), fleet(a=0.1, b=0.2)
    assert firsts(policy, away, ["ann", None]) == ["a", "a"]
    away["b"].now_latency = 0.01
    assert firsts(policy, away, ["ann", None, "bob", "ann"]) == ["a", "b", "b", "a"]


def test_keys_count_for_nothing_unless_asked() -> None:
    policy, away = Nearest(), fleet(a=0.1, b=0.2)
    assert firsts(policy, away, ["ann"]) == ["a"]
    away["b"].now_latency = 0.01
    assert firsts(policy, away, ["ann"]) == ["b"]


def test_a_key_moves_while_its_home_is_out_of_the_question_and_then_returns() -> None:
    policy, away = Nearest(sticky=True), fleet(a=0.1, b=0.2)
    assert firsts(policy, away, ["ann"]) == ["a"]
    assert firsts(policy, {"b": away["b"]}, ["ann"]) == ["b"]
    away["b"].now_latency = 0.01
    assert policy.route(make_item(key="ann"), away) == ("a", "b")


def test_the_oldest_of_too_many_keys_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_compute.policy.nearest._MOST_KEYS", 2)
    policy, away = Nearest(sticky=True), fleet(a=0.1, b=0.2)
    firsts(policy, away, ["ann", "bob"])
    away["b"].now_latency = 0.01
    assert firsts(policy, away, ["cid", "bob", "ann"]) == ["b", "a", "b"]
    assert len(policy._homes) == 2


def test_threads_try_each_unknown_one_once() -> None:
    policy, away = Nearest(), fleet(base=0.0, **{f"r{i}": None for i in range(8)})
    seen: list[str] = []
    barrier = threading.Barrier(2)

    def ask() -> None:
        barrier.wait()
        seen.extend(firsts(policy, away, [None] * 8))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(each for each in seen if each != "base") == [f"r{i}" for i in range(8)]


def test_where_keys_live_is_written_under_the_lock() -> None:
    policy = Nearest(sticky=True)
    policy._homes = homes = Guarded(policy._lock)
    firsts(policy, fleet(a=0.1), ["ann", "bob"])
    assert homes.changes == 2


def test_a_forked_child_has_a_lock_of_its_own() -> None:
    policy = Nearest()
    policy._lock.acquire()
    lock = policy._lock
    policy.after_fork()
    assert policy._lock is not lock


def test_it_prints_as_it_is_written() -> None:
    assert repr(Nearest()) == "Nearest()"
    assert repr(Nearest("eu", "us", sticky=True)) == "Nearest('eu', 'us', sticky=True)"
    assert Nearest("eu").names == {"eu"}
    assert not Nearest().moves_plain


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Nearest(sticky="ann"), r"Nearest\(sticky='ann'\): give True or False"),
        (lambda: Nearest(""), "Nearest: '' is no name of an executor; give a string"),
        (lambda: Nearest(move="some"), r"Nearest\(move='some'\)"),
    ],
)
def test_a_wrong_argument_is_refused(make: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()  # type: ignore[operator]
