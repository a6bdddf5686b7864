"""What a run took, whether it was real or simulated: the same figures for both.

Owns the sums. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from hybrid_compute.simulate.log import ExecutorRecord, Log
from hybrid_compute.simulate.needs import serve_of

__all__ = ["Report", "Run", "Usage", "report_of", "report_of_log"]


@attrs.frozen(kw_only=True)
class Run:
    """One item's way through a fleet, in seconds of the log's clock.

    Attributes:
        id: number of the item in the log.
        task: its name.
        executor: where it ran; None: nobody might run it.
        submitted: when it was submitted.
        begun: when a worker took it.
        ended: when its outcome was known.
        busy: seconds for which a worker was busy with it.
        size_bytes: of its arguments and its result, as far as is known.
    """

    id: int
    task: str
    executor: str | None
    submitted: float
    begun: float
    ended: float
    busy: float
    size_bytes: int


@attrs.frozen(kw_only=True)
class Usage:
    """What one executor did.

    Attributes:
        items: how many it ran.
        workers: how many it has.
        busy: seconds for which its workers were busy, all together.
        utilisation: the part of its workers' time, from 0 to 1, in which they were.
        wait_p50: seconds from submission to a worker that half of the items waited at most.
        wait_p99: the same for 99 of 100 items.
        cost: by its price; 0 if it has none.
    """

    items: int
    workers: int
    busy: float
    utilisation: float
    wait_p50: float
    wait_p99: float
    cost: float


@attrs.frozen(kw_only=True)
class Report:
    """What a whole run took.

    Attributes:
        makespan: seconds from the first submission to the last outcome.
        cost: all executors' together.
        items: how many ran.
        refused: how many nobody might run.
        wait_p50: as in `Usage`, of all items.
        wait_p99: as in `Usage`, of all items.
        executors: what each executor of the fleet did, by name.
        tasks: how many items of each task ran where: by task, then by executor.
        runs: each item's way, in order of submission.
    """

    makespan: float
    cost: float
    items: int
    refused: int
    wait_p50: float
    wait_p99: float
    executors: Mapping[str, Usage]
    tasks: Mapping[str, Mapping[str, int]]
    runs: tuple[Run, ...]

    def as_data(self) -> dict[str, Any]:
        """Return all but the single runs, as JSON takes it."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "runs")


def report_of(runs: Iterable[Run], fleet: Mapping[str, ExecutorRecord]) -> Report:
    """Add runs up."""
    runs = tuple(sorted(runs, key=lambda run: (run.submitted, run.id)))
    ran = [run for run in runs if run.executor is not None]
    makespan = max((run.ended for run in ran), default=0.0) - min(
        (run.submitted for run in ran), default=0.0
    )
    by_executor: dict[str, list[Run]] = {name: [] for name in fleet}
    tasks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for run in ran:
        assert run.executor is not None  # noqa: S101 - see above
        by_executor[run.executor].append(run)
        tasks[run.task][run.executor] += 1
    executors = {name: _usage(by_executor[name], fleet[name], makespan) for name in fleet}
    waits = sorted(run.begun - run.submitted for run in ran)
    return Report(
        makespan=makespan,
        cost=math.fsum(each.cost for each in executors.values()),
        items=len(ran),
        refused=len(runs) - len(ran),
        wait_p50=_percentile(waits, 0.5),
        wait_p99=_percentile(waits, 0.99),
        executors=executors,
        tasks={task: dict(where) for task, where in tasks.items()},
        runs=runs,
    )


def _usage(runs: list[Run], record: ExecutorRecord, makespan: float) -> Usage:
    busy = math.fsum(run.busy for run in runs)
    waits = sorted(run.begun - run.submitted for run in runs)
    return Usage(
        items=len(runs),
        workers=record.workers,
        busy=busy,
        utilisation=busy / (record.workers * makespan) if makespan else 0.0,
        wait_p50=_percentile(waits, 0.5),
        wait_p99=_percentile(waits, 0.99),
        cost=record.cost(
            calls=len(runs), seconds=busy, size_bytes=sum(run.size_bytes for run in runs)
        ),
    )


def _percentile(values: Sequence[float], part: float) -> float:
    """Return the nearest rank of sorted values; 0 if there are none."""
    return values[max(0, math.ceil(part * len(values)) - 1)] if values else 0.0


def report_of_log(log: Log, fleet: Mapping[str, ExecutorRecord] | None = None) -> Report:
    """Return what the logged run itself took.

    Args:
        log: the log.
        fleet: for its prices; None takes those of the log.
    """
    runs = [
        Run(
            id=each.item.id,
            task=each.item.task,
            executor=each.item.executor,
            submitted=each.item.submitted,
            begun=each.begun,
            ended=each.item.ended,
            busy=max(0.0, each.busy - (log.header.fleet[each.item.executor or ""].rtt or 0.0)),
            size_bytes=each.item.bytes or 0,
        )
        for each in serve_of(log)
    ]
    return report_of(runs, log.header.fleet if fleet is None else fleet)
