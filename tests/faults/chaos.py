"""A long run under random kills, the result of which is known: row 27 of the matrix.

    python -m tests.faults.chaos --seconds 60

Idempotent tasks with retries give a sum. Meanwhile SIGKILL hits worker processes, and now and
then the process that forks them, at Poisson-distributed times: while they run something, are
idle, or still start. The sum must be right, each future must have an outcome, and nothing must be
left behind. Exits with 1 if something is wrong.

What a task has no influence on may hit it three times in a row, and then it is given up, however
many retries it has: an item that kills its workers must not go on for ever. Such a task is
submitted anew here, and counted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from hybrid_compute import errors
from tests import conftest

from . import chaos_tasks, work
from .processes import children_of, spawners_of
from .scenario import make, submitter

SOON = work.SOON
SPAWNER_EVERY = 50  # so many kills hit workers while one hits their spawner
EARLY_EVERY = 10  # so many kills come when something has run since the last, while one comes before
BLOCK = 500  # tasks; three blocks are out at a time
BUSY = 0.5  # the share of the time that the tasks would take with nobody killed


class Report:
    """What a run has come to.

    Attributes:
        tasks: how many were submitted.
        kills: how many SIGKILLs hit a process that lived.
        retries: how many more runs than tasks were begun.
        given_up: how many tasks were submitted anew, since three workers had died of them.
        lost: futures that have no outcome, or a wrong one.
        leaked: threads, processes, descriptors and shared memory that were left.
        sum_is_right: whether the results add up to what is known.
        seconds: that it took.
    """

    def __init__(self, *, tasks, kills, retries, given_up, lost, leaked, sum_is_right, seconds):
        self.tasks = tasks
        self.kills = kills
        self.retries = retries
        self.given_up = given_up
        self.lost = lost
        self.leaked = leaked
        self.sum_is_right = sum_is_right
        self.seconds = seconds

    def is_good(self):
        return self.sum_is_right and not self.lost and not self.leaked

    def __str__(self):
        lines = [
            f"tasks {self.tasks}, kills {self.kills}, retries {self.retries}",
            f"given up and submitted anew {self.given_up}",
            f"lost {len(self.lost)}, leaked {len(self.leaked)}",
            f"sum {'right' if self.sum_is_right else 'WRONG'}, after {self.seconds:.1f} s",
            *(f"lost: {each}" for each in self.lost[:20]),
            *(f"leaked: {each}" for each in self.leaked[:20]),
        ]
        return "\n".join(lines)


class Killer:
    """A thread that kills workers of this process at Poisson-distributed times."""

    def __init__(self, rng, seconds, per_second, least, runs):
        self._rng, self._per_second, self._least, self._runs = rng, per_second, least, runs
        self._deadline = time.monotonic() + seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")
        self.kills = 0

    def is_done(self):
        """Say whether the time is up and as many have been killed as was asked for."""
        return self.kills >= self._least and time.monotonic() > self._deadline

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        seen = -1
        while not self._over.wait(self._rng.expovariate(self._per_second)):
            if self.is_done():
                return
            # Where workers start slowly they would all be killed before they have run anything.
            begun = self._runs.stat().st_size
            if begun == seen and self._rng.randrange(EARLY_EVERY):
                continue
            spawners = spawners_of()
            workers = [worker for spawner in spawners for worker in children_of(spawner)]
            hits_spawner = self._rng.randrange(SPAWNER_EVERY) == 0
            victims = spawners if hits_spawner else workers
            if victims:
                with contextlib.suppress(ProcessLookupError):  # it has just died
                    os.kill(self._rng.choice(victims), signal.SIGKILL)
                    self.kills += 1
                    seen = begun


def run(
    seconds,
    *,
    tasks=10_000,
    kills_per_second=20.0,
    least_kills=0,
    workers=2,
    kind="options",
    seed=1,
):
    """Submit tasks and kill for so many seconds, and tell how it went.

    Args:
        seconds: how long.
        tasks: at least so many, of a length that they take about that long; more if they do not.
        kills_per_second: on the average.
        least_kills: goes on beyond its time until there were so many, which depends on how soon
            the machine starts new workers for those that were killed.
        workers: how many processes work.
        kind: the executor, see `scenario`.
        seed: of all that is random here; when a kill comes is up to the machine too.
    """
    rng = random.Random(seed)
    before = conftest.Holdings.now()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.touch()
        with make(kind, workers) as executor:
            submit = submitter(kind, executor, idempotent=True, retries=20)
            ledger = Ledger(rng, submit, str(runs), BUSY * seconds * workers / tasks)
            with Killer(rng, seconds, kills_per_second, least_kills, runs) as killer:
                while ledger.submitted < tasks or not killer.is_done():
                    ledger.submit_block()
                    if ledger.out() > 2 * BLOCK:
                        ledger.collect_block()
                while ledger.out():
                    ledger.collect_block()
        started = runs.stat().st_size
    return Report(
        tasks=ledger.submitted,
        kills=killer.kills,
        retries=started - ledger.submitted,
        given_up=ledger.given_up,
        lost=ledger.lost,
        leaked=conftest._leaks(before),
        sum_is_right=ledger.total == sum(range(ledger.submitted)),
        seconds=time.monotonic() - start,
    )


class Ledger:
    """The tasks that are out, and what the others have come to."""

    def __init__(self, rng, submit, runs, length):
        self._rng, self._submit, self._runs, self._length = rng, submit, runs, length
        self._out = collections.deque()
        self.submitted = self.total = self.given_up = 0
        self.lost = []

    def out(self):
        return len(self._out)

    def submit_block(self):
        for n in range(self.submitted, self.submitted + BLOCK):
            self._out.append((n, self._submit(*self._task(n))))
        self.submitted += BLOCK

    def collect_block(self):
        for _ in range(BLOCK):
            n, future = self._out.popleft()
            try:
                value = self._outcome(n, future)
            except Exception as error:
                self.lost.append(f"{n}: {error!r}")
                continue
            value = value if isinstance(value, int) else value[0]
            self.total += value
            if value != n:
                self.lost.append(f"{n}: gave {value}")

    def _outcome(self, n, future):
        while True:
            try:
                return future.result(SOON)
            except errors.WorkerCrashed as error:
                if "given up" not in str(error):
                    raise
                self.given_up += 1
                future = self._submit(*self._task(n))

    def _task(self, n):
        """Return a call that gives n: short or long, with small or large arguments and results."""
        runs = self._runs
        seconds = self._rng.expovariate(1 / (2 * self._length)) if n % 2 else 0.0
        if n % 50 == 7:
            return chaos_tasks.sum_large, runs, seconds, n, bytearray(500_000)
        if n % 50 == 8:
            return chaos_tasks.give_large, runs, seconds, n
        if n % 50 == 9:
            return (lambda runs, n: (chaos_tasks.note_run(runs, n), "by value")), runs, n
        return chaos_tasks.rest, runs, seconds, n


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--kills-per-second", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kind", choices=("process", "options", "policy"), default="options")
    parser.add_argument("--seed", type=int, default=None)
    options = vars(parser.parse_args(argv))
    if options["seed"] is None:
        options["seed"] = random.randrange(1_000_000)
    print("seed", options["seed"], flush=True)
    report = run(**options)
    print(report)
    return 0 if report.is_good() else 1


if __name__ == "__main__":
    sys.exit(main())
