"""Streams over a line: what comes from a service, as their consumers see it.

Owns `LineSource`, which only leaves notes for the line: its consumer may close a stream from a
finalizer, in the middle of anything. No lock; the line's threads deliver.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hybrid_compute.channels import Source
from hybrid_compute.executors import _delivery
from hybrid_compute.streamed import StreamItem

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_calls import Call
    from hybrid_compute.items import WorkItem

__all__ = ["Ending", "LineSource", "Portion", "feed", "finish"]


class Portion(NamedTuple):
    """Items of a stream; none of them when it begins."""

    items: list[Any]
    size: int  # bytes, as the server counts them


class Ending(NamedTuple):
    """The end of a stream, and what the generator returned."""

    value: Any


class LineSource(Source):
    """A stream that a service sends."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def moved(self, items: int, size: int) -> None:
        """Tell the service that there is room again."""
        if items or size:
            self._call.line.note(self._call, items, size)

    def close(self) -> None:
        """Tell the service that nobody wants the rest."""
        self._call.line.abandon(self._call)


def feed(call: Call, portion: Portion) -> None:
    """Give items to the consumer of a call; the first time, the stream."""
    item = call.item
    if not isinstance(item, StreamItem) or not call.begin():
        return
    if not item.begun:
        _delivery.settle(item.begin, LineSource(call))
    if portion.items:
        item.channel.put_chunk(partial(iter, portion.items), len(portion.items), portion.size)


def finish(item: WorkItem, value: Any) -> None:
    """Deliver the end of a call: of a stream, or of what turned out to be none.

    A service that is not ours may answer with all items at once, in an array.
    """
    if not isinstance(item, StreamItem):
        item.succeed(value)
        return
    if not item.begun:
        item.begin(Source())
    if isinstance(value, Ending):
        item.succeed(value.value)
    else:
        items = value if type(value) is list else [value]
        item.channel.put_chunk(partial(iter, items), len(items), 0)
        item.succeed(None)
