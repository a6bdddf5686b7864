"""HTTP: the bodies of one exchange, and a verdict on any answer.

Owns what `POST /compute` carries (`{"task", "input"}` to the server; `{"result"}` or `{"error"}`
back, with the further keys of `messages` between our own peers) and what a status means. The
same statuses stand in the errors of a WebSocket, so `error_of` serves both. Knows no HTTP
library; who calls `judge` has read the body, with a bound, already. No threads, no state.

Our own peers know each other by the header HEADER on a request and on its answer. A request
without it is plain, and is answered plainly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_compute._failures import RemoteTraceback, short
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
from hybrid_compute.protocol.messages import Failed, Request, parse_failure, parse_request
from hybrid_compute.protocol.writer import Writer

__all__ = [
    "BINARY_TYPE",
    "EVENTS_TYPE",
    "HEADER",
    "JSON_TYPE",
    "KEY_HEADER",
    "NDJSON_TYPE",
    "content_type",
    "error_body",
    "error_of",
    "is_content_type_of",
    "judge",
    "read_request",
    "request_body",
    "result_body",
]

KEY_HEADER = "Idempotency-Key"  # its value: see `messages.parse_key`
HEADER = "Hybrid-Compute"  # its value: the version of the protocol
JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
EVENTS_TYPE = "text/event-stream"
BINARY_TYPE = "application/vnd.hybrid-compute.msgpack"

# Statuses that say enough without a body of the protocol; proxies send them with HTML.
_CLEAR = frozenset((401, 403, 413, 429, 502, 503, 504))

_NOTHING: Mapping[str, Any] = {}


def content_type(codec: Codec) -> str:
    """Return the content type of a codec's bodies."""
    return BINARY_TYPE if codec.binary else JSON_TYPE


def is_content_type_of(codec: Codec, value: str) -> bool:
    """Tell whether a Content-Type header announces what the codec reads."""
    kind, _, parameters = value.partition(";")
    kind = kind.strip().lower()
    if codec.binary or kind == BINARY_TYPE:
        return codec.binary and kind == BINARY_TYPE
    json = kind == JSON_TYPE or (kind.startswith("application/") and kind.endswith("+json"))
    charset = parameters.lower().replace(" ", "").replace('"', "")
    return json and ("charset=" not in charset or "charset=utf-8" in charset)


def request_body(
    codec: Codec,
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] = _NOTHING,
    *,
    timeout: float | None = None,
    credit: tuple[int, int] | None = None,
    seq: int = 0,
    variables: Mapping[str, Any] | None = None,
) -> bytes:
    """Write the body of a call.

    Args:
        codec: writes it.
        task: its name.
        args: its arguments.
        kwargs: its keywords.
        timeout: seconds left.
        credit: of a stream: by how many items and bytes its generator may be ahead.
        seq: of a stream: number of the first item wanted.
        variables: the caller's context variables, by their names; None: none.

    Raises:
        Refused: an argument cannot go to this peer.
        PayloadTooLarge: it is larger than the codec's limit.
    """
    writer = Writer(codec)
    if codec.binary and len(args) == 1 and type(args[0]) is bytes and not kwargs:
        head = writer.call(task, (), timeout=timeout)  # a bad name is refused
        head |= writer.context(variables)
        fields = {name: codec.decode(value) for name, value in head.items()}
        return _at_once(codec, fields | {"input": args[0]})
    parts = writer.call(task, args, kwargs, timeout=timeout) | writer.context(variables)
    if credit is not None and codec.tagged:
        parts |= {"credit": codec.encode(list(credit)), "seq": codec.encode(seq)}
    return codec.fields(**parts)


def _at_once(codec: Codec, fields: dict[str, Any]) -> bytes:
    """Write a body that is mostly one value of bytes. To join it would copy these once more."""
    body = codec.record(fields)
    if len(body) > codec.max_bytes:
        raise PayloadTooLarge(
            f"a body of {len(body)} bytes, and {codec.max_bytes} may be sent; send it in parts, or "
            "raise the limit on both sides",
            size=len(body),
            limit=codec.max_bytes,
        )
    return body


