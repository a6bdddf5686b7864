"""The command `hybrid-compute advise`: runs a program, and says what its functions are.

Owns its options, its looks, and the program's process from its start to its end. What the program
prints is the program's; the advice goes to stderr, or to a file. Threads: none.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hybrid_compute._advise import Advice, advise
from hybrid_compute._advise_probe import VARIABLE
from hybrid_compute.decisions import seconds_in_words

__all__ = ["advise_on"]


class _Command(click.Command):
    """One whose options end where the program begins, as those of `python` do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] not in ("-m", "--"):
            place += 2 if args[place] in ("-o", "--output") else 1
        rest = args[place:]
        if rest[:1] != ["--"]:
            rest.insert(0, "--")
        return super().parse_args(ctx, [*args[:place], *rest])


@click.command("advise", cls=_Command, options_metavar="[OPTIONS] [-m MODULE | SCRIPT]")
@click.argument("program", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--json", "as_json", is_flag=True, help="Write the advice as JSON.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write the advice to.  [default: stderr]",
)
def advise_on(program: tuple[str, ...], as_json: bool, output: Path | None) -> None:
    """Run a program that uses pools of concurrent.futures, and say what its functions are.

    The program runs as `python SCRIPT ARGS` or `python -m MODULE ARGS` does, unmodified; its
    output and its exit status are kept. Each function that its ThreadPoolExecutors and
    ProcessPoolExecutors ran is measured, and what declaring it with @task would gain is worked
    out by a simulation.
    """
    if not program or program == ("-m",):
        raise click.UsageError("give a SCRIPT, or -m MODULE, and its arguments")
    if program[0] != "-m" and not Path(program[0]).is_file():
        raise click.UsageError(f"there is no script {program[0]!r}; for a module, -m MODULE")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls"
        status = _run(program, path)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    advice = advise(lines)
    file: Any = None
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(output.open("w", encoding="utf-8")) if output else sys.stderr
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error}") from error
        if as_json:
            file.write(json.dumps(attrs.asdict(advice), indent=2) + "\n")
        else:
            _print(advice, file)
    sys.exit(status)


def _run(program: tuple[str, ...], path: Path) -> int:
    """Run the program; return what a shell would say of its end."""
    root = str(Path(__file__).parents[1])
    env = {**os.environ, VARIABLE: str(path)}
    if not any(Path(each or ".").resolve() == Path(root) for each in sys.path[1:]):
        # Not installed, but on the way of whoever has started this: as the worker processes need.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "hybrid_compute._advise_probe", *program]
    with subprocess.Popen(command, env=env) as process:  # noqa: S603 - the user's program
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                continue  # it was for the program, which has got it too
    return 128 - status if status < 0 else status


# What it looks like.


def _print(advice: Advice, file: Any) -> None:
    # Not narrower than the table: a terminal that is may wrap the lines.
    console = Console(file=file, width=max(100, Console(file=file).width), highlight=False)
    console.print()
    if not advice.functions:
        console.print(
            "No call went through a ThreadPoolExecutor or a ProcessPoolExecutor of "
            "concurrent.futures, so there is nothing to advise."
        )
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("function", no_wrap=True)
    table.add_column("pool", no_wrap=True)
    table.add_column("it is", no_wrap=True)
    for each in ("calls", "a call", "CPU", "all calls", "pickled", "declared"):
        table.add_column(each, justify="right", no_wrap=True)
    for one in advice.functions:
        table.add_row(
            escape(one.name),
            one.pool,
            f"[bold]{one.kind}[/]",
            f"{one.calls:,}",
            seconds_in_words(one.wall),
            f"{one.cpu:.0%}",
            seconds_in_words(one.total),
            "" if one.bytes is None else _bytes(one.bytes),
            _gain(one.gain),
        )
    console.print(table)
    console.print()
    for one in advice.functions:
        failed = f" ({one.failed:,} of its items raised)" if one.failed else ""
        console.print(f"[bold]{escape(one.name)}[/]: {escape(one.advice)}{failed}.")
    console.print()
    console.print(
        f"From the first call to the last result it took {seconds_in_words(advice.measured)}."
    )
    if advice.declared < advice.as_it_is:
        times = advice.as_it_is / advice.declared
        console.print(
            "With HybridExecutor, and what gains by it declared: about "
            f"{seconds_in_words(advice.measured / times)}, [bold]{times:.2g} times[/] as quick."
        )
    else:
        console.print("Declaring any of it would gain nothing: leave it as it is.")
    if advice.load > advice.cores:
        console.print(
            f"Other programs were busy (load average {advice.load:.1f}), so what a function is may "
            "be mistaken. Run it again when the machine is quiet."
        )
    if advice.left_out:
        console.print(f"The last {advice.left_out:,} calls are not in the simulation.")


def _gain(gain: float | None) -> str:
    if gain is None:
        return ""
    return f"[green]{gain:.2g} x[/]" if gain >= 1.05 else "[dim]no gain[/]"


def _bytes(value: int) -> str:
    for factor, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value} B"
