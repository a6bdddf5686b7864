"""Points 10 and 11: the end of the interpreter, and scripts as people write them.

Each script runs in an interpreter of its own; `make` is defined in front of it.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Run

pytestmark = pytest.mark.timeout(120)

# Keeps the worker busy until the main program has come to its end, so that the rest of the work
# is still in the queue then. (What is registered last is called first, before the executors are
# told to end.)
UNTIL_THE_END = """
import os, sys, threading
ended = threading.Event()
threading._register_atexit(ended.set)

def work(n):
    if n == 0:
        ended.wait()
    os.write(1, b"%d " % n)

executor = make(max_workers=1)
"""
QUEUE = UNTIL_THE_END + "for n in range(20):\n    executor.submit(work, n)\n"
ALL_DONE = "".join(f"{n} " for n in range(20))


def test_queued_calls_run_before_the_interpreter_exits(run: Run) -> None:
    done = run(QUEUE)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE, "")


def test_queued_calls_of_a_map_run_before_the_interpreter_exits(run: Run) -> None:
    done = run(UNTIL_THE_END + "results = executor.map(work, range(20))\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE, "")


def test_the_exit_status_is_kept(run: Run) -> None:
    done = run(QUEUE + "sys.exit(7)\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, ALL_DONE, "")


def test_an_error_of_the_main_program_costs_no_work(run: Run) -> None:
    done = run(QUEUE + "raise KeyError('mine')\n")
    assert (done.returncode, done.stdout) == (1, ALL_DONE)
    assert done.stderr.endswith("KeyError: 'mine'\n")
    assert done.stderr.count("Traceback") == 1


def test_ctrl_c_costs_no_work(run: Run) -> None:
    done = run(QUEUE + "import signal\nsignal.raise_signal(signal.SIGINT)\n")
    assert (done.returncode, done.stdout) == (-signal.SIGINT, ALL_DONE)
    assert done.stderr.count("KeyboardInterrupt") == 1


def test_ctrl_c_interrupts_result_and_costs_no_work(run: Run) -> None:
    script = """
        import os, signal, threading

        def once(*_):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, once)
        waiting, interrupted = threading.Event(), threading.Event()

        def work(n):
            if n == 0:
                waiting.wait()
                # Again and again: one that comes just before the main thread starts to wait
                # is noticed only when it is woken; that is CPython's.
                os.kill(os.getpid(), signal.SIGINT)
                while not interrupted.wait(0.05):
                    os.kill(os.getpid(), signal.SIGINT)
            os.write(1, b"%d " % n)

        executor = make(max_workers=1)
        futures = [executor.submit(work, n) for n in range(20)]
        try:
            waiting.set()
            futures[-1].result()
        except KeyboardInterrupt:
            interrupted.set()
        """
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE, "")


def test_ctrl_c_in_a_block_waits_for_the_work(run: Run) -> None:
    script = """
        import os, signal, threading

        def once(*_):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, once)
        waiting, interrupted = threading.Event(), threading.Event()

        def work(n):
            if n == 0:
                waiting.wait()
                # Again and again: one that comes just before the main thread starts to wait
                # is noticed only when it is woken; that is CPython's.
                os.kill(os.getpid(), signal.SIGINT)
                while not interrupted.wait(0.05):
                    os.kill(os.getpid(), signal.SIGINT)
            os.write(1, b"%d " % n)

        try:
            with make(max_workers=1) as executor:
                results = executor.map(work, range(20))
                last = executor.submit(work, 20)
                try:
                    waiting.set()
                    last.result()
                finally:
                    interrupted.set()
        except KeyboardInterrupt:
            os.write(1, b"interrupted")
        """
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE + "20 interrupted", "")


def test_an_executor_that_was_dropped_does_its_work_before_the_exit(run: Run) -> None:
    done = run(QUEUE + "del executor\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE, "")


def test_an_executor_in_a_cycle_does_its_work_before_the_exit(run: Run) -> None:
    done = run(QUEUE + "cycle = [executor]\ncycle.append(cycle)\ndel executor, cycle\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_DONE, "")


def test_idle_and_unused_executors_do_not_hold_the_exit_up(run: Run) -> None:
    script = """
        unused = make(4)
        idle = make(4)
        assert list(idle.map(abs, range(100))) == list(range(100))
        idle.submit(abs, 1).result()
        over = make(4)
        over.shutdown()
        """
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_call_that_is_still_queued_may_not_submit_more(run: Run) -> None:
    script = """
        import os, threading
        ended = threading.Event()
        threading._register_atexit(ended.set)

        def work():
            ended.wait()
            try:
                executor.submit(print, "more")
            except RuntimeError as error:
                os.write(1, str(error).encode())

        executor = make(max_workers=2)
        executor.submit(work)
        """
    done = run(script)
    # The event is set a moment before executors are told of the end.
    refused = "cannot schedule new futures after "
    assert done.stdout in (f"{refused}shutdown", f"{refused}interpreter shutdown", "more\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_submit_is_refused_in_atexit(run: Run) -> None:
    script = """
        import atexit

        @atexit.register
        def at_exit():
            for executor in unused, used, make(2):
                try:
                    executor.submit(print, "ran")
                except RuntimeError as error:
                    print(error)

        unused, used = make(2), make(2)
        used.submit(abs, 1).result()
        """
    done = run(script)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0] == lines[2] == "cannot schedule new futures after interpreter shutdown"
    assert lines[1].startswith("cannot schedule new futures after ")
    assert (done.returncode, done.stderr) == (0, "")


def test_sys_exit_in_a_call_ends_nothing(run: Run) -> None:
    script = """
        import sys
        executor = make(1)
        future = executor.submit(sys.exit, 5)
        assert isinstance(future.exception(), SystemExit)
        print(executor.submit(abs, -1).result())
        """
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_nothing_but_threads_is_loaded_and_started_for_plain_calls(run_ours: Run) -> None:
    script = """
        import sys
        executor = make(2)
        assert list(executor.map(abs, range(10))) == list(range(10))
        assert executor.submit(abs, -1).result() == 1
        heavy = {"requests", "websocket", "cloudpickle", "multiprocessing.process"}
        print(sorted(heavy & set(sys.modules)))
        """
    done = run_ours(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


TOP_LEVEL = """
import os
os.write(1, b"top ")

