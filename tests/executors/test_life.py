"""When workers end and others begin: after so many items, when idle, when grown too large."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from hybrid_compute.executors import _crew, _upkeep
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.tasks import task

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test
STEP = threading.Event()  # never set: waiting for it is a pause

# By value, so that no worker need import this module and all that is imported here.
PID = lambda *_: os.getpid()


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        STEP.wait(0.002)


def lives(pid):
    return Path(f"/proc/{pid}").exists()


def pids(executor, count):
    return [executor.submit(PID).result(SOON) for _ in range(count)]


def meeting(folder):
    """Return work that is done when as many calls of it as there are names run side by side."""

    def meet(mine, names):
        (folder / mine).touch()
        while not all((folder / each).exists() for each in names):
            time.sleep(0.002)
        return os.getpid()

    return meet


def meet(executor, folder, names):
    folder.mkdir()
    work = meeting(folder)
    return [f.result(SOON) for f in [executor.submit(work, each, names) for each in names]]


# -- after so many items -------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3])
def test_a_worker_is_replaced_after_so_many_items(most):
    with ProcessExecutor(1, max_tasks_per_child=most) as ex:
        found = pids(ex, 3 * most)
    assert list(Counter(found).values()) == [most] * 3
    assert found == sorted(found, key=found.index)


def test_without_a_number_a_worker_is_never_replaced():
    with ProcessExecutor(1) as ex:
        assert len(set(pids(ex, 200))) == 1


@pytest.mark.parametrize(("most", "items"), [(1, 16), (2, 24), (7, 100), (300, 3000)])
def test_no_worker_gets_more_items_than_that_in_a_burst_and_none_is_lost(most, items):
    with ProcessExecutor(2, max_tasks_per_child=most) as ex:
        futures = [ex.submit(lambda n: (n, os.getpid()), n) for n in range(items)]
        results = [f.result(SOON) for f in futures]
    assert [n for n, _ in results] == [*range(items)]
    assert max(Counter(pid for _, pid in results).values()) <= most


def test_no_worker_gets_more_items_than_that_from_many_threads():
    results = []

    def submit_some(ex):
        futures = [ex.submit(PID) for _ in range(40)]
        results.extend([f.result(SOON) for f in futures])

    with ProcessExecutor(2, max_tasks_per_child=10) as ex:
        threads = [threading.Thread(target=submit_some, args=(ex,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 160
    assert max(Counter(results).values()) <= 10


def test_a_chunk_of_a_map_is_one_item():
    with ProcessExecutor(1, max_tasks_per_child=2) as ex:
        found = list(ex.map(PID, range(60), chunksize=10))
    assert list(Counter(found).values()) == [20, 20, 20]


def test_a_map_gives_all_results_though_each_chunk_has_a_worker_of_its_own():
    with ProcessExecutor(2, max_tasks_per_child=1) as ex:
        assert list(ex.map(lambda n: n * n, range(300), chunksize=20)) == [
            n * n for n in range(300)
        ]


def test_items_that_fail_count():
    with ProcessExecutor(1, max_tasks_per_child=2) as ex:
        first = pids(ex, 1)
        assert isinstance(ex.submit(divmod, 1, 0).exception(SOON), ZeroDivisionError)
        assert pids(ex, 1) != first


def test_as_many_workers_as_there_may_be_run_side_by_side_after_replacements(tmp_path):
    with ProcessExecutor(2, max_tasks_per_child=1) as ex:
        found = [meet(ex, tmp_path / str(n), ["a", "b"]) for n in range(4)]
    assert len({pid for pair in found for pid in pair}) == 8


def test_there_are_never_more_workers_at_work_than_there_may_be(tmp_path):
    def count_those_at_work(n):
        mine = tmp_path / f"{n}-{os.getpid()}"
        mine.touch()
        count = len(list(tmp_path.iterdir()))
        mine.unlink()
        return count

    with ProcessExecutor(2, max_tasks_per_child=1) as ex:
        futures = [ex.submit(count_those_at_work, n) for n in range(14)]
        assert max(f.result(SOON) for f in futures) <= 2


def test_replaced_workers_end():
    with ProcessExecutor(1, max_tasks_per_child=1) as ex:
        found = pids(ex, 4)
        until(lambda: not any(map(lives, found)))
        until(lambda: not ex._pids())


def test_a_replaced_worker_ends_as_programs_end(tmp_path):
    def at_exit():
        import atexit

        atexit.register((tmp_path / "ended").touch)

    with ProcessExecutor(1, max_tasks_per_child=1) as ex:
        ex.submit(at_exit).result(SOON)
        until((tmp_path / "ended").exists)


def test_a_new_worker_runs_the_initializer(tmp_path):
    with ProcessExecutor(
        1, lambda: setattr(sys, "started", os.getpid()), max_tasks_per_child=1
    ) as ex:
        for _ in range(3):
            mine, started = ex.submit(lambda: (os.getpid(), sys.started)).result(SOON)
            assert mine == started


def test_shutdown_finishes_a_queue_that_needs_many_workers():
    ex = ProcessExecutor(2, max_tasks_per_child=1)
    futures = [ex.submit(PID) for _ in range(8)]
    ex.shutdown()
    assert len({f.result(0) for f in futures}) == 8


# -- when idle -----------------------------------------------------------------------------------


def test_idle_workers_and_their_spawner_end_and_work_begins_anew():
    with ProcessExecutor(2, idle_timeout=0.05) as ex:
        for _ in range(2):
            (first,) = pids(ex, 1)
            spawner = ex._pool.reader._lives._spawner.process.pid
            until(lambda: not ex._pids())
            until(lambda pids=(first, spawner): not any(map(lives, pids)))
        assert ex.submit(abs, -1).result(SOON) == 1


def test_all_idle_workers_end(tmp_path):
    with ProcessExecutor(3, idle_timeout=0.05) as ex:
        found = meet(ex, tmp_path / "a", ["a", "b", "c"])
        assert len(set(found)) == 3
        until(lambda: not any(map(lives, found)))


def test_a_worker_stays_as_long_as_it_says():
    with ProcessExecutor(1, idle_timeout=1000) as ex:
        first = pids(ex, 1)
        until(lambda: ex._pool.idle)
        ex._pool.wake()
        assert pids(ex, 5) == first * 5


def test_a_worker_that_was_done_before_its_submitter_ends_when_idle(monkeypatch):
    flush = _crew.Worker.flush

    def flush_and_dawdle(worker):
        flush(worker)
        if threading.current_thread() is threading.main_thread():
            until(lambda: not worker.messages)
            STEP.wait(0.4)  # the reader has looked for idle ones, and sleeps again

    with ProcessExecutor(1, idle_timeout=0.2) as ex:
        ex.submit(abs, 1).result(SOON)
        until(lambda: ex._pool.idle)
        monkeypatch.setattr(_crew.Worker, "flush", flush_and_dawdle)
        ex.submit(abs, 1).result(SOON)
        deadline = time.monotonic() + 5
        while ex._pids() and time.monotonic() < deadline:
            STEP.wait(0.01)
        assert not ex._pids()


def test_a_worker_that_works_for_longer_than_the_timeout_is_not_idle(tmp_path):
    def wait_for(path):
        while not path.exists():
            time.sleep(0.002)
        return os.getpid()

    with ProcessExecutor(2, idle_timeout=0.05) as ex:
        a, b = meet(ex, tmp_path / "a", ["a", "b"])
        long = ex.submit(wait_for, tmp_path / "go")
        # The other one's end tells that the time is up.
        until(lambda: lives(a) + lives(b) == 1)
        ex._pool.wake()
        (tmp_path / "go").touch()
        assert long.result(SOON) in (a, b)


def test_items_that_come_as_workers_end_are_all_done():
    with ProcessExecutor(2, idle_timeout=0.003) as ex:
        for n in range(60):
            STEP.wait(0.0005 * (n % 8))
            assert ex.submit(abs, -n).result(SOON) == n


def test_an_idle_executor_that_is_shut_down_ends_at_once():
    ex = ProcessExecutor(1, idle_timeout=0.05)
    ex.submit(abs, 1).result(SOON)
    until(lambda: not ex._pids())
    ex.shutdown()
    assert not ex._pool.thread.is_alive()


def test_a_worker_that_keeps_a_large_argument_ends_when_idle(monkeypatch):
    monkeypatch.setattr(_upkeep, "_TRIM_SECONDS", 0.01)
    with ProcessExecutor(1, idle_timeout=0.1) as ex:
        ex.submit(lambda x: setattr(sys, "kept", x), bytearray(3_000_000)).result(SOON)
        until(lambda: not ex._pids())


def test_the_reader_sleeps_while_nothing_happens(monkeypatch):
    monkeypatch.setattr(_upkeep, "_TRIM_SECONDS", 0.01)
    with ProcessExecutor(1, idle_timeout=1000) as ex:
        # It stays in use, so that there is always something that might be given back.
        kept = ex.submit(lambda x: setattr(sys, "kept", memoryview(x)), bytearray(3_000_000))
        kept.result(SOON)
        reader = ex._pool.thread
        clock = time.pthread_getcpuclockid(reader.ident)
        STEP.wait(0.1)
        before = time.clock_gettime(clock)
        STEP.wait(0.3)
        assert time.clock_gettime(clock) - before < 0.1


# -- when grown ----------------------------------------------------------------------------------

LIMIT = 80_000_000  # bytes; a worker that has done nothing has some 15 MB


GROW = lambda: (setattr(sys, "kept", bytearray(b"x") * 90_000_000), os.getpid())[1]


@pytest.fixture
def psutil():
    return pytest.importorskip("psutil")


def test_a_worker_that_has_grown_too_large_is_replaced_after_the_item(psutil):
    with ProcessExecutor(1, max_memory_per_child=LIMIT) as ex:
        first = ex.submit(GROW).result(SOON)
        (second,) = pids(ex, 1)
        assert second != first
        until(lambda: not lives(first))


def test_a_worker_that_grows_later_is_replaced_soon(psutil, monkeypatch):
    monkeypatch.setattr(_upkeep, "_LOOK_SECONDS", 0.0)
    with ProcessExecutor(1, max_memory_per_child=LIMIT) as ex:
        first = pids(ex, 10)
        assert len(set(first)) == 1
        assert ex.submit(GROW).result(SOON) == first[0]
        assert pids(ex, 1) != first[:1]


def test_a_worker_that_stays_small_stays(psutil, monkeypatch):
    monkeypatch.setattr(_upkeep, "_LOOK_SECONDS", 0.0)
    with ProcessExecutor(1, max_memory_per_child=LIMIT) as ex:
        assert len(set(pids(ex, 100))) == 1


def test_memory_that_was_given_back_in_the_item_does_not_count(psutil, monkeypatch):
    monkeypatch.setattr(_upkeep, "_LOOK_SECONDS", 0.0)
    with ProcessExecutor(1, max_memory_per_child=LIMIT) as ex:
        first = ex.submit(lambda: (len(bytearray(b"x") * 90_000_000), os.getpid())[1])
        assert pids(ex, 3) == [first.result(SOON)] * 3


def test_items_behind_one_that_grows_its_worker_are_all_done(psutil):
    with ProcessExecutor(2, max_memory_per_child=LIMIT) as ex:
        futures = [ex.submit(GROW if n % 20 == 0 else PID) for n in range(100)]
        assert all(f.result(SOON) for f in futures)


def test_the_caller_is_told_of_psutil_only_if_it_needs_it():
    with ProcessExecutor(1) as ex:
        ex.submit(abs, 1).result(SOON)
        assert ex._pool.workers[0].process is None


# -- how running work is ended -------------------------------------------------------------------


def running(folder, *, handler=None):
    """Return work that tells when it runs, and does until it is ended."""

    def work():
        if handler == "ignores":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif handler == "cleans up":

            def clean_up(*_):
                (folder / "begun to clean").touch()
                while not (folder / "cleaned").exists():
                    time.sleep(0.002)
                os._exit(0)

            signal.signal(signal.SIGTERM, clean_up)
        (folder / "pid").write_text(str(os.getpid()))
        (folder / "runs").touch()
        while True:
            time.sleep(1)

    return work


def test_work_has_time_to_clean_up_before_it_is_killed(tmp_path):
    with ProcessExecutor(1, kill_grace=SOON) as ex:
        future = ex.submit(running(tmp_path, handler="cleans up"))
        until((tmp_path / "runs").exists)
        ended = []
        thread = threading.Thread(target=lambda: ended.append(future.cancel_running()))
        thread.start()
        until((tmp_path / "begun to clean").exists)
        assert not future.done()
        (tmp_path / "cleaned").touch()
        thread.join(SOON)
        assert ended == [True]


@pytest.mark.parametrize("grace", [0, 0.1])
def test_work_that_does_not_heed_is_killed_after_the_grace(tmp_path, grace):
    with ProcessExecutor(1, kill_grace=grace) as ex:
        future = ex.submit(running(tmp_path, handler="ignores"))
        until((tmp_path / "runs").exists)
        begun = time.monotonic()
        assert future.cancel_running()
        assert time.monotonic() - begun >= grace
        assert not lives(int((tmp_path / "pid").read_text()))


def test_work_that_heeds_is_ended_long_before_the_grace_is_over(tmp_path):
    with ProcessExecutor(1, kill_grace=1000) as ex:
        future = ex.submit(running(tmp_path))
        until((tmp_path / "runs").exists)
        assert future.cancel_running()


def test_items_with_a_timeout_count():
    with ProcessExecutor(1, max_tasks_per_child=1) as ex:
        first = ex.submit(PID)
        second = ex.submit(task(timeout=1000)(PID))
        assert first.result(SOON) != second.result(SOON)


def test_a_worker_that_stays_awake_for_the_next_call_goes_to_sleep_when_none_comes():
    with ProcessExecutor(1) as ex:
        for number in range(200):  # each soon after the answer before it
            ex.submit(abs, number).result()
        before = ex.submit(time.process_time).result()
        time.sleep(1)
        used = ex.submit(time.process_time).result() - before
    assert used < 0.5
