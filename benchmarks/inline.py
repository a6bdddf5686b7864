"""A declared task that the policy routes inline, against the least that a future can cost."""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import statistics
from concurrent.futures import Future
from time import perf_counter

from benchmarks._harness import Adapter, Case
from benchmarks._work import successor

__all__ = ["CASES"]

MICRO = 1e6


def _bare(size: int) -> float:
    took = []
    for number in range(size):
        begin = perf_counter()
        future: Future[int] = Future()
        future.set_result(successor(number))
        future.result()
        took.append(perf_counter() - begin)
    return statistics.median(took) * MICRO


def _hybrid(size: int) -> float:
    from hybrid_compute import HybridExecutor, task
    from hybrid_compute.policy import Always

    declared = task(successor)
    took = []
    with HybridExecutor(2, policy=Always("inline")) as executor:
        for number in range(size):
            begin = perf_counter()
            executor.submit(declared, number).result()
            took.append(perf_counter() - begin)
    return statistics.median(took) * MICRO


def _alone(size: int) -> float:
    from hybrid_compute import InlineExecutor

    took = []
    with InlineExecutor() as executor:
        for number in range(size):
            begin = perf_counter()
            executor.submit(successor, number).result()
            took.append(perf_counter() - begin)
    return statistics.median(took) * MICRO


CASES = (
    Case(
        name="inline: submit and result, p50",
        unit="us a call",
        adapters=(
            Adapter("bare Future", _bare),
            Adapter("HybridExecutor", _hybrid, "hybrid_compute"),
            Adapter("InlineExecutor", _alone, "hybrid_compute"),
        ),
        size=30_000,
        quick_size=20_000,
        rounds=15,
        quick_rounds=7,
        note="The bare future: ``Future()``, the call, ``set_result`` and ``result``, no executor.",
    ),
)
