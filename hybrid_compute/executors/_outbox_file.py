"""OutboxFile: the rows of an outbox, and all SQL that touches them.

Owns one connection and the states of rows, as the file has them::

                 .--- released: its session is dead, or was closed ---.
                 v                                                    |
    add --> pending --claim--> claimed --settle--> delivered, failed --collect--> gone
               |                  |  ^                    ^
               |                  |  `-- once more        |
               |                  `-----settle--> dead ---'
               `--remove (cancelled)--> gone      dead, failed --retry--> pending

What holds (tests/executors/test_outbox_machine.py tries to break it):

- A row that `add` has returned for is in the file until it was delivered and collected, cancelled
  or dropped: whatever process dies when.
- A row is `claimed` by one session at a time. Only that session settles it.
- A row leaves `claimed` by its outcome, or because its session is gone.
- A row's call and key never change. What goes to the service is `wire_key`, which does if the call
  is to be another one for it: after an answer that it would only repeat.

A row has an owner, a session, as long as that lives: no other one claims it, so that its future
is in the process that delivers it. Rows without an owner are anybody's.

Clocks: none decides anything. `submitted` is the wall clock, and is only ever shown. Who is dead
is found by `_outbox_lives`.

Threads: `_lock` guards the connection and a transaction on it. Who comes to `add` while another
one commits leaves his row in `_queue`, and the next to get the lock commits all that are there: so
callers share the disk's syncs. It is re-entrant, so that a signal handler or a finalizer which
lands in the middle gets an error instead of a deadlock.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from hybrid_compute._durable import is_full, open_file
from hybrid_compute.errors import OutboxError, OutboxFull
from hybrid_compute.executors._outbox_table import COLUMNS, OUTBOX, Draft, Row, Verdict, row_of

__all__ = ["OutboxFile"]

T = TypeVar("T")

_PAGE = 4096
_BATCH = 1024  # rows of one transaction
_CLAIM = (
    "UPDATE rows SET state = 'claimed', owner = ? WHERE id IN (SELECT id FROM rows WHERE "  # noqa: S608 - of our own words
    f"state = 'pending' AND owner IS ? ORDER BY id LIMIT ?) RETURNING {COLUMNS}"
)


class OutboxFile:
    """An open outbox.

    Attributes:
        path: of the file.
        session: this connection's; 0 until `begin`.
    """

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        """Open a file, or make it.

        Args:
            path: absolute.
            max_bytes: how large calls may make the file; outcomes get a quarter more. None: no
                bound, for who adds nothing.

        Raises:
            OutboxError: it cannot be used.
        """
        self.path = path
        self.session = 0
        self._connection: sqlite3.Connection | None = open_file(path, OUTBOX)
        self._lock = threading.RLock()
        self._busy = False  # a transaction is under way
        self._queue: deque[Draft] = deque()
        self._pages = None if max_bytes is None else max(16, max_bytes // _PAGE)
        self._set: dict[str, Any] = {}  # what the connection is set to

    # -- transactions ------------------------------------------------------------------------

    def transact(
        self, do: Callable[[sqlite3.Connection], T], *, sync: bool, room: float = 1.25
    ) -> T:
        """Run one transaction.

        Args:
            do: what to do in it.
            sync: it must survive the end of the power too, once this has returned.
            room: how much of the cap it may use.

        Raises:
            OutboxFull: there is no room; nothing has changed.
            OutboxError: the file cannot be written; nothing has changed.
            RuntimeError: the outbox is closed, or this thread is in the middle of a transaction.
        """
        with self._lock:
            connection = self._connection
            if connection is None:
                raise RuntimeError(f"the outbox {self.path} is shut down")
            if self._busy:
                raise RuntimeError(
                    f"the outbox {self.path} was called by a signal handler, or a finalizer, that "
                    "interrupts the writing of it; leave a note there, and act on it elsewhere"
                )
            self._busy = True
            try:
                self._choose(connection, "synchronous", "FULL" if sync else "NORMAL")
                if self._pages is not None:
                    self._choose(connection, "max_page_count", int(self._pages * room))
                connection.execute("BEGIN IMMEDIATE")
                try:
                    value = do(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        with suppress(sqlite3.Error):
                            connection.execute("ROLLBACK")
                    raise
                return value
            except sqlite3.Error as error:
                raise self._error(error) from error
            finally:
                self._busy = False

    def _choose(self, connection: sqlite3.Connection, name: str, value: Any) -> None:
        if self._set.get(name) != value:
            connection.execute(f"PRAGMA {name}={value}")
            self._set[name] = value

    def _error(self, error: sqlite3.Error) -> OutboxError:
        if is_full(error, self.path):
            return OutboxFull(
                f"the outbox {self.path} has no room for the call, or its disk has none ({error}); "
                "what it has is intact. Collect results() or drop rows that nobody needs "
                "(`hybrid-compute outbox FILE drop`), let it be delivered, or raise max_bytes",
                path=str(self.path),
            )
        if isinstance(error, sqlite3.OperationalError):
            return OutboxError(
                f"the outbox {self.path} cannot be written: {error}", path=str(self.path)
            )
        return OutboxError(
            f"the outbox {self.path} is damaged ({error}): end the programs that use it; who "
            "opens it next moves it aside",
            path=str(self.path),
        )

    def read(self, sql: str, *args: Any) -> list[Any]:
        """Return what a query finds.

        Raises:
            OutboxError: the file cannot be read.
            RuntimeError: the outbox is closed.
        """
        with self._lock:
            if self._connection is None:
                raise RuntimeError(f"the outbox {self.path} is shut down")
            try:
                return self._connection.execute(sql, args).fetchall()
            except sqlite3.Error as error:
                raise self._error(error) from error

    # -- sessions ----------------------------------------------------------------------------

    def begin(self, name: str) -> None:
        """Begin a session, whose name is locked already.

        Its id is like no other before. SQLite would give that of the last one once more when that
        is gone, and who was taken for dead and wakes up does not know yet that it is not his.
        """
        session = random.SystemRandom().getrandbits(62)
        self.transact(
            lambda connection: connection.execute(
                "INSERT INTO sessions (id, name) VALUES (?, ?)", (session, name)
            ),
            sync=True,
        )
        self.session = session

    def sessions(self) -> list[tuple[int, str, int, bool]]:
        """Return the id, name and beat of the other sessions, and whether rows wait for each."""
        return self.read(
            "SELECT id, name, beat, EXISTS (SELECT 1 FROM rows WHERE owner = sessions.id) "
            "FROM sessions WHERE id != ?",
            self.session,
        )

    def company(self) -> int:
        """Return how many other sessions there are."""
        found: int = self.read("SELECT count(*) FROM sessions WHERE id != ?", self.session)[0][0]
        return found

    def beat(self) -> bool:
        """Tell the others that this session lives; False if they have taken it for dead."""
        return self.transact(
            lambda connection: (
                connection.execute(
                    "UPDATE sessions SET beat = beat + 1 WHERE id = ?", (self.session,)
                ).rowcount
                == 1
            ),
            sync=False,
        )

    def release(self, session: int, beat: int | None = None) -> int:
        """End a session, its own or a dead one; its rows become anybody's.

        Args:
            session: its id.
            beat: what it must be at still; None: never mind.

        Returns:
            How many rows wait again.
        """

        def end(connection: sqlite3.Connection) -> int:
            gone = connection.execute(
                "DELETE FROM sessions WHERE id = ? AND beat = coalesce(?, beat)", (session, beat)
            ).rowcount
            if not gone:
                return 0
            connection.execute(
                "UPDATE rows SET owner = NULL WHERE owner = ? AND state NOT IN ('pending', "
                "'claimed')",
                (session,),
            )
            return connection.execute(
                "UPDATE rows SET owner = NULL, state = 'pending' WHERE owner = ?", (session,)
            ).rowcount

        return self.transact(end, sync=False)

    def close(self) -> None:
        """Close the connection; more than once does no harm."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def abandon(self) -> sqlite3.Connection | None:
        """Let go of everything without touching the file: this is a forked child."""
        connection, self._connection = self._connection, None
        self._lock = threading.RLock()
        self._busy = False
        return connection

    # -- in ----------------------------------------------------------------------------------

    def add(self, drafts: Sequence[Draft]) -> None:
        """Add rows of this session; once it returns, they survive anything. Blocks for that.

        Raises:
            OutboxFull, OutboxError: one or more were not added; its `error` tells which.
        """
        self._queue.extend(drafts)
        try:
            with self._lock:
                while self._queue and not all(each.id or each.error for each in drafts):
                    if self._busy:
                        break
                    self._add_waiting()
        finally:  # also if a KeyboardInterrupt has cut that short
            for each in drafts:
                if not (each.id or each.error):
                    with suppress(ValueError):
                        self._queue.remove(each)
        if not all(each.id or each.error for each in drafts):
            self.transact(lambda _: None, sync=False)  # raises what is the matter
        for each in drafts:
            if each.error is not None:
                raise each.error

    def _add_waiting(self) -> None:
        """Commit what is in the queue. With the lock held."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        try:
            self._insert(batch)
        except BaseException as error:
            if len(batch) == 1 or not isinstance(error, OutboxFull):
                self._refuse(batch, error)
                return
            for each in batch:  # some may have room
                try:
                    self._insert([each])
                except BaseException as why:
                    self._refuse([each], why)

    def _refuse(self, batch: list[Draft], error: BaseException) -> None:
        for each in batch:
            each.id = 0
            each.error = error if isinstance(error, Exception) else None
        if not isinstance(error, Exception):  # a KeyboardInterrupt is the leader's, not theirs
            for each in batch:
                each.error = OutboxError(
                    f"the outbox {self.path} was interrupted while it wrote", path=str(self.path)
                )
            raise error

    def _insert(self, batch: list[Draft]) -> None:
        now = time.time()

        def insert(connection: sqlite3.Connection) -> list[int]:
            sql = (
                "INSERT INTO rows (key, task, body, signed, idempotent, owner, submitted) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            return [
                connection.execute(
                    sql,
                    (each.key, each.task, each.body, each.signed, each.idempotent, owner, now),
                ).lastrowid
                or 0
                for each in batch
            ]

        owner = self.session
        for each, identity in zip(batch, self.transact(insert, sync=True, room=1.0), strict=True):
            each.id = identity

    # -- out ---------------------------------------------------------------------------------

    def claim(self, count: int, *, orphans: int) -> tuple[list[Row], list[Row]]:
        """Take pending rows, in their order.

        Args:
            count: how many at most.
            orphans: how many of them may be nobody's.

        Returns:
            Rows that were nobody's, and rows that were this session's.
        """

        def take(connection: sqlite3.Connection, owner: int | None, most: int) -> list[Row]:
            found = connection.execute(_CLAIM, (self.session, owner, most)).fetchall()
            return sorted(map(row_of, found))  # RETURNING has no order

        def take_both(connection: sqlite3.Connection) -> tuple[list[Row], list[Row]]:
            others = take(connection, None, min(orphans, count)) if orphans else []
            left = count - len(others)
            return others, take(connection, self.session, left) if left else []

        return self.transact(take_both, sync=False)

    def has_orphans(self) -> bool:
        """Tell whether there are pending rows of nobody."""
        sql = "SELECT EXISTS (SELECT 1 FROM rows WHERE state = 'pending' AND owner IS NULL)"
        return bool(self.read(sql)[0][0])

    def settle(self, verdicts: Sequence[Verdict]) -> list[bool]:
        """Write down what became of claimed rows; it survives anything once this has returned.

        Returns:
            For each, whether this session still had it.
        """

        def update(connection: sqlite3.Connection) -> list[bool]:
            return [
                connection.execute(
                    "UPDATE rows SET state = ?, attempts = ?, outcome = ?, trouble = ?, "
                    "owner = iif(?, owner, NULL), turn = ? "
                    "WHERE id = ? AND key = ? AND owner = ? AND state = 'claimed'",
                    (
                        *(each.state, each.attempts, each.outcome, each.trouble),
                        *(each.owned, each.turn, each.id, each.key, self.session),
                    ),
                ).rowcount
                == 1
                for each in verdicts
            ]

        return self.transact(update, sync=True)

    def remove(self, rows: Sequence[tuple[int, str]], *, sync: bool) -> int:
        """Remove rows of this session, by id and key. Returns how many there were."""

        def delete(connection: sqlite3.Connection) -> int:
            return sum(
                connection.execute(
                    "DELETE FROM rows WHERE id = ? AND key = ? AND owner = ?",
                    (*each, self.session),
                ).rowcount
                for each in rows
            )

        return self.transact(delete, sync=sync)
