"""Row: work items that are not done, in the order of their coming. No threads, and no lock.

Whoever has to know of many items, of which nearly all end before he does anything about them, has a
row: to come and to go is one step of a dict each, on whatever thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_compute.supervised import SupervisedItem

__all__ = ["Row"]


class Row(dict["SupervisedItem", None]):
    """Items that are not done. Who comes puts himself in, and who goes takes himself out.

    Attributes:
        emptied: called by who has gone if nobody is left at that moment. Any thread.
    """

    __slots__ = ("emptied",)

    def __init__(self, emptied: Callable[[], object]) -> None:
        super().__init__()
        self.emptied: Callable[[], object] = emptied

    def first(self) -> SupervisedItem | None:
        """Return the item that came first; None: there is none."""
        while True:
            try:
                return next(iter(self), None)
            except RuntimeError:  # another thread was in between
                continue

    def deadline(self) -> float | None:
        """Return the deadline of that item; None: there is none."""
        item = self.first()
        return None if item is None else item.deadline

    def take_due(self, now: float, due: list[Any]) -> None:
        """Move items from here whose deadlines have passed, the first ones first."""
        while (item := self.first()) is not None and (item.deadline or 0.0) <= now:
            self.pop(item, None)
            due.append(item)
