"""Advice: what the functions of a program are, and what declaring them would gain.

Owns the way from the probe's lines to a log, the names of the kinds, and the comparison, which is
`simulate`'s: the program as it was, against the same with one function declared, and with all that
gain by it. Pure but for reading the lines.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from hybrid_compute.policy import Adaptive
from hybrid_compute.simulate import ExecutorRecord, Header, ItemRecord, Log, simulate
from hybrid_compute.simulate.needs import needs_of, serve_of

__all__ = ["Advice", "Found", "Kind", "advise", "log_of"]

Kind = Literal["tiny", "I/O", "GIL-bound", "GIL-free", "computes"]

TINY = 50e-6  # seconds: a hand-over to a thread costs some 20, there and back
_WAITS = 0.3  # less than this part of its time is CPU: it waits
_MOST = 4000  # calls that are simulated, the first ones
_FUNCTIONS = 12  # that are looked at one by one, the busiest
_SIDE_BY_SIDE = 1.5  # cores wanted by runs that do not hold the GIL, at least; who hold it: 1
_GAIN = 1.05  # less is not worth a word


@attrs.frozen(kw_only=True)
class Found:
    """What was found out about one function.

    Attributes:
        name: its name.
        pool: "thread" or "process": where the program runs it.
        kind: what it is; "computes" where it was never on a thread with others, so that nobody
            knows whether it holds the GIL.
        calls: how many there were.
        failed: how many items raised.
        wall: seconds that a call takes by itself, the median.
        cpu: the part of its time, from 0 to 1, in which it computes.
        total: seconds of all its calls together.
        bytes: pickled, of a call and its result together, the median; None: nothing was pickled.
        gain: how many times quicker the program would be done with it declared, alone; None: it
            was not simulated.
        advice: what to do, in words.
    """

    name: str
    pool: str
    kind: Kind
    calls: int
    failed: int
    wall: float
    cpu: float
    total: float
    bytes: int | None
    gain: float | None
    advice: str


@attrs.frozen(kw_only=True)
class Advice:
    """What is said about a program.

    Attributes:
        functions: those that its pools ran, the busiest first.
        measured: seconds from the first submission to the last result.
        as_it_is: the same, as the simulation sees it: what the others are compared with.
        declared: the same with all those declared that gain by it.
        left_out: calls that were not simulated, since there were too many.
        cores: that the program could use.
        load: programs that wanted a core when it began, on average over a minute.
    """

    functions: tuple[Found, ...]
    measured: float
    as_it_is: float
    declared: float
    left_out: int
    cores: int
    load: float


def log_of(lines: Iterable[str]) -> tuple[Log, dict[int, dict[str, Any]], float]:
    """Return the log that the probe's lines make; what was noted of each item, by its id; the load.

    A line that is no JSON, since the program was killed, is passed over.
    """
    cores, workers, load = 1, {"thread": 0, "process": 0}, 0.0
    calls: dict[str, dict[str, Any]] = defaultdict(lambda: {"bytes": None})
    for line in lines:
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if "id" in data:
            call = calls[data.pop("id")]
            if "bytes" in data:
                data["bytes"] += call["bytes"] or 0
            call.update(data)
        elif "pool" in data:
            workers[data["pool"]] = max(workers[data["pool"]], data["workers"])
        else:
            cores, load = data.get("cores", cores), data.get("load", load)
    done = [each for each in calls.values() if "fn" in each and "ended" in each]
    done.sort(key=lambda each: float(each["submitted"]))
    begun = done[0]["submitted"] if done else 0.0
    frees = _release_the_gil(done)
    items, noted = [], {}
    for number, each in enumerate(done, 1):
        noted[number] = each
        submitted = each["submitted"] - begun
        started = max(submitted, each["started"] - begun)
        ended = max(started, each["ended"] - begun)
        # Less what it waited for a core that another program had.
        wall = max(0.0, ended - started - each["delay"])
        items.append(
            ItemRecord(
                id=number,
                task=each["fn"],
                submitted=submitted,
                executor=each["pool"],
                started=started,
                ended=ended,
                ok=each["ok"],
                wall=wall,
                cpu=min(each["cpu"], wall),
                gil=0.0 if each["fn"] in frees else None,
                bytes=each["bytes"],
                declared=False,
                pinned="process" if each["pool"] == "process" else None,
            )
        )
    fleet = {
        "inline": ExecutorRecord(workers=1, shares_memory=True, blocks=True),
        "thread": ExecutorRecord(
            workers=workers["thread"] or min(32, cores + 4), shares_memory=True
        ),
        "process": ExecutorRecord(workers=workers["process"] or cores, isolates=True, start=0.1),
        "lane": ExecutorRecord(workers=64, shares_memory=True),
    }
    return Log(header=Header(cores=cores, fleet=fleet), items=tuple(items)), noted, load


def _release_the_gil(calls: Iterable[dict[str, Any]]) -> set[str]:
    """Return the functions whose runs on threads have wanted more than one core at a time.

    Who waits for the GIL sleeps; who waits for a core stands in line for one, which the system
    counts. So this also holds where other programs are busy.
    """
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in calls:
        if each["pool"] == "thread":
            runs[each["fn"]].append(each)
    found = set()
    for name, all_of_it in runs.items():
        covered, until = 0.0, -math.inf
        for each in sorted(all_of_it, key=lambda each: float(each["started"])):
            covered += max(0.0, each["ended"] - max(each["started"], until))
            until = max(until, each["ended"])
        wanted = math.fsum(each["cpu"] + each["delay"] for each in all_of_it)
        if covered > 0 and wanted / covered > _SIDE_BY_SIDE:
            found.add(name)
    return found


def advise(lines: Iterable[str]) -> Advice:
    """Return what the probe's lines say about a program."""
    whole, noted, load = log_of(lines)
    log = attrs.evolve(whole, items=whole.items[:_MOST])
    before = simulate(log).makespan
    groups: dict[str, list[ItemRecord]] = defaultdict(list)
    for item in whole.items:
        groups[item.task].append(item)
    kinds = _kinds(log)
    order = sorted(groups, key=lambda name: -sum(each.wall or 0.0 for each in groups[name]))
    found: list[Found] = []
    gainers: dict[str, str | None] = {}
    for place, name in enumerate(order):
        gain, where = None, None
        if place < _FUNCTIONS and name in kinds and before > 0:
            # By the policy, which has to learn it first; or by its author's word, at once.
            computes = kinds[name][0] in ("GIL-bound", "computes")
            tries = {
                each: _declared(log, {name: each}) for each in (None, "process")[: 1 + computes]
            }
            # The policy finds out by itself what a word from the author would only say sooner.
            where = min(tries, key=lambda each: tries[each] * (1.1 if each else 1.0))
            gain = before / max(1e-9, tries[where])
            if gain >= _GAIN:
                gainers[name] = where
        found.append(_found(name, groups[name], noted, kinds.get(name), gain=gain, where=where))
    return Advice(
        functions=tuple(found),
        measured=max((each.ended for each in whole.items), default=0.0),
        as_it_is=before,
        declared=min(before, _declared(log, gainers)) if gainers else before,
        left_out=len(whole.items) - len(log.items),
        cores=log.header.cores,
        load=load,
    )


