"""Row 46: tokens that are missing, wrong, expired, not ASCII, or in the wrong place."""

from __future__ import annotations

import hmac
import json
import re
import subprocess
import sys

import pytest

from hybrid_compute.server import Token, Tokens
from tests.security.test_defaults import ROOT
from tests.server.conftest import SECRET, Served
from tests.server.raw import Raw, RawSocket, ask, shake

pytestmark = pytest.mark.timeout(120)

WRONG = "wrong-secret-of-the-tests-01234"
NO = {
    "missing": "",
    "empty": "Authorization:\r\n",
    "no secret": "Authorization: Bearer\r\n",
    "wrong": f"Authorization: Bearer {WRONG}\r\n",
    "beginning": f"Authorization: Bearer {SECRET[:-1]}\r\n",
    "more": f"Authorization: Bearer {SECRET}x\r\n",
    "another scheme": f"Authorization: Basic {SECRET}\r\n",
    "no scheme": f"Authorization: {SECRET}\r\n",
    "not ASCII": "Authorization: Bearer \u00fc\u20ac\r\n",
    "twice": f"Authorization: Bearer {SECRET}\r\n" * 2,
    "another header": f"X-Api-Key: {SECRET}\r\n",
    "cookie": f"Cookie: token={SECRET}\r\n",
    "proxy's": f"Proxy-Authorization: Bearer {SECRET}\r\n",
}
QUERY = f"?token={SECRET}&access_token={SECRET}"
PATHS = ["POST /compute", f"POST /compute{QUERY}", "GET /tasks", f"GET /tasks{QUERY}", "GET /no"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", NO)
def test_no_good_token_is_401(target, kind, path):
    body = '{"task":"echo"}'
    head = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with Raw(target.port, f"{path} HTTP/1.1\r\n{head}{NO[kind]}\r\n{body}") as raw:
        assert raw.status() == 401
        assert b"\r\nwww-authenticate: Bearer\r\n" in raw.came
        assert SECRET.encode() not in raw.came


@pytest.mark.parametrize("query", ["", QUERY])
@pytest.mark.parametrize("kind", NO)
def test_a_websocket_without_a_good_token_is_refused_before_it_is_accepted(target, kind, query):
    request = shake(NO[kind], head="Host: localhost\r\n").replace("/ws", f"/ws{query}", 1)
    with Raw(target.port, request) as raw:
        assert raw.status() == 401


def test_a_token_that_expires_is_good_until_then(tmp_path):
    path = tmp_path / "tokens.toml"
    good = SECRET[::-1]
    path.write_text(
        f'[old]\nsecret = "{SECRET}"\nexpires = 2001-01-01T00:00:00Z\n'
        f'[new]\nsecret = "{good}"\nexpires = 2999-01-01T00:00:00Z\ntasks = ["echo"]\n'
    )
    path.chmod(0o600)
    served = Served("tests.security.work:TASKS", token=None, HYBRID_COMPUTE_TOKEN_FILE=str(path))
    try:
        assert ask(served.port, {"task": "echo"})[0] == 401
        body = '{"task":"%s"}'
        head = f"Host: localhost\r\nAuthorization: Bearer {good}\r\nConnection: close\r\n"
        for name, status in (("echo", 200), ("modules", 403), ("nothing", 403)):
            data = body % name
            more = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            with Raw(served.port, f"POST /compute HTTP/1.1\r\n{head}{more}{data}") as raw:
                assert raw.status() == status
        with Raw(served.port, f"GET /tasks HTTP/1.1\r\n{head}\r\n") as raw:
            assert raw.status() == 200
            tasks = json.loads(raw.came.partition(b"\r\n\r\n")[2])["tasks"]
            assert [each["name"] for each in tasks] == ["echo"]
    finally:
        served.end()
    assert SECRET not in served.said
    assert good not in served.said
    assert "token=new" in served.said


def test_digests_are_compared_as_bytes_in_constant_time_all_of_them(monkeypatch):
    compared = []

    def compare(mine, theirs):
        compared.append((type(mine), len(mine), type(theirs), len(theirs)))
        return real(mine, theirs)

    real = hmac.compare_digest
    monkeypatch.setattr("hybrid_compute.server.tokens.hmac.compare_digest", compare)
    tokens = Tokens([Token.of(SECRET + each, name=each) for each in "abc"])
    for secret in (SECRET + "a", SECRET, "", "\u00fc\u20ac"):
        found = tokens.find([b"Bearer " + secret.encode()])
        assert (found is not None) == secret.endswith("a")
        assert compared == [(bytes, 32, bytes, 32)] * 3
        compared.clear()


def test_without_a_token_one_is_made_and_told_once_ready_to_paste():
    served = Served("tests.security.work:TASKS", token=None)
    try:
        made = re.findall(r"^export HYBRID_COMPUTE_TOKEN=(\S+)$", served.said, re.MULTILINE)
        assert len(made) == 1
        assert len(made[0]) == 43  # 256 bits
        assert ask(served.port, {"task": "echo"})[0] == 401
        with Raw(served.port) as raw:
            raw.send(
                f"GET /tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {made[0]}\r\n"
                "Connection: close\r\n\r\n"
            )
            assert raw.status() == 200
    finally:
        served.end()
    assert served.said.count(made[0]) == 1


def test_the_health_of_the_server_alone_is_open_and_says_nothing(target):
    with Raw(target.port, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as raw:
        assert raw.status() == 200
        assert raw.came.endswith(b"\r\n\r\n{}")


def test_a_wrong_token_is_never_logged():
    served = Served("tests.security.work:TASKS")
    try:
        for _ in range(20):
            with Raw(served.port, shake(NO["wrong"], head="Host: localhost\r\n")) as raw:
                assert raw.status() == 401
        with RawSocket(served.port):
            pass
    finally:
        assert served.end() == 0
    assert WRONG not in served.said
    assert SECRET not in served.said
    assert "refused, the last with 401, of 127.0.0.1" in served.said


def test_a_token_cannot_be_given_as_an_argument():
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_compute.cli", "serve", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert not re.search(r"--token|--key\b|--signing", done.stdout)
