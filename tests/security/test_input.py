"""Rows 48, 51, 53 and 54: JSON that means harm, names, arguments, errors; over both ways in."""

from __future__ import annotations

import json
import re

import pytest

from tests.security.work import SECRET_OF_TASK
from tests.server.conftest import Served
from tests.server.raw import HEAD, Raw, RawSocket, ask, frame

pytestmark = pytest.mark.timeout(120)

CALL = '{"id":1,"task":"echo","input":%s}'

# -- row 48: JSON. Each of these is an `input`. ------------------------------------------------

BAD_VALUES = {
    "depth 1k": "[" * 1000 + "]" * 1000,
    "depth 100k": "[" * 100_000 + "]" * 100_000,
    "objects, depth 100k": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "never closed": "[" * 4_000_000,
    "integer of 4 MB": "1" * 4_000_000,
    "negative integer of 4 MB": "-" + "1" * 4_000_000,
    "float out of range": "1e400",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "lone surrogate": r'"\ud800"',
    "lone surrogate as key": r'{"\udfff":1}',
    "surrogates in the wrong order": r'"\udc00\ud800"',
    "control character": '"\1"',
    "NUL": '"\0"',
    "leading zero": "01",
    "hexadecimal": "0x10",
    "single quotes": "'a'",
    "comma at the end": "[1,]",
    "comment": "1/**/",
}


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_json_that_cannot_be_read_exactly_is_400(target, kind):
    status, body = target.over_http(CALL % BAD_VALUES[kind])
    assert status == 400
    assert json.loads(body)["error"]
    assert len(body) < 1000  # the answer does not repeat it


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_frame_that_cannot_be_read_exactly_is_answered_and_the_connection_stays(target, kind):
    came = target.over_ws(CALL % BAD_VALUES[kind])
    # With its id, if it could be read so far: what is nested too deep for a value, but no parser.
    assert re.search(rb'{"id":(null|1),"error":"[^"]', came)
    assert b'"result"' not in came


