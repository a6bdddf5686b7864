"""What a signal handler that raises costs: the `submit` that it cuts short, and nothing else.

The interpreter runs signal handlers between two instructions of the main thread: when a function
is entered, and after a call. A profile function that raises stands in for one that raises there;
so each of these places is tried, one after the other. The places within C code and at the end of
loops are left to a timer that fires at random.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

import hybrid_compute
from hybrid_compute import errors
from hybrid_compute._functions import CallEncoder
from hybrid_compute.executors.process import ProcessExecutor

FOLDER = str(Path(hybrid_compute.__file__).parent)
ROOT = str(Path(FOLDER).parent)
OURS = tuple(f"{FOLDER}/{name}" for name in ("executors/", "abc", "items"))
SOON = 60


class Interrupt(BaseException):
    pass


def interrupted(place, call):
    """Raise Interrupt at the so many-th place where a signal handler may; tell if it got there.

    Pickling is left out: what comes out of it cannot be told from the pickled object's fault.
    """
    events = itertools.count()

    def profile(frame, event, _):
        if (
            event in ("call", "c_return")
            and frame.f_code.co_filename.startswith(OURS)
            and next(events) == place
        ):
            sys.setprofile(None)
            raise Interrupt

    sys.setprofile(profile)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def wait_until(condition):
    pause = threading.Event()
    for _ in range(SOON * 1000):
        if condition():
            return
        pause.wait(0.001)
    pytest.fail("it did not come true")


def note(path, number, _=b""):
    with open(path, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    return number


def noted(path):
    return Counter(map(int, Path(path).read_text().split()))


@pytest.mark.parametrize("size", [0, 5000, 1_000_000], ids="{} bytes".format)
def test_a_submit_to_an_idle_worker_may_be_cut_short_anywhere(tmp_path, size):
    path, data = str(tmp_path / "ran"), bytes(size)
    with ProcessExecutor(1) as ex:
        places = range(1000)
        for place in places:
            # What comes next is done, and done by the same worker.
            assert ex.submit(note, path, -1 - place).result(SOON) == -1 - place
            wait_until(lambda: ex._pool.idle)
            (pid,) = ex._pids()
            if not interrupted(place, lambda n=place: ex.submit(note, path, n, data)):
                break
            assert ex._pids() == [pid]
        assert 20 < place < places[-1]
    ran = noted(path)
    assert set(ran.values()) == {1}
    assert place in ran


def test_a_submit_to_busy_workers_may_be_cut_short_anywhere(tmp_path):
    path, gate = str(tmp_path / "ran"), tmp_path / "gate"
    os.mkfifo(gate)
    with ProcessExecutor(1) as ex:
        first = ex.submit(gate.read_text)
        wait_until(lambda: ex.counts()[1])
        for place in range(1000):
            if not interrupted(place, lambda n=place: ex.submit(note, path, n)):
                break
        gate.write_text("go")
        assert first.result(SOON) == "go"
        assert ex.submit(abs, -1).result(SOON) == 1
    ran = noted(path)
    assert set(ran.values()) == {1}
    assert place in ran


@pytest.mark.leaks("a pipe, if the interrupt comes before anybody can know of it")
def test_the_first_submit_may_be_cut_short_anywhere(tmp_path):
    path = str(tmp_path / "ran")
    for place in range(1000):
        with ProcessExecutor(1) as ex:
            hit = interrupted(place, lambda n=place, ex=ex: ex.submit(note, path, n))
            assert ex.submit(note, path, -1 - place).result(SOON) == -1 - place
        if not hit:
            break
    assert place > 10
    ran = noted(path)
    assert set(ran.values()) == {1}
    assert place in ran


RANDOM = """
import random, signal
from hybrid_compute.executors.process import ProcessExecutor

class Interrupt(BaseException):
    pass

def interrupt(*_):
    raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
with ProcessExecutor(2) as ex:
    for _ in range(500):
        futures = []
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-4))
            for _ in range(50):
                futures.append(ex.submit(int))
        except Interrupt:
            pass
        finally:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                pass
        for future in futures:  # it may have hit the pickling of one: that is this one's outcome
            assert future.exception(30) is None or "Interrupt" in str(future.exception())
    assert ex.submit(int).result(30) == 0
print("done")
"""


def test_submits_may_be_cut_short_at_random():
    done = subprocess.run(
        [sys.executable, "-c", RANDOM],
        capture_output=True,
        text=True,
        timeout=SOON,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
    )
    # The interpreter itself reports one that landed in a weak reference's callback on stderr.
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_interrupted_start_of_the_first_thread_harms_nobody(monkeypatch):
    start = threading.Thread.start

    def start_and_raise(thread):
        monkeypatch.undo()
        start(thread)
        raise KeyboardInterrupt  # as Ctrl-C does while start() waits for the thread

    with ProcessExecutor(1) as ex:
        monkeypatch.setattr(threading.Thread, "start", start_and_raise)
        with pytest.raises(KeyboardInterrupt):
            ex.submit(abs, -1)
        assert ex.submit(abs, -2).result(SOON) == 2


def test_a_start_that_was_given_up_is_tried_again(monkeypatch):
    def refuse(_):
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    with ProcessExecutor(1) as ex:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ex.submit(abs, -1)
        assert ex.counts() == (0, 0)
        assert ex.submit(abs, -2).result(SOON) == 2


class InterruptedOnce:
    """Ctrl-C comes while it is pickled."""

    def __init__(self):
        self.times = 0

    def __reduce__(self):
        self.times += 1
        if self.times == 1:
            signal.raise_signal(signal.SIGINT)
        return int, ()


def test_ctrl_c_during_pickling_is_raised_and_harms_nobody():
    with ProcessExecutor(1) as ex:
        ex.submit(abs, 1).result(SOON)
        wait_until(lambda: ex._pool.idle)
        argument = InterruptedOnce()
        with pytest.raises(KeyboardInterrupt):
            ex.submit(abs, argument)
        assert ex.submit(abs, -2).result(SOON) == 2
        assert not ex._pool.broken


class Interrupts:
    def __reduce__(self):
        raise KeyboardInterrupt


def test_an_argument_that_raises_ctrl_c_fails_on_another_thread_as_any_does():
    with ProcessExecutor(1) as ex:
        future = ex.submit(abs, Interrupts())  # no worker is idle: the reader pickles it
        assert isinstance(future.exception(SOON), errors.TaskEncodeError)


def test_ctrl_c_is_never_taken_for_the_fault_of_what_is_pickled():
    encoder = CallEncoder()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_call(abs, (Interrupts(),), None, name="it")
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_calls([(abs, (Interrupts(),), None)])


def test_ctrl_c_while_the_queue_is_cancelled_forgets_no_item(tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with ProcessExecutor(1) as ex:
        first = ex.submit(gate.read_text)
        wait_until(lambda: ex.counts()[1])
        futures = [ex.submit(abs, n) for n in range(9)]
        futures[4].add_done_callback(lambda _: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ex.shutdown(cancel_futures=True)
        assert all(each.cancelled() for each in futures)
        gate.write_text("go")
        assert first.result(SOON) == "go"
