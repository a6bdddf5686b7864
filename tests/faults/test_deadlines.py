"""An item whose time is up is ended: row 17 of the matrix.

That it costs nothing else, wherever it was submitted from, is in `test_matrix`.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import wait

import pytest

from hybrid_compute import HybridExecutor, errors, task
from tests.patience import times_to_begin_in

from . import work
from .cases import GRACE
from .processes import are_gone, is_alive, wait_until, workers_of
from .scenario import KINDS, making, submitter

SOON = work.SOON
LATE = 5.0  # seconds that a busy machine may add to what should take none


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_a_timeout_error_with_the_items_name_and_time(kind, tmp_path):
    with making(kind, 1) as ex:
        future = submitter(kind, ex, timeout=0.3)(work.hang_plainly, tmp_path / "pid")
        with pytest.raises(errors.TaskTimeout, match=r"hang_plainly.*0\.3") as caught:
            future.result(SOON)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert isinstance(error, errors.HybridComputeError)
    assert (error.item_name, error.timeout) == ("hang_plainly", 0.3)


@pytest.mark.parametrize("fn", [work.hang_plainly, work.spin, work.hang])
def test_the_error_comes_on_time_and_when_the_process_is_gone(fn, tmp_path):
    path = tmp_path / "pid"
    with making("process", 1, kill_grace=GRACE) as ex:
        for timeout in times_to_begin_in(0.4):
            pid = ex.submit(work.my_pid).result(SOON)
            start = time.monotonic()
            error = ex.submit(task(timeout=timeout)(fn), path).exception(SOON)
            took = time.monotonic() - start
            assert isinstance(error, errors.TaskTimeout)
            if path.exists():
                break
        assert not is_alive(pid)
    least = timeout + (GRACE if fn is work.hang else 0)  # who ignores SIGTERM gets the time to obey
    assert least <= took < least + LATE


def test_the_default_grace_ends_work_that_ignores_sigterm_within_seconds(tmp_path):
    with making("process", 1) as ex:
        for timeout in times_to_begin_in(0.3):
            ex.submit(work.my_pid).result(SOON)
            start = time.monotonic()
            future = ex.submit(task(timeout=timeout)(work.hang), tmp_path / "pid")
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
            took = time.monotonic() - start
            if (tmp_path / "pid").exists():
                break
    assert timeout + 1.0 <= took < timeout + 1.0 + LATE


def test_work_that_ends_on_sigterm_has_the_time_to_say_farewell(tmp_path):
    with making("process", 1, kill_grace=SOON) as ex:
        for timeout in times_to_begin_in(0.5):
            ex.submit(work.my_pid).result(SOON)
            hang = task(timeout=timeout)(work.hang_gently)
            start = time.monotonic()
            future = ex.submit(hang, tmp_path / "pid", tmp_path / "farewell")
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
            assert time.monotonic() - start < timeout + LATE  # not all of the grace
            if (tmp_path / "pid").exists() or (tmp_path / "farewell").exists():
                break
    assert (tmp_path / "farewell").read_text() == "bye"


@pytest.mark.parametrize("kind", KINDS)
def test_the_children_of_the_worker_are_ended_too(kind, tmp_path):
    path = tmp_path / "pids"
    with making(kind, 1, kill_grace=GRACE) as ex:
        for timeout in times_to_begin_in(0.5):
            submitter(kind, ex)(work.my_pid).result(SOON)
            future = submitter(kind, ex, timeout=timeout)(work.hang_with_family, path)
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
            if path.exists():
                break
        pids = work.told(path)
        assert len(pids) == 3
        assert are_gone(pids)


def test_work_that_is_done_in_time_is_left_alone(tmp_path):
    with making("process", 1) as ex:
        pid = ex.submit(work.my_pid).result(SOON)
        for _ in range(50):
            assert ex.submit(task(timeout=SOON)(os.getpid)).result(SOON) == pid
        assert ex.submit(task(timeout=0.3)(os.getpid)).result(SOON) == pid
        time.sleep(0.4)  # the time of something that is over means nothing
        assert ex.submit(work.my_pid).result(SOON) == pid


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_whose_time_is_up_in_the_queue_never_starts(kind, tmp_path):
    ran, go = tmp_path / "ran", tmp_path / "go"
    with making(kind, 1) as ex:
        submit = submitter(kind, ex)
        running = submit(work.hold, tmp_path / "begun", go, "held")
        work.wait_for_file(tmp_path / "begun")
        start = time.monotonic()
        timed = [submitter(kind, ex, timeout=0.3)(work.note, ran) for _ in range(3)]
        behind = submit(work.echo, 7)
        for future in timed:
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
        assert 0.3 <= time.monotonic() - start < 0.3 + LATE
        assert not running.done()
        go.touch()
        assert running.result(SOON) == "held"
        assert behind.result(SOON) == 7
    assert not ran.exists()


def test_an_item_whose_time_is_up_behind_a_long_one_in_its_batch_never_starts(tmp_path):
    ran, go = tmp_path / "ran", tmp_path / "go"
    with making("process", 1) as ex:
        for _ in range(3):  # known to be short, they go in batches
            wait([ex.submit(work.maybe_hold) for _ in range(200)])
            wait([ex.submit(work.note, tmp_path / "warm") for _ in range(200)])
        pid = ex.submit(work.my_pid).result(SOON)
        untimed = [ex.submit(work.maybe_hold) for _ in range(50)]
        long = ex.submit(work.maybe_hold, tmp_path / "begun", go)
        timed = [ex.submit(task(timeout=0.5)(work.note), ran) for _ in range(50)]
        behind = [ex.submit(work.echo, n) for n in range(50)]
        for future in timed:
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
        assert not long.done()
        assert all(f.result(SOON) is None for f in untimed)
        go.touch()
        assert long.result(SOON) is None
        assert [f.result(SOON) for f in behind] == list(range(50))
        assert ex.submit(work.my_pid).result(SOON) == pid
    assert not ran.exists()


def test_an_item_whose_time_is_up_while_its_worker_starts_never_starts(tmp_path):
    ran, go = tmp_path / "ran", tmp_path / "go"
    try:
        initializer = {"initializer": work.hold, "initargs": (tmp_path / "begun", go)}
        with making("process", 1, **initializer) as ex:
            timed = ex.submit(task(timeout=0.5)(work.note), ran)
            work.wait_for_file(tmp_path / "begun")
            assert isinstance(timed.exception(SOON), errors.TaskTimeout)
            go.touch()
            assert ex.submit(work.echo, 5).result(SOON) == 5
    finally:
        go.touch()
    assert not ran.exists()


def test_an_item_that_hangs_while_it_is_unpickled_is_ended_too(tmp_path):
    path = tmp_path / "pids"
    with making("process", 1, kill_grace=GRACE) as ex:
        for timeout in times_to_begin_in(0.4):
            pid = ex.submit(work.my_pid).result(SOON)
            argument = work.WhenUnpickled(work.hang, path)
            timed = ex.submit(task(timeout=timeout)(work.echo), argument)
            behind = ex.submit(work.echo, 5)
            assert isinstance(timed.exception(SOON), errors.TaskTimeout)
            assert behind.result(SOON) == 5
            if path.exists():
                break
        assert not is_alive(pid)
        assert are_gone(work.told(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_is_of_the_item_and_never_retried(kind, tmp_path):
    runs = tmp_path / "runs"
    with making(kind, 1, kill_grace=GRACE) as ex:
        for timeout in times_to_begin_in(0.3):
            submitter(kind, ex)(work.my_pid).result(SOON)
            submit = submitter(kind, ex, timeout=timeout, retries=3, idempotent=True)
            future = submit(work.note_and_hang, runs)
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
            assert submitter(kind, ex)(work.echo, 1).result(SOON) == 1
            if runs.exists():
                break
    assert runs.read_text() == "x"


def test_an_item_whose_time_is_sooner_than_all_others_is_not_late(tmp_path):
    with making("process", 2, kill_grace=GRACE) as ex:
        assert ex.submit(task(timeout=1000)(work.echo), 1).result(SOON) == 1
        start = time.monotonic()
        sooner = ex.submit(task(timeout=0.5)(work.hang_plainly), tmp_path / "pid")
        assert isinstance(sooner.exception(SOON), errors.TaskTimeout)
        assert time.monotonic() - start < 0.5 + LATE


def test_a_deadline_behind_one_that_passed_in_vain_is_kept(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        ex.submit(work.my_pid).result(SOON)
        with ex._pool.lock:  # as if an item were done that had so much time
            ex._pool.next_deadline = time.monotonic() + 0.1
            ex._pool.wake()
        start = time.monotonic()
        later = ex.submit(task(timeout=0.6)(work.hang_plainly), tmp_path / "pid")
        assert isinstance(later.exception(SOON), errors.TaskTimeout)
        assert 0.6 <= time.monotonic() - start < 0.6 + LATE


def test_the_reader_is_not_woken_for_a_deadline_that_comes_later_than_another():
    with making("process", 1) as ex:
        call = task(timeout=1000)(work.echo)
        assert ex.submit(call, 1).result(SOON) == 1
        pool, first = ex._pool, ex._pool.next_deadline
        for _ in range(20):
            assert ex.submit(call, 1).result(SOON) == 1
        assert pool.next_deadline == first
        assert ex.submit(task(timeout=500)(work.echo), 1).result(SOON) == 1
        assert pool.next_deadline < first


def test_a_crash_before_the_deadline_is_a_crash():
    with making("process", 1) as ex:
        error = ex.submit(task(timeout=SOON)(os._exit), 3).exception(SOON)
        assert isinstance(error, errors.WorkerCrashed)
        assert error.exitcode == 3


def test_an_idempotent_item_that_runs_again_after_a_crash_keeps_its_deadline(tmp_path):
    runs = tmp_path / "runs"
    with HybridExecutor(max_processes=1) as ex:
        for timeout in times_to_begin_in(0.7):
            runs.unlink(missing_ok=True)
            ex.options(executor="process").submit(work.my_pid).result(SOON)
            view = ex.options(executor="process", timeout=timeout, retries=2, idempotent=True)
            start = time.monotonic()
            error = view.submit(work.die_first_then_hang, runs).exception(SOON)
            assert isinstance(error, errors.TaskTimeout)
            assert timeout <= time.monotonic() - start < timeout + LATE
            if runs.exists() and runs.stat().st_size > 1:  # it has begun once more
                break
    assert runs.read_text() == "xx"


@pytest.mark.parametrize("kind", ["options", "policy"])
def test_in_a_map_each_call_has_a_deadline_of_its_own(kind, tmp_path):
    with making(kind, 2, kill_grace=GRACE) as ex:
        wait([submitter(kind, ex)(work.my_pid) for _ in range(10)])
        for timeout in times_to_begin_in(0.5):
            if kind == "options":
                fn, target = work.hang_for, ex.options(executor="process", timeout=timeout)
            else:
                fn, target = task(timeout=timeout)(work.hang_for), ex
            paths = [tmp_path / "pid"] * 10
            results = list(target.map(fn, paths, range(10), return_exceptions=True))
            assert isinstance(results.pop(3), errors.TaskTimeout)
            if not any(isinstance(each, errors.TaskTimeout) for each in results):
                break
    assert results == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_many_items_whose_time_is_up_at_once_fail_each_by_itself(tmp_path):
    with making("process", 2, kill_grace=GRACE) as ex:
        ex.submit(work.my_pid).result(SOON)
        hang = task(timeout=0.5)(work.hang_plainly)
        futures = [ex.submit(hang, tmp_path / str(n)) for n in range(100)]
        others = [ex.submit(work.echo, n) for n in range(100)]
        assert not wait(futures, SOON).not_done
        assert all(isinstance(f.exception(), errors.TaskTimeout) for f in futures)
        assert [f.result(SOON) for f in others] == list(range(100))


def test_shutdown_waits_for_deadlines_and_no_longer(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        ex.submit(work.my_pid).result(SOON)
        start = time.monotonic()
        running = ex.submit(task(timeout=0.5)(work.hang), tmp_path / "pid")
        queued = ex.submit(task(timeout=0.5)(work.hang), tmp_path / "never")
    assert time.monotonic() - start < 0.5 + GRACE + LATE
    assert isinstance(running.exception(0), errors.TaskTimeout)
    assert isinstance(queued.exception(0), errors.TaskTimeout)


def test_a_stopped_worker_is_ended_too(tmp_path):
    path, stopped = tmp_path / "pid", []
    with making("process", 1, kill_grace=GRACE) as ex:
        for timeout in times_to_begin_in(0.5):
            ex.submit(work.my_pid).result(SOON)
            future = ex.submit(task(timeout=timeout)(work.hang_plainly), path)
            wait_until(lambda future=future: path.exists() or future.done())
            if path.exists() and not future.done():
                stopped = work.told(path)
                os.kill(stopped[0], signal.SIGSTOP)  # which SIGTERM has no say in
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
            if stopped:
                break
            path.unlink(missing_ok=True)
        assert not is_alive(stopped[0])


def test_an_item_of_a_stopped_worker_that_it_has_not_read_has_a_deadline_too(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        pid = ex.submit(work.my_pid).result(SOON)
        wait_until(lambda: ex.load() == 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            future = ex.submit(task(timeout=0.5)(work.note), tmp_path / "ran")
            behind = ex.submit(work.echo, 1)
            assert isinstance(future.exception(SOON), errors.TaskTimeout)
        finally:
            for each in workers_of():
                os.kill(each, signal.SIGCONT)
        assert behind.result(SOON) == 1
    assert not (tmp_path / "ran").exists()
