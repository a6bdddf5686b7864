"""Credit: the two ends of one stream.

Owns how far the producer may go ahead of the consumer, counted in items and in bytes since the
start of the stream. Both bounds are totals that only grow, so one that comes twice, late or not at
all changes nothing for long. The bytes are those which the producer counts and tells; the items
bound the consumer's memory whatever it is told.

The producer may send an item while it is below both bounds, so the last one may go over the
bytes: an item that is larger than all of them must get through. No threads, no bytes of messages.
"""

from __future__ import annotations

__all__ = ["Incoming", "Outgoing"]


class Incoming:
    """A stream at its consumer."""

    __slots__ = ("_granted", "_told", "_window", "next_seq", "size", "taken")

    def __init__(self, window: tuple[int, int], seq: int) -> None:
        """Start.

        Args:
            window: items and bytes that the consumer has room for; the producer knows.
            seq: number of the first item to come.
        """
        self._window = window
        self._granted = window  # in all
        self._told = window  # the same, as the producer knows it
        self.taken: int = 0  # items that came
        self.size: int = 0  # their bytes
        self.next_seq: int = seq

    @property
    def most(self) -> int:
        """How many items may come in all."""
        return self._told[0]

    def is_full(self) -> bool:
        """Say whether the producer may send no more before the consumer takes some."""
        return self.taken >= self._told[0] or self.size >= self._told[1]

    def consumed(self, items: int, size: int) -> tuple[int, int] | None:
        """Note that there is room for more, and return what to tell the producer, if anything."""
        granted = self._granted = self._granted[0] + items, self._granted[1] + size
        # A message for each half of the window: enough that the producer does not run dry.
        for new, old, window in zip(granted, self._told, self._window, strict=True):
            if 2 * (new - old) >= window and new > old:
                self._told = granted
                return granted
        return None


class Outgoing:
    """A stream at its producer, with the items that wait to become a message."""

    __slots__ = ("_may_items", "_may_size", "_sent", "_size", "first", "items", "seq", "waiting")

    def __init__(self, credit: tuple[int, int], seq: int) -> None:
        """Start with what the consumer has room for, at the item number `seq`."""
        self._may_items, self._may_size = credit
        self._sent = 0  # items, from the start of this call
        self._size = 0  # their bytes
        self.seq: int = seq  # number of the next item
        self.first: int = seq  # number of the first that waits
        self.items: list[bytes] = []
        self.waiting: int = 0  # bytes of the items that wait

    def room(self) -> int:
        """Return how many items may be sent now, if they are small."""
        return self._may_items - self._sent if self._size < self._may_size else 0

    def grant(self, items: int, size: int) -> bool:
        """Note new bounds. True if there was no room before, and is now."""
        had = self.room()
        self._may_items = max(self._may_items, items)
        self._may_size = max(self._may_size, size)
        return had <= 0 < self.room()

    def add(self, item: bytes) -> None:
        """Take an item."""
        self.items.append(item)
        self.waiting += len(item)
        self._size += len(item)
        self._sent += 1
        self.seq += 1

    def take(self) -> tuple[int, list[bytes], int]:
        """Return the number of the first item that waits, all that do, and their bytes."""
        taken = self.first, self.items, self.waiting
        self.first, self.items, self.waiting = self.seq, [], 0
        return taken
