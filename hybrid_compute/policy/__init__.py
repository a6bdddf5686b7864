"""Policies: objects that choose where a work item runs. All are pure and thread-safe."""

from __future__ import annotations

from hybrid_compute.abc import Policy
from hybrid_compute.policy.adaptive import Adaptive
from hybrid_compute.policy.fixed import Always, Prefer
from hybrid_compute.policy.rules import Predicate, Rule, Rules, named, tagged, when
from hybrid_compute.prices import Price

__all__ = [
    "Adaptive",
    "Always",
    "Policy",
    "Predicate",
    "Prefer",
    "Price",
    "Rule",
    "Rules",
    "named",
    "tagged",
    "when",
]
