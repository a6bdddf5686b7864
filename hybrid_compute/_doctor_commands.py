"""The command `hybrid-compute doctor`: what this machine offers, and what is wrong.

Owns its options and its looks; `_doctor` measures and judges. Threads: none.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hybrid_compute._doctor import (
    Dispatch,
    Finding,
    Service,
    findings_of,
    measure_dispatch,
    visit,
)
from hybrid_compute._machine import Machine, look_at_machine
from hybrid_compute.decisions import seconds_in_words

__all__ = ["doctor"]

_VARIABLE = "HYBRID_COMPUTE_TOKEN"


@click.command()
@click.argument("urls", metavar="[URL]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help=f"The file that has the services' token.  [default: the variable {_VARIABLE}]",
)
@click.option("--tls-ca", type=click.Path(path_type=Path), help="Certificates to trust.")
def doctor(
    urls: tuple[str, ...], as_json: bool, token_file: Path | None, tls_ca: Path | None
) -> None:
    """Say what this machine offers, what a call costs here, and what is wrong.

    Each URL is a service, which is asked for its tasks. The exit status is 1 if something is wrong.
    """
    token: Any = token_file
    if token is None and os.environ.get(_VARIABLE):
        token = f"env:{_VARIABLE}"
    machine = look_at_machine()  # before there is any load of ours
    services = [visit(url, token=token, tls_ca=tls_ca) for url in urls]
    dispatches = measure_dispatch()
    findings = findings_of(machine, dispatches, services)
    if as_json:
        data = {
            "machine": attrs.asdict(machine),
            "dispatch": [attrs.asdict(each) for each in dispatches],
            "services": [attrs.asdict(each) for each in services],
            "findings": [attrs.asdict(each) for each in findings],
        }
        click.echo(json.dumps(data, indent=2))
    else:
        _print(machine, dispatches, services, findings)
    if any(each.level == "wrong" for each in findings):
        sys.exit(1)


def _print(
    machine: Machine,
    dispatches: Sequence[Dispatch],
    services: Sequence[Service],
    findings: Sequence[Finding],
) -> None:
    # Not narrower than the tables: a terminal that is may wrap the lines.
    console = Console(width=max(90, Console().width), highlight=False)
    console.print(_machine(machine))
    console.print()
    console.print(_dispatches(dispatches))
    if services:
        console.print()
        console.print(_services(services))
    console.print()
    told = Table(box=None, show_header=False, pad_edge=False, show_edge=False)
    for each in findings:
        sign = "[red bold]wrong[/]" if each.level == "wrong" else "[yellow]note[/]"
        told.add_row(sign, f"{escape(each.what)}.\n[dim]-> {escape(each.remedy)}[/]")
    console.print(told)
    if not any(each.level == "wrong" for each in findings):
        console.print("[green]Nothing is wrong.[/]")


def _machine(machine: Machine) -> Table:
    quota = "" if machine.quota_cores is None else f", {machine.quota_cores:.3g} by the cgroup"
    limit = machine.memory_limit_bytes
    table = Table(box=None, show_header=False, pad_edge=False, show_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in (
        ("Python", f"{machine.python}, {'with' if machine.gil else 'without'} a GIL"),
        ("system", machine.system),
        ("cores", f"{machine.usable_cores} usable of {machine.cores}{quota}"),
        ("load", "not told" if machine.load is None else f"{machine.load:.2f}"),
        (
            "memory",
            f"{_bytes(machine.available_bytes)} of {_bytes(machine.memory_bytes)} available"
            + ("" if limit is None else f", {_bytes(limit)} by the cgroup"),
        ),
        (
            "shared memory",
            ("works" if machine.shared_memory is None else f"none: {machine.shared_memory}")
            + (
                ""
                if machine.shm_free_bytes is None
                else f"; /dev/shm has {_bytes(machine.shm_free_bytes)}"
            ),
        ),
        ("open files", "any number" if machine.open_files is None else f"{machine.open_files:,}"),
        ("start methods", ", ".join(machine.start_methods)),
    ):
        table.add_row(name, escape(value))
    return table


def _dispatches(dispatches: Sequence[Dispatch]) -> Table:
    table = _table("a call that does nothing", "first result", "one at a time", "many at once")
    for each in dispatches:
        if each.error is not None:
            table.add_row(each.executor, "[red]does not work[/]", "", "")
            continue
        times = (each.start, each.one, each.many)
        table.add_row(each.executor, *(seconds_in_words(seconds) for seconds in times))
    return table


def _services(services: Sequence[Service]) -> Table:
    table = _table("service", "first answer", "round trip", "tasks", "what it is")
    for each in services:
        kind = "[red]no answer[/]" if each.status is None else "ours" if each.own else "another's"
        if each.error is not None and each.status is not None:
            kind = f"[red]status {each.status}[/]"
        table.add_row(
            escape(each.url),
            "" if each.connect is None else seconds_in_words(each.connect),
            "" if each.round_trip is None else seconds_in_words(each.round_trip),
            "" if each.tasks is None else f"{len(each.tasks):,}",
            kind,
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for each in others:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _bytes(value: int | None) -> str:
    if value is None:
        return "an unknown amount"
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"
