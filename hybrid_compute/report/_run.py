"""A recording, read: the attempts, and in which lane of a picture each belongs.

Owns how lines become attempts, and what is known of their times. Pure but for the reading.

A lane is a thread, a worker process, or an executor whose workers are not told apart. What would
overlap in a lane is put side by side, in tracks. A worker process does one call after the other,
but several travel in one message, and their results come back together; so a call begins when the
one before it has ended, and those that came back together share the time between them.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from hybrid_compute.errors import RecordingError
from hybrid_compute.recording import VERSION

__all__ = ["OUTCOMES", "Attempt", "Lane", "Run", "parse_run", "read_run"]

OUTCOMES = ("ok", "failed", "retried", "cancelled", "unfinished")
_TOGETHER_NS = 60_000  # results that come within this time of each other came in one message
_NUMBERS = ("id", "submitted_ns", "took_ns")


@attrs.define(kw_only=True)
class Attempt:
    """One attempt of one item, or all calls of one chunk.

    Attributes:
        id: number of the item.
        task: its name.
        executor: who had it; None: nobody.
        lane: which thread or worker; None: not known.
        submitted: nanoseconds since the recording began.
        started: the same; None: its work never began.
        ended: the same.
        outcome: one of `OUTCOMES`.
        attempt: its number, from 1.
        calls: how many calls it is.
        predicted: nanoseconds from `submitted` to `ended`, as foreseen; None: they were not.
        error: what was raised; None: nothing.
        work: nanoseconds that its calls took where they ran; None: only known of chunks.
        track: of its lane, from 0.
    """

    id: int
    task: str
    executor: str | None
    lane: str | None
    submitted: int
    started: int | None
    ended: int
    outcome: str
    attempt: int = 1
    calls: int = 1
    predicted: int | None = None
    error: str | None = None
    work: int | None = None
    track: int = 0

    @property
    def begun(self) -> int:
        """When its bar begins: where its work did, or else where it ended."""
        return self.ended if self.started is None else self.started


@attrs.frozen(kw_only=True)
class Lane:
    """One line of a picture.

    Attributes:
        executor: whose worker it is; None: nobody took these items.
        name: the thread's name, or the worker's process id; None: they are not told apart.
        attempts: in order of their begin.
        tracks: how many of them stand side by side at the most.
    """

    executor: str | None
    name: str | None
    attempts: tuple[Attempt, ...]
    tracks: int


@attrs.frozen(kw_only=True)
class Run:
    """A whole recording.

    Attributes:
        name: of the file.
        unix_time: when it began.
        cores: that the program could use.
        executors: by name: `workers`, `remote`, `isolates`, `shares_memory`.
        lanes: in the order of the fleet.
        tasks: names, the busiest first.
        length: nanoseconds until the last attempt ended.
        cut: whether the last line was not whole, since the program was killed.
    """

    name: str
    unix_time: float
    cores: int
    executors: Mapping[str, Mapping[str, Any]]
    lanes: tuple[Lane, ...]
    tasks: tuple[str, ...]
    length: int
    cut: bool = False

    @property
    def attempts(self) -> list[Attempt]:
        """All of them, lane by lane."""
        return [each for lane in self.lanes for each in lane.attempts]


def read_run(path: str | Path) -> Run:
    """Read a recording.

    Raises:
        OSError: the file cannot be read.
        RecordingError: it is no recording, or a line says what it should not.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        return parse_run(lines, name=str(path))


def parse_run(lines: Iterable[str], *, name: str) -> Run:
    """Read a recording from its lines; see `read_run`."""
    header: dict[str, Any] | None = None
    attempts: list[Attempt] = []
    cut = False
    for number, line in enumerate(lines, 1):
        if cut:
            raise RecordingError(f"{name}, line {number - 1}: no JSON; it was changed by hand?")
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            cut = header is not None  # as the last one of a program that was killed
            if cut:
                continue
            data = None
        if header is None:
            header = _header(name, data)
        else:
            attempts.append(_attempt(name, number, data))
    if header is None:
        raise RecordingError(f"{name} is empty; a recording begins with a header")
    executors = header["executors"]
    lanes = _lanes(attempts, executors)
    busy: dict[str, int] = {}
    for each in attempts:
        busy[each.task] = busy.get(each.task, 0) + each.ended - each.begun
    return Run(
        name=Path(name).name,
        unix_time=header["unix_time"],
        cores=header["cores"],
        executors=executors,
        lanes=lanes,
        tasks=tuple(sorted(busy, key=lambda task: (-busy[task], task))),
        length=max((each.ended for each in attempts), default=0),
        cut=cut,
    )


