"""The command `hybrid-compute demo`, with click, and what it prints, with rich.

Owns words and looks; what the demo does is in `demo`. Results go to stdout, as text or JSON; the
progress bar goes to stderr, and only if that is a terminal.

Threads: none. The bar is drawn on the caller's thread, so that ProcessPoolExecutor finds a
process with a single thread when it forks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import attrs
import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hybrid_compute import _demo_remote as remote
from hybrid_compute import demo as work
from hybrid_compute._config_option import with_config
from hybrid_compute.errors import HybridComputeError

__all__ = ["demo"]

# So many files of the standard library take about 20 s on two cores (3.11), all three executors
# together; at three times that the user has left.
DEFAULT_LIMIT = 1000


@click.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@with_config("demo")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Take at most so many files, spread evenly; 0 takes all.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads of HybridExecutor and of ThreadPoolExecutor.  [default: usable cores]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes of HybridExecutor and of ProcessPoolExecutor.  [default: usable cores]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--no-compare", "alone", is_flag=True, help="Run HybridExecutor only.")
@click.option(
    "--record",
    "recorded",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="RUN",
    help="Write what HybridExecutor does to a file, for `hybrid-compute report`.",
)
def demo(  # noqa: PLR0917 - click passes them by keyword
    path: Path | None,
    limit: int,
    workers: int | None,
    processes: int | None,
    as_json: bool,
    alone: bool,
    recorded: Path | None,
) -> None:
    """Read, pack, measure and classify Python files, and show what ran where.

    Works on every Python file below PATH; without PATH, on the standard library of the running
    interpreter. The same work then goes through ThreadPoolExecutor and ProcessPoolExecutor, with
    the same functions and as many workers, and the results are compared. Files are only read.
    """
    try:
        sample = work.collect(
            path or work.default_path(),
            limit or None,
            # The standard library's folder holds what pip installed, which is not part of it.
            skip=() if path else ("site-packages", "dist-packages"),
        )
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    steps = len(sample.paths) * len(work.TASKS) * (1 if alone else 3)
    with _bar() as bar:
        shown = bar.add_task("working", total=steps)

        def tick(count: int) -> None:
            bar.advance(shown, count)
            bar.refresh()

        try:
            report = work.compare(
                sample,
                workers=workers,
                processes=processes,
                alone=alone,
                tick=tick,
                recorded=recorded,
            )
        except OSError as error:
            if recorded is None or error.filename != str(recorded):
                raise
            raise click.ClickException(f"cannot record: {error}") from error
    if not as_json:
        _print(report)
    try:
        far = remote.run(sample.paths, show=None if as_json else _live())
    except (RuntimeError, OSError, HybridComputeError) as error:
        raise click.ClickException(f"the remote stage failed: {error}") from error
    if as_json:
        data = _as_data(report) | {"remote": None if far is None else attrs.asdict(far)}
        click.echo(json.dumps(data, indent=2))
    else:
        _print_remote(far)
    if report.equal is False:
        raise click.ClickException(
            "the executors gave different results; did files change meanwhile? Run it again, "
            "and please report it if it stays so"
        )


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,  # else rich starts a thread
        transient=True,
        disable=not console.is_terminal,
    )


def _as_data(report: work.Report) -> dict[str, object]:
    data = attrs.asdict(report)
    data["sample"]["files"] = len(data["sample"].pop("paths"))
    data["seconds"] = {name: report.seconds(name) for name in report.executors}
    return data


def _print(report: work.Report) -> None:
    sample, totals = report.sample, report.totals
    used = len(sample.paths)
    click.echo(f"{_count(used, 'Python file')}, {sample.size_bytes / 1e6:.1f} MB: {sample.root}")
    left = sample.found - used - sample.unreadable
    if left:
        click.echo(f"{left:,} of {sample.found:,} left out, evenly spread; --limit 0 takes all")
    if sample.unreadable:
        click.echo(f"{_count(sample.unreadable, 'file')} left out that cannot be read")
    click.echo(
        f"{report.python}, {report.machine}, usable cores: {report.cores}; "
        f"threads: {report.workers}, processes: {report.processes}\n"
    )
    if report.load is not None and report.load > report.cores / 2:
        click.echo(f"Other programs are busy (load average {report.load:.1f}): times are rough.\n")
    # Not narrower than the table: a terminal that is may wrap the lines, cut figures mislead.
    console = Console(width=max(80, Console().width))
    console.print(_table(report))
    click.echo(
        "\nread waits for the disk and pack releases the GIL: plain callables, left on threads.\n"
        "measure holds the GIL: @task. classify takes microseconds: @task(executor='inline').\n"
    )
    for name in report.executors[1:]:
        ratio = report.seconds(name) / report.seconds(work.HYBRID)
        click.echo(f"{name} alone: {ratio:.2f} times the time of HybridExecutor")
    if report.equal:
        click.echo("Same functions, same files, equal results in all three.\n")
    ratio = totals["packed_bytes"] / max(1, totals["size_bytes"])
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
    click.echo(
        f"Found {totals['functions']:,} functions, {totals['classes']:,} classes, "
        f"{totals['branches']:,} branches, {totals['tokens']:,} tokens; "
        f"nested up to {totals['depth']} deep.\n"
        f"Packed to {ratio:.0%} of the size. Kinds: {kinds}."
    )
    if report.problems:
        which = ", ".join(f"{count} {name}" for name, count in sorted(report.problems.items()))
        click.echo(f"{_count(sum(report.problems.values()), 'file')} not measurable: {which}.")


def _live() -> Callable[[str], object]:
    """Return what prints the items of a stream as they come."""
    before = chain(["\nA stream from a server of its own, as it comes:\n"], repeat(", "))
    return lambda item: click.echo(next(before) + item, nl=False)


def _print_remote(far: remote.RemoteReport | None) -> None:
    if far is None:
        click.echo(f"\n{remote.MISSING}")
        return
    if far.streamed:
        click.echo(f" ...\nIts first item came after {_seconds(far.first_seconds)}.")
    same = "as here" if far.equal else "NOT as here"
    click.echo(
        f"\nThe server (127.0.0.1:{far.port}, up after {_seconds(far.start_seconds)}) took "
        f"{_count(far.calls, 'call')}\nover one WebSocket in {_seconds(far.seconds)}: "
        f"{far.tokens:,} tokens, {same}."
    )


def _table(report: work.Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for place in ("inline", "thread", "process"):
        table.add_column(f"ran\n{place}", justify="right", no_wrap=True)
    for name in report.executors:
        heading = name.replace("Executor", "-\nExecutor")
        table.add_column(heading, justify="right", no_wrap=True)
    for name in ("start", *work.TASKS):
        row = report.row(work.HYBRID, name)
        counts = (row.inline, row.thread, row.process)
        table.add_row(
            name,
            *(f"{count:,}" if count else "" for count in counts),
            *(_seconds(report.row(each, name).seconds) for each in report.executors),
        )
    table.add_section()
    table.add_row("all", "", "", "", *(_seconds(report.seconds(each)) for each in report.executors))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"
