"""Items that are held until their policy knows more, and what is measured meanwhile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, HybridFuture, Task, _first_calls, learning, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import PolicyError, TaskEncodeError
from hybrid_compute.policy import Adaptive
from hybrid_compute.policy._belief import Belief
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import NO_OPTIONS

TIMEOUT = 30.0  # seconds; only a test that fails ever waits so long
PARENT = os.getpid()
GATES: dict[str, threading.Event] = {}


@task
def pid(_: object = None) -> int:
    return os.getpid()


@task
def gated(name: str) -> int:
    """Wait for a gate of this process; in another one there is none."""
    gate = GATES.get(name)
    if gate is not None:
        gate.wait(TIMEOUT)
    return os.getpid()


@task
def stuck(path: str) -> int:
    """Wait until there is a file."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return os.getpid()


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Iterator[str]:
    name = request.node.name
    GATES[name] = threading.Event()
    yield name
    GATES.pop(name).set()


class Patient:
    """A policy that says "not yet" until it is told what to answer."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)  # the last one is given for ever
        self.asked = 0

    def route(self, item: WorkItem, fleet: Fleet) -> Any:
        self.asked += 1
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the look-out come only when all is lost."""
    monkeypatch.setattr(learning, "_FIRST_LOOK", 2 * TIMEOUT)
    monkeypatch.setattr(learning, "_LAST_LOOK", 2 * TIMEOUT)


def believe(policy: Adaptive, belief: Belief, wall: float, cpu: float) -> None:
    """Have the policy believe that calls took so long."""
    for _ in range(80):
        policy.ran(belief, 1, wall, cpu)


def known(
    policy: Adaptive,
    executor: HybridExecutor,
    fn: Task[..., Any],
    *args: Any,
    wall: float,
    cpu: float,
) -> Belief:
    """Have the policy know a task of which no call was made."""
    item = RoutedItem(fn, args, None, fn.options)
    policy.route(item, executor._fleet)
    policy.left(item)
    belief = item.belief
    assert isinstance(belief, Belief)
    believe(policy, belief, wall, cpu)
    return belief


# A policy that cannot tell.


def test_an_item_is_routed_again_when_its_policy_could_not_tell() -> None:
    with HybridExecutor(1, "pool", policy=Patient(None, ("thread",))) as executor:
        future = executor.submit(pid)
        assert future.result(TIMEOUT) == PARENT
        assert future.explain().executor == "thread"


def test_an_item_whose_policy_never_can_tell_goes_to_processes() -> None:
    with HybridExecutor(1, max_processes=1, policy=Patient(None)) as executor:
        futures = [executor.submit(pid) for _ in range(20)]
        assert PARENT not in {each.result(TIMEOUT) for each in futures}
        assert PARENT not in set(executor.map(pid, range(20)))


def test_a_stream_whose_policy_cannot_tell_is_held_too() -> None:
    @task
    def count() -> Iterator[int]:
        yield from range(3)

    with HybridExecutor(1, max_processes=1, policy=Patient(None)) as executor:
        assert list(executor.stream(count)) == [0, 1, 2]
        assert list(executor.submit(count)) == [0, 1, 2]


def test_what_a_policy_raises_on_the_second_question_is_on_the_future() -> None:
    with HybridExecutor(1, policy=Patient(None, ValueError("hm"))) as executor:
        with pytest.raises(PolicyError, match="hm"):
            executor.submit(pid).result(TIMEOUT)


def test_what_was_held_never_runs_on_the_thread_that_routes_it() -> None:
    with HybridExecutor(1, max_processes=1, policy=Patient(None, ("inline",))) as executor:
        assert executor.submit(pid).result(TIMEOUT) != PARENT


def test_a_held_item_can_be_cancelled_and_those_who_wait_are_told() -> None:
    policy = Patient(None)
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        future = executor.submit(pid)
        assert future.cancel()
        assert wait([future], TIMEOUT).done == {future}
        with pytest.raises(CancelledError):
            future.result()


def test_a_held_item_is_explained_before_it_is_anywhere(no_looks: None) -> None:
    with HybridExecutor(1, policy=Patient(None, ("thread",))) as executor:
        assert executor.submit(pid).explain().executor != "process"


def test_what_is_held_goes_when_first_calls_are_over_and_not_when_somebody_looks(
    no_looks: None, gate: str
) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        futures = [executor.submit(gated, gate) for _ in range(20)]
        GATES[gate].set()
        assert all(each.result(TIMEOUT) for each in futures)


