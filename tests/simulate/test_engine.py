"""The simulation: tables that were worked out by hand, and laws that hold for any log."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_compute.abc import WorkItem
from hybrid_compute.errors import ConfigurationError, PlacementError, PolicyError
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.policy import Always, Prefer, Rules, named, tagged, when
from hybrid_compute.prices import Price
from hybrid_compute.router import Router
from hybrid_compute.simulate import ExecutorRecord, SimulatedExecutor, simulate
from hybrid_compute.simulate.fleet import StandIns
from hybrid_compute.tasks import NO_OPTIONS

from .logs import FLEET, PROCESS, THREAD, burst, item, log_of, numbered


def ends(log, policy, **changes):
    """Return when each item ends, by a replay."""
    runs = simulate(log, policy=policy, **changes).runs
    return [pytest.approx(run.ended) for run in sorted(runs, key=lambda run: run.id)]


def begins(log, policy, **changes):
    runs = simulate(log, policy=policy, **changes).runs
    return [pytest.approx(run.begun) for run in sorted(runs, key=lambda run: run.id)]


# Queues.


@pytest.mark.parametrize(
    ("arrivals", "workers", "begun"),
    [
        # One worker, two seconds for each: each begins at its arrival or at the end before it.
        ([0, 1, 1.5, 6, 7, 20], 1, [0, 2, 4, 6, 8, 20]),
        # Two workers: each begins at its arrival or at the end of the one before the last.
        ([0, 0, 0, 1, 2, 9], 2, [0, 0, 2, 2, 4, 9]),
        ([0, 0, 0], 3, [0, 0, 0]),
    ],
)
def test_a_queue_with_a_fixed_service_time_is_as_by_hand(arrivals, workers, begun):
    log = log_of(*(item(n, at, wall=2.0) for n, at in enumerate(arrivals)))
    fleet = {"thread": attrs.evolve(THREAD, workers=workers)}
    assert begins(log, Prefer("thread"), fleet=fleet) == begun


def test_what_a_hand_over_costs_keeps_a_worker_busy():
    fleet = {"process": attrs.evolve(PROCESS, workers=1, dispatch=0.5)}
    assert ends(log_of(*burst(3)), Prefer("process"), fleet=fleet) == [1.5, 3.0, 4.5]


def test_a_new_executor_begins_when_its_first_worker_has_started():
    fleet = {"process": attrs.evolve(PROCESS, start=0.25)}
    log = log_of(item(1), item(2, 3.0))
    assert begins(log, Prefer("process"), fleet=fleet) == [0.25, 3.0]


# Cores.


@pytest.mark.parametrize(
    ("name", "workers", "cores", "gil", "expected"),
    [
        ("thread", 4, 2, 1.0, [4, 4, 4, 4]),  # one core's worth for all who hold the GIL
        ("thread", 4, 2, 0.0, [2, 2, 2, 2]),  # those who do not share both cores
        ("thread", 4, 8, 1.0, [4, 4, 4, 4]),  # and more cores do not help the others
        ("thread", 4, 8, 0.0, [1, 1, 1, 1]),
        ("thread", 4, 2, 0.5, [3, 3, 3, 3]),  # half a second each with it, then the rest
        ("process", 2, 2, 1.0, [1, 1, 2, 2]),
        ("process", 4, 2, 1.0, [2, 2, 2, 2]),  # four workers share two cores
        ("process", 4, 4, 1.0, [1, 1, 1, 1]),
        ("inline", 1, 4, 1.0, [1, 2, 3, 4]),
    ],
)
def test_four_seconds_of_computing_take_what_cores_and_gil_allow(
    name, workers, cores, gil, expected
):
    fleet = {name: attrs.evolve(FLEET[name], workers=workers)}
    log = log_of(*burst(4, cpu=1.0, gil=gil))
    assert ends(log, Prefer(name), fleet=fleet, cores=cores) == expected


def test_those_who_hold_the_gil_are_one_runner_among_the_others():
    # One core for a pair that shares the GIL and one that is free: a half for either side. When
    # the free one is done, after 2 s, the pair has a quarter each, and shares the core.
    log = log_of(*burst(2, cpu=1.0), item(3, cpu=1.0, gil=0.0))
    assert ends(log, Prefer("thread"), cores=1) == [3, 3, 2]


def test_waiting_needs_no_core():
    fleet = {"thread": attrs.evolve(THREAD, workers=50)}
    assert ends(log_of(*burst(50)), Prefer("thread"), fleet=fleet, cores=1) == [1] * 50


# Services.


def test_a_remote_item_takes_the_link_the_way_there_the_work_and_the_way_back():
    # Each megabyte takes the link a second; both are worked on side by side.
    fleet = {"far": ExecutorRecord(workers=2, remote=True, dispatch=0.0, rtt=0.5, bandwidth=1e6)}
    log = log_of(*burst(2, wall=3.0, bytes=1_000_000))
    assert begins(log, Prefer("far"), fleet=fleet) == [1.25, 2.25]
    assert ends(log, Prefer("far"), fleet=fleet) == [4.5, 5.5]


def test_a_thousand_workers_far_away_need_no_core_of_this_machine():
    fleet = {"far": ExecutorRecord(workers=1000, remote=True, dispatch=0.0, rtt=0.1)}
    report = simulate(log_of(*burst(2000, cpu=1.0)), policy=Prefer("far"), fleet=fleet, cores=1)
    assert report.makespan == pytest.approx(2.1)
    assert report.executors["far"].utilisation == pytest.approx(2000 / (1000 * 2.1))


def test_a_price_counts_calls_seconds_and_megabytes():
    far = ExecutorRecord(
        workers=2, remote=True, dispatch=0.0, per_call=1.0, per_second=10.0, per_megabyte=100.0
    )
    log = log_of(*burst(3, wall=2.0, bytes=500_000))
    report = simulate(log, policy=Prefer("far"), fleet={"far": far})
    assert report.cost == pytest.approx(3 * 1 + 3 * 2 * 10 + 1.5 * 100)


def test_a_policy_sees_the_price_and_the_way_of_an_executor():
    far = ExecutorRecord(workers=2, remote=True, rtt=0.25, per_second=2.0)
    seen = SimulatedExecutor("far", far)
    assert (seen.price, seen.latency()) == (Price(per_second=2.0), 0.25)
    assert SimulatedExecutor("thread", THREAD).price is None


# Arrivals.


def test_work_that_runs_inline_keeps_the_submitter_from_the_next_item():
    log = log_of(item(1), item(2, 0.25), item(3, 0.5))
    rules = Rules(when(named("work"), "inline"), default="thread")
    assert ends(log, rules) == [1.0, 2.25, 3.5]


def test_a_submitter_that_ran_work_inline_is_quicker_when_others_run_it():
    log = log_of(item(1, executor="inline", cpu=1.0), item(2, 1.25, executor="inline", cpu=1.0))
    assert begins(log, Prefer("process")) == [0, 0.25]
    assert begins(log, Prefer("process"), arrivals="logged") == [0, 1.25]


# Policies.


def test_without_a_policy_each_item_stays_where_it_was():
    log = log_of(item(1, executor="thread"), item(2, executor="process"))
    assert simulate(log).tasks == {"work": {"thread": 1, "process": 1}}


def test_without_a_policy_the_fleet_must_have_the_executors_of_the_log():
    with pytest.raises(ConfigurationError, match="item 1 of task 'work' ran at 'origin'"):
        simulate(log_of(item(1)), fleet=FLEET)


def test_the_placement_law_holds_in_a_replay():
    far = ExecutorRecord(workers=2, remote=True)
    log = log_of(
        item(1, task="plain", declared=False),
        item(2, task="movable", declared=False, movable=True),
        item(3, task="private", local_only=True),
        item(4, task="pinned", pinned="inline"),
        item(5, task="fixed", movable=False),
        item(6, task="any"),
        far=far,
    )
    report = simulate(log, policy=Prefer("far", "process"))
    assert {task: [*where] for task, where in report.tasks.items()} == {
        "plain": ["thread"],
        "movable": ["process"],  # it is no task: no service knows it
        "private": ["process"],
        "pinned": ["inline"],
        "fixed": ["thread"],
        "any": ["far"],
    }


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("movable", [True, False, None])
@pytest.mark.parametrize("local_only", [True, False])
@pytest.mark.parametrize("pinned", [None, "process"])
def test_a_replay_asks_as_the_router_does(declared, movable, local_only, pinned):
    far = ExecutorRecord(workers=2, remote=True)
    record = item(
        1, declared=declared, movable=movable, local_only=local_only, pinned=pinned, wall=0.5
    )
    log = log_of(record, far=far)
    policy = Prefer("far", "process", "thread")
    fleet = {name: SimulatedExecutor(name, each) for name, each in log.header.fleet.items()}
    route, _ = Router(fleet, policy).route(StandIns().item(record))
    assert simulate(log, policy=policy).runs[0].executor == route[0]


def test_rules_see_names_and_tags():
    log = log_of(item(1, tags=("gpu",)), item(2, task="tiny"), item(3))
    rules = Rules(when(tagged("gpu"), "process"), when(named("t*"), "inline"), default="thread")
    assert [run.executor for run in simulate(log, policy=rules).runs] == [
        "process",
        "inline",
        "thread",
    ]


def test_a_policy_sees_the_load_of_each_executor():
    seen = []

    class Looks:
        def route(self, item, fleet):
            thread = fleet["thread"]
            seen.append((thread.load(), thread.counts()))
            return ("thread",)

    simulate(log_of(*burst(6)), policy=Looks())
    assert seen == [(n / 4, (max(0, n - 4), min(n, 4))) for n in range(6)]


class Refuses:
    def route(self, item, fleet):
        raise PlacementError("no")


@pytest.mark.parametrize("policy", [Always("far"), Refuses()])
def test_an_item_that_nobody_may_run_is_counted(policy):
    log = log_of(item(1, local_only=True), far=ExecutorRecord(workers=2, remote=True))
    report = simulate(log, policy=policy)
    assert (report.items, report.refused, report.runs[0].executor) == (0, 1, None)


@pytest.mark.parametrize("answer", ["thread", ("nowhere",), 3])
def test_an_answer_that_is_no_route_is_an_error(answer):
    class Bad:
        def route(self, item, fleet):
            return answer

    with pytest.raises(PolicyError, match="answered"):
        simulate(log_of(item(1)), policy=Bad())


def test_a_policy_that_raises_is_an_error_that_names_the_task():
    class Bad:
        def route(self, item, fleet):
            raise KeyError("x")

    with pytest.raises(PolicyError, match=r"raised KeyError\('x'\) for 'work'"):
        simulate(log_of(item(1)), policy=Bad())


class Waits:
    """Answers "not yet" until it has been asked so often; observes."""

    def __init__(self, times):
        self.times = times
        self.events = []

    def route(self, item, fleet):
        self.times -= 1
        return None if self.times >= 0 else ("inline",) if "inline" in fleet else ("process",)

    def observe(self, event):
        self.events.append(event)


@pytest.mark.parametrize(
    ("times", "begun", "executor"),
    [(0, 0.0, "inline"), (1, 0.008, "process"), (2, 0.05, "process"), (9, 0.05, "process")],
)
def test_an_item_is_held_as_long_as_in_reality(times, begun, executor):
    # Asked at once, after 8 ms, and for the last time after 50; its submitter does not wait.
    (run,) = simulate(log_of(item(1)), policy=Waits(times)).runs
    assert (run.begun, run.executor) == (begun, executor)


def test_a_policy_that_observes_is_told_of_each_step():
    policy = Waits(1)
    simulate(log_of(item(7, ok=False, wall=2.0, cpu=0.5)), policy=policy)
    told = [(each.kind, each.item_id, each.executor, each.time) for each in policy.events]
    assert told == [
        ("submitted", 7, None, 0.0),
        ("routed", 7, "process", 0.008),
        ("started", 7, "process", 0.008),
        ("failed", 7, "process", 2.008),
    ]
    assert (policy.events[0].declared, policy.events[0].options) == (True, NO_OPTIONS)
    assert (policy.events[3].wall, policy.events[3].cpu) == (pytest.approx(2.0), 0.5)


# Mistakes.


@pytest.mark.parametrize("wrong", [{"arrivals": "never"}, {"cores": 0}])
def test_a_wrong_argument_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        simulate(log_of(item(1)), policy=Prefer("thread"), **wrong)


def test_a_simulated_executor_runs_nothing():
    executor = SimulatedExecutor("thread", THREAD)
    with pytest.raises(RuntimeError, match="simulated"):
        executor.execute(WorkItem(len))
    with pytest.raises(RuntimeError, match="replayed"):
        StandIns().item(item(1)).fn()
    executor.shutdown()


def test_stand_ins_of_one_task_are_one_function():
    stand_ins = StandIns()
    first, second = stand_ins.item(item(1)), stand_ins.item(item(2))
    other = stand_ins.item(item(3, task="other"))
    assert first.fn is second.fn is not other.fn
    assert (first.name, other.name) == ("work", "other")
    assert InlineExecutor().can_run(first)


# Laws.

TIMES = st.integers(0, 40).map(lambda n: n / 16)  # exact in binary

NEEDS = st.builds(
    lambda at, waits, cpu, gil: item(at=at, wall=waits + cpu, cpu=cpu, gil=gil),
    TIMES,
    TIMES,
    TIMES,
    st.sampled_from([0.0, 0.5, 1.0]),
)

ITEMS = st.lists(NEEDS, min_size=1, max_size=25).map(lambda items: numbered(*items))

PLACES = st.sampled_from(["thread", "process", "far"])


@settings(max_examples=100)
@given(
    items=ITEMS,
    name=PLACES,
    workers=st.integers(1, 5),
    cores=st.integers(1, 4),
    dispatch=st.sampled_from([0.0, 0.125]),
)
def test_a_queue_keeps_its_laws(items, name, workers, cores, dispatch):
    far = ExecutorRecord(workers=1, remote=True)
    record = attrs.evolve({**FLEET, "far": far}[name], workers=workers, dispatch=dispatch)
    report = simulate(
        log_of(*items), policy=Prefer(name), fleet={name: record}, cores=cores, arrivals="logged"
    )
    runs = sorted(report.runs, key=lambda run: (run.submitted, run.id))
    near = 1e-9
    assert [run.id for run in runs] == [each.id for each in items]
    begun = [run.begun for run in runs]
    assert begun == sorted(begun)  # first in, first out
    for run, each in zip(runs, items, strict=True):
        assert run.submitted == each.submitted <= run.begun + near
        assert run.ended - run.begun >= each.wall + dispatch - near  # nobody is quicker than alone
    for at in {run.begun for run in runs} | {run.submitted for run in runs}:
        busy = sum(run.begun <= at < run.ended - near for run in runs)
        assert busy <= workers
        if any(run.submitted <= at < run.begun - near for run in runs):
            assert busy == workers  # nobody waits while a worker is idle
    computing = sum(each.cpu for each in items)
    if name != "far":
        assert report.makespan >= computing / cores - near
    if name == "thread":
        assert report.makespan >= sum(each.cpu * each.gil for each in items) - near
    assert report.makespan >= max(each.wall for each in items) - near
    assert sum(run.busy for run in runs) == pytest.approx(report.executors[name].busy)


@settings(max_examples=30)
@given(items=ITEMS, cores=st.integers(1, 4))
def test_a_replay_is_the_same_each_time(items, cores):
    policy = Rules(when(lambda item: len(item.name) > 3, "process"), default="thread")
    one, other = (simulate(log_of(*items), policy=policy, cores=cores) for _ in range(2))
    assert one == other


@settings(max_examples=30)
@given(items=ITEMS, workers=st.integers(1, 4))
def test_cores_are_never_idle_while_somebody_computes(items, workers):
    # All computing, none waiting, as many workers as cores: the work is done without a gap from
    # the first arrival of each busy period on, whatever its order.
    items = [attrs.evolve(each, wall=each.cpu, ended=each.submitted + each.cpu) for each in items]
    fleet = {"process": attrs.evolve(PROCESS, workers=workers)}
    log = log_of(*items, cores=1)
    report = simulate(log, policy=Prefer("process"), fleet=fleet, arrivals="logged")
    clock = 0.0
    for each in items:
        clock = max(clock, each.submitted) + each.cpu
    assert max(run.ended for run in report.runs) == pytest.approx(clock)
