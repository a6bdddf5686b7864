"""Work that waits for work it has submitted: row 24 of the matrix, and what else may hang of it.

On threads and in processes, and in both by turns; at depths beyond the number of workers.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)

import pytest

from hybrid_compute import HybridExecutor, ProcessExecutor, ThreadExecutor, current
from hybrid_compute.errors import DeadlockError, ResultEncodeError, TaskEncodeError, TaskTimeout
from hybrid_compute.executors import _dispatch
from tests.patience import times_to_begin_in

from . import nested
from .nested import SOON, Meter, count, wait_until

pytestmark = pytest.mark.timeout(120)

HOWS = [*nested.WAYS, "map"]
ROUTES = {
    "thread": [None],
    "lane": ["lane"],
    "process": ["process"],
    "mixed": ["process", "thread"],
}


# That it ends, whatever the depth.


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("workers", "depth"), [(1, 1), (1, 5), (2, 6), (4, 5)])
def test_a_tree_of_calls_ends_on_threads(workers, depth, how):
    with HybridExecutor(workers) as executor:
        futures = [executor.submit(count, depth, 2, [None], how) for _ in range(2 * workers)]
        assert [future.result(SOON) for future in futures] == [2**depth] * len(futures)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("route", ["process", "mixed"])
@pytest.mark.parametrize(("workers", "depth"), [(1, 3), (2, 3)])
def test_a_tree_of_calls_ends_in_processes(workers, depth, route, how):
    places = ROUTES[route]
    with HybridExecutor(workers, max_processes=workers) as executor:
        first, *rest = places
        view = executor.options(executor=first)
        futures = [view.submit(count, depth, 1, [*rest, first], how) for _ in range(workers + 1)]
        assert [future.result(SOON) for future in futures] == [1] * len(futures)


@pytest.mark.parametrize("route", ["process", "mixed"])
def test_a_wide_tree_of_calls_ends_in_processes(route):
    first, *rest = ROUTES[route]
    with HybridExecutor(1, max_processes=1) as executor:
        view = executor.options(executor=first)
        assert view.submit(count, 2, 4, [*rest, first], "as_completed").result(SOON) == 16


def test_an_executor_by_itself_nests_as_well():
    with ThreadExecutor(1) as executor:
        assert executor.submit(count, 4, 2, [None], "result").result(SOON) == 16
    with ProcessExecutor(1) as executor:
        assert executor.submit(count, 2, 2, [None], "wait").result(SOON) == 4


def test_five_hundred_levels_on_one_thread_leave_few_threads_behind():
    with HybridExecutor(1) as executor:

        def deep(depth):
            return 0 if depth == 0 else 1 + executor.submit(deep, depth - 1).result()

        before = threading.active_count()
        assert executor.submit(deep, 300).result(SOON) == 300
        executor.submit(int).result(SOON)
        wait_until(lambda: threading.active_count() - before <= 2)


def test_many_that_wait_need_no_thread_each():
    with HybridExecutor(2) as executor:
        futures = [executor.submit(lambda: executor.submit(abs, -1).result()) for _ in range(2000)]
        assert sum(future.result(SOON) for future in futures) == 2000
        assert executor._thread._pool.born < 20


def test_many_that_wait_for_a_process_need_no_thread_each():
    with HybridExecutor(2, max_processes=1) as executor:
        view = executor.options(executor="process")
        futures = [executor.submit(lambda: view.submit(abs, -1).result()) for _ in range(100)]
        assert sum(future.result(SOON) for future in futures) == 100
        assert executor._thread._pool.born <= 2  # none of the work was queued behind a thread


def test_a_thread_that_never_ends_does_not_keep_nested_work_from_its_end():
    with HybridExecutor(2) as executor:
        go = threading.Event()
        executor.submit(go.wait, SOON)
        try:
            assert executor.submit(count, 3, 2, [None], "result").result(SOON) == 8
        finally:
            go.set()


@pytest.mark.parametrize("timeout", [None, SOON])
def test_work_that_waits_in_a_lane_does_not_block_it(timeout):
    with HybridExecutor(1, executors={"lane": ThreadExecutor(1, name="lane")}) as executor:
        lane = executor.options(executor="lane")

        def outer(depth):
            view = executor if depth % 2 else lane
            return depth and 1 + view.submit(outer, depth - 1).result(timeout)

        assert executor.submit(outer, 6).result(SOON) == 6


def test_nested_work_that_is_tried_again_ends():
    with HybridExecutor(1) as executor:
        seen = []

        def fails():
            seen.append(current().attempt)
            if len(seen) < 3:
                raise OSError
            return "at last"

        def outer():
            view = executor.options(executor="thread", retries=5)
            return view.submit(fails).result()

        assert executor.submit(outer).result(SOON) == "at last"


def test_nested_tasks_that_a_policy_holds_end():
    import hybrid_compute

    with HybridExecutor(1, max_processes=1) as executor:
        inner = hybrid_compute.task(nested.truth)

        def outer():
            return [future.result() for future in [executor.submit(inner) for _ in range(8)]]

        futures = [executor.submit(outer) for _ in range(3)]
        assert [future.result(SOON) for future in futures] == [[True] * 8] * 3


@pytest.mark.parametrize("items", [3, 2000])
def test_a_nested_stream_ends(items):
    with HybridExecutor(1) as executor:

        def outer(depth):
            if not depth:
                return sum(executor.stream(range, items))
            with executor.stream(lambda: (outer(depth - 1) for _ in range(2))) as stream:
                return sum(stream)

        assert executor.submit(outer, 2).result(SOON) == 4 * sum(range(items))


def test_a_thread_that_takes_what_is_urgent_wakes_another_for_the_rest():
    for _ in range(30):
        with HybridExecutor(4) as executor:
            together = threading.Barrier(3)

            def outer(together=together, executor=executor):
                wait([executor.submit(int) for _ in range(3)])  # now there are threads to wake
                rest = [executor.submit(together.wait, SOON) for _ in range(3)]
                executor.submit(int).result()
                return len({future.result() for future in rest})

            assert executor.submit(outer).result(SOON) == 3


def test_an_initializer_runs_in_an_additional_thread_too():
    mark = threading.local()

    def prepare():
        mark.ready = True

    with ThreadExecutor(1, initializer=prepare) as executor:

        def outer():
            inner = executor.submit(lambda: (mark.ready, threading.current_thread().name))
            return inner.result(), threading.current_thread().name

        (ready, inside), outside = executor.submit(outer).result(SOON)
        assert ready
        assert inside != outside


# That nothing else is different from the stdlib's.


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("workers", [1, 3])
def test_never_more_run_at_once_than_there_are_workers(workers, how):
    meter = Meter()

    def tree(depth):
        with meter:
            if depth == 0:
                return 1
            if how == "map":
                results = executor.map(tree, [depth - 1] * 2)
                with meter.away():
                    return sum(results)
            futures = [executor.submit(tree, depth - 1) for _ in range(2)]
            with meter.away():
                values = nested.WAYS[how](futures)
            return sum(values)

    with HybridExecutor(workers) as executor:
        futures = [executor.submit(tree, 4) for _ in range(4)]
        assert [future.result(SOON) for future in futures] == [16] * 4
    # `map` and `as_completed` are left and entered again between two results, unseen by the meter.
    assert meter.peak <= workers + (workers if how in ("map", "as_completed") else 0)


def test_what_nobody_waits_for_keeps_its_place_in_the_queue():
    with HybridExecutor(1) as executor:
        begun, go, order = threading.Event(), threading.Event(), []

        def outer():
            begun.set()
            go.wait(SOON)
            executor.submit(order.append, "nested").result()
            order.append("outer")

        futures = [executor.submit(outer)]
        assert begun.wait(SOON)
        futures += [executor.submit(order.append, n) for n in range(5)]
        go.set()
        wait(futures)
        assert order == ["nested", "outer", 0, 1, 2, 3, 4]


def test_a_wait_outside_of_the_pool_starts_no_thread():
    with HybridExecutor(1) as executor:
        go = threading.Event()
        blocked = executor.submit(go.wait, SOON)
        queued = executor.submit(int)
        assert wait([queued], 0.05).not_done
        with ThreadPoolExecutor(1) as others:
            waits = others.submit(queued.result)
            assert wait([waits], 0.05).not_done
            assert executor._thread._pool.born == 1
            go.set()
            assert (waits.result(SOON), blocked.result(SOON)) == (0, True)


def test_waits_for_what_is_done_and_polls_start_no_thread():
    with HybridExecutor(1) as executor:

        def outer(done):
            mine = executor.submit(int)
            with pytest.raises(TimeoutError):
                mine.result(0)
            assert wait([mine], 0).not_done
            assert mine.cancel()
            with pytest.raises(CancelledError):
                mine.result()
            return [done.result(), wait([done]).done == {done}, executor._thread._pool.born]

        done = executor.submit(int)
        assert done.result(SOON) == 0
        assert executor.submit(outer, done).result(SOON) == [0, True, 1]


def test_a_wait_that_times_out_gives_the_stdlib_s_error_and_the_pool_is_whole_again():
    with HybridExecutor(1) as executor:
        go = threading.Event()

        def outer():
            inner = executor.submit(go.wait, SOON)
            with pytest.raises(TimeoutError):
                inner.result(0.02)
            assert wait([inner], 0.02).not_done
            go.set()
            return inner.result()

        assert executor.submit(outer).result(SOON) is True
        assert [executor.submit(abs, -n).result(SOON) for n in range(9)] == list(range(9))
        pool = executor._thread._pool
        wait_until(lambda: not pool.attention)
        assert (pool.blocked, pool.stuck, len(pool.urgent)) == (0, 0, 0)


def test_cancelling_what_is_waited_for_wakes_who_waits():
    with HybridExecutor(1) as executor:
        go, inner = threading.Event(), Future()

        def outer():
            first, second = executor.submit(go.wait, SOON), executor.submit(int)
            assert wait([first], 0.02).not_done  # it runs, in the place of this one
            inner.set_result(second)
            with pytest.raises(CancelledError):
                second.result()
            go.set()
            return first.result()

        future = executor.submit(outer)
        wait_until(inner.done)
        assert inner.result().cancel()
        assert future.result(SOON) is True


# Circles.


def circle(executor, count, how):
    """Submit calls of which each waits for the next, and the last for the first."""
    boxes = [Future() for _ in range(count)]

    def body(index):
        other = boxes[(index + 1) % count].result(SOON)
        if how == "map":
            return list(executor.map(lambda _: other.result(), range(2)))
        if how == "exception":
            raise other.exception()
        if how == "wait for an exception":
            wait([other], return_when=FIRST_EXCEPTION)
            return other.result()
        return nested.WAYS[how]([other])

    futures = [executor.submit(body, index) for index in range(count)]
    for box, future in zip(boxes, futures, strict=True):
        box.set_result(future)
    return futures


@pytest.mark.parametrize("how", [*HOWS, "wait for an exception"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_circle_is_an_error(count, how):
    with HybridExecutor(3 * count) as executor:
        for future in circle(executor, count, how):
            error = future.exception(SOON)
            assert isinstance(error, DeadlockError)
            assert isinstance(error, RuntimeError)
            assert any("body" in name for name in error.item_names)
        assert executor.submit(abs, -1).result(SOON) == 1


def test_a_circle_through_a_worker_process_is_an_error():
    with HybridExecutor(2, max_processes=1) as executor:
        box = Future()

        def outer():
            return box.result(SOON).result()

        first = executor.submit(outer)
        nested.registered["first"] = first
        try:
            view = executor.options(executor="process")
            second = view.submit(nested.wait_for_registered, "first")
            box.set_result(second)
            assert isinstance(first.exception(SOON), DeadlockError)
            assert isinstance(second.exception(SOON), DeadlockError)
        finally:
            nested.registered.clear()


def test_a_circle_in_which_a_wait_ends_by_itself_is_none():
    with HybridExecutor(2) as executor:
        boxes = [Future(), Future()]

        def patient():
            return boxes[1].result(SOON).result()

        def impatient():
            try:
                return boxes[0].result(SOON).result(0.05)
            except TimeoutError:
                return "enough"

        futures = [executor.submit(patient), executor.submit(impatient)]
        for box, future in zip(boxes, futures, strict=True):
            box.set_result(future)
        assert [future.result(SOON) for future in futures] == ["enough", "enough"]


def test_a_circle_in_which_one_has_a_deadline_is_none():
    with HybridExecutor(2) as executor:
        boxes = [Future(), Future()]

        def body(index):
            return boxes[1 - index].result(SOON).result()

        futures = [
            executor.options(executor="thread", timeout=0.1).submit(body, 0),
            executor.submit(body, 1),
        ]
        for box, future in zip(boxes, futures, strict=True):
            box.set_result(future)
        assert [type(each.exception(SOON)) for each in futures] == [TaskTimeout, TaskTimeout]


@pytest.mark.parametrize("way", ["as_completed", "wait"])
def test_who_waits_for_any_of_several_is_in_no_circle_while_one_of_them_goes_on(way):
    with HybridExecutor(4) as executor:
        box, go, theirs = Future(), threading.Event(), Future()

        def body():
            held = executor.submit(lambda: box.result(SOON).result())
            free = theirs if way == "wait" else executor.submit(go.wait, SOON)
            waiting = [held, free]
            if way == "wait":
                wait(waiting, return_when=FIRST_COMPLETED)
                return free.result()
            return next(as_completed(waiting)).result()

        future = executor.submit(body)
        box.set_result(future)
        assert wait([future], 0.05).not_done
        go.set()
        theirs.set_result(True)
        assert future.result(SOON) is True


# Processes.


@pytest.fixture
def processes():
    with HybridExecutor(1, max_processes=1) as executor:
        yield executor.options(executor="process")


def test_errors_of_nested_work_arrive_as_they_were(processes):
    with pytest.raises(KeyError, match="why"):
        processes.submit(nested.fail_below, KeyError("why")).result(SOON)


def test_nested_work_can_be_cancelled_while_it_is_queued(processes):
    said, is_cancelled, first = processes.submit(nested.cancel_below, "process").result(SOON)
    assert (said, is_cancelled, first) == (True, True, None)


def test_who_asks_a_nested_future_now_and_then_hears_of_its_end(processes):
    assert processes.submit(nested.asks_until_done).result(SOON) == (True, 8, [8])


def test_a_nested_result_that_cannot_travel_is_an_error_of_its_own(processes):
    with pytest.raises(ResultEncodeError, match="lock"):
        processes.submit(nested.a_lock_from_below).result(SOON)


def test_a_nested_call_that_cannot_travel_is_an_error_of_its_own(processes):
    assert isinstance(processes.submit(nested.a_lock_for_below).result(SOON), TaskEncodeError)


def test_what_a_call_had_is_of_no_use_after_it(processes):
    assert processes.submit(nested.keep_for_later, 1).result(SOON) is None
    answers = processes.submit(nested.use_what_was_kept, 1).result(SOON)
    assert all("is over" in answer for answer in answers)


def test_work_behind_one_that_waits_goes_to_another_worker(processes):
    for _ in range(20):
        processes.submit(abs, -1).result(SOON)
    futures = [processes.submit(nested.truth) for _ in range(20)]
    futures += [processes.submit(count, 1, 2, [None], "result")]
    futures += [processes.submit(nested.truth) for _ in range(20)]
    assert all(future.result(SOON) for future in futures)


def test_no_more_workers_are_left_than_may_be_of_use(processes):
    assert processes.submit(count, 4, 1, ["process"], "result").result(SOON) == 1
    pool = processes._hybrid._fleet["process"]._pool
    wait_until(lambda: len(pool.workers) <= 2)
    assert pool.resting == 0


def test_at_most_so_many_workers_rest_and_then_waiting_is_an_error(monkeypatch, processes):
    monkeypatch.setattr(_dispatch, "_MOST_RESTING", 2)
    with pytest.raises(DeadlockError, match=r"no more workers than 3: its 1, and 2 in"):
        processes.submit(count, 6, 1, ["process"], "result").result(SOON)
    assert processes.submit(abs, -1).result(SOON) == 1


def test_a_worker_that_dies_while_it_waits_costs_its_item_only(processes, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"
    outer = processes.submit(nested.begin_and_wait_below, begun, go, "thread")
    nested.wait_for_file(begun)
    (pid,) = processes._hybrid._fleet["process"]._pids()
    os.kill(pid, 9)
    assert "SIGKILL" in str(outer.exception(SOON))
    go.touch()
    assert processes.submit(abs, -1).result(SOON) == 1


# Deadlines.


@pytest.mark.parametrize("place", ["inline", "thread", "process"])
def test_nested_work_has_the_time_that_is_left(place):
    with HybridExecutor(1, max_processes=1) as executor:
        view = executor.options(executor=place, timeout=90)
        assert 90 - SOON < view.submit(nested.time_left_below).result(SOON) < 90
        less = view.submit(nested.time_left_below, executor="thread", timeout=40).result(SOON)
        assert 40 - SOON < less < 40
        more = view.submit(nested.time_left_below, executor="thread", timeout=900).result(SOON)
        assert more < 90
        assert executor.submit(nested.time_left_below).result(SOON) is None


@pytest.mark.parametrize("place", ["thread", "process"])
def test_calls_of_a_nested_map_have_the_time_that_is_left(place):
    with HybridExecutor(1, max_processes=1) as executor:
        view = executor.options(executor="thread", timeout=90)
        times = view.submit(
            lambda: list(executor.options(executor=place).map(_time_left, range(3)))
        ).result(SOON)
        assert all(0 < each < 90 for each in times)


def _time_left(_):
    return nested.time_left()


@pytest.mark.parametrize("place", ["thread", "process"])
def test_nested_work_ends_with_the_time_of_who_submitted_it(place):
    release = threading.Event()
    # A process is ended; a thread is not, and goes on until it is let go.
    work = (release.wait, SOON) if place == "thread" else (time.sleep, SOON)
    with HybridExecutor(1, max_processes=1) as executor:
        inner, go = [], threading.Event()

        def outer():
            future = executor.options(executor=place).submit(*work)
            inner.append(future)
            future.exception()
            go.set()
            release.wait(SOON)  # else it may be done before anybody sees that its time is up

        start = time.monotonic()
        try:
            for timeout in times_to_begin_in(0.2):
                future = executor.options(executor="thread", timeout=timeout).submit(outer)
                assert isinstance(future.exception(SOON), TaskTimeout)
                if inner:
                    break
            error = inner[0].exception(SOON)
            assert isinstance(error, TaskTimeout)
            assert "left to the work that submitted it" in str(error)
            assert go.wait(SOON)
        finally:
            release.set()
    assert time.monotonic() - start < SOON / 2


# Stuck threads.


def stick(executor, go):
    """Have a thread of the pool hang, until `go`, in work whose time is up."""
    for timeout in times_to_begin_in(0.05):
        begun = threading.Event()

        def hang(begun=begun):
            begun.set()
            go.wait(SOON)

        future = executor.options(executor="thread", timeout=timeout).submit(hang)
        assert isinstance(future.exception(SOON), TaskTimeout)
        if begun.is_set():
            return


def test_a_pool_has_other_threads_for_stuck_ones_up_to_its_size():
    with HybridExecutor(2) as executor:
        go = threading.Event()
        try:
            for _ in range(2):
                stick(executor, go)
            others = [executor.submit(abs, -n) for n in range(5)]
            assert [each.result(SOON) for each in others] == list(range(5))
            for _ in range(2):
                stick(executor, go)
            queued = executor.submit(int)
            assert wait([queued], 0.05).not_done  # four threads hang, and that is the bound
        finally:
            go.set()
        assert queued.result(SOON) == 0
        pool = executor._thread._pool
        executor.submit(int).result(SOON)
        wait_until(lambda: pool.stuck == 0 and not pool.attention)


def test_a_thread_that_was_stuck_counts_again_when_it_comes_back():
    with HybridExecutor(1) as executor:
        meter, go = Meter(), threading.Event()
        stick(executor, go)
        assert executor.submit(abs, -1).result(SOON) == 1
        go.set()
        futures = [executor.submit(meter.stay) for _ in range(20)]
        wait(futures)
        assert meter.peak <= 2  # until it has come back, and looked
        pool = executor._thread._pool
        wait_until(lambda: pool.stuck == 0)
        meter.peak = 0
        wait([executor.submit(meter.stay) for _ in range(20)])
        assert meter.peak == 1


# Shutdown, with nested work in flight.


@pytest.mark.parametrize("place", ["thread", "process"])
@pytest.mark.parametrize("cancel", [False, True])
def test_a_shutdown_in_the_midst_of_nested_work_is_bounded(place, cancel):
    executor = HybridExecutor(2, max_processes=2)
    view = executor.options(executor=place)
    futures = [view.submit(count, 3, 2, [place], "wait") for _ in range(4)]
    futures[0].add_done_callback(lambda _: executor.shutdown(wait=False, cancel_futures=cancel))
    executor.shutdown(cancel_futures=cancel)
    for future in futures:
        assert future.done()
        error = None if future.cancelled() else future.exception()
        # What was submitted before is done, or cancelled; after it, nothing is taken.
        assert error is None or isinstance(error, (RuntimeError, CancelledError)), repr(error)


def test_nested_work_that_was_accepted_before_a_shutdown_is_done():
    executor = HybridExecutor(1)
    submitted, go = threading.Event(), threading.Event()

    def outer():
        inner = executor.submit(count, 0, 1, [None], "result")
        submitted.set()
        go.wait(SOON)
        return inner.result()

    future = executor.submit(outer)
    assert submitted.wait(SOON)
    executor.shutdown(wait=False)
    go.set()
    assert future.result(SOON) == 1
    executor.shutdown()


def test_nested_work_that_was_accepted_before_cancel_futures_is_cancelled():
    executor = HybridExecutor(1)
    submitted = threading.Event()
    go = threading.Event()

    def outer():
        inner = executor.submit(int)
        submitted.set()
        go.wait(SOON)
        return inner.result()

    future = executor.submit(outer)
    assert submitted.wait(SOON)
    executor.shutdown(wait=False, cancel_futures=True)
    go.set()
    assert isinstance(future.exception(SOON), CancelledError)
    executor.shutdown()


@pytest.mark.parametrize("wait_for_it", [False, True])
def test_work_in_a_worker_process_may_shut_its_executor_down(wait_for_it):
    with HybridExecutor(1, max_processes=1) as executor:
        view = executor.options(executor="process")
        said = view.submit(nested.shut_down, wait=wait_for_it).result(SOON)
        assert ("cannot wait" if wait_for_it else "cannot schedule new futures") in said
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)
