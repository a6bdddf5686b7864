"""Recordings made by hand, whose every number is known."""

from __future__ import annotations

import json
import random

__all__ = ["HEADER", "lines", "many", "row"]


def _executor(workers, kind):
    return {
        "workers": workers,
        "remote": kind == "remote",
        "isolates": kind != "here",
        "shares_memory": kind == "here",
    }


HEADER = {
    "recording": 1,
    "unix_time": 1_700_000_000.0,
    "cores": 2,
    "executors": {
        "inline": _executor(1, "here"),
        "thread": _executor(4, "here"),
        "process": _executor(2, "process"),
        "gpu": _executor(8, "remote"),
    },
}


def row(number=1, task="f", executor="thread", lane="t_0", **more):
    times = {"submitted_ns": 0, "waited_ns": 0, "took_ns": 1000, "outcome": "ok"}
    return {"id": number, "task": task, "executor": executor, "lane": lane, **times, **more}


def lines(*rows):
    return [json.dumps(each) + "\n" for each in (HEADER, *rows)]


def many(count):
    """Return a recording of so many items, with some of everything in it."""
    rng = random.Random(count)
    kinds = (
        *(("resize", "process", str(40 + each), 4e6) for each in range(4)),
        *(("fetch", "thread", f"pool_{each}", 3e6) for each in range(8)),
        ("classify", "inline", "MainThread", 2e5),
        *(("embed", "gpu", None, 2e7) for _ in range(3)),
    )
    free = {}
    found = []
    now = 0.0
    for number in range(1, count + 1):
        now += rng.expovariate(1 / 60_000)
        kind = rng.choice(kinds)
        task, executor, lane, mean = kind
        start = max(now, free.get(kind, 0)) + rng.random() * 20_000
        took = rng.expovariate(1 / mean)
        free[kind] = start + took
        outcome = rng.choices(("ok", "failed", "retried", "cancelled"), (1000, 2, 4, 1))[0]
        each = row(number, task, executor, lane, outcome=outcome)
        each |= {"submitted_ns": int(now), "waited_ns": int(start - now), "took_ns": int(took)}
        if outcome in ("failed", "retried"):
            each["error"] = "ValueError: a <b>bad</b> & long one"
        if executor in ("process", "gpu"):
            each["predicted_ns"] = int(mean)
        found.append(each)
    return lines(*found)
