"""Desk: the rows of an outbox, for whoever looks at them: users, and the command line.

Has no state of its own. What it changes are rows that no living session has; those with a future
belong to the process that has that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hybrid_compute.executors._outbox_table import COLUMNS, Row, row_of

if TYPE_CHECKING:
    import sqlite3

    from hybrid_compute.executors._outbox_file import OutboxFile

__all__ = ["Desk"]


class Desk:
    """A view of one open file."""

    def __init__(self, file: OutboxFile) -> None:
        self._file = file

    def rows(self, *states: str, unowned: bool = False, after: int = 0) -> Iterator[Row]:
        """Iterate over the rows in some states, oldest first, a page at a time.

        Args:
            states: which; none: all.
            unowned: only those that no session needs.
            after: only those with a larger id.
        """
        marks = ", ".join("?" * len(states))
        which = f"AND state IN ({marks}) " if states else ""
        which += "AND owner IS NULL " if unowned else ""
        while True:
            page = self._file.read(
                f"SELECT {COLUMNS} FROM rows WHERE id > ? {which}ORDER BY id LIMIT 100",  # noqa: S608 - of our own words
                after,
                *states,
            )
            if not page:
                return
            for each in page:
                yield row_of(each)
            after = page[-1][0]

    def has(self, identity: int) -> bool:
        """Say whether there is such a row."""
        return bool(self._file.read("SELECT 1 FROM rows WHERE id = ?", identity))

    def state(self, identity: int) -> str | None:
        """Return the state of a row; None: there is no such row."""
        found = self._file.read("SELECT state FROM rows WHERE id = ?", identity)
        return str(found[0][0]) if found else None

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each state."""
        return dict(self._file.read("SELECT state, count(*) FROM rows GROUP BY state"))

    def collect(self, rows: Sequence[tuple[int, str]]) -> int:
        """Remove rows whose outcome somebody has, by id and key."""
        return self._file.transact(
            lambda connection: sum(
                connection.execute(
                    "DELETE FROM rows WHERE id = ? AND key = ? AND owner IS NULL", each
                ).rowcount
                for each in rows
            ),
            sync=True,
        )

    def retry(self, identities: Sequence[int] | None) -> int:
        """Have dead and failed rows delivered again.

        Those that may have run stay the same call for the service, so that it does not run them
        twice if it remembers them. Those with an answer, or none to be hoped for, become others.

        Args:
            identities: of the rows; None: all that are dead.
        """

        def update(connection: sqlite3.Connection) -> int:
            if identities is None:
                found = [
                    each
                    for (each,) in connection.execute("SELECT id FROM rows WHERE state = 'dead'")
                ]
            else:
                found = list(identities)
            return sum(
                connection.execute(
                    "UPDATE rows SET state = 'pending', owner = NULL, attempts = 0, "
                    "turn = turn + (state = 'failed' OR trouble LIKE 'OutcomeUnknown%'), "
                    "outcome = NULL, trouble = '' WHERE id = ? AND state IN ('dead', 'failed') "
                    "AND owner IS NULL",
                    (each,),
                ).rowcount
                for each in found
            )

        return self._file.transact(update, sync=True)

    def drop(self, identities: Sequence[int]) -> int:
        """Remove rows that no living session holds, whatever their state."""
        return self._file.transact(
            lambda connection: sum(
                connection.execute(
                    "DELETE FROM rows WHERE id = ? AND owner IS NULL", (each,)
                ).rowcount
                for each in identities
            ),
            sync=True,
        )
