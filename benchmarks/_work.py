"""What the benchmarks run in workers. Imports nothing: what a worker imports is start-up time."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["echo", "nothing", "open_to_read", "successor"]

T = TypeVar("T")


def nothing() -> None:
    """Return at once."""


def successor(number: int) -> int:
    """Return the next number: a tiny task with an argument and a result."""
    return number + 1


def echo(value: T) -> T:
    """Return the argument, which for a big one measures the way there and back."""
    return value


def open_to_read(path: str) -> None:
    """Keep a worker busy until somebody opens the named pipe at `path` for writing."""
    with open(path, "rb"):  # noqa: PTH123 - see above: no imports
        pass
