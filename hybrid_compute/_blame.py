"""Which part of a call cannot be pickled: found when it failed, named in the error.

Owns the search and the text. Imported by the caller's side only, and only after a failure.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from hybrid_compute._failures import short, text_of, type_name_of
from hybrid_compute._pickling import dumps
from hybrid_compute.errors import TaskEncodeError

__all__ = ["explain"]

_MAX_DEPTH = 100  # of a path; deeper ones help nobody


def explain(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    error: BaseException,
    *,
    name: str,
    private: bool = False,
) -> TaskEncodeError:
    """Return the TaskEncodeError for a call that could not be pickled.

    Args:
        fn: the function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        error: what pickling has raised.
        name: what the function is called.
        private: an argument is sensitive: its parts are not named, since keys of dicts are values
            too, and what pickling said is left out, since that shows what it could not pickle.
    """
    deep = not private and not isinstance(error, (RecursionError, MemoryError))
    where, kind = _guilty_part(fn, args, kwargs, deep=deep)
    said = "" if private else f": {text_of(error)}"
    return TaskEncodeError(
        f"task {name!r} cannot be sent to another process: {where}{kind} cannot be pickled: "
        f"{type(error).__name__}{said}. Pass plain data and make such objects inside "
        "the task, give their class a __reduce__ that works, or run the task on threads"
    )


def _guilty_part(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None, *, deep: bool
) -> tuple[str, str]:
    # Pickling everything once more, part by part, is dear; but this call is lost already.
    itself = "the function itself"
    parts: list[tuple[str, str, Any]] = [(itself, f"{itself}, in its", fn)]
    parts += [(f"argument {i + 1}", f"args[{i}]", each) for i, each in enumerate(args)]
    parts += [(f"keyword {k!r}", f"kwargs[{k!r}]", each) for k, each in (kwargs or {}).items()]
    for label, prefix, part in parts:
        if not _travels(part):
            path, inner = _descend(part) if deep else ("", part)
            return prefix + path if path else label, f" (of type {type_name_of(type(inner))})"
    return "the call as a whole", ""


def _descend(obj: Any) -> tuple[str, Any]:
    path, seen = "", {id(obj)}
    while len(seen) < _MAX_DEPTH:
        guilty = next((p for p in _parts(obj) if id(p[1]) not in seen and not _travels(p[1])), None)
        if guilty is None:
            break
        path, obj = path + guilty[0], guilty[1]
        seen.add(id(obj))
    return path, obj


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    # Only what pickling the object is known to look at: blaming another part would mislead.
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"[{short(key)}]", value
            yield f" key {short(key)}", key
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{index}]", value) for index, value in enumerate(list(obj)))
    elif isinstance(obj, (set, frozenset)):
        yield from ((f" element {short(value)}", value) for value in list(obj))
    elif isinstance(obj, types.FunctionType):
        yield from _variables(obj)
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, functools.partial):
        yield from ((".func", obj.func), (".args", obj.args), (".keywords", obj.keywords))
    elif type(obj).__module__ == "hybrid_compute.tasks":  # a Task: its function stands for it
        yield "", getattr(obj, "fn", None)
    elif _has_plain_state(type(obj)):
        yield from ((f".{name}", value) for name, value in list(vars(obj).items()))


def _has_plain_state(cls: Any) -> bool:
    return (
        bool(getattr(cls, "__dictoffset__", 0))
        and cls.__reduce__ is object.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__getstate__ is object.__getstate__
    )


def _variables(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        yield f" variable {name!r}", _content(cell)
    yield from ((f" default value {short(value)}", value) for value in fn.__defaults__ or ())
    for name in fn.__code__.co_names:
        if name in fn.__globals__:
            yield f" variable {name!r}", fn.__globals__[name]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _travels(obj: object) -> bool:
    try:
        dumps(obj)
    except BaseException:  # the call fails anyhow, whatever this one raises
        return False
    return True
