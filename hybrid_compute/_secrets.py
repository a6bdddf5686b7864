"""Secrets: the parameters of a task that its annotations call sensitive.

Owns the reading of annotations, which is done once for a task, when it is first submitted where
that matters. What cannot be read may say anything, so it counts as sensitive. No threads, no locks:
two threads that read the same task at a time find the same.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ForwardRef, Literal, NamedTuple, get_args, get_origin

from hybrid_compute.tasks import Task

__all__ = ["Secrets", "secrets_of"]

_MAX_DEPTH = 50  # of an annotation; a recursive alias has no end


class Secrets(NamedTuple):
    """Which arguments of a call are sensitive.

    Attributes:
        why: says so in words, with the name of the first parameter.
        positions: of arguments given by position, from 0.
        rest: the position from which on all are (`*args`); None: from none.
        names: of arguments given by keyword.
        others: names of all parameters, if every further keyword is (`**kwargs`); else None.
    """

    why: str
    positions: frozenset[int]
    rest: int | None
    names: frozenset[str]
    others: frozenset[str] | None

    def has_position(self, index: int) -> bool:
        """Say whether an argument given by position is sensitive."""
        return index in self.positions or (self.rest is not None and index >= self.rest)

    def has_name(self, name: str) -> bool:
        """Say whether an argument given by keyword is sensitive."""
        return name in self.names or (self.others is not None and name not in self.others)


def secrets_of(task: Task[..., Any]) -> Secrets | None:
    """Return which parameters of a task are sensitive; None: none of them. Read once."""
    found = task._secrets
    if found is Ellipsis:
        declared = task._declared
        if declared is None:
            found = _read(task.fn, trusting=task.options.local_only is False)
        else:  # a method, which is bound anew for each call
            found = _without_self(secrets_of(declared))
        task._secrets = found
    return found  # type: ignore[no-any-return]


def _without_self(secrets: Secrets | None) -> Secrets | None:
    if secrets is None:
        return None
    return secrets._replace(
        positions=frozenset(each - 1 for each in secrets.positions),
        rest=None if secrets.rest is None else max(0, secrets.rest - 1),
    )


def _read(fn: Callable[..., Any], *, trusting: bool) -> Secrets | None:
    """Read the annotations of a function.

    Args:
        fn: the function.
        trusting: the author has said that what cannot be read is not sensitive.
    """
    import inspect  # noqa: PLC0415 - it takes long, and few come by here

    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return None  # made in C: it has no annotations
    except Exception as error:  # annotations are evaluated here from Python 3.14 on
        if trusting:
            return None
        why = f"its annotations cannot be read ({type(error).__name__}), and may say Sensitive"
        return Secrets(why, frozenset(), 0, frozenset(), frozenset())
    scope = _scope_of(fn)
    why = ""
    positions, names = [], []
    rest: int | None = None
    others = False
    for index, (name, each) in enumerate(parameters.items()):
        if each.annotation is each.empty:
            continue
        said = _reading(name, each.annotation, scope, trusting=trusting)
        if not said:
            continue
        why = why or said
        if each.kind is each.VAR_POSITIONAL:
            rest = index
        elif each.kind is each.VAR_KEYWORD:
            others = True
        else:
            if each.kind is not each.KEYWORD_ONLY:
                positions.append(index)
            if each.kind is not each.POSITIONAL_ONLY:
                names.append(name)
    if not why:
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = frozenset(name for name, each in parameters.items() if each.kind in by_name)
    return Secrets(why, frozenset(positions), rest, frozenset(names), known if others else None)


def _reading(name: str, annotation: Any, scope: Mapping[str, Any], *, trusting: bool) -> str:
    """Return why a parameter is sensitive; empty: it is not."""
    try:
        if _says_sensitive(annotation, scope, 0):
            return f"its parameter {name!r} is annotated as Sensitive"
    except Exception as error:  # an annotation may do anything
        if not trusting:
            return (
                f"the annotation of its parameter {name!r} cannot be resolved "
                f"({type(error).__name__}), and may say Sensitive: import its names where the "
                "program runs, or declare @task(local_only=False) if it does not"
            )
    return ""


def _says_sensitive(kind: Any, scope: Mapping[str, Any], depth: int) -> bool:
    if depth > _MAX_DEPTH:
        return False  # an alias that names itself, whose parts were seen
    if isinstance(kind, ForwardRef):
        kind = kind.__forward_arg__
    while isinstance(kind, str):
        kind = eval(kind, {**scope})  # noqa: S307 - the author's own, as typing.get_type_hints
    origin = get_origin(kind)
    if origin is Literal:
        return False
    if _is_marker(kind) or _is_marker(origin):
        return True
    if any(map(_is_marker, getattr(kind, "__metadata__", ()))):
        return True
    return any(_says_sensitive(each, scope, depth + 1) for each in _parts(kind))


def _is_marker(each: Any) -> bool:
    module = sys.modules.get("hybrid_compute.sensitive")
    return module is not None and each is module.Sensitive


def _parts(kind: Any) -> Iterator[Any]:
    if hasattr(kind, "__metadata__"):
        yield kind.__origin__  # of Annotated: what else stands there is no type
    elif isinstance(kind, (list, tuple)):  # the parameters of a Callable
        yield from kind
    else:
        yield from get_args(kind)
    for name in ("__value__", "__supertype__"):  # `type X = ...`, and NewType
        if not isinstance(kind, type) and hasattr(kind, name):
            yield getattr(kind, name)


def _scope_of(fn: Any) -> Mapping[str, Any]:
    """Return the names that the annotations of a callable may use."""
    while True:
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, types.MethodType):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif isinstance(fn, type):
            return getattr(sys.modules.get(fn.__module__), "__dict__", {})
        elif not isinstance(fn, types.FunctionType):
            call = type(fn).__call__
            if not isinstance(call, types.FunctionType):
                return {}
            fn = call
        else:
            break
    names = dict(fn.__globals__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return names
