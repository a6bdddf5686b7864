"""The measuring bench: cases, fresh interpreters, statistics and reStructuredText tables.

A case is one workload with several adapters, which do the same work with different libraries.
Each adapter runs in a fresh interpreter, once a round, and rounds alternate their order (A B C,
C B A), so that neither a warm allocator nor a machine that grows slower favours anyone. Only
ratios within one run mean something; times change with the machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

__all__ = [
    "Adapter",
    "Case",
    "Outcome",
    "machine",
    "peak_rss_bytes",
    "rss_bytes",
    "rst_table",
    "run_case",
    "table_of",
    "unmapped_bytes",
]

_ROOT = Path(__file__).resolve().parent.parent


@attrs.frozen
class Adapter:
    """How one library does the work of a case.

    Attributes:
        name: what the table calls it.
        measure: does the work for a size and returns the figure, in the case's unit. Runs in a
            fresh interpreter, so that it may import and start what it likes. Several figures of
            one run are a mapping of their names, where "" is the adapter's own; they are shown as
            adapters called "name, figure".
        needs: the module that it needs; the table says so if it is not installed.
        share: the part of the size that it gets. Slow libraries do less of the same work, and
            the figure is per task.
    """

    name: str
    measure: Callable[[int], float | Mapping[str, float]]
    needs: str = "concurrent.futures"
    share: float = 1.0


@attrs.frozen(kw_only=True)
class Case:
    """One workload, measured with several libraries. Less is better, always.

    Attributes:
        name: the row of `benchmarks._targets` that it measures.
        unit: of the figures.
        adapters: who does the work.
        size: how much work; `quick_size` for a short run.
        rounds: how many fresh interpreters each adapter gets; `quick_rounds` for a short run.
        note: one sentence below the table.
        limit: seconds for one run of one adapter: a library that hangs must not stop the rest.
    """

    name: str
    unit: str
    adapters: tuple[Adapter, ...]
    size: int
    quick_size: int
    rounds: int = 5
    quick_rounds: int = 3
    note: str = ""
    limit: float = 60.0


@attrs.frozen(kw_only=True)
class Outcome:
    """What the rounds of one case gave.

    Attributes:
        case: the case.
        figures: for each adapter its figures, one a round, until one failed. What else an adapter
            measured stands under "name, figure".
        problems: why an adapter has no figures.
    """

    case: Case
    figures: Mapping[str, Sequence[float]]
    problems: Mapping[str, str]

    def median(self, adapter: str) -> float | None:
        """Return the median of an adapter's figures, or None if it has none."""
        found = self.values(adapter)
        return statistics.median(found) if found else None

    def values(self, adapter: str) -> list[float]:
        """Return the figures of the rounds that worked."""
        return list(self.figures.get(adapter, ()))

    def rows(self) -> list[tuple[str, str]]:
        """Return what there is to show: adapters, each with the name of one of its figures."""
        own = [(each.name, "") for each in self.case.adapters]
        more = [
            (each.name, name.removeprefix(f"{each.name}, "))
            for each in self.case.adapters
            for name in self.figures
            if name.startswith(f"{each.name}, ")
            and name not in {other.name for other in self.case.adapters}
        ]
        keys = [key for _, key in more]
        more = sorted(more, key=lambda row: keys.index(row[1]))
        return [row for row in own if row[0] in self.problems or self.values(row[0])] + more

    def pairs(self, adapter: str, other: str) -> list[tuple[float, float]]:
        """Return both adapters' figures, round by round: those taken closest in time."""
        return list(zip(self.values(adapter), self.values(other), strict=False))


def run_case(
    module: str, index: int, case: Case, *, quick: bool, say: Callable[[str], None]
) -> Outcome:
    """Measure one case: all its adapters, interleaved, each in fresh interpreters.

    Args:
        module: the name of the module in this package that holds the case.
        index: where it stands in the module's CASES.
        case: the case.
        quick: a short run, for a look.
        say: called with a line of progress.
    """
    figures: dict[str, list[float]] = {}
    problems: dict[str, str] = {}
    for adapter in case.adapters:
        if importlib.util.find_spec(adapter.needs) is None:
            problems[adapter.name] = f"{adapter.needs} is not installed"
    size = case.quick_size if quick else case.size
    rounds = case.quick_rounds if quick else case.rounds
    for number in range(rounds):
        say(f"{case.name}, round {number + 1} of {rounds}")
        for adapter in case.adapters if number % 2 == 0 else case.adapters[::-1]:
            if adapter.name in problems:
                continue
            try:
                found = _in_fresh_interpreter(module, index, adapter, size, case.limit)
            except _NoFigureError as error:
                problems[adapter.name] = str(error)  # and there will be no further round
            else:
                for key, figure in found.items():
                    name = f"{adapter.name}, {key}" if key else adapter.name
                    figures.setdefault(name, []).append(figure)
    return Outcome(case=case, figures=figures, problems=problems)


