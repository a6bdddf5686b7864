"""The page: one HTML file with all that it needs inside, whatever is recorded.

Owns what goes into it: columns for the script, a table for everybody. How it looks is in
`page.html`, `page.css` and `page.js` beside this file. Pure but for reading those.
"""

from __future__ import annotations

import base64
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from hybrid_compute.decisions import seconds_in_words
from hybrid_compute.report._run import OUTCOMES, Attempt, Run

__all__ = ["page_of"]

_MOST_TICKS = (1 << 32) - 2
_NOTHING = (1 << 32) - 1  # stands for None in a column of 32 bits


def page_of(run: Run) -> str:
    """Return a recording as a page; it loads nothing from anywhere."""
    here = files("hybrid_compute.report")
    date = datetime.fromtimestamp(run.unix_time, UTC)
    parts = {
        "TITLE": escape(run.name),
        "SUBTITLE": escape(f"{date:%Y-%m-%d %H:%M} UTC, {_many(run.cores, 'core')}"),
        "TILES": _tiles(run),
        "TABLE": _table(run),
        "CSS": (here / "page.css").read_text(encoding="utf-8"),
        "JS": (here / "page.js").read_text(encoding="utf-8"),
        # In a script element nothing ends it but its end tag.
        "DATA": json.dumps(_data(run), separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = (here / "page.html").read_text(encoding="utf-8")
    pieces = page.split("@@")  # text, name, text, ..., so that no part is looked into
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)


# For the script.


def _data(run: Run) -> dict[str, Any]:
    tick = max(1, math.ceil(run.length / _MOST_TICKS))
    places = {name: place for place, name in enumerate(run.tasks)}
    attempts = run.attempts
    lanes, first = [], 0
    for lane in run.lanes:
        lanes.append(
            {
                "executor": lane.executor,
                "name": lane.name,
                "tracks": lane.tracks,
                "first": first,
                "count": len(lane.attempts),
            }
        )
        first += len(lane.attempts)

    def ticks(values: Sequence[int]) -> str:
        return _column("I", [min(_MOST_TICKS, max(0, value // tick)) for value in values])

    return {
        "tick_ns": tick,
        "length": run.length // tick,
        "cut": run.cut,
        "tasks": run.tasks,
        "outcomes": OUTCOMES,
        "lanes": lanes,
        "count": len(attempts),
        "begin": ticks([each.begun for each in attempts]),
        "took": ticks([each.ended - each.begun for each in attempts]),
        "submitted": ticks([each.submitted for each in attempts]),
        "id": _column("I", [each.id & 0xFFFFFFFF for each in attempts]),
        "task": _column("H", [min(65535, places[each.task]) for each in attempts]),
        "track": _column("H", [min(65535, each.track) for each in attempts]),
        "outcome": _column("B", [OUTCOMES.index(each.outcome) for each in attempts]),
        "predicted": _column(
            "I",
            [
                _NOTHING if each.predicted is None else min(_MOST_TICKS, each.predicted // tick)
                for each in attempts
            ],
        )
        if any(each.predicted is not None for each in attempts)
        else "",
        # What few have, by place.
        "calls": {place: e.calls for place, e in enumerate(attempts) if e.calls != 1},
        "attempt": {place: e.attempt for place, e in enumerate(attempts) if e.attempt != 1},
        "waits": [place for place, e in enumerate(attempts) if e.started is None],
        **_errors(attempts),
    }


def _errors(attempts: list[Attempt]) -> dict[str, Any]:
    texts: dict[str, int] = {}
    found = {
        place: texts.setdefault(each.error, len(texts))
        for place, each in enumerate(attempts)
        if each.error is not None
    }
    return {"errors": list(texts), "error": found}


def _column(kind: str, values: list[int]) -> str:
    column = array(kind, values)
    if array("H", [1]).tobytes() != b"\x01\x00":
        column.byteswap()
    return base64.b64encode(column.tobytes()).decode()


# For everybody.


def _tiles(run: Run) -> str:
    attempts = run.attempts
    last = [each for each in attempts if each.outcome != "retried"]
    calls = sum(each.calls for each in last)
    failed = sum(each.outcome == "failed" for each in last)
    retried = len(attempts) - len(last)
    unfinished = sum(each.outcome == "unfinished" for each in last)
    seconds = run.length / 1e9
    tiles = [
        ("duration", _seconds(seconds), ""),
        ("calls", f"{calls:,}", f"{len(last):,} items" if calls != len(last) else ""),
        ("throughput", f"{_short(calls / seconds)}/s" if seconds else "0/s", "calls per second"),
        ("failed", f"{failed:,}", "bad" if failed else ""),
        ("retried", f"{retried:,}", "warn" if retried else ""),
    ]
    if unfinished:
        tiles.append(("unfinished", f"{unfinished:,}", "bad"))
    return "".join(
        f'<div class="tile {note if note in ("bad", "warn") else ""}"><dt>{name}</dt>'
        f"<dd>{value}</dd>"
        + (f"<small>{note}</small>" if note not in ("", "bad", "warn") else "")
        + "</div>"
        for name, value, note in tiles
    )


_HEAD = (
    ("task", "name of the task or function"),
    ("ran on", "executor"),
    ("items", "work items; a chunk of a map is one"),
    ("calls", "calls of the function"),
    ("failed", "items whose last attempt failed"),
    ("retried", "attempts after which another one followed"),
    ("wait p50", "half of the attempts waited at most so long"),
    ("run p50", "half of the attempts ran at most so long"),
    ("run p95", "19 of 20 attempts ran at most so long"),
    ("busy", "all attempts' run times together"),
    ("predicted", "from submission to the end, as the policy foresaw it, p50"),
    ("measured", "the same, as it came, p50, of those that were predicted"),
    ("off by", "measured / predicted, p50"),
)


def _table(run: Run) -> str:
    groups: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for each in run.attempts:
        groups[each.task, each.executor or "nobody"].append(each)
    order = {name: place for place, name in enumerate(run.tasks)}
    rows = "".join(
        _row(order[task], task, executor, group)
        for (task, executor), group in sorted(
            groups.items(), key=lambda entry: (order[entry[0][0]], -len(entry[1]))
        )
    )
    head = "".join(f'<th scope="col" title="{escape(why)}">{name}</th>' for name, why in _HEAD)
    return f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"


def _row(place: int, task: str, executor: str, group: list[Attempt]) -> str:
    last = [each for each in group if each.outcome != "retried"]
    ran = [each for each in group if each.started is not None]
    runs = sorted((each.ended - each.begun) / 1e9 for each in ran)
    waits = sorted((each.begun - each.submitted) / 1e9 for each in ran)
    foreseen = [
        ((each.predicted or 0) / 1e9, (each.ended - each.submitted) / 1e9)
        for each in last
        if each.predicted is not None and each.outcome == "ok"
    ]
    failed = sum(each.outcome == "failed" for each in last)
    numbers: list[tuple[float | None, str, str]] = [
        (len(last), f"{len(last):,}", ""),
        (sum(each.calls for each in last), f"{sum(each.calls for each in last):,}", ""),
        (failed, f"{failed:,}" if failed else "", "bad"),
        (len(group) - len(last), f"{len(group) - len(last):,}" * (len(group) > len(last)), "warn"),
        *((_part(values, part)) for values, part in ((waits, 0.5), (runs, 0.5), (runs, 0.95))),
        (math.fsum(runs), _seconds(math.fsum(runs)) if runs else "", ""),
        _part(sorted(each[0] for each in foreseen), 0.5),
        _part(sorted(each[1] for each in foreseen), 0.5),
        _ratio(foreseen),
    ]
    cells = "".join(
        f'<td data-sort="{-1 if value is None else value!r}" class="{kind}">{text}</td>'
        for value, text, kind in numbers
    )
    return (
        f'<tr><th scope="row" data-sort="{escape(task)}"><i class="dot" data-task="{place}"></i>'
        f'{escape(task)}</th><td class="text" data-sort="{escape(executor)}">{escape(executor)}'
        f"</td>{cells}</tr>"
    )


def _part(values: Sequence[float], part: float) -> tuple[float | None, str, str]:
    if not values:
        return None, "", ""
    value = values[max(0, math.ceil(part * len(values)) - 1)]
    return value, _seconds(value), ""


def _ratio(foreseen: list[tuple[float, float]]) -> tuple[float | None, str, str]:
    ratios = sorted(measured / predicted for predicted, measured in foreseen if predicted > 0)
    if not ratios:
        return None, "", ""
    ratio = ratios[(len(ratios) - 1) // 2]
    far = ratio > 3 or ratio < 1 / 3
    return ratio, f"&times;{_short(ratio)}", "warn" if far else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return "0" if value <= 0 else f"{value:,.0f} s" if value >= 1000 else seconds_in_words(value)


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
