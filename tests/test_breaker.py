"""The circuit breaker, asked directly: time is passed in."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hybrid_compute.breaker import Breaker, State
from hybrid_compute.errors import ConfigurationError


def opened(**settings: Any) -> Breaker:
    breaker = Breaker(most=2, **settings)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.state is State.OPEN
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(most=3)
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(0.0)
    assert breaker.state is State.CLOSED
    assert breaker.allow(0.0)
    breaker.failed(0.0)
    assert breaker.state is State.OPEN
    assert not breaker.allow(0.0)


def test_too_many_of_the_last_open_it() -> None:
    breaker = Breaker(most=100, share=0.5, window=10)
    for _ in range(4):
        breaker.failed(0.0)
        breaker.succeeded()
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    breaker.failed(0.0)
    assert breaker.state is State.OPEN


def test_successes_push_old_failures_out_of_the_window() -> None:
    breaker = Breaker(most=100, share=0.5, window=10)
    for _ in range(4):
        breaker.failed(0.0)
    for _ in range(20):
        breaker.succeeded()
    for _ in range(4):
        breaker.failed(0.0)
    assert breaker.state is State.CLOSED


def test_successes_that_are_told_of_all_at_once_count_each() -> None:
    one, many = Breaker(most=99, window=8, share=0.5), Breaker(most=99, window=8, share=0.5)
    for breaker in (one, many):
        breaker.failed(0.0)
    for _ in range(5):
        one.succeeded()
    many.succeeded(5)
    assert list(one._last) == list(many._last) == [True, *[False] * 5]
    for _ in range(3):
        one.failed(0.0)
        many.failed(0.0)
    assert one.state is many.state is State.CLOSED
    one.failed(0.0)
    many.failed(0.0)
    assert one.state is many.state


def test_after_the_pause_one_call_tries_and_no_other() -> None:
    breaker = opened(pause=1.0)
    assert breaker.refuses(0.25) == 0.75
    assert not breaker.allow(0.9)
    assert breaker.refuses(1.0) == 0.0
    assert [breaker.allow(1.0) for _ in range(3)] == [True, False, False]
    assert breaker.refuses(1.0) > 0
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    assert breaker.allow(1.0)
    assert breaker.refuses(1.0) == 0.0


def test_each_trial_that_fails_makes_the_pause_twice_as_long_up_to_a_bound() -> None:
    breaker, now = opened(pause=1.0, longest=5.0), 0.0
    for pause in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert breaker.refuses(now) == pause
        now += pause
        assert breaker.allow(now)
        breaker.failed(now)
    breaker.allow(now + 5)
    breaker.succeeded()
    breaker.failed(now)
    breaker.failed(now)
    assert breaker.refuses(now) == 1.0


def test_a_trial_of_which_nobody_knows_the_outcome_lets_another_one_try() -> None:
    breaker = opened(pause=1.0)
    assert breaker.allow(1.0)
    assert not breaker.allow(1.0)
    breaker.abandoned()
    assert breaker.allow(1.0)


def test_of_many_threads_one_makes_the_trial() -> None:
    for _ in range(50):
        breaker = opened(pause=1.0)
        barrier, tries = threading.Barrier(8), []

        def ask(breaker=breaker, barrier=barrier, tries=tries) -> None:
            barrier.wait()
            tries.append(breaker.allow(1.0))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(tries) == 1


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"most": 0}, "a whole number of at least 1"),
        ({"most": 1.5}, "a whole number of at least 1"),
        ({"share": 0}, "a part of 1, above 0"),
        ({"share": 2}, "a part of 1, above 0"),
        ({"share": "a"}, "a part of 1, above 0"),
        ({"window": 0}, "a whole number of at least 1"),
        ({"pause": 0}, "a number of seconds greater than 0"),
        ({"pause": "1"}, "a number of seconds greater than 0"),
        ({"pause": None, "longest": None}, "a number of seconds greater than 0"),
        ({"pause": float("inf")}, "a number of seconds greater than 0"),
        ({"longest": 0.5}, "a number of seconds of at least pause=1.0"),
        ({"longest": "9"}, "a number of seconds of at least pause=1.0"),
    ],
)
def test_a_wrong_value_is_named_with_the_remedy(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Breaker(**wrong)
    name, value = next(iter(wrong.items()))
    assert str(caught.value) == f"Breaker({name}={value!r}): give {remedy}"


class Circuit(RuleBasedStateMachine):
    """Whatever happens: at most one trial is under way, and in the end calls go through again."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(most=3, window=6, pause=1.0, longest=8.0)
        self.now = 0.0
        self.out = 0  # calls let through while it was not closed

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(outcome=st.sampled_from(["succeeded", "failed", "abandoned", "pending"]))
    def call(self, outcome: str) -> None:
        closed = self.breaker.state is State.CLOSED
        told = self.breaker.refuses(self.now)
        allowed = self.breaker.allow(self.now)
        assert allowed == (told == 0.0)
        if not allowed:
            return
        self.out += not closed
        assert self.out <= 1
        if outcome == "failed":
            self.breaker.failed(self.now)
        elif outcome != "pending":
            getattr(self.breaker, outcome)()
        if outcome != "pending":
            self.out = 0

    @rule()
    def trial_ends(self) -> None:
        if self.out:
            self.breaker.succeeded()
            self.out = 0
            assert self.breaker.state is State.CLOSED

    @invariant()
    def pauses_are_bounded(self) -> None:
        assert self.breaker.refuses(self.now) <= 8.0


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(max_examples=100, stateful_step_count=30)
