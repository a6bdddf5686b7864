"""Where the default policy sends tasks, against whoever knows beforehand.

Four kinds of tasks, none of which says what it is: tiny ones (a microsecond), ones that wait (20
ms), ones that compute in plain Python (about 44 ms) and ones that compute without the GIL (about
36 ms). *Mixed*: 20,000, 200, 60 and 60 of them, shuffled, submitted one by one as quickly as that
goes, then awaited. *Alone*: one kind. *Changing*: one function that is tiny for the first half of
its calls and computes for 20 ms in the second, which no argument tells.

Hand-routed means the standard library's executors, each used for what it is best at: the caller
himself, ThreadPoolExecutor(32), ProcessPoolExecutor(2) and ThreadPoolExecutor(2). Warm means that
the executor has done the same work before, cold that it was just made; making it counts.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case

__all__ = ["CASES"]

Submit = Callable[..., Future[Any]]

TINY, WAITS, HOLDS, WORKS = 20_000, 200, 60, 60


def tiny(number: int) -> int:
    return number + 1


def waits(seconds: float) -> None:
    time.sleep(seconds)


def holds(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += number
    return total


def works(rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"password", b"salt", rounds)


def changes(loops: float) -> float:
    """A float, of which nobody concludes how long it will take."""
    total = 0.0
    for _ in range(int(loops)):
        total += loops
    return total


def _quickest(call: Callable[[], object], times: int = 20) -> float:
    found = []
    for _ in range(times):
        begin = perf_counter()
        call()
        found.append(perf_counter() - begin)
    return min(found)


def _loops(ms: float) -> int:
    return round(20_000 * ms / 1e3 / _quickest(lambda: holds(20_000)))


def _float_loops(ms: float) -> float:
    return float(round(20_000 * ms / 1e3 / _quickest(lambda: changes(20_000.0))))


def _rounds(ms: float) -> int:
    return round(2_000 * ms / 1e3 / _quickest(lambda: works(2_000)))


Work = list[tuple[str, Callable[..., Any], tuple[Any, ...]]]


def _kinds(size: int) -> dict[str, Work]:
    """Return the work of each kind; `size` is the number of tiny ones."""
    part = size / TINY
    loops, rounds = _loops(44), _rounds(36)
    return {
        "tiny": [("tiny", tiny, (number,)) for number in range(size)],
        "waits": [("waits", waits, (0.02,))] * max(2, round(WAITS * part)),
        "holds": [("holds", holds, (loops,))] * max(2, round(HOLDS * part)),
        "works": [("works", works, (rounds,))] * max(2, round(WORKS * part)),
    }


def _mixed(size: int) -> Work:
    work = [each for kind in _kinds(size).values() for each in kind]
    random.Random(8).shuffle(work)
    return work


def _changing(size: int) -> Work:
    long = _float_loops(20)
    few = max(2, round(100 * size / TINY))
    return [("before", changes, (1.0,))] * (size // 2) + [("after", changes, (long,))] * few


def _run(work: Work, submit: Submit, *, places: bool = False) -> dict[str, float]:
    """Do the work; return the wall time, and the median latency of each kind, in ms.

    With `places` also how much of each kind ran where, in per cent.
    """
    took: dict[str, list[float]] = {}
    futures = []
    begin = perf_counter()
    for kind, fn, args in work:
        keep = took.setdefault(kind, []).append
        start = perf_counter()
        future = submit(fn, *args)
        future.add_done_callback(lambda _, start=start, keep=keep: keep(perf_counter() - start))
        futures.append(future)
    for future in futures:
        future.result()
    wall = perf_counter() - begin
    found = {f"{kind} p50": statistics.median(each) * 1e3 for kind, each in took.items()}
    if places:
        went = Counter(
            (kind, future.explain().executor)  # type: ignore[attr-defined]  # of ours
            for (kind, _, _), future in zip(work, futures, strict=True)
        )
        for (kind, where), count in sorted(went.items()):
            found[f"{kind} at {where} (%)"] = 100 * count / len(took[kind])
    return {"": wall * 1e3, **(found if len(took) > 1 else {})}


def _single(make: Callable[[], Any], plan: Callable[[int], Work]) -> Callable[[int], Any]:
    def measure(size: int) -> Mapping[str, float]:
        work = plan(size)
        with make() as executor:
            return _run(work, executor.submit)

    return measure


def _by_hand(plan: Callable[[int], Work]) -> Callable[[int], Any]:
    def measure(size: int) -> Mapping[str, float]:
        work = plan(size)
        with ExitStack() as stack:
            many = stack.enter_context(ThreadPoolExecutor(32))
            few = stack.enter_context(ThreadPoolExecutor(2))
            processes = stack.enter_context(ProcessPoolExecutor(2))

            def submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
                if fn is tiny or (fn is changes and args[0] == 1.0):
                    future: Future[Any] = Future()
                    future.set_result(fn(*args))
                    return future
                where = {waits: many, works: few}.get(fn, processes)
                return where.submit(fn, *args)

            return _run(work, submit)

    return measure


def _ours(plan: Callable[[int], Work], policy: str = "", *, warm: bool = False) -> Any:
    def measure(size: int) -> Mapping[str, float]:
        from hybrid_compute import HybridExecutor, task
        from hybrid_compute.policy import Always

        declared = {fn: task(fn) for fn in (tiny, waits, holds, works, changes)}
        work = [(kind, declared[fn], args) for kind, fn, args in plan(size)]
        chosen = Always(policy) if policy else None
        with HybridExecutor(8, max_processes=2, policy=chosen) as executor:
            if warm:
                _run(work, executor.submit)
            return _run(work, executor.submit, places=not policy)

    return measure


def _kind(name: str) -> Callable[[int], Work]:
    return lambda size: _kinds(size)[name]


def _adapters(plan: Callable[[int], Work], *fixed: str, hand: bool = True) -> tuple[Adapter, ...]:
    found = [
        Adapter("HybridExecutor", _ours(plan), "hybrid_compute"),
        Adapter("HybridExecutor, warm", _ours(plan, warm=True), "hybrid_compute"),
        *(
            Adapter(f"HybridExecutor, Always({name!r})", _ours(plan, name), "hybrid_compute")
            for name in fixed
        ),
        Adapter("ThreadPoolExecutor(8)", _single(lambda: ThreadPoolExecutor(8), plan)),
        Adapter("ThreadPoolExecutor(32)", _single(lambda: ThreadPoolExecutor(32), plan)),
        Adapter("ProcessPoolExecutor(2)", _single(lambda: ProcessPoolExecutor(2), plan)),
    ]
    if hand:
        found.append(Adapter("hand-routed", _by_hand(plan)))
    return tuple(found)


def _known_submit(policy: str, fn: Callable[..., Any], *args: Any) -> Callable[[int], float]:
    """Return what measures one `submit` of a task that is known, in microseconds."""

    def measure(size: int) -> float:
        from hybrid_compute import HybridExecutor, task
        from hybrid_compute.policy import Always

        declared = task(fn)
        chosen = Always(policy) if policy else None
        took = []
        with HybridExecutor(8, max_processes=2, policy=chosen) as executor:
            for _ in range(50):
                executor.submit(declared, *args).result()
            for _ in range(size):
                begin = perf_counter()
                future = executor.submit(declared, *args)
                took.append(perf_counter() - begin)
                future.result()
        return statistics.median(took) * 1e6

    return measure


CASES = (
    Case(
        name="routing: mixed",
        unit="ms",
        adapters=_adapters(_mixed),
        size=TINY,
        quick_size=TINY // 4,
        rounds=5,
        quick_rounds=2,
        note="Wall time of all. p50: from the ``submit`` of an item of this kind to its callback."
        " In per cent: where this kind ran.",
    ),
    *(
        Case(
            name=f"routing: {kind} alone",
            unit="ms",
            adapters=_adapters(_kind(kind), *fixed, hand=False),
            size=TINY,
            quick_size=TINY // 4,
            rounds=5,
            quick_rounds=3,
        )
        for kind, fixed in (
            ("tiny", ("inline", "thread")),
            ("waits", ("thread", "lane")),
            ("holds", ("thread", "process")),
            ("works", ("thread", "process")),
        )
    ),
    Case(
        name="routing: changing",
        unit="ms",
        adapters=_adapters(_changing, "process"),
        size=TINY,
        quick_size=TINY // 4,
        rounds=5,
        quick_rounds=2,
    ),
    Case(
        name="routing: submit of a known task, p50",
        unit="us",
        adapters=(
            Adapter("HybridExecutor, tiny", _known_submit("", tiny, 1), "hybrid_compute"),
            Adapter("Always('inline'), tiny", _known_submit("inline", tiny, 1), "hybrid_compute"),
            Adapter("HybridExecutor, waits", _known_submit("", waits, 0.0005), "hybrid_compute"),
            Adapter(
                "Always('lane'), waits", _known_submit("lane", waits, 0.0005), "hybrid_compute"
            ),
        ),
        size=2_000,
        quick_size=500,
        rounds=7,
        quick_rounds=3,
    ),
)