class Local:
    pass

def work(value):
    value.seen = True
    return value

executor = make(2)
local = Local()
assert executor.submit(work, local).result() is local
assert local.seen
assert [*executor.map(lambda x: x + 1, range(3))] == [1, 2, 3]
os.write(1, b"end")
"""


@pytest.mark.parametrize("how", ["file", "stdin", "-c"])
def test_a_script_without_a_main_guard_runs_once(run: Run, how: str) -> None:
    done = run(TOP_LEVEL, how=how)
    assert (done.returncode, done.stdout, done.stderr) == (0, "top end", "")


def test_a_pool_may_be_made_and_used_by_the_import_of_a_module(run: Run) -> None:
    module = """
import os
from __main__ import make
os.write(1, b"import ")
executor = make(2)
def work(n):
    return n + 1
first = [*executor.map(work, range(3))], executor.submit(work, 1).result()
"""
    script = f"""
import os, pathlib, sys
sys.path.insert(0, os.getcwd())
pathlib.Path("pool_at_import.py").write_text({module!r})
import pool_at_import
assert pool_at_import.first == ([1, 2, 3], 2)
print(pool_at_import.executor.submit(pool_at_import.work, 5).result())
"""
    done = run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "import 6\n", "")


@pytest.mark.parametrize("how", ["file", "stdin", "-c"])
def test_a_script_with_a_declared_task_needs_no_main_guard_either(
    run_hybrid: Run, how: str
) -> None:
    script = """
        import os
        from hybrid_compute import task

        os.write(1, b"top ")

        @task
        def work(n):
            return n + 1, os.getpid()

        executor = make(2)
        value, pid = executor.options(executor="process").submit(work, 1).result()
        assert value == 2
        assert pid != os.getpid()
        os.write(1, b"end")
        """
    done = run_hybrid(script, how=how)
    assert (done.returncode, done.stdout, done.stderr) == (0, "top end", "")


def test_the_interpreter_under_test_is_the_one_that_runs_the_scripts(run: Run) -> None:
    done = run("import sys\nprint(sys.version)\n")
    assert done.stdout.strip() == sys.version
