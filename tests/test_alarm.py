"""Deadlines where nothing can be killed: on threads, inline, and on other people's executors.

What becomes of work in processes at its deadline is in tests/faults.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, ThreadExecutor, _alarm, task
from hybrid_compute._alarm import Alarm, Deadlines
from hybrid_compute.errors import HybridComputeError, TaskTimeout
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.routed import RoutedItem, alarm_in
from hybrid_compute.tasks import TaskOptions

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test
STEP = threading.Event()  # never set: waiting for it is a pause


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        STEP.wait(0.002)


def is_quiet():
    """Say whether no alarm is set anywhere."""
    return not any(each.name == "alarm" for each in threading.enumerate())


def timed(fn, seconds=0.05, **options):
    return task(timeout=seconds, **options)(fn)


@contextlib.contextmanager
def standing_still(ex):
    """Let nobody's time be up meanwhile, however long it takes."""
    with contextlib.ExitStack() as stack:
        for each in (ex, *getattr(ex, "_fleet", {}).values()):
            stack.enter_context(each.__dict__.setdefault("_alarm", Alarm())._lock)
        yield


def overdue(ex, work, **options):
    """Submit work whose time is up as soon as it runs, and not before."""
    runs = threading.Event()

    def run():
        runs.set()
        return work()

    with standing_still(ex):
        future = ex.submit(timed(run, **options))
        assert runs.wait(SOON)
    return future


EXECUTORS = {
    "thread": lambda: ThreadExecutor(1),
    "foreign": lambda: ForeignExecutor(ThreadPoolExecutor(1), name="theirs"),
    "hybrid": lambda: HybridExecutor(1, policy=ToThreads()),
    "hybrid, foreign": lambda: HybridExecutor(
        1, executors={"thread": ThreadPoolExecutor(1)}, policy=ToThreads()
    ),
}


class ToThreads:
    def route(self, item, fleet):
        return ("thread",)


@pytest.fixture(params=EXECUTORS.values(), ids=EXECUTORS)
def ex(request):
    with request.param() as executor:
        yield executor


