"""Policies by name: the classes that stand behind the names of policies.

Owns the names of this library's own; others are those of installed packages (`_plugins`). No
threads, no state.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from hybrid_compute._config_keys import meant
from hybrid_compute._plugins import POLICIES, find_plugin, plugin_names
from hybrid_compute.errors import ConfigurationError

__all__ = ["named_policy", "policy_maker", "policy_names"]

# Where each is, which is imported when it is asked for.
_HOMES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "adaptive": ("adaptive", "Adaptive"),
        "always": ("fixed", "Always"),
        "budget": ("budget", "Budget"),
        "least-loaded": ("loads", "LeastLoaded"),
        "nearest": ("nearest", "Nearest"),
        "prefer": ("fixed", "Prefer"),
        "rules": ("rules", "Rules"),
        "shadow": ("shadow", "Shadow"),
    }
)


def policy_names() -> list[str]:
    """Return all names that `policy_maker` knows."""
    return sorted({*_HOMES, *plugin_names(POLICIES)})


def policy_maker(name: str) -> Callable[..., Any]:
    """Return the class or function that makes the policies of a name.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name in _HOMES:
        module, attribute = _HOMES[name]
        found: Callable[..., Any] = getattr(
            importlib.import_module(f"hybrid_compute.policy.{module}"), attribute
        )
        return found
    if plugin := find_plugin(POLICIES, name):
        made: Callable[..., Any] = plugin
        return made
    raise ConfigurationError(
        f"policy={name!r} is unknown; {meant(name, policy_names())}the policies that have a name "
        f"are {policy_names()}; give an object for any other"
    )


def named_policy(name: str) -> Any:
    """Return the policy that a name alone describes.

    Raises:
        ConfigurationError: there is none of that name, or it needs to be told more.
    """
    maker = policy_maker(name)
    try:
        return maker()
    except (TypeError, ConfigurationError) as error:
        raise ConfigurationError(
            f"policy={name!r} needs more than its name ({error}); give an object"
        ) from error
