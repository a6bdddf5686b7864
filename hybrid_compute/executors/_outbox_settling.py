"""Settling: what is written down of an attempt, and what a future is told.

Pure but for the future: no file, no lock, no clock. On the courier's thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_compute._failures import add_note, text_of
from hybrid_compute.errors import NotDelivered
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._outbox_table import Verdict
from hybrid_compute.executors._outbox_verdicts import Fate, fate_of

if TYPE_CHECKING:
    from hybrid_compute.executors._outbox_entries import Entry
    from hybrid_compute.executors._outbox_forms import Forms

__all__ = ["Decided", "decide", "not_delivered", "tell", "verdict_of"]


class Decided(NamedTuple):
    """One attempt that is over, and what it means."""

    entry: Entry
    value: Any
    error: BaseException | None
    fate: Fate | None  # None: it has a result

    @property
    def again(self) -> bool:
        """Whether another attempt follows."""
        return self.fate in (Fate.AGAIN, Fate.ANEW)


def decide(entry: Entry, value: Any, error: BaseException | None, max_attempts: int) -> Decided:
    """Say what an outcome means, and count the attempt if that is the row's."""
    if error is None:
        return Decided(entry, value, None, None)
    fate = fate_of(
        error,
        attempts=entry.attempts + 1,
        max_attempts=max_attempts,
        idempotent=entry.row is not None and entry.row.idempotent,
    )
    if fate is not Fate.AWAY:
        entry.attempts += 1
    if fate is Fate.ANEW:
        entry.turn += 1
    return Decided(entry, value, error, fate)


def verdict_of(decided: Decided, forms: Forms, *, keep_results: bool) -> Verdict:
    """Return what is to be written into the row."""
    entry, value, error, fate = decided
    state = "delivered"
    if decided.again:
        state = "claimed"
    elif fate is not None:
        state = "dead" if fate is Fate.DEAD else "failed"
    # Until a future was told, nobody else is to collect the row; what has none is anybody's.
    owned = decided.again or (entry.item is not None and not keep_results and fate is not Fate.DEAD)
    outcome = None if decided.again else forms.write_outcome(entry.key, value, error)
    trouble = "" if error is None else f"{type(error).__name__}: {text_of(error)}"[:2000]
    trouble = trouble.encode(errors="backslashreplace").decode()
    return Verdict(entry.id, entry.key, state, entry.attempts, outcome, trouble, owned, entry.turn)


def tell(decided: Decided, path: Path) -> None:
    """Give an outcome to the future that waits for it, if there is one. Callbacks run."""
    entry, value, error, fate = decided
    if error is None:
        item, entry.item = entry.item, None
        if item is not None:
            item.keeper = None
            _delivery.settle(item.succeed, value)
        return
    if fate is Fate.DEAD and entry.item is not None:
        add_note(
            error,
            f"row {entry.id} is among the dead letters of the outbox {path} after {entry.attempts} "
            f"attempts: `hybrid-compute outbox {path} retry {entry.id}` has it delivered again",
        )
    entry.fail(error)


def not_delivered(entry: Entry, path: Path, why: str) -> NotDelivered:
    """Return the error of a future whose row is left to others."""
    return NotDelivered(
        f"row {entry.id} of the outbox {path} was not delivered: {why}. It is kept: who opens the "
        "outbox next delivers it, and finds its outcome in results()",
        path=str(path),
        key=entry.key,
    )
