"""Point 12: `os.fork`, with threads running and locks held."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Run

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]

# What the child does, and that it ends normally: through the interpreter's own exit.
FORK = """
import os, signal, sys

def fork(in_child):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)  # ends a child that hangs
        in_child()
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def use(executor):
    assert executor.submit(abs, -1).result(10) == 1
    assert list(executor.map(abs, range(10), timeout=10)) == list(range(10))
"""


def test_a_forked_child_may_make_its_own_executor(run: Run) -> None:
    script = """
parent = make(2)
use(parent)
for _ in range(3):
    assert fork(lambda: use(make(2))) == 3
    use(parent)
print("fine")
"""
    done = run(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_forked_child_may_use_an_executor_that_was_not_used_before(run: Run) -> None:
    # As in a server that loads its modules first and then forks its workers.
    script = """
early = make(2)
assert fork(lambda: use(early)) == 3
assert fork(lambda: use(early)) == 3
use(early)
print("fine")
"""
    done = run(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_the_child_does_not_do_the_parent_s_queued_work(run: Run) -> None:
    script = """
import threading
release, started = threading.Event(), threading.Event()
parent = make(1)
parent.submit(lambda: (started.set(), release.wait()))
started.wait()
future = parent.submit(os.write, 1, b"once ")
assert fork(lambda: use(make(1))) == 3
release.set()
future.result()
print("fine")
"""
    done = run(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once fine\n", "")


def test_a_fork_while_other_threads_submit_leaves_no_lock_held(run: Run) -> None:
    script = """
import threading
parent = make(2)
over = threading.Event()

def hammer():
    while not over.is_set():
        for future in [parent.submit(abs, -1) for _ in range(20)]:
            future.add_done_callback(id)
            future.result()

threads = [threading.Thread(target=hammer) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    for _ in range(10):
        assert fork(lambda: (use(make(2)), over.set())) == 3
finally:
    over.set()
for thread in threads:
    thread.join()
use(parent)
print("fine")
"""
    done = run(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_a_call_may_fork(run: Run) -> None:
    script = """
parent = make(2)

def work():
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        use(make(1))
        os._exit(4)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert parent.submit(work).result() == 4
use(parent)
print("fine")
"""
    done = run(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_an_executor_that_was_used_before_the_fork_says_so_or_works_in_the_child(
    run_ours: Run,
) -> None:
    # The stdlib's waits for ever here.
    script = """
parent = make(2)
use(parent)

def in_child():
    try:
        use(parent)
    except RuntimeError as error:
        assert "fork" in str(error), error
    parent.shutdown()

assert fork(in_child) == 3
use(parent)
print("fine")
"""
    done = run_ours(FORK + script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
