"""Audit: the line of the log that there is for each call. No state, no threads."""

from __future__ import annotations

import logging
import time

from hybrid_compute._failures import short
from hybrid_compute.protocol.messages import Request
from hybrid_compute.server.tokens import Token

__all__ = ["described", "is_on", "label", "log", "of"]

_AUDIT = logging.getLogger("hybrid_compute.audit")


def is_on() -> bool:
    """Say whether anybody wants the lines."""
    return _AUDIT.isEnabledFor(logging.INFO)


def label(task: str, identity: object) -> str:
    """Return how a call is named."""
    return f"task={short(task)} id={short(identity)}"


def of(request: Request) -> str:
    """Return the same for a call that no `service.Call` stands for."""
    return label(request.task, request.id)


def described(token: Token, label: str, begun: float, now: float) -> str:
    """Return what is to be said of a call that runs; the times are monotonic."""
    return f"token={token.name} {label} ms={(now - begun) * 1000:.1f}"


def log(token: Token, label: str, begun: float, outcome: str) -> None:
    """Write the line of a call that is over, or was refused."""
    ms = (time.monotonic() - begun) * 1000
    _AUDIT.info("token=%s %s outcome=%s ms=%.1f", token.name, label, outcome, ms)
