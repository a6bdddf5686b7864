"""Workers that do not start: row 16 of the matrix.

That the error is clear is in tests/executors/test_process.py; here it is that nobody forks
without end, and that nobody waits for ever.
"""

from __future__ import annotations

import os
import sys

import pytest

from hybrid_compute import HybridExecutor, errors
from hybrid_compute.executors.process import ProcessExecutor

from . import work
from .scenario import KINDS, make, submitter

SOON = work.SOON


WAYS = {
    "raises": (work.raise_it, ValueError("never works")),
    "raises SystemExit": (sys.exit, "never works"),
    "exits": (os._exit, 3),
    "crashes": (work.silent_segfault,),
    "raises what cannot travel": (work.raise_made, work.TwoArguments, 1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_an_initializer_that_always_fails_is_tried_a_few_times(kind, way, tmp_path, capfd):
    path = tmp_path / "starts"
    with make(kind, 2, initializer=work.note_and, initargs=(path, *WAYS[way])) as ex:
        submit = submitter(kind, ex)
        futures = [submit(work.echo, n) for n in range(20)]
        for future in futures:
            assert isinstance(future.exception(SOON), errors.WorkerStartError)
        tries = path.stat().st_size
        assert 3 <= tries <= 4  # in a row, of two workers that start at a time
        for n in range(20):  # it has given up, and does not begin anew with each submit
            try:
                error = submit(work.echo, n).exception(SOON)
            except errors.WorkerStartError as refusal:
                error = refusal
            assert isinstance(error, errors.WorkerStartError)
        assert path.stat().st_size == tries


def test_between_the_tries_there_is_a_pause_that_grows(tmp_path, capfd):
    with ProcessExecutor(1, work.note_time_and_raise, (tmp_path / "times",)) as ex:
        assert isinstance(ex.submit(work.echo, 1).exception(SOON), errors.WorkerStartError)
    first, second, third = map(float, (tmp_path / "times").read_text().split())
    assert second - first > 0.04
    assert third - second > 0.16


def test_an_initializer_whose_module_the_worker_cannot_import_is_named(capfd):
    thing = work.make_only_here("only_in_this_process")
    with ProcessExecutor(2, work.echo, (thing,)) as ex:
        error = ex.submit(work.echo, 1).exception(SOON)
    assert isinstance(error, errors.WorkerStartError)
    assert "only_in_this_process" in str(error)
    assert "Traceback" in str(error.__cause__.__cause__)


def test_an_initializer_that_fails_at_times_costs_nothing(tmp_path, capfd):
    with ProcessExecutor(2, work.fail_every_second_time, (tmp_path / "starts",)) as ex:
        assert [ex.submit(work.echo, n).result(SOON) for n in range(10)] == list(range(10))
        for _ in range(3):
            assert isinstance(ex.submit(os._exit, 1).exception(SOON), errors.WorkerCrashed)
            assert ex.submit(work.echo, 1).result(SOON) == 1


def test_a_worker_that_is_killed_while_it_starts_is_replaced(tmp_path):
    with ProcessExecutor(1, work.die_twice_at_start, (tmp_path / "starts",)) as ex:
        assert ex.submit(work.echo, 1).result(SOON) == 1
    assert (tmp_path / "starts").stat().st_size == 3


def test_what_no_worker_can_take_goes_to_the_next_executor_of_its_route(capfd):
    class First:
        def route(self, item, fleet):
            return ("process", "thread")

    broken = ProcessExecutor(1, work.raise_it, (ValueError("never works"),))
    with HybridExecutor(2, executors={"process": broken}, policy=First()) as ex:
        futures = [ex.options(movable=True).submit(work.echo, n) for n in range(5)]
        assert [f.result(SOON) for f in futures] == list(range(5))


def test_a_shutdown_while_workers_fail_to_start_ends(tmp_path, capfd):
    path = tmp_path / "starts"
    ex = ProcessExecutor(2, work.note_and, (path, os._exit, 3))
    futures = [ex.submit(work.echo, n) for n in range(5)]
    work.wait_for_file(path)
    ex.shutdown()
    assert all(isinstance(f.exception(0), errors.WorkerStartError) for f in futures)
    assert path.stat().st_size <= 4
