"""What `survive` calls: the same function, declared without and with all that sees to failures."""

from __future__ import annotations

from functools import cache
from time import sleep
from typing import Any

from hybrid_compute import Retry, remote_task, task

__all__ = [
    "SUPERVISED",
    "plain",
    "plain_there",
    "slow",
    "slow_there",
    "supervised",
    "supervised_there",
]

SUPERVISED = {"retries": Retry(3), "timeout": 3600, "idempotent": True}


@task
def plain(number: int) -> int:
    return number + 1


@task(**SUPERVISED)
def supervised(number: int) -> int:
    return number + 1


plain_there = remote_task("successor")
supervised_there = remote_task("successor", **SUPERVISED)


@cache
def slow(seconds: float) -> Any:
    """Return a task that sleeps for as long as it is told to, and has so many seconds."""
    return task(timeout=seconds)(sleep)


@cache
def slow_there(seconds: float) -> Any:
    """Return the same of a service."""
    return remote_task("rest", timeout=seconds)
