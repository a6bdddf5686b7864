"""Outcomes: what a client session tells of its calls.

Owns the records of its events. They are named tuples, for the reason that `messages` gives. No
logic, no threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hybrid_compute.errors import RemoteConnectionLost
from hybrid_compute.protocol.messages import Hello

__all__ = [
    "Answered",
    "ClientEvent",
    "Complained",
    "Ended",
    "Errored",
    "Greeted",
    "Items",
    "LostCall",
]


class Answered(NamedTuple):
    """A call has its result."""

    id: int
    context: Any  # what was given to `call`
    value: Any


class Errored(NamedTuple):
    """A call failed: a RemoteTaskError or another error of the tree, ready to be raised."""

    id: int
    context: Any
    error: Exception


class Items(NamedTuple):
    """A stream brought items; `consumed` is to be told once they are taken."""

    id: int
    context: Any
    items: list[Any]
    size: int  # bytes, as the server counts them
    seq: int  # number of the first


class Ended(NamedTuple):
    """A stream is complete; this is its return value."""

    id: int
    context: Any
    value: Any


class Greeted(NamedTuple):
    """The server is one of ours: from here on calls of any form and value can go to it."""

    hello: Hello


class Complained(NamedTuple):
    """The server got something that it could not relate to a call. No call ends by that."""

    text: str


ClientEvent = Answered | Errored | Items | Ended | Greeted | Complained


class LostCall(NamedTuple):
    """A call that had no answer when the connection ended."""

    id: int
    context: Any
    may_have_run: bool  # False: it was never sent
    next_seq: int  # of a stream: number of the first item that has not come

    def error(self, reason: str) -> RemoteConnectionLost:
        """Return the error for a call that is not sent again."""
        ran = "it may have run" if self.may_have_run else "it was not sent"
        return RemoteConnectionLost(
            f"the connection was lost before the answer came ({reason}); {ran}",
            may_have_run=self.may_have_run,
        )
