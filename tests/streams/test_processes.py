"""Streams from worker processes: crashes, pickles, and what a worker does afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from hybrid_compute import ProcessExecutor
from hybrid_compute.errors import ResultDecodeError, ResultEncodeError, WorkerCrashed
from tests.streams import work
from tests.streams.conftest import WAIT, eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def ex():
    with ProcessExecutor(1) as executor:
        yield executor


def dies(n):
    yield from range(n)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    yield "never"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 700])
def test_a_worker_that_is_killed_has_sent_its_items(ex, n, late):  # row 29
    stream = ex.stream(dies, n)
    if late:  # all of them are read when it is dead
        eventually(lambda: stream._channel.ended)
    got = []
    with pytest.raises(WorkerCrashed, match="dies"):
        got.extend(iter(stream.__next__, None))
    assert got == list(range(n))
    assert ex.submit(pow, 2, 3).result(WAIT) == 8


def test_killed_from_outside_while_it_waits_for_its_consumer(ex, tmp_path):
    stream = ex.stream(work.endless, str(tmp_path / "n"))
    assert next(stream) == 0
    eventually(lambda: int((tmp_path / "n").read_text()) == 1024)
    (pid,) = ex._pids()
    os.kill(pid, signal.SIGKILL)
    last = 0
    with pytest.raises(WorkerCrashed):
        for item in stream:
            assert item == last + 1
            last = item
    assert last >= 511  # what was in a message; the rest may have been on its way into one


class DoesNotLoad:
    def __reduce__(self):
        return int, ("no number",)


def bad_item(make):
    yield 1
    yield 2
    yield make()
    yield 4


def test_an_item_that_cannot_be_pickled_ends_the_stream_there(ex):
    stream = ex.stream(bad_item, threading.Lock)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ResultEncodeError, match="lock"):
        next(stream)
    assert ex.submit(pow, 2, 3).result(WAIT) == 8


def test_an_item_that_cannot_be_unpickled_ends_the_stream_there(ex):
    stream = ex.stream(bad_item, DoesNotLoad)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ResultDecodeError, match="bad_item.*no number"):
        next(stream)
    assert ex.submit(pow, 2, 3).result(WAIT) == 8


def test_items_are_what_they_were_when_they_were_yielded(ex):
    assert list(ex.stream(work.reuses, 600)) == [list(range(n)) for n in range(1, 601)]


def test_it_runs_in_the_worker(ex):
    assert list(ex.stream(work.where)) == ex._pids()


def test_lambdas_and_closures(ex):
    def closure():
        yield lambda: ex_free

    ex_free = 5
    (inner,) = ex.stream(closure)
    assert inner() == 5


def test_one_worker_streams_and_works_in_turn(ex):
    for number in range(20):
        assert list(ex.stream(work.count, number)) == list(range(number))
        assert ex.submit(pow, number, 2).result(WAIT) == number**2
    assert len(ex._pids()) == 1


def test_a_stream_that_is_closed_frees_its_worker(ex, tmp_path):
    stream = ex.stream(work.endless, str(tmp_path / "n"))
    next(stream)
    waiting = ex.submit(pow, 2, 3)
    stream.close()
    assert waiting.result(WAIT) == 8


def test_a_stream_that_was_not_begun_is_cancelled(ex, tmp_path):
    first = ex.stream(work.endless, str(tmp_path / "n"))
    next(first)
    queued = [ex.stream(work.count, 5) for _ in range(5)]
    for each in queued:
        each.close()
    first.close()
    assert ex.submit(pow, 2, 3).result(WAIT) == 8


def test_the_generator_prints_and_raises_and_the_worker_lives(ex):
    (pid,) = [ex.submit(os.getpid).result(WAIT)]
    with pytest.raises(KeyError):
        list(ex.stream(work.failing, 3))
    assert ex.submit(os.getpid).result(WAIT) == pid


def test_streams_that_wait_do_not_keep_others_from_working(ex, tmp_path):
    # The one worker has a stream whose consumer waits for what only another worker can do.
    streams = [ex.stream(work.endless, str(tmp_path / f"n{number}")) for number in range(5)]
    assert [next(stream) for stream in streams] == [0] * 5
    assert list(ex.map(work.double, range(10))) == [2 * n for n in range(10)]
    for stream in streams:
        stream.close()
    eventually(lambda: len(ex._pids()) <= 1)
    assert ex.submit(pow, 2, 3).result(WAIT) == 8


def test_a_pipeline_needs_one_worker_only(ex):
    numbers = (pow(n, 2) for n in ex.stream(work.count, 5000))
    assert sum(ex.map(work.double, numbers, buffersize=4)) == 2 * sum(n * n for n in range(5000))


def test_work_that_comes_just_before_the_stream_waits_is_done_as_well(ex):
    # Its worker has sent all that there is room for, and not yet said that it waits: from then on
    # it sends nothing, which would wake the reader.
    for _ in range(20):
        stream = ex.stream(work.one_by_one, 10)
        eventually(lambda stream=stream: stream._channel.chunks)
        assert ex.submit(pow, 2, 3).result(WAIT) == 8
        assert list(stream) == list(range(10))
