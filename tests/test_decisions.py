"""What a future, and an executor, tell of where work went and why."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, ProcessExecutor, ThreadExecutor, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.decisions import (
    Attempt,
    Choice,
    Decision,
    Explanation,
    explain,
    seconds_in_words,
)
from hybrid_compute.errors import ExecutorUnavailable
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.policy import Adaptive, Always, Prefer

TIMEOUT = 30.0  # seconds; only a test that fails ever waits so long


@task
def work(*_: object) -> int:
    return os.getpid()


class Refusing(ThreadExecutor):
    """Accepts nothing."""

    def execute(self, item: WorkItem) -> None:
        raise ExecutorUnavailable("closed on Mondays")


# Texts.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 us"),
        (4.2e-7, "0.42 us"),
        (1e-6, "1 us"),
        (0.00123, "1.23 ms"),
        (0.5, "500 ms"),
        (1.0, "1 s"),
        (12.345, "12.3 s"),
    ],
)
def test_times_are_told_with_three_figures_and_a_unit(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


def test_an_explanation_is_a_text_for_people() -> None:
    told = Explanation(
        rule="computes, and holds the GIL",
        candidates=(("process", 0.012), ("thread", 0.25)),
        attempts=(
            Attempt(executor="cloud", error="ExecutorUnavailable: closed"),
            Attempt(executor="process"),
        ),
        elapsed=0.015,
        wall=0.01,
        cpu=0.0099,
    )
    assert told.executor == "process"
    assert str(told).splitlines() == [
        "process: computes, and holds the GIL",
        "  predicted: process 12 ms, thread 250 ms",
        "  cloud did not do it: ExecutorUnavailable: closed",
        "  took: 15 ms, of which the work 10 ms (9.9 ms of CPU)",
    ]


def test_what_is_not_known_is_not_told() -> None:
    told = explain(Decision(Choice(rule="a rule"), 0.0))
    assert told == Explanation(rule="a rule")
    assert told.executor is None
    assert str(told) == "nowhere yet: a rule"


# Items.


def test_a_plain_callable_stays_on_the_threads() -> None:
    with HybridExecutor(1) as executor:
        future = executor.submit(os.getpid)
        assert str(future.explain()) == "thread: a plain callable stays on the thread pool"


def test_work_for_one_executor_by_itself_had_no_choice() -> None:
    with ProcessExecutor(1) as executor:
        future = executor.submit(os.getpid)
        assert future.explain() == Explanation(
            rule="the only choice", attempts=(Attempt(executor="process"),)
        )
        future.result(TIMEOUT)


@pytest.mark.parametrize("name", ["thread", "process", "lane"])
def test_a_policy_that_does_not_learn_leaves_one_choice(name: str) -> None:
    with HybridExecutor(1, max_processes=1, policy=Always(name)) as executor:
        future = executor.submit(work)
        future.result(TIMEOUT)
        assert future.explain().executor == name
        assert len(future.explain().attempts) == 1


def test_a_first_call_says_that_nothing_is_known_and_what_it_took() -> None:
    with HybridExecutor(1, max_processes=1) as executor:
        future = executor.submit(work)
        future.result(TIMEOUT)
        told = future.explain()
    assert told.executor == "lane"
    assert "first call" in told.rule
    assert told.elapsed is not None
    assert told.wall is not None
    assert told.cpu is not None
    assert told.cpu >= 0
    assert 0 < told.wall <= told.elapsed


def test_an_item_can_be_explained_before_its_end() -> None:
    gate = threading.Event()

    @task
    def wait() -> None:
        gate.wait(TIMEOUT)

    with HybridExecutor(1, max_processes=1) as executor:
        future = executor.submit(wait)
        told = future.explain()
        assert told.executor == "lane"
        assert told.elapsed is None
        assert "took" not in str(told)
        gate.set()
        future.result(TIMEOUT)
        assert future.explain().elapsed is not None


class Later:
    """Cannot tell at first."""

    def __init__(self) -> None:
        self.now = threading.Event()
        self.asked = 0

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        self.asked += 1
        if self.asked == 1:
            return None
        self.now.wait(TIMEOUT)
        return ("thread",)


def test_an_item_that_is_held_says_so_and_counts_the_time() -> None:
    policy = Later()
    with HybridExecutor(1, policy=policy) as executor:
        future = executor.submit(work)
        assert str(future.explain()) == "nowhere yet: held, until more is known of its task"
        policy.now.set()
        future.result(TIMEOUT)
        told = future.explain()
    assert told.executor == "thread"
    assert told.elapsed is not None


def test_an_item_that_was_held_tells_the_rule_that_chose_in_the_end() -> None:
    gate = threading.Event()

    @task
    def wait() -> None:
        gate.wait(TIMEOUT)

    policy = Adaptive()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        futures = [executor.submit(wait) for _ in range(3)]
        belief = policy.usual(wait)
        assert belief is not None
        policy.seen(belief, 0.01, 0.0)
        executor._learning._release(belief)
        while not futures[2].running():
            gate.wait(0.001)
        assert "mostly waits" in futures[2].explain().rule
        gate.set()


def test_an_item_that_an_executor_refused_tells_why() -> None:
    with HybridExecutor(
        1, executors={"shop": Refusing(1, name="shop")}, policy=Prefer("shop", "thread")
    ) as executor:
        future = executor.submit(work)
        future.result(TIMEOUT)
        told = future.explain()
    assert [each.executor for each in told.attempts] == ["shop", "thread"]
    assert "shop did not do it: ExecutorUnavailable: closed on Mondays" in str(told)


def test_an_item_that_nobody_took_tells_who_refused_it() -> None:
    with HybridExecutor(
        1, executors={"shop": Refusing(1, name="shop")}, policy=Prefer("shop", "inline")
    ) as executor:
        future = executor.options(executor="shop", retries=1).submit(work)
        assert isinstance(future.exception(TIMEOUT), ExecutorUnavailable)
        assert future.explain().executor == "shop"


def test_an_item_that_was_tried_again_tells_of_each_attempt() -> None:
    ran: list[int] = []

    @task(retries=2)
    def fails_twice() -> None:
        ran.append(1)
        if len(ran) < 3:
            raise ValueError(f"number {len(ran)}")

    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.submit(fails_twice)
        future.result(TIMEOUT)
    attempts = future.explain().attempts
    assert [each.executor for each in attempts] == ["thread"] * 3
    assert [each.error for each in attempts] == [
        "ValueError: number 1",
        "ValueError: number 2",
        None,
    ]


def test_a_cancelled_item_can_be_explained() -> None:
    policy = Later()
    with HybridExecutor(1, policy=policy) as executor:
        future = executor.submit(work)
        assert future.cancel()
        assert future.explain().executor is None
        policy.now.set()


def test_a_chunk_of_a_map_is_explained_as_any_item() -> None:
    with HybridExecutor(1, max_processes=1) as executor:
        item: Any = executor._item(run_batch, (work, [1, 2], False), None, work.options)
        future = executor._route(item)
        assert future.result(TIMEOUT).values == [os.getpid()] * 2
        told = future.explain()
    assert told.executor == "lane"
    assert told.wall is not None


def test_what_is_told_keeps_neither_the_error_nor_the_executor(tmp_path: Path) -> None:
    with HybridExecutor(
        1, executors={"shop": Refusing(1, name="shop")}, policy=Prefer("shop", "thread")
    ) as executor:
        future = executor.submit(work)
        future.result(TIMEOUT)
    attempt = future.explain().attempts[0]
    assert type(attempt.executor) is str
    assert type(attempt.error) is str


# Functions.


def test_an_executor_tells_what_it_believes_of_a_function() -> None:
    policy = Adaptive()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        assert executor.explain(work) == "work: nothing is known yet"
        executor.submit(work).result(TIMEOUT)
        assert "after 1 calls" in executor.explain(work) or "not known" in executor.explain(work)
        belief = policy.usual(work)
        assert belief is not None
        for _ in range(9):
            policy.ran(belief, 9, 0.9, 0.0)
        assert "mostly waits: 100 ms a call" in executor.explain(work)


def test_a_policy_that_does_not_learn_says_so() -> None:
    with HybridExecutor(1, policy=Always("thread")) as executor:
        assert executor.explain(work) == (
            "Always('thread') decides by what it is told, and learns nothing"
        )
