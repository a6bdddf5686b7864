"""Configuration: what a TOML file, a mapping and the environment say, and what is made of it.

Owns where settings come from, which of them count for more (what is given in code, then the
environment, then the file), and the tables that there are::

    [executor]        arguments of HybridExecutor that are numbers and texts
    [executors.NAME]  a member of the fleet: type = "...", and its arguments
    [policy]          name = "...", and its arguments
    [prices.NAME]     a Price
    [serve], [demo], [replay]   options of the commands

The keys of a table are the parameters of what it makes; see `_config_keys`. No threads, no state.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hybrid_compute._config_keys import FromText, Key, Keys, checked, keys_of, unknown
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.executors._named import TYPES, as_named, executor_maker, makers_called
from hybrid_compute.policy._named import policy_maker
from hybrid_compute.policy.rules import Rule, named, tagged, when
from hybrid_compute.prices import Price

__all__ = ["COMMANDS", "FILE_VARIABLE", "PREFIX", "Config", "Source", "build", "read_config"]

FILE_VARIABLE = "HYBRID_COMPUTE_CONFIG"
PREFIX = "HYBRID_COMPUTE__"
COMMANDS = ("serve", "demo", "replay")

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | None

E = TypeVar("E")

_TABLES = ("executor", "executors", "policy", "prices", *COMMANDS)
_ELSEWHERE = ("executors", "policy", "prices")


class Config:
    """All that was said, and where.

    Attributes:
        origin: what the tables come from, for messages.
    """

    def __init__(
        self, tables: dict[str, Any], origin: str, origins: Mapping[tuple[str, ...], str]
    ) -> None:
        self._tables = tables
        self.origin = origin
        self._origins = origins

    def __bool__(self) -> bool:
        """Say whether anything is said of an executor."""
        return any(self._tables.get(name) for name in _TABLES if name not in COMMANDS)

    def table(self, name: str) -> dict[str, Any]:
        """Return one of the tables; empty if nothing was said."""
        found: dict[str, Any] = self._tables.get(name, {})
        return found

    def where(self, *path: str) -> str:
        """Tell where a key stands, or would stand."""
        for end in range(len(path), 0, -1):
            if path[:end] in self._origins:
                return f"{self._origins[path[:end]]} ({'.'.join(path)})"
        return f"{self.origin}: {'.'.join(path)}"


def read_config(source: Source = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read what a file or a mapping says, and what the environment says beside it.

    Args:
        source: a TOML file, or what would be in one. None: the file that HYBRID_COMPUTE_CONFIG
            names; without it, the environment alone. No file is looked for anywhere else.
        environ: the environment; None: that of this process.

    Raises:
        ConfigurationError: the file cannot be read, or there is no such table.
    """
    environ = os.environ if environ is None else environ
    if source is None:
        source = environ.get(FILE_VARIABLE) or {}
    if isinstance(source, Mapping):
        origin, tables = "the configuration", _copy(source)
    elif not isinstance(source, (str, os.PathLike)):
        raise ConfigurationError(
            f"the configuration {source!r} cannot be read: give a TOML file's path, or a mapping"
        )
    else:
        origin, tables = os.fspath(source), _load(source)
    for name in tables:
        if name not in _TABLES:
            unknown(f"{origin}: {name}", name, _TABLES, "the configuration")
    _spell_out(tables, origin)
    origins: dict[tuple[str, ...], str] = {}
    for variable in sorted(each for each in environ if each.startswith(PREFIX)):
        path = _place(variable, tables)
        _put(tables, path, FromText(environ[variable]))
        origins[path] = variable
    _spell_out(tables, origin)
    return Config(tables, origin, origins)


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    for name in table:
        if not isinstance(name, str):
            raise ConfigurationError(f"the configuration: {name!r} is no key: give a text")
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in table.items()}


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(
            f"the configuration {path!r} cannot be read ({error.strerror}): name a TOML file, or "
            f"unset {FILE_VARIABLE}"
        ) from error
    except ValueError as error:  # no TOML, or not even UTF-8; it tells line and column
        raise ConfigurationError(f"{os.fspath(path)} is no TOML: {error}") from None