def _declared(log: Log, where: dict[str, str | None]) -> float:
    """Return the seconds that the program would take with these functions declared.

    Args:
        log: what it did.
        where: the executor that each is declared for; None: the policy chooses.
    """
    items = [
        attrs.evolve(each, declared=True, pinned=where[each.task]) if each.task in where else each
        for each in log.items
    ]
    changed = attrs.evolve(log, items=tuple(items))
    return simulate(changed, policy=Adaptive(cores=log.header.cores)).makespan


def _kinds(log: Log) -> dict[str, tuple[Kind, float, float]]:
    """Return of each function its kind, the seconds of a call, and the part of it that is CPU."""
    served = serve_of(log)
    needs = needs_of(served, log)
    runs: dict[str, list[Any]] = defaultdict(list)
    for each in served:
        runs[each.item.task].append(each)
    found: dict[str, tuple[Kind, float, float]] = {}
    for name, all_of_it in runs.items():
        mine = [needs[each.item.id] for each in all_of_it]
        alone = statistics.median(need.alone for need in mine)
        total = math.fsum(need.alone for need in mine)
        computes = math.fsum(need.held + need.free for need in mine)
        part = computes / total if total > 0 else 1.0
        kind: Kind = "computes"
        if alone < TINY:
            kind = "tiny"
        elif part < _WAITS:
            kind = "I/O"
        elif all_of_it[0].item.executor == "thread" and _overlap(all_of_it):
            held = math.fsum(need.held for need in mine)
            kind = "GIL-bound" if held >= computes / 2 else "GIL-free"
        found[name] = kind, alone, part
    return found


def _overlap(runs: Sequence[Any]) -> bool:
    """Say whether two runs were ever on at the same time."""
    until = -math.inf
    for each in sorted(runs, key=lambda each: float(each.begun)):
        if each.begun < until:
            return True
        until = max(until, each.item.ended)
    return False


_ADVICE: dict[Kind, str] = {
    "tiny": "a hand-over takes longer than the call: call it directly, pass several at once, or "
    "declare it with @task, and its submitter runs it",
    "I/O": "it waits, and threads are right for that",
    "GIL-bound": "it computes and holds the GIL, so threads take turns: declare it with {task}, "
    "and it runs in processes side by side, if it changes nothing in its caller's memory",
    "GIL-free": "it computes and lets go of the GIL: threads run it side by side",
    "computes": "it computes",
}


def _found(
    name: str,
    items: list[ItemRecord],
    noted: dict[int, dict[str, Any]],
    known: tuple[Kind, float, float] | None,
    *,
    gain: float | None,
    where: str | None,
) -> Found:
    calls = [noted[each.id]["calls"] for each in items]
    walls = [(each.wall or 0.0) for each in items]
    kind, wall, cpu = known or ("computes", statistics.median(walls), 1.0)
    if max(calls) > 1:  # chunks: what one call takes
        wall = math.fsum(walls) / sum(calls)
        kind = "tiny" if wall < TINY else kind
    sizes = [each.bytes for each in items if each.bytes is not None]
    pool = items[0].executor or "thread"
    task = "@task" if where is None else f"@task(executor={where!r})"
    advice = _ADVICE[kind].format(task=task)
    if gain is not None and gain >= _GAIN:
        if kind in ("I/O", "GIL-free", "computes"):
            advice += f"; declared with {task} it would find more workers, or better ones"
    elif kind == "GIL-bound":
        advice += "; here it would gain nothing: something else takes longer"
    elif kind == "computes" and pool == "process":
        advice += ", and processes are right for that"
    elif kind == "computes":
        advice += "; its runs were never on at the same time, so nobody knows if it holds the GIL"
    return Found(
        name=name,
        pool=pool,
        kind=kind,
        calls=sum(calls),
        failed=sum(not each.ok for each in items),
        wall=wall,
        cpu=cpu,
        total=math.fsum(walls),
        bytes=round(statistics.median(sizes)) if sizes else None,
        gain=gain,
        advice=advice,
    )
