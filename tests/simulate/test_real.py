"""The simulator against the machine: a run is logged, replayed, and compared with itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.decision_log import DecisionLog
from hybrid_compute.policy import Adaptive, Prefer, Rules, named, when
from hybrid_compute.simulate import read_log, report_of_log, simulate
from hybrid_compute.simulate.fleet import StandIns
from hybrid_compute.tasks import Task


@task
def tiny(number):
    return number + 1


@task
def nap(seconds):
    threading.Event().wait(seconds)


@task
def crunch(seconds):
    end = time.thread_time() + seconds
    steps = 0
    while time.thread_time() < end:
        steps += 1
    return steps


POLICIES = {
    "threads": Prefer("thread"),
    "processes": Prefer("process"),
    "rules": Rules(
        when(named("tiny"), "inline"), when(named("nap"), "thread"), default=("process", "thread")
    ),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_replay_of_a_real_run_takes_about_as_long(tmp_path, policy):
    path = tmp_path / "run.jsonl"
    with (
        DecisionLog(path) as log,
        HybridExecutor(4, max_processes=2, policy=policy, observers=[log]) as ex,
    ):
        for number in range(200):
            ex.submit(tiny, number)
            if number % 10 == 0:
                ex.submit(nap, 0.005)
            if number % 34 == 0:
                ex.submit(crunch, 0.01)
    logged = read_log(path)
    real = report_of_log(logged)
    assert real.items == 200 + 20 + 6
    predicted = simulate(logged, policy=policy)
    assert 0.4 < predicted.makespan / real.makespan < 2.5
    assert predicted.tasks == real.tasks  # the policy chooses as it did
    assert simulate(logged).tasks == real.tasks


def test_the_policy_that_learns_can_be_replayed():
    log = read_log(Path(__file__).parents[2] / "examples" / "thumbnails.jsonl")
    cold, on_threads = Adaptive(cores=2), Prefer("thread")
    report = simulate(log, policy=cold)
    assert report.items == 72
    assert report.makespan < 0.8 * simulate(log, policy=on_threads).makespan
    most = {task: max(where, key=where.__getitem__) for task, where in report.tasks.items()}
    assert most == {"fetch": "thread", "thumbnail": "process", "label": "thread"}
    assert "thumbnail" in cold.explain(Task(StandIns().item(log.items[1]).fn.fn))
