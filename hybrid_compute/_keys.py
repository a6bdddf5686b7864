"""What calls of about the same length have in common: the code that they run.

Pure. Runs none of the user's code, and keeps neither a function nor what it is bound to: what is
learned about calls must not keep them alive.
"""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

__all__ = ["key_of"]


def key_of(fn: Any) -> Any:
    """Return the code behind a callable; lambdas and closures are new for each call, it is not.

    Of builtins it is the name, of other objects their class. A task has it as `Task.key`.
    """
    kind = type(fn)
    if kind is FunctionType:
        return fn.__code__
    if kind is MethodType:
        return key_of(fn.__func__)
    if kind is functools.partial:
        return key_of(fn.func)
    if kind is BuiltinFunctionType:
        return fn.__qualname__
    key = getattr(fn, "key", None) if getattr(kind, "__task__", False) else None
    return kind if key is None else key
