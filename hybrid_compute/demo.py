"""The demo: real work on real files, through three executors, side by side.

Owns the choice of files and the comparison; the work itself is in `_demo_work`, the command line
and the table are in `_demo_commands`. Nothing here needs a server, the network or an extra.

The same four functions run everywhere. HybridExecutor puts each where it belongs: `read` and
`pack` are plain callables and stay on threads, where no byte of a file is copied; `measure` is
declared with `@task` and goes to processes; `classify` is declared too, and so small that its
options keep it in the caller. ThreadPoolExecutor and ProcessPoolExecutor have one place each.
The table counts where the work says that it ran, not what some policy intended.

Threads: all of this module's own code runs on the caller's thread.
"""

from __future__ import annotations

import os
import platform
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from hybrid_compute._demo_work import (
    Measures,
    Packed,
    Place,
    classify,
    measure,
    pack,
    place,
    read,
)
from hybrid_compute.hybrid import HybridExecutor

__all__ = [
    "HYBRID",
    "PROCESSES",
    "TASKS",
    "THREADS",
    "Measures",
    "Packed",
    "Place",
    "Report",
    "Row",
    "Sample",
    "classify",
    "collect",
    "compare",
    "default_path",
    "measure",
    "pack",
    "place",
    "read",
    "usable_cores",
]

T = TypeVar("T")

HYBRID, THREADS, PROCESSES = "HybridExecutor", "ThreadPoolExecutor", "ProcessPoolExecutor"
TASKS = ("read", "pack", "measure", "classify")
ROUNDS = 6  # with three executors, each is first, second and last twice


# The files.


@attrs.frozen(kw_only=True)
class Sample:
    """The files of one run.

    Attributes:
        root: where they were looked for.
        paths: those that are used, the biggest first: so no worker is left alone with a big
            file at the end, whichever executor it belongs to.
        found: how many there are in all.
        unreadable: how many of the chosen ones could not be read, and are not in `paths`.
        size_bytes: of all `paths` together.
    """

    root: str
    paths: tuple[str, ...]
    found: int
    unreadable: int
    size_bytes: int


