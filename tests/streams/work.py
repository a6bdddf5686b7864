"""Generators for the tests, importable wherever they run."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from hybrid_compute import task

PAUSE = 0.005


@task
def count(n, start=0):
    """Yield n numbers; return how many."""
    yield from range(start, start + n)
    return n


@task
def each(items):
    yield from items


@task
def endless(path):
    """Yield numbers for ever; the file tells how far, and in the end that it is closed."""
    number, part = 0, Path(path).with_suffix(".part")
    try:
        while True:
            part.write_text(str(number + 1))
            part.replace(path)
            yield number
            number += 1
    finally:
        Path(path).with_suffix(".closed").write_text(str(os.getpid()))


@task
def endless_blocks(path, size):
    """Yield blocks of so many bytes for ever; the file tells how far."""
    number, part = 0, Path(path).with_suffix(".part")
    while True:
        part.write_text(str(number + 1))
        part.replace(path)
        yield bytes(size)
        number += 1


@task
def slow_endless(path):
    """The same, with time between."""
    try:
        while True:
            yield "tick"
            time.sleep(PAUSE)
    finally:
        Path(path).with_suffix(".closed").write_text(str(os.getpid()))


@task
def defiant():
    """Yield numbers; raise when closed."""
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        raise LookupError("not yet")


@task
def failing(n):
    yield from range(n)
    raise KeyError("midway")


@task
def blocks(n, size):
    """Yield n blocks of so many bytes, each of another value."""
    for number in range(n):
        yield bytes([number % 256]) * size


@task
def stalls(path):
    """Yield three items in a row; the next only when the file is there."""
    yield from (1, 2, 3)
    while not Path(path).exists():
        time.sleep(PAUSE)
    yield 4


@task
def wait_for(path):
    while not Path(path).exists():
        time.sleep(PAUSE)


@task
def reuses(n):
    """Yield one and the same list, longer each time."""
    items = []
    for number in range(n):
        items.append(number)
        yield items


@task
async def counts_async(n):
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@task
def where():
    yield os.getpid()


@task
def double(x):
    return 2 * x


@task(buffersize=1)
def one_by_one(n):
    yield from range(n)


TASKS = [
    count,
    each,
    endless,
    endless_blocks,
    slow_endless,
    defiant,
    failing,
    blocks,
    stalls,
    reuses,
    counts_async,
    where,
    double,
]
