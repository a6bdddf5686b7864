"""Executors by name: the classes that stand behind the names of types.

Owns the names of this library's own; others are those of installed packages (`_plugins`). No
threads, no state.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import wraps
from types import MappingProxyType
from typing import Any

from hybrid_compute._config_keys import meant
from hybrid_compute._plugins import EXECUTORS, find_plugin, plugin_names
from hybrid_compute.errors import ConfigurationError

__all__ = ["TYPES", "as_named", "executor_maker", "executor_named", "makers_called"]

# Where each is, which is imported when it is asked for. Engines stand on a floor above: this table
# has their names only, and whoever asks for one has the whole library.
TYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "dask": ("engines.dask", "DaskExecutor"),
        "inline": ("executors.inline", "InlineExecutor"),
        "outbox": ("executors.outbox", "OutboxExecutor"),
        "process": ("executors.process", "ProcessExecutor"),
        "remote": ("executors.remote", "RemoteExecutor"),
        "thread": ("executors.thread", "ThreadExecutor"),
        "wasm": ("engines.wasm", "WasmExecutor"),
    }
)


def makers_called() -> list[str]:
    """Return all names that `executor_maker` knows."""
    return sorted({*TYPES, *plugin_names(EXECUTORS)})


def executor_maker(name: str) -> Callable[..., Any]:
    """Return the class or function that makes the executors of a type.

    Raises:
        ConfigurationError: there is no such type.
    """
    if name in TYPES:
        module, attribute = TYPES[name]
        found: Callable[..., Any] = getattr(
            importlib.import_module(f"hybrid_compute.{module}"), attribute
        )
        return found
    if plugin := find_plugin(EXECUTORS, name):
        made: Callable[..., Any] = plugin
        return made
    known = makers_called()
    raise ConfigurationError(
        f"there is no type of executor {name!r}; {meant(name, known)}there are {known}"
    )


def executor_named(said: str, name: str) -> Executor:
    """Return the executor that a type's name, or the URL of a service, describes.

    Args:
        said: the type, or the URL.
        name: in the fleet.

    Raises:
        ConfigurationError: there is no such type, or it needs to be told more.
    """
    if "://" in said:
        made: Executor = executor_maker("remote")(said, name=name)
        return made
    maker = as_named(executor_maker(said))
    try:
        return maker(name=name)
    except (TypeError, ConfigurationError) as error:
        raise ConfigurationError(
            f"executors: {name!r} cannot be made of the name {said!r} alone ({error}); give an "
            "object"
        ) from error


def as_named(maker: Callable[..., Any]) -> Callable[..., Executor]:
    """Return a maker that may be given `name=`, which one that takes none does not get."""
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):  # of some that are written in C
        parameters = {}  # type: ignore[assignment]
    if "name" in parameters or any(e.kind is e.VAR_KEYWORD for e in parameters.values()):
        return maker

    @wraps(maker)
    def make(*args: Any, name: str, **kwargs: Any) -> Executor:
        made: Executor = maker(*args, **kwargs)
        return made

    return make
