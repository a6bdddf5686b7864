"""Retry, its budget, and the pauses between attempts."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute import HybridExecutor, Retry, ThreadExecutor, task
from hybrid_compute._timer import Timer
from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    TaskTimeout,
    WorkerStartError,
)
from hybrid_compute.policy import Always, Prefer
from hybrid_compute.retry import RetryBudget
from hybrid_compute.server.settings import Limits

TIMEOUT = 30.0


class Flaky:
    """Fails so many times, then returns how often it was called."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self._failures = failures
        self._error = error or OSError("not yet")

    def __call__(self) -> int:
        self.calls.append(threading.current_thread().name)
        if len(self.calls) <= self._failures:
            raise self._error
        return len(self.calls)


# The rule.


def test_waits_double_up_to_the_longest() -> None:
    rule = Retry(attempts=9, backoff=0.5, longest=3.0, jitter=False)
    assert [rule.delay(n, OSError()) for n in range(1, 9)] == [0.5, 1, 2, 3, 3, 3, 3, 3]
    assert rule.delay(9, OSError()) is None


@given(st.integers(1, 500), st.floats(0, 1))
def test_jitter_takes_a_part_of_the_wait(failures: int, chance: float) -> None:
    rule = Retry(attempts=1000, backoff=0.1, longest=10.0)
    whole = Retry(attempts=1000, backoff=0.1, longest=10.0, jitter=False)
    assert rule.delay(failures, OSError(), lambda: chance) == pytest.approx(
        chance * (whole.delay(failures, OSError()) or 0.0)
    )


def test_only_errors_that_it_is_for_are_tried_again() -> None:
    assert Retry(on=OSError).delay(1, ValueError()) is None
    assert Retry(on=(OSError, ValueError)).delay(1, ValueError()) is not None
    assert Retry(on=lambda error: "again" in str(error)).delay(1, ValueError("again")) is not None
    assert Retry(on=lambda error: "again" in str(error)).delay(1, ValueError("no")) is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attempts": 0}, r"attempts=0"),
        ({"attempts": True}, r"attempts=True"),
        ({"backoff": -1}, r"backoff=-1"),
        ({"backoff": float("nan")}, r"backoff=nan"),
        ({"factor": 0.5}, r"factor=0.5.*at least 1"),
        ({"longest": "1"}, r"longest='1'"),
        ({"jitter": 1}, r"jitter=1"),
        ({"on": 3}, r"on=3"),
        ({"on": (OSError, 3)}, r"on=\("),
        ({"on": ()}, r"on=\(\)\): give a type of exceptions"),
    ],
)
def test_a_wrong_value_is_named(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Retry(**wrong)


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "3", object()])
def test_retries_that_are_no_rule_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"retries=.*Retry\(\.\.\.\)"):
        task(retries=wrong)(len)


# Attempts.


@pytest.mark.parametrize("where", ["thread", "inline", "process"])
def test_an_item_is_tried_again_after_its_pause(where: str) -> None:
    rule = Retry(attempts=4, backoff=0.001)
    with HybridExecutor(1, max_processes=1, policy=Always(where)) as executor:
        if where == "process":
            # Each attempt is a call of a copy: it fails as often as there are attempts.
            future = executor.options(retries=rule).submit(task(int), "x")
            assert isinstance(future.exception(TIMEOUT), ValueError)
            assert len(future.explain().attempts) == 4
        else:
            flaky = Flaky(3)
            future = executor.options(retries=rule).submit(task(flaky))
            assert future.result(TIMEOUT) == 4
            assert [each.error for each in future.explain().attempts] == [
                *["OSError: not yet"] * 3,
                None,
            ]


def test_nobody_sleeps_in_a_worker_meanwhile() -> None:
    flaky = Flaky(1)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        late = executor.options(retries=Retry(2, backoff=0.3, jitter=False)).submit(task(flaky))
        # The only thread is free: it does other work while the first item pauses.
        assert executor.submit(threading.get_ident).result(TIMEOUT)
        assert not late.done()
        assert late.result(TIMEOUT) == 2


