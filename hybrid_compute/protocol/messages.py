"""Messages: the JSON protocol as records.

Owns what each message looks like, in both directions, and how it is read; `writer` writes them.
Knows no order of messages (the sessions do), no socket and no HTTP status line (`http` does).
No threads, no state.

What any peer speaks (`value` stands for any JSON value)::

    to the server   {"id": n, "task": name, "input": value}     `input` left out: no argument
    to the client   {"id": n, "result": value}
                    {"id": n, "error": text}
                    {"id": null, "error": text}                 a frame that had no usable id

What only our own peers speak, once they have said hello::

    both ways       {"hello": {"version": 1, "max_bytes": n, "in_flight": n, "ahead": n}}
                    {"ack": n}                                  n frames have come so far
                    [message, ...]                              a frame of several messages
    to the server   {"id", "task", "args": [...], "kwargs": {...}, "timeout": seconds left,
                     "credit": [items, bytes], "seq": first item wanted,
                     "key": tells that it is the same call, sent once more,
                     "context": {name: value of a context variable of the caller's}}
                    {"id", "credit": [items, bytes]}            so much in all, since the start
                    {"id", "cancel": true}
    to the client   {"id", "chunk": value, "seq": n, "size": bytes}
                    {"id", "chunks": [value, ...], "seq": n of the first, "size": bytes of all}
                    {"id", "done": true, "result": value, "seq": number of items}
                    {"id", "error": text, "status": HTTP status, "type", "traceback", "path",
                     "retry_after": seconds}

A peer that is not ours never gets a key that it does not know. What comes is parsed strictly
where it decides what a message means, and keys without a meaning are let be, for versions to
come. The records are named tuples: an attrs.frozen class with four fields takes 660 ns to fill,
these 200, and there are two for each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from hybrid_compute._failures import short
from hybrid_compute.errors import ProtocolError
from hybrid_compute.protocol.codec import MAX_BYTES, Codec

__all__ = [
    "MAX_NAME",
    "VERSION",
    "Ack",
    "Cancel",
    "Chunk",
    "Complaint",
    "Credit",
    "Done",
    "Failed",
    "Hello",
    "Id",
    "Malformed",
    "Request",
    "Result",
    "error_text",
    "parse_answer",
    "parse_failure",
    "parse_key",
    "parse_request",
]

VERSION = 1
MAX_NAME = 1000  # characters of a task's name, or of an id that is text
MAX_KEY = 200  # characters of an idempotency key
_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY}}}")
_CONTAINERS = (dict, list)
_new: Any = tuple.__new__  # makes a named tuple in half the time
_MAX_COUNT = 2**53  # counters beyond this are no counters

Id = int | str


class Request(NamedTuple):
    """A call."""

    id: Id
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float | None = None  # seconds left when it was sent
    credit: tuple[int, int] | None = None  # the caller takes a stream: so many items and bytes
    seq: int = 0  # number of the first item that the caller wants
    key: str | None = None  # under which the server is to remember how the call ended
    context: dict[str, Any] | None = None  # of the caller's context variables, by their names


class Cancel(NamedTuple):
    """The caller wants no answer to a call any more."""

    id: Id


class Credit(NamedTuple):
    """A stream may send so many items and bytes in all, counted from its start."""

    id: Id
    items: int
    size: int


class Hello(NamedTuple):
    """The peer is ours. It takes frames of `max_bytes` and so many calls at once.

    Beyond them it keeps so many as `ahead` says; a peer of before it said so keeps none.
    """

    version: int = VERSION
    max_bytes: int = MAX_BYTES
    in_flight: int = 64
    ahead: int = 0


class Ack(NamedTuple):
    """The peer has got so many frames in all."""

    frames: int


class Result(NamedTuple):
    """The answer to a call."""

    id: Id
    value: Any


class Failed(NamedTuple):
    """The answer to a call that failed; without an id, to what was no call."""

    id: Id | None
    text: str
    status: int | None = None
    type_name: str = ""
    traceback: str = ""
    path: str = ""
    retry_after: float | None = None


class Chunk(NamedTuple):
    """Items of a stream: `items[0]` is its number `seq`, and all took `size` bytes."""

    id: Id
    seq: int
    items: list[Any]
    size: int


class Done(NamedTuple):
    """The end of a stream before the item number `seq` (None: not told), and its return value."""

    id: Id
    value: Any
    seq: int | None


class Complaint(NamedTuple):
    """The peer got something that it could not relate to a call."""

    text: str


class Malformed(ProtocolError):
    """A message that breaks the protocol.

    Attributes:
        id: whose call it is about, or None if it does not tell that properly.
    """

    id: Id | None

    def __init__(self, text: str, identity: Id | None = None) -> None:
        super().__init__(text)
        self.id = identity


# -- parsing -----------------------------------------------------------------------------------


def parse_request(raw: Any, codec: Codec) -> Request | Cancel | Credit | Hello | Ack:
    """Read one message to a server.

    Raises:
        Malformed: it is none; with its id, if that is good.
    """
    if type(raw) is not dict:
        raise Malformed(f"a message is an object, not {short(raw)}")
    if "id" not in raw:
        return _parse_common(raw)
    identity = raw["id"]
    if (
        len(raw) == 3
        and type(identity) is int
        and type(task := raw.get("task")) is str
        and 0 < len(task) <= MAX_NAME
        and type(value := raw.get("input", raw)) not in _CONTAINERS
    ):  # most calls are such, and `_parse_call` would say the same
        return _new(Request, (identity, task, (value,), {}, None, None, 0, None, None))  # type: ignore[no-any-return]
    if not (type(identity) is int or (type(identity) is str and len(identity) <= MAX_NAME)):
        raise Malformed(f"the id {short(identity)} is neither an integer nor short text")
    try:
        if "task" in raw:
            return _parse_call(raw, identity, codec)
        if "credit" in raw:
            return Credit(identity, *_pair(raw["credit"]))
        if raw.get("cancel") is True:
            return Cancel(identity)
        raise ProtocolError(f"there is no 'task' in {short(raw)}")
    except ProtocolError as error:
        raise Malformed(str(error), identity) from error


def _parse_call(raw: dict[str, Any], identity: Id, codec: Codec) -> Request:
    task = raw["task"]
    if type(task) is not str or not 0 < len(task) <= MAX_NAME:
        raise ProtocolError(f"'task' is {short(task)}, which is no name of a task")
    if len(raw) == 3 and "input" in raw:
        return Request(identity, task, (codec.value(raw["input"]),), {})
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if "input" in raw:
        if "args" in raw or "kwargs" in raw:
            raise ProtocolError("'input' and 'args' or 'kwargs' exclude each other")
        args = (codec.value(raw["input"]),)
    if "args" in raw:
        args = tuple(map(codec.value, _of_type(list, raw, "args")))
    if "kwargs" in raw:
        kwargs = codec.value(_of_type(dict, raw, "kwargs"))
        if type(kwargs) is not dict or any(type(key) is not str for key in kwargs):
            raise ProtocolError("the keys of 'kwargs' are names")
    timeout = _seconds(raw, "timeout")
    credit = _pair(raw["credit"]) if "credit" in raw else None
    # A peer that is not ours may mean anything by it.
    key = parse_key(raw["key"]) if codec.tagged and "key" in raw else None
    seq = _count(raw.get("seq", 0), "seq")
    context = None
    if codec.tagged and "context" in raw:
        context = codec.value(_of_type(dict, raw, "context"))
        if type(context) is not dict or any(type(name) is not str for name in context):
            raise ProtocolError("the keys of 'context' are names")
    return Request(identity, task, args, kwargs, timeout, credit, seq, key, context)


def parse_key(value: Any) -> str:
    """Read an idempotency key: visible ASCII characters, as a header can have them.

    Raises:
        ProtocolError: it is none.
    """
    if type(value) is not str or not _KEY.fullmatch(value):
        raise ProtocolError(
            f"the idempotency key {short(value)} has not 1 to {MAX_KEY} visible ASCII characters"
        )
    return value


def parse_answer(
    raw: Any, codec: Codec
) -> Result | Failed | Chunk | Done | Complaint | Hello | Ack:
    """Read one message to a client. Its id is an integer, of the very type, as all ours are.

    Raises:
        Malformed: it is none; with its id, if that is good.
    """
    if type(raw) is not dict:
        raise Malformed(f"a message is an object, not {short(raw)}")
    if "id" not in raw:
        return _parse_common(raw)
    identity = raw["id"]
    if identity is None and "error" in raw:
        return Complaint(error_text(raw["error"]))
    if type(identity) is not int:
        raise Malformed(f"{short(identity)} is no id that was given out here")
    try:
        return _parse_outcome(raw, identity, codec)
    except ProtocolError as error:
        raise Malformed(str(error), identity) from error


def _parse_outcome(
    raw: dict[str, Any], identity: int, codec: Codec
) -> Result | Failed | Chunk | Done:
    if ("error" in raw) + ("result" in raw) + ("chunk" in raw) + ("chunks" in raw) != 1:
        raise ProtocolError(f"an answer has either a result or an error, not {short(raw)}")
    if "error" in raw:
        return parse_failure(raw, identity)
    if "result" in raw:
        value = codec.value(raw["result"])
        if "done" not in raw:
            return Result(identity, value)
        if raw["done"] is not True:
            raise ProtocolError(f"'done' is {short(raw['done'])}, and can only be true")
        return Done(identity, value, _count(raw["seq"], "seq") if "seq" in raw else None)
    seq, size = _count(raw.get("seq"), "seq"), _count(raw.get("size", 0), "size")
    items = [raw["chunk"]] if "chunk" in raw else _of_type(list, raw, "chunks")
    return Chunk(identity, seq, [codec.value(each) for each in items], size)


def parse_failure(raw: Mapping[str, Any], identity: Id = 0) -> Failed:
    """Read an object with the key "error". What it says beside the error may be nonsense."""
    details = raw["error"] if type(raw["error"]) is dict else {}

    def text(name: str) -> str:
        value = raw.get(name, details.get(name))
        return value if type(value) is str else ""

    status = raw.get("status")
    if type(status) is not int or not 400 <= status < 600:
        status = None
    try:
        retry_after = _seconds(raw, "retry_after")
    except ProtocolError:
        retry_after = None
    return Failed(
        identity,
        error_text(raw["error"]),
        status,
        text("type"),
        text("traceback"),
        text("path"),
        retry_after,
    )


def error_text(error: Any) -> str:
    """Return the text of what stands for an error, which may be anything. Never empty."""
    if type(error) is dict and type(error.get("message")) is str:
        error = error["message"]
    if type(error) is not str:
        try:
            error = json.dumps(error, ensure_ascii=False, default=repr)[:2000]
        except (ValueError, RecursionError):
            error = short(error)
    return error if error.strip() else "the other side gave no reason"


def _parse_common(raw: dict[str, Any]) -> Hello | Ack:
    if "ack" in raw:
        return Ack(_count(raw["ack"], "ack"))
    hello = raw.get("hello")
    if type(hello) is not dict:
        raise Malformed(f"there is no 'id' in {short(raw)}")
    try:
        told = {"ahead": 0, **hello}
        return Hello(*(_count(told.get(name), name) for name in Hello._fields))
    except ProtocolError as error:
        raise Malformed(str(error)) from error


def _count(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise Malformed(f"{name!r} is {short(value)}, which is no count")
    return value


def _pair(value: Any) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise ProtocolError(f"'credit' is {short(value)}; it is a list of items and bytes")
    return _count(value[0], "credit"), _count(value[1], "credit")


def _seconds(raw: Mapping[str, Any], name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= _MAX_COUNT or not isfinite(value):
        raise ProtocolError(f"{name!r} is {short(value)}, which is no number of seconds")
    return float(value)


def _of_type(kind: type, raw: dict[str, Any], name: str) -> Any:
    if type(raw[name]) is not kind:
        raise ProtocolError(f"{name!r} is {short(raw[name])}")
    return raw[name]
