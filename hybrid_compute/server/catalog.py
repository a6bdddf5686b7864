"""Catalog: the names that callers may use, and what each takes.

Owns the allow-list, a dict made once from a registry; the checks of arguments against a function's
annotations, by msgspec, before anything runs; and the description of all that (`GET /tasks`).
Nothing is imported and no attribute is followed for a name from the wire. Immutable, no threads.
"""

from __future__ import annotations

import datetime as dt
import decimal
import inspect
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from hybrid_compute._failures import short, text_of, type_name_of
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.signing import SIGNED_TASK
from hybrid_compute.server.gate import Refusal
from hybrid_compute.tasks import Task

__all__ = ["Catalog", "Entry"]

# Between our own peers these travel as themselves: text does not stand for them.
_EXACT = (
    *(bytes, bytearray, dt.datetime, dt.date, dt.time, dt.timedelta),
    *(uuid.UUID, decimal.Decimal),
)
_SCALARS = frozenset((str, int, bool, float))
_AT = re.compile(r"^(.*) - at `\$(.*)`$", re.DOTALL)
_NO_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class Entry:
    """One task, and what its arguments must be.

    Attributes:
        task: what runs.
        scalar: the type of a lone argument which `check` would let pass as it is; None: there is
            none such.
    """

    def __init__(self, name: str, task: Task[..., Any]) -> None:
        self.name = name
        self.task = task
        fn = task.fn
        if inspect.iscoroutinefunction(fn):
            raise ConfigurationError(f"task {name!r} is a coroutine; declare a plain function")
        try:
            self._signature = inspect.signature(fn)
        except (ValueError, TypeError):  # some builtins tell nothing
            self._signature = _NO_SIGNATURE
        hints = _hints(name, fn)
        self._returns = hints.get("return", Any)
        self._positional: list[Any] = []
        self._named: dict[str, Any] = {}
        self._rest: Any = Any
        required, named_only, any_number = 0, False, False
        self._others: Any = Any
        for each in self._signature.parameters.values():
            kind = _checked(name, each.name, hints.get(each.name, Any))
            if each.kind is each.VAR_POSITIONAL:
                self._rest, any_number = kind, True
            elif each.kind is each.VAR_KEYWORD:
                self._others = kind
            else:
                if each.kind is not each.KEYWORD_ONLY:
                    self._positional.append(kind)
                    required += each.default is each.empty
                elif each.default is each.empty:
                    named_only = True
                if each.kind is not each.POSITIONAL_ONLY:
                    self._named[each.name] = kind
        # How many arguments are right if none has a name: binding them would tell no more.
        most = sys.maxsize if any_number else len(self._positional) + 1
        self._counts = range(0) if named_only else range(required, most)
        first = self._positional[0] if self._positional else self._rest
        is_scalar = 1 in self._counts and any(first is each for each in _SCALARS)
        self.scalar: Any = first if is_scalar else None

    @property
    def takes_names(self) -> bool:
        """Whether all that it needs can be given by name."""
        return not any(
            each.kind is each.POSITIONAL_ONLY for each in self._signature.parameters.values()
        )

    def check(self, request: Request, *, own: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, as the function's annotations want them.

        Args:
            request: the call.
            own: it came from a peer of ours, whose bytes and dates are such already.

        Raises:
            Refusal: 422, with the path of the bad value.
        """
        args, kwargs = request.args, request.kwargs
        if kwargs or len(args) not in self._counts:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise Refusal(422, f"task {self.name!r}: {error}", path="$") from None
        path = "$.input" if len(args) == 1 and not kwargs else ""
        checked = []
        for index, value in enumerate(args):
            kind = self._positional[index] if index < len(self._positional) else self._rest
            checked.append(
                value
                if kind is Any
                else self._convert(value, kind, path or f"$.args[{index}]", own=own)
            )
        named = {
            name: self._convert(
                value, self._named.get(name, self._others), f"$.kwargs.{name}", own=own
            )
            for name, value in kwargs.items()
        }
        return tuple(checked), named

    def _convert(self, value: Any, kind: Any, path: str, *, own: bool) -> Any:
        if kind is Any or (type(value) is kind and type(value) in _SCALARS):
            return value
        try:
            if own:
                return msgspec.convert(value, kind, builtin_types=_EXACT)
            return msgspec.convert(value, kind, str_keys=True)
        except Exception as error:  # __post_init__ may raise anything
            text = str(error) if isinstance(error, (ValueError, TypeError)) else _raised(error)
            if found := _AT.match(text):
                text, path = found[1], path + found[2]
            raise Refusal(422, f"task {self.name!r}: {text} at {path}", path=path) from None

    def describe(self) -> dict[str, Any]:
        """Return what a caller may know of it: its name, its words, and the schemas."""
        empty = inspect.Parameter.empty
        named = [
            each
            for each in self._signature.parameters.values()
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        ]
        hints = _hints(self.name, self.task.fn)
        kinds = [*(hints.get(each.name, Any) for each in named), self._others, self._returns]
        *schemas, result = _schemas(kinds)
        definitions = schemas.pop()
        others: Any = schemas.pop()
        if not any(p.kind is p.VAR_KEYWORD for p in self._signature.parameters.values()):
            others = False
        return {
            "name": self.name,
            **({"streams": True} if self.task.streams else {}),
            "doc": inspect.getdoc(self.task.fn) or "",
            "parameters": {
                "type": "object",
                "properties": {p.name: s for p, s in zip(named, schemas, strict=True)},
                "required": [each.name for each in named if each.default is empty],
                "additionalProperties": others,
            },
            "result": result,
            **({"$defs": definitions} if definitions else {}),
        }


class Catalog:
    """The allow-list: entries by name."""

    def __init__(
        self, registry: Mapping[str, Any] | Iterable[Any], *, what: str = "registry"
    ) -> None:
        """Take a TaskRegistry, a mapping of names to callables, or a list of tasks.

        Raises:
            ConfigurationError: it is none of these, or one of its tasks cannot be served.
        """
        entries: dict[str, Entry] = {}
        for name, task in _pairs(registry, what):
            if not isinstance(name, str) or not name or len(name) > 1000:
                raise ConfigurationError(f"{what}: {name!r} is no name of a task")
            if name == SIGNED_TASK:
                raise ConfigurationError(f"{what}: the name {name!r} is taken by pickled calls")
            if name in entries:
                raise ConfigurationError(f"{what}: two tasks are called {name!r}")
            entries[name] = Entry(name, task)
        if not entries:
            raise ConfigurationError(f"{what} has no task: there is nothing to serve")
        self._entries = entries
        self._described: dict[str, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Any:
        return iter(self._entries.values())

    def find(self, name: str) -> Entry | None:
        """Look a name up. This is all that ever happens with a name from the wire."""
        return self._entries.get(name)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """Return the description of an entry, made once."""
        if entry.name not in self._described:
            self._described[entry.name] = entry.describe()
        return self._described[entry.name]


def _raised(error: Exception) -> str:
    return f"checking it raised {type_name_of(type(error))}: {text_of(error)}"


def _pairs(registry: Any, what: str) -> Iterable[tuple[Any, Task[..., Any]]]:
    if isinstance(registry, Mapping):
        for name, each in registry.items():
            if not callable(each):
                raise ConfigurationError(f"{what}: {name!r} is {short(each)}, no function")
            yield name, each if isinstance(each, Task) else Task(each, name=str(name))
    elif isinstance(registry, Iterable) and not isinstance(registry, (str, bytes)):
        for each in registry:
            if not isinstance(each, Task):
                raise ConfigurationError(
                    f"{what}: {short(each)} is no task; declare it with @task, or give a mapping "
                    "of names to functions"
                )
            yield each.name, each
    else:
        raise ConfigurationError(
            f"{what} is {short(registry)}; give a TaskRegistry, a mapping of names to functions, "
            "or a list of tasks"
        )


def _hints(name: str, fn: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(fn, include_extras=True)
    except TypeError:  # an object with __call__, a partial: no annotations of its own
        return {}
    except Exception as error:  # annotations may be any expression
        raise ConfigurationError(
            f"task {name!r}: its annotations cannot be read, so that its arguments could not be "
            f"checked: {error}; import what they name at run time too"
        ) from error
    return {each: _bare_type(kind) for each, kind in hints.items()}


def _bare_type(kind: Any) -> Any:
    """Return what stands within `Sensitive[...]`: the caller decides what it sends."""
    origin = get_origin(kind)
    if getattr(origin, "__module__", "") == "hybrid_compute.sensitive":
        return get_args(kind)[0]
    return kind


def _checked(task: str, parameter: str, kind: Any) -> Any:
    """Return a type that msgspec can check."""
    try:
        msgspec.json.Decoder(kind)
    except Exception as error:
        raise ConfigurationError(
            f"task {task!r}: nothing can check {parameter!r} against {kind!r}: {error}; annotate "
            "it with Any and check it in the task"
        ) from error
    return kind


def _schemas(kinds: list[Any]) -> list[Any]:
    """Return a schema for each type but the last, the shared definitions, and the last's."""
    definitions: dict[str, Any] = {}
    schemas: list[Any] = []
    for kind in kinds:
        try:
            (schema,), components = msgspec.json.schema_components(
                [kind],
                schema_hook=lambda each: {"title": getattr(each, "__name__", str(each))},
                ref_template="#/$defs/{name}",
            )
        except Exception:  # a description is a courtesy: the checks decide
            schema, components = {}, {}
        schemas.append(schema)
        definitions.update(components)
    return [*schemas[:-1], definitions, schemas[-1]]
