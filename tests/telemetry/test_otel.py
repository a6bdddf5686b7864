"""Spans and metrics of items, held against what the SDK has in memory."""

from __future__ import annotations

import builtins
import contextvars
import importlib
import json
import sys
import threading

import pytest
import requests
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy import Always
from hybrid_compute.telemetry.otel import TRACE, Telemetry
from tests.remote.servers import serving
from tests.server.conftest import SECRET, Served
from tests.telemetry.work import parent, parents, plain_parent

pytestmark = pytest.mark.timeout(60)


class Scene:
    """An SDK in memory, and executors that tell it what they do."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.tracer = self.tracers.get_tracer("tests")

    def executor(self, place=None, **settings):
        telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=self.meters)
        policy = None if place is None else Always(place)
        return HybridExecutor(
            observers=[telemetry], carry=[TRACE], policy=policy, max_processes=1, **settings
        )

    def spans(self):
        """Return the spans by their names; of a name, all, in order of their ends."""
        found = {}
        for span in self.exporter.get_finished_spans():
            found.setdefault(span.name, []).append(span)
        return found

    def metrics(self):
        """Return the data points by the metrics' names."""
        found = {}
        for resource in self.reader.get_metrics_data().resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = metric
        return found


@pytest.fixture
def scene():
    scene = Scene()
    yield scene
    scene.tracers.shutdown()
    scene.meters.shutdown()


def ids(span):
    return span.context.trace_id, span.context.span_id


@pytest.mark.parametrize("place", ["thread", "inline", "process", "lane"])
def test_an_item_is_a_child_of_its_submitters_span_and_the_work_one_of_the_attempt(scene, place):
    with scene.executor(place) as ex, scene.tracer.start_as_current_span("caller") as caller:
        seen = ex.submit(parent).result()
        assert trace.get_current_span() is caller
    spans = scene.spans()
    (item,), (attempt,), (top,) = spans["parent"], spans["parent attempt"], spans["caller"]
    assert item.parent.span_id == top.context.span_id
    assert attempt.parent.span_id == item.context.span_id
    assert seen == ids(attempt)
    assert item.attributes["hybrid_compute.executor"] == place
    assert item.attributes["hybrid_compute.outcome"] == "succeeded"
    assert attempt.attributes["hybrid_compute.attempt"] == 1
    assert [each.name for each in attempt.events] == ["started"]


def test_an_item_of_an_empty_context_begins_a_trace(scene):
    with scene.executor("process") as ex:
        seen = contextvars.Context().run(ex.submit, parent).result()
    assert scene.spans()["parent"][0].parent is None
    assert seen == ids(scene.spans()["parent attempt"][0])


def test_each_attempt_is_a_span_and_failures_are_told(scene):
    tried = []

    @task(retries=1)
    def fail():
        tried.append(trace.get_current_span().get_span_context().span_id)
        raise KeyError("no such thing")

    with scene.executor("thread") as ex:
        assert ex.submit(fail).exception()
    (name,) = [each for each in scene.spans() if not each.endswith("attempt")]
    (item,), attempts = scene.spans()[name], scene.spans()[f"{name} attempt"]
    assert tried == [each.context.span_id for each in attempts]
    assert [each.attributes["hybrid_compute.attempt"] for each in attempts] == [1, 2]
    for span in (item, *attempts):
        assert span.attributes["error.type"] == "KeyError"
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.events[-1].attributes["exception.type"] == "KeyError"


@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_stream_and_a_map_have_their_spans_too(scene, place):
    with scene.executor(place) as ex, scene.tracer.start_as_current_span("caller"):
        seen = set(ex.submit(parents, 3))
        assert seen == {ids(scene.spans()["parents attempt"][0])}
        mapped = set(ex.map(parent, range(40), chunksize=2))
    items, attempts = scene.spans()["parent"], scene.spans()["parent attempt"]
    assert mapped == set(map(ids, attempts))
    assert sum(each.attributes["hybrid_compute.calls"] for each in items) == 40
    (caller,) = scene.spans()["caller"]
    assert {each.parent.span_id for each in items} == {caller.context.span_id}


def test_a_plain_callable_has_a_span_and_its_thread_s_context(scene):
    with scene.executor() as ex, scene.tracer.start_as_current_span("caller"):
        assert ex.submit(plain_parent).result() == (0, 0)
    (item,) = scene.spans()["plain_parent"]
    assert item.parent.span_id == scene.spans()["caller"][0].context.span_id


def test_a_cancelled_item_ends_its_span(scene):
    gate = threading.Event()
    with scene.executor(max_workers=1) as ex:
        ex.submit(gate.wait, 30)
        assert ex.submit(plain_parent).cancel()
        gate.set()
    assert scene.spans()["plain_parent"][0].attributes["hybrid_compute.outcome"] == "cancelled"
    assert len(scene.spans()["plain_parent attempt"]) == 1


