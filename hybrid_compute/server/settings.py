"""Limits: what the server takes at most. Checked once, never changed. No threads."""

from __future__ import annotations

import math
from typing import Any

import attrs

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.protocol.codec import MAX_BYTES

__all__ = ["PATIENCE", "Limits"]

# Our guards' extension of ASGI: takes the seconds for which a caller need not read.
PATIENCE = "hybrid_compute.patience"


def _positive(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    whole = str(field.type) == "int"
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else (int, float))
        or not 0 < value < math.inf
    ):
        kind = "a whole number" if whole else "a number of seconds"
        raise ConfigurationError(f"{field.name}={value!r} is not {kind} greater than 0")


def _not_negative(limits: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value != 0 or isinstance(value, bool):
        _positive(limits, field, value)


@attrs.frozen(kw_only=True)
class Limits:
    """What one server takes, before it says no.

    Attributes:
        body_bytes: of a request's body, of a WebSocket message, and of an answer.
        header_bytes: of a request's line and headers together.
        header_seconds: in which these must have come.
        body_seconds: in which a body, or a WebSocket message, must have come.
        in_flight: calls that run or wait for one token, and for one WebSocket.
        ahead: small calls beyond them that one WebSocket keeps until there is a place, for clients
            of ours, which send so many only while they are answered at once.
        queue: calls that run or wait in all.
        connections: HTTP connections and WebSockets that are open at once (`serve` only).
        task_seconds: for which a call may run and wait. Callers and tasks may ask for less.
        remember_seconds: for which the end of a call with an idempotency key is remembered.
        remember_bytes: of all that is remembered; the oldest goes first.
        grace: seconds that running calls have when the server is told to end.
    """

    body_bytes: int = attrs.field(default=MAX_BYTES, validator=_positive)
    header_bytes: int = attrs.field(default=2**16, validator=_positive)
    header_seconds: float = attrs.field(default=10.0, validator=_positive)
    body_seconds: float = attrs.field(default=60.0, validator=_positive)
    in_flight: int = attrs.field(default=64, validator=_positive)
    ahead: int = attrs.field(default=192, validator=_not_negative)
    queue: int = attrs.field(default=1024, validator=_positive)
    connections: int = attrs.field(default=1024, validator=_positive)
    task_seconds: float = attrs.field(default=3600.0, validator=_positive)
    remember_seconds: float = attrs.field(default=86_400.0, validator=_positive)
    remember_bytes: int = attrs.field(default=64 * 2**20, validator=_positive)
    grace: float = attrs.field(default=10.0, validator=_positive)
