"""What each item of a log needs, wherever it runs: processor time, and time that only passes.

Owns the way back from what a run took to what its work needs. Threads that hold the GIL, and
processes on few cores, hold each other up, so a work's wall time is its own only in part: what
others computed meanwhile, up to a fair share, is taken off. Pure.
"""

from __future__ import annotations

import heapq
import math
import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping

import attrs

from hybrid_compute.simulate.log import ExecutorRecord, ItemRecord, Log

__all__ = ["Need", "Served", "Service", "needs_of", "serve_of", "services_of"]

# Runs of one task that together use more than so many cores' worth of one process do not hold
# the GIL: those that do use one, and the clocks are not that wrong.
_RELEASES = 1.1

# Seconds beyond the work itself, for executors of which a log says nothing: orders of magnitude,
# from benchmarks/ on two cores.
_THREAD, _PROCESS, _REMOTE = 2e-5, 1e-4, 3e-4


@attrs.frozen(kw_only=True)
class Need:
    """What one item needs when nothing is in its way, in seconds.

    Attributes:
        held: of processor time with the GIL held.
        free: of processor time without it.
        waits: in which it computes nothing.
    """

    held: float
    free: float
    waits: float

    @property
    def alone(self) -> float:
        """Seconds that it takes with a core of its own."""
        return self.held + self.free + self.waits


@attrs.frozen
class Served:
    """When a worker was busy with an item of the log.

    Attributes:
        item: the item.
        begun: when the worker took it.
        wall: seconds of the work itself: measured, or else all until its end.
        measured: whether it was measured.
        first: whether it was the first that its worker got, which had to start.
    """

    item: ItemRecord
    begun: float
    wall: float
    measured: bool
    first: bool

    @property
    def busy(self) -> float:
        """Seconds until the outcome was known."""
        return self.item.ended - self.begun


@attrs.frozen(kw_only=True)
class Service:
    """What an executor costs beyond the work itself.

    Attributes:
        dispatch: seconds for each item.
        start: seconds until the first worker takes work.
    """

    dispatch: float
    start: float


def serve_of(log: Log) -> tuple[Served, ...]:
    """Return, for each item that was started, when a worker was busy with it."""
    by_executor: dict[str, list[ItemRecord]] = defaultdict(list)
    for item in log.items:
        if item.started is not None and item.executor is not None:
            by_executor[item.executor].append(item)
    served: list[Served] = []
    for name, items in by_executor.items():
        served += _serve(items, log.header.fleet[name])
    served.sort(key=lambda each: (each.item.submitted, each.item.id))
    return tuple(served)


def _serve(items: list[ItemRecord], executor: ExecutorRecord) -> list[Served]:
    items.sort(key=lambda item: (item.started or 0.0, item.id))
    # "started" of a process says that the item was sent, perhaps behind others: a worker begins
    # it once it has done those.
    sent_ahead = executor.isolates and not executor.remote
    free = [-math.inf] * executor.workers
    served: list[Served] = []
    for item in items:
        assert item.started is not None  # noqa: S101 - those that were not are not here
        begun, before = item.started, 0.0
        if sent_ahead:
            before = heapq.heappop(free)
            begun = min(max(begun, before), item.ended)
            heapq.heappush(free, item.ended)
        span = max(0.0, item.ended - begun - (executor.rtt or 0.0))
        wall = span if item.wall is None else item.wall
        served.append(
            Served(item, begun, wall, measured=item.wall is not None, first=before == -math.inf)
        )
    return _without_start(served)


def _without_start(served: list[Served]) -> list[Served]:
    """Take the start of a worker off the work that it did first, if others tell how much it is."""
    usual: dict[str, list[float]] = defaultdict(list)
    for each in served:
        if not each.first:
            usual[each.item.task].append(each.wall)
    return [
        attrs.evolve(each, wall=min(each.wall, statistics.median(usual[each.item.task])))
        if each.first and not each.measured and usual[each.item.task]
        else each
        for each in served
    ]


def services_of(
    served: Iterable[Served], fleet: Mapping[str, ExecutorRecord]
) -> dict[str, Service]:
    """Return what each executor costs beyond the work: as the fleet says, or as the log shows."""
    by_executor: dict[str, list[Served]] = defaultdict(list)
    for each in served:
        by_executor[each.item.executor or ""].append(each)
    return {name: _service(record, by_executor[name]) for name, record in fleet.items()}


def _service(record: ExecutorRecord, served: list[Served]) -> Service:
    beyond = [max(0.0, each.busy - each.wall - (record.rtt or 0.0)) for each in served]
    # Where the work was not measured apart, all that it took counts as work already.
    measured = [much for much, each in zip(beyond, served, strict=True) if each.measured]
    dispatch = 0.0 if served or record.blocks else _usual(record)
    start = 0.0
    if measured:
        dispatch = statistics.median(measured)
    if record.isolates and not record.remote:
        firsts = [much for much, each in zip(beyond, served, strict=True) if each.first]
        start = max(0.0, statistics.fmean(firsts) - dispatch) if firsts else 0.0
    return Service(
        dispatch=dispatch if record.dispatch is None else record.dispatch,
        start=start if record.start is None else record.start,
    )


def _usual(record: ExecutorRecord) -> float:
    if record.remote:
        return _REMOTE
    return _THREAD if record.shares_memory else _PROCESS