class _NoFigureError(Exception):
    """One run of one adapter gave no figure."""


def _in_fresh_interpreter(
    module: str, index: int, adapter: Adapter, size: int, limit: float
) -> Mapping[str, float]:
    share = max(1, round(size * adapter.share))
    call = [sys.executable, "-m", "benchmarks._child", module, str(index), adapter.name, str(share)]
    try:
        done = subprocess.run(
            call,
            env={**os.environ, "PYTHONPATH": _python_path()},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _NoFigureError(f"no result within {limit:.0f} s") from None
    lines = done.stdout.split("\n")
    try:
        figure = json.loads(lines[-2])
        several = figure if isinstance(figure, dict) else {"": figure}
        return {name: float(each) for name, each in several.items()}
    except (IndexError, ValueError, TypeError):
        wrong = done.stderr.strip().split("\n")[-1] or f"exit code {done.returncode}"
        wrong = wrong.replace(f"{_ROOT}{os.sep}", "")  # tables are published
        raise _NoFigureError(f"failed: {wrong}") from None


def _python_path() -> str:
    # Workers that import the benchmarks' functions must find this package, whatever the
    # directory that the run was started from.
    given = os.environ.get("PYTHONPATH")
    return f"{_ROOT}{os.pathsep}{given}" if given else str(_ROOT)


# Tables.


def rst_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a simple reStructuredText table; numbers are set to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    shown = [
        "  ".join(
            cell.rjust(width) if column and _is_number(cell) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rule, shown[0], rule, *shown[1:], rule])


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or (cell[:1] in "+-" and cell[1:2].isdigit())


def short(figure: float) -> str:
    """Return a number with three digits that mean something."""
    if abs(figure) >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.3g}" if abs(figure) >= 0.001 else f"{figure:.1g}"


def table_of(outcome: Outcome, ours: Sequence[str]) -> str:
    """Return the table of one case: medians, spread, and each one's median over that of ours."""
    mine = [name for name in ours if outcome.median(name)]
    head = ["adapter", f"median, {outcome.case.unit}", "min", "max", "rounds"]
    head += [f"/ {name}" for name in mine]
    rows = []
    for name, key in outcome.rows():
        suffix = f", {key}" if key else ""
        values = outcome.values(name + suffix)
        if not values:
            rows.append([name, *["-"] * (len(head) - 1)])
            continue
        median = statistics.median(values)
        row = [name + suffix, short(median), short(min(values)), short(max(values))]
        row.append(str(len(values)))
        for each in mine:
            other = outcome.median(each + suffix)
            row.append(short(median / other) if other else "-")
        rows.append(row)
    blocks = [rst_table(head, rows), outcome.case.note]
    blocks += [f"{name}: {problem}" for name, problem in outcome.problems.items()]
    return "\n\n".join(block for block in blocks if block)


# The machine.


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "CPU": _cpu_model(),
        "usable cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}"
        + ("" if gil else ", free-threaded"),
        "load before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def rss_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process: of this one."""
    return _status("VmRSS", pid)


def peak_rss_bytes() -> int:
    """Return the most resident memory that this process has had.

    Not `ru_maxrss`: that one starts, in a new program, with the peak of whoever started it.
    """
    return _status("VmHWM")


def unmapped_bytes() -> int:
    """Return the shared memory that this process keeps and that is not in `rss_bytes()`.

    Files of memory that it has open, and those that joblib puts into a folder of its own.
    """
    files = [*Path("/proc/self/fd").iterdir()]
    files += Path("/dev/shm").glob(f"joblib_memmapping_folder_{os.getpid()}_*/*")
    sizes: dict[int, int] = {}
    for file in files:
        try:
            where = str(file.readlink()) if file.is_symlink() else str(file)
            found = file.stat()
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
        if where.startswith(("/memfd:", "/dev/shm/")):
            sizes[found.st_ino] = found.st_blocks * 512
    return max(0, sum(sizes.values()) - _status("RssShmem"))


def _status(key: str, pid: int | str = "self") -> int:
    file = Path(f"/proc/{pid}/status")
    for line in file.read_text().split("\n"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{file} has no {key}: memory is measured on Linux only")
