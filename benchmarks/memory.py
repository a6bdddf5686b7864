"""What work that waits costs, and what work that is done leaves behind."""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from benchmarks._harness import Adapter, Case, peak_rss_bytes, rss_bytes, unmapped_bytes
from benchmarks._pools import WORKERS, Library, adapters
from benchmarks._work import nothing, open_to_read, summed

__all__ = ["CASES"]

MIB = 2**20
Make = Callable[[], Executor]


def _stdlib() -> Executor:
    return ThreadPoolExecutor(2)


def _ours() -> Executor:
    from hybrid_compute import ThreadExecutor

    return ThreadExecutor(2)


def _hybrid() -> Executor:
    from hybrid_compute import HybridExecutor

    return HybridExecutor(2)


def _pending(make: Make, *, traced: bool) -> Callable[[int], float]:
    def measure(size: int) -> float:
        gate = threading.Event()
        with make() as executor:
            for _ in range(2):
                executor.submit(gate.wait)
            gc.collect()
            if traced:
                tracemalloc.start()
            before = rss_bytes()
            futures = [executor.submit(nothing) for _ in range(size)]
            if traced:
                grown = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            else:
                grown = peak_rss_bytes() - before
            gate.set()
            for future in futures:
                future.result()
        return grown / size

    return measure


def _dropped(make: Make, *, blocks: bool) -> Callable[[int], float]:
    def measure(size: int) -> float:
        def level() -> float:
            gc.collect()
            # Arrays of the allocator that are partly used stay resident: blocks are exact.
            return sys.getallocatedblocks() if blocks else rss_bytes() / MIB

        with make() as executor:
            for future in [executor.submit(nothing) for _ in range(1000)]:
                future.result()
            del future
            before = level()
            for _ in range(size):
                executor.submit(nothing)
            # First in, first out: when both of these are done, so is all before them.
            for future in [executor.submit(nothing) for _ in range(2)]:
                future.result()
            del future
            return (level() - before) / (size if blocks else 1)

    return measure


def _pending_in_processes(library: Library) -> Callable[[int], float]:
    def measure(size: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder, "pipe")
            os.mkfifo(pipe)
            with library()() as pool:
                pool.submit_all(len, [b""] * 10)
                hold = pool.pile(open_to_read, [str(pipe)] * WORKERS)
                gc.collect()
                before = rss_bytes()
                take_back = pool.pile(len, (bytes(1000) for _ in range(size)))
                grown = peak_rss_bytes() - before
                take_back()
                # The workers wait in open(); one writer lets them all go.
                with pipe.open("wb"):
                    pool.call(len, b"")
                del hold
        return grown / (size * 1000)

    return measure


def _kept_after_echo(library: Library) -> Callable[[int], float]:
    def measure(size: int) -> float:
        import numpy as np

        array = np.arange(size // 8, dtype=np.float64)
        with library()() as pool:
            for _ in range(WORKERS * 2):
                pool.call(summed, array[:1000])
            before = rss_bytes() + unmapped_bytes()
            for _ in range(3):
                back, total = pool.call(summed, array)
                if back.sum() != total:
                    raise RuntimeError("another array came back")
                del back, total
            gc.collect()
            return (rss_bytes() + unmapped_bytes() - before) / size

    return measure


def _threads(measure: Callable[[Make], Callable[[int], float]]) -> tuple[Adapter, ...]:
    return (
        Adapter("ThreadPoolExecutor", measure(_stdlib)),
        Adapter("ThreadExecutor", measure(_ours), "hybrid_compute"),
        Adapter("HybridExecutor", measure(_hybrid), "hybrid_compute"),
    )


CASES = (
    Case(
        name="memory: per pending item, traced",
        unit="bytes",
        adapters=_threads(lambda make: _pending(make, traced=True)),
        size=50_000,
        quick_size=20_000,
        rounds=3,
        quick_rounds=1,
        note="``tracemalloc``'s peak, futures held in a list, both threads busy with something"
        " else.",
    ),
    Case(
        name="memory: per pending item, resident",
        unit="bytes",
        adapters=_threads(lambda make: _pending(make, traced=False)),
        size=100_000,
        quick_size=50_000,
        rounds=3,
        quick_rounds=2,
        note="The same as growth of the peak resident memory.",
    ),
    Case(
        name="memory: left by a million dropped futures",
        unit="blocks of memory a call",
        adapters=_threads(lambda make: _dropped(make, blocks=True)),
        size=1_000_000,
        quick_size=100_000,
        rounds=1,
        quick_rounds=1,
        note="``sys.getallocatedblocks()`` after the work less before it, with the executor still"
        " open.",
    ),
    Case(
        name="memory: resident after a million dropped futures",
        unit="MiB",
        adapters=_threads(lambda make: _dropped(make, blocks=False)),
        size=1_000_000,
        quick_size=100_000,
        rounds=1,
        quick_rounds=1,
        note="What the allocator has not given back. It depends on how far the submitter ran"
        " ahead of the threads, and does not grow when the run is repeated.",
    ),
    Case(
        name="memory: 100k pending items of 1 kB",
        unit="times the payload",
        adapters=adapters(_pending_in_processes, without=("joblib",)),
        size=100_000,
        quick_size=20_000,
        rounds=3,
        quick_rounds=1,
        note="Growth of the parent's peak resident memory, the payload included, with both"
        " workers busy with something else. joblib has no submit.",
    ),
    Case(
        name="memory: kept after a 100 MB array there and back",
        unit="copies of the array",
        adapters=adapters(_kept_after_echo),
        size=100_000_000,
        quick_size=50_000_000,  # malloc keeps what is below 32 MiB
        rounds=3,
        quick_rounds=1,
        note="The parent's resident memory after three echoes, one after the other, whose results"
        " are dropped, and the shared memory that it keeps without having it mapped, less both"
        " before. What a library keeps to use again is here.",
    ),
)
