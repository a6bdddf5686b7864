"""Pauses: items between two attempts, and how many items may need an executor once more.

`Outstanding` has a lock, which guards what it counts; `Pause` has none: its timer has one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute.items import Keeper, WorkItem

if TYPE_CHECKING:
    from concurrent.futures import Future

    from hybrid_compute._alarm import Alarm
    from hybrid_compute.routed import RoutedItem

__all__ = ["Outstanding", "Pause"]


class Outstanding(_exit.Member):
    """Counts the items that may need an executor once more."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards both below; re-entrant: finalizers may submit
        self._futures: set[int] = set()  # by id: who counts them need not keep them
        self._when_none: list[Callable[[], object]] = []  # each shutdown() has its own
        _exit.register(self)

    def watch(self, future: Future[Any]) -> None:
        """Count a future until it is done.

        An interrupt may come between any two steps: who calls this then cancels the future, which
        takes it off the count, if it was on it.
        """
        future.add_done_callback(self._remove)
        with self._lock:
            self._futures.add(id(future))
        if future.done():
            self._remove(future)  # it may have been done before it was counted

    def _remove(self, future: object) -> None:
        with self._lock:
            self._futures.discard(id(future))  # in a forked child, it may be one of the parent's
            calls = () if self._futures else tuple(self._when_none)
        for call in calls:
            call()

    def when_none(self, call: Callable[[], object]) -> None:
        """Call `call` once there are none, or more than once: now, or from who settles the last."""
        with self._lock:
            self._when_none.append(call)
            none = not self._futures
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
        self._futures = set()
        self._when_none = []


class Pause(Keeper):
    """Keeps an item between two attempts, with a timer, so that nobody has to sleep.

    Attributes:
        ended: it was withdrawn in time: nobody has the item but who cancels it.
    """

    def __init__(self, item: RoutedItem, alarm: Alarm, seconds: float) -> None:
        self._item = item
        self._timer = alarm.timer
        self.ended: bool = False
        item.keeper = self  # first: the next attempt may begin, with another keeper, at any moment
        self._timer.after(seconds, self)

    def __call__(self) -> None:
        """Begin the next attempt; the timer's thread does."""
        self._item.keeper = None
        self._item.go_on()

    def cancel(self) -> None:
        """Give the item up, though it has attempts left: its executor is shut down."""
        self._item.cancel()

    def withdraw(self, item: WorkItem) -> bool:
        """Forget the next attempt; if it has just begun, it finds the item cancelled."""
        self.ended = self._timer.withdraw(self)
        return True

    def drop(self, item: WorkItem) -> None:
        """End the item, which does not run at the moment: nobody wants it."""
        self.stop(item)

    def stop(self, item: WorkItem) -> bool | None:
        """End the item, which does not run at the moment."""
        if not self._timer.withdraw(self):
            return None
        item.end()
        return True
