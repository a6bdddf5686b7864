"""Logs for the tests: what each item needs is told, so that a replay can be worked out by hand."""

from __future__ import annotations

import attrs

from hybrid_compute.simulate import ExecutorRecord, Header, ItemRecord, Log

# Where the logged run took place: a service, on which nobody is in another's way. So an item needs
# what its line says.
ORIGIN = ExecutorRecord(workers=1000, isolates=True, remote=True)

INLINE = ExecutorRecord(workers=1, shares_memory=True, blocks=True, dispatch=0.0)
THREAD = ExecutorRecord(workers=4, shares_memory=True, dispatch=0.0)
PROCESS = ExecutorRecord(workers=2, isolates=True, dispatch=0.0)
FLEET = {"inline": INLINE, "thread": THREAD, "process": PROCESS}


def item(number=1, at=0.0, *, wall=1.0, cpu=0.0, gil=1.0, executor="origin", **more):
    """Return the record of an item that takes `wall` seconds, `cpu` of them computing."""
    return ItemRecord(
        **{
            "id": number,
            "task": "work",
            "submitted": at,
            "executor": executor,
            "started": at,
            "ended": at + (wall or 0.0),
            "ok": True,
            "wall": wall,
            "cpu": cpu,
            "gil": gil,
            **more,
        }
    )


def log_of(*items, cores=2, **fleet):
    """Return a log of some items, whose fleet has `FLEET`, the origin, and more."""
    return Log(
        header=Header(cores=cores, fleet={**FLEET, "origin": ORIGIN, **fleet}),
        items=tuple(sorted(items, key=lambda each: (each.submitted, each.id))),
    )


def burst(count, **needs):
    """Return so many equal items that are all submitted at once."""
    return [item(number, **needs) for number in range(1, count + 1)]


def numbered(*items):
    """Return items with ids in order of submission."""
    ordered = sorted(items, key=lambda each: each.submitted)
    return [attrs.evolve(each, id=number) for number, each in enumerate(ordered, 1)]
