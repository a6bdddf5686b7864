"""What foreign pools are given to do: it must be importable in their workers."""

from __future__ import annotations

import os
import signal

from hybrid_compute import task
from hybrid_compute.testing.work import hold, mark


@task
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def die_once(path: str) -> int:
    """Die the first time; later return how often it was tried."""
    mark.fn(path)
    times = os.path.getsize(path)
    if times == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return times


@task
def numbers(count: int):
    yield from range(count)
    return "end"


def wait_at(port: int) -> None:
    hold.fn(port)


def raise_broken() -> None:
    from concurrent.futures import BrokenExecutor

    raise BrokenExecutor("of its own")
