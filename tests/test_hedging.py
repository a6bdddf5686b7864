"""Hedging: when a second attempt is made, and where; which of the two counts; and the other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, ProcessExecutor, TaskOptions, ThreadExecutor, task
from hybrid_compute._hedge import Waits
from hybrid_compute.decision_log import DecisionLog
from hybrid_compute.errors import ConfigurationError, TaskTimeout, WorkerCrashed
from hybrid_compute.policy import Budget, Prefer, Price
from hybrid_compute.retry import RetryBudget
from hybrid_compute.testing import ManualExecutor

SOON = 0.001  # seconds: the clock of a hedge that is to strike
NEVER = 3600.0
TIMEOUT = 30.0  # seconds; only a test that fails waits so long


class Place(ManualExecutor):
    """Tells when something has come."""

    def __init__(self, name: str, **settings) -> None:
        super().__init__(name, **settings)
        self.came = threading.Event()

    def execute(self, item) -> None:
        super().execute(item)
        self.came.set()

    execute_late = execute


@pytest.fixture
def fleet():
    """Two places, of which the policy prefers the first."""
    return {"first": Place("first"), "second": Place("second")}


@pytest.fixture
def make(fleet):
    made = []

    def make(**settings):
        made.append(HybridExecutor(executors=fleet, policy=Prefer("first", "second"), **settings))
        return made[-1]

    yield make
    for each in made:
        each.shutdown(cancel_futures=True)


@task(idempotent=True)
def echo(value):
    return value


@task(idempotent=True)
def fail():
    raise ValueError("of its own")


def hedged(ex, fleet, fn=echo, *args, **options):
    """Submit a call whose second attempt has come to the second place."""
    future = ex.options(hedge=SOON, **options).submit(fn, *args)
    assert fleet["second"].came.wait(TIMEOUT)
    return future


# What it is called.


@pytest.mark.parametrize("hedge", [0.05, 1, "p95", "p50", "p99.9", "p5"])
def test_a_hedge_is_seconds_or_a_percentile(hedge):
    assert TaskOptions(hedge=hedge).hedge == hedge


@pytest.mark.parametrize(
    "hedge",
    [
        *(0, -1, True, float("inf"), float("nan"), b"p95", [0.1]),
        *("95", "p", "p0", "p100", "p9.", "p.9", "p-5", "pp5", "p1_0", "P95", "p 95"),
        "p\u0669\u0665",  # digits, elsewhere
    ],
)
def test_anything_else_is_an_error_that_says_what_to_give(hedge):
    with pytest.raises(ConfigurationError, match="'p95'") as caught:
        TaskOptions(hedge=hedge)
    assert repr(hedge) in str(caught.value)


# When, and where.


def test_a_call_that_takes_long_is_made_elsewhere_too_and_the_first_answer_wins(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    assert not future.done()
    fleet["second"].run_next()
    assert future.result(0) == 7
    assert fleet["first"].pending == ()  # taken back from the queue
    assert fleet["first"].run_all() == 0


def test_so_it_is_if_the_first_attempt_is_the_first(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    fleet["first"].run_next()
    assert future.result(0) == 7
    assert fleet["second"].pending == ()
    assert future.explain().executor == "first"


def test_a_call_that_is_answered_in_time_is_made_once(make, fleet):
    future = make().options(hedge=NEVER).submit(echo, 7)
    fleet["first"].run_next()
    assert future.result(0) == 7
    assert not fleet["second"].came.is_set()
    assert future.explain().hedge is None


def test_explain_tells_of_both_attempts_and_why_there_were_two(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    assert "no answer from 'first' after" in future.explain().hedge
    fleet["second"].run_next()
    told = future.explain()
    assert [each.executor for each in told.attempts] == ["first", "second"]
    assert "the other attempt, on 'second', was first" in told.attempts[0].error
    assert "(hedge=0.001): a second attempt on 'second'" in str(told)


def test_with_one_executor_only_another_of_its_workers_does_it():
    begun, go = threading.Event(), threading.Event()
    turns = iter(range(2))

    @task(idempotent=True, hedge=SOON, executor="thread")
    def slow_at_first():
        turn = next(turns)
        if not turn:
            begun.set()
            go.wait(TIMEOUT)
        return turn

    with HybridExecutor(2) as ex:
        future = ex.submit(slow_at_first)
        assert future.result(TIMEOUT) == 1
        assert begun.is_set()
        go.set()


def test_nobody_is_asked_who_could_only_queue_it_behind_the_first(fleet):
    events = []
    with HybridExecutor(
        executors={"first": fleet["first"]}, policy=Prefer("first"), observers=[events.append]
    ) as ex:
        future = ex.options(hedge=SOON).submit(echo, 7)
        ex._hedging.timer.join()  # it has struck, and has nothing left to do
        assert len(fleet["first"].pending) == 1
        fleet["first"].run_all()
        assert future.result(0) == 7
    assert "hedged" not in {each.kind for each in events}


def test_the_budget_bounds_the_second_attempts(make, fleet):
    ex = make(hedge_budget=RetryBudget(share=0, least=0, most=2))
    futures = [ex.options(hedge=SOON).submit(echo, number) for number in range(6)]
    ex._hedging.timer.join()
    assert len(fleet["second"].pending) == 2
    fleet["first"].run_all()
    assert [each.result(0) for each in futures] == list(range(6))


def test_a_budget_of_another_kind_is_an_error():
    with pytest.raises(ConfigurationError, match="hedge_budget=0.1 is no RetryBudget"):
        HybridExecutor(hedge_budget=0.1)


def test_a_percentile_is_that_of_the_last_calls_of_the_task_once_there_are_some():
    waits = Waits()
    for number in range(1, 20):
        waits.add("task", float(number))
    assert waits.percentile("task", 0.5) is None
    waits.add("task", 20.0)
    assert waits.percentile("task", 0.95) == 19.0
    assert waits.percentile("task", 0.5) == 10.0
    assert waits.percentile("another", 0.5) is None
    for _ in range(128):
        waits.add("task", 0.5)
    assert waits.percentile("task", 0.99) == 0.5


def test_a_percentile_is_used_when_enough_calls_were_measured(make, fleet):
    ex = make().options(hedge="p50")
    for number in range(20):
        future = ex.submit(echo, number)
        fleet["first"].run_next()
        assert future.result(0) == number
    assert not fleet["second"].came.is_set()
    future = ex.submit(echo, 20)
    assert fleet["second"].came.wait(TIMEOUT)
    fleet["second"].run_next()
    assert future.result(0) == 20
    assert "(hedge='p50')" in future.explain().hedge


# Who may not.


@pytest.mark.parametrize("how", ["submit", "map", "task"])
def test_what_is_not_idempotent_is_refused_and_does_not_run(make, fleet, how):
    @task
    def once():
        raise AssertionError

    @task(hedge=SOON)
    def told():
        raise AssertionError

    ex = make()
    with pytest.raises(ConfigurationError, match=r"is not declared idempotent.*idempotent=True"):
        if how == "submit":
            ex.options(hedge=SOON).submit(once)
        elif how == "map":
            list(ex.options(hedge=SOON).map(once, [1]))
        else:
            ex.submit(told)
    assert fleet["first"].pending == ()


def test_a_stream_is_refused(make):
    @task(idempotent=True)
    def numbers():
        yield 1

    ex = make().options(hedge=SOON)
    for submit in (ex.submit, ex.stream):
        with pytest.raises(ConfigurationError, match="a stream is not hedged"):
            submit(numbers)


def test_the_calls_of_a_map_are_hedged_one_by_one(make, fleet):
    results = make().options(hedge=SOON).map(echo, [1, 2])
    assert fleet["second"].came.wait(TIMEOUT)
    while fleet["second"].run_all() < 1:
        pass
    fleet["first"].run_all()
    assert list(results) == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_is_not_idempotent_ever_runs_twice(seed):
    chance = random.Random(seed)
    runs: Counter[int] = Counter()
    lock, pause = threading.Lock(), threading.Event()

    def body(number):
        with lock:
            runs[number] += 1
        pause.wait(number % 5 / 1000)
        if number % 7 == 0:
            raise ValueError(number)
        return number

    once, twice = task(body), task(idempotent=True)(body)
    places = {"first": ThreadExecutor(4), "second": ThreadExecutor(4)}
    with HybridExecutor(
        executors=places, policy=Prefer("first", "second"), hedge_budget=RetryBudget(1, 1e6, 1e6)
    ) as ex:
        futures = []
        for number in range(200):
            options = ex.options(hedge=SOON) if number % 2 else ex.options(retries=2)
            futures.append(options.submit(twice if number % 2 else once, number))
            if chance.random() < 0.1:
                futures[-1].cancel()
        assert not wait(futures, TIMEOUT).not_done
    again = {number for number in range(200) if runs[number] > 1}
    raised = set(range(0, 200, 7))  # which `retries` has run again
    assert {number for number in again if number % 2 == 0} <= raised
    assert again - raised  # some were hedged
    assert max(runs[number] for number in range(1, 200, 2)) == 2
    for number, future in enumerate(futures):
        if future.cancelled():
            assert not runs[number]
        elif number % 7:
            assert future.result(0) == number


# Which of them counts.


def test_what_the_work_raises_is_an_answer(make, fleet):
    future = hedged(make(), fleet, fail)
    fleet["first"].run_next()
    assert isinstance(future.exception(0), ValueError)
    assert fleet["second"].pending == ()


def died(text):
    return WorkerCrashed(text, item_name="echo", pid=1, exitcode=None, signal=9)


def test_an_attempt_that_is_lost_leaves_the_other_one(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    (item,) = fleet["first"].pending
    assert item.start()
    item.fail(died("it died"))
    fleet["first"]._queue.clear()
    assert not future.done()
    fleet["second"].run_next()
    assert future.result(0) == 7
    assert "WorkerCrashed: it died" in str(future.explain())


def test_if_both_are_lost_the_failure_tells_of_the_other(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    for place in ("first", "second"):
        (item,) = fleet[place].pending
        assert item.start()
        item.fail(died(f"{place} died"))
        fleet[place]._queue.clear()
    error = future.exception(0)
    assert str(error) == "second died"
    assert error.__notes__[0].startswith("'first' had come to this before: WorkerCrashed")


def test_an_attempt_that_has_lost_is_not_tried_again(make, fleet):
    future = hedged(make(), fleet, echo, 7, retries=5)
    (item,) = fleet["first"].pending
    assert item.start()
    fleet["second"].run_next()
    assert future.result(0) == 7
    item.raised(ValueError("in vain"))
    fleet["first"]._queue.clear()
    assert fleet["first"].pending == ()
    assert future.result(0) == 7


def test_the_first_attempt_keeps_its_retries(make, fleet):
    future = make().options(hedge=NEVER, retries=1).submit(fail)
    fleet["first"].run_next()
    assert not future.done()
    fleet["first"].run_next()
    assert isinstance(future.exception(0), ValueError)


def test_one_deadline_is_for_both(make, fleet):
    future = hedged(make(), fleet, echo, 7, timeout=60)
    (first,), (second,) = (each.pending for each in fleet.values())
    assert first.deadline == second.deadline
    first.give_up(first.time_is_up())  # as the alarm does
    assert isinstance(future.exception(0), TaskTimeout)
    assert [each.run_all() for each in fleet.values()] == [1, 0]
    assert "timeout of 60 s" in str(future.exception(0))


def test_nowhere_to_go_is_told_as_without_a_hedge():
    with HybridExecutor() as ex:
        error = ex.options(hedge=SOON, local_only=True).submit(
            task(idempotent=True, executor="process")(os.getpid)
        )
        assert error.result(TIMEOUT) != os.getpid()


# Cancelling.


def test_cancelling_before_one_has_begun_cancels_both(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    assert future.cancel()
    assert wait([future], 0).done == {future}
    assert [place.run_all() for place in fleet.values()] == [0, 0]
    with pytest.raises(CancelledError):
        future.result(0)


def test_cancelling_before_the_time_has_come_is_the_end_of_it(make, fleet):
    ex = make()
    future = ex.options(hedge=0.02).submit(echo, 7)
    assert future.cancel()
    ex._hedging.timer.join()
    assert [place.pending for place in fleet.values()] == [(), ()]


def test_what_has_begun_cannot_be_cancelled(make, fleet):
    future = hedged(make(), fleet, echo, 7)
    (item,) = fleet["second"].pending
    assert item.start()
    assert future.running()
    assert not future.cancel()
    item.succeed(7)
    fleet["second"]._queue.clear()
    assert future.result(0) == 7


def test_a_shutdown_that_cancels_cancels_both(make, fleet):
    ex = make()
    future = hedged(ex, fleet, echo, 7)
    ex.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_shutdown_does_not_wait_for_clocks_that_have_not_struck(fleet):
    with HybridExecutor(executors=fleet, policy=Prefer("first")) as ex:
        future = ex.options(hedge=NEVER).submit(echo, 7)
        fleet["first"].run_all()
        assert future.result(0) == 7
    assert "hedges" not in {each.name for each in threading.enumerate()}


def test_neither_does_the_end_of_the_interpreter():
    code = (
        "import time\n"
        "from hybrid_compute import HybridExecutor\n"
        "ex = HybridExecutor()\n"
        "f = ex.options(hedge=3600, idempotent=True).submit(time.sleep, 0.05)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT)


# In processes.


def sleep_if_first(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return os.getpid()
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    signal.pause()
    return None


def test_the_slower_call_of_a_process_is_ended(tmp_path):
    path = str(tmp_path / "first")
    slow = task(idempotent=True, hedge=0.3)(sleep_if_first)
    with HybridExecutor(
        executors={"process": ProcessExecutor(2, kill_grace=0.2)}, policy=Prefer("process")
    ) as ex:
        winner = ex.submit(slow, path).result(TIMEOUT)
        loser = int(Path(path).read_text())
        assert winner != loser
    # shutdown() would wait for it for ever
    with pytest.raises(ProcessLookupError):
        os.kill(loser, 0)


def test_cancel_running_ends_both(tmp_path):
    path = str(tmp_path / "x")
    pauses = task(idempotent=True, hedge=0.02)(signal.pause)
    hedged = threading.Event()
    observers = [lambda event: event.kind == "started" and event.attempt == 2 and hedged.set()]
    with HybridExecutor(
        executors={"process": ProcessExecutor(2, kill_grace=0.2)},
        policy=Prefer("process"),
        observers=observers,
    ) as ex:
        future = ex.submit(pauses)
        assert hedged.wait(TIMEOUT)
        assert future.cancel_running()
        assert future.cancelled()
    assert not os.path.exists(path)


# Who looks on.


def test_events_have_one_number_and_tell_of_the_second_attempt(make, fleet):
    events = []
    ex = make(observers=[events.append])
    future = hedged(ex, fleet, echo, 7)
    fleet["second"].run_next()
    assert future.result(0) == 7
    assert {each.item_id for each in events} == {1}
    assert [(each.kind, each.executor, each.attempt) for each in events] == [
        ("submitted", None, 0),
        ("routed", "first", 1),
        ("hedged", "second", 1),
        ("routed", "second", 2),
        ("started", "second", 2),
        ("succeeded", "second", 2),
        ("dropped", "first", 1),
    ]
    assert "no answer from 'first'" in events[2].reason


def test_a_decision_log_tells_of_the_attempt_that_counted(make, fleet, tmp_path):
    with DecisionLog(tmp_path / "log") as log:
        future = hedged(make(observers=[log]), fleet, echo, 7)
        fleet["first"].run_next()
        assert future.result(0) == 7
    assert '"executor":"first"' in (tmp_path / "log").read_text().splitlines()[-1].replace(" ", "")


def test_a_budget_books_what_both_have_cost():
    fleet = {"first": Place("first"), "second": Place("second")}
    budget = Budget(Prefer("first", "second"), limit=100)
    prices = {"first": Price(per_call=1), "second": Price(per_call=10)}
    with HybridExecutor(executors=fleet, policy=budget, prices=prices) as ex:
        future = hedged(ex, fleet, echo, 7)
        (item,) = fleet["first"].pending
        assert item.start()
        assert budget.spending().reserved >= 11
        fleet["second"].run_next()
        assert future.result(0) == 7
        item.succeed(7)
        fleet["first"]._queue.clear()
    assert dict(budget.spending().spent) == {"first": 1, "second": 10}
    assert budget.spending().reserved == 0
