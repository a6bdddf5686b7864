"""Everything fails, and a sum has to be right: `python -m benchmarks.chaos --seconds 60`.

A HybridExecutor with worker processes and a service computes a sum of idempotent tasks with
retries; an OutboxExecutor has the same service do things that must not be done twice. Meanwhile
workers, those of the service too, and now and then the process that forks them, are killed at
Poisson-distributed times; so is the service, which is started again at the same port; and the
network between is cut in all the ways that a FaultProxy knows. ::

    submit -> HybridExecutor -> worker processes                 <-- SIGKILL
                             -> FaultProxy -> the service        <-- SIGKILL
    submit -> OutboxExecutor -> FaultProxy -> the service -> a line in a file
                                    ^-- resets, silence, slowness

Afterwards each future must have its value, or one typed error where nobody can know the outcome of
an effect; the sum must be right; no effect twice; and no process, thread, descriptor or shared
memory left. Prints a table; exits with 1 if anything is wrong.

What has no influence on it may hit a task three times in a row, and then the library gives it up,
however many retries it has, as an item that kills its workers must not go on for ever. Such a task
is submitted anew, and counted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from benchmarks._chaos_work import note, rest
from benchmarks._harness import rst_table
from hybrid_compute import HybridExecutor, OutboxExecutor, RemoteExecutor
from hybrid_compute.errors import OutcomeUnknown, RemoteTaskError, WorkerCrashed
from hybrid_compute.events import Event
from hybrid_compute.testing import FaultProxy

__all__ = ["Report", "main", "run"]

_MARK = "HYBRID_COMPUTE_CHAOS"
_SOON = 60.0  # seconds; a future that is not done by then is lost
_BLOCK = 100  # tasks; three blocks are out at a time
_EFFECTS = 5  # beside each block
_MEAN = 0.004  # seconds that a task rests
_WORKER_KILLS = 8.0  # a second, on the average
_SPAWNER_EVERY = 40  # so many kills hit workers while one hits who forks them
_SERVER_EVERY = 8.0  # seconds between kills of the server, on the average
_CUTS = 1.0  # a second
_GRACE = 10.0  # seconds in which everything has to be gone at the end


class Report:
    """What a run has come to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tasks = self.effects = 0
        self.worker_kills = self.server_kills = self.cuts = 0
        self.retries = self.anew = self.unknown = 0
        self.lost: list[str] = []
        self.duplicated: list[str] = []
        self.leaked: list[str] = []
        self.sum_is_right = False

    def is_good(self) -> bool:
        """Say whether nothing was lost, done twice or left."""
        return self.sum_is_right and not (self.lost or self.duplicated or self.leaked)

    def __str__(self) -> str:
        rows = [
            ("seconds", f"{self.seconds:.1f}"),
            ("tasks of the sum", self.tasks),
            ("effects by way of the outbox", self.effects),
            ("kills of workers", self.worker_kills),
            ("kills of the server", self.server_kills),
            ("cuts of the network", self.cuts),
            ("retries", self.retries),
            ("given up after three kills, and submitted anew", self.anew),
            ("effects of which nobody can know, and that say so", self.unknown),
            ("sum", "right" if self.sum_is_right else "WRONG"),
            ("lost", len(self.lost)),
            ("duplicated effects", len(self.duplicated)),
            ("leaked", len(self.leaked)),
        ]
        lines = [rst_table(("chaos", ""), [(name, str(value)) for name, value in rows])]
        for name, what in (
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("leaked", self.leaked),
        ):
            lines += [f"{name}: {each}" for each in what[:20]]
        return "\n".join(lines)


# -- who breaks things ---------------------------------------------------------------------------


class Server:
    """The service, in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # guards _process, which two threads replace
        self.kills = 0

    def start(self) -> None:
        """Start it, and return at once."""
        call = ["hybrid_compute.cli", "serve", "benchmarks._chaos_work:TASKS", "--no-token"]
        call += ["--port", str(self.port), "--remember", str(self.folder / "memory")]
        with self._lock, (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *call], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is dead."""
        process = self._process
        return None if process is None else process.pid

    def kill(self) -> None:
        """Kill it, and start it again."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self.kills += 1
        self.start()

    def end(self) -> None:
        """End it as a user does."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _spawners(server: Server) -> list[int]:
    here = [each for each in _children(os.getpid()) if each != server.pid]
    there = [] if server.pid is None else _children(server.pid)
    return here + there


