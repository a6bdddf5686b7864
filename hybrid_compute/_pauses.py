"""Pauses: items between two attempts, and how many items may need an executor once more.

`Outstanding` has a lock, which guards its count; `Pause` has none: its timer has one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid_compute import _exit
from hybrid_compute._rows import Row
from hybrid_compute.items import Keeper, WorkItem

if TYPE_CHECKING:
    from hybrid_compute._alarm import Alarm
    from hybrid_compute.routed import RoutedItem

__all__ = ["Outstanding", "Pause"]


class Outstanding(_exit.Member):
    """Counts the items that may need an executor once more.

    Attributes:
        row: light ones, which the alarm does not know.
        alarm: it has rows of others; None: there is none yet.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards both below; re-entrant: finalizers may submit
        self._count = 0
        self._when_none: list[Callable[[], object]] = []  # each shutdown() has its own
        self.row = Row(self.look)
        self.alarm: Alarm | None = None
        _exit.register(self)

    def _are_none(self) -> bool:
        if self._count or self.row:
            return False
        # Another thread may add a row meanwhile; a tuple is made in one step.
        return self.alarm is None or not any(tuple(self.alarm.repeated.values()))

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self._count += 1

    def remove(self, future: object) -> None:
        """Count one less; a done-callback."""
        with self._lock:
            self._count = max(0, self._count - 1)  # in a forked child, one of the parent's
        self.look()

    def look(self) -> None:
        """Call who waits for that, if there are none. Any thread; from who settles an item."""
        # A light one goes without the lock, and looks here afterwards; who waits has said so first.
        if self._when_none:
            with self._lock:
                calls = tuple(self._when_none) if self._are_none() else ()
            for call in calls:
                call()

    def when_none(self, call: Callable[[], object]) -> None:
        """Call `call` once there are none, or more than once: now, or from who settles the last."""
        with self._lock:
            self._when_none.append(call)
            none = self._are_none()
        if none:
            call()

    def wait(self) -> None:
        """Block until there are none."""
        settled = threading.Event()
        self.when_none(settled.set)
        settled.wait()

    def after_fork(self) -> None:
        """Forget the parent's items: this is a forked child, where they never end."""
        self._lock = threading.RLock()
        self._count = 0
        self._when_none = []
        self.row = Row(self.look)


class Pause(Keeper):
    """Keeps an item between two attempts, with a timer, so that nobody has to sleep."""

    def __init__(self, item: RoutedItem, alarm: Alarm, seconds: float) -> None:
        self._item = item
        self._timer = alarm.timer
        self._timer.after(seconds, self)

    def __call__(self) -> None:
        """Begin the next attempt; the timer's thread does."""
        self._item.keeper = None
        self._item.go_on()

    def cancel(self) -> None:
        """Give the item up, though it has attempts left: its executor is shut down."""
        self._item.cancel()

    def stop(self, item: WorkItem) -> bool | None:
        """End the item, which does not run at the moment."""
        if not self._timer.withdraw(self):
            return None
        item.end()
        return True
