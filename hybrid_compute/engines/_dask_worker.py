"""What Dask's workers and its scheduler run for `hybrid_compute.engines.dask`.

No state of its own. A stream has two of Dask's queues, which have bytes and numbers in them:

    items    [BEGUN, []]  [ITEMS, [pickle, ...]] ...  [what became of it, as of a call; [pickle]]
    credit   [items, bytes] that the consumer has had since; [-1, 0]: it wants no more
"""

from __future__ import annotations

import threading
from typing import Any

from distributed import Queue, get_client
from distributed.diagnostics.plugin import SchedulerPlugin

from hybrid_compute.engines import _feed

__all__ = ["BEGUN", "ITEMS", "ONCE", "OnlyOnce", "credit_of", "run_stream", "withdraw"]

BEGUN, ITEMS = -1, -2
ONCE = "once-"  # how the keys of items begin that must not run twice

_NOT_BEGUN = frozenset({"queued", "no-worker", "waiting", "released"})


def credit_of(name: str) -> str:
    """Return the name of the second queue of a stream."""
    return f"{name}-credit"


class OnlyOnce(SchedulerPlugin):  # type: ignore[misc]  # Dask has no type hints
    """Has the scheduler run calls once only that may have effects.

    It runs a call again whose worker has died, up to three times, and one whose result was lost
    with a worker. Here the first death is one too many, and a result has no way to be made again.
    """

    name = "hybrid-compute-only-once"
    idempotent = True

    def __init__(self) -> None:
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        """Be told of the scheduler."""
        self._scheduler = scheduler

    def update_graph(self, scheduler: Any, *, tasks: list[Any], **_: Any) -> None:
        """Look at new calls, before any of them is sent to a worker."""
        for key in tasks:
            if isinstance(key, str) and key.startswith(ONCE):
                scheduler.tasks[key].suspicious = scheduler.allowed_failures

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """Look at a call that has ended."""
        if finish == "memory" and isinstance(key, str) and key.startswith(ONCE):
            self._scheduler.tasks[key].run_spec = None  # as of data that were scattered


def withdraw(key: str, client: str, dask_scheduler: Any = None) -> bool:
    """Take back a call that the scheduler has given to no worker; False if it has."""
    found = dask_scheduler.tasks.get(key)
    if found is None or found.state not in _NOT_BEGUN:
        return False
    dask_scheduler.client_releases_keys(keys=[key], client=client, stimulus_id="hybrid-withdraw")
    return True


def run_stream(
    call: bytes, name: str, most: int, most_bytes: int, *apart: Any
) -> tuple[int, bytes] | None:
    """Run a generator, and send its items and its end, if it begins; else return why not."""
    found = _feed.begin(call, apart)
    if isinstance(found, tuple):
        return found
    client = get_client()
    items, credit = Queue(name, client=client), Queue(credit_of(name), client=client)
    feed = _feed.Feed(most, most_bytes)
    sender = threading.Thread(target=_send, args=(feed, items, credit), name="hybrid-stream")
    try:
        items.put([BEGUN, []])
        sender.start()
        kind, data = _feed.run(feed, found)
        sender.join()
        items.put([kind, [data]])
    finally:
        feed.close()
        items.close()
        credit.close()
    return None


def _send(feed: _feed.Feed, items: Any, credit: Any) -> None:
    """Send what a feed has, and tell it what was taken."""
    try:
        while not feed.is_over():
            taken = feed.take()
            if taken:
                items.put([ITEMS, taken])
                granted = credit.get(batch=True)
            else:
                granted = [] if feed.is_over() else [credit.get()]
            for count, size in granted:
                if count < 0:
                    feed.close()
                    return
                feed.taken(count, size)
    except BaseException:
        feed.close()  # the scheduler is lost: whoever reads is told by his own end
        raise