def test_the_policy_hears_how_long_it_took_to_pickle_much() -> None:
    heard: list[tuple[int, float]] = []

    class Hears(Adaptive):
        def pickled(self, item: RoutedItem, size: int, seconds: float) -> None:
            heard.append((size, seconds))
            raise ValueError  # which is logged, and costs the item nothing

    with HybridExecutor(1, max_processes=1, policy=Hears()) as executor:
        learning_, process = executor._learning, executor._fleet["process"]
        for size in (10, 100_000):
            item = RoutedItem(task(len), (bytes(size),), None, NO_OPTIONS)
            assert executor._policy.route(item, executor._fleet) is not None
            item.meter = learning_
            item.launch(("process",), {"process": process})
            assert item.future.result(TIMEOUT) == size
    ((size, seconds),) = heard
    assert size >= 100_000
    assert 0 < seconds < TIMEOUT


def test_the_look_out_is_gone_when_nothing_is_held() -> None:
    with HybridExecutor(1, policy=Patient(None, ("thread",))) as executor:
        executor.submit(pid).result(TIMEOUT)
        for each in threading.enumerate():
            if each.name == "look-out":
                each.join(TIMEOUT)
                assert not each.is_alive()


# The end.


def test_shutdown_routes_what_is_held_at_once(no_looks: None) -> None:
    executor = HybridExecutor(1, policy=Patient(*[None] * 8, ("thread",)))
    futures = [executor.submit(pid) for _ in range(8)]
    executor.shutdown()
    assert [each.result(0) for each in futures] == [PARENT] * 8


def test_shutdown_without_waiting_forgets_nothing_that_is_held(no_looks: None) -> None:
    executor = HybridExecutor(1, policy=Patient(*[None] * 8, ("thread",)))
    futures = [executor.submit(pid) for _ in range(8)]
    executor.shutdown(wait=False)
    assert [each.result(TIMEOUT) for each in futures] == [PARENT] * 8
    executor.shutdown()


def test_shutdown_cancels_what_is_held_if_asked_to_whatever_callbacks_raise(
    no_looks: None,
) -> None:
    def leave(_: object) -> None:
        raise SystemExit

    executor = HybridExecutor(1, policy=Patient(None))
    futures = [executor.submit(pid) for _ in range(8)]
    for each in futures:
        each.add_done_callback(leave)
    executor.shutdown(cancel_futures=True)
    assert all(each.cancelled() for each in futures)
    assert wait(futures, TIMEOUT).not_done == set()


def test_a_callback_of_a_held_item_may_shut_down() -> None:
    executor = HybridExecutor(1, max_processes=1, policy=Patient(None, None, ValueError("hm")))
    done = threading.Event()

    def end(_: object) -> None:
        executor.shutdown()
        done.set()

    futures = [executor.submit(pid) for _ in range(2)]
    futures[0].add_done_callback(end)
    assert done.wait(TIMEOUT)
    assert all(isinstance(each.exception(TIMEOUT), PolicyError) for each in futures)
    executor.shutdown()


def test_a_callback_of_a_held_item_may_raise_system_exit() -> None:
    def leave(_: object) -> None:
        raise SystemExit

    ready = threading.Event()

    class Waiting:
        """Cannot tell who submits; raises when it is asked again, once all is prepared."""

        def route(self, item: WorkItem, fleet: Fleet) -> None:
            if threading.current_thread() is not threading.main_thread():
                ready.wait(TIMEOUT)
                raise ValueError("hm")

    with HybridExecutor(1, policy=Waiting()) as executor:
        futures = [executor.submit(pid) for _ in range(8)]
        for each in futures:
            each.add_done_callback(leave)
        ready.set()
        assert all(isinstance(each.exception(TIMEOUT), PolicyError) for each in futures)


def test_an_executor_that_is_dropped_still_does_what_it_holds() -> None:
    gc.collect()
    gc.disable()
    try:
        executor = HybridExecutor(1, policy=Patient(None, ("thread",)))
        gone = weakref.ref(executor._fleet["thread"])
        ended = threading.Event()
        weakref.finalize(executor._fleet["thread"], ended.set)
        futures = [executor.submit(pid) for _ in range(4)]
        del executor
        assert [each.result(TIMEOUT) for each in futures] == [PARENT] * 4
        assert ended.wait(TIMEOUT)  # the look-out had it last
        assert gone() is None
    finally:
        gc.enable()