def needs_of(served: tuple[Served, ...], log: Log) -> dict[int, Need]:
    """Return what each item needs, by its id; nothing for those that never started."""
    fleet = log.header.fleet
    held = _held_by_task(served, fleet)
    # What was measured comes first: of the others of a task, its share of computing is known then.
    needs = _needs_of(served, log, {}, held)
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in served:
        if each.item.cpu is not None:
            need, total = needs[each.item.id], totals[each.item.task]
            total[0] += need.held + need.free
            total[1] += need.alone
    shares = {task: cpu / alone for task, (cpu, alone) in totals.items() if alone > 0}
    if any(each.item.cpu is None and each.item.task in shares for each in served):
        needs = _needs_of(served, log, shares, held)
    never = Need(held=0.0, free=0.0, waits=0.0)
    return {item.id: never for item in log.items} | needs


def _needs_of(
    served: tuple[Served, ...], log: Log, shares: Mapping[str, float], held: Mapping[str, float]
) -> dict[int, Need]:
    fleet, cores = log.header.fleet, log.header.cores

    def record(each: Served) -> ExecutorRecord:
        return fleet[each.item.executor or ""]

    def cpu_of(each: Served) -> float:
        if each.item.cpu is not None:
            return min(each.item.cpu, each.wall)
        if each.item.task in shares:
            return each.wall * shares[each.item.task]
        # Not known: what a log shows of a run then comes out of its replay. A process has its
        # core to itself, threads have no more than what they took.
        return each.wall if record(each).isolates or record(each).blocks else 0.0

    def holds(each: Served) -> bool:
        return record(each).shares_memory and held[each.item.task] >= 0.5

    uses = {each.item.id: cpu_of(each) for each in served}
    computing = [
        (each, uses[each.item.id])
        for each in served
        if uses[each.item.id] > 0 and not record(each).remote
    ]
    holders = _Load(pair for pair in computing if holds(pair[0]))
    others = _Load(pair for pair in computing if not holds(pair[0]))
    needs = {}
    for each in served:
        cpu = uses[each.item.id]
        waits = each.wall - cpu
        if waits > 0 and cpu > 0 and not record(each).remote:
            waits -= _held_up(each, cpu, holders, others, holds=holds(each), cores=cores)
        part = held[each.item.task] if each.item.gil is None else each.item.gil
        needs[each.item.id] = Need(held=cpu * part, free=cpu * (1 - part), waits=max(0.0, waits))
    return needs


def _held_by_task(
    served: Iterable[Served], fleet: Mapping[str, ExecutorRecord]
) -> dict[str, float]:
    """Return the part of their processor time in which the runs of each task hold the GIL."""
    runs: dict[str, list[Served]] = defaultdict(list)
    for each in served:
        runs[each.item.task].append(each)
    held = {}
    for task, all_of_it in runs.items():
        known = [each.item.gil for each in all_of_it if each.item.gil is not None]
        if known:
            held[task] = statistics.fmean(known)
            continue
        threads = [
            each
            for each in all_of_it
            if each.item.cpu is not None and fleet[each.item.executor or ""].shares_memory
        ]
        covered = _covered(threads)
        used = sum(each.item.cpu or 0.0 for each in threads)
        held[task] = 0.0 if covered and used / covered > _RELEASES else 1.0
    return held


def _covered(runs: Iterable[Served]) -> float:
    """Return the seconds in which at least one of them was on."""
    total, until = 0.0, float("-inf")
    for each in sorted(runs, key=lambda each: each.begun):
        total += max(0.0, each.item.ended - max(each.begun, until))
        until = max(until, each.item.ended)
    return total


def _held_up(
    each: Served, cpu: float, holders: _Load, others: _Load, *, holds: bool, cores: int
) -> float:
    """Return how long an item was kept from computing: by fair shares, and no more."""
    span = each.busy
    if span <= 0:
        return 0.0
    used_held, many_held = holders.between(each.begun, each.item.ended)
    used_free, many_free = others.between(each.begun, each.item.ended)
    delay = 0.0
    if holds:  # one of them runs at a time
        many_held = max(0.0, many_held - 1)
        delay = min(max(0.0, used_held - cpu), many_held * cpu)
        rivals, used = many_free, used_free
    else:
        rivals = max(0.0, many_free - 1) + min(1.0, many_held)
        used = max(0.0, used_free - cpu) + used_held
    # All the rest share the cores, of which this one has as many as there are left.
    return delay + max(0.0, min(used, rivals * cpu) / cores - cpu * (cores - 1) / cores)


class _Load:
    """How much of some runs, and how many of them, fell between two instants.

    Each run's processor time counts as spread evenly over it; so both are integrals of steps,
    which are added up once, and looked up between.
    """

    def __init__(self, runs: Iterable[tuple[Served, float]]) -> None:
        steps: dict[float, list[float]] = {}
        for each, cpu in runs:
            span = each.busy
            if span <= 0:
                continue
            for at, sign in ((each.begun, 1), (each.item.ended, -1)):
                step = steps.setdefault(at, [0.0, 0.0])
                step[0] += sign * cpu / span
                step[1] += sign
        self._at = sorted(steps)
        self._sums: list[tuple[float, float]] = []  # both integrals up to that instant
        self._rates: list[tuple[float, float]] = []  # and their slopes behind it
        used = many = use_rate = count = 0.0
        before = 0.0
        for at in self._at:
            used += use_rate * (at - before)
            many += count * (at - before)
            use_rate += steps[at][0]
            count += steps[at][1]
            before = at
            self._sums.append((used, many))
            self._rates.append((use_rate, count))

    def between(self, begin: float, end: float) -> tuple[float, float]:
        """Return the seconds that were computed, and how many did so on average."""
        used_before, many_before = self._until(begin)
        used, many = self._until(end)
        return used - used_before, (many - many_before) / (end - begin)

    def _until(self, at: float) -> tuple[float, float]:
        index = bisect_right(self._at, at) - 1
        if index < 0:
            return 0.0, 0.0
        passed = at - self._at[index]
        (used, many), (use_rate, count) = self._sums[index], self._rates[index]
        return used + use_rate * passed, many + count * passed
