"""Row: work items that are not done, in the order of their coming. No threads, and no lock.

Whoever has to know of many items, of which nearly all end before he does anything about them, has a
row: to come and to go is one step of a dict each, on whatever thread.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_compute.supervised import SupervisedItem

__all__ = ["Row"]

_BATCH = 1024


class Row(dict["SupervisedItem", None]):
    """Items that are not done. Who comes puts himself in, and who goes takes himself out.

    It keeps them alive until they are over, or due.
    """

    __slots__ = ()

    def deadline(self) -> float | None:
        """Return the deadline of the item that came first; None: there is none."""
        while True:
            try:
                item = next(iter(self), None)
            except RuntimeError:  # another thread was in between
                continue
            return None if item is None else item.deadline

    def take_due(self, now: float, due: list[Any]) -> None:
        """Move items from here whose deadlines have passed, the first ones first."""
        while True:
            try:
                # Not one by one: to find the first takes the longer the more have gone before it.
                some = list(islice(self, _BATCH))
            except RuntimeError:  # as above
                continue
            for item in some:
                if (item.deadline or 0.0) > now:
                    return
                if self.pop(item, item) is None:  # it has not gone by itself meanwhile
                    due.append(item)
            if len(some) < _BATCH:
                return
