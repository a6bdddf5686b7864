"""How long work waits in a process pool's queue: the p99, where long and short items mix.

The waiting time of an item is what its caller waits for that is not the item itself: from its
`submit()` to the call of its done-callback in this process, less its run as the worker timed it
(`perf_counter` is one clock for all processes of a machine). To the start of the run would
flatter whoever sends batches: an item may start early and its result be kept until the batch is
through. To the end, with the run in it, would drown the wait of an item of 10 ms in its own 10 ms.

Long and short items are calls of one function, which is the hard case for whoever sizes batches
by what a function took so far. The short ones are 100 us of plain Python, or nothing at all; the
long ones compute too, so that on two cores this process has to compete for its turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from threading import Event
from time import perf_counter

from benchmarks._harness import Case
from benchmarks._pools import Library, Measure, Pool, adapters
from benchmarks._work import spin

__all__ = ["CASES"]

BEHIND_BURSTS = 20  # of 200 items each: 4,000 waiting times


def _loops_per_ms() -> float:
    """Measure `spin`. The quickest of many short runs: nobody interrupted that one."""
    loops = 5_000
    for _ in range(10):  # until the interpreter has specialised the loop
        spin(loops)
    return loops / min(end - begin for begin, end in (spin(loops) for _ in range(200))) / 1e3


class _Burst:
    """Items that are submitted one by one, as quickly as that goes, and then awaited."""

    def __init__(self, size: int) -> None:
        self.waits = [0.0] * size
        self._left = iter(range(size - 1, -1, -1))  # next() is atomic; callbacks come from anywhere
        self._done = Event()

    def run(self, pool: Pool, loops: Sequence[int]) -> list[float]:
        """Submit items of so many loops, and return their waiting times in seconds."""
        for index, each in enumerate(loops):
            pool.send(spin, each, self._stamp(index, perf_counter()))
        if not self._done.wait(30):
            raise RuntimeError(f"items did not come back; {next(self._left)} are missing")
        return self.waits

    def _stamp(self, index: int, submitted: float) -> Callable[[tuple[float, float]], None]:
        def stamp(run: tuple[float, float]) -> None:
            begin, end = run
            self.waits[index] = perf_counter() - submitted - (end - begin)
            if next(self._left) == 0:
                self._done.set()

        return stamp


def _waiting(*, ahead: int, long_ms: int, behind: int, short_ms: float) -> Measure:
    """Return what measures bursts of short items, a long one, and short ones again.

    Those who wait are the short ones behind the long one; if there are none, it is the long one.
    """

    def of_library(library: Library) -> Callable[[int], float]:
        def measure(bursts: int) -> float:
            loops = _loops_per_ms()
            short = [round(loops * short_ms)]
            burst = [*short * ahead, round(loops * long_ms), *short * behind]
            waits = []
            with library()() as pool:
                for number in range(bursts + 2):
                    found = _Burst(len(burst)).run(pool, burst)
                    if number >= 2:  # the first ones also start the workers
                        waits += found[-behind or -1 :]
            return statistics.quantiles(waits, n=100, method="inclusive")[-1] * 1e3

        return measure

    return of_library


def _case(name: str, measure: Measure, *, bursts: int, quick_bursts: int, note: str) -> Case:
    return Case(
        name=f"waiting, p99: {name}",
        unit="ms",
        adapters=adapters(measure, without=("joblib",)),
        size=bursts,
        quick_size=quick_bursts,
        rounds=3,
        quick_rounds=1,
        note=note,
    )


def _cases(short: str, short_ms: float) -> tuple[Case, ...]:
    return (
        _case(
            f"10 ms behind 200 of {short}",
            _waiting(ahead=200, long_ms=10, behind=0, short_ms=short_ms),
            bursts=100,
            quick_bursts=25,
            note="One waiting time a burst, of the last item; 100 bursts.",
        ),
        _case(
            f"200 of {short} behind 50 ms",
            _waiting(ahead=0, long_ms=50, behind=200, short_ms=short_ms),
            bursts=BEHIND_BURSTS,
            quick_bursts=5,
            note="The long item comes first. Of the short ones together, from 20 bursts.",
        ),
        _case(
            f"200 of {short} behind 200 and 50 ms",
            _waiting(ahead=200, long_ms=50, behind=200, short_ms=short_ms),
            bursts=BEHIND_BURSTS,
            quick_bursts=5,
            note="The long item sits among short ones, where whoever sends batches has it in one"
            " of them. Of the 200 behind it together, from 20 bursts.",
        ),
    )


CASES = (*_cases("100 us", 0.1), *_cases("nothing", 0.0))
