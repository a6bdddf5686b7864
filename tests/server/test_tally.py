"""What a server counts, and tells at `GET /stats`."""

from __future__ import annotations

from collections import Counter

import pytest
import requests

from hybrid_compute import HybridExecutor
from hybrid_compute.protocol.messages import Request
from hybrid_compute.server import Token, Tokens, create_app
from hybrid_compute.server.quick import Quick
from hybrid_compute.server.tally import Tally

from .conftest import SECRET
from .test_quick import double, echo, fail
from .test_served import BEARER, post

pytestmark = pytest.mark.timeout(60)

ALL = Token.of("s" * 32)
CALLS = [("echo", 1), ("echo", 2), ("fail", "no"), ("double", "no number")]


def stats(served, **headers):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{served.url}/stats", headers={**BEARER, **headers}, timeout=30)


def test_a_server_tells_what_its_calls_came_to(served):
    for body in ({"task": "echo", "input": 1}, {"task": "echo"}, {"task": "fail", "input": "no"}):
        post(served, body)
    post(served, {"task": "nonsense"})
    post(served, {"task": "double", "input": "no point"})
    said = stats(served).json()
    tasks = said["tasks"]
    assert {name for name, each in tasks.items() if each["calls"]} == {"echo", "fail"}
    echo = tasks["echo"]
    assert (echo["calls"], echo["failed"], echo["under_way"]) == (2, 0, 0)
    assert sum(echo["histogram"].values()) == 2
    assert echo["seconds"] > 0
    assert (tasks["fail"]["calls"], tasks["fail"]["failed"]) == (1, 1)
    assert tasks["double"]["calls"] == 0
    assert "nonsense" not in tasks
    assert said["refused"] == 2
    assert (said["under_way"], said["draining"]) == (0, False)
    assert set(said["executors"]["process"]) == {"workers", "queued", "running"}
    assert said["uptime"] > 0


def test_nobody_without_a_token_is_told(served):
    got = stats(served, Authorization="Bearer wrong")
    assert (got.status_code, "tasks" in got.text) == (401, False)
    assert stats(served).json()["refused"] == 1
    with requests.Session() as session:
        session.trust_env = False
        assert session.post(f"{served.url}/stats", headers=BEARER, timeout=30).status_code == 405
    assert SECRET not in stats(served).text


def test_a_token_is_told_of_its_own_tasks_only():
    tally = Tally(["a", "b"])
    tally.ended("a", 1e-3, ok=True)
    some = Token.of("s" * 32, tasks=["b"])
    assert set(tally.as_data(Counter(), ALL)) == {"a", "b"}
    assert set(tally.as_data(Counter(), some)) == {"b"}


def test_times_are_counted_by_powers_of_two():
    tally = Tally(["a"])
    for seconds in (0.0, 1e-6, 1.5e-6, 1000e-6, 1024e-6, 1e9):
        tally.ended("a", seconds, ok=True)
    found = tally.as_data(Counter(a=3), ALL)["a"]
    assert found["histogram"] == {"0": 1, "1": 2, "10": 1, "11": 1, "39": 1}
    assert found["under_way"] == 3


def test_calls_of_unknown_names_take_no_memory():
    tally = Tally(["a"])
    tally.ended("b", 1.0, ok=False)
    tally.ended_here({"b": 2, "a": 1}, 0.0)
    tally.failed_here("b")
    assert tally.as_data(Counter(), ALL)["a"]["calls"] == 1
    assert set(tally.as_data(Counter(), ALL)) == {"a"}


def test_calls_that_the_event_loop_makes_are_counted_too():
    with HybridExecutor(1) as executor:
        app = create_app([echo, fail, double], executor=executor, tokens=Tokens([ALL]))
        service, failed = app.service, []
        quick = Quick(service, ALL, fail=lambda *no: failed.append(no), follow=pytest.fail)
        requests = [Request(n, name, (value,), {}) for n, (name, value) in enumerate(CALLS)]
        quick.run(requests, own=True)
    tasks = service.tally.as_data(Counter(), ALL)
    assert (tasks["echo"]["calls"], tasks["echo"]["failed"]) == (2, 0)
    assert (tasks["fail"]["calls"], tasks["fail"]["failed"]) == (1, 1)
    assert sum(tasks["echo"]["histogram"].values()) == 2
    assert tasks["double"]["calls"] == 0
    assert (service.tally.refused, len(failed)) == (1, 2)
