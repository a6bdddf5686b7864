"""Work that runs can be ended by its caller: row 18 of the matrix.

That it costs nothing else, wherever it is cancelled from, is in `test_matrix`.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait

import pytest

from hybrid_compute import HybridExecutor, ThreadExecutor

from . import work
from .cases import GRACE
from .processes import are_gone, is_alive, workers_of
from .scenario import KINDS, making, submitter

SOON = work.SOON
LATE = 5.0  # seconds that a busy machine may add to what should take none


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fn", [work.hang_plainly, work.spin, work.hang])
def test_when_cancel_running_says_true_the_process_is_gone(kind, fn, tmp_path):
    with making(kind, 1, kill_grace=GRACE) as ex:
        future = submitter(kind, ex)(fn, tmp_path / "pids")
        pids = work.told(tmp_path / "pids")
        start = time.monotonic()
        assert future.cancel_running() is True
        assert time.monotonic() - start < GRACE + LATE
        assert not is_alive(pids[0])
        assert are_gone(pids)
        assert future.cancelled()
        assert future.done()
        with pytest.raises(CancelledError):
            future.result(0)
        with pytest.raises(CancelledError):
            future.exception(0)


@pytest.mark.parametrize("kind", KINDS)
def test_cancel_leaves_work_that_runs_alone(kind, tmp_path):
    with making(kind, 1) as ex:
        future = submitter(kind, ex)(work.hold, tmp_path / "begun", tmp_path / "go", 5)
        work.wait_for_file(tmp_path / "begun")
        before = workers_of()
        assert future.cancel() is False
        assert not future.cancelled()
        (tmp_path / "go").touch()
        assert future.result(SOON) == 5
        assert workers_of() == before


def test_the_children_of_the_worker_are_ended_too(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.hang_with_family, tmp_path / "pids")
        pids = work.told(tmp_path / "pids")
        assert future.cancel_running()
        assert len(pids) == 3
        assert are_gone(pids)


def test_work_that_ends_on_sigterm_has_the_time_to_say_farewell(tmp_path):
    with making("process", 1, kill_grace=SOON) as ex:
        future = ex.submit(work.hang_gently, tmp_path / "pid", tmp_path / "farewell")
        work.told(tmp_path / "pid")
        start = time.monotonic()
        assert future.cancel_running()
        assert time.monotonic() - start < LATE
    assert (tmp_path / "farewell").read_text() == "bye"


@pytest.mark.parametrize("kind", KINDS)
def test_a_queued_item_is_cancelled_and_no_process_ends(kind, tmp_path):
    with making(kind, 1) as ex:
        submit = submitter(kind, ex)
        running = submit(work.hold, tmp_path / "begun", tmp_path / "go", 5)
        work.wait_for_file(tmp_path / "begun")
        queued = [submit(work.note, tmp_path / "ran") for _ in range(3)]
        before = workers_of()
        assert all(future.cancel_running() for future in queued)
        assert all(future.cancelled() for future in queued)
        (tmp_path / "go").touch()
        assert running.result(SOON) == 5
        assert workers_of() == before
    assert not (tmp_path / "ran").exists()


def test_an_item_behind_a_long_one_in_its_batch_is_cancelled_and_never_starts(tmp_path):
    ran, go = tmp_path / "ran", tmp_path / "go"
    with making("process", 1, kill_grace=GRACE) as ex:
        for _ in range(3):  # known to be short, they go in batches
            wait([ex.submit(work.maybe_hold) for _ in range(200)])
            wait([ex.submit(work.note, tmp_path / "warm") for _ in range(200)])
        pid = ex.submit(os.getpid).result(SOON)
        ahead = [ex.submit(work.maybe_hold) for _ in range(50)]
        long = ex.submit(work.maybe_hold, tmp_path / "begun", go)
        behind = [ex.submit(work.note, ran) for _ in range(50)]
        work.wait_for_file(tmp_path / "begun")
        said = [future.cancel_running() for future in behind]
        go.touch()
        assert all(f.result(SOON) is None for f in ahead)
        assert long.result(SOON) is None
        assert all(said)
        assert all(future.cancelled() for future in behind)
        assert ex.submit(os.getpid).result(SOON) == pid
    assert not ran.exists()


def test_an_item_that_hangs_while_it_is_unpickled_is_ended_too(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.echo, work.WhenUnpickled(work.hang, tmp_path / "pids"))
        pids = work.told(tmp_path / "pids")
        assert future.cancel_running() is True
        assert future.cancelled()
        assert ex.submit(work.echo, 5).result(10) == 5
        assert are_gone(pids)


def test_work_that_hangs_while_its_result_is_pickled_is_ended_too(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.return_when_pickled, work.hang, tmp_path / "pids")
        pids = work.told(tmp_path / "pids")
        assert future.cancel_running() is True
        assert not is_alive(pids[0])
        assert future.cancelled()
        assert ex.submit(work.echo, 5).result(10) == 5
        assert are_gone(pids)


def test_what_is_finished_stays_as_it_is():
    with making("process", 1) as ex:
        before = ex.submit(os.getpid).result(SOON)
        done, failed = ex.submit(work.echo, 5), ex.submit(divmod, 1, 0)
        wait([done, failed])
        assert done.cancel_running() is False
        assert failed.cancel_running() is False
        assert done.result(0) == 5
        assert isinstance(failed.exception(0), ZeroDivisionError)
        assert ex.submit(os.getpid).result(SOON) == before


def test_what_is_cancelled_can_be_cancelled_again(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.hang_plainly, tmp_path / "pid")
        work.told(tmp_path / "pid")
        assert future.cancel_running() is True
        after = ex.submit(os.getpid).result(SOON)
        assert future.cancel_running() is True
        assert future.cancel() is True
        assert ex.submit(os.getpid).result(SOON) == after


def test_all_who_cancel_at_once_get_the_same_answer(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.hang, tmp_path / "pids")
        work.told(tmp_path / "pids")
        with ThreadPoolExecutor(8) as threads:
            answers = [threads.submit(future.cancel_running) for _ in range(8)]
            assert [each.result(SOON) for each in answers] == [True] * 8


def test_all_who_wait_are_told_once(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.hang_plainly, tmp_path / "pid")
        work.told(tmp_path / "pid")
        calls, errors = [], []
        future.add_done_callback(calls.append)

        def wait_for_it():
            try:
                future.result(SOON)
            except CancelledError as error:
                errors.append(error)

        threads = [
            threading.Thread(target=wait_for_it),
            threading.Thread(target=lambda: errors.extend(wait([future], SOON).done)),
            threading.Thread(target=lambda: errors.extend(as_completed([future], SOON))),
        ]
        for thread in threads:
            thread.start()
        assert future.cancel_running()
        for thread in threads:
            thread.join(SOON)
        assert len(errors) == 3
        assert calls == [future]


@pytest.mark.parametrize("kind", KINDS)
def test_work_that_was_cancelled_does_not_run_again(kind, tmp_path):
    with making(kind, 1, kill_grace=GRACE) as ex:
        submit = submitter(kind, ex, idempotent=True, retries=3)
        future = submit(work.note_and_hang, tmp_path / "runs")
        work.told(tmp_path / "runs.pid")
        assert future.cancel_running()
        assert future.cancelled()
        assert submitter(kind, ex)(work.echo, 1).result(SOON) == 1
    assert (tmp_path / "runs").read_text() == "x"


def test_what_cannot_be_stopped_says_so(tmp_path):
    begun, go = threading.Event(), threading.Event()

    def hold():
        begun.set()
        go.wait(SOON)
        return 5

    members = {"foreign": ThreadPoolExecutor(1), "thread": ThreadExecutor(1)}
    with HybridExecutor(executors=members) as ex:
        for submit in (ex.submit, ex.options(executor="foreign").submit):
            begun.clear()
            go.clear()
            future = submit(hold)
            assert begun.wait(SOON)
            try:
                assert future.cancel_running() is False
                assert not future.done()
            finally:
                go.set()
            assert future.result(SOON) == 5
        done = ex.options(executor="inline").submit(abs, -1)
        assert done.cancel_running() is False


def test_a_cancel_that_races_with_the_end_is_told_the_truth(tmp_path):
    outcomes = set()
    with making("process", 2, kill_grace=GRACE) as ex:
        for n in range(60):
            future = ex.submit(time.sleep, 0.002 * (n % 3))
            others = [ex.submit(work.echo, i) for i in range(20)]
            while n % 2 and not (future.running() or future.done()):
                pass
            said = future.cancel_running()
            assert future.done()
            assert future.cancelled() is said
            assert said or future.result(0) is None
            assert [f.result(SOON) for f in others] == list(range(20))
            outcomes.add(said)
    assert outcomes


def test_cancelling_all_that_runs_frees_all_workers(tmp_path):
    with making("process", 2, kill_grace=GRACE) as ex:
        running = [ex.submit(work.hang, tmp_path / str(n)) for n in range(2)]
        queued = [ex.submit(work.echo, n) for n in range(50)]
        pids = [pid for n in range(2) for pid in work.told(tmp_path / str(n))]
        assert all(future.cancel_running() for future in running)
        assert [f.result(SOON) for f in queued] == list(range(50))
        assert are_gone(pids)


def test_work_that_runs_can_be_cancelled_while_the_executor_shuts_down(tmp_path):
    with making("process", 1, kill_grace=GRACE) as ex:
        future = ex.submit(work.hang, tmp_path / "pids")
        queued = ex.submit(work.echo, 3)
        pids = work.told(tmp_path / "pids")
        ex.shutdown(wait=False)
        assert future.cancel_running()
        assert queued.result(SOON) == 3
    assert are_gone(pids)
