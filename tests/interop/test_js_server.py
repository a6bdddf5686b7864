"""RemoteExecutor against servers of npm's express and ws, and what those get wrong."""

from __future__ import annotations

import json

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    PayloadTooLarge,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    TaskEncodeError,
    TaskTimeout,
    UnknownTaskError,
)
from tests.interop.conftest import PATIENCE

pytestmark = pytest.mark.timeout(100)

echo = remote_task("echo")
raw = remote_task("raw")
PATHS = {"http": "/compute", "ws": "/ws"}


@pytest.fixture
def client(js_port, request):
    """Return a client of the scheme that the test is parametrised with."""
    scheme = getattr(request, "param", "ws")
    with RemoteExecutor(f"{scheme}://127.0.0.1:{js_port}{PATHS[scheme]}", tasks=None) as executor:
        yield executor


both = pytest.mark.parametrize("client", ["http", "ws"], indirect=True)
http = pytest.mark.parametrize("client", ["http"], indirect=True)
ws = pytest.mark.parametrize("client", ["ws"], indirect=True)


def result(client, name, *args, timeout=None):
    called = remote_task(name, timeout=timeout)
    return client.submit(called, *args).result(PATIENCE)


@both
@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, 2**53, "", "ä\u2028😀\0", [], {}, [1, [2, {"a": None}]]]
)
def test_values_come_back_as_they_were(client, value):
    came = result(client, "echo", value)
    assert came == value
    assert type(came) is type(value)


@both
def test_a_call_without_input_has_no_input(client):
    assert result(client, "has_input") is False
    assert result(client, "has_input", None) is True


@both
def test_many_calls_at_once(client):
    assert list(client.map(echo, range(300), timeout=PATIENCE)) == list(range(300))


@both
def test_a_hybrid_executor_sends_it_what_has_no_body_here(client):
    @task
    def local(x):
        return -x

    with HybridExecutor(remote=client) as executor:
        assert executor.submit(echo, 5).result(PATIENCE) == 5
        assert executor.submit(remote_task("add"), {"a": 1, "b": 2}).result(PATIENCE) == 3
        assert executor.submit(local, 5).result(PATIENCE) == -5  # it tells no names: not sent


@both
def test_a_megabyte_both_ways(client):
    text = "ä" * 500_000
    assert result(client, "echo", text) == text


@both
def test_what_javascript_could_not_keep_is_not_sent(client):
    for value in (float("nan"), b"bytes", {1: 2}, {1, 2}):
        with pytest.raises(TaskEncodeError, match=r"\$\.input"):
            result(client, "echo", value)
    assert result(client, "echo", 1) == 1


@both
def test_an_error_has_its_text(client):
    with pytest.raises(RemoteTaskError, match="^boom$"):
        result(client, "fail", "boom")
    with pytest.raises(RemoteTaskError, match="Unknown task: toads"):
        result(client, "toads")


@http
def test_an_unknown_task_is_told_by_its_status(client):
    with pytest.raises(UnknownTaskError):
        result(client, "toads")


@both
def test_an_error_without_a_message_is_an_error(client):
    with pytest.raises(RemoteTaskError) as info:
        result(client, "silent")
    assert str(info.value).strip()
    assert result(client, "echo", 1) == 1


@both
def test_a_result_that_javascript_left_out_is_no_result(client):
    with pytest.raises(ProtocolError):
        result(client, "nothing")
    assert result(client, "echo", 1) == 1


@both
def test_a_name_that_every_javascript_object_has(client):
    """What the server makes of it is its affair; here it is a name like any other."""
    assert result(client, "constructor", {"a": 1}) == {"a": 1}
    with pytest.raises(RemoteTaskError, match="__class__"):
        result(client, "__class__", 1)


@both
def test_a_server_that_never_answers(client):
    with pytest.raises(TaskTimeout):
        result(client, "never", timeout=0.3)
    assert result(client, "echo", 1) == 1


@both
def test_a_connection_that_closes_with_calls_pending(client):
    pending = [client.submit(remote_task("never")) for _ in range(3)] if is_ws(client) else []
    pending.append(client.submit(remote_task("hang_up")))
    for future in pending:
        with pytest.raises(RemoteConnectionLost) as info:
            future.result(PATIENCE)
        assert info.value.may_have_run
    assert result(client, "echo", 1) == 1


def is_ws(client):
    return "ws://" in repr(client)


# -- HTTP --------------------------------------------------------------------------------------


@http
def test_a_page_of_express_is_told_with_its_status(client):
    with pytest.raises(ProtocolError, match="DOCTYPE html") as info:
        result(client, "page")
    assert info.value.status == 500
    assert "text/html" in info.value.content_type


