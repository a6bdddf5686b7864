"""What may happen to an item while it waits for another attempt."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import logging
import threading
import weakref
from typing import Any

import pytest
import tenacity

from hybrid_compute import HybridExecutor, Retry, ThreadExecutor, routed, task
from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem
from hybrid_compute.errors import ExecutorUnavailable, TaskTimeout
from hybrid_compute.policy import Always, Prefer
from hybrid_compute.retry import RetryBudget
from hybrid_compute.routed import RoutedItem

SOON = 60.0  # seconds; nothing here takes that long, and a hang shall be a failure of its test
LONG = Retry(9, 3600, longest=3600, jitter=False)


class Refuses(SubExecutor):
    """One that takes nothing, or nothing more after so many items."""

    capabilities = Capabilities(shares_memory=True, streams=True)
    workers = 1
    name = "refuses"

    def __init__(self, after: int = 0) -> None:
        self.asked = 0
        self._after = after

    def execute(self, item: WorkItem) -> None:
        self.asked += 1
        if self.asked > self._after:
            raise ExecutorUnavailable(f"away, {self.asked}")
        item.run()

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def refusing() -> HybridExecutor:
    return HybridExecutor(1, executors={"refuses": Refuses()}, policy=Always("refuses"))


class Argument:
    """Something of which a weak reference can tell whether it is kept."""


def ends(do: Any) -> bool:
    """Say whether a call returns, and does not hang."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(SOON / 2)
    return not thread.is_alive()


# -- cancelled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [False, True])
def test_who_waits_for_one_that_is_cancelled_is_told(streams: bool) -> None:
    def numbers() -> Any:
        yield 1

    with refusing() as executor:
        view = executor.options(retries=LONG)
        future = view.submit(task(numbers if streams else str))
        told: list[Any] = []

        def wait() -> None:
            told.extend(concurrent.futures.wait([future], SOON).done)

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert future.cancel()
        waiter.join(SOON / 2)
        assert told == [future]
        assert list(concurrent.futures.as_completed([future], 0)) == [future]


def test_one_that_is_cancelled_keeps_nothing() -> None:
    with refusing() as executor:
        argument = Argument()
        watch = weakref.ref(argument)
        future = executor.options(retries=LONG).submit(task(str), argument)
        del argument
        gc.collect()
        assert watch() is not None
        gc.disable()
        try:
            assert future.cancel()
            assert watch() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("after", [0, 1])
