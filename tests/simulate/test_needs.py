"""What items need, worked out from runs in which they were in each other's way."""

from __future__ import annotations

import attrs
import pytest

from hybrid_compute.policy import Prefer
from hybrid_compute.simulate import ExecutorRecord, simulate
from hybrid_compute.simulate.needs import Need, needs_of, serve_of, services_of

from .logs import PROCESS, item, log_of


def needs(log):
    return [needs_of(serve_of(log), log)[each.id] for each in log.items]


def need(held=0.0, free=0.0, waits=0.0):
    near = lambda value: pytest.approx(value, abs=1e-9)
    return Need(held=near(held), free=near(free), waits=near(waits))


def test_an_item_that_nobody_hindered_needs_what_it_took():
    log = log_of(item(1, executor="thread", wall=1.0, cpu=0.25))
    assert needs(log) == [need(held=0.25, waits=0.75)]


def test_the_gil_s_share_splits_the_processor_time():
    log = log_of(item(1, executor="thread", wall=1.0, cpu=0.5, gil=0.25))
    assert needs(log) == [need(held=0.125, free=0.375, waits=0.5)]


def test_threads_that_held_each_other_up_need_only_their_own_time():
    # Four at once, a second of computing each: all take four seconds.
    log = log_of(*(item(n, executor="thread", wall=4.0, cpu=1.0) for n in range(4)))
    assert needs(log) == [need(held=1.0)] * 4


def test_processes_on_too_few_cores_need_only_their_own_time():
    log = log_of(
        *(item(n, executor="process", wall=2.0, cpu=1.0) for n in range(4)),
        cores=2,
        process=attrs.evolve(PROCESS, workers=4),
    )
    assert needs(log) == [need(held=1.0)] * 4


def test_who_sleeps_beside_those_who_compute_still_needs_its_sleep():
    busy = [item(n, executor="thread", wall=3.0, cpu=1.0) for n in range(3)]
    asleep = item(9, executor="thread", task="nap", wall=3.0, cpu=0.001)
    assert needs(log_of(*busy, asleep))[-1].waits == pytest.approx(3.0, abs=0.01)


def test_where_the_processor_time_is_not_known_a_thread_waits_and_a_process_computes():
    log = log_of(
        item(1, executor="thread", cpu=None, gil=None),
        item(2, executor="process", cpu=None, gil=None),
        item(3, executor="inline", cpu=None, gil=None),
    )
    assert needs(log) == [need(waits=1.0), need(held=1.0), need(held=1.0)]


@pytest.mark.parametrize(("cpu", "expected"), [(0.9, 0.0), (0.5, 1.0)])
def test_runs_that_use_more_than_a_core_together_do_not_hold_the_gil(cpu, expected):
    # Two that overlap: together 1.8 cores, or one.
    log = log_of(*(item(n, executor="thread", cpu=cpu, gil=None) for n in range(2)))
    assert [each.held for each in needs(log)] == [pytest.approx(cpu * expected)] * 2


def test_an_item_that_never_started_needs_nothing_and_is_left_out():
    log = log_of(item(1, executor="thread", started=None, ok=False), item(2, executor="thread"))
    assert needs_of(serve_of(log), log)[1] == need()
    assert [run.id for run in simulate(log, policy=Prefer("thread")).runs] == [2]


def test_items_that_were_sent_ahead_begin_when_a_worker_has_done_those_before():
    log = log_of(
        *(item(n, executor="process", wall=None, started=0.0, ended=1.0 + n) for n in range(3)),
        process=attrs.evolve(PROCESS, workers=1),
    )
    assert [(each.begun, each.wall) for each in serve_of(log)] == [(0, 1), (1, 1), (2, 1)]


def test_a_hand_over_costs_what_is_left_when_the_work_is_taken_off():
    extras = [0.75, 0.25, 0.25, 0.25]
    records = [
        item(n, n * 10, executor="process", wall=1.0, ended=n * 10 + 1.0 + extra)
        for n, extra in enumerate(extras)
    ]
    log = log_of(*records, process=ExecutorRecord(workers=1, isolates=True))
    service = services_of(serve_of(log), log.header.fleet)["process"]
    assert (service.dispatch, service.start) == (pytest.approx(0.25), pytest.approx(0.5))


def test_the_start_of_a_worker_is_not_the_work_of_its_first_item():
    # Two workers that took a second to start; then each item takes a quarter.
    times = [(0, 1.25), (0, 1.25), (1.25, 1.5), (1.25, 1.5), (1.5, 1.75)]
    records = [
        item(n, executor="process", wall=None, cpu=None, started=begun, ended=ended)
        for n, (begun, ended) in enumerate(times)
    ]
    log = log_of(*records, process=ExecutorRecord(workers=2, isolates=True))
    assert [each.held for each in needs(log)] == [0.25] * 5
    assert services_of(serve_of(log), log.header.fleet)["process"].start == 1.0
    assert simulate(log).makespan == pytest.approx(1.75)
    assert simulate(log, policy=Prefer("inline")).makespan == pytest.approx(1.25)


def test_a_task_that_was_measured_somewhere_is_known_everywhere():
    log = log_of(
        item(1, executor="thread", wall=1.0, cpu=0.25, gil=None),
        item(2, executor="process", wall=None, ended=2.0, cpu=None, gil=None),
    )
    assert needs(log)[1] == need(held=0.5, waits=1.5)


def test_the_way_to_a_service_is_not_its_work():
    far = ExecutorRecord(workers=2, remote=True, rtt=0.25)
    log = log_of(item(1, executor="far", wall=None, ended=1.0), far=far)
    assert needs(log) == [need(waits=1.0 - 0.25)]
    assert simulate(log).makespan == pytest.approx(1.0)


def test_an_executor_of_which_nothing_is_known_costs_something():
    log = log_of(item(1), process=attrs.evolve(PROCESS, dispatch=None))
    assert 0 < simulate(log, policy=Prefer("process")).makespan - 1.0 < 0.01
