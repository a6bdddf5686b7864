"""joblib: a backend for `joblib.Parallel`, so that what is written for joblib runs on a fleet.

Owns the translation between a `Parallel` call and a `HybridExecutor`. Threads: none of its own; a
done-callback of an item has joblib hand over the next one, on the thread where the outcome is
delivered. `_lock` guards the futures that are out, for those who abort a call. Needs joblib to be
imported.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.hybrid import HybridExecutor

try:
    from joblib.parallel import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        ThreadingBackend,
        register_parallel_backend,
    )
except ModuleNotFoundError as _missing:
    if _missing.name is None or _missing.name.partition(".")[0] != "joblib":
        raise
    raise ModuleNotFoundError(
        "hybrid_compute.engines.joblib needs joblib: pip install 'hybrid-compute[joblib]'",
        name=_missing.name,
    ) from _missing

__all__ = ["HybridBackend", "register"]


if TYPE_CHECKING:  # joblib has no types

    class _Backend:
        def __init__(self, **options: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:

    class _Backend(AutoBatchingMixin, ParallelBackendBase):
        pass


class HybridBackend(_Backend):
    """What `parallel_config(backend="hybrid")` stands for, once `register` was called.

    Work goes to worker processes, as with joblib's own default; to threads where the caller prefers
    them, or needs shared memory. Tiny calls go several at a time, as many as take about 0.2 s.
    Nested calls run on threads, and those in them one after the other.

    Args:
        executor: runs all of it, with as many workers as it has, and stays the caller's. None: one
            of its own with `n_jobs` workers, which is kept from one call of `Parallel` to the next,
            and ended with this object.
        place: name of one of the fleet's executors, for all work; None: as said above.
        options: joblib's own: `nesting_level`, `inner_max_num_threads`.

    Raises:
        ConfigurationError: `executor` is no HybridExecutor, or `place` cannot be.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = True  # `configure` sees to it
    uses_threads = False

    def __init__(
        self, *, executor: HybridExecutor | None = None, place: str | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        given: Any = executor
        if given is not None and not isinstance(given, HybridExecutor):
            raise ConfigurationError(
                f"executor={executor!r} is no HybridExecutor: give one, or None"
            )
        if given is not None and self.inner_max_num_threads is not None:
            raise ConfigurationError(
                "inner_max_num_threads= is for workers that are started here: give the executor's "
                "ProcessExecutor its native_threads=, or leave executor= out"
            )
        self._executor = executor
        self._place = place
        self._own: tuple[int, HybridExecutor] | None = None
        self._submit: Callable[..., Future[Any]] | None = None
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may end futures
        self._out: set[Future[Any]] = set()
        if executor is not None:
            self._check(executor)

    def _check(self, executor: HybridExecutor) -> None:
        """Raise unless work may go to the place that was named."""
        fleet = executor._fleet
        if self._place is None:
            return
        if self._place not in fleet:
            raise ConfigurationError(
                f"place={self._place!r}: the fleet has {list(fleet)}; name one"
            )
        if fleet[self._place].capabilities.blocks:
            raise ConfigurationError(
                f"place={self._place!r} runs work in its caller, one after the other: name "
                "another, or say n_jobs=1"
            )

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches run at once.

        Args:
            n_jobs: as joblib has it: -1 stands for all cores, or all workers of an executor that
                was given; -2 for one less, and so on. None: one.

        Raises:
            ValueError: it is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        if self._executor is None:
            return max(1, len(os.sched_getaffinity(0)) + 1 + n_jobs)
        most = self._executor._fleet[self._place or "process"].workers
        return max(1, most + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        **_: Any,
    ) -> int:
        """Get ready for one call of `Parallel`. Called by joblib.

        Args:
            n_jobs: see `effective_n_jobs`.
            parallel: that call.
            prefer: "threads" or "processes"; None: processes.
            require: "sharedmem" if the work has to see the caller's objects.

        Returns:
            How many batches run at once.
        """
        jobs = self.effective_n_jobs(n_jobs)
        if jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        executor = self._executor or self._owned(jobs)
        if executor._runs_here():  # its workers would wait for each other
            raise FallbackToBackend(ThreadingBackend(nesting_level=self.nesting_level))
        place = self._place
        if require == "sharedmem" and not (
            place and executor._fleet[place].capabilities.shares_memory
        ):
            place = "thread"
        if place is None:
            place = "thread" if prefer == "threads" else "process"
        self.parallel = parallel
        self._submit = executor.options(executor=place).submit
        return jobs

    def _owned(self, jobs: int) -> HybridExecutor:
        """Return an executor of our own with so many workers."""
        if self._own is None or self._own[0] != jobs:
            if self._own is not None:
                self._own[1].shutdown(wait=False)
            processes = ProcessExecutor(jobs, native_threads=self.inner_max_num_threads)
            made = HybridExecutor(jobs, executors={"process": processes})
            self._own = jobs, made
            self._check(made)
        return self._own[1]

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None
    ) -> Future[Any]:
        """Submit a batch. Called by joblib, from the caller's thread and from done-callbacks.

        Never blocks.

        Args:
            func: runs the batch.
            callback: called with the future when it is done.
        """
        assert self._submit is not None  # noqa: S101 - joblib has called `configure`
        future = self._submit(func)
        with self._lock:
            self._out.add(future)
        future.add_done_callback(self._forget)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def apply_async(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None
    ) -> Future[Any]:
        """Do as `submit` does: joblib 1.4 has this name for it.

        Args:
            func: runs the batch.
            callback: called with the future when it is done.
        """
        return self.submit(func, callback)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._out.discard(future)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch that is done, or raise what one of its calls raised.

        Args:
            out: its future.
        """
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End a call that is over before its work is: what waits, and what runs in processes.

        Blocks until that has ended. Work that runs on threads cannot be ended.

        Args:
            ensure_ready: whether there will be another one; there may be in any case.
        """
        with self._lock:
            out = list(self._out)
        for each in out:
            each.cancel()
        for each in out:
            cancel = getattr(each, "cancel_running", None)
            if cancel is not None and not each.done():
                cancel()

    def terminate(self) -> None:
        """End a call of `Parallel`; the workers stay for the next one."""
        self._submit = None
        self.reset_batch_stats()

    def __del__(self) -> None:
        own = getattr(self, "_own", None)  # the constructor may have raised
        if own is not None:
            own[1].shutdown(wait=False)


def register(
    name: str = "hybrid", *, executor: HybridExecutor | None = None, make_default: bool = False
) -> None:
    """Make `HybridBackend` known to joblib, as long as this process lives.

    Args:
        name: for `joblib.parallel_config(backend=name)`, which takes `executor=` and `place=` too.
        executor: for those that are not given one.
        make_default: of all calls that name no backend.
    """

    def make(**given: Any) -> HybridBackend:
        return HybridBackend(**{"executor": executor, **given})

    register_parallel_backend(name, make, make_default=make_default)
