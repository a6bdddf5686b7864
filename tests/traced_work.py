"""Tasks that fail, for whoever looks at what is printed of it."""

from __future__ import annotations

from hybrid_compute import TaskRegistry

TASKS = TaskRegistry()


class Odd(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def deep(kind=ValueError, *args):
    raise kind(*args or ("deep down",))


@TASKS.task
def fail(value=None):
    deep()


@TASKS.task(executor="inline")
def fail_inline(value=None):
    deep()


@TASKS.task(executor="process")
def fail_in_process(value=None):
    deep()


@TASKS.task
def fail_oddly(value=None):
    deep(Odd, "deep down", 2)


@TASKS.task
def break_off():
    yield 1
    deep()