def test_a_pause_can_be_cancelled() -> None:
    flaky = Flaky(9)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.options(retries=Retry(9, backoff=60, jitter=False)).submit(task(flaky))
        while not flaky.calls:
            executor.submit(str).result(TIMEOUT)
        executor.submit(str).result(TIMEOUT)  # the failure is delivered by now
        assert future.cancel() is False  # it runs, as far as the stdlib knows
        assert future.cancel_running() is True
        assert future.cancelled()
    assert len(flaky.calls) == 1


def test_a_shutdown_that_cancels_ends_pauses_with_what_is_known() -> None:
    flaky = Flaky(9)
    executor = HybridExecutor(1, policy=Always("thread"))
    future = executor.options(retries=Retry(9, backoff=60, jitter=False)).submit(task(flaky))
    while not flaky.calls:
        executor.submit(str).result(TIMEOUT)
    executor.submit(str).result(TIMEOUT)
    executor.shutdown(cancel_futures=True)
    assert isinstance(future.exception(TIMEOUT), OSError)


def test_a_shutdown_waits_for_the_attempts_that_are_left() -> None:
    flaky = Flaky(2)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.options(retries=Retry(3, backoff=0.01)).submit(task(flaky))
    assert future.result(0) == 3


def test_no_attempt_begins_after_the_deadline() -> None:
    flaky = Flaky(9)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        view = executor.options(retries=Retry(9, backoff=60, jitter=False), timeout=5)
        assert isinstance(view.submit(task(flaky)).exception(TIMEOUT), OSError)
    assert len(flaky.calls) == 1


def test_a_deadline_in_the_middle_of_a_pause_is_kept() -> None:
    gate = threading.Event()

    def wait_and_fail() -> None:
        gate.wait(TIMEOUT)
        raise OSError

    with HybridExecutor(1, policy=Always("thread")) as executor:
        view = executor.options(retries=Retry(9, backoff=0.001), timeout=0.05)
        future = view.submit(task(wait_and_fail))
        assert isinstance(future.exception(TIMEOUT), TaskTimeout)
        gate.set()


def test_a_tenacity_object_is_a_rule() -> None:
    rules = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(0.001),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    with HybridExecutor(1, policy=Always("thread")) as executor:
        view = executor.options(retries=rules)
        assert view.submit(task(Flaky(2))).result(TIMEOUT) == 3
        assert isinstance(view.submit(task(Flaky(3))).exception(TIMEOUT), OSError)
        other = Flaky(1, ValueError("no"))
        assert isinstance(view.submit(task(other)).exception(TIMEOUT), ValueError)
        assert len(other.calls) == 1


def test_an_executor_by_itself_pauses_too() -> None:
    with ThreadExecutor(1) as executor:
        flaky = Flaky(2)
        declared = task(retries=Retry(3, backoff=0.001))(flaky)
        assert executor.submit(declared).result(TIMEOUT) == 3


def test_a_tenacity_object_counts_the_time_since_the_first_attempt() -> None:
    rules = tenacity.Retrying(stop=tenacity.stop_after_delay(0.5), wait=tenacity.wait_fixed(0.1))
    flaky = Flaky(10_000)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.options(retries=rules).submit(task(flaky))
        assert isinstance(future.exception(TIMEOUT), OSError)
    assert 1 < len(flaky.calls) < 10


def test_a_tenacity_object_may_stop_before_a_wait_that_would_be_too_long() -> None:
    rules = tenacity.Retrying(stop=tenacity.stop_before_delay(60), wait=tenacity.wait_fixed(3600))
    flaky = Flaky(9)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.options(retries=rules).submit(task(flaky))
        assert isinstance(future.exception(TIMEOUT), OSError)
    assert len(flaky.calls) == 1


# A rule that cannot be asked.


def missing(error: Any) -> bool:
    return bool(error.no_such_attribute)


def leaves(_: object) -> bool:
    raise SystemExit("from within a rule")


