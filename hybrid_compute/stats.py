"""Snapshots of what executors do: plain records, with no link back to the executors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from hybrid_compute.policy.budget import Spending

if TYPE_CHECKING:
    from hybrid_compute.abc import Fleet, Policy

__all__ = ["ExecutorStats", "Stats", "stats_of"]


@attrs.frozen(kw_only=True)
class ExecutorStats:
    """What one executor does at this moment.

    Attributes:
        workers: most items it runs at once.
        queued: items that wait.
        running: items that run.
    """

    workers: int
    queued: int
    running: int


@attrs.frozen(kw_only=True)
class Stats:
    """What a HybridExecutor does at this moment.

    Attributes:
        executors: by name.
        spending: what was spent and saved, if the policy is a `Budget`; else None.
    """

    executors: Mapping[str, ExecutorStats]
    spending: Spending | None = None


def stats_of(fleet: Fleet, policy: Policy | None = None) -> Stats:
    """Return what the executors of a `fleet` do now, and its `policy` spent. Does not block."""
    spending: Any = getattr(policy, "spending", None)
    spent: Any = spending() if callable(spending) else None
    return Stats(
        spending=spent,
        executors=MappingProxyType(
            {
                name: ExecutorStats(workers=each.workers, queued=queued, running=running)
                for name, each in fleet.items()
                for queued, running in [each.counts()]
            }
        ),
    )