def _spell_out(tables: dict[str, Any], origin: str) -> None:
    """Put a table in the place of the texts that are short for one."""
    for name, table in tables.items():
        if name == "policy" and isinstance(table, str):
            tables[name] = {"name": table}
        elif not isinstance(table, dict):
            raise ConfigurationError(
                f"{origin}: {name} is {table!r}: it is a table; write [{name}] and keys below it"
            )
    executors = tables.get("executors", {})
    for name, said in executors.items():
        if isinstance(said, str):
            executors[name] = {"url" if "://" in said else "type": said}


def _place(variable: str, tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path that a variable names; names that a file has in other letters are those."""
    parts = variable.removeprefix(PREFIX).lower().split("__")
    if not all(parts) or parts[0] not in _TABLES:
        unknown(f"{variable}: the table {parts[0]!r}", parts[0], _TABLES, f"{PREFIX}TABLE__KEY")
    at: Any = tables
    path = []
    for part in parts:
        known = at if isinstance(at, Mapping) else {}
        name = next((each for each in known if each.lower().replace("-", "_") == part), part)
        path.append(name)
        at = known.get(name)
    return tuple(path)


def _put(tables: dict[str, Any], path: tuple[str, ...], value: FromText) -> None:
    at: dict[str, Any] = tables
    for name in path[:-1]:
        inner = at.get(name)
        if not isinstance(inner, dict):
            inner = {"name": inner} if isinstance(inner, str) else {}
            at[name] = inner
        at = inner
    at[path[-1]] = value


# Making what was said.


def build(
    cls: Callable[..., E],
    config: Config,
    given: Mapping[str, Any],
    *,
    initializer: Callable[[], object] | None = None,
) -> E:
    """Return the `HybridExecutor` that a configuration describes.

    Args:
        cls: that class, or one derived from it.
        config: what was said.
        given: arguments that count for more; of executors and prices, those of the same names.
        initializer: what each worker process has to call first.

    Raises:
        ConfigurationError: a key is unknown or missing, or its value cannot be taken.
    """
    arguments = {**given}
    theirs = arguments.pop("executors", None) or {}
    executors: dict[str, Executor] = {}
    try:
        for name, each in _tables_in(config, "executors").items():
            if name not in theirs:
                executors[name] = _executor(config, name, each, initializer)
        arguments = _plain(config, cls) | _placing(config, arguments) | arguments
        if initializer is not None and not {"process"} & {*executors, *theirs}:
            most = arguments.get("max_processes")
            executors["process"] = executor_maker("process")(most, initializer)
        return cls(**arguments, executors={**executors, **theirs})
    except BaseException as error:
        for made in executors.values():
            made.shutdown(wait=False)
        if isinstance(error, ConfigurationError) or not isinstance(error, (TypeError, ValueError)):
            raise
        raise ConfigurationError(f"{config.where('executor')}: {error}") from error


def _plain(config: Config, cls: Callable[..., Any]) -> dict[str, Any]:
    table = config.table("executor")
    for name in _ELSEWHERE:
        if name in table:
            raise ConfigurationError(
                f"{config.where('executor', name)}: {name} is a table of its own; write [{name}]"
            )
    keys = keys_of(cls, without=_ELSEWHERE)
    return checked(keys, table, lambda key: config.where("executor", key), "HybridExecutor")


def _placing(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """Return policy and prices; takes prices out of what was given."""
    found: dict[str, Any] = {}
    prices = {
        name: _made(config, Price, keys_of(Price), each, ("prices", name))
        for name, each in _tables_in(config, "prices").items()
    }
    if prices:
        found["prices"] = {**prices, **(given.pop("prices", None) or {})}
    policy = config.table("policy")
    if policy and given.get("policy") is None:
        given.pop("policy", None)
        found["policy"] = _policy(config, policy, ("policy",))
    return found


def _tables_in(config: Config, name: str) -> dict[str, dict[str, Any]]:
    for key, each in (found := config.table(name)).items():
        if not isinstance(each, dict):
            raise ConfigurationError(
                f"{config.where(name, key)} is {each!r}: it is a table; write [{name}.{key}] and "
                "keys below it"
            )
    return found


def _executor(
    config: Config,
    name: str,
    table: Mapping[str, Any],
    initializer: Callable[[], object] | None = None,
    path: tuple[str, ...] = (),
) -> Any:
    path = path or ("executors", name)
    said = {key: each for key, each in table.items() if key != "type"}
    kind = table.get("type", "remote" if "url" in table else name if name in TYPES else None)
    if not isinstance(kind, str):
        raise ConfigurationError(
            f"{config.where(*path, 'type')} is {'missing' if kind is None else repr(kind)}: give "
            f"one of {makers_called()}, or a url"
        )
    maker = _found(lambda: executor_maker(str(kind)), config.where(*path, "type"))
    given: dict[str, Any] = {"name": name}
    if initializer is not None and kind == "process":
        given["initializer"] = initializer
    return _made(config, as_named(maker), keys_of(maker, without=given), said, path, given)


def _policy(config: Config, said: str | Mapping[str, Any], path: tuple[str, ...]) -> Any:
    table = {"name": said} if isinstance(said, str) else dict(said)
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise ConfigurationError(
            f"{config.where(*path, 'name')} is {'missing' if name is None else repr(name)}: give "
            "the name of a policy, such as 'adaptive'"
        )
    maker = _found(lambda: policy_maker(name), config.where(*path, "name"))
    keys = keys_of(maker)
    if "name" in keys.of:  # of an executor: there is a key of that name already
        others = {key: each for key, each in keys.of.items() if key != "name"}
        keys = Keys({"executor": keys.of["name"]._replace(name="executor"), **others}, keys.open)
    return _made(config, maker, keys, table, path)


def _found(find: Callable[[], Any], where: str) -> Any:
    try:
        return find()
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _made(  # noqa: PLR0917 - a maker, its keys and where its table stands: always these
    config: Config,
    maker: Callable[..., Any],
    keys: Keys,
    table: Mapping[str, Any],
    path: tuple[str, ...],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Return what a table describes."""
    needs = getattr(maker, "__name__", repr(maker))
    found = checked(keys, table, lambda key: config.where(*path, key), needs)
    spread: list[Any] = []
    arguments = dict(given or {})
    for name, value in found.items():
        key = keys.of.get(name) or Key(name, ())
        made = _inner(config, key, value, (*path, name))
        if key.spread:
            spread = [*made]
        else:
            arguments["name" if (name, path[0]) == ("executor", "policy") else name] = made
    try:
        return maker(*spread, **arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config.where(*path)}: {error}") from error
    except (TypeError, ValueError, OSError, ImportError) as error:
        raise ConfigurationError(f"{config.where(*path)}: {needs}: {error}") from error


def _inner(config: Config, key: Key, value: Any, path: tuple[str, ...]) -> Any:
    """Return what the value of a key stands for."""
    if key.nested is not None and isinstance(value, Mapping):
        return _made(config, key.nested, keys_of(key.nested), value, path)
    if "a policy" in key.kinds:
        return _policy(config, value, path)
    if "an executor" in key.kinds and isinstance(value, Mapping):
        return _executor(config, path[-1], value, None, path)
    if "a list of rules" in key.kinds:
        return [_rule(config, each, (*path, str(n))) for n, each in enumerate(value, 1)]
    return value


def _to_rule(
    to: str | tuple[str, ...], tagged: str | None = None, named: str | None = None
) -> Rule:
    predicates = [
        _PREDICATES[kind](said) for kind, said in (("tagged", tagged), ("named", named)) if said
    ]
    if not predicates:
        raise ConfigurationError("a rule needs tagged = 'TAG', or named = 'PATTERN', or both")
    test = predicates[0] if len(predicates) == 1 else predicates[0] & predicates[1]
    return when(test, *((to,) if isinstance(to, str) else to))


_PREDICATES = {"tagged": tagged, "named": named}


def _rule(config: Config, table: Mapping[str, Any], path: tuple[str, ...]) -> Rule:
    made: Rule = _made(config, _to_rule, keys_of(_to_rule), table, path)
    return made