RULES = {
    "on": (Retry(3, 0, on=missing), "AttributeError"),
    "on that exits": (Retry(3, 0, on=leaves), "SystemExit"),
    "tenacity's retry": (
        tenacity.Retrying(retry=tenacity.retry_if_exception(missing)),
        "AttributeError",
    ),
    "tenacity's wait": (tenacity.Retrying(wait=missing), "AttributeError"),
    "tenacity's stop": (tenacity.Retrying(stop=missing), "AttributeError"),
    "a wait that is no number": (tenacity.Retrying(wait=lambda _: float("nan")), "nan seconds"),
    "a wait without an end": (tenacity.Retrying(wait=lambda _: float("inf")), "inf seconds"),
    "a wait that is over": (tenacity.Retrying(wait=lambda _: -1.0), "-1.0 seconds"),
}


@pytest.mark.parametrize("place", ["thread", "inline", "process"])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_cannot_be_asked_costs_attempts_and_nothing_else(rule: str, place: str) -> None:
    retries, told = RULES[rule]
    with HybridExecutor(1, max_processes=1, policy=Always(place)) as executor:
        future = executor.options(retries=retries).submit(task(fails))
        error = future.exception(TIMEOUT)
        assert type(error) is OSError
        assert "not tried again" in error.__notes__[0]
        assert told in error.__notes__[0]
        assert executor.submit(task(abs), -1).result(TIMEOUT) == 1


def fails() -> None:
    raise OSError("as ever")


# Where nobody takes it.


class Late(SubExecutor):
    """One that takes nothing, or cannot begin, so many times, and then runs things."""

    capabilities = Capabilities(shares_memory=True)
    workers = 1
    name = "late"
    alarm = None

    def __init__(self, refusals: int, *, begins: bool = False) -> None:
        self.asked = 0
        self._refusals = refusals
        self._begins = begins

    def execute(self, item: WorkItem) -> None:
        self.asked += 1
        if self.asked > self._refusals:
            item.run()
        elif self._begins:
            item.fail(WorkerStartError("no worker starts"))
        else:
            raise ExecutorUnavailable(f"away, {self.asked}")

    @property
    def _shelf(self) -> Any:  # so that it gets light items
        return self

    def look(self, now: float, due: list[Any], soon: list[Any]) -> tuple[float, float, bool]:
        return math.inf, now, False  # it runs all at once

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("retries", [2, Retry(3, 0.001)], ids=["a number", "Retry"])
@pytest.mark.parametrize("timeout", [None, 1000.0])
def test_one_that_nobody_takes_is_tried_again(
    begins: bool, retries: Any, timeout: float | None
) -> None:
    late = Late(2, begins=begins)
    work = task(retries=retries, timeout=timeout)(abs)
    with HybridExecutor(executors={"late": late}, policy=Always("late")) as executor:
        future = executor.submit(work, -7)
        assert future.result(TIMEOUT) == 7
        assert [each.executor for each in future.explain().attempts] == ["late"] * 3


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("retries", [2, Retry(3, 0.001)], ids=["a number", "Retry"])
@pytest.mark.parametrize("timeout", [None, 1000.0])
def test_an_executor_by_itself_is_asked_again_too(
    begins: bool, retries: Any, timeout: float | None
) -> None:
    late = Late(2, begins=begins)
    work = task(retries=retries, timeout=timeout)(abs)
    for _ in range(2):  # with a deadline, the first one makes a row, and the second one finds it
        late.asked = 0
        future = late.submit(work, -7)
        assert future.result(TIMEOUT) == 7
        assert [each.executor for each in future.explain().attempts] == ["late"] * 3


def test_one_that_nobody_takes_has_no_more_attempts_than_were_said() -> None:
    late = Late(99)
    with HybridExecutor(executors={"late": late}, policy=Always("late")) as executor:
        future = executor.options(retries=Retry(3, 0.001)).submit(task(str))
        assert str(future.exception(TIMEOUT)) == "away, 3"
    assert late.asked == 3


def test_without_retries_one_that_nobody_takes_fails_at_once() -> None:
    late = Late(99)
    with HybridExecutor(executors={"late": late}, policy=Always("late")) as executor:
        assert str(executor.submit(task(str)).exception(TIMEOUT)) == "away, 1"
    assert late.asked == 1