BAD_BODIES = {
    "empty": b"",
    "blank": b" \r\n",
    "byte order mark": b"\xef\xbb\xbf" + b'{"task":"echo"}',
    "UTF-16": '{"task":"echo"}'.encode("utf-16"),
    "no UTF-8": b'{"task":"echo","input":"\xff"}',
    "surrogate as UTF-8": b'{"task":"echo","input":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"task":"echo","input":"\xc0\xaf"}',
    "trailing data": b'{"task":"echo"} x',
    "two values": b'{"task":"echo"}{"task":"echo"}',
    "half": b'{"task":"echo"',
    "text": b'"echo"',
    "null": b"null",
    "array": b"[1]",
    "no task": b"{}",
    "an answer": b'{"error":""}',
    "task is an object": b'{"task":{"$ref":"echo"}}',
    "task is empty": b'{"task":""}',
    "input and args": b'{"task":"echo","input":1,"args":[1]}',
    "args is no list": b'{"task":"echo","args":{"a":1}}',
    "kwargs is no object": b'{"task":"echo","kwargs":[1]}',
    "timeout is no number": b'{"task":"echo","timeout":"1"}',
    "timeout is negative": b'{"task":"echo","timeout":-1}',
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_body_that_is_no_call_is_400(target, kind):
    status, body = target.over_http(BAD_BODIES[kind])
    assert status == 400
    assert json.loads(body)["error"]


def test_a_text_message_that_is_no_utf8_closes_the_websocket(target):
    with RawSocket(target.port) as raw:
        raw.send(frame(BAD_BODIES["no UTF-8"]))
        assert raw.closed() == 1007


@pytest.mark.parametrize(
    "body",
    [
        '{"task":"echo","task":"modules"}',
        '{"task":"echo","t\\u0061sk":"modules"}',
        '{"task":"echo","input":{"a":1,"a":1}}',
    ],
)
def test_a_body_in_which_a_key_stands_twice_is_400(target, body):
    """A filter in front of the server may have read the first."""
    assert ask(target.port, body)[0] == 400


@pytest.mark.parametrize(
    "value", [2**53 + 1, -(2**63) - 1, 10**4000, 1e308, 5e-324, "\0", "\U0001f600", [[]] * 1000]
)
def test_what_json_can_say_exactly_comes_back(target, value):
    status, body = target.over_http({"task": "echo", "input": value})
    assert (status, json.loads(body)) == (200, {"result": value})


def test_tags_of_our_own_mean_nothing_from_others(target):
    for value in ({"$bytes": "AAAA"}, {"$pickle": "gASVAA=="}, {"py/object": "os.system"}):
        status, body = target.over_http({"task": "echo", "input": value})
        assert (status, json.loads(body)) == (200, {"result": value})


# -- row 51: names -----------------------------------------------------------------------------

NAMES = [
    "../../etc/passwd", "/etc/passwd", "os:system", "os.system", "a..b", "__builtins__",
    "__import__", "__class__", "__init__", "__globals__", "__dict__", "echo.__globals__",
    "echo.fn", "echo:fn", "constructor", "__proto__", "toString", "hasOwnProperty", "get", "items",
    "antigravity", "this", "tests.security.work:echo", "hybrid_compute.demo", "ECHO", " echo",
    "echo ", "echo\0", "\0", "echo\n", "\u202eecho", "*", "e*", "[e]cho", "%65cho", "x" * 900,
    "file:///etc/passwd", "http://127.0.0.1/", "';--", "{{7*7}}", "${7*7}", "eval", "exec",
]  # fmt: skip


def loaded(target):
    return json.loads(target.over_http({"task": "modules"})[1])["result"]


def test_a_name_that_is_no_task_is_404_and_nothing_is_imported(target):
    target.over_ws('{"id":1,"task":"nothing"}')  # the first may load what every answer needs
    assert target.over_http({"task": "nothing"})[0] == 404
    before = loaded(target)
    for each in NAMES:
        status, body = target.over_http({"task": each, "input": 1})
        assert status == 404, each
        assert len(body) < 1000
        came = target.over_ws(json.dumps({"id": 1, "task": each, "input": 1}))
        assert b'{"id":1,"error":"there is no task' in came
    assert loaded(target) == before
    assert not {"antigravity", "this"} & set(before)


def test_a_path_that_is_none_is_404(target):
    for path in ("/", "/compute/", "/compute/../tasks", "//compute", "/ws", "/%2e%2e/etc/passwd"):
        with Raw(target.port, f"POST {path} HTTP/1.1\r\n{HEAD}Content-Length: 0\r\n\r\n") as raw:
            assert raw.status() == 404, path


# -- row 53: arguments -------------------------------------------------------------------------

POINT = {"x": 1, "y": 2.5}


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"args": [POINT]}, "$"),
        ({"input": POINT}, "$"),
        ({"args": [POINT, [1], 5]}, "$"),
        ({"args": [POINT], "kwargs": {"by": [], "self": 1}}, "$"),
        ({"args": [POINT], "kwargs": {"by": [], "__class__": 1}}, "$"),
        ({"args": [POINT, []], "kwargs": {"point": POINT}}, "$"),
        ({"args": [{"x": "1"}, []]}, "$.args[0].x"),
        ({"args": [{"x": 1.5}, []]}, "$.args[0].x"),
        ({"args": [{"x": True}, []]}, "$.args[0].x"),
        ({"args": [{}, []]}, "$.args[0]"),
        ({"args": [[1, 2], []]}, "$.args[0]"),
        ({"args": [None, []]}, "$.args[0]"),
        ({"args": [POINT, [1, "2"]]}, "$.args[1][1]"),
        ({"args": [POINT, "12"]}, "$.args[1]"),
        ({"args": [POINT, []], "kwargs": {"name": 5}}, "$.kwargs.name"),
        ({"args": [POINT, []], "kwargs": {"name": None}}, "$.kwargs.name"),
    ],
)
def test_arguments_that_the_schema_does_not_allow_are_422_with_their_path(target, given, path):
    call = {"task": "move", **given}
    status, body = target.over_http(call)
    assert status == 422
    answer = json.loads(body)
    assert path == "$" or answer["error"].endswith(f" at {path}")
    assert b'{"id":1,"error":"task \'move\'' in target.over_ws(json.dumps({"id": 1, **call}))


def test_arguments_that_it_does_allow_are_taken(target):
    status, body = target.over_http(
        {"task": "move", "args": [POINT], "kwargs": {"by": [1], "name": "n"}}
    )
    assert (status, json.loads(body)["result"]) == (200, "Point(x=1, y=2.5) [1] n")


# -- row 54, default 10: errors ------------------------------------------------------------------

PASSWORD = "password-0123456789"


@pytest.mark.parametrize("debug", [False, True])
def test_tracebacks_go_to_callers_with_debug_only(debug):
    call = {"task": "leak", "input": PASSWORD}
    served = Served("tests.security.work:TASKS", *(["--debug"] if debug else []))
    try:
        status, body = ask(served.port, call, "Hybrid-Compute: 1")
        with RawSocket(served.port) as raw:
            raw.send(frame(json.dumps({"id": 1, **call}).encode()))
            raw.send(frame(b'{"id":2,"task":"echo"}'))
            came = raw.until(b'"id":1') + body
            if b'"id":2' not in came:
                came += raw.until(b'"id":2')
    finally:
        served.end()
    assert status == 500
    assert b"characters" in came
    assert (b"work.py" in came) is debug
    assert (b"Traceback" in came) is debug
    assert PASSWORD.encode() not in came
    assert SECRET_OF_TASK.encode() not in came
    # The audit log tells who, what and how it ended; never arguments, nor texts of errors.
    assert "token=default task='leak' id='http' outcome=ValueError ms=" in served.said
    assert PASSWORD not in served.said
    assert "characters" not in served.said
