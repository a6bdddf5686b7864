"""Default 8: workers know no secret, dump no core, and have a process group of their own."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path

import pytest

from hybrid_compute.server import Token, Tokens, create_app
from tests.security import work
from tests.server.conftest import SECRET, Served
from tests.server.raw import ask
from tests.server.test_drain import ask as ask_inside

pytestmark = pytest.mark.timeout(120)

KEY = "key-of-the-tests-0123456789-0123456789-0123456789"


@pytest.fixture
def dumps():
    """Have what is started here dump core if it may."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_CORE, before)


def core_limit(pid):
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith("Max core file size"))
    return line.split()[4:6]


@pytest.mark.parametrize("options", [(), ("--no-token",), ("--allow-pickle",)])
def test_workers_of_the_command_see_no_secret_and_dump_no_core(dumps, options):
    served = Served(
        "tests.security.work:TASKS",
        *options,
        HYBRID_COMPUTE_SIGNING_KEY=KEY,
        HYBRID_COMPUTE_TOKEN_OF_ANOTHER=SECRET,
        HYBRID_COMPUTE_SIGNING_KEY_OLD=KEY,
    )
    try:
        status, body = ask(served.port, {"task": "limits"})
        assert status == 200
        seen = json.loads(body)["result"]
        assert seen["environ"] == seen["born"] == []
        assert seen["core"] == [0, 0]
        assert core_limit(served.process.pid) == ["0", "0"]
        assert core_limit(seen["pid"]) == ["0", "0"]
        assert seen["group"] not in (os.getpgid(served.process.pid), os.getpgrp())
    finally:
        served.end()
    assert KEY not in served.said


def test_so_do_those_of_an_application_that_was_given_its_tokens(dumps, monkeypatch):
    monkeypatch.setenv("HYBRID_COMPUTE_TOKEN", SECRET)
    monkeypatch.setenv("HYBRID_COMPUTE_SIGNING_KEY_FILE", "/nowhere")
    app = create_app(work.TASKS, tokens=Tokens([Token.of(SECRET)]))
    try:
        status, answer = asyncio.run(ask_inside(app, {"task": "limits"}))
    finally:
        app.close()
    assert status == 200
    assert answer["result"]["core"] == [0, 0]
    assert answer["result"]["environ"] == []
    assert os.environ["HYBRID_COMPUTE_TOKEN"] == SECRET  # the program's own stays as it was
