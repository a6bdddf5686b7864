"""One test for each security default that needs no running server; tests/server has the others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from hybrid_compute import task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.server import Limits, Token, Tokens, create_app
from hybrid_compute.server.gate import Gate, Refusal
from tests.server.test_drain import SECRET, ask

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(60)


@task(executor="inline")
def add(x: int, y: int = 1) -> int:
    return x + y


@task(executor="inline")
def any_value(value):
    return value


def app(*, limits=None, **token):
    return create_app([add], tokens=Tokens([Token.of(SECRET, **token)]), limits=limits)


def status(body, **given):
    served = app(**given)
    try:
        return asyncio.run(ask(served, body))[0]
    finally:
        served.close()


def serve(*options, **env):
    return subprocess.run(
        [sys.executable, "-m", "hybrid_compute.cli", "serve", "examples.tasks:TASKS", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--no-token",), ("--insecure",)])
def test_a_public_address_without_tls_is_refused_with_status_2(options):
    done = serve("--host", "0.0.0.0", *options)
    assert done.returncode == 2
    assert "--tls-cert" in done.stderr


def test_a_token_file_that_others_can_read_is_fatal(tmp_path):
    path = tmp_path / "token"
    path.write_text(SECRET)
    path.chmod(0o644)
    done = serve(HYBRID_COMPUTE_TOKEN_FILE=str(path))
    assert (done.returncode, "chmod 600" in done.stderr) == (2, True)
    assert SECRET not in done.stderr


def test_a_token_file_that_is_missing_is_fatal():
    assert serve(HYBRID_COMPUTE_TOKEN_FILE="/nonexistent").returncode == 2


def test_there_is_no_option_for_a_token():
    assert serve("--token", SECRET).returncode == 2


def test_several_tokens_have_names_scopes_and_an_end(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(
        f'[a]\nsecret = "{SECRET}"\ntasks = ["add*"]\nexpires = 1970-01-01T00:00:10Z\n'
        f'[b]\nsecret = "{SECRET}b"\n'
    )
    path.chmod(0o600)
    first, second = Tokens.from_file(path)
    assert (first.name, first.tasks, first.expires) == ("a", ("add*",), 10.0)
    assert SECRET not in repr(first)
    assert second.allows("anything")


@pytest.mark.parametrize(
    "headers",
    [[], [b"Basic x"], [b"Bearer "], [b"Bearer \xff\xfe"], [f"Bearer {SECRET}".encode()] * 2],
)
def test_missing_wrong_and_repeated_tokens_are_401(headers):
    gate = Gate(Tokens([Token.of(SECRET)]), hosts=["localhost"], origins=[])
    with pytest.raises(Refusal) as caught:
        gate.authenticate([(b"authorization", each) for each in headers])
    assert caught.value.status == 401


def test_an_expired_token_is_401():
    tokens = Tokens([Token.of(SECRET, expires=100.0)], clock=lambda: 100.0)
    assert tokens.find([f"Bearer {SECRET}".encode()]) is None


def test_a_token_for_other_tasks_is_403():
    assert status({"task": "add", "input": 1}, tasks=["other*"]) == 403


def test_a_weak_token_is_refused():
    with pytest.raises(ConfigurationError, match="at least 16"):
        Token.of("short")


@pytest.mark.parametrize(
    "wrong", [{"a" * 20: "me"}, "a" * 20, ["a" * 20]], ids=["dict", "str", "list"]
)
def test_tokens_that_are_none_are_refused_and_not_told(wrong):
    with pytest.raises(ConfigurationError, match=type(wrong).__name__) as caught:
        create_app([add], tokens=wrong)
    assert "aaaa" not in str(caught.value)


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil", b"localhost:x", b"[::1", b""])
def test_other_names_of_this_server_are_refused(host):
    gate = Gate(Tokens.anyone(), hosts=["localhost", "[::1]"], origins=[])
    with pytest.raises(Refusal) as caught:
        gate.check_host([(b"host", host)])
    assert caught.value.status == 421
    gate.check_host([(b"host", b"[::1]:80")])


@pytest.mark.parametrize("origin", [b"null", b"http://localhost:1", b"https://evil.example"])
def test_web_pages_are_refused_unless_their_origin_is_listed(origin):
    gate = Gate(Tokens.anyone(), hosts=["localhost"], origins=["https://good.example"])
    with pytest.raises(Refusal) as caught:
        gate.check_host([(b"host", b"localhost"), (b"origin", origin)])
    assert caught.value.status == 403
    gate.check_host([(b"host", b"localhost"), (b"origin", b"https://good.example")])


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ({"task": "add", "input": 1}, 200),
        ({"task": "add", "input": "1"}, 422),
        ({"task": "add", "args": [1], "kwargs": {"z": 1}}, 422),
        ({"task": "add"}, 422),
        ({"task": "add", "input": True}, 422),
        ({"nothing": 1}, 400),
        ([], 400),
    ],
)
def test_arguments_are_checked_before_anything_runs(body, want):
    assert status(body) == want


def test_a_body_over_the_limit_is_413(monkeypatch):
    monkeypatch.setattr("hybrid_compute.server.http._LINGER", 0)  # there is no rest of the body
    assert status({"task": "add", "input": "x" * 999}, limits=Limits(body_bytes=500)) == 413


def test_the_queue_is_bounded():
    from hybrid_compute.server.service import Service

    async def fill(service):
        token = next(iter(Tokens.anyone()))
        service.admit(token)
        with pytest.raises(Refusal) as caught:
            service.admit(token)
        return caught.value.status, caught.value.retry_after

    service = Service((), None, Limits(in_flight=1), debug=False, open_=False)
    assert asyncio.run(fill(service)) == (429, 1)


def test_a_public_server_that_was_asked_for_twice_warns_at_each_start():
    # It cannot listen at that address, so it ends after the warning.
    done = serve("--host", "192.0.2.1", "--insecure", "--insecure")
    assert "WARNING: 192.0.2.1 is served without TLS or token" in done.stderr
    assert "cannot listen" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    "options",
    [("--insecure", "--allow-pickle"), ("--insecure", "--insecure", "--allow-pickle")],
)
def test_pickles_are_never_taken_in_the_clear_from_elsewhere(options):
    assert serve("--host", "192.0.2.1", *options).returncode == 2


def test_the_limits_are_those_that_are_promised():
    limits = Limits()
    assert limits.body_bytes == 16 * 2**20
    assert limits.header_bytes == 64 * 2**10
    assert (limits.header_seconds, limits.body_seconds) == (10, 60)
    assert (limits.in_flight, limits.ahead, limits.grace) == (64, 192, 10)
    assert limits.task_seconds == 3600


@pytest.mark.parametrize("name", [each.name for each in attrs.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, True])
def test_no_limit_can_be_switched_off(name, value):
    if (name, value) == ("ahead", 0):  # that is the most careful
        assert Limits(ahead=0).ahead == 0
        return
    with pytest.raises(ConfigurationError, match=name):
        Limits(**{name: value})


def test_uvicorn_is_told_to_ping_and_to_trust_nobody(monkeypatch):
    from click.testing import CliRunner

    from hybrid_compute import _serve

    configs = []
    monkeypatch.setattr(_serve.Server, "run", lambda self: configs.append(self.config))
    monkeypatch.setattr(_serve, "harden", lambda: None)  # not this process
    monkeypatch.setattr(_serve, "_log_to_stderr", lambda: None)
    done = CliRunner().invoke(
        _serve.serve, ["examples.tasks:TASKS"], env={"HYBRID_COMPUTE_TOKEN": SECRET}
    )
    assert done.exit_code == 0, done.output
    (config,) = configs
    assert (config.host, config.ws_ping_interval, config.ws_ping_timeout) == ("127.0.0.1", 20, 20)
    assert config.ws_per_message_deflate is False
    assert config.proxy_headers is False
    assert config.server_header is False
    assert config.access_log is False


@pytest.mark.parametrize(("depth", "want"), [(64, 200), (65, 400), (200, 400)])
def test_json_may_be_64_deep(depth, want):
    value = None
    for _ in range(depth):
        value = [value]
    served = create_app([any_value], tokens=Tokens([Token.of(SECRET)]))
    try:
        assert asyncio.run(ask(served, {"task": "any_value", "input": value}))[0] == want
    finally:
        served.close()
