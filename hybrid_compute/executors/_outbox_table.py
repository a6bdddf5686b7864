"""Table: what is in an outbox's file, as SQL and as records.

No threads, no state, no connection.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from hybrid_compute._durable import Kind

__all__ = ["COLUMNS", "OUTBOX", "Draft", "Row", "Verdict", "new_key", "row_of"]

OUTBOX = Kind(
    "outbox",
    0x48634F62,  # "HcOb"
    1,
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,  -- of the file whose lock tells that it lives
        beat INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE rows (
        id INTEGER PRIMARY KEY,  -- in the order of submission
        key TEXT NOT NULL,
        turn INTEGER NOT NULL DEFAULT 0,  -- how often the call became another one
        task TEXT NOT NULL,
        body BLOB NOT NULL,
        signed INTEGER NOT NULL,
        idempotent INTEGER NOT NULL,
        state TEXT NOT NULL DEFAULT 'pending',
        owner INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        submitted REAL NOT NULL,
        outcome BLOB,
        trouble TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX rows_pending ON rows (owner, id) WHERE state = 'pending';
    CREATE INDEX rows_over ON rows (state, id) WHERE state IN ('delivered', 'failed', 'dead');
    """,
)

COLUMNS = (
    "id, key, turn, task, body, signed, idempotent, state, attempts, submitted, outcome, trouble"
)


class Draft:
    """A row that is to be added, and what became of that."""

    __slots__ = ("body", "error", "id", "idempotent", "key", "signed", "task")

    def __init__(self, key: str, task: str, body: bytes, *, signed: bool, idempotent: bool) -> None:
        self.key: str = key
        self.task: str = task
        self.body: bytes = body
        self.signed: bool = signed
        self.idempotent: bool = idempotent
        self.id: int = 0
        self.error: Exception | None = None


class Row(NamedTuple):
    """A row as it was when it was read."""

    id: int
    key: str
    turn: int
    task: str
    body: bytes
    signed: bool
    idempotent: bool
    state: str
    attempts: int
    submitted: float
    outcome: bytes | None
    trouble: str

    @property
    def wire_key(self) -> str:
        """The key that the service gets."""
        return f"{self.key}.{self.turn}" if self.turn else self.key


class Verdict(NamedTuple):
    """What is to be written down of a claimed row."""

    id: int
    key: str
    state: str  # 'claimed': another attempt follows
    attempts: int
    outcome: bytes | None
    trouble: str
    owned: bool  # the session still needs the row: its future was not told yet
    turn: int


def new_key() -> str:
    """Return an idempotency key that nobody else has."""
    return os.urandom(16).hex()


def row_of(raw: Any) -> Row:
    """Return the row that a query with COLUMNS has found."""
    row = Row(*raw)
    return row._replace(signed=bool(row.signed), idempotent=bool(row.idempotent))
