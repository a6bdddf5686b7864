"""Threads: many tiny calls at once, `map`, and one call at a time.

All executors have two threads, all calls do nothing, and the time is the caller's, from the
first submit to the last result. The threads run before the clock does.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case
from benchmarks._work import nothing, successor

__all__ = ["CASES"]

MICRO = 1e6
Make = Callable[[], Executor]


def _stdlib() -> Executor:
    return ThreadPoolExecutor(2)


def _ours() -> Executor:
    from hybrid_compute import ThreadExecutor

    return ThreadExecutor(2)


def _hybrid() -> Executor:
    from hybrid_compute import HybridExecutor

    return HybridExecutor(2)


def _hybrid_inline() -> Executor:
    from hybrid_compute import HybridExecutor
    from hybrid_compute.policy import Always

    return HybridExecutor(2, policy=Always("inline"))


def _submit(make: Make) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with make() as executor:
            for future in [executor.submit(nothing) for _ in range(100)]:
                future.result()
            begin = perf_counter()
            futures = [executor.submit(nothing) for _ in range(size)]
            for future in futures:
                future.result()
            return (perf_counter() - begin) / size * MICRO

    return measure


def _map(make: Make) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with make() as executor:
            list(executor.map(successor, range(100)))
            begin = perf_counter()
            total = sum(executor.map(successor, range(size)))
            took = perf_counter() - begin
            if total != size * (size + 1) // 2:
                raise RuntimeError(f"map gave a sum of {total}")
            return took / size * MICRO

    return measure


def _map_of_generator(make: Make) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with make() as executor:
            list(executor.map(successor, range(100)))
            begin = perf_counter()
            total = sum(executor.map(successor, (number for number in range(size))))
            took = perf_counter() - begin
            if total != size * (size + 1) // 2:
                raise RuntimeError(f"map gave a sum of {total}")
            return took / size * MICRO

    return measure


def _one_outstanding(make: Make, *, declared: bool = False) -> Callable[[int], float]:
    def measure(size: int) -> float:
        call: Any = nothing
        if declared:
            from hybrid_compute import task

            call = task(nothing)
        took = []
        with make() as executor:
            for number in range(size + size // 10):
                begin = perf_counter()
                executor.submit(call).result()
                if number >= size // 10:
                    took.append(perf_counter() - begin)
        return statistics.median(took) * MICRO

    return measure


def _adapters(measure: Callable[[Make], Callable[[int], float]]) -> tuple[Adapter, ...]:
    return (
        Adapter("ThreadPoolExecutor", measure(_stdlib)),
        Adapter("ThreadExecutor", measure(_ours), "hybrid_compute"),
        Adapter("HybridExecutor", measure(_hybrid), "hybrid_compute"),
    )


CASES = (
    Case(
        name="thread: submit 50k no-ops and collect",
        unit="us a call",
        adapters=_adapters(_submit),
        size=50_000,
        quick_size=20_000,
        rounds=7,
    ),
    Case(
        name="thread: map 50k",
        unit="us a call",
        adapters=_adapters(_map),
        size=50_000,
        quick_size=20_000,
        rounds=7,
    ),
    Case(
        name="thread: map 50k of a generator",
        unit="us a call",
        adapters=_adapters(_map_of_generator),
        size=50_000,
        quick_size=20_000,
        note="Calls start while the input is still being read.",
    ),
    Case(
        name="thread: one outstanding, p50",
        unit="us a call",
        adapters=(
            *_adapters(_one_outstanding),
            Adapter(
                "HybridExecutor, task inline",
                _one_outstanding(_hybrid_inline, declared=True),
                "hybrid_compute",
            ),
        ),
        size=10_000,
        quick_size=3_000,
        rounds=9,
        note="Waking a core that sleeps costs several times a wake-up of one that is awake, so"
        " that this figure has two levels: look at the spread.",
    ),
)
