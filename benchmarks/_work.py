"""What the benchmarks run in workers. Imports nothing: what a worker imports is start-up time."""

from __future__ import annotations

from time import perf_counter
from typing import Any, TypeVar

__all__ = ["echo", "next_array", "nothing", "open_to_read", "spin", "successor", "summed"]

T = TypeVar("T")


def nothing() -> None:
    """Return at once."""


def successor(number: int) -> int:
    """Return the next number: a tiny task with an argument and a result."""
    return number + 1


def echo(value: T) -> T:
    """Return the argument, which for a big one measures the way there and back."""
    return value


def summed(array: Any) -> tuple[Any, Any]:
    """Return the argument and its sum: every page of it has been looked at."""
    return array, array.sum()


def next_array(array: Any) -> Any:
    """Return another array, as big as the argument."""
    return array + 1


def spin(loops: int) -> tuple[float, float]:
    """Compute for a while, and return when that began and ended by this machine's clock."""
    begin = perf_counter()
    total = 0
    for number in range(loops):
        total += number
    return begin, perf_counter()


def open_to_read(path: str) -> None:
    """Keep a worker busy until somebody opens the named pipe at `path` for writing."""
    with open(path, "rb"):  # noqa: PTH123 - see above: no imports
        pass