class Breaker:
    """Threads that break one thing each, at Poisson-distributed times, until the end."""

    def __init__(self, rng: random.Random, server: Server, proxy: FaultProxy) -> None:
        self._server = server
        self._proxy = proxy
        self._over = threading.Event()
        self._rng = rng
        self.worker_kills = self.cuts = 0
        doing: tuple[tuple[Callable[[random.Random], None], float], ...] = (
            (self._kill_worker, _WORKER_KILLS),
            (lambda _: server.kill(), 1 / _SERVER_EVERY),
            (self._cut, _CUTS),
        )
        self._threads = [
            threading.Thread(
                target=self._each, args=(do, often, random.Random(rng.random())), name="breaker"
            )
            for do, often in doing
        ]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()
        self._proxy.heal()

    def _each(self, do: Callable[[random.Random], None], often: float, rng: random.Random) -> None:
        while not self._over.wait(rng.expovariate(often)):
            do(rng)

    def _kill_worker(self, rng: random.Random) -> None:
        spawners = _spawners(self._server)
        victims = [worker for each in spawners for worker in _children(each)]
        if rng.randrange(_SPAWNER_EVERY) == 0:
            victims = spawners
        if victims:
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(rng.choice(victims), signal.SIGKILL)
                self.worker_kills += 1

    def _cut(self, rng: random.Random) -> None:
        proxy = self._proxy
        cut = rng.choice(
            (
                proxy.reset_peer,
                lambda: proxy.limit_data(rng.randrange(1, 5000)),
                # Nothing comes, and nothing is refused; what was sent arrives later, if at all.
                lambda: proxy.timeout(keep=True),
                lambda: proxy.latency(rng.uniform(0.01, 0.2), jitter=0.01),
                lambda: proxy.bandwidth(rng.uniform(2_000, 50_000)),
                lambda: proxy.slicer(rng.randrange(1, 50)),
            )
        )
        with cut():
            self.cuts += 1
            self._over.wait(rng.uniform(0.05, 1.0))


# -- who works -----------------------------------------------------------------------------------


class _Turns:
    """A policy: processes and the service in turn, each with the other as its fallback."""

    def __init__(self) -> None:
        self._count = 0

    def route(self, item: Any, fleet: Any) -> tuple[str, ...]:
        self._count += 1
        names = ("process", "remote") if self._count % 2 else ("remote", "process")
        return tuple(name for name in names if name in fleet)


