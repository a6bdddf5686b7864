"""The tasks of `benchmarks.chaos`. Both sides have them; a new worker imports next to nothing."""

from __future__ import annotations

import os
import time

from hybrid_compute import Retry, TaskRegistry

__all__ = ["TASKS", "note", "rest"]

TASKS = TaskRegistry()


@TASKS.task(idempotent=True, retries=Retry(50, 0.02, longest=0.5))
def rest(n: int, seconds: float) -> int:
    """Give the number back, after a while."""
    if seconds:
        time.sleep(seconds)
    return n


@TASKS.task
def note(path: str, n: int) -> int:
    """Have an effect: a line in a file. Not idempotent."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{n}\n".encode())
    finally:
        os.close(fd)
    return n
