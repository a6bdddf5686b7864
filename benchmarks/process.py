"""Processes: many tiny calls, `map` as it comes, one call at a time, and a big array.

Everybody has two workers, which run before the clock does, except where their start is what is
measured. The slow ones get a tenth of the calls, since the figure is per call (a short run
flatters them, if anything: their queues are shorter).
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, Protocol

from benchmarks._harness import Adapter, Case, peak_rss_bytes, rss_bytes
from benchmarks._work import echo, successor

__all__ = ["CASES"]

MICRO = 1e6
WORKERS = 2


class Pool(Protocol):
    """What the measurements ask of every library."""

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        """Call in a worker and wait for the result."""

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        """Submit the calls one by one, collect, and return the sum of the results."""

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        """Map with the library's defaults and return the sum of the results."""


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


class OfMultiprocessing:
    """`multiprocessing.Pool`."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        return self._pool.apply_async(fn, (value,)).get()

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        results = [self._pool.apply_async(fn, (value,)) for value in values]
        return sum(result.get() for result in results)

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        return sum(self._pool.map(fn, values))


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


class OfJoblib:
    """`joblib.Parallel`, which knows no submit."""

    def __init__(self, parallel: Any) -> None:
        self._parallel = parallel

    def call(self, fn: Callable[[Any], Any], value: Any) -> Any:
        from joblib import delayed  # type: ignore[import-untyped]  # ships no type hints

        return self._parallel([delayed(fn)(value)])[0]

    def submit_all(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        raise NotImplementedError("joblib has no submit")

    def map(self, fn: Callable[[Any], Any], values: Iterable[Any]) -> int:
        from joblib import delayed

        return sum(self._parallel(delayed(fn)(value) for value in values))


# A library is imported by the first call and makes its pool when the context is entered, so
# that "construct to first result" leaves the import out.
Opener = Callable[[], AbstractContextManager[Pool]]


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


def _stdlib(method: str) -> Callable[[], Opener]:
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


Measure = Callable[[Callable[[], Opener]], Callable[[int], float]]


def _submit(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with library()() as pool:
            pool.submit_all(successor, range(20))
            begin = perf_counter()
            total = pool.submit_all(successor, range(size))
            took = perf_counter() - begin
        return _checked(total, size, took)

    return measure


def _map(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with library()() as pool:
            pool.map(successor, range(20))
            begin = perf_counter()
            total = pool.map(successor, range(size))
            took = perf_counter() - begin
        return _checked(total, size, took)

    return measure


def _checked(total: int, size: int, took: float) -> float:
    if total != size * (size + 1) // 2:
        raise RuntimeError(f"a sum of {total} for {size} calls")
    return took / size * MICRO


def _one_outstanding(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        took = []
        with library()() as pool:
            for number in range(size + size // 10):
                begin = perf_counter()
                pool.call(successor, number)
                if number >= size // 10:
                    took.append(perf_counter() - begin)
        return statistics.median(took) * MICRO

    return measure


def _first_result(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        opened = library()
        begin = perf_counter()
        with opened() as pool:
            pool.call(successor, size)
            return (perf_counter() - begin) * 1e3

    return measure


def _array(size_bytes: int) -> Any:
    import numpy as np

    return np.arange(size_bytes // 8, dtype=np.float64)


def _sent_and_back(pool: Pool, array: Any) -> None:
    back = pool.call(echo, array)
    if len(back) != len(array) or back[-1] != array[-1]:
        raise RuntimeError("another array came back")


def _echo(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        array = _array(size)
        took = []
        with library()() as pool:
            for _ in range(4):
                begin = perf_counter()
                _sent_and_back(pool, array)
                took.append(perf_counter() - begin)
        return statistics.median(took[1:]) * 1e3  # the first one also starts the workers

    return measure


def _plain_copies(size: int) -> float:
    array = _array(size)
    took = []
    for _ in range(4):
        begin = perf_counter()
        array.copy().copy()
        took.append(perf_counter() - begin)
    return statistics.median(took[1:]) * 1e3


def _echo_memory(library: Callable[[], Opener]) -> Callable[[int], float]:
    def measure(size: int) -> float:
        array = _array(size)
        small = _array(8000)
        with library()() as pool:
            for _ in range(WORKERS * 2):
                _sent_and_back(pool, small)
            before = rss_bytes()
            _sent_and_back(pool, array)
            return (peak_rss_bytes() - before) / size

    return measure


_EVERYBODY: tuple[tuple[str, Callable[[], Opener], str], ...] = (
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


def _adapters(
    measure: Measure, *, without: tuple[str, ...] = (), whole: tuple[str, ...] | None = None
) -> tuple[Adapter, ...]:
    """Return everybody's adapter; all but those in `whole` get a tenth of the calls."""
    return tuple(
        Adapter(name, measure(library), needs, 1.0 if whole is None or name in whole else 0.1)
        for name, library, needs in _EVERYBODY
        if name not in without
    )


_SUBMIT = _adapters(
    _submit,
    without=("joblib",),
    whole=("ProcessExecutor", "HybridExecutor", "multiprocessing.Pool"),
)
_MAP = _adapters(
    _map, whole=("ProcessExecutor", "HybridExecutor", "multiprocessing.Pool", "mpire", "joblib")
)

CASES = (
    Case(
        name="process: submit 20k tiny",
        unit="us a call",
        adapters=_SUBMIT,
        size=20_000,
        quick_size=10_000,
        quick_rounds=2,
        note="joblib has no submit.",
    ),
    Case(
        name="process: map 200k tiny",
        unit="us a call",
        adapters=_MAP,
        size=200_000,
        quick_size=50_000,
        rounds=3,
        quick_rounds=2,
        note="No ``chunksize`` is given to anybody.",
    ),
    Case(
        name="process: one outstanding, p50",
        unit="us a call",
        adapters=(
            *_adapters(_one_outstanding, without=("joblib",)),
            Adapter("joblib", _one_outstanding(_joblib), "joblib", 0.05),
        ),
        size=2_000,
        quick_size=500,
        rounds=5,
        quick_rounds=2,
        note="Waking a core that sleeps costs several times a wake-up of one that is awake, so"
        " that this figure has two levels: look at the spread.",
    ),
    Case(
        name="process: construct to first result",
        unit="ms",
        adapters=_adapters(_first_result),
        size=1,
        quick_size=1,
        rounds=5,
        quick_rounds=3,
        note="The library is imported before the clock starts.",
    ),
    Case(
        name="process: 100 MB array there and back",
        unit="ms",
        adapters=(
            *_adapters(_echo),
            Adapter("two plain copies", _plain_copies, "numpy"),
        ),
        size=100_000_000,
        quick_size=100_000_000,
        rounds=3,
        quick_rounds=1,
        note="A numpy array of 100 MB is the argument and the result of ``echo``; the median of"
        " three after one to warm up.",
    ),
    Case(
        name="process: parent memory during the echo",
        unit="copies of the array",
        adapters=_adapters(_echo_memory),
        size=100_000_000,
        quick_size=100_000_000,
        rounds=3,
        quick_rounds=1,
        note="The parent's peak resident memory during the first echo, less what it was before"
        " with the array in it. The result is one copy.",
    ),
)
