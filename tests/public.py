"""What counts as public: for the reference, and for the test of docstrings."""

from __future__ import annotations

import importlib
from typing import Any

import hybrid_compute

__all__ = ["MODULES", "public_names"]

# All that their `__all__` has.
MODULES = (
    *("abc", "decision_log", "errors", "events", "policy", "server", "simulate", "stats"),
    *("testing", "transports"),
)
# What users get from these, or make, though its module has other names too.
SINGLE = (
    "breaker.Breaker",
    "breaker.State",
    "engines.joblib.HybridBackend",
    "engines.joblib.register",
    "engines.wasm.WasmExecutor",
    "decisions.Attempt",
    "decisions.Choice",
    "decisions.Explanation",
    "executors.foreign.ForeignExecutor",
    "executors.outbox.OutboxEntry",
    "retry.RetryBudget",
    "testing.proxy.FaultHandle",
    "views.ExecutorView",
)


def public_names() -> dict[str, Any]:
    """Return every public object by its name, with its module, below the package."""
    found = {
        name: getattr(hybrid_compute, name)
        for name in hybrid_compute.__all__
        if name not in MODULES
    }
    for module in MODULES:
        home = importlib.import_module(f"hybrid_compute.{module}")
        found |= {f"{module}.{name}": getattr(home, name) for name in home.__all__}
    for name in SINGLE:
        module, _, last = name.rpartition(".")
        found[name] = getattr(importlib.import_module(f"hybrid_compute.{module}"), last)
    return found
