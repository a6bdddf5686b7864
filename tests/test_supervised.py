"""Supervised calls as light items: what they keep, and what becomes of them when something fails.

What the caller sees of retries and deadlines is in tests/faults and test_alarm, for light items and
for routed ones.
"""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from math import inf
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    ProcessExecutor,
    Retry,
    ThreadExecutor,
    _alarm,
    current,
    task,
)
from hybrid_compute._seats import here, known
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import ExecutorUnavailable, TaskTimeout
from hybrid_compute.items import WorkItem
from hybrid_compute.policy import Always
from hybrid_compute.retry import RetryBudget
from hybrid_compute.routed import RoutedItem
from hybrid_compute.supervised import SupervisedItem, look_through
from hybrid_compute.tasks import TaskOptions
from hybrid_compute.testing import ManualExecutor

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test
PAUSE = threading.Event()  # never set


@task(timeout=1000, retries=3, idempotent=True)
def supervised(value: Any) -> Any:
    return value


def gate(event: threading.Event) -> bool:
    return event.wait(SOON)


class Argument:
    """Something of which a weak reference can tell whether it is kept."""


class Taken(SubExecutor):
    """Keeps the items that it gets, for the test to see and to end."""

    name = "taken"
    capabilities = Capabilities(shares_memory=True)
    workers = 1
    alarm: Any = None

    def __init__(self) -> None:
        self.items: list[WorkItem] = []

    @property
    def _shelf(self) -> Any:
        return self

    def look(self, now: float, due: list[Any], soon: list[Any]) -> tuple[float, float, bool]:
        return *look_through([*self.items], now, due, soon), False

    def peek(self, seen: list[Any]) -> bool:
        return False

    def execute(self, item: WorkItem) -> None:
        self.items.append(item)
        mine = weakref.ref(self)  # a future that is kept is not to keep it
        item.future.add_done_callback(lambda _: tell_alarm(mine()))

    def load(self) -> float:
        return len(self.items)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for item in self.items:
            item.cancel()


def tell_alarm(ex: Taken | None) -> None:
    """Do as a pool does: else its thread would wait for the deadline of what is over long since."""
    alarm = None if ex is None or ex.alarm is None else ex.alarm()
    if ex is not None and alarm is not None and all(each.future.done() for each in ex.items):
        alarm.nothing_there()


def until(condition: Any) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        PAUSE.wait(0.002)


# -- which calls they are ------------------------------------------------------------------------


def test_a_supervised_call_is_a_light_item_until_it_fails() -> None:
    ex = Taken()
    future = ex.submit(supervised, 1)
    (item,) = ex.items
    assert type(item) is SupervisedItem
    assert item.start()
    item.raised(ValueError("first"))
    _, second = ex.items
    assert type(second) is RoutedItem
    assert second.future is future
    assert second.deadline == item.deadline
    second.run()
    assert future.result(SOON) == 1
    told = future.explain()
    assert [each.error for each in told.attempts] == ["ValueError: first", None]
    assert told.elapsed is not None
    assert 0 < told.elapsed < SOON


def test_each_tells_where_it_is_and_how_long_it_took() -> None:
    ex = Taken()
    for options in ({"timeout": 1000}, {"timeout": 1000}, {"retries": 3}, {"retries": 3}):
        future = ex.submit(task(**options)(abs), 1)
        assert future.explain().executor == "taken"
        PAUSE.wait(0.02)
        item = ex.items.pop()
        assert item.start()
        item.raised(ValueError())
        if ex.items:
            ex.items.pop().run()
        assert future.done()
        elapsed = future.explain().elapsed
        assert elapsed is not None
        assert 0.02 <= elapsed < SOON