def test_where_others_may_take_it_nobody_is_asked_twice() -> None:
    late = Late(99)
    with HybridExecutor(executors={"late": late}, policy=Prefer("late", "thread")) as executor:
        future = executor.options(retries=Retry(9, 60)).submit(task(str))
        assert future.result(TIMEOUT) == ""
    assert late.asked == 1


def test_one_that_waits_for_somebody_to_take_it_can_be_cancelled() -> None:
    with HybridExecutor(executors={"late": Late(99)}, policy=Always("late")) as executor:
        future = executor.options(retries=Retry(9, 60, jitter=False)).submit(task(str))
        assert not future.running()
        assert future.cancel()


def test_what_the_work_raised_is_said_and_not_that_nobody_took_it_afterwards() -> None:
    class Leaves(Late):
        def execute(self, item: WorkItem) -> None:
            self.asked += 1
            if self.asked > 1:
                raise ExecutorUnavailable("gone")
            item.run()

    leaves = Leaves(0)
    with HybridExecutor(executors={"late": leaves}, policy=Always("late")) as executor:
        future = executor.options(retries=Retry(3, 0.001)).submit(task(fails))
        assert type(future.exception(TIMEOUT)) is OSError
    assert leaves.asked == 3


def test_what_must_not_leave_is_not_tried_again() -> None:
    class Far(Late):
        capabilities = Capabilities(remote=True)

    far = Far(0)
    with HybridExecutor(executors={"late": far}, policy=Always("late")) as executor:
        view = executor.options(executor="late", retries=Retry(9, 60, jitter=False))
        error = view.submit(task(local_only=True)(str)).exception(TIMEOUT)
    assert isinstance(error, PlacementError)
    assert far.asked == 0


def test_where_no_thread_can_be_had_for_a_pause_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def after(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Timer, "after", after)
    flaky = Flaky(2)
    with HybridExecutor(1, policy=Always("thread")) as executor:
        future = executor.options(retries=Retry(3, 60, jitter=False)).submit(task(flaky))
        assert future.result(TIMEOUT) == 3
        late = Late(2)
    with HybridExecutor(executors={"late": late}, policy=Always("late")) as executor:
        future = executor.options(retries=Retry(3, 60, jitter=False)).submit(task(abs), -3)
        assert future.result(TIMEOUT) == 3


# The budget.


def test_a_budget_is_earned_by_first_attempts_and_by_time() -> None:
    budget = RetryBudget(share=0.5, least=2.0, most=3.0)
    assert [budget.spend(0.0) for _ in range(4)] == [True, True, True, False]
    budget.earn()
    assert budget.spend(0.0) is False
    budget.earn()
    assert budget.spend(0.0) is True
    assert budget.spend(0.5) is True
    assert [budget.spend(1000.0) for _ in range(4)] == [True, True, True, False]


class Away(SubExecutor):
    """A service that fails whatever it gets."""

    capabilities = Capabilities(remote=True)
    workers = 1
    name = "away"

    def __init__(self, budget: RetryBudget) -> None:
        self.retry_budget = budget
        self.tries = 0

    def execute(self, item: WorkItem) -> None:
        self.tries += 1
        if item.start():
            item.fail(OSError("away"))

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def test_a_service_that_fails_is_not_buried_in_retries() -> None:
    away = Away(RetryBudget(share=0.0, least=0.0, most=5.0))
    with HybridExecutor(executors={"away": away}, policy=Always("away")) as executor:
        view = executor.options(retries=3)
        errors = [view.submit(task(str)).exception(TIMEOUT) for _ in range(10)]
    assert away.tries == 15
    assert "RetryBudget allows" in errors[-1].__notes__[0]  # type: ignore[union-attr]


def test_where_the_budget_is_used_up_another_executor_of_the_route_tries_again() -> None:
    away = Away(RetryBudget(share=0.0, least=0.0, most=2.0))
    fleet = {"away": away, "thread": ThreadExecutor(1)}
    with HybridExecutor(executors=fleet, policy=Prefer("away", "thread")) as executor:
        view = executor.options(retries=3)
        futures = [view.submit(task(str), n) for n in range(10)]
        assert [each.result(TIMEOUT) for each in futures] == [str(n) for n in range(10)]
    assert away.tries == 12
    earlier = [[each.executor for each in future.explain().attempts] for future in futures]
    assert earlier == [["away"] * 3 + ["thread"]] + [["away", "thread"]] * 9