def test_both_attempts_of_a_hedged_call_have_their_spans_and_their_context(scene):
    gate, seen = threading.Event(), []

    @task(idempotent=True, hedge=0.01)
    def race():
        seen.append(trace.get_current_span().get_span_context().span_id)
        if len(seen) == 1:
            gate.wait(30)
        return len(seen)

    with (
        scene.executor("thread", max_workers=2) as ex,
        scene.tracer.start_as_current_span("caller"),
    ):
        assert ex.submit(race).result(30) == 2
        gate.set()
    name = "race"
    (item,), attempts = scene.spans()[name], scene.spans()[f"{name} attempt"]
    assert set(seen) == {each.context.span_id for each in attempts}
    outcomes = {each.attributes["hybrid_compute.outcome"] for each in attempts}
    assert outcomes == {"succeeded", "dropped"}
    assert item.parent.span_id == scene.spans()["caller"][0].context.span_id


@pytest.fixture(scope="module")
def service():
    served = Served(
        "tests.telemetry.work:TASKS", "--context", "hybrid_compute.telemetry.otel:TRACE"
    )
    yield served
    served.end()


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_the_trace_goes_on_at_a_service(scene, service, scheme):
    path = "/ws" if scheme == "ws" else "/compute"
    remote = RemoteExecutor(f"{scheme}://127.0.0.1:{service.port}{path}", token=SECRET)
    with scene.executor(remote=remote) as ex:
        seen = ex.submit(remote_task("parent")).result()
        streamed = set(ex.stream(remote_task("parents"), 2))
    assert seen == ids(scene.spans()["parent attempt"][0])
    assert streamed == {ids(scene.spans()["parents attempt"][0])}


def test_a_service_takes_the_header_of_anybodys_client(service):
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = requests.post(
        f"{service.url}/compute",
        json={"task": "parent"},
        headers={"traceparent": header, "Authorization": f"Bearer {SECRET}"},
        timeout=30,
    )
    assert answer.json()["result"] == [0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331]


def test_anybodys_service_gets_the_header(scene):
    heads = []

    def answer(peer):
        while peer.request() is not None:
            heads.append(peer.headers.get("traceparent"))
            peer.answer(json.dumps({"result": 1}).encode())

    with serving(answer) as port:
        remote = RemoteExecutor(f"http://127.0.0.1:{port}/compute", tasks=["parent"])
        with scene.executor(remote=remote) as ex:
            assert ex.submit(remote_task("parent")).result() == 1
    trace_id, span_id = ids(scene.spans()["parent attempt"][0])
    assert heads[-1].startswith(f"00-{trace_id:032x}-{span_id:016x}-0")


def test_metrics_tell_of_durations_retries_and_what_is_not_over(scene):
    @task(retries=1)
    def fail():
        raise KeyError("no such thing")

    with scene.executor("inline") as ex:
        ex.submit(parent).result()
        assert ex.submit(fail).exception()
    found = scene.metrics()
    items = found["hybrid_compute.item.duration"]
    assert items.unit == "s"
    by_outcome = {
        each.attributes["hybrid_compute.outcome"]: each for each in items.data.data_points
    }
    assert by_outcome["succeeded"].count == 1
    assert by_outcome["failed"].attributes["error.type"] == "KeyError"
    assert by_outcome["failed"].explicit_bounds[0] == 0.005
    attempts = found["hybrid_compute.attempt.duration"].data.data_points
    assert sum(each.count for each in attempts) == 3
    assert [each.value for each in found["hybrid_compute.item.retries"].data.data_points] == [1]
    assert {each.value for each in found["hybrid_compute.item.active"].data.data_points} == {0}


def test_one_telemetry_observes_one_executor():
    telemetry = Telemetry()
    with (
        HybridExecutor(observers=[telemetry]),
        pytest.raises(ConfigurationError, match="make a Telemetry"),
    ):
        HybridExecutor(observers=[telemetry])


def test_what_a_caller_has_made_up_is_no_parent():
    for value in (3, "x", {"traceparent": 3}, {3: "x"}, {"traceparent": "nonsense"}):
        contextvars.Context().run(TRACE.restore, value)
        seen = contextvars.Context()
        seen.run(TRACE.restore, value)
        assert seen.run(plain_parent) == (0, 0)


def test_without_the_api_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.delitem(sys.modules, "hybrid_compute.telemetry.otel")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'hybrid-compute\[otel\]'"):
        importlib.import_module("hybrid_compute.telemetry.otel")
