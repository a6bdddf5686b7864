"""HTTP bodies, and what each answer means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.errors import (
    AuthError,
    HybridComputeError,
    OutcomeUnknown,
    PayloadTooLarge,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    TaskInputError,
    UnknownTaskError,
)
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.http import (
    content_type,
    error_body,
    is_content_type_of,
    judge,
    read_request,
    request_body,
    result_body,
)
from hybrid_compute.protocol.messages import Failed
from hybrid_compute.protocol.values import Refused

JSON = Codec(msgspec=False)
TYPE = "application/json"


def test_a_call_s_body_is_that_of_the_javascript_library(plain):
    assert json.loads(request_body(plain, "echo", ("x",))) == {"task": "echo", "input": "x"}
    assert json.loads(request_body(plain, "now", ())) == {"task": "now"}
    with pytest.raises(Refused):
        request_body(plain, "f", (1, 2))


def test_a_call_comes_back_as_it_was_for_our_own_peers(tagged):
    body = request_body(tagged, "f", (1, b"x"), {"k": {2}}, timeout=1.5, variables={"v": 2})
    read = read_request(tagged, body)
    assert read[1:] == ("f", (1, b"x"), {"k": {2}}, 1.5, None, 0, None, {"v": 2})
    body = request_body(tagged, "f", (b"x",), variables={"v": 2})
    assert read_request(tagged, body).context == {"v": 2}


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"1", b"{}", b'{"input":1}', b'{"task":1}', b'{"id":1,"cancel":true}'],
)
def test_a_body_that_is_no_call_is_refused(plain, body):
    with pytest.raises(ProtocolError):
        read_request(plain, body)


def test_an_id_in_a_body_means_nothing(plain):
    assert read_request(plain, b'{"task":"f","input":2,"id":{}}')[1:4] == ("f", (2,), {})


def test_a_result_and_a_failure_come_back(tagged):
    kind = content_type(tagged)
    assert judge(tagged, 200, kind, result_body(tagged, (1, b"x"))) == (1, b"x")
    with pytest.raises(TaskInputError, match="no") as info:
        judge(tagged, 422, kind, error_body(tagged, Failed(0, "no", 422, path="$.x")))
    assert info.value.path == "$.x"


@pytest.mark.parametrize("body", [b'{"result":5}', b'{"result":5,"ms":3}'])
def test_a_result_is_returned(plain, body):
    assert judge(plain, 200, TYPE, body) == 5


def test_null_is_a_result(plain):
    assert judge(plain, 200, TYPE, b'{"result":null}') is None


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>hello</html>", b"{}", b"[1]", b"null", b"1", b'"x"', b'{"results":1}'),
        *(
            b'{"result":1,"error":"x"}',
            b'{"result":1,"error":null}',
            b'{"result":NaN}',
            b'{"result":1',
        ),
        b'{"result":' + b"[" * 65 + b"]" * 65 + b"}",
    ],
)
def test_an_answer_that_is_none_tells_status_content_type_and_its_start(plain, body):
    with pytest.raises(ProtocolError) as info:
        judge(plain, 200, "text/html; charset=utf-8", body)
    assert info.value.status == 200
    assert info.value.content_type == "text/html; charset=utf-8"
    assert info.value.excerpt == body[:200]
    assert "200" in str(info.value)
    assert "text/html" in str(info.value)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 422, 500, 501, 599, 100])
def test_an_html_error_page_tells_status_and_its_start(plain, status):
    page = b"<html>" + b"x" * 500
    with pytest.raises(ProtocolError) as info:
        judge(plain, status, "text/html", page)
    assert (info.value.status, info.value.excerpt) == (status, page[:200])


@pytest.mark.parametrize("status", [301, 400, 404, 500])
def test_a_result_with_a_bad_status_is_no_result(plain, status):
    with pytest.raises(ProtocolError):
        judge(plain, status, TYPE, b'{"result":5}')


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RemoteTaskError),
        (401, AuthError),
        (403, AuthError),
        (404, UnknownTaskError),
        (413, PayloadTooLarge),
        (422, TaskInputError),
        (429, RemoteBusy),
        (500, RemoteTaskError),
        (502, RemoteConnectionLost),
        (503, RemoteBusy),
        (504, RemoteConnectionLost),
    ],
)
def test_each_status_is_an_error_of_its_own(plain, status, kind):
    with pytest.raises(kind, match="boom") as info:
        judge(plain, status, TYPE, b'{"error":"boom"}', retry_after=7.0)
    assert type(info.value) is kind
    if kind is RemoteBusy:
        assert info.value.retry_after == 7.0
    if kind is RemoteConnectionLost:
        assert info.value.may_have_run


def test_only_our_own_servers_say_that_an_outcome_is_unknown(plain, tagged):
    body = error_body(tagged, Failed(0, "boom", 409, "OutcomeUnknown"))
    with pytest.raises(OutcomeUnknown):
        judge(tagged, 409, TYPE, body)
    with pytest.raises(RemoteTaskError) as caught:
        judge(plain, 409, TYPE, b'{"error":"boom"}')
    assert type(caught.value) is RemoteTaskError


@pytest.mark.parametrize("status", [401, 403, 413, 429, 502, 503, 504])
def test_a_proxy_s_page_has_the_meaning_of_its_status(plain, status):
    with pytest.raises(HybridComputeError) as info:
        judge(plain, status, "text/html", b"<html>")
    assert type(info.value) is not ProtocolError


@pytest.mark.parametrize("error", [b'"boom"', b'{"message":"boom"}', b'{"message":"boom","x":1}'])
def test_an_error_with_status_200_is_an_error(plain, error):
    with pytest.raises(RemoteTaskError, match="boom"):
        judge(plain, 200, TYPE, b'{"error":' + error + b"}")


@pytest.mark.parametrize("error", [b'""', b'" "', b'{"message":""}'])
def test_an_empty_error_is_an_error_with_a_text(plain, error):
    with pytest.raises(RemoteTaskError, match="gave no reason"):
        judge(plain, 200, TYPE, b'{"error":' + error + b"}")


def test_an_answer_over_the_limit_is_too_large():
    with pytest.raises(PayloadTooLarge) as info:
        judge(Codec(max_bytes=10), 200, TYPE, b'{"result":12345678}')
    assert (info.value.size, info.value.limit) == (19, 10)


@pytest.mark.parametrize(
    ("value", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/problem+json", True),
        ("application/json; charset=latin-1", False),
        ("text/plain", False),
        ("text/json", False),
        ("application/octet-stream", False),
        ("application/x-pickle", False),
        ("", False),
    ],
)
def test_content_types_tell_what_can_be_read(value, is_json):
    binary = Codec(binary=True)
    assert is_content_type_of(JSON, value) is is_json
    assert not is_content_type_of(binary, value)
    assert is_content_type_of(binary, content_type(binary))
    assert not is_content_type_of(JSON, content_type(binary))


@given(st.integers(100, 599), st.text(max_size=20), st.binary(max_size=100))
def test_any_answer_is_a_result_or_an_error_of_ours(status, kind, body):
    try:
        judge(JSON, status, kind, body)
    except HybridComputeError:
        return
    assert 200 <= status < 300
    assert "result" in json.loads(body)
