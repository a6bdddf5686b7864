"""Programs that use an outbox, and are killed. Run as `python -m tests.faults.outbox_programs`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from hybrid_compute import OutboxExecutor, RemoteExecutor, remote_task
from tests.executors.outbox_fakes import Service

echo = remote_task("echo")


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def submit_until_killed(path: str) -> None:
    """For each line of input, have a child that submits, and tells what was acknowledged."""
    for line in sys.stdin:
        if not (pid := os.fork()):
            service = Service()
            service.away = True
            ex = OutboxExecutor(service, path)
            say("begun")
            for number in range(10**6):
                ex.submit(echo, f"{line.strip()}-{number}")
                say(f"{line.strip()}-{number}")
        say(pid)
        os.waitpid(pid, 0)
        say("dead")


def drain(path: str) -> None:
    """Deliver what others have left, and tell what was delivered here."""
    service = Service()
    say("ready")
    sys.stdin.readline()
    with OutboxExecutor(service, path):
        sys.stdin.readline()
    for _, args in service.came:
        say(*args)


def hold(path: str) -> None:
    """Claim all that others have left, and do not come to an end with it."""
    service = Service(lambda _: Service.HOLD)
    ex = OutboxExecutor(service, path, lease=1.0)  # as long as it has a name, it lives
    service.arrived.acquire()
    say("holds")
    threading.Event().wait()
    ex.shutdown()


def deliver(path: str, port: str, effects: str, gate: str = "") -> None:
    """Submit a call, and wait for it."""
    remote = RemoteExecutor(f"http://127.0.0.1:{port}/compute", token=os.environ["TOKEN"])
    ex = OutboxExecutor(remote, path)
    future = ex.submit(remote_task("note"), effects, gate)
    say("submitted")
    say(future.result())
    ex.shutdown()


def leave(path: str, port: str, effects: str) -> None:
    """Submit calls, and come to the end of the program."""
    remote = RemoteExecutor(f"http://127.0.0.1:{port}/compute", token=os.environ["TOKEN"])
    ex = OutboxExecutor(remote, path, linger=0.2)
    global kept
    kept = [ex.submit(remote_task("note"), effects) for _ in range(5)]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    globals()[sys.argv[1]](*sys.argv[2:])
