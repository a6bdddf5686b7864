"""Keys: what may be said of something in a file, by the signature of what makes it.

Owns the way from the parameters of a class or function to keys with their kinds, and the check of
one table against them; so no key is written down twice, and those of third parties are known as
well. Every complaint names where the key stands, what was found there and what to write instead; of
what may be a secret it tells nothing. Pure, but for the constructors that it calls.
"""

from __future__ import annotations

import builtins
import difflib
import inspect
import math
import os
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from hybrid_compute.breaker import Breaker
from hybrid_compute.errors import ConfigurationError

__all__ = ["SECRETS", "FromText", "Key", "Keys", "checked", "keys_of", "meant", "unknown"]

SECRETS = frozenset({"token", "signing_key", "password", "secret"})
_ENVIRONMENT, _FILE = "env:", "file:"

_BOOL, _INT, _NUMBER, _TEXT = "true or false", "a whole number", "a number", "a text"
_TEXTS, _TABLE, _RULES = "a list of texts", "a table of texts", "a list of rules"
_POLICY, _EXECUTOR, _NESTED, _ANY = "a policy", "an executor", "a table", "anything"
_SAID = f"a text that begins with {_ENVIRONMENT!r} or {_FILE!r}"

_CHECKS: Mapping[str, Callable[[Any], bool]] = types.MappingProxyType(
    {
        _BOOL: lambda value: isinstance(value, bool),
        _INT: lambda value: isinstance(value, int) and not isinstance(value, bool),
        _NUMBER: lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        ),
        _TEXT: lambda value: isinstance(value, str),
        _TEXTS: lambda value: (
            isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
        ),
        _TABLE: lambda value: (
            isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values())
        ),
        _RULES: lambda value: (
            isinstance(value, (list, tuple)) and all(isinstance(each, Mapping) for each in value)
        ),
        _POLICY: lambda value: isinstance(value, (str, Mapping)),
        _EXECUTOR: lambda value: isinstance(value, (str, Mapping)),
        _NESTED: lambda value: isinstance(value, Mapping),
        _SAID: lambda value: isinstance(value, str) and value.startswith((_ENVIRONMENT, _FILE)),
        _ANY: lambda value: True,
    }
)


class FromText(str):
    """A value that came as text, out of the environment, and may stand for something else."""

    __slots__ = ()

    def read(self, kinds: Iterable[str]) -> Any:
        """Return what it stands for, where one of these kinds is wanted."""
        kinds = tuple(kinds)
        text = str(self)
        if kinds == (_TEXT,) or _SAID in kinds:
            return text
        try:
            read = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            read = {}
        value = read.get("value")
        if len(read) == 1 and any(_CHECKS[kind](value) for kind in kinds):
            return value
        if _TEXTS in kinds and _TEXT not in kinds:
            return [each.strip() for each in text.split(",")]
        return text


class Key(NamedTuple):
    """One parameter, as a key of a table.

    Attributes:
        name: of both.
        kinds: what its value may be; empty: nothing that a file can say.
        nested: makes it of a table.
        required: whether it must be there.
        spread: it is a list whose items are arguments by position.
    """

    name: str
    kinds: tuple[str, ...]
    nested: Callable[..., Any] | None = None
    required: bool = False
    spread: bool = False


class Keys(NamedTuple):
    """The keys of one table.

    Attributes:
        of: by their names.
        open: it may have any others as well.
    """

    of: Mapping[str, Key]
    open: bool


def keys_of(maker: Callable[..., Any], *, without: Collection[str] = ()) -> Keys:
    """Return what may be said of what a class or function makes.

    Args:
        maker: the class or function.
        without: parameters that are given in another way.
    """
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):  # of some that are written in C
        return Keys({}, open=True)
    hints = _hints(maker)
    found: dict[str, Key] = {}
    is_open = False
    for name, each in parameters.items():
        if each.kind is each.VAR_KEYWORD:
            is_open = True
        elif name not in without and each.kind is not each.POSITIONAL_ONLY:
            spread = each.kind is each.VAR_POSITIONAL
            kinds, nested = _kinds(hints.get(name, Any), spread=spread)
            if name in SECRETS and _TEXT in kinds:
                kinds = (_SAID,)
            required = each.default is each.empty and not spread
            found[name] = Key(name, kinds, nested, required, spread)
    return Keys(found, is_open)


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    function: Any = maker.__init__ if isinstance(maker, type) else maker  # type: ignore[misc]
    names = _Names({"Callable": Callable, "Mapping": Mapping})
    names.update(vars(sys.modules.get(getattr(function, "__module__", ""), types)))
    hints: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        if not isinstance(hint, str):
            hints[name] = hint
            continue
        try:
            hints[name] = eval(hint, {}, names)  # noqa: S307 - of code that is about to be called
        except Exception:  # the constructor will see to it
            hints[name] = Any
    return hints


