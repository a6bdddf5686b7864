"""The end of the caller, by its own will or not: rows 20 to 23 of the matrix.

Each caller is an interpreter of its own. What the stdlib's executors do at their end, and after
a fork, is in tests/dropin, for ours too; here are the processes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from concurrent.futures import Future

import pytest

from hybrid_compute import HybridExecutor
from hybrid_compute.executors.process import ProcessExecutor

from . import work
from .processes import (
    are_gone,
    is_alive,
    marked,
    new_mark,
    run_script,
    spawners_of,
    start_script,
    wait_until,
)
from .scenario import KINDS, make, submitter

SOON = work.SOON

MAKE = """
import os, sys, threading, time
from pathlib import Path
from tests.faults import work
from tests.faults.scenario import make, submitter

folder = Path(sys.argv[1])
kind = sys.argv[2] if len(sys.argv) > 2 else "process"
"""


class Caller:
    """A caller in an interpreter of its own, and all processes that come of it."""

    def __init__(self, source, *args):
        self.mark = new_mark()
        self.process = start_script(MAKE + source, *args, mark=self.mark)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in marked(self.mark):  # only a test that fails leaves any
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def family(self):
        """Return all its living processes but itself."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def end(self, timeout=SOON):
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


# -- killed --------------------------------------------------------------------------------------

WORKING = """
ex = make(kind, 3)
submit = submitter(kind, ex)
futures = [
    submit(work.hang, folder / "hang"),  # ignores SIGTERM, with a child that does so too
    submit(work.spin, folder / "spin"),
    submit(work.hold_large, folder / "begun", folder / "never", bytearray(5_000_000)),
    *(submit(work.echo, bytearray(1_000_000)) for n in range(5)),
]
print("ready", flush=True)
futures[0].result()
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_caller_that_is_killed(kind, number, tmp_path):
    with Caller(WORKING, tmp_path, kind) as caller:
        worker, child = work.told(tmp_path / "hang")
        work.told(tmp_path / "spin")
        work.wait_for_file(tmp_path / "begun")
        family = caller.family()
        assert len(family) == 5  # the spawner, three workers and a child of one
        assert {worker, child} < set(family)
        os.kill(caller.process.pid, number)
        assert are_gone(family, 3.0)
        wait_until(lambda: not caller.family())
        assert caller.process.wait(SOON) == -number


IDLE = """
ex = make(kind, 2)
submit = submitter(kind, ex)
both = [submit(work.hold, folder / str(n), folder / "go") for n in range(2)]
for n in range(2):
    work.wait_for_file(folder / str(n))
(folder / "go").touch()
for future in both:
    future.result()
print("ready", flush=True)
time.sleep(1000)
"""


def test_no_idle_worker_outlives_a_caller_that_is_killed(tmp_path):
    with Caller(IDLE, tmp_path) as caller:
        assert caller.process.stdout.readline() == "ready\n"
        family = caller.family()
        assert len(family) == 3
        os.kill(caller.process.pid, signal.SIGKILL)
        assert are_gone(family, 3.0)


STARTING = """
ex = make(kind, 2, initializer=work.hang, initargs=(folder / "hang",))
ex.submit(work.echo, 1).result()
"""


def test_no_worker_that_still_starts_outlives_a_caller_that_is_killed(tmp_path):
    with Caller(STARTING, tmp_path) as caller:
        work.told(tmp_path / "hang")
        family = caller.family()
        assert len(family) == 3  # the spawner, a worker and its child
        os.kill(caller.process.pid, signal.SIGKILL)
        assert are_gone(family, 3.0)


@pytest.mark.parametrize("first", ["caller", "spawner"])
def test_no_process_outlives_a_caller_and_a_spawner_that_are_killed(first, tmp_path):
    with Caller(WORKING, tmp_path) as caller:
        work.told(tmp_path / "hang")
        work.told(tmp_path / "spin")
        family = caller.family()
        (spawner,) = spawners_of(caller.process.pid)
        victims = [spawner, caller.process.pid]
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)  # neither sees to what the other leaves
        for pid in victims if first == "spawner" else reversed(victims):
            os.kill(pid, signal.SIGKILL)
        assert are_gone(family, 3.0)


NESTED = """
def inner(path):
    from tests.faults.scenario import make
    with make("process", 1) as ex:
        ex.submit(work.hang, path).result()

