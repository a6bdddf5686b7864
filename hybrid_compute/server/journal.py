"""Journal: what a server remembers of calls with a key, on disk.

Owns one SQLite file, and a thread that writes to it, so that the event loop never waits for the
disk. What comes while it writes goes into the next transaction, all of it with one sync. Calls
back on the event loop, for what begins; on its own thread, for what is done.

Ages are counted in seconds in which a server ran: each row has the time of its end on a clock that
goes on from the file's largest when a server starts. So the wall clock may jump as it likes; the
time between two runs does not count.

Threads: its own has the connection, from `load` on; a queue leads there. One server has the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures._base import LOGGER
from pathlib import Path
from typing import Any

from hybrid_compute._durable import Kind, checked_path, is_full, open_file
from hybrid_compute.errors import OutboxError, OutboxFull

__all__ = ["JOURNAL", "Journal"]

JOURNAL = Kind(
    "memory of a server",
    0x48634D65,  # "HcMe"
    1,
    """
    CREATE TABLE calls (
        token TEXT NOT NULL,
        key TEXT NOT NULL,
        mark BLOB NOT NULL,
        outcome BLOB,  -- NULL: begun
        at REAL NOT NULL,
        PRIMARY KEY (token, key)
    ) STRICT, WITHOUT ROWID
    """,
)

_Name = tuple[str, str]
_Told = Callable[[Exception | None], object]


class Journal:
    """An open journal."""

    def __init__(
        self, path: Any, *, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open a file, or make it.

        Args:
            path: of the file, which is made as an outbox's is.
            max_bytes: of outcomes; the file may take twice as much.
            clock: monotonic seconds.

        Raises:
            ConfigurationError: the path is none.
            OutboxError: the file cannot be used, or another server does.
        """
        self.path: Path = checked_path(path, "remember")
        self._clock = clock
        self._connection = open_file(self.path, JOURNAL)
        # A file of its own: SQLite's locks would be gone once a descriptor of the file is closed.
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(f"{self.path}.lock", flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_go()
            raise OutboxError(
                f"{self.path} is in use by another server: give this one a file of its own",
                path=str(self.path),
            ) from None
        self._connection.execute(f"PRAGMA max_page_count={max(64, 2 * max_bytes // 4096)}")
        (latest,) = self._connection.execute("SELECT max(at) FROM calls").fetchone()
        self._zero = (latest or 0.0) - clock()
        self._queue: queue.SimpleQueue[tuple[str, Any, _Told] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def load(self) -> list[tuple[_Name, bytes, bytes | None, float]]:
        """Return what is there, oldest first: name, mark, outcome or None, and age in seconds."""
        now = self._now()
        return [
            ((token, key), mark, outcome, now - at)
            for token, key, mark, outcome, at in self._connection.execute(
                "SELECT token, key, mark, outcome, at FROM calls ORDER BY at"
            )
        ]

    def _now(self) -> float:
        return self._zero + self._clock()

    def begin(self, name: _Name, mark: bytes, told: _Told) -> None:
        """Write down that a call begins; then call `told` on the running event loop."""
        import asyncio  # noqa: PLC0415 - only where there is a loop

        loop = asyncio.get_running_loop()

        def tell(problem: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(told, problem)

        sql = "INSERT OR REPLACE INTO calls (token, key, mark, at) VALUES (?, ?, ?, ?)"
        self._put(sql, [(*name, mark, self._now())], tell)

    def done(self, name: _Name, outcome: bytes, told: _Told) -> None:
        """Write down how a call ended; then call `told` on the journal's thread."""
        sql = "UPDATE calls SET outcome = ?, at = ? WHERE token = ? AND key = ?"
        self._put(sql, [(outcome, self._now(), *name)], told)

    def forget(self, names: Iterable[_Name]) -> None:
        """Remove calls, soon."""
        self._put("DELETE FROM calls WHERE token = ? AND key = ?", list(names), lambda _: None)

    def _put(self, sql: str, rows: list[Any], told: _Told) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="hybrid-compute-journal", daemon=True)
            thread.start()
            self._thread = thread
        self._queue.put((sql, rows, told))

    def _run(self) -> None:
        ending = False
        while not ending:
            batch = [self._queue.get()]
            while True:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            ending = None in batch
            work = [each for each in batch if each is not None]
            problem = self._write([each[:2] for each in work])
            if isinstance(problem, OutboxFull) and len(work) > 1:  # some may have room
                problems = [self._write([each[:2]]) for each in work]
            else:
                problems = [problem] * len(work)
            for (_, _, told), why in zip(work, problems, strict=True):
                try:
                    told(why)
                except BaseException:
                    LOGGER.exception("exception after the writing of a journal")

    def _write(self, work: list[tuple[str, Any]]) -> Exception | None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, rows in work:
                    connection.executemany(sql, rows)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            LOGGER.warning("the memory of the server, %s, cannot be written: %s", self.path, error)
            kind = OutboxFull if is_full(error, self.path) else OutboxError
            return kind(f"{self.path} cannot be written: {error}", path=str(self.path))
        return None

    def close(self) -> None:
        """Write what waits, and close the file. More than once does no harm."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()
        self._let_go()

    def _let_go(self) -> None:
        self._connection.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
