"""RayExecutor, on a real Ray of two workers."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import wait

import numpy as np
import pytest
import ray

from hybrid_compute import HybridExecutor
from hybrid_compute.engines import _ray_watch
from hybrid_compute.engines._ray_watch import Watch
from hybrid_compute.engines.ray import RayExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    PlacementError,
    TaskEncodeError,
    TaskTimeout,
    WorkerCrashed,
)
from hybrid_compute.policy import Always
from hybrid_compute.testing import executor_checks
from hybrid_compute.testing.work import Gate, count, echo, hold
from tests.engines import engine_work as work

pytestmark = [
    pytest.mark.leaks("Ray's threads and connections come and go"),
    pytest.mark.usefixtures("started_ray"),
]


class Asking(Watch):
    """Asks Ray for the ends of calls, whether they come quickly or not."""

    def __init__(self, tell):
        super().__init__(tell)
        self._brisk = True


@pytest.fixture(params=["told", "asked"], autouse=True)
def ends(request, monkeypatch):
    """How the ends of calls are noticed; by itself an executor does what costs less."""
    if request.param == "asked":
        monkeypatch.setattr("hybrid_compute.engines.ray.Watch", Asking)
        monkeypatch.setattr(_ray_watch, "_FEW", 0)
    else:
        monkeypatch.setattr(_ray_watch, "_SOME", sys.maxsize)


@pytest.fixture
def executor():
    with RayExecutor() as made:
        yield made


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


@pytest.mark.parametrize("check", executor_checks(RayExecutor.capabilities), ids=str)
def test_a_ray_executor_keeps_the_contract(check):
    check(RayExecutor, timeout=60)


# Where it runs, and how.


def test_a_lambda_runs_in_another_process(executor):
    captured = [os.getpid()]
    assert executor.submit(lambda: captured[0] != os.getpid()).result()


def test_what_cannot_be_pickled_fails_by_itself(executor):
    bad, good = executor.submit(echo, threading.Lock()), executor.submit(echo, 1)
    assert isinstance(bad.exception(), TaskEncodeError)
    assert good.result() == 1


def test_work_that_is_local_only_does_not_go_to_a_cluster():
    with HybridExecutor(executors={"ray": RayExecutor()}, policy=Always("ray")) as executor:
        assert executor.submit(echo, 1).result() == 1
        error = executor.options(local_only=True).submit(echo, 1).exception()
        assert isinstance(error, PlacementError)


def test_context_variables_that_are_carried_reach_calls_and_streams():
    with HybridExecutor(
        executors={"ray": RayExecutor()}, policy=Always("ray"), carry=[work.user]
    ) as executor:
        assert executor.submit(work.who).result() == "nobody"
        token = work.user.set("me")
        try:
            assert executor.submit(work.who).result() == "me"
            assert list(executor.submit(work.who_twice)) == ["me", "me"]
        finally:
            work.user.reset(token)


def test_a_map_sends_many_calls_as_one_task(executor, monkeypatch):
    sent = []
    send = RayExecutor._send_one

    def note(self, job):
        sent.append(job)
        send(self, job)

    monkeypatch.setattr(RayExecutor, "_send_one", note)
    assert list(executor.map(abs, range(-2000, 0))) == list(range(2000, 0, -1))
    assert len(sent) < 200


def test_a_burst_needs_one_thread_here_and_no_more_than_the_bound_is_given_to_ray(gate):
    with RayExecutor(max_in_flight=3) as executor:
        executor.submit(echo).result()
        before = threading.active_count()
        futures = [executor.submit(hold, gate.port) for _ in range(10)]
        assert gate.arrived(60)
        assert threading.active_count() <= before + 1
        assert len(executor._out) == 3
        assert futures[-1].cancel()
        gate.open()
        wait(futures)


def test_tags_say_what_a_task_needs():
    options = {"small": {"num_cpus": 0.5}, "gpu": {"num_gpus": 1}}
    with RayExecutor(options=options) as made, HybridExecutor(executors={"ray": made}) as executor:
        view = executor.options(executor="ray", tags="small")
        assert view.submit(work.cpus_of_ray).result() == 0.5
        future = executor.options(executor="ray", tags="gpu").submit(echo, 1)
        assert executor.options(executor="ray").submit(echo, 1).result() == 1
        assert not future.done()  # there is no such node: Ray keeps it
        assert future.cancel_running()


def test_a_large_argument_is_stored_once_for_all_calls_that_have_it(executor, monkeypatch):
    sent = []
    put = ray.put

    def note(value, **kwargs):
        sent.append(value)
        return put(value, **kwargs)

    monkeypatch.setattr(ray, "put", note)
    array = np.ones(1 << 18)
    futures = [executor.submit(work.add_up, array, array[:10]) for _ in range(5)]
    assert [each.result() for each in futures] == [(1 << 18) + 10.0] * 5
    array[:] = 2.0  # what is equal no more is stored anew
    assert executor.submit(work.add_up, array).result() == float(1 << 19)
    assert 2 <= len(sent) <= 6


def test_work_that_runs_can_be_ended(executor, gate):
    future = executor.submit(hold, gate.port)
    assert gate.arrived(60)
    assert not future.cancel()
    assert future.cancel_running()
    assert gate.left(60)


def test_work_that_runs_can_be_ended_by_a_callback(executor, gate):
    future = executor.submit(hold, gate.port)
    assert gate.arrived(60)
    said = []
    other = executor.submit(echo, 1)
    called = threading.Event()

    def on_done(_):
        said.append(future.cancel_running())
        called.set()

    other.add_done_callback(on_done)
    assert called.wait(60)
    assert said == [True]
    assert gate.left(60)


def test_a_deadline_ends_the_work(gate):
    with HybridExecutor(executors={"ray": RayExecutor()}) as executor:
        executor.options(executor="ray").submit(echo).result()
        future = executor.options(executor="ray", timeout=0.5).submit(hold, gate.port)
        assert isinstance(future.exception(), TaskTimeout)
        if gate.arrived(0):
            assert gate.left(60)


def test_a_callback_may_end_work_whose_end_is_known_already(monkeypatch, gate):
    told, all_told = [], threading.Event()

    class Counting(Watch):
        def __init__(self, tell):
            super().__init__(lambda each: self.count(tell, each))

        def count(self, tell, each):
            tell(each)
            told.append(each)
            if len(told) == 3:
                all_told.set()

    monkeypatch.setattr("hybrid_compute.engines.ray.Watch", Counting)
    with RayExecutor() as executor:
        called, said = threading.Event(), []
        first = executor.submit(hold, gate.port)
        first.add_done_callback(lambda _: [called.set(), all_told.wait(60)])
        gate.open()
        assert called.wait(60)
        one, other = executor.submit(echo, 1), executor.submit(echo, 2)
        one.add_done_callback(lambda _: said.append(other.cancel_running()))
        assert [one.result(), other.result()] == [1, 2]
        assert said == [False]


def test_many_calls_keep_their_results_and_their_errors_apart(executor):
    futures = [executor.submit(work.half_of_even, each) for each in range(300)]
    for number, future in enumerate(futures):
        if number % 2:
            assert isinstance(future.exception(), ValueError)
            assert str(number) in str(future.exception())
        else:
            assert future.result() == number // 2


def test_a_call_that_takes_long_does_not_hold_up_the_others(executor, gate):
    slow = executor.submit(hold, gate.port)
    assert gate.arrived(60)
    futures = [executor.submit(echo, each) for each in range(300)]
    assert [each.result() for each in futures] == list(range(300))
    assert not slow.done()
    gate.open()
    slow.result()


# Workers that die.


def test_a_worker_that_dies_takes_no_other_calls_along(executor, tmp_path):
    futures = [executor.submit(echo, each) for each in range(20)]
    dead = executor.submit(work.mark_and_die, str(tmp_path / "file"))
    futures += [executor.submit(echo, each) for each in range(20, 40)]
    assert [each.result() for each in futures] == list(range(40))
    assert isinstance(dead.exception(), WorkerCrashed)


def test_an_item_whose_worker_dies_fails_and_ran_once(executor, tmp_path):
    path = tmp_path / "file"
    error = executor.submit(work.mark_and_die, str(path)).exception()
    assert isinstance(error, WorkerCrashed)
    assert isinstance(error.__cause__, ray.exceptions.WorkerCrashedError)
    assert path.stat().st_size == 1


def test_an_idempotent_item_runs_again(tmp_path):
    with HybridExecutor(executors={"ray": RayExecutor()}) as executor:
        view = executor.options(executor="ray", idempotent=True)
        assert view.submit(work.die_once, str(tmp_path / "file")).result() == 2


def test_a_stream_whose_worker_dies_ends_behind_its_items(executor, gate):
    stream = executor.submit(work.numbers_until, gate.port).result()
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    gate.open()
    with pytest.raises(WorkerCrashed):
        next(stream)


# Streams.


def test_a_generator_is_no_further_ahead_than_it_may_be(executor, tmp_path):
    path = tmp_path / "file"
    stream = executor.submit(work.marked_numbers, str(path), 100).result()
    assert next(stream) == 0
    for _ in range(5):
        executor.submit(echo).result()
    assert path.stat().st_size <= 1 + 4
    assert list(stream) == list(range(1, 100))
    assert stream.value == "end"


def test_a_stream_that_does_not_begin_fails_its_future(executor):
    error = executor.submit(count, "no", "arguments", of="these").exception()
    assert isinstance(error, TypeError)


def test_a_stream_whose_outcome_is_there_is_not_cancelled(executor, monkeypatch):
    cancelled = []
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    stream = executor.stream(count.fn, 3)
    assert next(stream) == 0
    tap = stream._channel.source
    assert list(stream) == [1, 2]
    done = threading.Event()
    tap.close()
    tap._tell(done.set)  # behind it
    done.wait(5)  # or the loop has ended, with the last of its streams
    assert not cancelled


def test_two_streams_are_read_side_by_side_by_one_thread(executor):
    one, two = (executor.stream(count.fn, 50) for _ in range(2))
    assert [next(one), next(two)] == [0, 0]
    readers = [each for each in threading.enumerate() if each.name == "ray-streams"]
    assert len(readers) == 1
    assert list(zip(one, two, strict=True)) == [(each, each) for each in range(1, 50)]


def test_while_there_are_streams_ray_tells_of_each_end(executor, tmp_path):
    stream = executor.submit(work.marked_numbers, str(tmp_path / "file"), 100).result()
    assert next(stream) == 0
    executor.submit(echo).result()
    assert not executor._watch._brisk
    assert list(stream) == list(range(1, 100))


@pytest.mark.parametrize(
    ("given", "said"), [({"options": ["gpu"]}, "options="), ({"init": 3}, "init=")]
)
def test_what_is_given_wrongly_is_refused(given, said):
    with pytest.raises(ConfigurationError, match=said):
        RayExecutor(**given)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "hybrid_compute.engines.ray")
    with pytest.raises(ImportError, match=r"pip install 'hybrid-compute\[ray\]'"):
        import hybrid_compute.engines.ray  # noqa: F401
