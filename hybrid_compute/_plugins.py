"""Plugins: what other packages add to this library, by name (entry points of packages).

Owns the three groups, and how one of them is found and loaded. Nothing is looked for before a name
comes that is not this library's own. No threads, no state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

__all__ = ["EXECUTORS", "POLICIES", "TRANSPORTS", "find_plugin", "plugin_names"]

EXECUTORS = "hybrid_compute.executors"
POLICIES = "hybrid_compute.policies"
TRANSPORTS = "hybrid_compute.transports"


def _all(group: str) -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - it reads every package's folder

    return entry_points(group=group)


def plugin_names(group: str) -> list[str]:
    """Return the names of a group that installed packages have. Reads the disk."""
    return sorted({each.name for each in _all(group)})


def find_plugin(group: str, name: str) -> Any:
    """Return what stands behind a name; None: no package has it. Reads the disk, and imports.

    Raises:
        ConfigurationError: it cannot be loaded, or two packages have that name.
    """
    found = {each.value: each for each in _all(group) if each.name == name}
    if not found:
        return None
    if len(found) > 1:
        raise ConfigurationError(
            f"{name!r} stands for {' and for '.join(sorted(found))} among the entry points "
            f"{group!r}: uninstall one of their packages"
        )
    ((value, point),) = found.items()
    try:
        made = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"{name!r} is {value} of the package {point.dist and point.dist.name!r}, which cannot "
            f"be loaded: {error!r}"
        ) from error
    if not callable(made):
        raise ConfigurationError(
            f"{name!r} is {value}, {made!r}: it is called to make one, so it must be a class or a "
            "function"
        )
    return made