@pytest.fixture
def go():
    """What blocked work waits for. Set at the end, come what may."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def _go_before_shutdown(request):
    """Finalize `go` before `ex`, which waits for the work."""
    if "go" in request.fixturenames and "ex" in request.fixturenames:
        request.getfixturevalue("ex")
        request.getfixturevalue("go")


# -- what the caller sees ------------------------------------------------------------------------


def test_the_future_fails_on_time_though_the_work_goes_on(ex, go):
    future = ex.submit(timed(lambda: go.wait(SOON)))
    assert isinstance(future.exception(SOON), TaskTimeout)
    assert not go.is_set()


def test_it_fails_no_sooner_than_its_time(ex, go):
    begun = time.monotonic()
    ex.submit(timed(lambda: go.wait(SOON), 0.1)).exception(SOON)
    assert time.monotonic() - begun >= 0.1


def test_the_error_is_a_timeout_and_names_the_item_and_its_time(ex, go):
    @task(timeout=0.05, name="the slow one")
    def slow():
        go.wait(SOON)

    error = ex.submit(slow).exception(SOON)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, HybridComputeError)
    assert (error.item_name, error.timeout) == ("the slow one", 0.05)
    assert "'the slow one'" in str(error)
    assert "0.05 s" in str(error)


def test_work_that_ends_in_time_is_left_alone(ex):
    assert ex.submit(timed(lambda: 7, 1000)).result(SOON) == 7


def test_errors_of_work_that_ends_in_time_are_its_own(ex):
    with pytest.raises(ZeroDivisionError):
        ex.submit(timed(lambda: 1 // 0, 1000)).result(SOON)


@pytest.mark.parametrize("outcome", ["a result", "an error"])
def test_what_the_work_ends_with_later_is_dropped_silently(ex, go, caplog, capfd, outcome):
    ended = threading.Event()

    def work():
        go.wait(SOON)
        ended.set()
        if outcome == "an error":
            raise ZeroDivisionError

    future = overdue(ex, work)
    error = future.exception(SOON)
    go.set()
    ended.wait(SOON)
    ex.submit(int).result(SOON)  # behind it on the same thread
    assert future.exception() is error
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_an_item_that_waits_in_the_queue_fails_on_time_and_never_runs(ex, go):
    ran = []
    ex.submit(go.wait, SOON)
    future = ex.submit(timed(lambda: ran.append(1)))
    assert isinstance(future.exception(SOON), TaskTimeout)
    go.set()
    ex.submit(int).result(SOON)  # behind it on the same thread
    assert not ran


def test_the_executor_takes_work_after_a_timeout(ex, go):
    ex.submit(timed(lambda: go.wait(SOON))).exception(SOON)
    go.set()
    assert ex.submit(timed(lambda: 7, 1000)).result(SOON) == 7


def test_an_item_that_is_cancelled_before_its_time_stays_cancelled(ex, go):
    ex.submit(go.wait, SOON)
    with standing_still(ex):
        future = ex.submit(timed(lambda: 7, 0.001))
        assert future.cancel()
    until(is_quiet)
    go.set()
    assert future.cancelled()


def test_several_items_fail_each_at_its_time(ex, go):
    ex.submit(go.wait, SOON)
    order = []
    futures = []
    with standing_still(ex):
        for seconds in (0.15, 0.05, 0.1):
            future = ex.submit(timed(int, seconds))
            future.add_done_callback(lambda _, seconds=seconds: order.append(seconds))
            futures.append(future)
    assert not wait(futures, SOON).not_done
    until(lambda: len(order) == 3)
    assert order == [0.05, 0.1, 0.15]


def test_a_callback_may_submit_another_timed_item(ex, go):
    again = []
    first = overdue(ex, lambda: go.wait(SOON))
    first.add_done_callback(lambda _: again.append(ex.submit(timed(lambda: go.wait(SOON)))))
    first.exception(SOON)
    until(lambda: again)
    assert isinstance(again[0].exception(SOON), TaskTimeout)


def test_a_callback_that_raises_does_not_stop_the_alarm(ex, go, caplog):
    with standing_still(ex):
        ex.submit(timed(lambda: go.wait(SOON))).add_done_callback(lambda _: 1 // 0)
    second = ex.submit(timed(lambda: go.wait(SOON), 0.1))  # in the stuck one's place, or behind it
    assert isinstance(second.exception(SOON), TaskTimeout)
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_exits_does_not_stop_the_alarm(ex, go, caplog):
    def leave(_):
        raise SystemExit("from a callback")

    with standing_still(ex):
        ex.submit(timed(lambda: go.wait(SOON))).add_done_callback(leave)
    second = ex.submit(timed(lambda: go.wait(SOON), 0.1))  # in the stuck one's place, or behind it
    assert isinstance(second.exception(SOON), TaskTimeout)
    assert "from a callback" in caplog.text


def test_a_timeout_is_never_retried(ex, go):
    begun = []

    def work():
        begun.append(1)
        go.wait(SOON)

    future = overdue(ex, work, retries=5)
    assert isinstance(future.exception(SOON), TaskTimeout)
    go.set()
    ex.submit(int).result(SOON)
    assert begun == [1]


def test_the_time_goes_on_from_attempt_to_attempt(ex):
    def fail():
        STEP.wait(0.001)
        raise ValueError

    future = ex.submit(timed(fail, 0.1, retries=1_000_000))
    assert isinstance(future.exception(SOON), TaskTimeout)


def test_a_map_gives_each_call_its_own_time(go):
    def work(n):
        if n == 0:
            go.wait(SOON)
        return n

    with ThreadExecutor(1) as ex:
        results = ex.map(timed(work, 1.0), range(3), buffersize=1, return_exceptions=True)
        assert isinstance(next(results), TaskTimeout)
        go.set()
        next(results)  # it was behind the first all the time
        assert next(results) == 2  # and this one is submitted only now


def test_an_option_of_the_caller_sets_the_time(go):
    with HybridExecutor(1) as ex:
        future = ex.options(timeout=0.05).submit(go.wait, SOON)
        assert isinstance(future.exception(SOON), TaskTimeout)
        go.set()


def test_work_that_runs_inline_fails_after_it_was_too_long():
    ex = InlineExecutor()
    # It ends when its future has failed: then there is nothing left that the alarm waits for.
    future = ex.submit(timed(lambda: until(is_quiet)))
    assert isinstance(future.exception(), TaskTimeout)


def test_work_that_runs_inline_in_time_is_left_alone():
    assert InlineExecutor().submit(timed(lambda: 7, 1000)).result() == 7


def test_a_very_long_timeout_does_no_harm(go):
    with ThreadExecutor(1) as ex:
        ex.submit(timed(lambda: go.wait(SOON), 1e12))
        future = ex.submit(timed(int, 0.05))
        try:
            assert isinstance(future.exception(2), TaskTimeout)
        finally:
            go.set()


# -- what it leaves ------------------------------------------------------------------------------


def test_the_thread_ends_when_all_timed_items_have_failed(ex, go):
    future = ex.submit(timed(lambda: go.wait(SOON)))
    future.exception(SOON)
    until(is_quiet)


def test_the_thread_ends_when_all_timed_items_are_done_long_before_their_time(ex):
    for future in [ex.submit(timed(int, 1000)) for _ in range(100)]:
        future.result(SOON)
    until(is_quiet)


def test_there_is_one_thread_for_all_items_of_an_executor(ex, go):
    futures = [ex.submit(timed(lambda: go.wait(SOON), 1000)) for _ in range(20)]
    assert sum(each.name == "alarm" for each in threading.enumerate()) == 1
    go.set()
    wait(futures, SOON)


def test_the_thread_comes_back_for_new_items(ex, go):
    for _ in range(3):
        ex.submit(timed(int, 1000)).result(SOON)
        until(is_quiet)
    assert isinstance(ex.submit(timed(lambda: go.wait(SOON))).exception(SOON), TaskTimeout)


def test_ten_thousand_items_that_are_done_in_time_leave_nothing(ex):
    fn = timed(int, 1000)
    for _ in range(10):
        futures = [ex.submit(fn) for _ in range(1000)]
        assert not wait(futures, SOON).not_done
        gone = weakref.ref(futures[500])
        del futures
        assert ex._alarm is None or len(ex._alarm._deadlines) < 3000
    until(is_quiet)
    gc.collect()
    assert gone() is None


def test_an_item_whose_time_is_far_keeps_no_future_alive(ex):
    future = ex.submit(timed(int, 1000))
    future.result(SOON)
    gone = weakref.ref(future)
    ex.submit(int).result(SOON)  # the thread is past it
    del future
    until(lambda: gone() is None)


def test_what_timed_out_is_not_kept_alive_by_the_alarm(ex, go):
    future = ex.submit(timed(lambda: go.wait(SOON)))
    future.exception(SOON)
    gone = weakref.ref(future)
    del future
    go.set()
    ex.submit(int).result(SOON)
    until(is_quiet)
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_a_forked_child_has_no_alarm_of_its_parent():
    alarm = Alarm()
    item = RoutedItem(int, (), None, TaskOptions(timeout=1000))
    alarm.set(item)
    thread, bell = alarm.thread, alarm._bell
    assert thread.is_alive()
    alarm.after_fork()  # what a child calls, where the thread is not
    assert (alarm.thread, alarm._out, len(alarm._deadlines)) == (None, set(), 0)
    item.cancel()
    while thread.is_alive():  # here it is there, and has nothing to do any more
        bell.ring()
        thread.join(0.01)


def test_calls_one_after_the_other_share_the_thread(monkeypatch):
    monkeypatch.setattr(_alarm, "_LINGER", 0.2)
    call, threads, begun = timed(int, 1000), [], time.monotonic()
    with ThreadExecutor(1) as ex:
        for _ in range(50):
            assert ex.submit(call).result(SOON) == 0
            if ex._alarm.thread not in threads:
                threads.append(ex._alarm.thread)
        # Though nothing was out between them: it ends at such a moment only, and not so soon.
        assert len(threads) <= 2 + (time.monotonic() - begun) / 0.2
        until(is_quiet)


def test_an_item_that_was_done_before_the_alarm_knew_of_it_does_not_keep_the_thread():
    alarm = Alarm()
    item = RoutedItem(int, (), None, TaskOptions(timeout=1000))
    item.cancel()
    alarm.set(item)
    alarm.thread.join(SOON)
    assert alarm.thread is None


def test_calls_one_after_the_other_do_not_wake_the_thread_each(monkeypatch):
    waits = []
    plan = Alarm._ends
    monkeypatch.setattr(_alarm, "_LINGER", 0.2)
    monkeypatch.setattr(Alarm, "_ends", lambda *a, **k: [waits.append(1), plan(*a, **k)][1])
    call = timed(int, 1000)
    with ThreadExecutor(1) as ex:
        for _ in range(200):
            assert ex.submit(call).result(SOON) == 0
    assert len(waits) < 100
    until(is_quiet)


def test_an_item_whose_time_is_sooner_than_all_others_is_not_late(ex, go):
    later = ex.submit(timed(lambda: go.wait(SOON), 1000))
    sooner = ex.submit(timed(int, 0.05))  # behind it
    assert isinstance(sooner.exception(SOON / 2), TaskTimeout)
    assert not later.done()


# -- what observers are told ---------------------------------------------------------------------


def kinds(events):
    return [event.kind for event in events]


def test_observers_are_told_of_a_timeout_once_and_of_nothing_after_it(go):
    events = []
    with HybridExecutor(1, observers=[events.append], policy=ToThreads()) as ex:
        future = overdue(ex, lambda: go.wait(SOON))
        error = future.exception(SOON)
        go.set()
    assert kinds(events) == ["submitted", "routed", "started", "failed"]
    assert events[-1].error is error


def test_observers_are_told_that_a_queued_item_failed_and_not_that_it_started(go):
    events = []
    with HybridExecutor(1, observers=[events.append], policy=ToThreads()) as ex:
        ex.submit(go.wait, SOON)
        future = ex.submit(timed(int))
        future.exception(SOON)
        go.set()
    assert [e.kind for e in events if e.item_id == 2] == ["submitted", "routed", "failed"]


def test_observers_are_told_that_a_retried_item_failed_once(go):
    events = []
    with HybridExecutor(1, observers=[events.append], policy=ToThreads()) as ex:

        def work():
            go.wait(SOON)
            raise ValueError

        overdue(ex, work, retries=3).exception(SOON)
        go.set()
    assert kinds(events) == ["submitted", "routed", "started", "failed"]


def test_an_item_that_ends_while_observers_hear_of_its_timeout_fails_once(go):
    told, ended = threading.Event(), threading.Event()
    events = []

    def observer(event):
        events.append(event.kind)
        if event.kind == "failed":
            go.set()
            told.wait(0.5)
        elif event.kind == "succeeded":
            ended.set()
            told.set()

    with HybridExecutor(1, observers=[observer], policy=ToThreads()) as ex:
        future = overdue(ex, lambda: go.wait(SOON))
        assert isinstance(future.exception(SOON), TaskTimeout)
    assert events == ["submitted", "routed", "started", "failed"]


def test_who_waits_for_an_observed_timed_item_hears_that_it_was_cancelled(go):
    with HybridExecutor(1, observers=[lambda event: None], policy=ToThreads()) as ex:
        ex.submit(go.wait, SOON)
        future = ex.submit(timed(int, 1000))
        assert future.cancel()
        go.set()
        assert not wait([future], 2).not_done


def test_who_waits_for_a_timed_item_hears_that_it_was_cancelled(ex, go):
    ex.submit(go.wait, SOON)
    future = ex.submit(timed(int, 1000))
    assert future.cancel()
    go.set()
    assert not wait([future], SOON).not_done


# -- Deadlines -----------------------------------------------------------------------------------


def item_due(deadline):
    item = RoutedItem(int, (), None, TaskOptions(timeout=1000))
    item.deadline = deadline
    return item


def test_deadlines_gives_what_is_due_in_its_order_and_once():
    deadlines, items = Deadlines(), [item_due(at) for at in (3.0, 1.0, 2.0, 9.0)]
    for item in items:
        deadlines.add(item)
    assert [each.deadline for each in deadlines.due(3.0)] == [1.0, 2.0, 3.0]
    assert deadlines.due(3.0) == []
    assert deadlines.next() == 9.0


def test_deadlines_passes_over_items_that_are_done_or_gone():
    deadlines, items = Deadlines(), [item_due(at) for at in (1.0, 2.0, 3.0)]
    for item in items:
        deadlines.add(item)
    items[0].cancel()
    del items[1], item
    gc.collect()  # an item and its future refer to each other
    assert deadlines.next() == 3.0
    assert [each.deadline for each in deadlines.due(5.0)] == [3.0]
    assert deadlines.next() is None


def test_deadlines_does_not_grow_with_items_that_are_done():
    deadlines = Deadlines()
    waits = item_due(1e9)
    deadlines.add(waits)
    for _ in range(5000):
        item = item_due(2e9)
        deadlines.add(item)
        item.cancel()
    assert len(deadlines) < 200
    assert deadlines.next() == 1e9


def test_deadlines_takes_two_items_of_the_same_time():
    deadlines, items = Deadlines(), [item_due(1.0), item_due(1.0)]
    for item in items:
        deadlines.add(item)
    assert deadlines.due(1.0) == items


def test_whichever_thread_needs_it_first_an_executor_has_one_alarm(monkeypatch):
    """Both find that there is none, and make one."""
    both, found = threading.Barrier(2), []
    init = Alarm.__init__

    def together(alarm):
        init(alarm)
        both.wait(SOON)

    monkeypatch.setattr(Alarm, "__init__", together)
    with ThreadExecutor(2) as ex:
        threads = [threading.Thread(target=lambda: found.append(alarm_in(ex))) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert found == [ex._alarm] * 2


@pytest.mark.parametrize("number", [1, 100, 200])
def test_what_a_finalizer_adds_while_others_are_looked_at_is_kept(number, monkeypatch):
    """To look at one that is done may free it, and its result, whose finalizer submits."""
    deadlines, kept = Deadlines(), []
    look = _alarm._item_of

    def add(seconds):
        item = RoutedItem(int, (), None, TaskOptions(timeout=seconds))
        kept.append(item)
        deadlines.add(item)
        return item

    def and_adds(reference):
        found = look(reference)
        if found is None and armed:
            armed.clear()
            kept.append(add(1))
        return found

    armed = []
    monkeypatch.setattr(_alarm, "_item_of", and_adds)
    for _ in range(number):
        add(100).cancel()
    last = add(1000)
    armed.append(True)
    if number == 1:
        assert deadlines.next() < time.monotonic() + 1.1
    else:
        for _ in range(number):
            add(2000)
        assert not armed
    added = kept[-1] if number == 1 else next(each for each in kept if each.options.timeout == 1)
    assert deadlines.due(time.monotonic() + 10) == [added]
    assert last in deadlines.due(time.monotonic() + 1500)
