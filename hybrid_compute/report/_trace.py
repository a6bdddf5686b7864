"""The Chrome trace format, which https://ui.perfetto.dev opens: a process per executor.

Owns the events: a complete one (X) for each attempt, names (M), and two counters (C). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hybrid_compute.report._run import Attempt, Run

__all__ = ["trace_of"]

_COUNTERS = 2000  # values of each at most: more would only take time to load


def trace_of(run: Run) -> str:
    """Return a recording as JSON in the Chrome trace format; times are microseconds."""
    data = {
        "displayTimeUnit": "ms",
        "otherData": {"recording": run.name, "unix_time": run.unix_time, "cores": run.cores},
        "traceEvents": [*_events(run), *_counters(run)],
    }
    return json.dumps(data, separators=(",", ":"))


def _events(run: Run) -> Iterator[dict[str, Any]]:
    processes: dict[str, int] = {}
    thread = 0
    for lane in run.lanes:
        executor = lane.executor or "nobody"
        if executor not in processes:
            pid = processes[executor] = len(processes) + 1
            yield _named("process_name", pid, 0, executor)
            yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
        pid = processes[executor]
        # Bars of one thread must not overlap unless one is inside the other: a thread each.
        for track in range(lane.tracks):
            name = lane.name or executor
            shown = f"{name} ({track + 1})" if track else name
            yield _named("thread_name", pid, thread + track + 1, shown)
        for each in lane.attempts:
            yield _bar(each, pid, thread + each.track + 1)
        thread += lane.tracks


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _bar(each: Attempt, pid: int, tid: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "id": each.id,
        "outcome": each.outcome,
        "waited_us": (each.begun - each.submitted) / 1e3,
    }
    if each.attempt != 1:
        about["attempt"] = each.attempt
    if each.calls != 1:
        about["calls"] = each.calls
    if each.error is not None:
        about["error"] = each.error
    if each.predicted is not None:
        about["predicted_us"] = each.predicted / 1e3
    bar = {
        "ph": "X",
        "name": each.task,
        "cat": each.outcome,
        "pid": pid,
        "tid": tid,
        "ts": each.begun / 1e3,
        "dur": (each.ended - each.begun) / 1e3,
        "args": about,
    }
    if each.outcome in ("failed", "unfinished"):
        bar["cname"] = "terrible"
    elif each.outcome == "retried":
        bar["cname"] = "bad"
    return bar


def _counters(run: Run) -> Iterator[dict[str, Any]]:
    steps: list[tuple[int, int, int]] = []
    for each in run.attempts:
        steps.append((each.submitted, 1, 0))
        if each.started is None:
            steps.append((each.ended, -1, 0))
        else:
            steps.append((each.started, -1, 1))
            steps.append((each.ended, 0, -1))
    steps.sort()
    every = max(1, len(steps) // _COUNTERS)
    queued = running = 0
    for place, (time, more, runs) in enumerate(steps):
        queued += more
        running += runs
        if place % every == 0 or place == len(steps) - 1:
            for name, value in (("queued", queued), ("running", running)):
                yield {"ph": "C", "name": name, "pid": 0, "ts": time / 1e3, "args": {name: value}}
