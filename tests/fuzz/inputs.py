"""What is fed: good messages that were damaged, messages that are nearly good, and noise.

All of it follows from a seed. Nothing here knows what is to become of it.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable

import msgspec

from hybrid_compute.protocol.signing import SigningKey, sign_answer, sign_call

KEY = SigningKey("f00dfeed" * 7 + "12345678")
WORDS = (
    *("id", "task", "input", "args", "kwargs", "result", "error", "chunk", "chunks", "done", "seq"),
    *("size", "credit", "cancel", "hello", "ack", "$hc", "timeout", "status", "key", "calls"),
    *("version", "max_bytes", "in_flight", "type", "path", "traceback", "retry_after", "message"),
)
ODD = (
    *(b"", b"\0", b"null", b"[]", b"{}", b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b"Infinity"),
    *(
        b"-",
        b"1e999",
        b"[" * 5000,
        b'{"a":' * 5000,
        b"9" * 20000,
        b'"\\ud800"',
        b"{}{}",
        b"\xc0\x80",
    ),
    *(
        b'{"id":1,"id":2,"task":"f"}',
        b'{"task":"\\u0000","id":1}',
        b"\x9f" * 200,
        b"\xdf\xff\xff\xff\xff",
    ),
    *(b"data: " + b"x" * 3000, b"data: [DONE]\n\n", b"\n" * 500, b"event: error\ndata: {}\n\n"),
)
TAGS = ("tuple", "set", "dict", "float", "complex", "int", "bytes", "datetime", "date", "time")
MORE_TAGS = ("timedelta", "uuid", "decimal", "array", "number", "frozenset", "fraction", "no such")
SCALARS: tuple[Callable[[random.Random], object], ...] = (
    lambda _: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.randrange(-3, 6),
    lambda rng: rng.choice((2**53, -(2**63), 2**64, 10**400, -0.0, 1e308, 5e-324)),
    lambda rng: rng.choice(
        ("", "f", "echo", "1", "\0", "\x7f", "a" * 300, "é", "\U0001f600", "..")
    ),
    lambda rng: [rng.choice((*TAGS, *MORE_TAGS)), *("" for _ in range(rng.randrange(3)))],
)


def value(rng: random.Random, depth: int = 0) -> object:
    """Return something that JSON has, and that a message might have in this place."""
    kind = rng.random()
    if depth > 4 or kind < 0.55:
        return rng.choice(SCALARS)(rng)
    if kind < 0.7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 0.8:
        rest = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return {"$hc": [rng.choice((*TAGS, *MORE_TAGS)), *rest]}
    return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.randrange(5))}


def good(rng: random.Random) -> object:
    """Return a message that is one, of any kind."""
    number = rng.randrange(1, 6)
    return rng.choice(
        (
            {"id": number, "task": "echo", "input": value(rng)},
            {"id": number, "task": "echo", "args": [1, "a"], "kwargs": {"x": [1.5]}, "timeout": 2},
            {"id": number, "task": "count", "args": [3], "credit": [5, 1000]},
            {"id": number, "credit": [2, 100]},
            {"id": number, "cancel": True},
            {"id": number, "result": value(rng)},
            {"id": number, "error": "why", "status": 500, "type": "ValueError"},
            {"id": number, "seq": rng.randrange(4), "chunks": [1, 2, {"$hc": ["tuple", 1]}]},
            {"id": number, "result": None, "done": True, "seq": 3},
            {"hello": {"version": 1, "max_bytes": 10000, "in_flight": 4}},
            [{"id": 1, "task": "echo"}, {"id": 2, "task": "echo", "input": 3}],
        )
    )


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with some of them changed, lost, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        how = rng.randrange(6)
        if how == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del out[at:]
        elif how == 2:
            del out[at : at + rng.randrange(1, 8)]
        elif how == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 8))
        elif how == 4:
            out[at:at] = out[at : at + rng.randrange(1, 40)]
        else:
            out[at:at] = rng.choice(ODD)[:2000]
    return bytes(out)


def _envelope(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return sign_answer(KEY, b"body", failed=False, call_mac=b"m" * 32)
    return sign_call(
        KEY,
        b"body",
        audience="localhost",
        boot=b"b" * 16,
        call_id=b"c" * 16,
        nonce=rng.randbytes(16),
        now=rng.choice((0.0, 1000.0, 1e9)),
    )


def an_input(rng: random.Random) -> bytes:
    """Return one input. Most are malformed, and none is harmless by its look."""
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.randrange(200))
    if kind < 0.1:
        return rng.choice(ODD)
    if kind < 0.15:
        return damaged(rng, _envelope(rng))
    message = good(rng) if rng.random() < 0.6 else value(rng)
    if kind < 0.35:
        try:
            data = msgspec.msgpack.encode(message)
        except OverflowError:  # it has no such integer
            data = struct.pack("!Bq", 0xD3, -1)
    elif kind < 0.5:
        lines = (json.dumps(good(rng)) for _ in range(rng.randrange(1, 4)))
        data = "".join(rng.choice(("data: {}\n\n", "{}\n")).format(line) for line in lines).encode()
    else:
        data = json.dumps(message, ensure_ascii=rng.random() < 0.5).encode(errors="replace")
    return data if rng.random() < 0.3 else damaged(rng, data)