def read_request(codec: Codec, body: bytes) -> Request:
    """Read the body of a call. The id of the request that is returned means nothing.

    Raises:
        ProtocolError: the body is no call: status 400.
        PayloadTooLarge: it is larger than the codec's limit: status 413.
    """
    raw = codec.decode(body)
    if type(raw) is not dict or "task" not in raw:
        raise ProtocolError(f"there is no 'task' in {short(raw)}", excerpt=body)
    request = parse_request({**raw, "id": 0} if "id" in raw else {"id": 0, **raw}, codec)
    assert isinstance(request, Request)  # noqa: S101 - what has a task is one
    return request


def result_body(codec: Codec, value: Any) -> bytes:
    """Write the body of a result. Raises as `request_body` does."""
    if codec.binary and type(value) is bytes:
        return _at_once(codec, {"result": value})
    return codec.fields(result=codec.encode(value, "$.result"))


def error_body(codec: Codec, failure: Failed) -> bytes:
    """Write the body of a failure, whose status goes into the status line as well."""
    return codec.record(Writer(codec).error(failure))


def judge(
    codec: Codec,
    status: int,
    content_type: str,
    body: bytes,
    *,
    retry_after: float | None = None,
) -> Any:
    """Return the result in an answer, or raise what it means.

    A result is never made up: only a body with the key "result", without "error" and with a
    status of 200 to 299 has one.

    Args:
        codec: reads the body.
        status: the HTTP status.
        content_type: the header's value, "" if there is none.
        body: all of it.
        retry_after: seconds from the header Retry-After, or None.

    Raises:
        RemoteTaskError: the task failed, or the service did not take the call.
        AuthError, RemoteBusy, RemoteConnectionLost, PayloadTooLarge: by the status; the last
            also of an answer that is larger than the codec's limit.
        ProtocolError: the answer is none of the protocol. It has the status, the content type and
            the first 200 bytes.
    """

    def complain(why: str) -> ProtocolError:
        return ProtocolError(
            f"{why} (status {status}, content type {content_type or 'not given'!r}, "
            f"body {body[:200]!r})",
            status=status,
            content_type=content_type,
            excerpt=body,
        )

    raw: Any = None
    unreadable: ProtocolError | None = None
    try:
        raw = codec.decode(body)
    except ProtocolError as error:
        unreadable = error
    if type(raw) is dict and "error" in raw and "result" not in raw:
        raise _failure(raw, status, retry_after)
    if not 200 <= status < 300:
        if status in _CLEAR:
            text = f"the service answered with status {status} ({content_type}): {body[:200]!r}"
            raise error_of(Failed(0, text, status, retry_after=retry_after))
        raise complain("the service answered with no error that could be read") from unreadable
    if unreadable is not None:
        raise complain(str(unreadable)) from unreadable
    if type(raw) is not dict or "result" not in raw or "error" in raw:
        raise complain("the answer has not just one of 'result' and 'error'")
    try:
        return codec.value(raw["result"])
    except ProtocolError as error:
        raise complain(str(error)) from error


def _failure(raw: dict[str, Any], status: int, retry_after: float | None) -> HybridComputeError:
    failure = parse_failure(raw)
    if not 200 <= status < 300:  # the status line decides, unless it says that all is well
        failure = failure._replace(status=status)
    if retry_after is not None:
        failure = failure._replace(retry_after=retry_after)
    return error_of(failure)


def error_of(failure: Failed) -> HybridComputeError:
    """Return the exception for an answer that is an error.

    502 and 504 come from something between the two peers: the call may have run.
    """
    text, status = failure.text, failure.status
    error: HybridComputeError
    if status in (401, 403):
        error = AuthError(text, status=status)
    elif status == 404:
        error = UnknownTaskError(text, status=status)
    elif status == 409 and failure.type_name == "OutcomeUnknown":
        error = OutcomeUnknown(text, status=status)
    elif status == 413:
        error = PayloadTooLarge(text)
    elif status == 422:
        error = TaskInputError(text, path=failure.path, status=status)
    elif status in (429, 503):
        error = RemoteBusy(text, status=status or 503, retry_after=failure.retry_after)
    elif status in (502, 504):
        error = RemoteConnectionLost(text, may_have_run=True)
    else:
        error = RemoteTaskError(
            text, status=status, type_name=failure.type_name, traceback_text=failure.traceback
        )
        if failure.traceback:
            # What is printed is then both: where it was raised there, and who waited for it here.
            error.__cause__ = RemoteTraceback(failure.traceback)
    return error
