"""Tasks that tell of the context they run in, for worker processes and servers."""

from __future__ import annotations

from contextvars import ContextVar

from hybrid_compute import TaskRegistry

TASKS = TaskRegistry()
request_id: ContextVar[object] = ContextVar("request_id", default="unset")
secret: ContextVar[object] = ContextVar("secret", default="unset")


class Odd:
    """What JSON has no form for."""


@TASKS.task
def look(value=None):
    """Return what the variables are, and set one."""
    seen = request_id.get(), secret.get()
    request_id.set("set by a task")
    return seen


@TASKS.task(executor="inline")
def look_inline(value=None):
    return request_id.get(), secret.get()


@TASKS.task
def look_twice():
    """Yield what the variable is, before and after it was set."""
    yield request_id.get()
    request_id.set("set by a stream")
    yield request_id.get()
    yield request_id.get()


def look_plainly(value=None):
    return request_id.get()


def look_plainly_twice():
    yield from look_twice.fn()
