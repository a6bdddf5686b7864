"""DaskExecutor: runs work on the workers of a Dask cluster.

Owns what Dask is told of an item, and what its answers mean. Calls go as bytes (`_packed`), so that
Dask never sees an exception of the work: what it calls an error is about a worker.

Dask would run a call again whose worker has died. Whether that may be is for the item to say, so
that a plugin on the scheduler forbids it but for `idempotent` ones (`_dask_worker.OnlyOnce`).

    items    one task each, in the window        map     a chunk of calls is one task
    large arguments   scattered, once for all calls that have equal ones at a time
    streams  two queues on the scheduler: items there, credit here

Threads and locks: those of `_window`; what is done with the client's event loop is done on its
thread, which owns `_scattered`, `_pending` and the readers of streams. (A few lines over 400: one
engine is better seen in one place.)
"""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections.abc import Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any

from hybrid_compute import _packed, _pickling
from hybrid_compute.channels import large_size_of
from hybrid_compute.engines._calls import by_tags, call_of, check_tags, crashed
from hybrid_compute.engines._window import WindowedExecutor
from hybrid_compute.errors import (
    ConfigurationError,
    RemoteConnectionLost,
    RemoteUnavailable,
)
from hybrid_compute.executors._delivery import settle
from hybrid_compute.items import WorkItem
from hybrid_compute.streamed import StreamItem

try:
    import distributed
    from dask.base import tokenize
    from distributed.scheduler import KilledWorker

    from hybrid_compute.engines import _dask_worker
    from hybrid_compute.engines._dask_jobs import Credit, DaskJob, error_of, loaded
except ImportError as _error:
    raise ImportError(
        "DaskExecutor needs Dask's distributed: pip install 'hybrid-compute[dask]'"
    ) from _error

__all__ = ["DaskExecutor"]

_LOOK = 5.0  # seconds after which the number of workers is asked for again: clusters grow
_SCATTER_BYTES = 1 << 20
_CUT = -3  # in a stream's queue, beside what the worker writes: there is no more


