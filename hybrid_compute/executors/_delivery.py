"""The steps of an item's life as a pool takes them: whatever a user's code does in them.

Done-callbacks and `cancel` run code that is not ours. No threads, no locks, no state.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, LOGGER, PENDING
from typing import Any

from hybrid_compute.items import WorkItem

__all__ = ["cancel", "settle", "start"]


def settle(deliver: Callable[[Any], None], outcome: Any) -> None:
    """Call `item.succeed`, `item.fail` or the like; what comes of it is logged.

    A done-callback may raise SystemExit, and a program may have settled the future by itself:
    neither must keep other items from theirs.
    """
    try:
        deliver(outcome)
    except BaseException:
        LOGGER.exception("exception delivering the outcome of a work item")


def start(item: WorkItem) -> bool:
    try:
        return item.start()
    except RuntimeError:
        if item.future._state == PENDING:
            raise  # a signal handler's
        return item.future.running()  # else a program has settled it by itself, as was logged


def cancel(item: WorkItem) -> None:
    """Cancel an item; once more if that was cut short before those who wait for it were told."""
    if item.future._state == CANCELLED_AND_NOTIFIED:
        return
    try:
        item.cancel()
    except KeyboardInterrupt:
        raise
    except BaseException:  # a done-callback may raise SystemExit
        LOGGER.exception("exception cancelling a work item")
        if item.future._state == CANCELLED:
            item.cancel()
