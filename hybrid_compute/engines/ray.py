"""RayExecutor: runs work on a Ray cluster, behind the interface of `concurrent.futures`.

Owns what Ray is told of an item, and what its answers mean. Calls go as bytes (`_packed`), so that
what Ray calls an error is about a worker. Ray runs a call again whose worker has died, unless it is
told not to: only `idempotent` items may be.

Threads and locks: those of `_window`, and `_ray_streams` while there are streams. Results come on a
thread of Ray's, which only puts them into the queue of the thread of outcomes; or that thread asks
for them (`_ray_watch`). `_held`, which is what several calls share in Ray's object store, is
guarded by `_holding`.
"""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any

from hybrid_compute import _packed, _pickling
from hybrid_compute.abc import Capabilities
from hybrid_compute.channels import large_size_of
from hybrid_compute.engines._calls import by_tags, call_of, check_tags, crashed
from hybrid_compute.engines._window import Job, WindowedExecutor
from hybrid_compute.errors import RemoteConnectionLost
from hybrid_compute.executors._delivery import settle
from hybrid_compute.items import WorkItem
from hybrid_compute.streamed import StreamItem

try:
    import ray
    from ray import exceptions

    from hybrid_compute.engines import _ray_worker
    from hybrid_compute.engines._ray_streams import Reader, Tap
    from hybrid_compute.engines._ray_watch import Watch
except ImportError as _error:
    raise ImportError("RayExecutor needs Ray: pip install 'hybrid-compute[ray]'") from _error

__all__ = ["RayExecutor"]

_LOOK = 5.0  # seconds after which the number of cores is asked for again: clusters grow
_STORE_BYTES = 1 << 20

_DEATHS = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ObjectLostError,
    exceptions.OwnerDiedError,
)


