"""The command, a real uvicorn, plain clients."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import requests
import websocket

from .conftest import SECRET

pytestmark = pytest.mark.timeout(60)
BEARER = {"Authorization": f"Bearer {SECRET}"}


def post(served, body, **headers):
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{served.url}/compute", json=body, headers={**BEARER, **headers}, timeout=30
        )


def test_calls_over_http_are_answered_as_the_protocol_says(served):
    table = [
        ({"task": "echo", "input": [1, "x"]}, 200, {"result": [1, "x"]}),
        ({"task": "echo"}, 200, {"result": None}),
        ({"task": "double", "input": {"x": 4}}, 200, {"result": 8}),
        ({"task": "fail", "input": "why"}, 500, {"error": "why"}),
        ({"task": "fail"}, 500, {"error": "ValueError"}),
        ({"task": "environ"}, 200, {"result": []}),
    ]
    for body, status, answer in table:
        got = post(served, body)
        assert (got.status_code, got.json()) == (status, answer)
    got = post(served, {"task": "double", "input": {"x": "4"}})
    assert got.status_code == 422
    assert "$.input.x" in got.json()["error"]
    for name in ("constructor", "__class__", "os:system", "../../etc/passwd", "a..b", "\0"):
        assert post(served, {"task": name}).status_code == 404
    assert "server" not in got.headers
    assert got.headers["cache-control"] == "no-store"
    assert served.end() == 0
    assert SECRET not in served.said
    assert "task='double'" in served.said


def test_calls_over_a_websocket_are_answered_and_nonsense_leaves_it_open(served):
    with closing(
        websocket.create_connection(
            f"ws://127.0.0.1:{served.port}/ws", header=BEARER, suppress_origin=True, timeout=30
        )
    ) as socket:
        for sent, want in (
            ('{"id":1,"task":"echo","input":5}', {"id": 1, "result": 5}),
            ('{"id":"a","task":"echo"}', {"id": "a", "result": None}),
            ('{"id":3,"task":"fail"}', {"id": 3, "error": "ValueError"}),
        ):
            socket.send(sent)
            assert json.loads(socket.recv()) == want
        socket.send("nonsense")
        assert json.loads(socket.recv())["id"] is None
        socket.send('{"id":4,"task":"wait"}')
        socket.send('{"id":4,"cancel":true}')
        socket.send('{"id":5,"task":"echo","input":6}')
        assert json.loads(socket.recv()) == {"id": 5, "result": 6}
        assert not socket.getsubprotocol()
    assert served.end() == 0
    assert "outcome=cancelled" in served.said


def test_a_caller_without_token_or_from_a_web_page_is_refused(served):
    for headers, status in (
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": b"Bearer \xff\xfe"}, 401),
        ({"Authorization": None}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/python-pickle"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"X": "x" * 70_000}, 400),
    ):
        got = post(served, {"task": "echo"}, **headers)
        assert got.status_code in (status, 431 if status == 400 else status), headers
    with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
        websocket.create_connection(
            f"ws://127.0.0.1:{served.port}/ws", suppress_origin=True, timeout=30
        )
