"""Processes: many tiny calls, `map` as it comes, one call at a time, and big payloads.

Everybody has two workers, which run before the clock does, except where their start is what is
measured. The slow ones get a tenth of the calls, since the figure is per call (a short run
flatters them, if anything: their queues are shorter). How long work waits in a queue is in
`benchmarks.waiting`.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case, peak_rss_bytes, rss_bytes
from benchmarks._pools import WORKERS, Library, Measure, Pool, adapters
from benchmarks._work import echo, next_array, successor, summed

__all__ = ["CASES"]

MICRO = 1e6
MEGA = 1_000_000

# 80 us a call or more.
_TENTH = dict.fromkeys(
    (
        "ProcessPoolExecutor (fork)",
        "ProcessPoolExecutor (forkserver)",
        "loky",
        "mpire",
        "pebble",
    ),
    0.1,
)


def _submit(library: Library) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with library()() as pool:
            pool.submit_all(successor, range(20))
            begin = perf_counter()
            total = pool.submit_all(successor, range(size))
            took = perf_counter() - begin
        return _checked(total, size, took)

    return measure


def _map(library: Library) -> Callable[[int], float]:
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


def _one_outstanding(library: Library) -> Callable[[int], float]:
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


def _first_result(library: Library) -> Callable[[int], float]:
    def measure(size: int) -> float:
        opened = library()
        begin = perf_counter()
        with opened() as pool:
            pool.call(successor, size)
            return (perf_counter() - begin) * 1e3

    return measure


# Payloads. A library may share memory instead of copying it, and leave the copying, or the page
# faults, to whoever looks at the array first: what looks at all of it stands beside what does not.


def _array(size_bytes: int) -> Any:
    import numpy as np

    return np.arange(size_bytes // 8, dtype=np.float64)


def _bytes(size_bytes: int) -> Any:
    return bytes(range(256)) * (size_bytes // 256)


def _sent_and_back(pool: Pool, payload: Any) -> None:
    back = pool.call(echo, payload)
    if len(back) != len(payload) or back[-1] != payload[-1]:
        raise RuntimeError("another payload came back")


def _sent_and_back_touched(pool: Pool, array: Any) -> None:
    back, total = pool.call(summed, array)
    if back.sum() != total:
        raise RuntimeError("another array came back")


def _sent_and_another_back(pool: Pool, array: Any) -> None:
    back = pool.call(next_array, array)
    if back.sum() <= 0 or back[-1] != array[-1] + 1:
        raise RuntimeError("a wrong array came back")


def _copied(array: Any) -> None:
    array.copy().copy()


def _copied_touched(array: Any) -> None:
    there = array.copy()
    there.sum()
    there.copy().sum()


def _copied_another(array: Any) -> None:
    another = array.copy() + 1
    another.copy().sum()


def _copied_bytes(payload: bytes) -> None:
    bytes(memoryview(bytes(memoryview(payload))))


def _median_ms(once: Callable[[], None], size: int) -> float:
    """Return the median of 3 calls, or of as many as move 100 MB, 30 at most, after 2 others."""
    took = []
    for _ in range(2 + min(30, max(3, 100 * MEGA // size))):
        begin = perf_counter()
        once()
        took.append(perf_counter() - begin)
    return statistics.median(took[2:]) * 1e3


def _payload(way: Callable[[Pool, Any], None], make: Callable[[int], Any] = _array) -> Measure:
    def of_library(library: Library) -> Callable[[int], float]:
        def measure(size: int) -> float:
            payload = make(size)
            with library()() as pool:
                return _median_ms(lambda: way(pool, payload), size)

        return measure

    return of_library


def _here(way: Callable[[Any], None], make: Callable[[int], Any] = _array) -> Adapter:
    def measure(size: int) -> float:
        payload = make(size)
        return _median_ms(lambda: way(payload), size)

    return Adapter("two plain copies", measure, "numpy")


def _echo_memory(way: Callable[[Pool, Any], None]) -> Measure:
    def of_library(library: Library) -> Callable[[int], float]:
        def measure(size: int) -> float:
            array = _array(size)
            small = _array(8000)
            with library()() as pool:
                for _ in range(WORKERS * 2):
                    way(pool, small)
                before = rss_bytes()
                way(pool, array)
                return (peak_rss_bytes() - before) / size

        return measure

    return of_library


CASES = (
    Case(
        name="process: submit 20k tiny",
        unit="us a call",
        adapters=adapters(_submit, without=("joblib",), shares=_TENTH),
        size=20_000,
        quick_size=10_000,
        quick_rounds=2,
        note="joblib has no submit.",
    ),
    Case(
        name="process: map 200k tiny",
        unit="us a call",
        adapters=adapters(
            _map,
            shares={name: share for name, share in _TENTH.items() if name != "mpire"},
        ),
        size=200_000,
        quick_size=50_000,
        rounds=3,
        quick_rounds=2,
        note="No ``chunksize`` is given to anybody.",
    ),
    Case(
        name="process: one outstanding, p50",
        unit="us a call",
        adapters=adapters(_one_outstanding, shares={"joblib": 0.05}),
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
        adapters=adapters(_first_result),
        size=1,
        quick_size=1,
        rounds=5,
        quick_rounds=3,
        note="The library is imported before the clock starts.",
    ),
    Case(
        name="process: 100 MB array there and back",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_back)), _here(_copied)),
        size=100 * MEGA,
        quick_size=50 * MEGA,
        rounds=3,
        quick_rounds=1,
        note="A numpy array of 100 MB is the argument and the result of ``echo``; the median of"
        " three after two to warm up. With ``--quick`` the payloads are smaller than the rows say.",
    ),
    Case(
        name="process: 100 MB array there and back, all touched",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_back_touched)), _here(_copied_touched)),
        size=100 * MEGA,
        quick_size=20 * MEGA,
        rounds=3,
        quick_rounds=1,
        note="The worker sums the array before it returns it, and the parent sums what comes"
        " back: no page is left that nobody has looked at. The plain copies are summed too.",
    ),
    Case(
        name="process: 100 MB array there, another back",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_another_back)), _here(_copied_another)),
        size=100 * MEGA,
        quick_size=20 * MEGA,
        rounds=3,
        quick_rounds=1,
        note="The worker returns ``array + 1``, an array of its own making, and the parent sums"
        " it. Beside the plain copies stands the same addition.",
    ),
    Case(
        name="process: 100 MB of bytes there and back",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_back, _bytes)), _here(_copied_bytes, _bytes)),
        size=100 * MEGA,
        quick_size=20 * MEGA,
        rounds=3,
        quick_rounds=1,
        note="Pickle has no way around copying ``bytes``, whatever carries them.",
    ),
    Case(
        name="process: 10 MB array there and back, all touched",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_back_touched)), _here(_copied_touched)),
        size=10 * MEGA,
        quick_size=10 * MEGA,
        quick_rounds=1,
        note="The median of 10.",
    ),
    Case(
        name="process: 1 MB array there and back, all touched",
        unit="ms",
        adapters=(*adapters(_payload(_sent_and_back_touched)), _here(_copied_touched)),
        size=MEGA,
        quick_size=MEGA,
        quick_rounds=1,
        note="The median of 30.",
    ),
    Case(
        name="process: parent memory during the echo",
        unit="copies of the array",
        adapters=adapters(_echo_memory(_sent_and_back_touched)),
        size=100 * MEGA,
        quick_size=50 * MEGA,
        rounds=3,
        quick_rounds=1,
        note="The parent's peak resident memory during the first echo, less what it was before"
        " with the array in it. The result is one copy, and all of it is touched.",
    ),
)
