"""Snapshots of what executors do: plain records, with no link back to the executors."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["ExecutorStats", "Stats"]


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
    """

    executors: Mapping[str, ExecutorStats]
