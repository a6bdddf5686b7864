"""What a policy that learns is told of simulated runs: as `learning` tells it of real ones."""

from __future__ import annotations

import pytest

from hybrid_compute.simulate import ExecutorRecord, simulate

from .logs import THREAD, burst, item, log_of


class Belief:
    known = False


class Meter:
    """Goes where it is told, and notes what it hears; `news` tells after which end it has some."""

    def __init__(self, *routes, news=()):
        self.routes = list(routes)
        self.news = list(news)
        self.heard = []
        self.belief = Belief()
        self.wrong = ()

    def route(self, item, fleet):
        item.belief = self.belief
        return self.routes.pop(0)

    def handed(self, item, name, fleet):
        self.heard.append(("handed", name))

    def left(self, item):
        self.heard.append(("left",))

    def answered(self, item, elapsed):
        self.heard.append(("answered", elapsed))

    def ran(self, belief, count, wall, cpu):
        self.heard.append(("ran", count, wall, cpu))
        return bool(self.news and self.news.pop(0))

    def ran_here(self, item, begun, ended, cpu, value):
        self.heard.append(("ran_here", begun, ended, cpu))
        return bool(self.news and self.news.pop(0))

    def seen(self, belief, wall, cpu):
        self.heard.append(("seen", wall, cpu))
        return True

    def wrong_places(self, belief):
        return self.wrong


def near(value):
    return pytest.approx(value, abs=1e-9)


def test_a_run_on_a_thread_is_told_with_its_times():
    meter = Meter(("thread",))
    fleet = {"thread": ExecutorRecord(workers=1, shares_memory=True, dispatch=0.5)}
    simulate(log_of(item(1, cpu=0.25)), policy=meter, fleet=fleet)
    assert meter.heard == [
        ("handed", "thread"),
        ("ran_here", near(0.5), near(1.5), 0.25),
        ("left",),
    ]


def test_a_run_in_a_process_is_told_without_the_hand_over():
    meter = Meter(("process",))
    fleet = {"process": ExecutorRecord(workers=1, isolates=True, dispatch=0.5)}
    simulate(log_of(item(1, cpu=0.25)), policy=meter, fleet=fleet)
    assert meter.heard == [("handed", "process"), ("ran", 1, near(1.0), 0.25), ("left",)]


def test_an_answer_of_a_service_is_told_with_its_way():
    meter = Meter(("far",))
    fleet = {"far": ExecutorRecord(workers=1, remote=True, dispatch=0.0, rtt=0.5)}
    simulate(log_of(item(1)), policy=meter, fleet=fleet)
    assert meter.heard == [("handed", "far"), ("answered", near(1.5)), ("left",)]


def test_what_is_held_is_bound_as_soon_as_there_is_news():
    meter = Meter(("thread",), None, ("process",), news=[True])
    report = simulate(log_of(*burst(2, wall=0.002)), policy=meter)
    assert [(run.executor, run.begun) for run in report.runs] == [
        ("thread", 0.0),
        ("process", near(0.002)),
    ]


def test_what_is_held_stays_so_where_the_policy_still_cannot_tell():
    meter = Meter(("thread",), None, None, ("process",), news=[True])
    report = simulate(log_of(*burst(2, wall=0.002)), policy=meter)
    assert report.runs[1].begun == near(0.05)


@pytest.mark.parametrize(
    ("needs", "seen"),
    [
        ({"wall": 1.0, "cpu": 1.0}, ("seen", near(0.004), near(0.004))),
        ({"wall": 1.0}, ("seen", near(0.004), 0.0)),
        ({"wall": 1.0, "cpu": 0.5}, ("seen", near(0.008), near(0.004))),
    ],
)
def test_a_first_call_that_still_runs_is_looked_at_after_4_and_8_ms(needs, seen):
    meter = Meter(("thread",), None, ("process",))
    report = simulate(log_of(*burst(2, **needs)), policy=meter)
    assert seen in meter.heard
    assert report.runs[1].begun == seen[1]


def test_after_50_ms_an_item_is_bound_though_nothing_was_seen():
    meter = Meter(("process",), None, ("process",))
    report = simulate(log_of(*burst(2)), policy=meter)
    assert ("seen", 0.05, None) in meter.heard
    assert report.runs[1].begun == near(0.05)


def test_what_waits_where_it_does_not_belong_any_more_is_moved():
    # Four threads are busy; the fifth and sixth wait there until the first has ended.
    meter = Meter(*[("thread",)] * 6, *[("process",)] * 2, news=[True])
    meter.wrong = ("thread", "not there")
    log = log_of(item(1, wall=0.5), *(item(n) for n in range(2, 7)))
    report = simulate(
        log, policy=meter, fleet={"thread": THREAD, "process": log.header.fleet["process"]}
    )
    assert report.tasks == {"work": {"thread": 4, "process": 2}}
    assert [run.begun for run in report.runs if run.executor == "process"] == [0.5, 0.5]
    assert meter.heard.count(("left",)) == 8