class _Unknown:
    """What only type checkers import."""

    def __class_getitem__(cls, _: object) -> type[_Unknown]:
        return cls


class _Names(dict[str, Any]):
    """The names that a module has, or would have for a type checker."""

    def __missing__(self, name: str) -> Any:
        return vars(builtins).get(name, _Unknown)


def _kinds(hint: Any, *, spread: bool) -> tuple[tuple[str, ...], Callable[..., Any] | None]:
    """Return what a value may be that has a certain annotation."""
    kinds: list[str] = []
    nested = None
    for each in _members(hint):
        kind, maker = _kind(each)
        nested = nested or maker
        if kind is not None and kind not in kinds:
            kinds.append(kind)
    if spread:
        kinds = [_RULES if kinds == [_RULES] else _TEXTS if kinds == [_TEXT] else _ANY]
    return tuple(kinds), nested


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [each for part in typing.get_args(hint) for each in _members(part)]
    return [hint]


# Those that stand above this module.
_BY_NAME = types.MappingProxyType({"Policy": _POLICY, "Rule": _RULES})
_PLAIN: Mapping[Any, str] = types.MappingProxyType(
    {bool: _BOOL, int: _INT, float: _NUMBER, str: _TEXT, Any: _ANY, os.PathLike: _TEXT, Path: _TEXT}
)


def _kind(hint: Any) -> tuple[str | None, Callable[..., Any] | None]:
    origin: Any = typing.get_origin(hint) or hint
    inside = typing.get_args(hint)
    kind, nested = None, None
    if origin is Literal:
        kind = _TEXT if all(isinstance(each, str) for each in inside) else _ANY
    elif origin is _Unknown:
        kind = _ANY
    elif any(origin is each for each in _PLAIN):
        kind = _PLAIN[origin]
    elif getattr(origin, "__name__", "") in _BY_NAME:
        kind = _BY_NAME[origin.__name__]
    elif not isinstance(origin, type):
        pass
    elif issubclass(origin, Executor):
        kind = _EXECUTOR
    elif issubclass(origin, Breaker):
        kind, nested = _NESTED, origin
    elif issubclass(origin, Mapping) and inside:
        kind = _TABLE if str in _members(inside[-1]) else _ANY
    elif any(str in _members(each) for each in inside) and (
        origin is Iterable or issubclass(origin, (Sequence, set, frozenset))
    ):
        kind = _TEXTS
    return kind, nested


def checked(
    keys: Keys, table: Mapping[str, Any], where: Callable[[str], str], needs: str
) -> dict[str, Any]:
    """Return the values of a table, by their keys.

    Args:
        keys: what it may have.
        table: what was said.
        where: tells where a key stands.
        needs: whose keys they are, for complaints.

    Raises:
        ConfigurationError: a key is unknown, or missing, or its value is of another kind.
    """
    found: dict[str, Any] = {}
    for name, value in table.items():
        key = keys.of.get(name)
        if key is None and not keys.open:
            unknown(where(name), name, [n for n, each in keys.of.items() if each.kinds], needs)
        kinds = (_ANY,) if key is None else key.kinds
        if not kinds:
            raise ConfigurationError(
                f"{where(name)} is nothing that can be written down: give {needs} its {name}= in "
                "code"
            )
        found[name] = _value(name, value, kinds, where)
    for key in keys.of.values():
        if key.required and key.name not in found:
            raise ConfigurationError(
                f"{where(key.name)} is missing: {needs} needs it; give {' or '.join(key.kinds)}"
            )
    return found


def _value(name: str, value: Any, kinds: tuple[str, ...], where: Callable[[str], str]) -> Any:
    if isinstance(value, FromText):
        value = value.read(kinds)
    if not any(_CHECKS[kind](value) for kind in kinds):
        secret = name in SECRETS or _SAID in kinds or _TABLE in kinds
        shown = f" is {value!r}" if not secret else " has the wrong form (its value is not shown)"
        raise ConfigurationError(f"{where(name)}{shown}: give {' or '.join(kinds)}")
    if _SAID in kinds and value.startswith(_FILE):
        return Path(value.removeprefix(_FILE))
    return tuple(value) if isinstance(value, list) and kinds != (_ANY,) else value


def unknown(where: str, name: str, known: Collection[str], whose: str) -> NoReturn:
    """Raise that there is no such name, with the one that was meant, if that can be guessed."""
    raise ConfigurationError(
        f"{where} is unknown; {meant(name, known)}{whose} takes {sorted(known)}"
    )


def meant(name: str, known: Collection[str]) -> str:
    """Return the question whether another name was meant; "" if none is like it."""
    near = difflib.get_close_matches(name.lower(), known, 1)
    return f"did you mean {near[0]!r}? " if near else ""
