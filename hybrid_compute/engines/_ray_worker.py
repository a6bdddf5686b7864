"""What Ray's workers run for `hybrid_compute.engines.ray`.

No state of its own. A stream's objects are pairs, of which Ray makes the next only when the one
before was read:

    (BEGUN, [])  (ITEMS, [pickle, ...]) ...  (what became of it, as of a call; [pickle])
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from hybrid_compute import _packed
from hybrid_compute.engines import _feed

__all__ = ["BEGUN", "ITEMS", "run_apart", "run_call", "run_stream"]

BEGUN, ITEMS = -1, -2


def run_call(call: bytes) -> bytes | tuple[int, bytes]:
    """Run a packed call; return its result, or what else became of it as `run_packed` does.

    Bytes by themselves travel as they are; for a tuple Ray packs, and pickles, here and there. It
    also takes longer over arguments if it does not know how many there are.
    """
    return run_apart(call)


def run_apart(call: bytes, *apart: Any) -> bytes | tuple[int, bytes]:
    """Run a packed call, some of whose arguments travel by themselves, as `run_call` does."""
    kind, data = _packed.run_packed(call, *apart)
    return data if kind == _packed.VALUE else (kind, data)


def run_stream(
    call: bytes, most: int, most_bytes: int, *apart: Any
) -> Iterator[tuple[int, list[bytes]]]:
    """Run a generator on another thread, and yield its items in chunks.

    One chunk is at the consumer's, one on its way, and one in the making, each a third of what may
    be under way.
    """
    found = _feed.begin(call, apart)
    if isinstance(found, tuple):
        yield found[0], [found[1]]
        return
    feed = _feed.Feed(max(1, most // 3), max(1, most_bytes // 3))
    ends: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: ends.append(_feed.run(feed, found)))
    yield BEGUN, []
    thread.start()
    try:
        while not feed.is_over():
            items = feed.take()
            if items:
                yield ITEMS, items
                feed.taken(len(items), sum(map(len, items)))
        thread.join()
        yield ends[0][0], [ends[0][1]]
    finally:  # Ray raises in the midst of this if nobody wants the rest
        feed.close()
        thread.join()
