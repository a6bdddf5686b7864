"""The commands `hybrid-compute outbox FILE list|retry|drop`, with click, and what they print.

They work whether a program has the outbox open or not. What they change is seen by such a program
within a third of its lease. They never deliver anything, and never unpickle anything. No threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from hybrid_compute._durable import checked_path
from hybrid_compute.errors import HybridComputeError
from hybrid_compute.executors._outbox_desk import Desk
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.executors._outbox_forms import Forms, OutboxEntry
from hybrid_compute.executors._outbox_lives import bury_ended

__all__ = ["outbox"]

_STATES = ("pending", "claimed", "delivered", "failed", "dead")
_ID = click.IntRange(1, 2**63 - 1)  # what SQLite can have as one
_TOLD = 10  # ids in a message


@contextmanager
def _opened(path: Path) -> Iterator[Desk]:
    if not path.exists():
        raise click.ClickException(f"there is no outbox {path}")
    try:
        file = OutboxFile(checked_path(path, "FILE"), None)
        try:
            bury_ended(file)
            yield Desk(file)
        finally:
            file.close()
    except HybridComputeError as error:
        raise click.ClickException(str(error)) from error


@click.group()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def outbox(context: click.Context, file: Path) -> None:
    """Look at the calls in an outbox's FILE, have them delivered again, or drop them."""
    context.obj = file


@outbox.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each, a line each.")
@click.pass_obj
def list_(file: Path, states: tuple[str, ...], as_json: bool) -> None:
    """List the calls, oldest first, with what went wrong with each."""
    forms = Forms()
    with _opened(file) as desk:
        entries = (OutboxEntry.of(row, forms) for row in desk.rows(*states))
        if as_json:
            for entry in entries:
                click.echo(json.dumps(_as_data(entry)))
            return
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for name in ("id", "state", "attempts", "submitted (UTC)", "task", "trouble"):
            right = name in ("id", "attempts")
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for entry in entries:
            when = f"{entry.submitted:%Y-%m-%d %H:%M:%S}"
            table.add_row(
                *(str(entry.id), entry.state, str(entry.attempts), when),
                *(_plain(entry.task), _plain(entry.trouble)),
            )
        console = Console(width=max(100, Console().width), markup=False, highlight=False)
        if table.row_count:
            console.print(table)
        counts = desk.counts()
    found = ", ".join(f"{counts[each]:,} {each}" for each in _STATES if each in counts)
    click.echo(found or "The outbox is empty.")


def _as_data(entry: OutboxEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "key": entry.key,
        "task": entry.task,
        "state": entry.state,
        "attempts": entry.attempts,
        "submitted": entry.submitted.isoformat(),
        "trouble": entry.trouble,
    }


def _plain(text: str) -> str:
    """Return a text that cannot do anything to a terminal."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


@outbox.command()
@click.argument("ids", type=_ID, nargs=-1)
@click.pass_obj
def retry(file: Path, ids: tuple[int, ...]) -> None:
    """Have calls that are dead, or failed, delivered again; without IDS, all that are dead."""
    wanted = sorted(set(ids))
    with _opened(file) as desk:
        before = {each: desk.state(each) for each in wanted}
        found = desk.retry(wanted or None)
    click.echo(f"{found} of the calls will be delivered by the program that has the outbox open.")
    if found < len(wanted):
        others = {
            state: [each for each in wanted if before[each] == state]
            for state in (None, "pending", "claimed", "delivered")
        }
        told = "; ".join(
            f"{_few(those)}: {state or 'not in the outbox'}"
            for state, those in others.items()
            if those
        )
        raise click.ClickException(
            "only calls that are dead or failed can be delivered again, which these are not: "
            f"{told or 'they have changed meanwhile'}"
        )


@outbox.command()
@click.argument("ids", type=_ID, nargs=-1)
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="All of these.")
@click.pass_obj
def drop(file: Path, ids: tuple[int, ...], states: tuple[str, ...]) -> None:
    """Remove calls and their outcomes for good, but those that a running program has."""
    if not ids and not states:
        raise click.UsageError("say which: IDS, or --state")
    with _opened(file) as desk:
        missing = [each for each in sorted(set(ids)) if not desk.has(each)]
        wanted = {*ids, *(row.id for row in desk.rows(*states) if states)}
        found = desk.drop(sorted(wanted))
        held = [each for each in sorted(wanted) if desk.has(each)] if found < len(wanted) else []
    click.echo(f"{found} of {len(wanted)} calls were dropped.")
    if found < len(wanted):
        why = {"not in the outbox": missing, "held by a running program": held}
        told = "; ".join(f"{_few(those)}: {what}" for what, those in why.items() if those)
        raise click.ClickException(f"not dropped: {told or 'they have gone meanwhile'}")


def _few(ids: list[int]) -> str:
    """Return ids as a text that fits on a line."""
    more = f" and {len(ids) - _TOLD:,} more" if len(ids) > _TOLD else ""
    return ", ".join(map(str, ids[:_TOLD])) + more