@pytest.mark.parametrize("name", ["share", "least", "most"])
@pytest.mark.parametrize("wrong", [-1, "x", None, True, float("nan"), float("inf")])
def test_a_budget_of_no_number_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RetryBudget(**{name: wrong})
    assert str(caught.value) == f"RetryBudget({name}={wrong!r}): give a number of at least 0"


def nobody_has(budget: RetryBudget) -> bool:
    return not budget.spend(0.0)


class Refuses(Away):
    """One that takes nothing."""

    def execute(self, item: WorkItem) -> None:
        raise ExecutorUnavailable("no")


class NeverStarts(Away):
    """One that takes items, and then finds that it cannot begin."""

    def execute(self, item: WorkItem) -> None:
        item.fail(WorkerStartError("no worker starts"))


@pytest.mark.parametrize("kind", [Refuses, NeverStarts])
@pytest.mark.parametrize("most", [None, 100.0])
def test_the_budget_is_that_of_the_executor_that_makes_the_attempt(
    kind: type[Away], most: float | None
) -> None:
    """One that refuses pays nothing, and whoever takes the item instead of it does."""
    first = kind(RetryBudget(0.0, 0.0, most or 0.0))
    if most is None:
        first.retry_budget = None
    second = Away(RetryBudget(0.0, 0.0, 2.0))
    fleet = {"first": first, "second": second}
    with HybridExecutor(executors=fleet, policy=Prefer("first", "second")) as executor:
        view = executor.options(retries=9)
        errors = [view.submit(task(str)).exception(TIMEOUT) for _ in range(3)]
    assert all(isinstance(each, OSError) for each in errors)
    assert second.tries == 3 + 2
    assert all("'second' had as many" in each.__notes__[0] for each in errors)  # type: ignore[union-attr]
    if most is not None:
        left = first.retry_budget
        assert left is not None
        assert all(left.spend(0.0) for _ in range(100))
        assert nobody_has(left)


def test_what_is_given_back_is_no_more_than_may_be_saved_up() -> None:
    budget = RetryBudget(share=0.0, least=0.0, most=2.0)
    budget.give_back()
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    budget.give_back()
    assert budget.spend(0.0)
    assert nobody_has(budget)


def test_what_would_run_in_its_submitter_is_tried_again_on_a_thread() -> None:
    """The thread that delivers a failure is another executor's, and is not to run the work."""

    class Elsewhere(Away):
        def execute(self, item: WorkItem) -> None:
            item.start()
            threading.Thread(target=item.fail, args=(OSError("away"),), name="reader").start()

    away = Elsewhere(RetryBudget(0.0, 0.0, 0.0))
    route = Prefer("away", "inline")
    names = []
    with HybridExecutor(
        executors={"away": away}, policy=route, thread_name_prefix="pool"
    ) as executor:
        view = executor.options(retries=1)
        for _ in range(3):
            future = view.submit(task(lambda: threading.current_thread().name))
            names.append(future.result(TIMEOUT))
            assert [each.executor for each in future.explain().attempts] == ["away", "thread"]
    assert all(each.startswith("pool") for each in names)


def test_a_default_budget_tries_all_calls_of_a_lost_connection_again() -> None:
    limits = Limits()
    budget = RetryBudget()
    assert all(budget.spend(0.0) for _ in range(2 * (limits.in_flight + limits.ahead)))
    assert not budget.spend(0.0)


def test_an_executor_that_refuses_costs_no_budget() -> None:
    budget = RetryBudget(share=0.0, least=0.0, most=1.0)
    with HybridExecutor(executors={"away": Refuses(budget)}, policy=Always("away")) as executor:
        for _ in range(3):
            future = executor.options(retries=3).submit(task(str))
            assert isinstance(future.exception(TIMEOUT), ExecutorUnavailable)
    assert budget.spend(0.0) is True