ex = make(kind, 1)
ex.submit(inner, folder / "hang").result()
"""


def test_no_process_of_an_executor_in_a_worker_outlives_a_caller_that_is_killed(tmp_path):
    with Caller(NESTED, tmp_path) as caller:
        work.told(tmp_path / "hang")
        family = caller.family()
        assert len(family) == 5  # two spawners, two workers and a child
        os.kill(caller.process.pid, signal.SIGKILL)
        assert are_gone(family, 3.0)


# -- interrupted ---------------------------------------------------------------------------------

INTERRUPTED = """
with make(kind, 2) as ex:
    submit = submitter(kind, ex)
    running = [
        submit(work.hold_and_note, folder / f"begun-{n}", folder / "go", folder / "held")
        for n in range(2)
    ]
    queued = [submit(work.note, folder / "notes") for n in range(20)]
    try:
        running[0].result()
    finally:
        (folder / "interrupted").touch()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_is_one_keyboard_interrupt_in_the_caller(kind, tmp_path):
    with Caller(INTERRUPTED, tmp_path, kind) as caller:
        for n in range(2):
            work.wait_for_file(tmp_path / f"begun-{n}")
        family = caller.family()
        os.killpg(caller.process.pid, signal.SIGINT)  # as the terminal does
        work.wait_for_file(tmp_path / "interrupted")
        assert all(is_alive(pid) for pid in family)  # their work is not interrupted
        (tmp_path / "go").touch()
        code, out, err = caller.end()
    assert (code, out) == (-signal.SIGINT, "")
    assert err.count("Traceback") == 1
    assert err.count("KeyboardInterrupt") == 1
    assert err.endswith("KeyboardInterrupt\n")
    assert (tmp_path / "held").read_text() == "xx"
    assert (tmp_path / "notes").read_text() == "x" * 20
    assert are_gone(family, 0)


UNSHIELDED = """
ex = make(kind, 2)
futures = [ex.submit(work.echo, n) for n in range(100)]
assert [f.result() for f in futures] == list(range(100))
try:
    print("ready", flush=True)
    time.sleep(1000)
finally:
    print(ex.submit(work.echo, "works on").result(), flush=True)
"""


def test_idle_workers_do_not_see_ctrl_c(tmp_path):
    with Caller(UNSHIELDED, tmp_path) as caller:
        assert caller.process.stdout.readline() == "ready\n"
        os.killpg(caller.process.pid, signal.SIGINT)
        code, out, err = caller.end()
    assert (code, out) == (-signal.SIGINT, "works on\n")
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1


# -- at its end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_ends_waits_for_its_work_and_leaves_no_process(kind, tmp_path):
    source = """
ex = make(kind, 2)
submit = submitter(kind, ex)
for n in range(2):
    submit(work.hold, folder / f"begun-{n}", folder / "go")
for n in range(20):
    submit(work.note, folder / "notes")
threading._register_atexit((folder / "ending").touch)
"""
    with Caller(source, tmp_path, kind) as caller:
        work.wait_for_file(tmp_path / "ending")
        for n in range(2):
            work.wait_for_file(tmp_path / f"begun-{n}")
        with pytest.raises(subprocess.TimeoutExpired):
            caller.process.wait(0.2)
        (tmp_path / "go").touch()
        assert caller.end() == (0, "", "")
        assert caller.family() == []
    assert (tmp_path / "notes").read_text() == "x" * 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_ends_may_cancel_what_is_queued(kind, tmp_path):
    source = """
ex = make(kind, 2)
submit = submitter(kind, ex)
for n in range(2):
    submit(work.hold, folder / f"begun-{n}", folder / "go")
    work.wait_for_file(folder / f"begun-{n}")
for n in range(20):
    submit(work.note, folder / "notes")
ex.shutdown(wait=False, cancel_futures=True)
(folder / "go").touch()
"""
    with Caller(source, tmp_path, kind) as caller:
        assert caller.end() == (0, "", "")
        assert caller.family() == []
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_of_pending_work_does_not_hold_the_end_of_the_caller_up(kind, tmp_path):
    source = """
ex = make(kind, 1)
again = submitter(kind, ex, idempotent=True, retries=2)
submit = submitter(kind, ex)
submit(work.hold, folder / "begun", folder / "go")
submit(os._exit, 3).add_done_callback(lambda crashed: crashed.exception())
again(work.die_at_first, folder / "runs")
for n in range(20):
    submit(work.note, folder / "notes")
threading._register_atexit((folder / "go").touch)
"""
    with Caller(source, tmp_path, kind) as caller:
        assert caller.end() == (0, "", "")
        assert caller.family() == []
    assert (tmp_path / "notes").read_text() == "x" * 20
    assert (tmp_path / "runs").read_text() == "xx"


