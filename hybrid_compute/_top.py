"""The command `hybrid-compute top`: what a server does, as it does it.

Owns its options, its words and its looks; what a server tells at `GET /stats`, `server.tally` says.
A picture is made of two answers: rates and times are of what came between them. Threads: none but
those that rich draws with.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hybrid_compute.decisions import seconds_in_words
from hybrid_compute.errors import HybridComputeError, ProtocolError
from hybrid_compute.transports._access import Access
from hybrid_compute.transports.http import HttpTransport

__all__ = ["top"]

_VARIABLE = "HYBRID_COMPUTE_TOKEN"
_PATIENCE = 10.0  # seconds for an answer


@click.command()
@click.argument("url")
@click.option("--once", is_flag=True, help="Print one picture, of all since the server began.")
@click.option("--json", "as_json", is_flag=True, help="Print what the server says, and exit.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two pictures.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help=f"The file that has the token.  [default: the variable {_VARIABLE}]",
)
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Certificates to trust.")
def top(  # noqa: PLR0917 - click passes them by keyword
    url: str,
    once: bool,
    as_json: bool,
    interval: float,
    token_file: Path | None,
    tls_ca: Path | None,
) -> None:
    """Show what the server at URL does: calls, throughput, times, workers. Ctrl-C ends it."""
    token: Any = token_file
    if token is None and os.environ.get(_VARIABLE):
        token = f"env:{_VARIABLE}"
    try:
        access = Access(url, token=token, tls_ca=tls_ca, connect_timeout=_PATIENCE)
    except HybridComputeError as error:
        raise click.ClickException(str(error)) from error
    transport = HttpTransport(access)
    console = Console()
    try:
        if once or as_json:
            data = _ask(access, transport)
            # Not narrower than the table: a terminal that is may wrap the lines.
            wide = Console(width=max(90, console.width))
            if as_json:
                click.echo(json.dumps(data, indent=2))
            else:
                wide.print(_picture(str(access), None, data))
            return
        _watch(access, transport, console, interval)
    except HybridComputeError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        pass  # that is how it is ended
    finally:
        transport.close()


def _watch(access: Access, transport: HttpTransport, console: Console, interval: float) -> None:
    before, data = None, _ask(access, transport)  # what is wrong from the first ends it
    pause = threading.Event()
    with Live(_picture(str(access), None, data), console=console, auto_refresh=False) as live:
        while True:
            pause.wait(interval)
            try:
                now = _ask(access, transport)
            except HybridComputeError as error:
                said = Text(f"\n{error}; asking again", style="red")
                live.update(Group(_picture(str(access), before, data), said), refresh=True)
                continue
            # One that was started anew has nothing in common with what was before.
            before, data = (data if now["uptime"] > data["uptime"] else None), now
            live.update(_picture(str(access), before, data), refresh=True)


def _ask(access: Access, transport: HttpTransport) -> dict[str, Any]:
    answer = transport.exchange("GET", access.beside("stats"), timeout=_PATIENCE)
    said = _parsed(answer.body)
    if answer.status == 200 and isinstance(said, dict) and "executors" in said:
        return said
    why = said.get("error") if isinstance(said, dict) else None
    raise ProtocolError(
        f"{access} answers GET {access.beside('stats')} with status {answer.status}"
        + (f": {why}" if why else "")
        + (f"; set {_VARIABLE} or give --token-file" if answer.status == 401 else "")
        + ("; is it a server of hybrid-compute?" if answer.status in (200, 404) else ""),
        status=answer.status,
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


# What it looks like.


def _picture(url: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> RenderableType:
    """Return what there is to see.

    Args:
        url: of the server.
        before: an earlier answer of it; None: all since it began.
        now: the last one.
    """
    seconds = max(1e-3, now["uptime"] - (before["uptime"] if before else 0.0))
    changes = {
        name: _change(before["tasks"].get(name) if before else None, task)
        for name, task in now["tasks"].items()
    }
    calls = sum(each["calls"] for each in changes.values())
    state = "[yellow]draining[/]" if now["draining"] else f"up {_duration(now['uptime'])}"
    since = "" if before else " since it began"
    head = Text.from_markup(
        f"[bold]{escape(url)}[/]   {state}   "
        f"[bold]{_rate(calls / seconds)}[/] calls/s{since}\n"
        f"{now['under_way']:,} of {now['queue']:,} calls under way   "
        + (f"[yellow]{now['refused']:,} refused[/]" if now["refused"] else "none refused")
    )
    return Group(head, Text(), _executors(now), Text(), _tasks(now, changes, seconds))


def _executors(now: Mapping[str, Any]) -> Table:
    table = _table("executor", "workers", "running", "queued")
    table.add_column("busy", width=24)
    for name, each in now["executors"].items():
        busy = min(1.0, each["running"] / max(1, each["workers"]))
        table.add_row(
            escape(name),
            f"{each['workers']:,}",
            _count(each["running"]),
            _count(each["queued"], "yellow" if each["queued"] > each["workers"] else ""),
            ProgressBar(total=1.0, completed=busy, width=24),
        )
    return table


def _tasks(now: Mapping[str, Any], changes: Mapping[str, Any], seconds: float) -> Table:
    table = _table("task", "under way", "calls", "calls/s", "failed", "p50", "p95")
    # The busiest first; then those that were.
    order = sorted(
        now["tasks"], key=lambda name: (-changes[name]["calls"], -now["tasks"][name]["calls"], name)
    )
    for name in order:
        task, change = now["tasks"][name], changes[name]
        table.add_row(
            escape(name),
            _count(task["under_way"]),
            _count(task["calls"]),
            _rate(change["calls"] / seconds) if change["calls"] else "",
            _count(task["failed"], "red"),
            _part(change["histogram"], 0.5),
            _part(change["histogram"], 0.95),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for each in others:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _change(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calls of a task that ended between two answers."""
    old = before["histogram"] if before else {}
    left = {int(n): count - old.get(n, 0) for n, count in now["histogram"].items()}
    return {"calls": now["calls"] - (before["calls"] if before else 0), "histogram": left}


def _part(histogram: Mapping[int, int], part: float) -> str:
    """Return a part of the calls' time, about: the middle of its power of two."""
    total = sum(histogram.values())
    need = max(1, math.ceil(part * total))
    for n in sorted(histogram):
        need -= histogram[n]
        if need <= 0:
            return f"{seconds_in_words(2.0 ** (n - 0.5) / 1e6)}" if n else "< 1 us"
    return ""


def _count(number: int, style: str = "") -> str:
    if not number:
        return "[dim]0[/]"
    return f"[{style}]{number:,}[/]" if style else f"{number:,}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {small}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
