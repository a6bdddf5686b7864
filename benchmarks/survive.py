"""What surviving costs while nothing fails, and how soon there are results again when it does.

The cost is that of retries, a deadline and a breaker together, per call, against the same call
without them. Recovery is the time from a kill to the first result after it: of a worker, while
items are queued behind the one that it ran; of a server, from the moment when it listens again,
beside the back-off step that its caller had come to, which is the most that he may have to wait.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from math import inf
from time import monotonic, perf_counter, process_time, sleep, thread_time
from typing import Any

from benchmarks._harness import Adapter, Case

__all__ = ["CASES"]

_SUPERVISED = "with retries and a deadline"
_TOO_LONG = 0.3  # seconds that a call takes which has 50 ms
_KILLS = 5
_RESTARTS = 3
_REST = 0.05  # seconds that the call takes which is under way when the server dies
_DOWN = 0.7  # seconds between a server's death and its next start


# -- nothing fails -------------------------------------------------------------------------------


def _submit(**options: Any) -> Callable[[int], Mapping[str, float]]:
    def measure(size: int) -> Mapping[str, float]:
        from benchmarks._work import successor
        from hybrid_compute import ThreadExecutor, task

        call = task(**options)(successor)
        times, alone = [], []
        with ThreadExecutor(2) as ex:
            for _ in range(5):
                gc.collect()
                begun, here = process_time(), thread_time()  # what others do meanwhile is not ours
                futures = [ex.submit(call, number) for number in range(size)]
                alone.append((thread_time() - here) / size * 1e6)
                for future in futures:
                    future.result()
                times.append((process_time() - begun) / size * 1e6)
        return {"": min(times), "submit": min(alone)}

    return measure


def _plain(how: str) -> Callable[[int], float]:
    """Return what measures a call that has none of all this, of an executor that could."""

    def measure(size: int) -> float:
        from benchmarks._work import successor
        from hybrid_compute import HybridExecutor, ThreadExecutor

        times = []
        with ThreadExecutor(2) if how == "thread" else HybridExecutor(2) as ex:
            for _ in range(5):
                gc.collect()
                begun = process_time()
                futures = [ex.submit(successor, number) for number in range(size)]
                for future in futures:
                    future.result()
                times.append((process_time() - begun) / size * 1e6)
        return min(times)

    return measure


def _in_turn(make: Callable[[], contextlib.AbstractContextManager[Any]], there: str = "") -> Any:
    """Return what measures the p50 of calls, one after the other, without all this and with it.

    In turn, and with the same worker, or connection: from one to the next these differ by more.
    """

    def measure(size: int) -> Mapping[str, float]:
        # The library is imported in the interpreter that measures, and nowhere else. Importable,
        # as tasks are: with its options a task of a function would be pickled for each call.
        from benchmarks import _supervised

        kinds = {"": f"plain{there}", _SUPERVISED: f"supervised{there}"}
        times: dict[str, list[float]] = {name: [] for name in kinds}
        with make() as ex:
            for number in range(size + 20):
                for name, told in kinds.items():
                    call = getattr(_supervised, told)
                    begun = perf_counter()
                    ex.submit(call, number).result()
                    times[name].append(perf_counter() - begun)
        return {name: statistics.median(took[20:]) * 1e6 for name, took in times.items()}

    return measure


@contextlib.contextmanager
def _process() -> Iterator[Any]:
    from hybrid_compute import ProcessExecutor

    with ProcessExecutor(1) as ex:
        yield ex


@contextlib.contextmanager
def _remote() -> Iterator[Any]:
    from benchmarks._remote_servers import OURS, served
    from hybrid_compute import RemoteExecutor

    with served(OURS) as (port, _), RemoteExecutor(f"ws://127.0.0.1:{port}/ws") as ex:
        yield ex


def _submit_supervised(size: int) -> Mapping[str, float]:
    from benchmarks._supervised import SUPERVISED

    return _submit(**SUPERVISED)(size)


# -- a deadline passes ---------------------------------------------------------------------------


def _late(
    make: Callable[[], contextlib.AbstractContextManager[Any]], work: str, *, queued: int = 0
) -> Callable[[int], Mapping[str, float]]:
    """Return what measures how late the futures of calls fail that take too long.

    Args:
        make: the executor.
        work: the call, in `_supervised`.
        queued: how many of the calls wait behind one that takes too long, all with other deadlines;
            0: they are made one after the other.
    """

    def measure(size: int) -> Mapping[str, float]:
        from benchmarks import _supervised

        late: list[float] = []

        def submit(ex: Any, seconds: float) -> Any:
            call = getattr(_supervised, work)(seconds)
            due = monotonic() + seconds
            future = ex.submit(call, _TOO_LONG)
            future.add_done_callback(lambda _: late.append(monotonic() - due))
            return future

        with make() as ex:
            ex.submit(getattr(_supervised, work)(60.0), 0.0).result()
            gc.collect()
            gc.disable()  # there are 10,000 tasks of ours to go through
            if queued:
                spread = [1.0 + number / queued for number in range(queued)]
                random.Random(1).shuffle(spread)
                futures = [submit(ex, seconds) for seconds in spread]
                for future in futures:
                    future.exception()
            else:
                for _ in range(size):
                    submit(ex, 0.05).exception()
        late.sort()
        return {"": late[len(late) // 2] * 1e3, "latest": late[-1] * 1e3}

    return measure


@contextlib.contextmanager
def _threads() -> Iterator[Any]:
    from hybrid_compute import ThreadExecutor

    with ThreadExecutor(2) as ex:
        yield ex


# -- a worker is killed --------------------------------------------------------------------------


def _worker_ours(_size: int) -> float:
    from benchmarks._work import successor
    from hybrid_compute import ProcessExecutor

    def once() -> float:
        with ProcessExecutor(1) as ex:
            pid = ex.submit(os.getpid).result()
            guilty = ex.submit(sleep, 600)
            behind = ex.submit(successor, 1)
            while not guilty.running():
                sleep(0.001)
            sleep(0.05)  # it runs
            os.kill(pid, signal.SIGKILL)
            begun = perf_counter()
            behind.result()
            return perf_counter() - begun

    return max(once() for _ in range(_KILLS)) * 1e3


def _worker_pebble(_size: int) -> float:
    from pebble import ProcessPool

    from benchmarks._work import successor

    def once() -> float:
        with ProcessPool(1) as pool:
            pid = pool.submit(os.getpid, None).result()
            pool.submit(sleep, None, 600)
            behind = pool.submit(successor, None, 1)
            sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            begun = perf_counter()
            behind.result()
            took = perf_counter() - begun
            pool.stop()
            return took

    return max(once() for _ in range(_KILLS)) * 1e3


# -- a server is killed --------------------------------------------------------------------------


class _Server:
    """The server at one port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it; return once it listens."""
        call = ["hybrid_compute.cli", "serve", "benchmarks._remote_work:TASKS", "--no-token"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *call, "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            sleep(0.002)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def _restart(_size: int) -> Mapping[str, float]:
    from hybrid_compute import RemoteExecutor, remote_task
    from hybrid_compute.executors import _remote_dialer

    steps: list[float] = []  # the bound of each pause that the dialer has made
    uniform = random.uniform

    def watched(least: float, most: float) -> float:
        steps.append(most)
        return uniform(least, most)

    _remote_dialer.random.uniform = watched  # type: ignore[attr-defined]  # as it imports it
    call = remote_task("rest", idempotent=True, retries=3)
    server = _Server()
    worst, step = -inf, 0.0
    try:
        with RemoteExecutor(f"ws://127.0.0.1:{server.port}/ws", tasks=["rest"]) as ex:
            for _ in range(_RESTARTS):
                ex.submit(call, 0).result()
                steps.clear()
                future = ex.submit(call, _REST)
                ex.submit(call, 0).result()  # its answer shows that the server has both
                server.kill()
                threading.Event().wait(_DOWN)
                server.start()
                begun = perf_counter()
                future.result()
                took = perf_counter() - begun - _REST
                if took - steps[-1] > worst - step:
                    worst, step = took, steps[-1]
    finally:
        _remote_dialer.random.uniform = uniform  # type: ignore[attr-defined]
        server.kill()
    return {"": worst * 1e3, "back-off step": step * 1e3}


CASES = (
    Case(
        name="survive: thread submit, nothing failing",
        unit="us",
        adapters=(
            Adapter("ThreadExecutor, a task", _submit()),
            Adapter("ThreadExecutor, a task with retries", _submit(retries=3)),
            Adapter(f"ThreadExecutor, a task {_SUPERVISED}", _submit_supervised),
            Adapter("ThreadExecutor, a function", _plain("thread")),
            Adapter("HybridExecutor, a function", _plain("hybrid")),
        ),
        size=20_000,
        quick_size=5_000,
        note=(
            "CPU time of a call, submitted and collected; as `submit`, that of the thread that "
            "submits, until it has. The least of five times."
        ),
    ),
    Case(
        name="survive: process call, nothing failing, p50",
        unit="us",
        adapters=(Adapter("ProcessExecutor", _in_turn(_process)),),
        size=2_000,
        quick_size=500,
    ),
    Case(
        name="survive: remote call, nothing failing, p50",
        unit="us",
        adapters=(Adapter("RemoteExecutor", _in_turn(_remote, "_there")),),
        size=2_000,
        quick_size=500,
        note="The breaker is there in both.",
    ),
    Case(
        name="survive: a future fails after its deadline, p50",
        unit="ms",
        adapters=(
            Adapter("ThreadExecutor", _late(_threads, "slow")),
            Adapter("ThreadExecutor, 10,000 queued", _late(_threads, "slow", queued=10_000)),
            Adapter("ProcessExecutor", _late(_process, "slow")),
            Adapter("RemoteExecutor", _late(_remote, "slow_there")),
        ),
        size=20,
        quick_size=5,
        rounds=3,
        quick_rounds=2,
        note=(
            "On an idle machine. Those that are queued have a second or two, each another time. A "
            "process is ended first, within `kill_grace`."
        ),
    ),
    Case(
        name="survive: first result after a killed worker",
        unit="ms",
        adapters=(
            Adapter("ProcessExecutor", _worker_ours),
            Adapter("pebble", _worker_pebble, "pebble"),
        ),
        size=1,
        quick_size=1,
        note=f"The longest of {_KILLS} times, of an item that was queued behind the one that ran.",
    ),
    Case(
        name="survive: first result after a restarted server",
        unit="ms",
        adapters=(Adapter("RemoteExecutor", _restart),),
        size=1,
        quick_size=1,
        rounds=3,
        quick_rounds=2,
        note=f"The worst of {_RESTARTS} times, from when the server listens again.",
    ),
)