class DaskExecutor(WindowedExecutor[DaskJob]):
    """Runs each item as a task of a Dask cluster.

    Functions, arguments and results are pickled as for `ProcessExecutor`: lambdas and functions of
    `__main__` travel, and this library must be importable on the workers. An item whose worker
    dies fails with `WorkerCrashed`; with `idempotent`, Dask tries it again by itself.

    Work that is `local_only` does not go there. `cancel()` works until an item is given to Dask,
    and `cancel_running()` until Dask has given it to a worker.

    Args:
        client: a `distributed.Client`, which stays the caller's, or a scheduler's address, to
            which a client is made, and closed by `shutdown`.
        name: the name in the fleet.
        max_in_flight: how many items Dask has at a time; the others wait here, where they can be
            cancelled. None: two for each thread of its workers, and 32 more.
        resources: what items with a tag need of a worker, as in `{"gpu": {"GPU": 1}}`.
        priorities: Dask's priority of items with a tag, as in `{"urgent": 10}`; the highest counts.
        scatter_bytes: arguments of that size, as far as they tell theirs (bytes, text, arrays), go
            to a worker by themselves, once while calls with equal ones are out.

    Raises:
        ConfigurationError: `client` is neither, or is asynchronous; a mapping is none.
        RemoteUnavailable: there is no scheduler at the address, or it takes no plugin.
    """

    workers: int

    def __init__(
        self,
        client: Any,
        *,
        name: str = "dask",
        max_in_flight: int | None = None,
        resources: Mapping[str, Mapping[str, float]] | None = None,
        priorities: Mapping[str, float] | None = None,
        scatter_bytes: int = _SCATTER_BYTES,
    ) -> None:
        self._resources = check_tags("resources", resources)
        self._priorities = check_tags("priorities", priorities)
        self._scatter_bytes = scatter_bytes
        self._owns = isinstance(client, str)
        try:
            self._client: Any = (
                distributed.Client(client, set_as_default=False) if self._owns else client
            )
            if not isinstance(self._client, distributed.Client) or self._client.asynchronous:
                raise ConfigurationError(
                    f"DaskExecutor({client!r}): give a distributed.Client that is not "
                    "asynchronous, or the address of a scheduler, such as 'tcp://host:8786'"
                )
            workers = self._count_workers()
            self._client.register_plugin(_dask_worker.OnlyOnce())
        except (OSError, TimeoutError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise RemoteUnavailable(
                f"DaskExecutor({client!r}): the scheduler does not answer, or takes no plugin: "
                f"{error!r}"
            ) from error
        super().__init__(name=name, workers=workers, max_in_flight=max_in_flight)
        self._looked = time.monotonic()
        # Of the loop's thread: what was scattered and is in use, and what is on its way.
        self._scattered: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._pending: dict[str, asyncio.Future[Any]] = {}

    def _count_workers(self) -> int:
        return sum(self._client.nthreads().values())

    # Sending.

    def _job(self, item: WorkItem) -> DaskJob:
        return DaskJob(self, item)

    def _send(self, jobs: list[DaskJob]) -> None:
        alike: dict[Any, list[DaskJob]] = {}
        for job in jobs:
            try:
                apart = self._pack(job)
            except Exception as error:
                self._refuse(job, error)
                continue
            if apart:
                named = [(tokenize(each), each) for each in apart]
                self._client.loop.add_callback(self._scatter, job, named)
            elif isinstance(job.item, StreamItem):
                self._submit_all([job])
            else:
                alike.setdefault(job.item.options.tags, []).append(job)
        for some in alike.values():
            self._submit_all(some)

    def _pack(self, job: DaskJob) -> list[Any]:
        """Make the call and the key of a job; return what travels by itself."""
        item = job.item
        fn, args, kwargs = call_of(item, self.carried)
        if isinstance(item, StreamItem):
            job.most, job.most_bytes = item.channel.most, item.channel.most_bytes
        apart: list[Any] = []
        args = tuple([self._kept_out(each, apart) for each in args])
        if kwargs:
            kwargs = {name: self._kept_out(each, apart) for name, each in kwargs.items()}
        job.call = _pickling.encode_call(fn, args, kwargs, name=item.name)
        once = "" if item.options.idempotent else _dask_worker.ONCE
        job.key = f"{once}{item.name}-{uuid.uuid4().hex}"
        return apart

    def _kept_out(self, value: Any, apart: list[Any]) -> Any:
        if large_size_of(value) < self._scatter_bytes:
            return value
        apart.append(value)
        return _packed.Hole(len(apart) - 1)

    async def _scatter(self, job: DaskJob, named: list[tuple[str, Any]]) -> None:
        try:
            kept = [await self._scatter_one(token, value) for token, value in named]
            self._submit(job, kept)
        except BaseException as error:
            self._tell(partial(self._refuse, job, error))

    async def _scatter_one(self, token: str, value: Any) -> Any:
        found = self._scattered.get(token)
        if found is not None and found.status == "finished":
            return found
        pending = self._pending.get(token)
        if pending is None:
            pending = asyncio.ensure_future(self._client.scatter([value], hash=False))
            self._pending[token] = pending
        try:
            (found,) = await asyncio.shield(pending)
        finally:
            self._pending.pop(token, None)
        self._scattered[token] = found
        return found

    def _said(self, item: WorkItem) -> dict[str, Any]:
        """Return what Dask is told of all items with these tags."""
        said: dict[str, Any] = {"pure": False, "retries": 0}
        for resources in by_tags(self._resources, item):
            said["resources"] = {**said.get("resources", {}), **resources}
        priorities = by_tags(self._priorities, item)
        if priorities:
            said["priority"] = max(priorities)
        return said

    def _submit(self, job: DaskJob, kept: list[Any]) -> None:
        work: tuple[Any, ...] = (_packed.run_packed, job.call)
        if isinstance(job.item, StreamItem):
            job.queue = f"hybrid-{uuid.uuid4().hex}"
            job.item.expect(Credit(job))
            self._client.loop.add_callback(self._read, job)
            work = _dask_worker.run_stream, job.call, job.queue, job.most, job.most_bytes
        future = self._client.submit(*work, *kept, key=job.key, **self._said(job.item))
        self._sent(job, future)

    def _submit_all(self, jobs: list[DaskJob]) -> None:
        """Submit calls that are alike, which costs less for many at once."""
        try:
            if len(jobs) == 1:
                self._submit(jobs[0], [])
                return
            futures = self._client.map(
                _packed.run_packed,
                [each.call for each in jobs],
                key=[each.key for each in jobs],
                **self._said(jobs[0].item),
            )
            for job, future in zip(jobs, futures, strict=True):
                self._sent(job, future)
        except Exception as error:  # the client is closed
            for job in jobs:
                self._refuse(job, error)

    def _sent(self, job: DaskJob, future: Any) -> None:
        job.call = b""
        job.future = future
        future.add_done_callback(lambda _: self._tell(job))

    # Delivering: on the thread of outcomes.

    def _deliver(self, news: list[Any]) -> None:
        done = []
        for each in news:
            if isinstance(each, DaskJob):
                done.append(each)
            else:
                each()
        finished = [each for each in done if each.future.status == "finished" and not each.queue]
        for job, outcome in zip(finished, self._gather(finished), strict=True):
            if isinstance(outcome, BaseException):
                self._lose(job, outcome)
            else:
                self._end(job, partial(_packed.deliver, job.item), outcome)
        for job in done:
            if job.queue:
                self._end_stream(job)
            elif job not in finished:
                self._lose(job, error_of(job.future))
            job.future = None
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            with suppress(OSError, TimeoutError):
                self.workers = self._count_workers() or self.workers

    def _gather(self, jobs: list[DaskJob]) -> list[Any]:
        """Return the results; an error in the place of one that was lost meanwhile."""
        futures = [each.future for each in jobs]
        try:
            return list(self._client.gather(futures)) if futures else []
        except Exception:
            return [self._fetch(each) for each in futures]

    def _fetch(self, future: Any) -> Any:
        try:
            return future.result()
        except (Exception, CancelledError) as error:
            return error

    def _lose(self, job: DaskJob, error: BaseException) -> None:
        """Deliver that Dask has no result of an item."""
        item = job.item
        if job.stopped:
            self._end(job, lambda _: item.end(), None)
            return
        # Dask gives no reason for a result that was lost with its worker, and cannot be made again.
        lost_with_it = getattr(error, "reason", "") in ("lost", "already forgotten", "unknown")
        connected = self._client.status == "running"
        if isinstance(error, KilledWorker) or (lost_with_it and connected):
            where = getattr(getattr(error, "last_worker", None), "address", "")
            lost: Exception = crashed(item, f"a Dask worker {where}".strip())
        else:
            lost = RemoteConnectionLost(
                f"Dask gave {item.name!r} up: {error} (was its client closed, or its scheduler "
                "lost or restarted?)",
                may_have_run=True,
            )
        lost.__cause__ = error
        self._end(job, item.fail, lost)

    # Streams.

    async def _read(self, job: DaskJob) -> None:
        """Read the queue of a stream, on the loop's thread, up to its end."""
        try:
            queue = distributed.Queue(job.queue, client=self._client)
            credit = distributed.Queue(_dask_worker.credit_of(job.queue), client=self._client)
            # Not `await queue`, which counts one user more than there is.
            await asyncio.gather(queue._started, credit._started)
            job.credit = credit
            await self._grant(job)
            try:
                kind = _dask_worker.BEGUN
                while kind in (_dask_worker.BEGUN, _dask_worker.ITEMS):
                    kind, data = await queue.get()
                    self._tell(partial(self._receive, job, kind, data))
            finally:
                job.credit = None
                queue.close()
                credit.close()
        except Exception as error:  # CommClosedError, and what else befalls a scheduler
            self._tell(partial(self._lose, job, error))

    async def _grant(self, job: DaskJob) -> None:
        """Tell the worker what the consumer has taken."""
        if job.credit is None:
            return  # `_read` does it
        granted = [job.taken.popleft() for _ in range(len(job.taken))]
        if not granted:
            return
        items, size = sum(each for each, _ in granted), sum(each for _, each in granted)
        if (-1, 0) in granted:
            items = -1
        with suppress(OSError):  # the scheduler is lost, as `_read` sees
            await job.credit.put([items, size])

    def _receive(self, job: DaskJob, kind: int, data: list[bytes]) -> None:
        """Deliver what came through a stream's queue."""
        item: Any = job.item
        if kind == _dask_worker.BEGUN:
            settle(item.begin, Credit(job))
        elif kind == _dask_worker.ITEMS:
            size = sum(map(len, data))
            item.channel.put_chunk(partial(loaded, data), len(data), size)
        elif kind == _CUT:
            if isinstance(job.why, BaseException):
                self._lose(job, job.why)
            else:
                self._end(job, partial(_packed.deliver, item), job.why)
        elif item.channel.closed:
            self._end(job, lambda _: item.end(), None)
        else:
            self._end(job, partial(_packed.deliver, item), (kind, data[0]))

    def _end_stream(self, job: DaskJob) -> None:
        """Look at the end of a stream's task; its own comes through its queue, if it began."""
        if job.future.status == "finished":
            job.why = self._fetch(job.future)
            if job.why is None:
                return
        else:
            job.why = error_of(job.future)
        self._client.loop.add_callback(self._cut, job)

    async def _cut(self, job: DaskJob) -> None:
        """End a stream behind what is in its queue: nobody else will."""
        try:
            if job.credit is None:
                self._tell(partial(self._receive, job, _CUT, []))  # it was not even read
            else:
                await self._client.scheduler.queue_put(
                    name=job.queue, data=[_CUT, []], timeout=None
                )
        except Exception as error:
            self._tell(partial(self._lose, job, error))

    # Ending.

    def _abandon(self, job: DaskJob) -> None:
        future = job.future
        if future is not None:
            self._client.loop.add_callback(self._client.cancel, [future], asynchronous=True)

    def _stop(self, job: DaskJob) -> bool | None:
        if job.future is None:
            return False  # it is on its way there
        taken: bool = self._client.run_on_scheduler(_dask_worker.withdraw, job.key, self._client.id)
        if taken:
            job.stopped = True
            future = job.future
            if future is not None:
                self._client.cancel([future])
            with suppress(CancelledError):  # until it is delivered
                job.item.future.exception()
        return taken

    def _release(self) -> None:
        if self._owns:
            self._client.close()

    def __repr__(self) -> str:
        return f"<DaskExecutor {self.name!r} of {self._client!r}>"
