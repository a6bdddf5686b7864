"""How long it takes until there is something to work with."""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from time import perf_counter

from benchmarks._harness import Adapter, Case
from benchmarks._work import successor

__all__ = ["CASES"]

_TIMED = """\
from time import perf_counter
begin = perf_counter()
{}
print((perf_counter() - begin) * 1e3)
"""

# Names are loaded when they are first used: use those that a program has that runs threads and
# processes.
_USED = "from hybrid_compute import HybridExecutor, ProcessExecutor, ThreadExecutor, task"


def _import(statement: str) -> Callable[[int], float]:
    # An interpreter of its own again: this one has imported too much already.
    def measure(_size: int) -> float:
        done = subprocess.run(
            [sys.executable, "-c", _TIMED.format(statement)],
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    return measure


def _thread_stdlib(size: int) -> float:
    begin = perf_counter()
    with ThreadPoolExecutor(2) as executor:
        executor.submit(successor, size).result()
        return (perf_counter() - begin) * 1e3


def _thread(size: int) -> float:
    from hybrid_compute import ThreadExecutor

    begin = perf_counter()
    with ThreadExecutor(2) as executor:
        executor.submit(successor, size).result()
        return (perf_counter() - begin) * 1e3


def _hybrid(size: int) -> float:
    from hybrid_compute import HybridExecutor

    begin = perf_counter()
    with HybridExecutor(2) as executor:
        executor.submit(successor, size).result()
        return (perf_counter() - begin) * 1e3


def _process_stdlib(method: str) -> Callable[[int], float]:
    def measure(size: int) -> float:
        begin = perf_counter()
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            executor.submit(successor, size).result()
            return (perf_counter() - begin) * 1e3

    return measure


def _process(size: int) -> float:
    from hybrid_compute import ProcessExecutor

    begin = perf_counter()
    with ProcessExecutor(2) as executor:
        executor.submit(successor, size).result()
        return (perf_counter() - begin) * 1e3


def _process_hybrid(_size: int) -> float:
    from hybrid_compute import HybridExecutor, task

    declared = task(os.getpid)
    begin = perf_counter()
    with HybridExecutor(max_processes=2) as executor:
        where = executor.submit(declared).result()
        took = perf_counter() - begin
    if where == os.getpid():
        raise RuntimeError("a declared task ran in this process")
    return took * 1e3


CASES = (
    Case(
        name="start: import",
        unit="ms",
        adapters=(
            Adapter("concurrent.futures.process", _import("import concurrent.futures.process")),
            Adapter("concurrent.futures.thread", _import("import concurrent.futures.thread")),
            Adapter("hybrid_compute", _import(_USED), "hybrid_compute"),
            Adapter(
                "hybrid_compute, nothing used", _import("import hybrid_compute"), "hybrid_compute"
            ),
        ),
        size=1,
        quick_size=1,
        rounds=11,
        quick_rounds=5,
    ),
    Case(
        name="start: construct to first result, thread",
        unit="ms",
        adapters=(
            Adapter("ThreadPoolExecutor", _thread_stdlib),
            Adapter("ThreadExecutor", _thread, "hybrid_compute"),
            Adapter("HybridExecutor", _hybrid, "hybrid_compute"),
        ),
        size=1,
        quick_size=1,
        rounds=11,
        quick_rounds=5,
        note="The library is imported before the clock starts.",
    ),
    Case(
        name="start: construct to first result, process",
        unit="ms",
        adapters=(
            Adapter("ProcessPoolExecutor (fork)", _process_stdlib("fork")),
            Adapter("ProcessPoolExecutor (forkserver)", _process_stdlib("forkserver")),
            Adapter("ProcessPoolExecutor (spawn)", _process_stdlib("spawn")),
            Adapter("ProcessExecutor", _process, "hybrid_compute"),
            Adapter("HybridExecutor", _process_hybrid, "hybrid_compute"),
        ),
        size=1,
        quick_size=1,
        rounds=7,
        quick_rounds=3,
        note="The library is imported before the clock starts.",
    ),
)
