"""What `DaskExecutor` knows of an item that Dask has, and of a stream's consumer.

No locks: a job is in one pair of hands at a time, and a consumer only leaves word for the loop.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.client import FutureCancelledError

from hybrid_compute import _pickling
from hybrid_compute.channels import Source
from hybrid_compute.engines._window import Job
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.engines.dask import DaskExecutor

__all__ = ["Credit", "DaskJob", "error_of", "loaded"]


class DaskJob(Job):
    """An item that Dask has, or is given.

    Attributes:
        key: that of its task.
        call: packed; until it is sent.
        future: Dask's; None before, and once its end is looked at.
        queue: name of a stream's; "" if it is none.
        credit: the other queue of a stream.
        taken: items and bytes that the consumer has had, and nobody was told of.
        why: what became of a stream that did not end through its queue.
        stopped: it was taken back.
    """

    def __init__(self, executor: DaskExecutor, item: WorkItem) -> None:
        super().__init__(executor, item)
        self.key = self.queue = ""
        self.call = b""
        self.future: Any = None
        self.most = self.most_bytes = 0
        self.credit: Any = None
        self.taken: deque[tuple[int, int]] = deque()
        self.why: Any = None
        self.stopped = False


class Credit(Source):
    """A stream whose items come from a Dask worker. Its consumer's thread only leaves word."""

    def __init__(self, job: DaskJob) -> None:
        self._job = job
        self._items = self._bytes = 0

    def moved(self, items: int, size: int) -> None:
        """Tell the worker when half of what may be under way is gone."""
        self._items += items
        self._bytes += size
        if 2 * self._items >= self._job.most or 2 * self._bytes >= self._job.most_bytes:
            self.pull()

    def pull(self) -> bool:
        """Tell the worker: the consumer is about to wait."""
        if self._items or self._bytes:
            taken, self._items, self._bytes = (self._items, self._bytes), 0, 0
            self._tell(taken)
        return False

    def close(self) -> None:
        """Tell the worker that nobody wants the rest."""
        self._tell((-1, 0))

    def _tell(self, taken: tuple[int, int]) -> None:
        executor: Any = self._job.executor
        self._job.taken.append(taken)
        with suppress(RuntimeError):  # the client was closed, and its loop with it
            executor._client.loop.add_callback(executor._grant, self._job)


def loaded(data: list[bytes]) -> list[Any]:
    """Return the items of a chunk."""
    return [_pickling.loads(each) for each in data]


def error_of(future: Any) -> BaseException:
    """Return why a future has no result. Does not block."""
    if future.status in ("error", "cancelled"):
        try:
            future.result()
        except (Exception, CancelledError) as error:
            return error
    lost: BaseException = FutureCancelledError(key=future.key, reason="lost")
    return lost
