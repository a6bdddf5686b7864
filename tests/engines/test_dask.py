"""DaskExecutor, on a real cluster of two processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import CancelledError, wait

import dask
import numpy as np
import pytest
from distributed import Client

from hybrid_compute import HybridExecutor, _packed
from hybrid_compute.engines.dask import DaskExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    PlacementError,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskEncodeError,
    TaskTimeout,
    WorkerCrashed,
)
from hybrid_compute.items import WorkItem
from hybrid_compute.policy import Always
from hybrid_compute.testing import executor_checks
from hybrid_compute.testing.work import Gate, count, echo, hold, mark
from tests.engines import engine_work as work
from tests.engines.cluster import Cluster

pytestmark = [
    pytest.mark.leaks("a cluster's connections come and go"),
    # A connection that Dask tries, and drops, when there is nobody.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def executor(client):
    with DaskExecutor(client) as made:
        yield made


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


@pytest.mark.parametrize("check", executor_checks(DaskExecutor.capabilities), ids=str)
def test_a_dask_executor_keeps_the_contract(check, client):
    check(lambda: DaskExecutor(client), timeout=60)


# Where it runs, and how.


def test_a_lambda_runs_in_another_process(executor):
    captured = [os.getpid()]
    assert executor.submit(lambda: captured[0] != os.getpid()).result()


def test_what_cannot_be_pickled_fails_by_itself(executor):
    bad, good = executor.submit(echo, threading.Lock()), executor.submit(echo, 1)
    assert isinstance(bad.exception(), TaskEncodeError)
    assert good.result() == 1


def test_work_that_is_local_only_does_not_go_to_a_cluster(client):
    with HybridExecutor(
        executors={"dask": DaskExecutor(client)}, policy=Always("dask")
    ) as executor:
        assert executor.submit(echo, 1).result() == 1
        error = executor.options(local_only=True).submit(echo, 1).exception()
        assert isinstance(error, PlacementError)


def test_context_variables_that_are_carried_reach_calls_and_streams(client):
    with HybridExecutor(
        executors={"dask": DaskExecutor(client)}, policy=Always("dask"), carry=[work.user]
    ) as executor:
        assert executor.submit(work.who).result() == "nobody"
        token = work.user.set("me")
        try:
            assert executor.submit(work.who).result() == "me"
            assert list(executor.submit(work.who_twice)) == ["me", "me"]
        finally:
            work.user.reset(token)


def test_a_map_sends_many_calls_as_one_task(executor, client, monkeypatch):
    keys = set()
    call = DaskExecutor._sent

    def note(self, job, future):
        keys.add(job.key)
        call(self, job, future)

    monkeypatch.setattr(DaskExecutor, "_sent", note)
    assert list(executor.map(abs, range(-2000, 0))) == list(range(2000, 0, -1))
    assert len(keys) < 200


def test_a_burst_needs_one_thread_here(executor, gate):
    before = threading.active_count()
    futures = [executor.submit(hold, gate.port) for _ in range(10)]
    assert gate.arrived(60)
    assert threading.active_count() <= before + 1
    gate.open()
    wait(futures)


def test_tags_say_what_a_worker_must_have(client, gate):
    resources = {"slot": {"slot": 1}, "gpu": {"GPU": 1}}
    with (
        DaskExecutor(client, resources=resources) as dask_,
        HybridExecutor(executors={"dask": dask_}) as executor,
    ):
        view = executor.options(executor="dask", tags="slot")
        assert view.submit(echo, 1).result() == 1
        future = executor.options(executor="dask", tags="gpu").submit(echo, 1)
        assert executor.options(executor="dask").submit(echo, 1).result() == 1
        assert future.running()  # no worker has one: Dask keeps it
        assert future.cancel_running()
        assert future.cancelled()


def test_tags_say_what_goes_first(client, monkeypatch):
    said = []
    submit = Client.submit

    def note(self, *args, **kwargs):
        said.append(kwargs.get("priority"))
        return submit(self, *args, **kwargs)

    monkeypatch.setattr(Client, "submit", note)
    with (
        DaskExecutor(client, priorities={"urgent": 10, "late": -1}) as dask_,
        HybridExecutor(executors={"dask": dask_}) as executor,
    ):
        for tags in ("urgent", {"urgent", "late"}, "late", None):
            executor.options(executor="dask", tags=tags).submit(echo, 1).result()
    assert said == [10, 10, -1, None]


def test_a_large_argument_goes_once_for_all_calls_that_have_it(executor, client, monkeypatch):
    sent = []
    scatter = Client.scatter

    def note(self, data, **kwargs):
        sent.append(data)
        return scatter(self, data, **kwargs)

    monkeypatch.setattr(Client, "scatter", note)
    array = np.ones(1 << 18)
    futures = [executor.submit(work.add_up, array, array[:10]) for _ in range(5)]
    assert [each.result() for each in futures] == [(1 << 18) + 10.0] * 5
    array[:] = 2.0  # what is equal no more is sent anew
    assert executor.submit(work.add_up, array).result() == float(1 << 19)
    assert 2 <= len(sent) <= 6
    assert not executor._pending


def test_what_waits_here_can_be_cancelled_and_what_runs_there_cannot(client, gate):
    with DaskExecutor(client, max_in_flight=1) as executor:
        first = executor.submit(hold, gate.port, 1)
        second = executor.submit(echo, 2)
        assert gate.arrived(60)
        assert executor.counts() == (1, 1)
        assert second.cancel()
        assert not first.cancel()
        assert not first.cancel_running()
        gate.open()
        assert first.result() == 1


def test_a_deadline_fails_the_item_and_lets_its_task_go(client, gate):
    with HybridExecutor(executors={"dask": DaskExecutor(client)}) as executor:
        future = executor.options(executor="dask", timeout=0.2).submit(hold, gate.port)
        assert isinstance(future.exception(), TaskTimeout)
        gate.open()


# Workers that die.


def test_an_item_whose_worker_dies_fails_and_ran_once(executor, tmp_path):
    path = tmp_path / "file"
    error = executor.submit(work.mark_and_die, str(path)).exception()
    assert isinstance(error, WorkerCrashed)
    assert error.item_name == "mark_and_die"
    assert path.stat().st_size == 1
    assert executor.submit(echo, 1).result() == 1


def test_an_idempotent_item_runs_again(client, tmp_path):
    with HybridExecutor(executors={"dask": DaskExecutor(client)}) as executor:
        view = executor.options(executor="dask", idempotent=True)
        assert view.submit(work.die_once, str(tmp_path / "file")).result() == 2


def test_a_result_that_a_worker_took_with_it_is_not_made_again(executor, client, tmp_path):
    path = tmp_path / "file"
    call = _packed.pack(WorkItem(mark, (str(path),)))
    done = threading.Event()
    future = client.submit(_packed.run_packed, call, key="once-a-result", pure=False)
    future.add_done_callback(lambda _: done.set())
    assert done.wait(60)
    (holder,) = client.who_has([future])["once-a-result"]
    os.kill(client.run(os.getpid, workers=[holder])[holder], signal.SIGKILL)
    with pytest.raises(CancelledError):
        future.result()
    assert path.stat().st_size == 1


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


# Clusters that are there, or not.


def test_an_address_can_stand_in_a_configuration(cluster):
    said = {"executors": {"far": {"type": "dask", "client": cluster.address}}}
    with HybridExecutor.from_config(said, environ={}) as ex:
        assert ex.options(executor="far").submit(pow, 2, 5).result(60) == 32


def test_an_address_will_do_and_its_client_is_closed(cluster):
    executor = DaskExecutor(cluster.address)
    assert executor.workers > 0
    assert executor.submit(echo, 1).result() == 1
    executor.shutdown()
    assert executor._client.status == "closed"


def test_a_scheduler_that_is_lost_loses_what_it_had():
    with Cluster(0) as cluster:
        executor = DaskExecutor(cluster.address)
        future = executor.submit(echo, 1)
        stream = executor.stream(count.fn, 3)
        cluster.process.kill()
        error = future.exception()
        assert isinstance(error, RemoteConnectionLost)
        assert error.may_have_run
        with pytest.raises(RemoteConnectionLost):
            next(stream)
        executor.shutdown()


def test_a_client_that_its_owner_closes_loses_what_it_had(cluster, gate):
    client = Client(cluster.address, set_as_default=False)
    with DaskExecutor(client) as executor:
        future = executor.submit(hold, gate.port)
        assert gate.arrived(60)
        client.close()
        assert isinstance(future.exception(), RemoteConnectionLost)
        assert isinstance(executor.submit(echo, 1).exception(), RemoteConnectionLost)


def test_where_no_scheduler_is_the_constructor_says_so():
    with dask.config.set({"distributed.comm.timeouts.connect": "0.1s"}):
        with pytest.raises(RemoteUnavailable, match="127.0.0.1:9"):
            DaskExecutor("tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"client": 3}, "DaskExecutor"),
        ({"resources": ["gpu"]}, "resources="),
        ({"priorities": {1: 2}}, "priorities="),
    ],
)
def test_what_is_given_wrongly_is_refused(client, given, said):
    with pytest.raises(ConfigurationError, match=said):
        DaskExecutor(**{"client": client, **given})


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "hybrid_compute.engines.dask")
    with pytest.raises(ImportError, match=r"pip install 'hybrid-compute\[dask\]'"):
        import hybrid_compute.engines.dask  # noqa: F401
