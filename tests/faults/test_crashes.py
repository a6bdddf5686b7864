"""What becomes of the items around a worker that dies: rows 1 to 3 of the matrix.

The ways to die are in `cases`; here it is about when it happens, and to whom.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import wait
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, errors, task
from hybrid_compute.executors.process import ProcessExecutor

from . import work
from .processes import are_gone, is_alive, spawners_of, wait_until, workers_of
from .scenario import KINDS, making, submitter

SOON = work.SOON


@pytest.fixture
def ex():
    with ProcessExecutor(2) as executor:
        executor.submit(abs, 1).result(SOON)
        yield executor


def warm_up(ex, fn):
    """Let the executor know that the function is short, so that its calls go in batches."""
    for _ in range(3):
        for future in [ex.submit(fn, n) for n in range(300)]:
            future.result(SOON)


# -- in a batch ----------------------------------------------------------------------------------


def test_a_crash_in_the_middle_of_a_batch_costs_one_item(ex):
    warm_up(ex, work.short_or_deadly)
    xs = [*range(500), "die", *range(500), "die", *range(500)]
    futures = [ex.submit(work.short_or_deadly, x) for x in xs]
    for x, future in zip(xs, futures, strict=True):
        if x == "die":
            assert isinstance(future.exception(SOON), errors.WorkerCrashed)
        else:
            assert future.result(SOON) == x


def test_a_deadly_argument_in_the_middle_of_a_batch_costs_one_item(ex):
    warm_up(ex, work.echo)
    xs = [n if n != 250 else work.WhenUnpickled(os._exit, 7) for n in range(500)]
    futures = [ex.submit(work.echo, x) for x in xs]
    error = futures.pop(250).exception(SOON)
    assert isinstance(error, errors.WorkerCrashed)
    assert error.exitcode == 7
    assert [f.result(SOON) for f in futures] == [*range(250), *range(251, 500)]


def test_a_deadly_result_in_the_middle_of_a_batch_costs_one_item(ex):
    warm_up(ex, work.echo_or_deadly)
    futures = [ex.submit(work.echo_or_deadly, n if n != 250 else None) for n in range(500)]
    error = futures.pop(250).exception(SOON)
    assert isinstance(error, errors.WorkerCrashed)
    assert error.exitcode == 8
    assert [f.result(SOON) for f in futures] == [*range(250), *range(251, 500)]


def test_a_crash_in_a_map_of_idempotent_calls_costs_one_call():
    with HybridExecutor(max_processes=2) as ex:
        view = ex.options(executor="process", idempotent=True)
        xs = [*range(300), "die", *range(300)]
        results = list(view.map(work.short_or_deadly, xs, return_exceptions=True))
    crashed = [n for n, result in enumerate(results) if result != xs[n]]
    assert crashed == [300]
    assert isinstance(results[300], errors.WorkerCrashed)


# -- at odd moments ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_another_one_kills_costs_the_item_that_it_ran(kind, tmp_path):
    with making(kind, 2) as ex:
        submit = submitter(kind, ex)
        guilty = submit(work.tell_and_wait, tmp_path / "pid")
        killer = submit(work.kill_a_friend, tmp_path / "pid")
        error = guilty.exception(SOON)
        assert isinstance(error, errors.WorkerCrashed)
        assert (error.signal, error.pid) == (signal.SIGKILL, killer.result(SOON))
        assert submit(work.echo, 1).result(SOON) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_idle_workers_that_are_killed_cost_nothing(kind, tmp_path, caplog):
    with making(kind, 2) as ex:
        submit = submitter(kind, ex)
        for n in range(5):
            go = tmp_path / f"go {n}"
            both = [submit(work.hold, tmp_path / f"{n} {i}", go, i) for i in range(2)]
            for i in range(2):
                work.wait_for_file(tmp_path / f"{n} {i}")
            go.touch()
            assert [f.result(SOON) for f in both] == [0, 1]
            before = workers_of()
            assert len(before) == 2
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            futures = [submit(work.echo, i) for i in range(100)]
            assert [f.result(SOON) for f in futures] == list(range(100))
            assert not set(before) & set(workers_of())
    assert caplog.text == ""


def test_a_worker_that_dies_after_its_answer_costs_nothing(ex, tmp_path):
    pid = ex.submit(work.die_soon, tmp_path / "go").result(SOON)
    (tmp_path / "go").touch()
    wait_until(lambda: not is_alive(pid))
    futures = [ex.submit(work.echo, n) for n in range(100)]
    assert [f.result(SOON) for f in futures] == list(range(100))


@pytest.mark.parametrize("size", [0, 150_000, 20_000_000], ids="{} bytes".format)
def test_a_worker_that_is_killed_before_it_has_read_its_item_costs_nothing(tmp_path, size):
    path = tmp_path / "ran"
    with ProcessExecutor(1) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        wait_until(lambda: ex.load() == 0)
        os.kill(pid, signal.SIGSTOP)  # so it reads nothing of what it is sent
        futures = [ex.submit(work.note_length, path, bytes(size)) for _ in range(3)]
        os.kill(pid, signal.SIGKILL)
        assert [f.result(SOON) for f in futures] == [size] * 3
    assert path.read_text() == "xxx"


def test_a_worker_that_is_killed_with_its_answers_unread_costs_the_item_that_it_ran(tmp_path):
    held, resume = threading.Event(), threading.Event()

    def hold_the_reader(_):
        held.set()
        resume.wait(SOON)

    path = tmp_path / "ran"
    with ProcessExecutor(1) as ex:
        for _ in range(3):  # it is known to be short, so that the next ones go in one message
            wait([ex.submit(work.large_answer, tmp_path / "warm", n, 1) for n in range(300)])
        pid = ex.submit(os.getpid).result(SOON)
        first = ex.submit(work.wait_for_file, tmp_path / "go")
        futures = [ex.submit(work.large_answer, path, n % 256) for n in range(300)]
        futures[0].add_done_callback(hold_the_reader)
        (tmp_path / "go").touch()
        assert held.wait(SOON)
        wait_until(Sleeps(pid, path))
        os.kill(pid, signal.SIGKILL)
        resume.set()
        assert first.result(SOON) is None
        failed = [f for f in futures if f.exception(SOON) is not None]
        assert len(failed) <= 1
        assert all(isinstance(f.exception(), errors.WorkerCrashed) for f in failed)
        for n, future in enumerate(futures):
            assert future in failed or future.result() == bytes([n % 256]) * 150_000
    assert path.stat().st_size == 300


class Sleeps:
    """True when a process has done nothing but sleep for a while: it waits for its reader."""

    def __init__(self, pid, path):
        self.pid, self.path, self.looks, self.size = pid, path, 0, -1

    def __call__(self):
        state = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        size = self.path.stat().st_size
        self.looks = self.looks + 1 if (state, size) == ("S", self.size) else 0
        self.size = size
        return self.looks > 10


def test_a_large_answer_that_is_torn_costs_its_item_only(ex):
    def die_while_answering():
        import _thread
        import time

        def die():
            time.sleep(0.001)
            os._exit(5)

        _thread.start_new_thread(die, ())
        return bytes(200_000_000)

    guilty = ex.submit(die_while_answering)
    others = [ex.submit(work.echo, n) for n in range(100)]
    assert isinstance(guilty.exception(SOON), errors.WorkerCrashed)
    assert [f.result(SOON) for f in others] == list(range(100))


def test_a_dead_spawner_is_replaced_and_costs_what_its_workers_ran(ex, tmp_path):
    running = ex.submit(work.hold, tmp_path / "begun", tmp_path / "go")
    queued = [ex.submit(work.echo, n) for n in range(20)]
    work.wait_for_file(tmp_path / "begun")
    (spawner,) = spawners_of()
    before = workers_of()
    os.kill(spawner, signal.SIGKILL)
    assert isinstance(running.exception(SOON), errors.WorkerCrashed)
    for n, future in enumerate(queued):
        error = future.exception(SOON)
        assert error is None or isinstance(error, errors.WorkerCrashed)
        assert error is not None or future.result() == n
    assert ex.submit(work.echo, 5).result(SOON) == 5
    assert are_gone([spawner, *before])
    assert spawners_of() != [spawner]


def test_a_dead_spawner_of_idle_workers_costs_nothing(ex):
    for n in range(5):
        before = workers_of()
        os.kill(*spawners_of(), signal.SIGKILL)
        assert are_gone(before)  # without a word from us
        assert ex.submit(work.echo, n).result(SOON) == n


# -- once more -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 2])
def test_an_idempotent_item_with_retries_left_runs_again(kind, times, tmp_path):
    with making(kind, 2) as ex:
        submit = submitter(kind, ex, idempotent=True, retries=2)
        assert submit(work.die_at_first, tmp_path / "runs", times).result(SOON) == times + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"idempotent": True}, {"retries": 5}, {"idempotent": False, "retries": 5}],
    ids=str,
)
def test_an_item_that_may_not_run_again_does_not(kind, options, tmp_path):
    with making(kind, 2) as ex:
        future = submitter(kind, ex, **options)(work.die_at_first, tmp_path / "runs")
        assert isinstance(future.exception(SOON), errors.WorkerCrashed)
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("retries", "runs"), [(1, 2), (2, 3), (9, 3)])
def test_an_item_runs_no_more_often_than_its_retries_say_and_kills_three_workers_at_most(
    kind, retries, runs, tmp_path
):
    with making(kind, 2) as ex:
        submit = submitter(kind, ex, idempotent=True, retries=retries)
        future = submit(work.die_at_first, tmp_path / "runs", 99)
        others = [submit(work.echo, n) for n in range(20)]
        error = future.exception(SOON)
        assert isinstance(error, errors.WorkerCrashed)
        assert retries < 3 or "given up" in str(error)
        assert [f.result(SOON) for f in others] == list(range(20))
    assert (tmp_path / "runs").read_text() == "x" * runs


def test_work_that_was_done_is_not_done_again_for_a_result_that_cannot_travel(tmp_path):
    with ProcessExecutor(1) as ex:
        for fn in (work.note_and_return_lock, work.note_and_return_trap):
            path = tmp_path / fn.__name__
            future = ex.submit(task(idempotent=True)(fn), path)
            assert isinstance(future.exception(SOON), errors.PayloadError)
            assert path.read_text() == "x"


def test_many_crashes_at_once_are_each_their_own(ex):
    futures = [ex.submit(work.echo if n % 3 else os._exit, n % 100) for n in range(60)]
    assert not wait(futures, SOON).not_done
    for n, future in enumerate(futures):
        if n % 3:
            assert future.result() == n
        else:
            assert future.exception().exitcode == n