def test_pending_work_with_a_deadline_does_not_hold_the_end_of_the_caller_up(tmp_path):
    source = """
from hybrid_compute import task
ex = make(kind, 1, kill_grace=0.2)
ex.submit(abs, 1).result()
for n in range(3):
    hung = ex.submit(task(timeout=0.5)(work.hang), folder / "hang")
    hung.add_done_callback(lambda hung: hung.exception())
"""
    with Caller(source, tmp_path) as caller:
        assert caller.end(20) == (0, "", "")
        assert caller.family() == []


def test_the_end_of_the_caller_says_nothing_on_stderr_however_its_workers_died(tmp_path):
    source = """
import signal
ex = make(kind, 2)
for fn, *args in [
    (work.kill_myself,), (os._exit, 3), (work.silent_segfault,),
    (work.raise_it, ValueError("mine")), (work.make_lock,),
]:
    assert ex.submit(fn, *args).exception() is not None
"""
    with Caller(source, tmp_path) as caller:
        assert caller.end() == (0, "", "")


# -- forks ---------------------------------------------------------------------------------------


def in_child(check):
    """Fork, let the child check something, and return its exit code: 0 if it was true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(20)  # ends a child that hangs
            code = 0 if check() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_is_told_that_the_executor_is_its_parents(kind):
    with make(kind, 2) as ex:
        submit = submitter(kind, ex)
        assert submit(work.echo, 1).result(SOON) == 1

        def is_refused():
            try:
                submit(work.echo, 2)
            except RuntimeError as error:
                return "forked child" in str(error)
            return False

        assert in_child(is_refused) == 0
        assert submit(work.echo, 3).result(SOON) == 3


def test_a_fork_while_work_is_under_way_costs_the_parent_nothing(tmp_path):
    with ProcessExecutor(2) as ex:
        running = ex.submit(work.hold, tmp_path / "begun", tmp_path / "go", 1)
        queued = [ex.submit(work.echo, n) for n in range(100)]
        crashing = ex.submit(os._exit, 3)
        work.wait_for_file(tmp_path / "begun")

        def makes_its_own():
            with ProcessExecutor(1) as own:
                return own.submit(work.echo, 5).result(SOON) == 5

        for _ in range(3):
            assert in_child(makes_its_own) == 0
        (tmp_path / "go").touch()
        assert running.result(SOON) == 1
        assert [f.result(SOON) for f in queued] == list(range(100))
        assert crashing.exception(SOON).exitcode == 3


def test_the_end_of_a_forked_child_ends_none_of_its_parents_workers():
    with ProcessExecutor(1) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        assert in_child(lambda: ex.shutdown() is None) == 0
        assert ex.submit(os.getpid).result(SOON) == pid


def test_a_worker_that_starts_while_locks_are_held_can_take_them(tmp_path):
    held, over = threading.Event(), threading.Event()

    def hold_locks():
        with logging._lock, work.LOCK:
            held.set()
            over.wait(SOON)

    holder = threading.Thread(target=hold_locks)
    holder.start()
    try:
        assert held.wait(SOON)
        with ProcessExecutor(2) as ex:
            assert ex.submit(work.take_locks).result(SOON) == "taken"
            # The same for a worker that takes the place of one which has died with its locks.
            assert ex.submit(work.die_with_locks).exception(SOON).exitcode == 4
            assert ex.submit(work.take_locks).result(SOON) == "taken"
    finally:
        over.set()
        holder.join()


def test_a_fork_while_other_threads_submit_to_processes_leaves_no_lock_held():
    with HybridExecutor(2, max_processes=2) as ex:
        submit = submitter("options", ex)
        over = threading.Event()
        failures: Future = Future()

        def hammer():
            try:
                while not over.is_set():
                    for future in [submit(work.echo, n) for n in range(20)]:
                        future.result(SOON)
            except BaseException as error:
                failures.set_exception(error)

        def works():
            with ProcessExecutor(1) as own:
                return own.submit(work.echo, 5).result(SOON) == 5

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert [in_child(works) for _ in range(5)] == [0] * 5
        finally:
            over.set()
            for thread in threads:
                thread.join(SOON)
        assert not failures.done()


def test_a_script_that_forks_and_ends_waits_for_its_own_work_only(tmp_path):
    source = """
ex = make(kind, 1)
ex.submit(work.hold, folder / "begun", folder / "go")
work.wait_for_file(folder / "begun")
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    (folder / "go").touch()
"""
    assert run_script(MAKE + source, tmp_path) == (0, "", "")
