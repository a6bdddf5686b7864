"""Tasks for the servers that JavaScript calls."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal

import attrs
import msgspec

from hybrid_compute import task


@task(executor="thread")
def echo(value: Any = None) -> Any:
    return value


@task(executor="thread")
def has_input(*values: Any) -> int:
    """Return how many arguments came."""
    return len(values)


@task(executor="thread")
def silent() -> None:
    raise ValueError


@task(executor="thread")
def fail(text: str) -> None:
    raise ValueError(text)


@task(executor="thread")
def add(a: int, b: int) -> int:
    return a + b


@task
def wait() -> None:
    threading.Event().wait(600)


def _constructor(value: Any) -> Any:
    return ["constructor", value]


def _class(value: Any) -> Any:
    return ["__class__", value]


TASKS = [echo, has_input, silent, fail, add, wait]
ODD = {"constructor": _constructor, "__class__": _class}


@attrs.frozen
class Point:
    x: float
    y: float = 0.0


@task(executor="thread")
def scalar(number: int, text: str = "", flag: bool = False) -> None:
    """Take what JSON has."""


@task(executor="thread")
def small(number: Annotated[int, msgspec.Meta(ge=0, le=10)], kind: Literal["a", "b"] = "a") -> None:
    """Take what is in bounds."""


@task(executor="thread")
def nested(point: Point, others: list[Point] | None = None) -> None:
    """Take objects, whose schema stands apart."""


@task(executor="thread")
def mapping(table: dict[str, int], *, pair: tuple[int, str] = (0, "")) -> None:
    """Take a table."""


@task(executor="thread")
def anything(value: Any, **others: int) -> None:
    """Take anything, and further numbers."""


CHECKED = [scalar, small, nested, mapping, anything]
