"""Signed work: any callable, pickled for another machine, and what became of it, pickled back.

Owns `_load`, the one function that unpickles bytes which came over a network. It runs in two
places: in a worker process of a server (`perform`), which was started with --allow-pickle and has
checked the signature; and in a caller (`outcome`) that signed the call, after it has checked the
answer's. A server's own process never runs it: `perform` refuses.

No threads, no state.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

from hybrid_compute._failures import decode_error, encode_error, text_of, type_name_of
from hybrid_compute._pickling import decode_call, dumps, encode_call, loads
from hybrid_compute.errors import (
    PlacementError,
    ResultDecodeError,
    ResultEncodeError,
    TaskDecodeError,
)
from hybrid_compute.tasks import Task

__all__ = ["outcome", "pack", "perform"]


def pack(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None, *, name: str
) -> bytes:
    """Pickle a call.

    Raises:
        TaskEncodeError: a part of it cannot be pickled; the text names the part.
    """
    return encode_call(fn, args, kwargs, name=name)


def perform(body: bytes, server: int) -> tuple[bool, bytes]:
    """Run a call, and pickle what comes of it. In a worker process.

    Args:
        body: the pickled call; its signature is good.
        server: pid of the process that has checked that.

    Returns:
        Whether it failed, and the result or the exception.

    Raises:
        PlacementError: this is the server's own process, where nothing may be unpickled.
    """
    if os.getpid() == server:
        raise PlacementError(
            "a pickled call runs in worker processes only, and the executor 'process' of this "
            "server has none"
        )
    try:
        fn, args, kwargs = _load(body, "call")
    except BaseException as error:
        hint = ""
        if isinstance(error, ImportError):
            hint = (
                "; the server cannot import what the call names: install it there, or let "
                "cloudpickle.register_pickle_by_value(module) send the module's code"
            )
        return True, encode_error(_because(TaskDecodeError, "the call", error, hint))
    if isinstance(fn, Task):
        fn = fn.fn
    try:
        value = fn(*args, **(kwargs or {}))
    except BaseException as error:  # a SystemExit is the caller's too
        return True, encode_error(error)
    try:
        return False, dumps(value)
    except BaseException as error:  # a user's __reduce__ may raise anything
        what = f"the work was done, but its result, of type {type_name_of(type(value))},"
        return True, encode_error(_because(ResultEncodeError, what, error))


def outcome(body: bytes, *, failed: bool) -> Any:
    """Return the result in an answer whose signature is good, or raise the exception in it.

    Raises:
        ResultDecodeError: the result cannot be unpickled here.
        BaseException: what the call raised, with its traceback there as `__cause__`.
    """
    if failed:
        raise _load(body, "error")
    try:
        return _load(body, "result")
    except BaseException as error:
        raise _because(ResultDecodeError, "the result", error) from error


def _load(body: bytes, kind: Literal["call", "result", "error"]) -> Any:
    """Unpickle bytes from a network, whose signature is good. The only function that does."""
    if kind == "call":
        return decode_call(body)
    return loads(body) if kind == "result" else decode_error(body)


def _because(kind: type[Exception], what: str, error: BaseException, hint: str = "") -> Exception:
    made = kind(
        f"{what} cannot be {'' if kind is ResultEncodeError else 'un'}pickled: "
        f"{type_name_of(type(error))}: {text_of(error)}{hint}"
    )
    made.__cause__ = error
    return made
