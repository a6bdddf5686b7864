"""WorkerSource: a stream that comes from a worker process, as its consumer sees it.

Owns what is written into the journal's words while a generator runs there; `_production` reads
them. The lock guards `_words`, which are gone when the stream has ended: the next call of that
worker must not hear of this one. Nothing blocks under it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from hybrid_compute import _failures, _pickling
from hybrid_compute.channels import Source
from hybrid_compute.errors import ResultDecodeError
from hybrid_compute.executors._frames import (
    ATTENTION,
    BEGUN,
    CLOSING,
    CONSUMED,
    CONSUMED_BYTES,
    CONSUMING,
    ITEM_APART,
    ITEMS,
    LENGTH,
)

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.streamed import StreamItem

__all__ = ["WorkerSource", "receive"]


class WorkerSource(Source):
    """The stream that a worker sends."""

    def __init__(self, words: Any, number: int) -> None:
        self._lock = threading.RLock()  # re-entrant: a finalizer may close a stream
        self._words = words
        self._number = number
        self._items = self._bytes = 0
        # Nobody else writes these any more: the stream before is over, or we would not be here.
        words[CONSUMED] = words[CONSUMED_BYTES] = 0
        words[CONSUMING] = number

    def moved(self, items: int, size: int) -> None:
        """Tell the worker that there is room again."""
        if not items and not size:
            return
        with self._lock:
            self._items += items
            self._bytes += size
            if self._words is not None:
                self._words[CONSUMED_BYTES] = self._bytes
                self._words[CONSUMED] = self._items

    def pull(self) -> bool:
        """Tell the worker that the consumer waits."""
        with self._lock:
            if self._words is not None:
                self._words[ATTENTION] = 1
        return False

    def close(self) -> None:
        """Tell the worker that nobody wants the rest."""
        with self._lock, suppress(ValueError):  # its memory is gone: so is the worker
            if self._words is not None:
                self._words[CLOSING] = self._number
                self._words[ATTENTION] = 1

    def over(self) -> None:
        """Touch the worker no more: it has ended."""
        with self._lock:
            self._words = None


def receive(worker: Worker, item: StreamItem, kind: int, number: int, body: memoryview) -> None:
    """Take a frame of a stream: it begins, or brings items. On the reader thread."""
    if kind == BEGUN:
        item.begin(WorkerSource(worker.words, worker.number))
    elif kind == ITEM_APART:
        try:
            value = _pickling.loads(*worker.receiver.open(body))
        except BaseException as error:
            item.channel.put_chunk(partial(_undecodable, item.name, error), 1, number)
        else:
            item.channel.put_chunk(partial(list, (value,)), 1, number)
    else:
        decode = _decode_list if kind == ITEMS else _decode_each
        data = bytes(body)
        item.channel.put_chunk(partial(decode, item.name, data), number, len(data))


def _decode_list(name: str, data: bytes) -> list[Any]:
    items: list[Any] = _pickling.loads(data)
    return items


def _decode_each(name: str, data: bytes) -> Iterator[Any]:
    view, place = memoryview(data), 0
    while place < len(data):
        (length,) = LENGTH.unpack_from(data, place)
        place += LENGTH.size
        try:
            item = _pickling.loads(view[place : place + length])
        except BaseException as error:
            _undecodable(name, error)
        yield item
        place += length


def _undecodable(name: str, cause: BaseException) -> NoReturn:
    raise ResultDecodeError(
        f"an item of the stream of {name!r} cannot be unpickled here: "
        f"{type(cause).__name__}: {_failures.text_of(cause)}"
    ) from cause