class RayExecutor(WindowedExecutor["_RayJob"]):
    """Runs each item as a task of Ray.

    Functions, arguments and results are pickled as for `ProcessExecutor`: lambdas and functions of
    `__main__` travel, and this library must be importable on the workers. An item whose worker
    dies fails with `WorkerCrashed`; with `idempotent`, Ray tries it again by itself, three times.

    Work that is `local_only` does not go there. `cancel()` works until an item is given to Ray;
    `cancel_running()`, and a `timeout`, end it where it runs. Shut it down before Ray.

    Args:
        name: the name in the fleet.
        max_in_flight: how many items Ray has at a time; the others wait here, where they can be
            cancelled. None: two for each core of the cluster, and as many as are done at once.
        options: Ray's options of items with a tag, as in `{"gpu": {"num_gpus": 1}}`: those of
            `ray.remote`, such as num_cpus, resources, memory, scheduling_strategy, runtime_env.
        store_bytes: arguments of that size, as far as they tell theirs (bytes, text, arrays), go
            through Ray's object store, once while calls with equal ones are out.
        init: arguments of `ray.init`, which is called if Ray does not run yet; `shutdown` then
            shuts it down. None: none.

    Raises:
        ConfigurationError: `options` or `init` is no mapping.
        ConnectionError: there is no cluster where `init` says.
    """

    workers: int

    capabilities: Capabilities = Capabilities(remote=True, isolates=True, chunks=True, streams=True)

    def __init__(
        self,
        *,
        name: str = "ray",
        max_in_flight: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        store_bytes: int = _STORE_BYTES,
        init: Mapping[str, Any] | None = None,
    ) -> None:
        self._options = check_tags("options", options)
        arguments = check_tags("init", init)
        self._owns = not ray.is_initialized()
        if self._owns:
            ray.init(**arguments)
        super().__init__(name=name, workers=_cores(), max_in_flight=max_in_flight)
        self._store_bytes = store_bytes
        self._looked = time.monotonic()
        self._remote: dict[Any, Any] = {}  # by what `_remote_for` looks at
        self._watch = Watch(self._news.put)
        self._ready: deque[Callable[[], object]] = deque()  # of the thread of outcomes: news
        self._reader = Reader(f"{name}-streams")
        self._holding = threading.Lock()  # guards _held
        self._held: weakref.WeakValueDictionary[bytes, _Held] = weakref.WeakValueDictionary()

    # Sending.

    def _job(self, item: WorkItem) -> _RayJob:
        return _RayJob(self, item)

    def _send(self, jobs: list[_RayJob]) -> None:
        for job in jobs:
            try:
                self._send_one(job)
            except Exception as error:
                self._refuse(job, error)

    def _send_one(self, job: _RayJob) -> None:
        item = job.item
        fn, args, kwargs = call_of(item, self.carried)
        room: tuple[int, ...] = ()
        if isinstance(item, StreamItem):
            room = item.channel.most, item.channel.most_bytes
        apart: list[Any] = []
        args = tuple([self._kept_out(each, apart) for each in args])
        if kwargs:
            kwargs = {name: self._kept_out(each, apart) for name, each in kwargs.items()}
        call = _pickling.encode_call(fn, args, kwargs, name=item.name)
        job.held = [self._hold(each) for each in apart]
        remote = self._remote_for(item, apart=bool(apart))
        job.ref = remote.remote(call, *room, *(each.ref for each in job.held))
        if isinstance(item, StreamItem):
            tap = self._reader.read(
                job.ref,
                lambda tap, found: self._on_object(job, tap, found),
                lambda error: self._tell(partial(self._end_stream, job, error)),
            )
            item.expect(tap)
        else:
            self._watch.add(job)

    def _remote_for(self, item: WorkItem, *, apart: bool) -> Any:
        """Return the remote function for items like this one.

        Args:
            item: the item.
            apart: whether it has arguments that travel by themselves.
        """
        key = item.options.tags, item.streams, bool(item.options.idempotent), apart
        found = self._remote.get(key)
        if found is None:
            said: dict[str, Any] = {"max_retries": 3 if key[2] else 0}
            for options in by_tags(self._options, item):
                said.update(options)
            work: Any = _ray_worker.run_apart if apart else _ray_worker.run_call
            if item.streams:
                work = _ray_worker.run_stream
                # Nothing is made twice that was read; and one object is made ahead.
                said.update(
                    num_returns="streaming", _generator_backpressure_num_objects=1, max_retries=0
                )
            found = self._remote[key] = ray.remote(work).options(**said)
        return found

    def _kept_out(self, value: Any, apart: list[Any]) -> Any:
        if large_size_of(value) < self._store_bytes:
            return value
        apart.append(value)
        return _packed.Hole(len(apart) - 1)

    def _hold(self, value: Any) -> _Held:
        """Put a value into the object store, unless an equal one is there."""
        buffers = _pickling.Buffers()
        digest = hashlib.blake2b(_pickling.dumps(_pickling.flat(value), buffers))
        for each in buffers:
            digest.update(each)
        with self._holding:
            found = self._held.get(digest.digest())
        if found is None:
            found = _Held(ray.put(value))
            with self._holding:
                found = self._held.setdefault(digest.digest(), found)
        return found

    # Delivering: on the thread of outcomes.

    def _wait_for_news(self) -> list[Any]:
        if self._ready:
            return []  # a callback has cut them short
        if self._reader.reads():
            self._watch.calm()  # a stream's objects are not to wait for the ends of calls
        if not self._watch.asks():
            return super()._wait_for_news()
        return [*((job, None) for job in self._watch.ask()), *self._news_there()]

    def _deliver(self, news: list[Any]) -> None:
        self._sort(news)
        while self._ready:
            self._ready.popleft()()
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._looked = now
            with suppress(Exception):  # Ray is shut down, or busy
                self.workers = _cores()

    def _sort(self, news: list[Any]) -> None:
        """Put into `_ready` what was told.

        All of it, before the first is delivered: a callback that wants to end another item, and to
        see the end of that, must find that it has ended, or is next.

        Args:
            news: to be called; or a job, with Ray's future, or None if it was asked for.
        """
        ended: list[tuple[_RayJob, Any]] = []
        for each in news:
            if callable(each):
                self._ready.append(each)
                continue
            job, future = each
            if job.ref is not None:  # else it was asked for before Ray told of it
                ended.append((job, job.ref if future is None else future))
                job.ref = None
        self._watch.note(len(ended))
        for (job, _), outcome in zip(ended, _outcomes([each for _, each in ended]), strict=True):
            self._ready.append(partial(self._end_call, job, outcome))

    def _end_call(self, job: _RayJob, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._lose(job, outcome)
            return
        if type(outcome) is bytes:
            outcome = _packed.VALUE, outcome
        self._end(job, partial(_packed.deliver, job.item), outcome)

    def _lose(self, job: _RayJob, error: BaseException) -> None:
        """Deliver that Ray has no result of an item."""
        item = job.item
        if job.stopped:
            self._end(job, lambda _: item.end(), None)
            return
        if isinstance(error, _DEATHS):
            lost: Exception = crashed(item, "a Ray worker")
        else:
            lost = RemoteConnectionLost(f"Ray gave {item.name!r} up: {error}", may_have_run=True)
        lost.__cause__ = error
        self._end(job, item.fail, lost)

    # Streams.

    def _on_object(self, job: _RayJob, tap: Tap, found: tuple[int, list[bytes]]) -> int:
        """Pass an object on, on the loop's thread; return how many items it has."""
        tap.ended = found[0] not in (_ray_worker.BEGUN, _ray_worker.ITEMS)
        self._tell(partial(self._receive, job, tap, *found))
        return len(found[1]) if found[0] == _ray_worker.ITEMS else 0

    def _receive(self, job: _RayJob, tap: Tap, kind: int, data: list[bytes]) -> None:
        item: Any = job.item
        if kind == _ray_worker.BEGUN:
            settle(item.begin, tap)
        elif kind == _ray_worker.ITEMS:
            size = sum(map(len, data))
            item.channel.put_chunk(
                lambda: [_pickling.loads(each) for each in data], len(data), size
            )
        else:
            self._end(job, partial(_packed.deliver, item), (kind, data[0]))

    def _end_stream(self, job: _RayJob, error: BaseException | None) -> None:
        job.ref = None
        channel = job.item.channel if isinstance(job.item, StreamItem) else None
        job.stopped = job.stopped or (channel is not None and channel.closed)
        self._lose(job, error or EOFError("it ended before its time"))  # unless it has ended

    # Ending.

    def _abandon(self, job: _RayJob) -> None:
        ref = job.ref
        if ref is not None:
            with suppress(Exception):  # it is done
                ray.cancel(ref, force=not job.item.streams)

    def _stop(self, job: _RayJob) -> bool | None:
        if job.ref is None:
            return None
        job.stopped = True
        self._abandon(job)
        future = job.item.future
        while self.runs_here() and not future.done():
            self._deliver(self._wait_for_news())
        with suppress(CancelledError):  # until it is delivered
            future.exception()
        return future.cancelled()

    def _release(self) -> None:
        if self._owns:
            ray.shutdown()

    def __repr__(self) -> str:
        return f"<RayExecutor {self.name!r}>"


class _Held:
    """A value in Ray's object store, for as long as somebody has this."""

    __slots__ = ("__weakref__", "ref")

    def __init__(self, ref: Any) -> None:
        self.ref = ref


class _RayJob(Job):
    """An item that Ray has, or is given.

    Attributes:
        ref: Ray's; None before, and once its end is looked at.
        held: its large arguments.
        stopped: it was cancelled where it runs, or its consumer has closed it.
    """

    def __init__(self, executor: RayExecutor, item: WorkItem) -> None:
        super().__init__(executor, item)
        self.ref: Any = None
        self.held: list[_Held] = []
        self.stopped = False


def _cores() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _outcomes(ended: list[Any]) -> list[Any]:
    """Return what became of calls that have ended: the result of each, or what Ray raised.

    Args:
        ended: their futures or references.
    """
    refs = [each for each in ended if not isinstance(each, Future)]
    try:
        found = dict(zip(refs, ray.get(refs), strict=True)) if refs else {}
    except Exception:
        found = {}  # Ray tells of one error only
    return [found[each] if each in found else _outcome(each) for each in ended]


def _outcome(ended: Any) -> Any:
    try:
        return ended.result() if isinstance(ended, Future) else ray.get(ended)
    except (Exception, CancelledError) as error:
        return error
