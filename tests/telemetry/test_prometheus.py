"""Metrics for Prometheus, read back as a scrape reads them."""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import sys
import threading
import weakref

import pytest
import requests
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from hybrid_compute import HybridExecutor, RemoteExecutor, TaskRegistry, remote_task, task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy import Always
from hybrid_compute.prices import Price
from hybrid_compute.server import Tokens, create_app
from hybrid_compute.telemetry.prometheus import Metrics
from tests.server.conftest import SECRET, Served

pytestmark = pytest.mark.timeout(60)


@task
def half(value):
    return value / 2


@task(retries=1)
def fail():
    raise KeyError("no such thing")


def samples(text):
    """Return the values of all samples by their names and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(metrics):
    return samples(metrics.text().decode())


def labels(name, **more):
    return (name, *sorted(more.items()))


def test_items_are_counted_by_task_executor_and_outcome_with_their_durations():
    metrics = Metrics()
    with HybridExecutor(observers=[metrics], policy=Always("inline")) as ex:
        for number in range(3):
            ex.submit(half, number).result()
        assert ex.submit(fail).exception()
    found = scrape(metrics)
    ours = {"task": "half", "executor": "inline"}
    assert found[labels("hybrid_compute_items_total", **ours, outcome="succeeded")] == 3
    assert found[labels("hybrid_compute_item_duration_seconds_count", **ours)] == 3
    assert found[labels("hybrid_compute_attempt_duration_seconds_count", **ours)] == 3
    theirs = {"task": "fail", "executor": "inline"}
    assert found[labels("hybrid_compute_items_total", **theirs, outcome="failed")] == 1
    assert found[labels("hybrid_compute_retries_total", **theirs)] == 1
    assert found[labels("hybrid_compute_attempt_duration_seconds_count", **theirs)] == 2


def test_what_waits_and_runs_is_asked_at_the_scrape():
    metrics, gate, begun = Metrics(), threading.Event(), threading.Event()

    def hold():
        begun.set()
        gate.wait(30)

    with HybridExecutor(1, observers=[metrics]) as ex:
        ex.submit(hold)
        waiting = ex.submit(hold)
        assert begun.wait(30)
        found = scrape(metrics)
        assert found[labels("hybrid_compute_items_running", executor="thread")] == 1
        assert found[labels("hybrid_compute_items_queued", executor="thread")] == 1
        assert found[labels("hybrid_compute_workers", executor="thread")] == 1
        assert waiting.cancel()
        gate.set()
    cancelled = labels(
        "hybrid_compute_items_total", task=hold.__qualname__, executor="thread", outcome="cancelled"
    )
    assert scrape(metrics)[cancelled] == 1
    assert not metrics._submitted


def test_costs_add_up():
    metrics = Metrics()
    with HybridExecutor(
        observers=[metrics], prices={"inline": Price(per_call=2.0)}, policy=Always("inline")
    ) as ex:
        ex.submit(half, 1).result()
        ex.submit(half, 1).result()
    found = scrape(metrics)
    assert found[labels("hybrid_compute_cost_total", task="half", executor="inline")] == 4


def test_an_executor_is_not_kept_by_its_metrics():
    metrics = Metrics()
    gone = weakref.ref(HybridExecutor(observers=[metrics]))
    gc.collect()
    assert gone() is None
    assert "hybrid_compute_workers{" not in metrics.text().decode()


def test_each_executor_has_its_own():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assert metrics.registry is registry
    with pytest.raises(ConfigurationError, match="a registry of its own"):
        Metrics(registry)
    with (
        HybridExecutor(observers=[metrics]),
        pytest.raises(ConfigurationError, match="make a Metrics"),
    ):
        HybridExecutor(observers=[metrics])


@contextlib.contextmanager
def serving(*options):
    service = Served("tests.server.work:TASKS", *options)
    try:
        yield service
    finally:
        service.end()


def get(service, **headers):
    return requests.get(f"{service.url}/metrics", headers=headers, timeout=30)


def test_a_service_tells_who_has_a_token():
    bearer = {"Authorization": f"Bearer {SECRET}"}
    with serving("--metrics") as service:
        with RemoteExecutor(f"ws://127.0.0.1:{service.port}/ws", token=SECRET) as ex:
            assert ex.submit(remote_task("echo"), 1).result() == 1
        assert get(service).status_code == 401
        answer = get(service, **bearer)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        (name,) = [x for x in samples(answer.text) if x[0] == "hybrid_compute_items_total"]
        assert ("task", "echo") in name
        post = requests.post(f"{service.url}/metrics", headers=bearer, timeout=30)
        assert post.status_code == 405


def test_a_service_tells_anybody_if_that_was_said_but_not_under_any_name():
    with serving("--open-metrics") as service:
        assert "hybrid_compute_workers" in get(service).text
        assert get(service, Host="evil.example").status_code == 421
        assert requests.get(f"{service.url}/tasks", timeout=30).status_code == 401


def test_a_service_that_was_not_asked_to_has_no_such_path():
    with serving() as service:
        assert get(service, Authorization=f"Bearer {SECRET}").status_code == 404


def test_an_application_says_which_metrics_it_cannot_have():
    registry = TaskRegistry([half])
    with pytest.raises(ConfigurationError, match="open_metrics"):
        create_app(registry, tokens=Tokens.anyone(), open_metrics=True)
    with pytest.raises(ConfigurationError, match="own executor"):
        create_app(registry, tokens=Tokens.anyone(), metrics=Metrics())
    with HybridExecutor() as ex, pytest.raises(ConfigurationError, match="that observes it"):
        create_app(registry, executor=ex, tokens=Tokens.anyone(), metrics=True)


def test_without_the_client_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.delitem(sys.modules, "hybrid_compute.telemetry.prometheus")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'hybrid-compute\[prometheus\]'"):
        importlib.import_module("hybrid_compute.telemetry.prometheus")
