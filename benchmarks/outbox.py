"""What it costs to have a call on the disk before `submit` returns."""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case

__all__ = ["CASES"]

_TABLE = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, task TEXT NOT NULL, body BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', submitted REAL NOT NULL
)
"""
_INSERT = "INSERT INTO calls (key, task, body, submitted) VALUES (?, ?, ?, 0)"


@contextmanager
def _bare() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(
            Path(folder) / "calls", isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_TABLE)
        yield connection
        connection.close()


@contextmanager
def _outbox(*, away: bool = True) -> Iterator[Any]:
    """An outbox whose service is away, or answers at once in this very process."""
    from hybrid_compute import OutboxExecutor
    from hybrid_compute.abc import Capabilities, SubExecutor
    from hybrid_compute.errors import RemoteUnavailable

    class Service(SubExecutor):
        name = "service"
        workers = 8
        capabilities = Capabilities(remote=True)

        def execute(self, item: Any) -> None:
            if not item.start():
                return
            if away:
                item.fail(RemoteUnavailable("nobody there"))
            else:
                item.succeed(item.args[0])

        def load(self) -> float:
            return 0.0

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        ex = OutboxExecutor(Service(), Path(folder) / "calls", linger=0)
        yield ex
        ex.shutdown()


def _row(number: int) -> tuple[str, str, bytes]:
    body = json.dumps({"args": [number], "kwargs": {}}).encode()
    return os.urandom(16).hex(), "successor", body


def _one_by_one_bare(size: int) -> float:
    with _bare() as connection:
        begin = perf_counter()
        for number in range(size):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_INSERT, _row(number))
            connection.execute("COMMIT")
        return (perf_counter() - begin) / size * 1e6


def _one_by_one(size: int) -> float:
    from hybrid_compute import remote_task

    successor = remote_task("successor")
    with _outbox() as ex:
        begin = perf_counter()
        for number in range(size):
            ex.submit(successor, number)
        return (perf_counter() - begin) / size * 1e6


def _by_threads(do: Callable[[int], object], size: int) -> float:
    threads = 8
    gate = threading.Barrier(threads + 1)

    def run() -> None:
        gate.wait()
        for number in range(size // threads):
            do(number)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for each in workers:
        each.start()
    gate.wait()
    begin = perf_counter()
    for each in workers:
        each.join()
    return (perf_counter() - begin) / size * 1e6


def _threads_bare(size: int) -> float:
    lock = threading.Lock()
    with _bare() as connection:

        def insert(number: int) -> None:
            with lock:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_INSERT, _row(number))
                connection.execute("COMMIT")

        return _by_threads(insert, size)


def _threads(size: int) -> float:
    from hybrid_compute import remote_task

    successor = remote_task("successor")
    with _outbox() as ex:
        return _by_threads(lambda number: ex.submit(successor, number), size)


def _together_bare(size: int) -> float:
    with _bare() as connection:
        begin = perf_counter()
        for start in range(0, size, 500):
            connection.execute("BEGIN IMMEDIATE")
            rows = [_row(number) for number in range(start, min(start + 500, size))]
            connection.executemany(_INSERT, rows)
            connection.execute("COMMIT")
        return (perf_counter() - begin) / size * 1e6


def _together(size: int) -> float:
    from hybrid_compute import remote_task

    with _outbox() as ex:
        begin = perf_counter()
        results = ex.map(remote_task("successor"), range(size))
        took = (perf_counter() - begin) / size * 1e6
        del results
        return took


def _through_bare(size: int) -> float:
    with _bare() as connection:
        begin = perf_counter()
        for start in range(0, size, 64):
            numbers = range(start, min(start + 64, size))
            for number in numbers:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_INSERT, _row(number))
                connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM calls WHERE id <= ?", (numbers[-1] + 1,))
            connection.execute("COMMIT")
        return (perf_counter() - begin) / size * 1e6


def _through(size: int) -> float:
    from hybrid_compute import remote_task

    successor = remote_task("successor")
    with _outbox(away=False) as ex:
        begin = perf_counter()
        futures = [ex.submit(successor, number) for number in range(size)]
        for each in futures:
            each.result()
        return (perf_counter() - begin) / size * 1e6


_BARE = "bare SQLite loop"
_NOTE = (
    "2,000 a second are 500 us. WAL, synchronous=FULL, a file in the directory for temporary ones."
)

CASES = (
    Case(
        name="outbox: durable submits, one thread",
        unit="us a call",
        size=4000,
        quick_size=1500,
        adapters=(
            Adapter(_BARE, _one_by_one_bare, "sqlite3"),
            Adapter("OutboxExecutor", _one_by_one, "hybrid_compute"),
        ),
        note=_NOTE,
    ),
    Case(
        name="outbox: durable submits, 8 threads",
        unit="us a call",
        size=8000,
        quick_size=2400,
        adapters=(
            Adapter(_BARE, _threads_bare, "sqlite3"),
            Adapter("OutboxExecutor", _threads, "hybrid_compute"),
        ),
        note="The loop has a lock, and a commit for each call.",
    ),
    Case(
        name="outbox: map, written together",
        unit="us a call",
        size=20_000,
        quick_size=5000,
        adapters=(
            Adapter(f"{_BARE}, 500 rows a commit", _together_bare, "sqlite3"),
            Adapter("OutboxExecutor", _together, "hybrid_compute"),
        ),
        note="Until all are on the disk; they are not delivered.",
    ),
    Case(
        name="outbox: submitted, delivered and done",
        unit="us a call",
        size=4000,
        quick_size=1500,
        adapters=(
            Adapter(f"{_BARE}, and 64 rows deleted at once", _through_bare, "sqlite3"),
            Adapter("OutboxExecutor", _through, "hybrid_compute"),
        ),
        note="The service is in the same process and answers at once.",
    ),
)
