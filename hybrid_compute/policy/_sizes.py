"""How large the arguments of a call are, told without running code of anybody's.

Nothing is pickled or copied to find out, and no method of an argument's own class is called: only
the lengths of builtins, the bytes of numpy arrays, and the magnitude of whole numbers, which for
many functions is what their time depends on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["measure"]

_BYTES_EACH: dict[Any, int] = {
    str: 1,
    bytes: 1,
    bytearray: 1,
    list: 8,
    tuple: 8,
    dict: 16,
    set: 8,
    frozenset: 8,
}
_BITS_A_CLASS = 2  # one class is four times the size of the one below


def measure(args: Iterable[Any]) -> tuple[int, int]:
    """Return the size class of some arguments, and about how many bytes they are.

    Args:
        args: the arguments, or one result as a tuple of one.
    """
    numbers = size = 0
    for each in args:
        kind = type(each)
        if kind is int:
            numbers += each if each >= 0 else -each
        elif kind in _BYTES_EACH:
            size += len(each) * _BYTES_EACH[kind]
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            size += each.nbytes
    return (numbers + size).bit_length() // _BITS_A_CLASS, size
