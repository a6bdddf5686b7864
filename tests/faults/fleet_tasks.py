"""The tasks of `test_fleet`, as the service has them too. Each leaves a mark when it runs."""

from __future__ import annotations

import os
import time

from hybrid_compute import TaskRegistry

TASKS = TaskRegistry()


def mark(folder, number):
    fd = os.open(f"{folder}/{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"x")
    os.close(fd)


@TASKS.task
def once(folder, number, seconds):
    mark(folder, number)
    time.sleep(seconds)
    return number


@TASKS.task(idempotent=True, retries=8)
def again(folder, number, seconds):
    mark(folder, number)
    time.sleep(seconds)
    return number


@TASKS.task(idempotent=True, hedge=0.02)
def hedged(folder, number, seconds):
    mark(folder, number)
    time.sleep(seconds)
    return number
