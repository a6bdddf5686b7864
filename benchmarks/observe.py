"""What it costs to be watched: CPU time an item, with a recording and without.

CPU time of this process, all its threads together, since a recording writes its file on the threads
that do the work; measured around submitting and collecting, the opening and closing of the file
included. What the first recording of a process imports is there by then, as its threads are: it is
no part of an item. The worker processes have nothing to do with it, and are not counted. *Recorded
before* is the same executor after a recording was closed: it is to cost what it cost without.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks._harness import Adapter, Case
from benchmarks._work import successor

__all__ = ["CASES"]

MICRO = 1e6

Work = Callable[[Any, int], None]


def noop() -> None:
    pass


def _submit(executor: Any, size: int) -> None:
    for future in [executor.submit(noop) for _ in range(size)]:
        future.result()


def _tasks(declared: Any, executor: Any, size: int) -> None:
    for future in [executor.submit(declared, number) for number in range(size)]:
        future.result()


def _one_by_one(declared: Any, executor: Any, size: int) -> None:
    for number in range(size):
        executor.submit(declared, number).result()


def _map(executor: Any, size: int) -> None:
    for _ in executor.map(abs, range(size)):
        pass


def _measure(kind: str, how: str, size: int) -> float:
    from hybrid_compute import HybridExecutor, task
    from hybrid_compute.policy import Always

    declared = task(successor)
    work: dict[str, tuple[Work, str | None]] = {
        "plain": (_submit, None),
        "map": (_map, None),
        "tiny": (partial(_one_by_one, declared), None),
        "inline": (partial(_tasks, declared), "inline"),
        "thread": (partial(_tasks, declared), "thread"),
        "process": (partial(_tasks, declared), "process"),
    }
    run, where = work[kind]
    policy = None if where is None else Always(where)
    with (
        tempfile.TemporaryDirectory() as folder,
        HybridExecutor(2, max_processes=1, policy=policy) as executor,
    ):
        path = Path(folder) / "run.jsonl"
        if how != "alone":
            with executor.record(path):
                run(executor, 1000)
        run(executor, 2000)  # by then what learns has learned
        watched: AbstractContextManager[Any] = nullcontext()
        begin = process_time()
        if how == "recorded":
            watched = executor.record(path)
        with watched:
            run(executor, size)
        return (process_time() - begin) / size * MICRO


def _case(kind: str, words: str) -> Case:
    return Case(
        name=f"observe: {words}",
        unit="us of CPU an item",
        adapters=tuple(
            Adapter(
                "HybridExecutor" if how == "alone" else f"HybridExecutor, {how}",
                partial(_measure, kind, how),
                "hybrid_compute",
            )
            for how in ("alone", "recorded", "recorded before")
        ),
        size=50_000,
        quick_size=20_000,
        rounds=9,
        quick_rounds=5,
    )


CASES = (
    _case("plain", "50k plain callables"),
    _case("map", "map over 50k on threads"),
    _case("tiny", "50k tiny tasks, one by one"),
    _case("inline", "50k tasks inline"),
    _case("thread", "50k tasks on threads"),
    _case("process", "50k tasks in a process"),
)