@pytest.mark.parametrize(
    "options", [{"timeout": 9}, {"retries": 2}, {"retries": Retry(3), "timeout": 9}], ids=str
)
@pytest.mark.parametrize("make", [ThreadExecutor, ProcessExecutor])
def test_so_they_are_on_threads_and_in_processes(
    make: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[type[WorkItem]] = []
    execute = make.execute
    monkeypatch.setattr(
        make, "execute", lambda ex, item: [kinds.append(type(item)), execute(ex, item)]
    )
    with make(1) as ex:
        assert ex.submit(task(**options)(abs), -2).result(SOON) == 2
    assert kinds == [SupervisedItem]


def test_so_they_are_where_nobody_could_see_to_a_deadline_if_they_have_none() -> None:
    class Foreign(Taken):
        _shelf = None

    ex = Foreign()
    ex.submit(task(retries=2)(abs), 1)
    ex.submit(task(timeout=9)(abs), 1).cancel()
    assert [type(each) for each in ex.items] == [SupervisedItem, RoutedItem]
    ex.shutdown()


def test_so_are_those_of_a_hybrid_executor_that_have_one_place_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds: list[type[WorkItem]] = []
    execute = ThreadExecutor.execute
    monkeypatch.setattr(
        ThreadExecutor, "execute", lambda ex, item: [kinds.append(type(item)), execute(ex, item)]
    )
    timed = task(timeout=1000)(abs)
    with HybridExecutor(1, policy=Always("thread")) as ex:
        assert ex.submit(timed, -1).result(SOON) == 1
        assert ex.options(timeout=9).submit(abs, -2).result(SOON) == 2
    with HybridExecutor(1) as ex:
        assert ex.options(timeout=9).submit(abs, -2).result(SOON) == 2
    assert kinds == [SupervisedItem] * 3


def test_those_that_a_shutdown_has_to_wait_for_are_routed_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds: list[type[WorkItem]] = []
    execute = ThreadExecutor.execute
    monkeypatch.setattr(
        ThreadExecutor, "execute", lambda ex, item: [kinds.append(type(item)), execute(ex, item)]
    )
    with HybridExecutor(1, policy=Always("thread")) as ex:
        assert ex.submit(supervised, 1).result(SOON) == 1
        assert ex.options(retries=1).submit(abs, -2).result(SOON) == 2
    assert kinds == [RoutedItem] * 2


def test_one_on_which_the_policy_has_taken_long_has_the_time_that_is_left() -> None:
    class Slow:
        def route(self, item: WorkItem, fleet: Any) -> tuple[str, ...]:
            PAUSE.wait(0.05)
            return ("thread",)

    begun = time.monotonic()
    with HybridExecutor(1, policy=Slow()) as ex:
        deadline = ex.options(timeout=1000).submit(lambda: current().deadline).result(SOON)
    assert deadline is not None
    assert begun + 1000 <= deadline < begun + 1000.05


def test_one_that_is_recorded_is_recorded(tmp_path: Path) -> None:
    with HybridExecutor(1) as ex, ex.record(tmp_path / "log.jsonl"):
        assert ex.options(timeout=9).submit(abs, -2).result(SOON) == 2
    (line,) = [json.loads(each) for each in (tmp_path / "log.jsonl").read_text().splitlines()[1:]]
    assert line["outcome"] == "ok"


@pytest.mark.parametrize("make", [InlineExecutor, lambda: HybridExecutor(policy=Always("inline"))])
def test_who_runs_work_in_its_submitter_gets_a_routed_one(make: Any) -> None:
    with make() as ex:
        assert ex.submit(supervised, 1).result(SOON) == 1
        runs: list[int] = []

        def work() -> int:
            runs.append(1)
            if len(runs) < 3:
                raise ValueError
            return len(runs)

        assert ex.submit(task(retries=3)(work)).result(SOON) == 3


def test_who_runs_work_in_its_submitter_pauses_there_as_well() -> None:
    threads: list[threading.Thread] = []

    def work() -> int:
        threads.append(threading.current_thread())
        if len(threads) < 3:
            raise ValueError
        return len(threads)

    call = task(retries=Retry(3, backoff=0.001))(work)
    assert InlineExecutor().submit(call).result(SOON) == 3
    assert set(threads) == {threading.current_thread()}


@pytest.mark.parametrize("first", [[], [task(retries=1)(abs)]], ids=["at once", "after another"])
def test_the_first_deadline_of_all_counts_for_what_its_work_submits(
    first: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "deadlines", False)  # as if the process had just begun
    with ThreadExecutor(2) as ex:
        for each in first:
            assert ex.submit(each, -1).result(SOON) == 1
        inner: list[Any] = []

        def outer() -> float | None:
            inner.append(ex.submit(lambda: current().deadline))
            return current().deadline

        deadline = ex.submit(task(timeout=1000)(outer)).result(SOON)
        assert deadline is not None
        assert inner[0].result(SOON) == deadline


@pytest.mark.parametrize("kills", [True, False])
def test_so_it_does_where_somebody_else_sees_to_it(
    kills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Taken):
        capabilities = Capabilities(shares_memory=True, kills=kills)
        _keeps_time = not kills
        _shelf = None

    monkeypatch.setattr(known, "deadlines", False)
    ex = Other()
    inner: list[Any] = []
    ex.submit(task(timeout=1000)(lambda: inner.append(ex.submit(abs, 1))))
    outer = ex.items.pop()
    assert type(outer) is SupervisedItem
    outer.run()
    assert [each.deadline for each in ex.items] == [outer.deadline]
    assert ex.items.pop().future.cancel()


def test_what_a_call_with_a_deadline_submits_has_no_more_time_than_is_left_of_it() -> None:
    with ThreadExecutor(2) as ex:
        inner: list[Any] = []

        def outer() -> float | None:
            inner.append(ex.submit(task(timeout=2000)(lambda: current().deadline)))
            return current().deadline

        deadline = ex.submit(task(timeout=1000)(outer)).result(SOON)
        assert deadline is not None
        assert inner[0].result(SOON) == deadline


@pytest.mark.parametrize("work", [int, lambda: 1 // 0])
def test_its_thread_has_no_deadline_any_more_behind_it(work: Any) -> None:
    with ThreadExecutor(1) as ex:
        ex.submit(task(timeout=1000)(work)).exception(SOON)
        assert ex.submit(lambda: here.limit.deadline).result(SOON) is None


@pytest.mark.parametrize("work", [int, lambda: 1 // 0])
def test_a_thread_that_had_a_deadline_before_has_it_again(work: Any) -> None:
    ex = Taken()
    ex.submit(task(timeout=1000)(work))
    here.limit.deadline = 1.0
    try:
        ex.items.pop().run()
        assert here.limit.deadline == 1.0
    finally:
        here.limit.deadline = None


@pytest.mark.parametrize("work", [int, lambda: 1 // 0])
def test_a_callback_of_it_has_not_its_deadline(work: Any) -> None:
    ex, seen = Taken(), []
    future = ex.submit(task(timeout=1000)(work))
    future.add_done_callback(lambda _: seen.append(here.limit.deadline))
    ex.items.pop().run()
    assert seen == [None]


def test_one_without_a_deadline_needs_no_thread() -> None:
    ex = Taken()
    for _ in range(2):  # by either way of submitting
        ex.submit(task(retries=1)(abs), 1)
    assert ex._alarm.thread is None  # type: ignore[union-attr]
    assert not ex._alarm.came  # type: ignore[union-attr]
    ex.shutdown()


def test_one_that_has_to_be_another_after_all_keeps_its_deadline() -> None:
    item = SupervisedItem(int, (), None, TaskOptions(timeout=1000), None)
    assert RoutedItem.in_place_of(item).deadline == item.deadline


# -- attempts ------------------------------------------------------------------------------------


def test_the_next_attempts_are_counted_and_bounded_as_ever() -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(current().attempt)
        raise ValueError(len(runs))

    with ThreadExecutor(1) as ex:
        future = ex.submit(task(retries=2)(work))
        assert str(future.exception(SOON)) == "3"
        assert len(future.explain().attempts) == 3
    assert runs == [1, 2, 3]


def test_an_executor_that_does_not_take_it_fails_it_without_a_start() -> None:
    class Away(Taken):
        def execute(self, item: WorkItem) -> None:
            raise ExecutorUnavailable("away")

    ex = Away()
    for _ in range(2):  # the first one makes the alarm, and the second one finds it
        future = ex.submit(supervised, 1)
        assert str(future.exception(SOON)) == "away"
    until(lambda: ex._alarm.thread is None)  # type: ignore[union-attr]


def test_the_error_with_which_it_is_refused_leads_nowhere() -> None:
    class Away(Taken):
        def execute(self, item: WorkItem) -> None:
            raise ExecutorUnavailable("away")

    ex = Away()
    for _ in range(2):
        error = ex.submit(task(timeout=1000)(abs), 1).exception(SOON)
        assert isinstance(error, ExecutorUnavailable)
        assert error.__traceback__ is None  # it would lead to the item, and that to the error


def test_one_that_is_refused_has_earned_its_retry() -> None:
    class Coy(Taken):
        asked = 0

        def execute(self, item: WorkItem) -> None:
            self.asked += 1
            if self.asked % 2:
                raise ExecutorUnavailable("not yet")
            item.run()

    ex = Coy()
    ex.retry_budget = budget = RetryBudget(share=1.0, least=0.0, most=1.0)
    assert budget.spend(0.0)
    for _ in range(2):
        assert ex.submit(task(retries=1)(abs), -1).result(SOON) == 1


def test_one_that_raises_something_else_has_its_say_and_keeps_nothing() -> None:
    class Broken(Taken):
        def execute(self, item: WorkItem) -> None:
            super().execute(item)
            raise RuntimeError("shut down")

    ex = Broken()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shut down"):
            ex.submit(supervised, 1)
    assert [each.future.cancelled() for each in ex.items] == [True, True]
    until(lambda: ex._alarm.thread is None)  # type: ignore[union-attr]


@pytest.mark.parametrize("first", [None, supervised], ids=["the first one", "one more"])
def test_first_attempts_earn_retries(first: Any) -> None:
    ex = Taken()
    if first is not None:
        ex.submit(first, 1)
    ex.retry_budget = budget = RetryBudget(share=0.5, least=0.0, most=1.0)
    assert budget.spend(0.0)
    ex.submit(supervised, 1)
    assert not budget.spend(0.0)
    ex.submit(supervised, 1)
    assert budget.spend(0.0)
    ex.shutdown()


def test_a_cancelled_one_keeps_nothing_and_is_not_tried() -> None:
    ex = Taken()
    argument = Argument()
    future = ex.submit(supervised, argument)
    (item,) = ex.items
    assert future.cancel()
    alive = weakref.ref(argument)
    del argument
    gc.collect()
    assert alive() is None
    item.fail(ValueError())  # whoever has it still may say what he wants
    item.succeed(1)
    item.run()
    assert len(ex.items) == 1
    assert wait([future], SOON).done
    with pytest.raises(CancelledError):
        future.result(SOON)


def test_one_that_is_cancelled_after_it_was_replaced_keeps_nothing() -> None:
    ex = Taken()
    argument = Argument()
    future = ex.submit(supervised, argument)
    (item,) = ex.items
    item.fail(RuntimeError("it has not started"))
    assert len(ex.items) == 2
    assert future.cancel()
    alive = weakref.ref(argument)
    del argument, item, ex.items[0]
    gc.collect()
    assert alive() is None


def test_one_that_is_cancelled_while_it_is_replaced_stays_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ex = Taken()
    future = ex.submit(task(retries=3)(abs), 1)
    (item,) = ex.items
    init = RoutedItem.__init__

    def cancelled(self: RoutedItem, *given: Any) -> None:
        assert future.cancel()
        init(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RoutedItem, "__init__", cancelled)
        item.fail(ValueError())
    assert future.cancelled()
    assert future._item is None
    assert len(ex.items) == 1


def test_one_that_fails_as_it_is_cancelled_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ex = Taken()
    future = ex.submit(supervised, 1)
    release = SupervisedItem.release

    def late(item: SupervisedItem) -> None:
        assert future.cancelled()
        assert not item.claim()
        item.fail(ValueError())  # it is cancelled, and does not know it yet
        release(item)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedItem, "release", late)
        assert future.cancel()
    assert future._item is None
    assert len(ex.items) == 1


def test_one_that_the_alarm_takes_while_it_is_replaced_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ex = Taken()
    future = ex.submit(supervised, 1)
    (item,) = ex.items
    assert item.start()
    init, claimed = RoutedItem.__init__, []

    def meanwhile(self: RoutedItem, *given: Any) -> None:
        claimed.append(item.claim())  # type: ignore[attr-defined]
        init(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RoutedItem, "__init__", meanwhile)
        item.raised(ValueError())
    assert claimed == [True]
    assert len(ex.items) == 1
    item.give_up(TimeoutError())
    assert future._item is None


@pytest.mark.parametrize("first", ["the alarm", "who replaces it"])
def test_who_takes_it_does_so_with_its_lock(first: str) -> None:
    """The other one waits until the lock is free, and then sees that he is too late."""
    ex = Taken()
    ex.submit(supervised, 1)
    (item,) = ex.items
    assert isinstance(item, SupervisedItem)
    assert item.start()
    claimed: list[bool] = []

    def claim() -> None:
        claimed.append(item.claim())

    def replace() -> None:
        item.raised(ValueError())

    now, later = (claim, replace) if first == "the alarm" else (replace, claim)
    other = threading.Thread(target=later)
    with item.future._lock:
        other.start()
        PAUSE.wait(0.02)
        now()
    other.join(SOON)
    assert claimed == [first == "the alarm"]
    assert len(ex.items) == 1 + (first != "the alarm")
    item.give_up(TimeoutError())
    ex.shutdown()


def test_one_that_the_alarm_has_taken_is_not_replaced() -> None:
    ex = Taken()
    future = ex.submit(supervised, 1)
    (item,) = ex.items
    assert item.start()
    assert item.claim()
    assert not item.claim()
    item.raised(ValueError())  # else the alarm would not know of the thread that the next is on
    assert len(ex.items) == 1
    item.give_up(TimeoutError())
    assert isinstance(future.exception(SOON), TimeoutError)


def fail_then_wait(folder: Path) -> int:
    """Fail once it is told to, the first time; take for ever the second time."""
    before = len(list(folder.glob("run*")))
    (folder / f"run{before}").touch()
    while not (folder / "go").exists() or before:
        time.sleep(0.01)
    (folder / "failed").touch()
    raise ValueError


def test_who_cancels_a_running_one_ends_the_attempt_that_has_taken_its_place(
    tmp_path: Path,
) -> None:
    with ProcessExecutor(2) as ex:
        future = ex.submit(task(retries=3)(fail_then_wait), tmp_path)
        until((tmp_path / "run0").exists)
        busy, ready = threading.Event(), threading.Event()
        # The reader is in a callback when it is asked, and finds the failure before the request.
        other = ex.submit(time.sleep, 0.05)
        other.add_done_callback(lambda _: (busy.set(), ready.wait(SOON)))
        assert busy.wait(SOON)
        cancelled: list[bool] = []
        asking = threading.Thread(target=lambda: cancelled.append(future.cancel_running()))
        asking.start()
        (tmp_path / "go").touch()
        until((tmp_path / "failed").exists)
        until(lambda: ex._pool.requests)
        PAUSE.wait(0.05)  # the answer is on its way
        ready.set()
        asking.join(SOON)
        assert cancelled == [True]
        assert future.cancelled()
        assert len(list(tmp_path.glob("run*"))) <= 2


@pytest.mark.parametrize("end", ["succeed", "give_up", "end", "fail", "raised", "run"])
def test_whoever_keeps_one_that_is_over_keeps_no_executor(end: str) -> None:
    ex = Taken()
    ex.submit(task(timeout=1000)(abs), 1)
    item = ex.items.pop()
    if end == "run":
        item.run()
    else:
        assert item.start()
        getattr(item, end)(*([] if end == "end" else [ValueError()]))
    assert item.future.done()
    alive = weakref.ref(ex)
    del ex
    gc.collect()
    assert alive() is None


def test_the_error_of_one_keeps_its_arguments_only_as_long_as_it_is_kept() -> None:
    def work(_: Argument) -> None:
        raise ValueError

    ex, argument = Taken(), Argument()
    future = ex.submit(task(timeout=1000)(work), argument)
    alive = weakref.ref(argument)
    ex.items.pop().run()
    assert isinstance(future.exception(SOON), ValueError)
    del argument
    gc.disable()
    try:
        del future
        assert alive() is None  # it stands in no circle that the collector has to find
    finally:
        gc.enable()


# -- deadlines -----------------------------------------------------------------------------------


def test_what_comes_after_its_time_changes_nothing() -> None:
    ex = Taken()
    future = ex.submit(task(timeout=0.02, retries=5)(abs), 1)
    (item,) = ex.items
    assert item.start()
    assert isinstance(future.exception(SOON), TaskTimeout)
    item.succeed(1)
    item.raised(ValueError())
    item.give_up(ValueError())
    item.end()
    assert isinstance(future.exception(SOON), TaskTimeout)
    assert len(ex.items) == 1


def test_its_deadline_counts_for_the_item_that_takes_its_place() -> None:
    ex = Taken()
    begun = time.monotonic()
    future = ex.submit(task(timeout=0.1, retries=5)(abs), 1)
    assert ex.items[0].start()
    ex.items[0].raised(ValueError())
    assert isinstance(future.exception(SOON), TaskTimeout)
    assert time.monotonic() - begun >= 0.1
    assert len(future.explain().attempts) == 2


def test_the_alarm_wakes_for_each_whatever_their_order() -> None:
    ex = Taken()
    seconds = (0.3, 0.05, 0.2, 0.1, 0.05)
    took: list[tuple[float, float]] = []
    begun = time.monotonic()
    futures = [ex.submit(task(timeout=each)(abs), 1) for each in seconds]
    for future, each in zip(futures, seconds, strict=True):
        future.add_done_callback(lambda _, each=each: took.append((each, time.monotonic() - begun)))
    assert not wait(futures, SOON).not_done
    until(lambda: len(took) == len(seconds))
    assert [each for each, _ in took] == sorted(seconds)
    assert all(late >= each for each, late in took)


def test_of_several_that_are_late_the_first_one_fails_first() -> None:
    ex, order = Taken(), []
    ex.submit(task(timeout=1000)(abs), 1)
    alarm: Any = ex._alarm
    with alarm._lock:  # it does not look meanwhile
        for late in (1, 3, 2):
            future = ex.submit(task(timeout=0.001)(abs), 1)
            future.add_done_callback(lambda _, late=late: order.append(late))
            ex.items[-1].deadline -= late  # type: ignore[operator]
    until(lambda: len(order) == 3)
    ex.shutdown()
    assert order == [3, 2, 1]


def test_one_that_comes_while_the_alarm_looks_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    ex, futures, looked = Taken(), [], threading.Event()
    call = task(timeout=0.02)(abs)

    def submit() -> None:
        futures.append(ex.submit(call, 1))

    def look(self: Taken, now: float, *lists: Any) -> Any:
        items = len(self.items)
        found = *look_through([*self.items], now, *lists), False
        if found[0] < inf and not looked.is_set():
            looked.set()  # it has looked through all, and seen the one that has much time
            threading.Thread(target=submit).start()
            until(lambda: len(self.items) > items)
        return found

    monkeypatch.setattr(Taken, "look", look)
    far = ex.submit(task(timeout=1000)(abs), 1)
    assert looked.wait(SOON)
    until(lambda: futures)
    assert isinstance(futures[0].exception(SOON / 2), TaskTimeout)
    assert far.cancel()
    ex._alarm.nothing_there()  # as a pool says that has done all


def test_one_that_is_handed_over_slowly_is_not_late() -> None:
    """The alarm may look, and wait for long, before it is where the alarm looks."""

    class Slow(Taken):
        def execute(self, item: WorkItem) -> None:
            alarm: Any = self._alarm
            until(lambda: alarm.until > time.monotonic() + 500 or alarm.thread is None)
            super().execute(item)

    ex = Slow()
    assert isinstance(ex.submit(task(timeout=0.02)(abs), 1).exception(SOON / 2), TaskTimeout)
    far = ex.submit(task(timeout=1000)(abs), 1)
    assert isinstance(ex.submit(task(timeout=0.02)(abs), 1).exception(SOON / 2), TaskTimeout)
    assert far.cancel()
    ex._alarm.nothing_there()  # as a pool says that has done all


def test_it_takes_the_short_way_only_once_the_alarm_looks_where_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ex, seen, look_through = Taken(), [], _alarm.Alarm.look_through

    def looks(alarm: _alarm.Alarm, shelf: Any) -> None:
        seen.append(ex._watching)  # another thread may submit at this moment
        look_through(alarm, shelf)

    monkeypatch.setattr(_alarm.Alarm, "look_through", looks)
    ex.submit(supervised, 1)
    assert seen == [None]
    ex.shutdown()


def test_with_many_different_times_each_is_kept() -> None:
    ex = Taken()
    futures = [ex.submit(task(timeout=0.05 + number / 5_000)(abs), 1) for number in range(200)]
    for future in futures:
        assert isinstance(future.exception(SOON), TaskTimeout)
    with HybridExecutor(1, policy=Always("thread")) as hybrid:
        for number in range(200):
            call = hybrid.options(timeout=100 + number)
            assert call.submit(abs, -number).result(SOON) == number


def test_the_alarm_keeps_none_alive_that_is_over() -> None:
    event, others = threading.Event(), threading.Event()
    with ThreadExecutor(2) as ex:
        future = ex.submit(task(timeout=1000)(gate), event)
        behind = ex.submit(task(timeout=1000)(gate), others)
        until(lambda: ex._alarm.until > time.monotonic() + 500)  # type: ignore[union-attr]
        alive = weakref.ref(future)
        event.set()
        assert future.result(SOON)
        del future
        until(lambda: gc.collect() >= 0 and alive() is None)
        others.set()
        assert behind.result(SOON)


def test_nor_does_it_keep_what_was_late() -> None:
    ex, argument = Taken(), Argument()
    far = ex.submit(task(timeout=1000)(abs), 1)
    future = ex.submit(task(timeout=0.02)(abs), argument)
    assert isinstance(future.exception(SOON), TaskTimeout)
    alive = weakref.ref(argument)
    del future, argument, ex.items[1]
    until(lambda: gc.collect() >= 0 and alive() is None)
    assert far.cancel()


def test_nor_an_executor_that_was_dropped_as_it_waits() -> None:
    ex = Taken()
    ex.submit(task(timeout=1000)(abs), 1)
    alarm: Any = ex._alarm
    until(lambda: time.monotonic() + 500 < alarm.until < inf)  # inf: it looks just now
    alive = weakref.ref(ex)
    del ex
    gc.collect()
    assert alive() is None
    alarm.nothing_there()
    until(lambda: alarm.thread is None)


def test_one_whose_time_is_up_at_this_very_moment_is_due() -> None:
    ex = Taken()
    ex.submit(task(timeout=1000)(abs), 1)
    (item,) = ex.items
    due: list[Any] = []
    assert item.deadline is not None
    assert look_through([*ex.items], item.deadline, due, [])[0] == inf
    assert due == [item]
    item.give_up(TimeoutError())
    ex._alarm.nothing_there()


def test_those_whose_time_is_up_are_found_among_all_others() -> None:
    ex = Taken()
    call, later = task(timeout=1000)(abs), task(timeout=5000)(abs)
    futures = [ex.submit(call if number % 3 else later, 1) for number in range(300)]
    others: list[Any] = [RoutedItem(abs, (1,), None, TaskOptions(timeout=1000)), WorkItem(abs)]
    now = time.monotonic()

    def look(when: float) -> tuple[float, list[Any], list[Any]]:
        due: list[Any] = []
        soon: list[Any] = []
        found, rests = look_through([*ex.items, *others], when, due, soon)
        assert when < rests <= when + 0.01
        return found, due, soon

    found, *rest = look(now)
    assert now + 900 < found < now + 1000
    assert rest == [[], []]
    for item in ex.items[::2]:
        item.succeed(1)
    ex.items[1].future.cancel()
    found, *rest = look(now + 2000)
    assert now + 4900 < found < now + 5000
    assert rest == [[each for n, each in enumerate(ex.items) if n % 2 and n % 3 and n > 1], []]
    ex._alarm.nothing_there()
    found, due, soon = look(now + 9000)
    assert found == inf
    assert due == [each for n, each in enumerate(ex.items) if n % 2 and n > 1]
    assert soon == []
    for item in due:
        assert item.claim()
        item.give_up(TimeoutError())
    assert look(now + 9000) == (inf, [], [])
    assert all(each.done() for each in futures)


def test_what_is_due_soon_is_noted_and_how_soon_depends_on_how_long_a_look_takes() -> None:
    ex = Taken()
    call = task(timeout=1000)(abs)
    ex.submit(call, 1)
    (item,) = ex.items
    deadline: Any = item.deadline

    def soon(jobs: int, left: float) -> bool:
        noted: list[Any] = []
        found, _ = look_through([item] * jobs, deadline - left, [], noted)
        assert (found == inf) == bool(noted)
        return bool(noted)

    assert soon(1, 1e-6)
    assert not soon(1, 0.001)
    assert soon(10_000, 0.04)
    assert not soon(10_000, 0.06)
    item.succeed(1)
    ex._alarm.nothing_there()


def test_an_alarm_goes_with_its_executor_and_needs_no_collector_for_that() -> None:
    def used() -> weakref.ref[Any]:
        with ThreadExecutor(1) as ex:
            ex.submit(supervised, 1).result(SOON)
            until(lambda: ex._alarm.thread is None)  # type: ignore[union-attr]
            return weakref.ref(ex._alarm)

    gc.disable()
    try:
        alive = used()
        until(lambda: alive() is None)
    finally:
        gc.enable()


def test_one_that_its_executor_has_forgotten_is_forgotten() -> None:
    class Forgetful(Taken):
        _shelf = None  # nobody else's executor has one

        def execute(self, item: WorkItem) -> None:
            pass

    ex, argument = Forgetful(), Argument()
    future = ex.submit(supervised, argument)
    alive = weakref.ref(argument)
    del future, argument
    gc.collect()
    assert alive() is None
    until(lambda: ex._alarm.thread is None)  # type: ignore[union-attr]


def test_an_alarm_that_something_has_ended_has_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def look(*_: object) -> None:
        raise OSError("never seen so far")

    monkeypatch.setattr(threading, "excepthook", lambda told: seen.append(told.exc_value))
    ex = Taken()
    with monkeypatch.context() as patch:
        patch.setattr(Taken, "look", look)
        first = ex.submit(task(timeout=0.02)(abs), 1)
        until(lambda: seen and ex._alarm.thread is None)  # type: ignore[union-attr]
    second = ex.submit(task(timeout=0.02)(abs), 1)
    assert isinstance(second.exception(SOON), TaskTimeout)
    assert isinstance(first.exception(SOON), TaskTimeout)
    assert [str(each) for each in seen] == ["never seen so far"]


def test_so_has_one_that_was_ended_as_it_failed_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Broken:
        def exception(self, *_: object) -> None:
            raise OSError("a log that cannot be written")

    def raises(_: object) -> None:
        raise ValueError

    monkeypatch.setattr(threading, "excepthook", lambda told: seen.append(told.exc_value))
    ex = Taken()
    with monkeypatch.context() as patch:
        patch.setattr(_alarm, "LOGGER", Broken())
        patch.setattr(SupervisedItem, "time_is_up", raises)
        first = ex.submit(task(timeout=0.02)(abs), 1)
        until(lambda: seen and ex._alarm.thread is None)  # type: ignore[union-attr]
    second = ex.submit(task(timeout=0.02)(abs), 1)
    assert isinstance(second.exception(SOON / 2), TaskTimeout)
    assert [str(each) for each in seen] == ["a log that cannot be written"]
    assert first.cancel()


def test_of_two_threads_that_were_started_at_once_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ex, again, start = Taken(), [1], threading.Thread.start
    before = threading.enumerate()

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "alarm" and again:
            again.clear()
            ex.submit(supervised, 1)  # as a finalizer would, inside of this
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        ex.submit(supervised, 1)
    assert len(ex.items) == 2
    until(lambda: len({*threading.enumerate()}.difference(before)) == 1)
    assert ex._alarm.thread.is_alive()  # type: ignore[union-attr]
    ex.shutdown()


def test_if_there_can_be_no_thread_for_the_alarm_it_is_said_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    ex = Taken()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="can't start"):
                ex.submit(supervised, 1)
    assert ex.items == []
    future = ex.submit(task(timeout=0.02)(abs), 1)
    assert isinstance(future.exception(SOON), TaskTimeout)


# -- shutdown ------------------------------------------------------------------------------------


def test_a_shutdown_waits_for_none_that_is_not_tried_again() -> None:
    manual = ManualExecutor()
    ex = HybridExecutor(1, executors={"thread": manual}, policy=Always("thread"))
    future = ex.options(timeout=1000).submit(abs, 1)
    ex.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_foreign_executors_get_them_as_well() -> None:
    runs: list[int] = []

    def work() -> int:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError
        return len(runs)

    with HybridExecutor(
        1, executors={"thread": ThreadPoolExecutor(1)}, policy=Always("thread")
    ) as ex:
        assert ex.options(retries=2, timeout=100).submit(work).result(SOON) == 3


# -- all at once ---------------------------------------------------------------------------------


def test_each_of_many_ends_once_however_its_end_and_its_time_fall_together() -> None:
    ends: list[Any] = []
    with ThreadExecutor(4) as ex:
        calls = [task(timeout=each, retries=1)(PAUSE.wait) for each in (0.001, 0.002, 0.003)]
        futures = []
        for number in range(600):
            future = ex.submit(calls[number % 3], 0.0015)
            future.add_done_callback(ends.append)
            futures.append(future)
            if not number % 7:
                future.cancel()
        assert not wait(futures, SOON).not_done
        until(lambda: len(ends) == len(futures))
        assert len(set(map(id, ends))) == len(futures)
        assert {type(each.exception()) for each in futures if not each.cancelled()} >= {TaskTimeout}
        until(lambda: ex._alarm.thread is None)  # type: ignore[union-attr]
        assert ex.submit(abs, -1).result(SOON) == 1
