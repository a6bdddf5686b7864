"""Tasks for the server that the tests start."""

import os
from typing import Any

import attrs

from hybrid_compute import task


@attrs.frozen
class Point:
    x: int


@task
def echo(value: Any = None) -> Any:
    return value


@task
def double(point: Point) -> int:
    return 2 * point.x


@task
def fail(text: str = "") -> None:
    raise ValueError(text)


@task
def environ() -> list[str]:
    return [each for each in os.environ if "TOKEN" in each]


@task
def wait() -> None:
    import threading

    threading.Event().wait(60)


TASKS = [echo, double, fail, environ, wait]
