"""What is known of other people's executors by their class, without an import of theirs.

Owns the table. No threads, no locks, no state.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

from hybrid_compute.abc import Capabilities

__all__ = ["Kind", "kind_of", "remaker_of", "workers_of"]


class Kind(NamedTuple):
    """What a class of executors is.

    Attributes:
        capabilities: what it can do, as far as that is certain.
        packs: its workers are other interpreters that can import this library.
    """

    capabilities: Capabilities
    packs: bool = False


_THREADS = Kind(Capabilities(shares_memory=True, streams=True))
_PROCESSES = Kind(Capabilities(isolates=True, chunks=True), packs=True)
_INTERPRETERS = Kind(Capabilities(chunks=True), packs=True)
# Its ranks may be on any machine, and what is `local_only` must not: who knows better says so. One
# that dies takes the whole job along.
_RANKS = Kind(Capabilities(remote=True, chunks=True), packs=True)
_UNKNOWN = Kind(Capabilities())

# By module and class. The first of a class's bases that is here counts, and interpreters are a
# subclass of threads.
_KINDS = {
    "concurrent.futures.thread.ThreadPoolExecutor": _THREADS,
    "concurrent.futures.interpreter.InterpreterPoolExecutor": _INTERPRETERS,
    "concurrent.futures.process.ProcessPoolExecutor": _PROCESSES,
    "loky.process_executor.ProcessPoolExecutor": _PROCESSES,
    "joblib.externals.loky.process_executor.ProcessPoolExecutor": _PROCESSES,
    "mpi4py.futures.pool.MPIPoolExecutor": _RANKS,
}


def kind_of(executor: object) -> Kind:
    """Return what is known of an executor."""
    for base in type(executor).__mro__:
        kind = _KINDS.get(f"{base.__module__}.{base.__qualname__}")
        if kind is not None:
            return kind
    return _UNKNOWN


def workers_of(executor: object) -> int:
    """Return how many workers an executor has, as far as it tells; else 1."""
    for name in ("_max_workers", "num_workers"):  # the stdlib's pools and loky; mpi4py
        workers = getattr(executor, name, None)
        if isinstance(workers, int) and workers > 0:
            return workers
    return 1


def remaker_of(executor: Any) -> Callable[[], Executor] | None:
    """Return what makes another executor like this one, if that is certain to be the same."""
    kind = type(executor)
    if f"{kind.__module__}.{kind.__qualname__}" != "concurrent.futures.process.ProcessPoolExecutor":
        return None
    # Its own constructor's arguments, which it keeps under these names from 3.11 to 3.14.
    workers, context = executor._max_workers, executor._mp_context
    initializer, initargs = executor._initializer, executor._initargs
    most = executor._max_tasks_per_child
    return lambda: kind(workers, context, initializer, initargs, max_tasks_per_child=most)
