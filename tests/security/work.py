"""Tasks for the servers that the tests of security start."""

from __future__ import annotations

import os
import sys
from typing import Any

import attrs

from hybrid_compute import task

SECRET_OF_TASK = "secret-in-an-error-0123456789"


@attrs.frozen
class Point:
    x: int
    y: float = 0.0


@task(executor="inline")
def echo(value: Any = None) -> Any:
    return value


@task(executor="inline")
def modules() -> list[str]:
    """Tell what the server has imported."""
    return sorted(sys.modules)


@task
def move(point: Point, by: list[int], *, name: str = "") -> str:
    return f"{point} {by} {name}"


@task
def leak(password: str) -> None:
    secret = SECRET_OF_TASK
    raise ValueError(f"{len(password) + len(secret)} characters")


@task
def limits() -> dict[str, Any]:
    """Tell what surrounds a worker process."""
    import resource

    with open("/proc/self/environ", "rb") as file:
        born = [each.partition(b"=")[0].decode() for each in file.read().split(b"\0")]
    return {
        "environ": [each for each in os.environ if each.startswith("HYBRID_COMPUTE_")],
        "born": [each for each in born if each.startswith("HYBRID_COMPUTE_")],
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "group": os.getpgrp(),
        "pid": os.getpid(),
    }


TASKS = [echo, modules, move, leak, limits]
