"""What a crash costs: the item that ran, and nothing else.

The ways to die are a table; each is tried in the midst of other work.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import pytest

import hybrid_compute
from hybrid_compute import errors
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.items import WorkItem

ROOT = str(Path(hybrid_compute.__file__).parents[1])
SOON = 60


def segfault():
    faulthandler.disable()
    faulthandler._sigsegv()


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


def echo(x):
    return x


class DiesUnpickling:
    def __reduce__(self):
        return os._exit, (7,)


class DiesPickling:
    def __reduce__(self):
        os._exit(8)


class DiesWhenFreed:
    def __del__(self):
        os._exit(9)


def free_one():
    DiesWhenFreed()


# name: function, arguments, exit code, signal
WAYS = {
    "killed": (kill_myself, (), None, signal.SIGKILL),
    "exit 0": (os._exit, (0,), 0, None),
    "exit 3": (os._exit, (3,), 3, None),
    "segfault": (segfault, (), None, signal.SIGSEGV),
    "abort": (os.abort, (), None, signal.SIGABRT),
    "unpickling its argument": (echo, (DiesUnpickling(),), 7, None),
    "pickling its result": (DiesPickling, (), 8, None),
    "freeing an object": (free_one, (), 9, None),
}


@pytest.fixture
def ex():
    with ProcessExecutor(2) as executor:
        executor.submit(abs, 1).result(SOON)
        yield executor


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_costs_the_item_that_ran(ex, way):
    fn, args, exitcode, number = WAYS[way]
    for future in [ex.submit(echo, i) for i in range(300)]:
        future.result(SOON)  # echo is known to be short, and goes in batches
    ahead = [ex.submit(echo, i) for i in range(300)]
    guilty = ex.submit(fn, *args)
    behind = [ex.submit(echo, i) for i in range(300)]
    with pytest.raises(errors.WorkerCrashed) as caught:
        guilty.result(SOON)
    error = caught.value
    assert isinstance(error, BrokenExecutor)
    assert (error.exitcode, error.signal) == (exitcode, number)
    assert str(error.pid) in str(error)
    assert error.item_name in str(error)
    assert [f.result(SOON) for f in ahead] == list(range(300))
    assert [f.result(SOON) for f in behind] == list(range(300))


def short_or_deadly(x):
    if x == "die":
        os._exit(3)
    return x


def test_a_crash_in_the_middle_of_a_batch_costs_one_item(ex):
    for _ in range(3):
        for future in [ex.submit(short_or_deadly, i) for i in range(300)]:
            future.result(SOON)
    xs = [*range(500), "die", *range(500), "die", *range(500)]
    futures = [ex.submit(short_or_deadly, x) for x in xs]
    for x, future in zip(xs, futures, strict=True):
        if x == "die":
            assert isinstance(future.exception(SOON), errors.WorkerCrashed)
        else:
            assert future.result(SOON) == x


def test_a_deadly_argument_in_the_middle_of_a_batch_costs_one_item(ex):
    for _ in range(3):
        for future in [ex.submit(echo, i) for i in range(300)]:
            future.result(SOON)
    futures = [ex.submit(echo, i if i != 250 else DiesUnpickling()) for i in range(500)]
    assert isinstance(futures.pop(250).exception(SOON), errors.WorkerCrashed)
    assert [f.result(SOON) for f in futures] == [*range(250), *range(251, 500)]


def test_an_idle_worker_that_is_killed_costs_nothing(ex):
    for _ in range(5):
        before = ex.submit(os.getpid).result(SOON)
        os.kill(before, signal.SIGKILL)
        futures = [ex.submit(echo, i) for i in range(100)]
        assert [f.result(SOON) for f in futures] == list(range(100))


class Idempotent(WorkItem):
    __slots__ = ()

    def may_run_again(self):
        return True


def die_at_first(path):
    if not path.exists():
        path.touch()
        kill_myself()
    return "done"


def test_an_item_that_may_run_again_does(ex, tmp_path):
    item = Idempotent(die_at_first, (tmp_path / "died",))
    ex.execute(item)
    assert item.future.result(SOON) == "done"


def count_and_die(path):
    with path.open("a") as file:
        file.write("x")
    kill_myself()


def test_an_item_that_kills_its_worker_three_times_is_given_up(ex, tmp_path):
    item = Idempotent(count_and_die, (tmp_path / "count",))
    ex.execute(item)
    with pytest.raises(errors.WorkerCrashed, match="given up"):
        item.future.result(SOON)
    assert (tmp_path / "count").read_text() == "xxx"


def test_a_large_answer_that_is_torn_costs_its_item_only(ex, monkeypatch):
    def die_while_answering():
        import _thread
        import time

        def die():
            time.sleep(0.001)
            os._exit(5)

        _thread.start_new_thread(die, ())
        return bytes(200_000_000)

    guilty = ex.submit(die_while_answering)
    others = [ex.submit(echo, i) for i in range(100)]
    assert isinstance(guilty.exception(SOON), errors.WorkerCrashed)
    assert [f.result(SOON) for f in others] == list(range(100))


def test_a_dead_spawner_is_replaced(ex):
    ex.submit(abs, 1).result(SOON)
    spawner = ex._pool.reader._spawner.process.pid
    os.kill(spawner, signal.SIGKILL)
    for i in range(20):
        future = ex.submit(echo, i)
        assert future.exception(SOON) is None or isinstance(
            future.exception(), errors.WorkerCrashed
        )
    assert ex.submit(echo, 5).result(SOON) == 5


def test_a_crash_is_survived_from_a_done_callback(ex):
    inner: Future = Future()
    ex.submit(abs, 1).add_done_callback(lambda _: inner.set_result(ex.submit(kill_myself)))
    assert isinstance(inner.result(SOON).exception(SOON), errors.WorkerCrashed)


def test_a_sum_is_right_although_workers_are_killed_at_random():
    rng = random.Random(1)
    over = threading.Event()

    def kill_some(ex):
        while not over.wait(rng.expovariate(30)):
            for pid in ex._pids()[:1]:
                with contextlib.suppress(ProcessLookupError):  # it has just died
                    os.kill(pid, signal.SIGKILL)

    with ProcessExecutor(2) as ex:
        killer = threading.Thread(target=kill_some, args=(ex,))
        killer.start()
        try:
            total = 0
            for start in range(0, 4000, 40):
                # `abs` is there when a worker is: importing this module takes longer than a life.
                items = [Idempotent(abs, (i,)) for i in range(start, start + 40)]
                for item in items:
                    ex.execute(item)
                total += sum(item.future.result(SOON) for item in items)
        finally:
            over.set()
            killer.join()
    assert total == sum(range(4000))


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _gone(pids, seconds=3.0):
    deadline = time.monotonic() + seconds
    while any(map(_alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


PARENT = """
import os, sys, time
from hybrid_compute import ProcessExecutor

def busy():
    while True: pass

ex = ProcessExecutor(2)
pids = [ex.submit(os.getpid).result()]
futures = [ex.submit(busy), ex.submit(time.sleep, 1000)]
while len(ex._pids()) < 2 or not all(f.running() for f in futures): pass
try:
    print(ex._pool.reader._spawner.process.pid, *ex._pids(), flush=True)
    futures[0].result()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    os._exit(0)
"""


def start_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    return parent, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_caller(number):
    parent, pids = start_parent()
    with parent:
        os.kill(parent.pid, number)
    assert len(pids) == 3
    assert _gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="needs F_SETSIG")
def test_no_worker_outlives_its_caller_and_its_spawner():
    parent, pids = start_parent()
    with parent:
        os.kill(parent.pid, signal.SIGSTOP)
        os.kill(pids[0], signal.SIGKILL)
        os.kill(parent.pid, signal.SIGKILL)
    assert _gone(pids)


def test_ctrl_c_gives_one_keyboard_interrupt():
    parent, pids = start_parent()
    with parent:
        os.killpg(parent.pid, signal.SIGINT)  # as the terminal does
        out, err = parent.communicate(timeout=SOON)
    assert (out, err) == ("interrupted\n", "")
    assert _gone(pids)