def test_nothing_of_a_held_item_is_kept_when_it_is_done() -> None:
    class Argument: ...

    gc.collect()
    gc.disable()
    try:
        with HybridExecutor(1, policy=Patient(None, ("thread",))) as executor:
            argument = Argument()
            gone = threading.Event()
            weakref.finalize(argument, gone.set)
            future = executor.submit(pid, argument)
            del argument
            future.result(TIMEOUT)
            assert gone.wait(TIMEOUT)
    finally:
        gc.enable()


def script(text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=dict(os.environ, PYTHONPATH=str(Path(learning.__file__).parents[1])),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_held_when_the_interpreter_exits_is_done() -> None:
    text = """
import os
from hybrid_compute import HybridExecutor, learning, task

@task
def say(n):
    os.write(1, b"x")

class Patient:
    asked = 0

    def route(self, item, fleet):
        self.asked += 1
        return None if self.asked <= 20 else ("thread",)

learning._FIRST_LOOK = learning._LAST_LOOK = 1000
executor = HybridExecutor(2, policy=Patient())
for n in range(20):
    executor.submit(say, n)
"""
    assert script(text) == "x" * 20


def test_a_forked_child_can_use_the_policy_whose_lock_another_thread_held() -> None:
    text = """
import os, threading
from hybrid_compute import HybridExecutor, task
from hybrid_compute.policy import Adaptive

@task
def double(n):
    return 2 * n

policy = Adaptive()
with HybridExecutor(2, policy=policy) as executor:
    assert executor.submit(double, 4).result() == 8
held, go = threading.Event(), threading.Event()
def hold():
    with policy._lock:
        held.set()
        go.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    try:
        with HybridExecutor(2, policy=policy) as executor:
            assert [executor.submit(double, n).result(10) for n in range(9)] == [*range(0, 18, 2)]
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
go.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert script(text.replace("threading.Thread(", "threading.Thread(daemon=True, ")) == "0\n"


# Adaptive, with real executors.


def test_a_burst_of_a_task_that_nobody_knows_is_done() -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        futures = [executor.submit(pow, n, 2) for n in range(10)]
        declared = [executor.submit(task(lambda n: n * n), n % 4) for n in range(300)]
        assert [each.result(TIMEOUT) for each in futures] == [n * n for n in range(10)]
        assert [each.result(TIMEOUT) for each in declared] == [(n % 4) ** 2 for n in range(300)]


@task
def burn(seconds: float) -> int:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return os.getpid()


def test_a_task_that_computes_goes_to_processes() -> None:
    policy = Adaptive()
    with HybridExecutor(2, max_processes=2, policy=policy) as executor:
        known(policy, executor, burn, 0.001, wall=0.05, cpu=0.05)
        futures = [executor.submit(burn, 0.001) for _ in range(40)]
        assert [each.result(TIMEOUT) for each in futures].count(PARENT) <= 20
        assert "computes" in executor.explain(burn)


def test_a_task_that_waits_goes_to_the_lane_and_many_wait_at_once(gate: str) -> None:
    together = threading.Barrier(64)

    @task
    def meet() -> None:
        together.wait(TIMEOUT)

    with HybridExecutor(2, max_processes=1) as executor:
        futures = [executor.submit(meet) for _ in range(64)]
        for each in futures:
            each.result(TIMEOUT)
        assert {each.explain().executor for each in futures} == {"lane"}


def test_plain_callables_keep_to_max_workers_while_the_lane_is_busy(gate: str) -> None:
    with HybridExecutor(3, "pool", max_processes=1) as executor:
        waiting = [executor.submit(gated, gate) for _ in range(30)]
        lock, inside, most = threading.Lock(), 0, 0

        def plain(_: int) -> str:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1
            return threading.current_thread().name

        names = {each.result(TIMEOUT) for each in [executor.submit(plain, n) for n in range(60)]}
        assert most <= 3
        assert names <= {"pool_0", "pool_1", "pool_2"}
        assert not any(each.done() for each in waiting)
        GATES[gate].set()
        assert {each.result(TIMEOUT) for each in waiting} == {PARENT}


def test_a_task_that_submits_tasks_and_waits_for_them_comes_to_an_end() -> None:
    with HybridExecutor(2, max_processes=1) as executor:

        @task
        def tree(depth: int, _: object) -> int:
            below = [executor.submit(tree, depth - 1, NEVER) for _ in range(2)] if depth else []
            return 1 + sum(each.result(TIMEOUT) for each in below)

        NEVER = threading.Lock()  # which keeps it in this process
        assert executor.submit(tree, 3, NEVER).result(TIMEOUT) == 15


def test_two_executors_may_share_what_is_learned(gate: str) -> None:
    policy = Adaptive()
    with HybridExecutor(1, max_processes=1, policy=policy) as first:
        with HybridExecutor(1, max_processes=1, policy=policy) as second:
            held = [first.submit(gated, gate) for _ in range(2)]
            others = [second.submit(gated, gate) for _ in range(4)]
            GATES[gate].set()
            assert len([each.result(TIMEOUT) for each in held + others]) == 6
        assert first.submit(gated, gate).result(TIMEOUT) == PARENT


def test_what_was_learned_before_an_item_was_held_is_not_waited_for(
    no_looks: None, gate: str
) -> None:
    class Late(Adaptive):
        """Learns of a first call between an answer "not yet" and what its executor does then."""

        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
            route = super().route(item, fleet)
            if route is None:
                self.ran(item.belief, 2, 0.02, 0.0)
            return route

    nothing = "x" * len(gate)
    with HybridExecutor(1, max_processes=1, policy=Late()) as executor:
        first = [executor.submit(gated, gate) for _ in range(2)]  # which tell nothing
        other = executor.submit(gated, nothing)
        try:
            assert other.result(TIMEOUT / 2) == PARENT
            assert not any(each.done() for each in first)
        finally:
            GATES[gate].set()


# Moving what waits.


def test_items_that_wait_behind_processes_move_when_their_task_turns_out_to_wait(
    tmp_path: Path,
) -> None:
    policy, path = Adaptive(), str(tmp_path / "go")
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        executor.options(executor="process").submit(stuck, path)
        belief = known(policy, executor, stuck, path, wall=0.05, cpu=0.05)
        try:
            futures = [executor.submit(stuck, path) for _ in range(12)]
            there = [each for each in futures if each.explain().executor == "process"]
            assert len(there) >= 4
            believe(policy, belief, 0.05, 0.0)
            executor._learning.reconsider(belief)
            moved = [each for each in there if each.explain().executor == "lane"]
            assert len(moved) >= len(there) - 2  # the worker may have one, and one is on its way
        finally:
            Path(path).touch()
        assert {each.result(TIMEOUT) for each in moved} == {PARENT}
        assert len([each.result(TIMEOUT) for each in futures]) == 12


def test_items_that_wait_behind_the_lane_move_when_their_task_turns_out_to_compute(
    gate: str,
) -> None:
    policy = Adaptive()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        belief = known(policy, executor, gated, gate, wall=0.05, cpu=0.0)
        futures = [executor.submit(gated, gate) for _ in range(90)]
        started = [each for each in futures if each.running()]
        while len(started) < 64:  # threads come in their own time
            wait(futures, 0.01)
            started = [each for each in futures if each.running()]
        believe(policy, belief, 0.05, 0.05)
        executor._learning.reconsider(belief)
        moved = [each for each in futures if each not in started]
        assert len(moved) == 26
        where = [each.explain().executor for each in moved]
        assert "lane" not in where
        assert "process" in where
        assert not any(each.done() for each in started)
        GATES[gate].set()
        assert len([each.result(TIMEOUT) for each in futures]) == 90


def test_moving_items_loses_none_whatever_their_callbacks_raise(gate: str) -> None:
    class Broken(Adaptive):
        """Raises when it is asked about items that it had answered for."""

        broken = False

        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
            if self.broken:
                raise ValueError("hm")
            return super().route(item, fleet)

    def leave(_: object) -> None:
        raise SystemExit

    policy = Broken()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        belief = known(policy, executor, gated, gate, wall=0.05, cpu=0.0)
        futures = [executor.submit(gated, gate) for _ in range(80)]
        started: list[HybridFuture[int]] = []
        while len(started) < 64:
            wait(futures, 0.01)
            started = [each for each in futures if each.running()]
        believe(policy, belief, 0.05, 0.05)
        waiting = [each for each in futures if each not in started]
        for each in waiting:
            each.add_done_callback(leave)
        policy.broken = True
        with pytest.raises(SystemExit):
            executor._learning.reconsider(belief)
        assert all(isinstance(each.exception(TIMEOUT), PolicyError) for each in waiting)
        GATES[gate].set()


# What is counted.


def counts(policy: Adaptive) -> list[int]:
    return [*(each.count for each in policy._places.values()), policy._cores.count]


class Cancelling(Adaptive):
    """Has somebody cancel an item right when it is handed over, or routed, again."""

    when = ""

    def handed(self, item: RoutedItem, name: str, fleet: Fleet) -> None:
        if self.when == "before":
            assert item.future.cancel()
        super().handed(item, name, fleet)
        if self.when == "after":
            assert item.future.cancel()

    def _look_up(self, item: RoutedItem) -> Any:
        found = super()._look_up(item)
        if self.when == "looked up":
            assert item.future.cancel()
        return found

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        route = super().route(item, fleet)
        if self.when == "routed" and route is not None:
            assert item.future.cancel()
        return route


@pytest.mark.parametrize("when", ["before", "after", "routed"])
def test_an_item_that_is_cancelled_while_it_is_handed_over_is_not_counted(
    when: str, no_looks: None, gate: str
) -> None:
    policy = Cancelling()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        futures = [executor.submit(gated, gate) for _ in range(6)]
        held = futures[2:]
        policy.when = when
        belief = policy.usual(gated)
        assert belief is not None
        policy.seen(belief, 0.01, 0.0)
        executor._learning._release(belief)
        assert all(each.cancelled() for each in held)
        assert wait(held, TIMEOUT).not_done == set()
        policy.when = ""
        GATES[gate].set()
        assert [each.result(TIMEOUT) for each in futures[:2]] == [PARENT] * 2
    assert set(counts(policy)) == {0}
    assert belief.probing == 0


@pytest.mark.parametrize("when", ["looked up", "routed"])
def test_a_first_call_that_is_cancelled_while_it_is_routed_makes_room_for_another(
    when: str, no_looks: None, gate: str
) -> None:
    policy = Cancelling()
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        futures = [executor.submit(gated, gate) for _ in range(3)]
        belief = policy.usual(gated)
        assert belief is not None
        belief.probing = 1  # as if one of the two had been cancelled
        policy.when = when
        executor._learning._release(belief)
        assert futures[2].cancelled()
        assert belief.probing == 1
        belief.probing = 2
        GATES[gate].set()
        assert [each.result(TIMEOUT) for each in futures[:2]] == [PARENT] * 2


def test_nothing_is_counted_any_more_when_all_is_done_however_it_ended(tmp_path: Path) -> None:
    @task
    def varied(n: int, _: object = None) -> None:
        if n % 4 == 1:
            raise ValueError
        if n % 4 == 2:
            time.sleep(0.001)
        if n % 4 == 3 and os.getpid() != PARENT:
            os._exit(1)

    policy = Adaptive()
    with HybridExecutor(2, max_processes=2, policy=policy) as executor:
        futures = []
        for n in range(200):
            arguments: tuple[Any, ...] = (threading.Lock(),) if n % 7 == 0 else ()
            futures.append(executor.submit(varied, n % 4, *arguments))
            if n % 5 == 0:
                futures[-1].cancel()
        futures += [executor.options(retries=1).submit(varied, 1) for _ in range(5)]
        futures += [executor.submit(burn, 0.005) for _ in range(30)]
        wait(futures, TIMEOUT)
        futures += [executor.submit(burn, 0.005) for _ in range(30)]
        executor.shutdown(cancel_futures=True)
    assert wait(futures, TIMEOUT).not_done == set()
    assert set(counts(policy)) == {0}
    assert {each.probing for each in policy._beliefs.all()} == {0}
    assert policy._cores.seconds == policy._cores.held == 0


def test_a_failed_future_does_not_keep_the_executors_alive() -> None:
    @task
    def fail() -> None:
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        executor = HybridExecutor(1)
        ended = threading.Event()
        weakref.finalize(executor._fleet["lane"], ended.set)
        future = executor.submit(fail)
        assert isinstance(future.exception(TIMEOUT), ValueError)
        del executor
        assert ended.wait(TIMEOUT)
        del future
    finally:
        gc.enable()


def test_an_idle_executor_is_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        executor = HybridExecutor(2, max_processes=1)
        for each in [executor.submit(burn, 0.002) for _ in range(12)]:
            each.result(TIMEOUT)
        del each
        gone = weakref.ref(executor)
        ended = [threading.Event() for _ in executor._fleet]
        for member, event in zip(executor._fleet.values(), ended, strict=True):
            weakref.finalize(member, event.set)
        del executor, member
        assert gone() is None
        assert all(event.wait(TIMEOUT) for event in ended)
    finally:
        gc.enable()


# Looking at threads.


def test_the_clock_of_a_thread_is_read_only_while_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen, dead = _first_calls._cpu_clock_of, 0, 0
    assert real is not None

    def careful(thread: int) -> int:
        nonlocal seen, dead
        seen += 1
        if thread not in {each.ident for each in threading.enumerate()}:
            dead += 1  # it would be undefined
            return time.CLOCK_THREAD_CPUTIME_ID
        return real(thread)

    monkeypatch.setattr(_first_calls, "_cpu_clock_of", careful)
    monkeypatch.setattr(learning, "_FIRST_LOOK", 0.0003)
    monkeypatch.setattr(learning, "_LAST_LOOK", 0.0006)
    for _ in range(8):
        with HybridExecutor(1, max_processes=1) as executor:
            for _ in range(3):

                @task
                def short() -> None:
                    time.sleep(0.0005)

                for _ in range(4):
                    executor.submit(short)
        assert not executor._learning._first_calls._running  # threads end only after that
    assert seen
    assert not dead


# What does not travel.


def sent_to_processes(policy: Adaptive, executor: HybridExecutor, belief: Belief) -> None:
    """Have the policy answer for the next calls that they go to processes."""
    belief.route = ("process", "thread")
    belief.where = policy._place("process", executor._fleet)
    belief.left = 30


def test_what_cannot_be_pickled_runs_on_a_thread_once_and_so_from_then_on() -> None:
    lock = threading.Lock()
    ran: list[int] = []
    policy = Adaptive()

    @task
    def work(_: object) -> int:
        ran.append(1)
        return os.getpid()

    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        belief = known(policy, executor, work, lock, wall=0.05, cpu=0.05)
        sent_to_processes(policy, executor, belief)
        future = executor.submit(work, lock)
        assert future.result(TIMEOUT) == PARENT
        first, second = future.explain().attempts
        assert first.executor == "process"
        assert "pickle" in str(first.error)
        assert (second.executor, second.error) == ("thread", None)
        believe(policy, belief, 0.05, 0.05)
        later = [executor.submit(work, lock) for _ in range(20)]
        assert {each.result(TIMEOUT) for each in later} == {PARENT}
        assert "process" not in {each.explain().attempts[0].executor for each in later}
        assert len(ran) == 21


@task
def cannot_encode(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    raise TaskEncodeError("of an executor that the work uses itself")


def test_work_that_raises_what_pickling_would_is_not_moved_to_a_thread(tmp_path: Path) -> None:
    policy, path = Adaptive(), str(tmp_path / "effects")
    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        belief = known(policy, executor, cannot_encode, path, wall=0.05, cpu=0.05)
        sent_to_processes(policy, executor, belief)
        assert isinstance(executor.submit(cannot_encode, path).exception(TIMEOUT), TaskEncodeError)
    assert Path(path).read_text() == "x"


def test_an_attempt_that_could_not_be_pickled_costs_no_retry() -> None:
    lock = threading.Lock()
    ran: list[int] = []
    policy = Adaptive()

    @task(retries=1)
    def work(_: object) -> str:
        ran.append(1)
        if len(ran) == 1:
            raise ValueError("the first time")
        return "done"

    with HybridExecutor(1, max_processes=1, policy=policy) as executor:
        belief = known(policy, executor, work, lock, wall=0.05, cpu=0.05)
        sent_to_processes(policy, executor, belief)
        future = executor.submit(work, lock)
        assert future.result(TIMEOUT) == "done"
        assert future.explain().attempts[0].executor == "process"


def test_a_foreign_executor_in_the_place_of_the_lane_will_do() -> None:
    with HybridExecutor(1, max_processes=1, executors={"lane": ThreadPoolExecutor(4)}) as executor:
        futures = [executor.submit(burn, 0.001) for _ in range(30)]
        assert len([each.result(TIMEOUT) for each in futures]) == 30
