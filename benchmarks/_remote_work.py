"""The tasks that the benchmarks' servers of ours serve: as `hybrid-compute serve` wants them."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from hybrid_compute import task

__all__ = ["TASKS", "echo", "rest", "successor"]


@task(executor="inline")
def successor(number: int) -> int:
    """Return the next number: a tiny task with an argument and a result."""
    return number + 1


@task(executor="inline")
def echo(value: Any) -> Any:
    """Return the argument, which for a big one measures the way there and back."""
    return value


@task(executor="thread", idempotent=True)
def rest(seconds: float) -> float:
    """Take so long."""
    time.sleep(seconds)
    return seconds


TASKS = [successor, echo, rest]

# A line of log for each call costs more than all else about it. One adapter measures it.
if "BENCHMARK_AUDIT" not in os.environ:
    logging.getLogger("hybrid_compute.audit").setLevel(logging.WARNING)
