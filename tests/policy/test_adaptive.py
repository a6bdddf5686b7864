"""Adaptive, asked directly, with made-up measurements: what it is told is all that it knows."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_compute import Task, TaskOptions, task
from hybrid_compute.errors import TaskEncodeError
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.policy import Adaptive
from hybrid_compute.routed import RoutedItem

from .bench import HELD, Bench, fleet, item

TINY, SHORT, LONG = 1e-6, 2e-3, 50e-3  # seconds
ON_THREADS = {"thread", "lane"}


@task
def work(*args: object) -> None: ...


@task
def other(*args: object) -> None: ...


@pytest.fixture
def bench() -> Bench:
    return Bench()


# What is not known.


def test_the_first_two_calls_go_to_threads_and_the_others_are_held(bench: Bench) -> None:
    assert bench.burst(5, work) == ["lane", "lane", HELD, HELD, HELD]


def test_what_computes_in_its_first_call_goes_to_processes_though_they_must_start(
    bench: Bench,
) -> None:
    routed, _ = bench.hand(work)
    bench.policy.seen(routed.belief, 0.004, 0.004, together=0.004)
    assert set(bench.burst(4, work)) == {"process"}


def test_without_a_lane_the_first_calls_go_to_the_thread_pool(bench: Bench) -> None:
    del bench.fleet["lane"]  # type: ignore[attr-defined]  # it is a dict
    assert bench.burst(3, work) == ["thread", "thread", HELD]


def test_each_task_is_got_to_know_by_itself(bench: Bench) -> None:
    bench.calls(4, work, wall=LONG)
    assert bench.burst(3, other) == ["lane", "lane", HELD]


def test_each_size_of_the_arguments_is_got_to_know_by_itself(bench: Bench) -> None:
    bench.calls(200, work, "", wall=TINY)
    assert bench.burst(3, work, "x" * 1000) == ["lane", "lane", HELD]
    assert set(bench.burst(3, work, "")) == {"inline"}


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("", "x" * 1000),
        (b"", bytes(1000)),
        ([], [0] * 1000),
        ((), tuple(range(1000))),
        ({}, dict.fromkeys(range(1000))),
        (set(), set(range(1000))),
        (3, 3000),
        (3, -3000),
    ],
)
def test_what_counts_is_how_long_builtins_are_and_how_great_numbers(
    bench: Bench, small: Any, large: Any
) -> None:
    bench.calls(5, work, small, wall=LONG)
    assert HELD not in bench.burst(5, work, small)
    assert HELD in bench.burst(5, work, large)


def test_no_method_of_an_argument_is_called(bench: Bench) -> None:
    class Touchy:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

        __len__ = __bool__ = __eq__ = __hash__ = None  # type: ignore[assignment]

    bench.calls(5, work, Touchy(), wall=LONG)


def test_a_first_call_that_is_cancelled_makes_room_for_another(bench: Bench) -> None:
    first, _ = bench.hand(work)
    bench.hand(work)
    assert bench.hand(work)[1] == HELD
    first.meter = Told(bench)
    assert first.future.cancel()
    assert bench.hand(work)[1] == "lane"


class Told:
    """A meter that tells the policy when an item has left."""

    def __init__(self, bench: Bench) -> None:
        self._policy = bench.policy

    def left(self, item: RoutedItem, *, done: bool = False) -> None:
        self._policy.left(item)


def test_a_first_call_that_computes_for_long_is_known_while_it_runs(bench: Bench) -> None:
    routed, _ = bench.hand(work)
    assert bench.policy.seen(routed.belief, 0.01, 0.01)
    where = bench.burst(20, work)
    assert HELD not in where
    assert where.count("process") >= 10


def test_two_first_calls_that_compute_side_by_side_are_known_to_let_go_of_the_gil(
    bench: Bench,
) -> None:
    routed, _ = bench.hand(work)
    bench.hand(work)
    assert bench.policy.seen(routed.belief, 0.004, 0.004, together=0.0076)
    assert routed.belief.kind == "works"


def test_two_that_share_the_gil_are_known_to_hold_it(bench: Bench) -> None:
    routed, _ = bench.hand(work)
    bench.hand(work)
    assert bench.policy.seen(routed.belief, 0.004, 0.004, together=0.0041)
    assert routed.belief.kind == "holds"


@pytest.mark.parametrize(("cpu", "where"), [(0.02, "process"), (0.0, "lane")])
def test_a_quick_task_that_takes_long_all_at_once_is_not_known_any_more(
    bench: Bench, cpu: float, where: str
) -> None:
    bench.calls(100, work, wall=1e-6)
    assert bench.call(work, wall=0.02) == "inline"  # nobody saw whether it computed or waited
    found = bench.burst(4, work)
    assert found == ["lane", "lane", HELD, HELD]
    bench.calls(2, work, wall=0.02, cpu=cpu)
    assert where in bench.burst(4, work)


def test_what_is_under_way_when_a_task_has_changed_says_nothing_of_what_it_is_now(
    bench: Bench,
) -> None:
    bench.calls(20, work, wall=TINY)
    late, _ = bench.hand(work)
    bench.calls(100, work, wall=1e-6)
    old = late.belief
    assert bench.call(work, wall=0.02) == "inline"
    (new,) = bench.policy._beliefs.of(work)
    assert new is not old
    bench.policy.route(late, bench.fleet)  # it is moved, say
    assert late.belief is old
    bench.end(late, "lane", 1e-6, 1e-6)
    assert (new.runs, new.kind) == (0, "unknown")
    bench.policy._beliefs.set_quick(old)  # by somebody who has looked it up before
    bench.policy._beliefs.set_direct(old)
    assert not bench.policy.quick
    assert not bench.policy.direct
    assert bench.burst(3, work) == ["lane", "lane", HELD]


def test_what_takes_longer_to_pickle_than_to_compute_goes_to_threads(bench: Bench) -> None:
    large = "x" * 10**6
    for fn in (work, other):
        bench.calls(20, fn, large, wall=LONG)
    routed, where = bench.hand(work, large)
    assert where == "process"
    bench.policy.pickled(routed, 10**6, 10 * LONG)
    bench.policy.left(routed)
    assert bench.calls(100, work, large, wall=LONG)[-1] == "thread"
    assert bench.calls(100, other, large, wall=LONG)[-1] == "process"  # which says nothing of it


def test_what_is_pickled_at_once_costs_what_moving_it_costs(bench: Bench) -> None:
    routed, _ = bench.hand(work)
    bench.policy.pickled(routed, 10**6, 1.0)
    for _ in range(100):
        bench.policy.pickled(routed, 10**8, 0.0)
    assert routed.belief.byte == pytest.approx(0.5e-9, rel=0.01)


def test_one_hiccup_of_a_quick_task_is_soon_forgotten(bench: Bench) -> None:
    bench.calls(100, work, wall=1e-6)
    assert bench.call(work, wall=0.02) == "inline"
    bench.calls(40, work, wall=1e-6)
    assert bench.call(work, wall=1e-6) == "inline"


def test_a_first_call_that_waits_for_long_is_known_while_it_runs(bench: Bench) -> None:
    routed, _ = bench.hand(work)
    assert bench.policy.seen(routed.belief, 0.01, 0.0)
    assert set(bench.burst(20, work)) == {"lane"}


# Kinds.


def test_a_tiny_task_goes_to_threads_and_after_many_runs_inline(bench: Bench) -> None:
    where = bench.calls(300, work, wall=TINY)
    assert "inline" not in where[:20]
    assert set(where[:20]) <= ON_THREADS
    assert set(where[-100:]) == {"inline"}


def test_a_task_that_waits_goes_to_the_lane(bench: Bench) -> None:
    bench.calls(5, work, wall=LONG, cpu=0.01 * LONG)
    assert bench.burst(64, work).count("lane") >= 62  # one may look at another place


def test_a_task_that_holds_the_gil_goes_to_processes_when_many_come(bench: Bench) -> None:
    bench.calls(5, work, wall=LONG)
    assert bench.burst(40, work).count("process") >= 30


def overlapping(bench: Bench, fn: Task[..., Any], *args: Any, cpu: float, pairs: int = 10) -> None:
    """Let calls run side by side, two at a time, each of which gets so much of its time in CPU."""
    for _ in range(pairs):
        both = [item(fn, *args) for _ in range(2)]
        for each in both:
            bench.policy.route(each, bench.fleet)
            bench.policy.handed(each, "thread", bench.fleet)
        for each in both:
            bench.policy.ran_here(each, bench.now, bench.now + LONG, cpu, None)
            bench.policy.left(each)
        bench.now += LONG


def test_whether_it_holds_the_gil_is_told_by_what_two_use_at_once(bench: Bench) -> None:
    overlapping(bench, work, cpu=LONG)
    assert "computes, and lets go of the GIL" in bench.policy.explain(work)
    overlapping(bench, other, cpu=0.5 * LONG)
    assert "computes, and holds the GIL" in bench.policy.explain(other)


def test_a_task_that_lets_go_of_the_gil_stays_on_threads_if_its_arguments_are_large(
    bench: Bench,
) -> None:
    large = bytes(400_000_000)  # of zeros, which take no memory
    overlapping(bench, work, large, cpu=LONG)
    assert set(bench.burst(2, work, large)) <= ON_THREADS


# Where it may not go.


@pytest.mark.parametrize("options", [{"inline": False}, {"retries": 1}, {"timeout": 60.0}])
def test_what_says_so_or_is_supervised_never_runs_inline(
    bench: Bench, options: dict[str, Any]
) -> None:
    careful = task(**options)(lambda: None)
    assert "inline" not in bench.calls(500, careful, wall=TINY)


@pytest.mark.parametrize("options", [{"inline": False}, {"retries": 1}, {"timeout": 60.0}])
def test_options_of_a_call_forbid_inline_too(bench: Bench, options: dict[str, Any]) -> None:
    bench.calls(300, work, wall=TINY)
    assert bench.call(work, wall=TINY) == "inline"
    assert bench.call(work, wall=TINY, **options) != "inline"


def test_two_tasks_of_the_same_code_each_have_their_own_word_on_inline(bench: Bench) -> None:
    def code() -> None: ...

    free, careful = task(code), task(inline=False)(code)
    bench.calls(300, free, wall=TINY)
    assert bench.call(free, wall=TINY) == "inline"
    assert bench.call(careful, wall=TINY) != "inline"


def test_work_with_a_timeout_goes_where_it_can_be_ended(bench: Bench) -> None:
    bench.calls(300, work, wall=TINY)
    timed = item(work, timeout=5.0)
    assert bench.policy.route(timed, bench.fleet) == ("process", "thread")


def test_a_generator_goes_where_it_can_stream(bench: Bench) -> None:
    from hybrid_compute.streamed import StreamItem

    stream = StreamItem(work, (), None, TaskOptions())
    assert bench.policy.route(stream, bench.fleet) == ("process", "thread")


def test_what_does_not_travel_stays_on_threads(bench: Bench) -> None:
    bench.calls(5, work, wall=LONG)
    routed = item(work)
    bench.policy.route(routed, bench.fleet)
    routed.belief.route = ("process", "thread")
    routed.belief.where = bench.policy._place("process", bench.fleet)
    routed.belief.left = 30  # as answered for that many more
    routed.launch(("process", "thread"), bench.fleet)
    routed.fail(TaskEncodeError("a lock"))
    assert routed.executor == "thread"
    assert set(bench.burst(40, work)) <= ON_THREADS


def test_a_chunk_of_a_map_is_never_inline_and_is_known_by_its_first_call(bench: Bench) -> None:
    bench.calls(300, work, 1, wall=TINY)
    chunk = RoutedItem(run_batch, (work, [1, 2, 3], False), None, TaskOptions())
    route = bench.policy.route(chunk, bench.fleet)
    assert route is not None
    assert "inline" not in route
    assert chunk.belief is bench.policy.usual(work)


def test_the_fleet_is_taken_as_it_is(bench: Bench) -> None:
    bench.fleet = {name: fleet()[name] for name in ("process",)}
    assert bench.burst(3, work) == ["process"] * 3


# Other machines.


def remotely(size: int) -> list[str]:
    bench = Bench(remotes={"cloud": 16})
    payload = bytes(size)
    bench.calls(5, work, payload, wall=LONG)
    return bench.burst(60, work, payload)


def test_heavy_work_with_a_small_payload_also_goes_elsewhere_when_this_machine_is_busy() -> None:
    where = remotely(100)
    assert where.count("cloud") >= 20
    assert where.count("process") >= 1


def test_work_with_a_large_payload_stays_here() -> None:
    assert "cloud" not in remotely(1_000_000_000)


def test_work_that_is_soon_done_here_stays_here_while_nobody_waits() -> None:
    bench = Bench(remotes={"cloud": 16})
    where = bench.calls(40, work, wall=SHORT)
    assert where[-20:].count("cloud") <= 1


# When things change.


def place_of(where: list[str]) -> str:
    return max(set(where), key=where.count)


@pytest.mark.parametrize(
    ("before", "after", "settled"),
    [
        ((TINY, TINY), (100 * TINY, 100 * TINY), {"thread", "lane", "process"}),
        ((TINY, TINY), (LONG, 0.0), {"lane"}),
        ((LONG, LONG), (LONG, 0.0), {"lane"}),
        ((LONG, 0.0), (LONG, LONG), {"thread", "process"}),
        ((100 * TINY, 100 * TINY), (TINY, TINY), {"inline"}),
        ((LONG, 0.0), (TINY, TINY), {"inline"}),
        ((LONG, LONG), (TINY, TINY), {"inline"}),
    ],
)
def test_a_task_that_changes_its_nature_goes_elsewhere_within_a_few_dozen_calls(
    bench: Bench, before: tuple[float, float], after: tuple[float, float], settled: set[str]
) -> None:
    bench.calls(500, work, wall=before[0], cpu=before[1])
    bench.calls(60, work, wall=after[0], cpu=after[1])
    where = bench.burst(20, work)
    assert sum(each in settled for each in where) >= 17


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_cost_that_changes_a_hundredfold_is_believed_within_a_few_dozen_calls(
    bench: Bench, factor: float
) -> None:
    bench.calls(500, work, wall=SHORT)
    bench.calls(40, work, wall=factor * SHORT)
    belief = bench.policy.usual(work)
    assert belief is not None
    assert belief.run == pytest.approx(factor * SHORT, rel=0.5)


def test_it_does_not_flap_between_places_that_are_about_as_good() -> None:
    bench = Bench(remotes={"east": 4, "west": 4})
    for name in ("thread", "process", "lane", "inline"):
        del bench.fleet[name]  # type: ignore[attr-defined]  # it is a dict
    chance = random.Random(7)
    where = [bench.call(work, wall=LONG * chance.uniform(0.93, 1.07)) for _ in range(1000)]
    changes = sum(a != b for a, b in itertools.pairwise(where))
    assert changes <= 16  # a look at the other one, now and then, is two of them


def test_looks_at_other_places_become_ever_rarer() -> None:
    bench = Bench(remotes={"east": 4, "west": 4})
    for name in ("thread", "process", "lane", "inline"):
        del bench.fleet[name]  # type: ignore[attr-defined]  # it is a dict

    def call() -> str:
        routed, where = bench.hand(work)
        bench.end(routed, where, LONG if where == "east" else 1.5 * LONG, 0.0)
        return where

    where = [call() for _ in range(4000)]
    assert place_of(where[100:]) == "east"
    assert where[100:].count("west") <= 10
    assert where[100:].count("west") >= 1  # what is believed of it might be out of date
    assert where[3000:].count("west") <= 1


# What it keeps.


def functions(count: int) -> list[Callable[[], None]]:
    def base() -> None: ...

    return [FunctionType(base.__code__.replace(co_name=f"f{n}"), {}) for n in range(count)]


def test_it_remembers_a_bounded_number_of_tasks(bench: Bench) -> None:
    many = functions(4200)
    for each in many:
        bench.hand(task(each))
    known = [not bench.policy.explain(each).endswith("nothing is known yet") for each in many]
    assert sum(known) == 4096
    assert not any(known[:104])


def test_a_quick_task_that_is_forgotten_is_not_run_inline_any_more(bench: Bench) -> None:
    bench.calls(200, work, wall=TINY)
    assert bench.call(work, wall=TINY) == "inline"
    for each in functions(4096):
        bench.hand(task(each))
    assert bench.call(work, wall=TINY) == "lane"


def test_neither_a_function_nor_its_arguments_are_kept(bench: Bench) -> None:
    class Argument: ...

    def local(argument: Argument) -> None: ...

    declared, argument = task(local), Argument()
    bench.calls(300, declared, argument, wall=TINY)
    gone = [weakref.ref(each) for each in (local, declared, argument)]
    del local, declared, argument
    gc.collect()
    assert [each() for each in gone] == [None] * 3


Steps = st.lists(
    st.tuples(
        st.sampled_from(["hand", "left", "again", "cancel", "ran"]),
        st.integers(0, 7),
        st.sampled_from(["thread", "lane", "process", "cloud"]),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(Steps)
def test_what_is_counted_in_its_executor_is_counted_out_again_in_whatever_order(
    steps: list[tuple[str, int, str]],
) -> None:
    bench = Bench(remotes={"cloud": 3})
    policy = bench.policy
    bench.calls(5, work, wall=LONG)
    items = [item(work, number % 3) for number in range(8)]
    for each in items:
        policy.route(each, bench.fleet)
        each.meter = Told(bench)
    out: dict[int, str] = {}
    for step, number, name in steps:
        each = items[number]
        if step == "hand" and number not in out and not each.future.cancelled():
            policy.handed(each, name, bench.fleet)
            out[number] = name
        elif step == "ran" and out.get(number) in ON_THREADS:
            policy.ran_here(each, 0.0, LONG, LONG, None)
        elif step == "cancel":
            each.future.cancel()
            out.pop(number, None)
        elif step in ("left", "again"):
            policy.left(each)
            policy.left(each)
            out.pop(number, None)
        for where, place in policy._places.items():
            assert place.count == list(out.values()).count(where)
            assert place.seconds >= 0
        assert policy._cores.held >= 0
        assert 0 <= policy._cores.count <= len(out)
    for each in items:
        policy.left(each)
    assert [place.count for place in policy._places.values() if place.count] == []
    assert [place.seconds for place in policy._places.values() if place.seconds] == []
    cores = policy._cores
    assert (cores.count, cores.seconds, cores.held) == (0, 0, 0)
    assert policy.usual(work).probing == 0  # type: ignore[union-attr]  # it is known


def test_a_forked_child_starts_with_what_is_known_and_nothing_out(bench: Bench) -> None:
    bench.calls(200, work, wall=TINY)
    bench.burst(3, other)
    held = [bench.hand(other) for _ in range(2)]
    assert bench.hand(other)[1] == HELD
    bench.policy.after_fork()
    assert bench.call(work, wall=TINY) == "inline"
    assert bench.hand(other)[1] == "lane"
    assert len(held) == 2


def test_what_it_believes_is_told_for_each_size_with_the_place(bench: Bench) -> None:
    assert bench.policy.explain(work) == "work: nothing is known yet"
    bench.calls(300, work, "", wall=TINY)
    bench.calls(3, work, "x" * 5000, wall=LONG, cpu=0.0)
    small, large = bench.policy.explain(work).splitlines()
    assert small.startswith("work, arguments below 4: tiny, and has been so for long: 1 us a call")
    assert small.endswith("; inline")
    assert "mostly waits: 50 ms a call" in large
    assert large.endswith("; lane")


def test_adaptive_prints_as_it_is_written() -> None:
    assert repr(Adaptive()) == "Adaptive()"
    assert repr(Adaptive(move="all")) == "Adaptive(move='all')"
