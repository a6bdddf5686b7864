"""A state machine over a whole fleet: what is accepted resolves once, whatever happens meanwhile.

Its rules submit, cancel, kill workers, cut the network, kill the service and start it again, and
shut the executor down, in any order. It looks for what the library promises:

- Each accepted task's future resolves, exactly once, with its value or one error of our tree.
- What is not idempotent runs once at the most; what was cancelled never runs.
- Nothing is left: workers and threads are looked for after each example.

In short here; `FLEET_EXAMPLES=500 FLEET_STEPS=40 python -m pytest tests/faults/test_fleet.py` takes
some minutes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import CancelledError, wait

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from hybrid_compute import HybridExecutor, ProcessExecutor, RemoteExecutor
from hybrid_compute.errors import HybridComputeError
from hybrid_compute.policy import Prefer
from hybrid_compute.testing import FaultProxy

from . import fleet_tasks
from .processes import ROOT, are_gone, children_of, spawners_of, workers_of

EXAMPLES = int(os.environ.get("FLEET_EXAMPLES", "10"))
STEPS = int(os.environ.get("FLEET_STEPS", "15"))
SOON = 60.0  # seconds in which everything resolves


class Service:
    """The service, at one port, however often it dies."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        """Start it; it is not there yet when this returns."""
        call = ["hybrid_compute.cli", "serve", "tests.faults.fleet_tasks:TASKS", "--no-token"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *call, "--port", str(self.port)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.terminate()
        self.process.wait(30)


class Submitted:
    """One task and what is known of it."""

    def __init__(self, number, kind, future):
        self.number = number
        self.kind = kind
        self.future = future
        self.told = 0  # how often its callback was called
        self.was_told = threading.Event()
        self.cancelled = False  # `cancel` has said True
        self.runs_when_ended = None  # how often it had run when `cancel_running` said True
        future.add_done_callback(self.note)

    def note(self, _):
        self.told += 1
        self.was_told.set()


class Fleet(RuleBasedStateMachine):
    service: Service

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.proxy = FaultProxy("127.0.0.1", self.service.port)
        self.all = []
        self.cut = None
        self.first = 0  # of those that the executor of the moment has got
        self.restarts = 0
        self.executor = self._make()

    def _make(self):
        remote = RemoteExecutor(
            f"ws://127.0.0.1:{self.proxy.port}/ws",
            tasks=list(fleet_tasks.TASKS),
            connect_timeout=1.0,
            reconnect_for=2.0,
            ping_interval=0.1,
            ping_timeout=0.2,
        )
        return HybridExecutor(
            2,
            remote=remote,
            executors={"process": ProcessExecutor(2, kill_grace=0.2)},
            policy=Prefer("remote", "process", "thread"),
        )

    def runs(self, number):
        with contextlib.suppress(FileNotFoundError):
            return os.stat(f"{self.folder.name}/{number}").st_size
        return 0

    # What is done.

    @rule(
        name=st.sampled_from(["once", "again", "hedged"]),
        place=st.sampled_from([None, "thread", "process", "remote"]),
        seconds=st.sampled_from([0.0, 0.0, 0.01, 0.05]),
        count=st.sampled_from([1, 1, 5]),
    )
    def submit(self, name, place, seconds, count):
        view = self.executor if place is None else self.executor.options(executor=place)
        for _ in range(count):
            number = len(self.all)
            task = fleet_tasks.TASKS[name]
            future = view.submit(task, self.folder.name, number, seconds)
            self.all.append(Submitted(number, name, future))

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 7))
    def cancel(self, which):
        it = self.all[-1 - which % len(self.all)]
        done = it.future.done()
        if it.future.cancel() and not done:
            it.cancelled = True
            assert self.runs(it.number) == 0

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 7))
    def cancel_running(self, which):
        it = self.all[-1 - which % len(self.all)]
        done = it.future.done()
        if it.future.cancel_running() and not done:
            it.runs_when_ended = self.runs(it.number)

    @rule(which=st.integers(0, 3), spawner=st.integers(0, 9))
    def kill_a_worker(self, which, spawner):
        victims = spawners_of() if not spawner else workers_of()
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[which % len(victims)], signal.SIGKILL)

    @rule(which=st.integers(0, 3))
    def kill_a_worker_of_the_service(self, which):
        pid = self.service.process.pid
        victims = [each for spawner in children_of(pid) for each in children_of(spawner)]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[which % len(victims)], signal.SIGKILL)

    @precondition(lambda self: self.cut is None)
    @rule(how=st.sampled_from(["silent", "late", "reset", "short"]), size=st.integers(1, 2000))
    def partition(self, how, size):
        if how == "reset":
            self.proxy.reset_peer().remove()
        elif how == "short":
            self.cut = self.proxy.limit_data(size)
        else:
            self.cut = self.proxy.timeout(keep=how == "late")

    @precondition(lambda self: self.cut is not None)
    @rule()
    def heal(self):
        self.cut.remove()
        self.cut = None

    @precondition(lambda self: self.restarts < 1)
    @rule()
    def restart(self):
        self.restarts += 1
        self.service.kill()
        self.service.start()

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 7))
    def look(self, which):
        wait([self.all[-1 - which % len(self.all)].future], 0.05)

    @rule(waits=st.booleans(), cancels=st.booleans())
    def shut_down(self, waits, cancels):
        if waits and self.cut is not None:
            self.heal()
        self.executor.shutdown(wait=waits, cancel_futures=cancels)
        with pytest.raises(RuntimeError):
            self.executor.submit(fleet_tasks.once, self.folder.name, -1, 0.0)
        if waits:
            assert all(each.future.done() for each in self.all[self.first :])
        self.first = len(self.all)
        self.executor = self._make()

    # What must be true.

    def teardown(self):
        if not hasattr(self, "all"):
            return
        try:
            if self.cut is not None:
                self.heal()
            self.executor.shutdown()
            open_ = wait([each.future for each in self.all], SOON).not_done
            assert not open_, [
                (each.number, each.kind, str(each.future.explain()))
                for each in self.all
                if each.future in open_
            ]
        finally:
            self.proxy.close()
        for each in self.all:
            self.check(each)
        assert are_gone(spawners_of() + workers_of())
        self.folder.cleanup()

    def check(self, it):
        assert it.was_told.wait(SOON)  # who waits may be woken before callbacks are called
        assert it.told == 1, f"{it.kind} {it.number} was told {it.told} times"
        runs = self.runs(it.number)
        if it.kind == "once":
            assert runs <= 1
        if it.cancelled:
            assert it.future.cancelled()
            assert runs == 0
            return
        if it.future.cancelled():
            if it.runs_when_ended is not None and it.kind == "once":
                assert runs <= 1
            return
        try:
            error = it.future.exception(0)
        except CancelledError:
            return
        if error is None:
            assert it.future.result(0) == it.number
            assert runs >= 1
        else:
            assert isinstance(error, (HybridComputeError, CancelledError)), repr(error)


@pytest.mark.timeout(110 if EXAMPLES <= 10 else 0)
def test_whatever_happens_what_is_accepted_resolves_once():
    service = Service()
    service.start()
    try:
        machine = type("Machine", (Fleet,), {"service": service})
        run_machine(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                database=None,
                print_blob=True,
                # Times are up to the machine: a smaller example would be another one.
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        service.end()
