"""Who is fed: all that reads bytes of a peer. Each may refuse what it gets, by its own errors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from hybrid_compute.errors import HybridComputeError
from hybrid_compute.protocol import ClientSession, ServerSession
from hybrid_compute.protocol import http as wire
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.decoders import DECODERS, OwnLines, decode
from hybrid_compute.protocol.messages import parse_key
from hybrid_compute.protocol.signing import (
    BadSignature,
    GuardFull,
    Verifier,
    open_answer,
    open_at_rest,
)

from .inputs import KEY

Target = Callable[[bytes, random.Random], object]

MAX_BYTES = 1 << 16
LIFE = 64  # inputs that one session gets; then another one begins
KINDS = ("plain", "own", "binary")
# What a refusal is. Anything else is a crash.
REFUSALS = (HybridComputeError, BadSignature, GuardFull)


class Sessions:
    """Two sessions, which get all frames, and do what their owners would."""

    def __init__(self, kind: str, *, msgspec: bool) -> None:
        self._options = {"own": kind != "plain", "binary": kind == "binary"}
        self._options |= {"msgspec": msgspec, "max_bytes": MAX_BYTES}
        self._begin()

    def _begin(self) -> None:
        self._client = ClientSession(**self._options)
        self._server = ServerSession(**self._options, in_flight=8)
        self._age = 0
        self._now = 1.0
        for number in range(4):
            self._client.call("echo", (number,), stream=(2, 10) if number % 2 else None)

    def __call__(self, data: bytes, rng: random.Random) -> None:
        self._age += 1
        self._now += rng.random() / 100
        if self._age > LIFE:
            self._client.lost("over")
            self._begin()
        frame: bytes | str = data
        if not self._options["binary"] and rng.random() < 0.5:
            frame = data.decode(errors="replace")
        try:
            for event in self._server.receive(frame):
                identity = getattr(event, "id", None)
                if identity is not None and rng.random() < 0.7:
                    self._server.result(identity, [1, (2,)] if self._options["own"] else 1)
        finally:
            self._server.frames_to_send(self._now)
        try:
            self._client.receive(frame)
        finally:
            self._client.frames_to_send(self._now)
        assert len(self._server) <= 8
        assert len(self._client) <= 4


def _codec(kind: str, *, msgspec: bool) -> Codec:
    return Codec(
        tagged=kind != "plain", binary=kind == "binary", max_bytes=MAX_BYTES, msgspec=msgspec
    )


def _pieces(data: bytes, rng: random.Random) -> Iterator[bytes]:
    while data:
        size = rng.randrange(1, 200)
        yield data[:size]
        data = data[size:]


def targets() -> dict[str, Target]:
    """Return all, by name."""
    found: dict[str, Target] = {}
    for kind in KINDS:
        for msgspec in (True,) if kind == "binary" else (False, True):
            name = f"{kind}, {'msgspec' if msgspec else 'stdlib'}"
            codec = _codec(kind, msgspec=msgspec)
            found[f"sessions, {name}"] = Sessions(kind, msgspec=msgspec)
            found[f"codec, {name}"] = lambda data, _, c=codec: c.value(c.decode(data))
            found[f"request, {name}"] = lambda data, _, c=codec: wire.read_request(c, data)
            found[f"answer, {name}"] = lambda data, rng, c=codec: wire.judge(
                c, rng.choice((200, 200, 204, 400, 418, 429, 500, 503)), "application/json", data
            )
            found[f"stream of ours, {name}"] = lambda data, rng, c=codec: list(
                decode(OwnLines(c), _pieces(data, rng))
            )
    for name, make in DECODERS.items():
        plain = _codec("plain", msgspec=True)
        found[f"stream, {name}"] = lambda data, rng, m=make, c=plain: list(
            decode(m(c), _pieces(data, rng))
        )
    verifier = Verifier([KEY], audiences=["localhost"], boot=b"b" * 16, clock=lambda: 1000.0)
    found["signed call"] = lambda data, _: verifier.open(data)
    found["signed answer"] = lambda data, _: open_answer(KEY, data, call_mac=b"m" * 32)
    found["signed row"] = lambda data, _: open_at_rest(KEY, data, about="row")
    found["key of a call"] = lambda data, _: parse_key(data.decode("latin-1"))
    return found