class _Retries:
    """An observer that counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "retried":
            with self._lock:
                self.count += 1


class Ledger:
    """What is out, and what the rest has come to."""

    def __init__(
        self,
        rng: random.Random,
        report: Report,
        sum_ex: HybridExecutor,
        effects_ex: OutboxExecutor,
        path: str,
    ) -> None:
        self._rng = rng
        self._report = report
        self._sum_ex = sum_ex
        self._effects_ex = effects_ex
        self._path = path
        self._out: collections.deque[tuple[int, Future[int]]] = collections.deque()
        self._effects: collections.deque[tuple[int, Future[int]]] = collections.deque()
        self.total = 0
        self.known: set[int] = set()  # effects that are said to have been had

    def out(self) -> int:
        """Return how many tasks have no outcome that was looked at."""
        return len(self._out)

    def submit_block(self) -> None:
        """Submit some more of both."""
        report = self._report
        for n in range(report.tasks, report.tasks + _BLOCK):
            self._out.append((n, self._submit(n)))
        report.tasks += _BLOCK
        for n in range(report.effects, report.effects + _EFFECTS):
            self._effects.append((n, self._effects_ex.submit(note, self._path, n)))
        report.effects += _EFFECTS

    def _submit(self, n: int) -> Future[int]:
        return self._sum_ex.submit(rest, n, self._rng.expovariate(1 / _MEAN))

    def collect_block(self) -> None:
        """Wait for the tasks that have been out for longest."""
        for _ in range(min(_BLOCK, len(self._out))):
            n, future = self._out.popleft()
            try:
                value = self._outcome(n, future)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                self._report.lost.append(f"task {n}: {error!r}")
                continue
            self.total += value
            if value != n:
                self._report.lost.append(f"task {n} gave {value}")

    def _outcome(self, n: int, future: Future[int]) -> int:
        while True:
            try:
                return future.result(_SOON)
            except WorkerCrashed as error:
                if "given up" not in str(error):
                    raise
                self._report.anew += 1
                future = self._submit(n)

    def collect_effects(self) -> None:
        """Wait for all effects."""
        for n, future in self._effects:
            try:
                error = future.exception(_SOON)
            except BaseException as late:
                error = late
            if error is None:
                self.known.add(n)
            elif isinstance(error, OutcomeUnknown) or (
                isinstance(error, RemoteTaskError) and error.type_name.endswith("WorkerCrashed")
            ):  # the server, or the worker that it ran in, died in the midst of it
                self._report.unknown += 1
            elif isinstance(error, KeyboardInterrupt):
                raise error
            else:
                self._report.lost.append(f"effect {n}: {error!r}")


# -- what is left --------------------------------------------------------------------------------


def _held() -> set[str]:
    threads = {f"thread {each.name}, {each.ident}" for each in threading.enumerate()}
    return threads | set(_files()) | set(_processes()) | set(_segments())


def _files() -> Iterator[str]:
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this very listing
            yield f"descriptor {each.name}: {each.readlink()}"


def _segments() -> Iterator[str]:
    mine = str(os.getpid())
    for each in Path("/dev/shm").iterdir():
        if mine in each.name.replace("_", "-").split("-"):
            yield f"shared memory {each.name}"


def _processes() -> Iterator[str]:
    """Tell all processes that have inherited our mark, wherever they hang in the tree."""
    mark = f"{_MARK}={os.getpid()}\0".encode()
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                if mark in (each / "environ").read_bytes():
                    yield f"process {each.name}: {(each / 'cmdline').read_bytes()!r}"


def _leaked(before: set[str]) -> list[str]:
    gc.collect()
    end = time.monotonic() + _GRACE
    while (left := _held() - before) and time.monotonic() < end:
        time.sleep(0.05)
    return sorted(left)


# -- all of it -----------------------------------------------------------------------------------


def run(seconds: float, seed: int) -> Report:
    """Break things for so many seconds while a sum is computed, and tell how it went.

    Args:
        seconds: how long things break; what is out then is finished in peace.
        seed: of all that is random here. When a kill comes is up to the machine too.
    """
    os.environ[_MARK] = str(os.getpid())
    rng, report, begun = random.Random(seed), Report(), time.monotonic()
    before = _held()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(folder)
        server.start()
        try:
            with FaultProxy("127.0.0.1", server.port, seed=seed) as proxy:
                _work(rng, report, server, proxy, until=begun + seconds)
        finally:
            server.end()
        lines = collections.Counter(_lines(folder / "effects"))
    report.server_kills = server.kills
    report.duplicated = [f"effect {n}: {count} times" for n, count in lines.items() if count > 1]
    report.leaked = _leaked(before)
    report.seconds = time.monotonic() - begun
    return report


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _work(
    rng: random.Random, report: Report, server: Server, proxy: FaultProxy, *, until: float
) -> None:
    folder = server.folder

    def remote() -> RemoteExecutor:
        return RemoteExecutor(
            f"ws://127.0.0.1:{proxy.port}/ws",
            tasks=["rest", "note"],
            connect_timeout=2.0,
            ping_interval=0.5,
            ping_timeout=1.0,
        )

    retries = _Retries()
    with (
        HybridExecutor(
            2, max_processes=2, remote=remote(), policy=_Turns(), observers=[retries]
        ) as sum_ex,
        OutboxExecutor(remote(), folder / "outbox", linger=_SOON) as effects_ex,
    ):
        ledger = Ledger(rng, report, sum_ex, effects_ex, str(folder / "effects"))
        with Breaker(rng, server, proxy) as breaker:
            while time.monotonic() < until:
                ledger.submit_block()
                if ledger.out() > 2 * _BLOCK:
                    ledger.collect_block()
        while ledger.out():
            ledger.collect_block()
        ledger.collect_effects()
    report.worker_kills, report.cuts = breaker.worker_kills, breaker.cuts
    report.retries = retries.count
    report.sum_is_right = ledger.total == sum(range(report.tasks))
    had = set(map(int, _lines(folder / "effects")))
    report.lost += [f"effect {n} was said to be had" for n in sorted(ledger.known - had)]


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, and return the status to exit with."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args(arguments)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    report = run(given.seconds, seed)
    print(report)
    return 0 if report.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
