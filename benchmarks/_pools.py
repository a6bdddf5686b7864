"""The libraries that run work in two processes, behind one face.

A library is imported by the first call and makes its pool when the context is entered, so that
"construct to first result" leaves the import out. All of them have two workers.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from benchmarks._harness import Adapter

__all__ = ["EVERYBODY", "WORKERS", "Library", "Measure", "Opener", "Pool", "adapters"]

WORKERS = 2


class Pool(Protocol):
    """What the measurements ask of every library."""

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        """Call in a worker and wait for the result."""

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        """Submit the calls one by one, collect, and return the sum of the results."""

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        """Map with the library's defaults and return the sum of the results."""

    def send(self, fn: Callable[[Any], Any], value: Any, then: Callable[[Any], object]) -> None:
        """Submit, and have `then` called with the result as soon as this process has it."""

    def pile(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Callable[[], object]:
        """Submit the calls and keep them; return what takes back those that it can."""


class OfExecutor:
    """Any `concurrent.futures.Executor`."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        return self._executor.submit(fn, value).result()

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        futures = [self._executor.submit(fn, value) for value in values]
        return sum(future.result() for future in futures)

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        return sum(self._executor.map(fn, values))

    def send(self, fn: Callable[[Any], Any], value: Any, then: Callable[[Any], object]) -> None:
        self._executor.submit(fn, value).add_done_callback(lambda future: then(future.result()))

    def pile(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Callable[[], object]:
        futures = [self._executor.submit(fn, value) for value in values]
        return lambda: [future.cancel() for future in futures]


class OfMultiprocessing:
    """`multiprocessing.Pool`, and mpire's, which has the same methods.

    Neither can take a call back. Both end their workers, whatever waits, when they are left.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        return self._pool.apply_async(fn, (value,)).get()

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        results = [self._pool.apply_async(fn, (value,)) for value in values]
        return sum(result.get() for result in results)

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        return sum(self._pool.map(fn, values))

    def send(self, fn: Callable[[Any], Any], value: Any, then: Callable[[Any], object]) -> None:
        self._pool.apply_async(fn, (value,), callback=then)

    def pile(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Callable[[], object]:
        results = [self._pool.apply_async(fn, (value,)) for value in values]
        return results.clear


class OfPebble:
    """`pebble.ProcessPool`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        return self._pool.schedule(fn, args=(value,)).result()

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        futures = [self._pool.schedule(fn, args=(value,)) for value in values]
        return sum(future.result() for future in futures)

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        return sum(self._pool.map(fn, values).result())

    def send(self, fn: Callable[[Any], Any], value: Any, then: Callable[[Any], object]) -> None:
        future = self._pool.schedule(fn, args=(value,))
        future.add_done_callback(lambda future: then(future.result()))

    def pile(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Callable[[], object]:
        futures = [self._pool.schedule(fn, args=(value,)) for value in values]
        return lambda: [future.cancel() for future in futures]


class OfJoblib:
    """`joblib.Parallel`, which knows no submit."""

    def __init__(self, parallel: Any) -> None:
        self._parallel = parallel

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        from joblib import delayed  # type: ignore[import-untyped]  # ships no type hints

        return self._parallel([delayed(fn)(value)])[0]

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        raise NotImplementedError("joblib has no submit")

    def send(self, fn: Callable[[Any], Any], value: Any, then: Callable[[Any], object]) -> None:
        raise NotImplementedError("joblib has no submit")

    def pile(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> Callable[[], object]:
        raise NotImplementedError("joblib has no submit")

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        from joblib import delayed

        return sum(self._parallel(delayed(fn)(value) for value in values))


Opener = Callable[[], AbstractContextManager[Pool]]
Library = Callable[[], Opener]
Measure = Callable[[Library], Callable[[int], float]]


def _ours() -> Opener:
    from hybrid_compute import ProcessExecutor

    @contextmanager
    def opened() -> Generator[Pool]:
        with ProcessExecutor(WORKERS) as executor:
            yield OfExecutor(executor)

    return opened


def _hybrid() -> Opener:
    from hybrid_compute import HybridExecutor

    @contextmanager
    def opened() -> Generator[Pool]:
        with HybridExecutor(max_processes=WORKERS) as executor:
            yield OfExecutor(executor.options(executor="process"))

    return opened


def _stdlib(method: str) -> Library:
    def library() -> Opener:
        @contextmanager
        def opened() -> Generator[Pool]:
            context = multiprocessing.get_context(method)
            with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
                yield OfExecutor(executor)

        return opened

    return library


def _pool() -> Opener:
    @contextmanager
    def opened() -> Generator[Pool]:
        with multiprocessing.Pool(WORKERS) as pool:
            yield OfMultiprocessing(pool)

    return opened


def _loky() -> Opener:
    from loky import ProcessPoolExecutor as Loky  # type: ignore[import-untyped]  # ships no type hints

    @contextmanager
    def opened() -> Generator[Pool]:
        with Loky(max_workers=WORKERS) as executor:
            yield OfExecutor(executor)

    return opened


def _mpire() -> Opener:
    from mpire import WorkerPool  # type: ignore[attr-defined]  # re-exported without __all__

    @contextmanager
    def opened() -> Generator[Pool]:
        with WorkerPool(n_jobs=WORKERS) as pool:
            yield OfMultiprocessing(pool)

    return opened


def _pebble() -> Opener:
    from pebble import ProcessPool

    @contextmanager
    def opened() -> Generator[Pool]:
        with ProcessPool(max_workers=WORKERS) as pool:
            yield OfPebble(pool)

    return opened


def _joblib() -> Opener:
    from joblib import Parallel

    @contextmanager
    def opened() -> Generator[Pool]:
        with Parallel(n_jobs=WORKERS) as parallel:
            yield OfJoblib(parallel)

    return opened


EVERYBODY: tuple[tuple[str, Library, str], ...] = (
    ("ProcessExecutor", _ours, "hybrid_compute"),
    ("HybridExecutor", _hybrid, "hybrid_compute"),
    ("ProcessPoolExecutor (fork)", _stdlib("fork"), "concurrent.futures"),
    ("ProcessPoolExecutor (forkserver)", _stdlib("forkserver"), "concurrent.futures"),
    ("multiprocessing.Pool", _pool, "multiprocessing"),
    ("loky", _loky, "loky"),
    ("mpire", _mpire, "mpire"),
    ("pebble", _pebble, "pebble"),
    ("joblib", _joblib, "joblib"),
)


def adapters(
    measure: Measure, *, without: Collection[str] = (), shares: Mapping[str, float] | None = None
) -> tuple[Adapter, ...]:
    """Return the adapters of all libraries but those in `without`.

    Args:
        measure: makes the measurement of a library.
        without: the names of those that cannot do it.
        shares: the part of the calls that some of them get; the rest get them all.
    """
    return tuple(
        Adapter(name, measure(library), needs, (shares or {}).get(name, 1.0))
        for name, library, needs in EVERYBODY
        if name not in without
    )