@http
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, '{"error": ""}', RemoteTaskError),
        (200, '{"error": null}', RemoteTaskError),
        (200, '{"error": {"message": "boom"}}', RemoteTaskError),
        (400, '{"error": ""}', RemoteTaskError),
        (401, '{"error": "who?"}', AuthError),
        (413, "<html>", PayloadTooLarge),
        (200, "{}", ProtocolError),
        (500, "{}", ProtocolError),
        (200, "[1]", ProtocolError),
        (200, "null", ProtocolError),
        (200, "", ProtocolError),
        (200, '"text"', ProtocolError),
        (200, '{"result": 1', ProtocolError),
        (200, '{"result": NaN}', ProtocolError),
        (200, '{"result": 1, "error": "both"}', ProtocolError),
        (500, '{"result": 1}', ProtocolError),
        (500, "<html>oh no</html>", ProtocolError),
        (502, "<html>bad gateway</html>", RemoteConnectionLost),
    ],
)
def test_an_answer_that_is_no_result_is_an_error(client, status, body, kind):
    with pytest.raises(kind) as info:
        result(client, "raw", {"status": status, "body": body})
    assert str(info.value).strip()
    assert result(client, "echo", 1) == 1


def test_a_busy_server_is_told(js_port):
    with (
        RemoteExecutor(f"http://127.0.0.1:{js_port}/compute", retry_after_cap=0) as client,
        pytest.raises(RemoteBusy),
    ):
        client.submit(raw, {"status": 503, "body": "<html>"}).result(PATIENCE)


# -- WebSocket ---------------------------------------------------------------------------------


@ws
@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ('{"id": $id, "error": ""}', RemoteTaskError),
        ('{"id": $id, "error": null}', RemoteTaskError),
        ('{"id": $id, "error": {"message": "boom"}}', RemoteTaskError),
        ('{"id": $id}', ProtocolError),
        ('{"id": $id, "result": 1, "error": "both"}', ProtocolError),
    ],
)
def test_an_answer_that_is_no_result_fails_its_call_alone(client, frame, kind):
    other = client.submit(remote_task("later"), 300)
    with pytest.raises(kind) as info:
        result(client, "raw", [frame])
    assert str(info.value).strip()
    assert other.result(PATIENCE) == 300  # on the same connection


@ws
@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        "[1]",
        "[]",
        "null",
        '{"error": ""}',
        '{"id": null, "error": ""}',
        '{"id": "$id", "result": "text"}',
        '{"id": $id.0, "result": "float"}',
        '{"id": [$id], "result": "list"}',
        '{"id": true, "result": "bool"}',
        '{"id": 987654321, "result": "nobody"}',
        '{"id": -$id, "result": "negative"}',
    ],
)
def test_a_frame_about_no_call_is_let_be(client, frame):
    right = '{"id": $id, "result": "right"}'
    assert result(client, "raw", [frame, right, frame]) == "right"
    assert result(client, "echo", 1) == 1


@ws
def test_the_first_of_several_answers_counts(client):
    answers = [json.dumps({"id": 0, "result": n}).replace("0", "$id", 1) for n in range(3)]
    assert result(client, "raw", answers) == 0
    assert result(client, "echo", 7) == 7


@ws
def test_an_answer_that_comes_late_is_nobodys(client):
    late = client.submit(remote_task("later", timeout=0.2), 600)
    with pytest.raises(TaskTimeout):
        late.result(PATIENCE)
    # Answered after the late one, which came meanwhile.
    assert result(client, "later", 900) == 900


@ws
@pytest.mark.parametrize("frame", ["not JSON", "", '{"id": $id, "result": 1'])
def test_a_frame_that_is_not_json_ends_the_connection(client, frame):
    """An answer may have been in it: no call may wait for that for ever."""
    pending = client.submit(remote_task("never"))
    with pytest.raises(ProtocolError):
        result(client, "raw", [frame])
    with pytest.raises((ProtocolError, RemoteConnectionLost)):
        pending.result(PATIENCE)
    assert result(client, "echo", 1) == 1


@ws
def test_an_answer_in_a_binary_frame_is_read(client):
    assert result(client, "binary", [1]) == [1]


@ws
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, RemoteConnectionLost),
        (1008, AuthError),
        (1009, PayloadTooLarge),
        (1011, RemoteConnectionLost),
        (1013, RemoteConnectionLost),
        (4000, RemoteConnectionLost),
    ],
)
def test_a_close_code_of_ws_fails_what_waits(client, code, kind):
    with pytest.raises(kind, match=str(code)):
        result(client, "close", code)