def default_path() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def collect(root: Path, limit: int | None = None, skip: Iterable[str] = ()) -> Sample:
    """Choose Python files below `root` and read each once, so that all start with a warm cache.

    Args:
        root: a folder, or a single file.
        limit: how many files to take at the most, spread evenly over the sorted list; None
            takes all.
        skip: names of folders that are not entered.

    Raises:
        FileNotFoundError: `root` does not exist, or there is no readable Python file below it.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist; give a folder with Python files in it")
    found = sorted(_python_files(root, frozenset(skip)))
    count = len(found) if limit is None else min(limit, len(found))
    chosen = [found[i * len(found) // count] for i in range(count)]
    sizes: dict[str, int] = {}
    for path in chosen:
        try:
            content, _ = read(path)
        except OSError:
            continue
        sizes[path] = len(content)
    if not sizes:
        raise FileNotFoundError(f"no readable Python file (*.py) in {root}; give another folder")
    return Sample(
        root=str(root),
        paths=tuple(sorted(sizes, key=lambda path: -sizes[path])),
        found=len(found),
        unreadable=len(chosen) - len(sizes),
        size_bytes=sum(sizes.values()),
    )


def _python_files(root: Path, skip: frozenset[str]) -> Iterator[str]:
    if root.is_file():
        if root.suffix == ".py":
            yield str(root)
        return
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        yield from (os.path.join(folder, name) for name in files if name.endswith(".py"))  # noqa: PTH118 - as os.walk gives them


# The comparison.


@attrs.frozen(kw_only=True)
class Row:
    """One task on one executor.

    Attributes:
        executor: `HYBRID`, `THREADS` or `PROCESSES`.
        task: one of `TASKS`, or "start": from the constructor until as many calls are done as
            there are workers.
        seconds: wall time, summed over the rounds.
        inline: how many calls ran on the caller's own thread.
        thread: how many ran on other threads of this process.
        process: how many ran in other processes.
    """

    executor: str
    task: str
    seconds: float
    inline: int = 0
    thread: int = 0
    process: int = 0


@attrs.frozen(kw_only=True)
class Report:
    """What one run of the demo has found.

    Attributes:
        python: implementation and version.
        machine: operating system and processor.
        cores: how many this process may use.
        load: how many programs wanted a core when it began, on average over a minute; None
            where the system does not tell.
        workers: threads of HybridExecutor, and of ThreadPoolExecutor.
        processes: processes of HybridExecutor, and of ProcessPoolExecutor.
        sample: the files.
        rows: one for each executor and task.
        equal: True if all executors gave the same results; None if only one ran.
        kinds: files by `classify`.
        totals: sums over all files: sizes, counts, and the greatest depth.
        problems: files that could not be measured, by the name of the exception.
    """

    python: str
    machine: str
    cores: int
    load: float | None
    workers: int
    processes: int
    sample: Sample
    rows: tuple[Row, ...]
    equal: bool | None
    kinds: dict[str, int]
    totals: dict[str, int]
    problems: dict[str, int]

    @property
    def executors(self) -> tuple[str, ...]:
        """The executors that ran, HybridExecutor first."""
        return tuple(dict.fromkeys(row.executor for row in self.rows))

    def row(self, executor: str, task: str) -> Row:
        """Return the figures of one task on one executor."""
        return next(row for row in self.rows if (row.executor, row.task) == (executor, task))

    def seconds(self, executor: str) -> float:
        """Return the wall time of all the work on one executor, its start included."""
        return sum(row.seconds for row in self.rows if row.executor == executor)


class _Contender:
    """One executor at work: runs the tasks and notes time and place of each."""

    def __init__(self, name: str, pool: Executor, tick: Callable[[int], None]) -> None:
        self.name = name
        self._pool = pool
        self._tick = tick
        self._seconds: dict[str, float] = dict.fromkeys(("start", *TASKS), 0.0)
        self._places: dict[str, Counter[str]] = {name: Counter() for name in TASKS}

    def start(self, begin: float, *functions: Callable[[bytes], object], calls: int) -> None:
        """Have each function called as often as there are workers, so that they are all there."""
        futures = [self._pool.submit(fn, b"") for fn in functions for _ in range(calls)]
        for future in futures:
            future.result()
        self._seconds["start"] = time.perf_counter() - begin

    def work(self, paths: tuple[str, ...]) -> list[tuple[str, Packed, Measures, str]]:
        """Do the whole job for these files; return what was found out about each."""
        contents: list[bytes] = self._map("read", read, paths)
        packed: list[Packed] = self._map("pack", pack, contents)
        measured: list[Measures] = self._map("measure", measure, contents)
        kinds: list[str] = self._map("classify", classify, paths, [len(each) for each in contents])
        return list(zip(paths, packed, measured, kinds, strict=True))

    def _map(
        self, name: str, fn: Callable[..., tuple[T, Place]], *inputs: Iterable[Any]
    ) -> list[T]:
        ran: list[tuple[T, Place]] = []
        told, shown = 0, time.monotonic()
        begin = time.perf_counter()
        for each in self._pool.map(fn, *inputs):
            ran.append(each)
            if time.monotonic() - shown > 0.2:  # drawing a bar takes time: not too often
                self._tick(len(ran) - told)
                told, shown = len(ran), time.monotonic()
        self._seconds[name] += time.perf_counter() - begin
        self._tick(len(ran) - told)
        pid, thread = place()
        self._places[name].update(
            "process" if where[0] != pid else "inline" if where[1] == thread else "thread"
            for _, where in ran
        )
        return [value for value, _ in ran]

    def rows(self) -> Iterator[Row]:
        """Give the figures, task by task."""
        yield Row(executor=self.name, task="start", seconds=self._seconds["start"])
        for name, places in self._places.items():
            yield Row(executor=self.name, task=name, seconds=self._seconds[name], **places)


def compare(
    sample: Sample,
    *,
    workers: int | None = None,
    processes: int | None = None,
    alone: bool = False,
    tick: Callable[[int], None] = lambda n: None,
    recorded: Path | None = None,
) -> Report:
    """Do the work on all files of `sample` with each executor in turn; block until it is done.

    The files are dealt into rounds. In each round every executor does the same files, and
    another one begins each time, so that a machine that gets slower or faster meanwhile treats
    all alike. All workers live through all rounds.

    Args:
        sample: what to work on.
        workers: threads of HybridExecutor and of ThreadPoolExecutor; None means one a core.
        processes: the same for processes.
        alone: run HybridExecutor only.
        tick: called on this thread with the number of calls that have finished since.
        recorded: where HybridExecutor is to be recorded, from before its first call; None: nowhere.

    Raises:
        OSError: that file cannot be written.
    """
    workers = usable_cores() if workers is None else workers
    processes = usable_cores() if processes is None else processes
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with ExitStack() as stack:
        field: list[_Contender] = []

        def enter(
            name: str,
            make: Callable[[], Executor],
            *functions: Callable[[bytes], object],
            calls: int,
        ) -> None:
            begin = time.perf_counter()
            field.append(_Contender(name, stack.enter_context(make()), tick))
            field[-1].start(begin, *functions, calls=calls)

        # The order matters to ProcessPoolExecutor: where it forks, it wants to be the first,
        # while this process has one thread.
        if not alone:
            enter(PROCESSES, partial(ProcessPoolExecutor, processes), measure, calls=processes)
            enter(THREADS, partial(ThreadPoolExecutor, workers), pack, calls=workers)

        def hybrid() -> HybridExecutor:
            executor = HybridExecutor(workers, max_processes=processes)
            if recorded is not None:
                stack.enter_context(executor.record(recorded))
            return executor

        enter(HYBRID, hybrid, pack, measure, calls=max(workers, processes))
        field.reverse()
        found, equal = _rounds(field, sample.paths)
        rows = tuple(row for each in field for row in each.rows())
    totals: Counter[str] = Counter()
    for _, packed, measured, _ in found:
        totals.update(attrs.asdict(packed, filter=attrs.filters.include(int)))
        totals.update(attrs.asdict(measured, filter=attrs.filters.include(int)))
    totals["depth"] = max(measured.depth for _, _, measured, _ in found)
    return Report(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        machine=f"{platform.system()} {platform.machine()}",
        cores=usable_cores(),
        load=load,
        workers=workers,
        processes=processes,
        sample=sample,
        rows=rows,
        equal=None if alone else equal,
        kinds=dict(sorted(Counter(kind for _, _, _, kind in found).items())),
        totals=dict(totals),
        problems=dict(Counter(m.problem for _, _, m, _ in found if m.problem is not None)),
    )


def _rounds(
    field: list[_Contender], paths: tuple[str, ...]
) -> tuple[list[tuple[str, Packed, Measures, str]], bool]:
    found, equal = [], True
    for number in range(ROUNDS):
        hand = paths[number::ROUNDS]
        turn = number % len(field)
        results = [each.work(hand) for each in field[turn:] + field[:turn]]
        equal = equal and all(each == results[0] for each in results)
        found += results[0]
    return found, equal


def usable_cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
