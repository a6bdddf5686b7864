"""What the workers of engines are given to do: it must be importable there."""

from __future__ import annotations

import contextvars
import os
import signal

from hybrid_compute import task
from hybrid_compute.testing.work import hold, mark


@task
def mark_and_die(path: str) -> None:
    mark.fn(path)
    os.kill(os.getpid(), signal.SIGKILL)


user = contextvars.ContextVar("user", default="nobody")


@task
def who() -> str:
    return user.get()


@task
def who_twice():
    yield user.get()
    yield user.get()


@task
def die_once(path: str) -> int:
    """Die the first time; later return how often it was tried."""
    mark.fn(path)
    times = os.path.getsize(path)
    if times == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return times


@task(buffersize=4)
def marked_numbers(path: str, stop: int):
    for each in range(stop):
        mark.fn(path)
        yield each
    return "end"


@task
def numbers_until(port: int):
    """Stream three numbers, and die when a gate is opened."""
    yield from range(3)
    hold.fn(port)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def half_of_even(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@task
def add_up(*arrays) -> float:
    return float(sum(each.sum() for each in arrays))


def cpus_of_ray() -> float:
    import ray

    return ray.get_runtime_context().get_assigned_resources()["CPU"]