def _header(name: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or "recording" not in data:
        raise RecordingError(
            f"{name} is no recording: its first line is no header. HybridExecutor.record writes "
            "them; what DecisionLog writes is for `hybrid-compute replay`"
        )
    if data["recording"] != VERSION:
        raise RecordingError(
            f"{name}: version {data['recording']!r} is not the one that is read here, {VERSION}"
        )
    for key, kind in (("unix_time", (int, float)), ("cores", int), ("executors", dict)):
        if not isinstance(data.get(key), kind):
            raise RecordingError(f"{name}, line 1, {key!r}: {data.get(key)!r} cannot be")
    return data


def _attempt(name: str, number: int, data: Any) -> Attempt:
    try:
        if any(type(data[key]) is not int for key in _NUMBERS):
            raise TypeError("no whole number")
        if data["outcome"] not in OUTCOMES or type(data["task"]) is not str:
            raise TypeError("no such outcome")
        submitted, waited = data["submitted_ns"], data["waited_ns"]
        started = None if waited is None else submitted + waited
        return Attempt(
            id=data["id"],
            task=data["task"],
            executor=data["executor"],
            lane=data["lane"],
            submitted=submitted,
            started=started,
            ended=(submitted if started is None else started) + data["took_ns"],
            outcome=data["outcome"],
            attempt=data.get("attempt", 1),
            calls=data.get("calls", 1),
            predicted=data.get("predicted_ns"),
            error=data.get("error"),
            work=data.get("work_ns"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordingError(
            f"{name}, line {number}: {str(data)[:60]!r} is no attempt ({error!r})"
        ) from None


# Lanes.


def _natural(text: str | None) -> list[tuple[int, str]]:
    """Return what sorts worker 2 before worker 10."""
    parts = re.split(r"(\d+)", text or "")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _lanes(attempts: list[Attempt], executors: Mapping[str, Any]) -> tuple[Lane, ...]:
    order = {name: place for place, name in enumerate(executors)}
    found: dict[tuple[str | None, str | None], list[Attempt]] = {}
    for each in attempts:
        found.setdefault((each.executor, each.lane), []).append(each)
    keys = sorted(
        found,
        key=lambda key: (order.get(key[0] or "", len(order)), key[1] is None, _natural(key[1])),
    )
    return tuple(_lane(executor, name, found[executor, name], executors) for executor, name in keys)


def _lane(
    executor: str | None, name: str | None, attempts: list[Attempt], executors: Mapping[str, Any]
) -> Lane:
    kind = executors.get(executor or "", {})
    if name is not None and kind.get("isolates") and not kind.get("remote"):
        _one_after_the_other(attempts)
    attempts.sort(key=lambda each: (each.begun, each.ended))
    free: list[tuple[int, int]] = []  # when each track is free again, and which it is
    tracks = 0
    for each in attempts:
        if free and free[0][0] <= each.begun:
            _, each.track = heapq.heappop(free)
        else:
            each.track = tracks
            tracks += 1
        heapq.heappush(free, (each.ended, each.track))
    return Lane(executor=executor, name=name, attempts=tuple(attempts), tracks=max(1, tracks))


def _one_after_the_other(attempts: list[Attempt]) -> None:
    """Let each call of a worker begin when the one before it has ended."""
    ran = sorted((each for each in attempts if each.started is not None), key=lambda e: e.ended)
    before = place = 0
    while place < len(ran):
        end = place + 1
        while (
            end < len(ran)
            and ran[end].ended - ran[end - 1].ended < _TOGETHER_NS
            and ran[end].begun < ran[place].ended
        ):
            end += 1
        group = ran[place:end]
        last = group[-1].ended
        begin = min(max(before, group[0].begun), last)
        if len(group) == 1 and group[0].work is not None:
            begin = max(begin, last - group[0].work)  # what it waited there is no work
        for number, each in enumerate(group):
            each.started = begin + (last - begin) * number // len(group)
            each.ended = begin + (last - begin) * (number + 1) // len(group)
        before, place = last, end