def test_one_that_is_cancelled_as_its_pause_ends_is_cancelled_and_told(
    after: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = RoutedItem._elsewhere
    done = threading.Event()

    def cancelled(item: Any, fleet: Any) -> Any:
        item.future.cancel()
        try:
            return elsewhere(item, fleet)
        finally:
            done.set()

    monkeypatch.setattr(RoutedItem, "_elsewhere", cancelled)
    refuses = Refuses()
    fleet = {"refuses": refuses}
    with (
        caplog.at_level(logging.ERROR),
        HybridExecutor(executors=fleet, policy=Always("refuses")) as executor,
    ):
        future = executor.options(retries=Retry(3, 0.001)).submit(task(str))
        refuses._after = 10 * after  # the next attempt is refused, or taken
        assert done.wait(SOON)
        assert concurrent.futures.wait([future], SOON).done == {future}
        assert future.cancelled()
    assert not [each for each in caplog.records if "never retrieved" not in each.message]


# -- ends and shutdowns --------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["refused", "run", "out of time"])
def test_a_callback_on_the_thread_of_a_clock_may_shut_down(last: str) -> None:
    """It is the only one that could end what such a shutdown would wait for."""

    def fails() -> None:
        raise ValueError

    never, shut = threading.Event(), threading.Event()
    refuses = Refuses(after=0 if last == "refused" else 99)
    fleet = {"refuses": refuses, "thread": ThreadExecutor(1)}
    place = "thread" if last == "out of time" else "refuses"
    executor = HybridExecutor(executors=fleet, policy=Always(place))
    if last == "out of time":
        future = executor.options(timeout=0.1).submit(task(never.wait), SOON)
        other = executor.options(timeout=0.2, retries=3).submit(task(never.wait), SOON)
    else:
        soon = Retry(2, 0.1, jitter=False)
        future = executor.options(retries=soon).submit(task(fails))
        other = executor.options(retries=Retry(2, 0.2, jitter=False)).submit(task(fails))
    future.add_done_callback(lambda _: [executor.shutdown(wait=True), shut.set()])
    assert shut.wait(SOON / 2)
    assert isinstance(other.exception(SOON), (ExecutorUnavailable, ValueError, TaskTimeout))
    never.set()
    assert ends(executor.shutdown)


def test_at_the_end_of_the_program_a_refusal_is_final() -> None:
    """Nothing waits for its time then, so that a rule without an end would never end it."""
    forever = tenacity.Retrying(wait=tenacity.wait_fixed(3600))
    with refusing() as executor:
        future = executor.options(retries=forever).submit(task(str))
        assert not future.done()
        alarm: Any = executor.__dict__["_alarm"]
        alarm.timer.flush()  # as `_exit` does it
        assert str(future.exception(SOON / 2)) == "away, 2"


def test_ctrl_c_in_the_pause_of_who_runs_his_own_work_hangs_no_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted:
        def wait(self, seconds: float) -> None:
            raise KeyboardInterrupt

    class Threading:
        Event = Interrupted
        TIMEOUT_MAX = threading.TIMEOUT_MAX

    def fails() -> None:
        raise ValueError

    executor = HybridExecutor(1, policy=Always("inline"))
    with monkeypatch.context() as patch:
        patch.setattr(routed, "threading", Threading)
        with pytest.raises(KeyboardInterrupt):
            executor.options(retries=LONG).submit(task(fails))
    assert ends(executor.shutdown)


def test_the_loser_of_a_race_does_not_pause() -> None:
    runs: list[int] = []

    def work() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError
        return "second"

    places = {"first": ThreadExecutor(1), "second": ThreadExecutor(1)}
    executor = HybridExecutor(executors=places, policy=Prefer("first", "second"))
    view = executor.options(idempotent=True, retries=LONG, hedge=0.05)
    assert view.submit(task(work)).result(SOON) == "second"
    assert ends(executor.shutdown)


def test_one_whose_time_is_up_as_its_pause_ends_is_left_alone() -> None:
    item = RoutedItem(str, (), None, task(retries=3)(str).options)
    item.go_on()  # who ends it has taken the error away, and is about to settle the future
    assert not item.future.done()


# -- what is said, and what is counted -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """An exception to which nothing can be added."""

    number: int


def fails_frozen() -> None:
    raise Frozen(1)


class Wordy(Retry):
    """Answers with what is no number."""

    def delay(self, *_: Any, **__: Any) -> Any:
        return "soon"


def missing(error: Any) -> bool:
    return bool(error.no_such_attribute)


@pytest.mark.parametrize("rule", [Retry(3, 0, on=missing), Wordy(3, 0), "an empty budget"])
def test_an_exception_that_takes_no_notes_is_delivered_all_the_same(rule: Any) -> None:
    place = Refuses(after=99)
    retries = 3 if isinstance(rule, str) else rule
    if isinstance(rule, str):
        place.retry_budget = RetryBudget(0.0, 0.0, 0.0)
    with HybridExecutor(executors={"refuses": place}, policy=Always("refuses")) as executor:
        future = executor.options(retries=retries).submit(task(fails_frozen))
        assert future.exception(SOON) == Frozen(1)


@pytest.mark.parametrize("retries", [3, Retry(4, 0.001)])
def test_what_others_take_over_is_no_attempt_of_the_one_that_refuses(retries: Any) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise ValueError

    fleet = {"refuses": Refuses(), "thread": ThreadExecutor(1)}
    with HybridExecutor(executors=fleet, policy=Prefer("refuses", "thread")) as executor:
        future = executor.options(retries=retries).submit(task(work))
        assert isinstance(future.exception(SOON), ValueError)
    assert len(runs) == 4
