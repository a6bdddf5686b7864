"""Policies: objects that choose where a work item runs. All are quick and thread-safe.

Those that not every program has are imported when they are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hybrid_compute.abc import Policy
from hybrid_compute.policy.adaptive import Adaptive
from hybrid_compute.policy.fixed import Always, Prefer
from hybrid_compute.policy.rules import Predicate, Rule, Rules, named, tagged, when
from hybrid_compute.prices import Price

if TYPE_CHECKING:
    from hybrid_compute.policy.budget import Budget, Spending
    from hybrid_compute.policy.loads import LeastLoaded
    from hybrid_compute.policy.nearest import Nearest
    from hybrid_compute.policy.shadow import Agreement, Shadow, ShadowReport

__all__ = [
    "Adaptive",
    "Agreement",
    "Always",
    "Budget",
    "LeastLoaded",
    "Nearest",
    "Policy",
    "Predicate",
    "Prefer",
    "Price",
    "Rule",
    "Rules",
    "Shadow",
    "ShadowReport",
    "Spending",
    "named",
    "tagged",
    "when",
]

_HOMES = {
    "Agreement": "shadow",
    "Budget": "budget",
    "LeastLoaded": "loads",
    "Nearest": "nearest",
    "Shadow": "shadow",
    "ShadowReport": "shadow",
    "Spending": "budget",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next access finds it at once
    return value
