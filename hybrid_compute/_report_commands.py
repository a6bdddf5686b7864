"""The command `hybrid-compute report`: a recording as a page, or as a trace for Perfetto.

Owns its options and its words; what the page is, `report` says. Threads: none.
"""

from __future__ import annotations

from pathlib import Path

import click

from hybrid_compute.errors import RecordingError
from hybrid_compute.report import page_of, read_run, trace_of

__all__ = ["report"]

_SUFFIXES = {".html": "html", ".htm": "html", ".json": "chrome"}


@click.command()
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write it; '-' is the terminal.  [default: RUN with another ending]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "chrome"]),
    help="A page, or the Chrome trace format, which ui.perfetto.dev opens.  [default: by the "
    "output's name, else html]",
)
def report(path: Path, output: Path | None, form: str | None) -> None:
    """Draw a recorded run: who worked when, on what, and what went wrong.

    RUN is what HybridExecutor.record wrote. The page is one file that loads nothing from
    anywhere: a timeline, throughput and queue over time, and a table of where each task ran.
    """
    if form is None:
        form = "html" if output is None else _SUFFIXES.get(output.suffix.lower(), "html")
    if output is None:
        output = path.with_suffix(".html" if form == "html" else ".trace.json")
    try:
        run = read_run(path)
    except (OSError, RecordingError) as error:
        raise click.ClickException(str(error)) from error
    text = page_of(run) if form == "html" else trace_of(run)
    if str(output) == "-":
        click.echo(text)
        return
    if output.exists() and path.exists() and output.samefile(path):
        raise click.ClickException(f"{output} is the recording itself; give another name with -o")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error}") from error
    attempts = len(run.attempts)
    cut = "; its last line was cut off, and is left out" if run.cut else ""
    noun = "attempt" if attempts == 1 else "attempts"
    click.echo(f"{output}: {attempts:,} {noun}, {len(text.encode()) / 1e6:.1f} MB{cut}")
