"""Entries: the rows that one session has in its hands, each with the future that waits for it.

Owns the stages of a row in this process, beside its state in the file::

    QUEUED   in the file, and not claimed yet      --claimed--> HELD
    HELD     claimed, and waits to be sent         --> SENT --> CAME
    SENT     with the remote executor              (HELD again, if the service is away)
    CAME     its outcome waits to be written down  --> OVER, or HELD for another attempt
    OVER     told; or WITHDRAWN: cancelled before it was sent

Threads: the courier's condition guards `stage`, `inner` and `row`. `running` is written by who
sends the row, of whom there is one at a time.
"""

from __future__ import annotations

import enum
from concurrent.futures._base import CANCELLED
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import RemoteUnavailable
from hybrid_compute.executors import _delivery
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.tasks import remote_task

if TYPE_CHECKING:
    from hybrid_compute.executors._outbox_courier import Courier
    from hybrid_compute.executors._outbox_forms import Forms
    from hybrid_compute.executors._outbox_table import Row

__all__ = ["Delivery", "Entry", "Stage"]


class Stage(enum.Enum):
    """Where a row is."""

    QUEUED = 1
    HELD = 2
    SENT = 3
    CAME = 4
    OVER = 5
    WITHDRAWN = 6


class Entry(Keeper):
    """One row, and the item whose future waits for it; None: it is from an earlier run.

    Attributes:
        id: of the row; 0 until it is known.
        key: of the row.
        item: the caller's.
        row: as it was claimed; None while it is QUEUED.
        inner: what the remote executor has, if it is SENT.
        running: the item was marked as running.
        started: this attempt was begun: it may be with the service.
        attempts: how many were counted.
        turn: as in the row.
    """

    __slots__ = (
        *("_courier", "attempts", "id", "inner", "item", "key", "row", "running", "stage"),
        *("started", "turn"),
    )

    def __init__(self, courier: Courier, key: str, item: WorkItem | None) -> None:
        self._courier = courier
        self.id = self.attempts = self.turn = 0
        self.key = key
        self.item = item
        self.row: Row | None = None
        self.inner: Delivery | None = None
        self.stage = Stage.QUEUED
        self.running = self.started = False

    def take(self, row: Row) -> None:
        """Note that the row was claimed."""
        self.id, self.row = row.id, row
        self.attempts, self.turn = row.attempts, row.turn
        self.stage = Stage.HELD

    def unwanted(self) -> bool:
        """Tell whether the future is done already: its time was up, or a program has settled it."""
        return self.item is not None and self.item.future.done()

    def begin(self) -> bool:
        """Mark the item as running, once; False if nobody wants it any more."""
        self.started = True
        item = self.item
        if item is not None and not self.running:
            self.running = _delivery.start(item)
            return self.running
        return not self.unwanted()

    def fail(self, error: BaseException) -> None:
        """Fail the item, if there is one, whether it was started or not. Callbacks run."""
        item, self.item = self.item, None
        if item is None:
            return
        item.keeper = None
        _delivery.settle(item.fail if self.running else item.reject, error)

    def withdraw(self, item: WorkItem) -> bool:
        """Take the row back, unless it may have been sent; it is out of the file then."""
        if not self._courier.withdraw(self):
            return False
        # Once the future is cancelled, whoever wait()s for it has to be told.
        item.future.add_done_callback(lambda _: _tell_waiters(item))
        return True

    def stop(self, item: WorkItem) -> bool | None:
        """Have the service stop it, if the remote executor can."""
        inner = self.inner
        if self.stage is not Stage.SENT or inner is None or inner.keeper is None:
            return False
        return inner.keeper.stop(inner)


def _tell_waiters(item: WorkItem) -> None:
    if item.future._state == CANCELLED:
        _delivery.start(item)


class Delivery(WorkItem):
    """One attempt at a row, as the remote executor gets it. Its outcome goes to the courier."""

    __slots__ = ("_courier", "_entry", "deadline", "key", "packed", "variables")

    def __init__(self, courier: Courier, entry: Entry, row: Row, forms: Forms) -> None:
        """Read the call.

        Raises:
            OutboxError: the row is damaged, or not to be read.
        """
        self.packed: bytes | None = None
        self.variables: dict[str, Any] | None = None
        if row.signed:
            self.packed = forms.packed(row)
            super().__init__(remote_task(row.task))
        else:
            super().__init__(remote_task(row.task), *forms.arguments(row))
            self.variables = forms.variables(row)
        self.key = row.wire_key
        self.deadline = None if entry.item is None else entry.item.deadline
        self._courier = courier
        self._entry = entry

    def start(self) -> bool:
        """Mark the attempt, and the caller's item, as running."""
        if not super().start():
            return False
        if self._entry.begin():
            return True
        self._courier.came(self._entry, self, None, None)  # finds that nobody wants it
        return False

    def succeed(self, value: Any) -> None:
        """Take the result."""
        self._courier.came(self._entry, self, value, None)

    def fail(self, error: BaseException) -> None:
        """Take what went wrong."""
        self._courier.came(self._entry, self, None, error)

    def end(self) -> None:
        """Deliver that the service has stopped it, as was asked for."""
        self._courier.stopped(self._entry, self)

    def cancel(self) -> None:
        """Take it back: the remote executor was shut down by somebody else."""
        if self.future.cancel():
            self.future.set_running_or_notify_cancel()
            error = RemoteUnavailable("the remote executor is shut down; nothing was sent")
            self._courier.came(self._entry, self, None, error)
