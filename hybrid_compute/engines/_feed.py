"""Feed: a generator on one thread of a worker, and who sends its items on another.

Items leave as soon as the way is free: what comes while others are sent goes with the next. So a
slow generator's items do not wait, and a quick one's go many at a time. Runs in the workers of
engines; knows no engine.

Locks: `_changed` guards all. The generator waits when it is ahead of its consumer by as much as it
may be, the sender when there is nothing to send; `close` and `finish` wake both.
"""

from __future__ import annotations

import threading
from _contextvars import copy_context
from collections.abc import Callable, Iterator
from typing import Any

from hybrid_compute import _contexts, _failures, _packed
from hybrid_compute._producer import as_iterator, close_iterator

__all__ = ["Feed", "begin", "iterate_carrying", "run"]

_CHUNK = 512  # items of one message


class Feed:
    """The items of one generator, pickled, on their way.

    Args:
        most: by how many items it may be ahead of its consumer.
        most_bytes: by how many bytes; one item more than that may be.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._items: list[bytes] = []
        self._ahead = self._ahead_bytes = 0
        self._closed = self._ended = False

    def produce(self, iterator: Iterator[object]) -> object:
        """Run a generator to its end, or until nobody wants the rest; return what it returned."""
        close = True
        try:
            while self._has_room():
                try:
                    value = next(iterator)
                except StopIteration as end:
                    close = False
                    return end.value
                data = _packed.encode_value(value)
                with self._changed:
                    self._items.append(data)
                    self._ahead += 1
                    self._ahead_bytes += len(data)
                    self._changed.notify_all()
        finally:
            if close:
                close_iterator(iterator)
        return None

    def _has_room(self) -> bool:
        """Wait for room; False if nobody wants more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._is_full())
            return not self._closed

    def _is_full(self) -> bool:
        return self._ahead >= self._most or self._ahead_bytes >= self._most_bytes

    def take(self) -> list[bytes]:
        """Return some items, after a wait if need be; none: it is full, or has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._items or self._ended or self._closed or self._is_full()
            )
            count = max(1, min(_CHUNK, self._most // 2))
            items, self._items = self._items[:count], self._items[count:]
            return items

    def is_over(self) -> bool:
        """Say whether nothing more will come."""
        with self._changed:
            return (self._ended and not self._items) or self._closed

    def taken(self, items: int, size: int) -> None:
        """Note that the consumer has had so many more items, of so many bytes."""
        with self._changed:
            self._ahead -= items
            self._ahead_bytes -= size
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that the generator has ended."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Want no more: the generator is closed at its next `yield`."""
        with self._changed:
            self._closed = True
            self._items = []
            self._changed.notify_all()


def begin(call: bytes, apart: tuple[Any, ...]) -> Iterator[object] | tuple[int, bytes]:
    """Return the generator of a packed call; or what became of it, as `run_packed` does."""
    try:
        fn, args, kwargs = _packed.unpack(call, apart)
    except BaseException as error:  # whatever an import raises
        return _packed.UNDECODABLE, _failures.encode_error(error)
    try:
        return as_iterator(fn(*args, **kwargs))
    except BaseException as error:  # what the work raises
        return _packed.RAISED, _failures.encode_error(error)


def run(feed: Feed, iterator: Iterator[object]) -> tuple[int, bytes]:
    """Have a generator produce into a feed; return what became of it, as `run_packed` does."""
    try:
        return _packed.VALUE, _packed.encode_value(feed.produce(iterator))
    except BaseException as error:  # what the work raises
        return _packed.RAISED, _failures.encode_error(error)
    finally:
        feed.finish()


def iterate_carrying(
    fn: Callable[..., Any], packed: tuple[Any, ...], /, *args: Any, **kwargs: Any
) -> Iterator[object]:
    """Call a generator function in a context that has the values of its caller's.

    Args:
        fn: the function.
        packed: what `Carried.pack` gave.
        *args: its arguments.
        **kwargs: its keywords.
    """
    context = copy_context()
    context.run(_contexts.restore, packed)
    return _contexts.open_in(context, as_iterator, fn, args, kwargs)
