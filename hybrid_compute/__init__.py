"""One `concurrent.futures.Executor` that runs each piece of work where it runs best.

Names are imported when they are first used (PEP 562): a worker process that needs one small
module does not load the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_compute import abc, errors, events, policy, server, testing, transports
    from hybrid_compute._progress import progress
    from hybrid_compute.executors.inline import InlineExecutor
    from hybrid_compute.executors.outbox import OutboxExecutor
    from hybrid_compute.executors.process import ProcessExecutor
    from hybrid_compute.executors.remote import RemoteExecutor
    from hybrid_compute.executors.thread import ThreadExecutor
    from hybrid_compute.futures import HybridFuture
    from hybrid_compute.hybrid import HybridExecutor
    from hybrid_compute.retry import Retry
    from hybrid_compute.running import Current, current
    from hybrid_compute.sensitive import Sensitive
    from hybrid_compute.streams import Stream
    from hybrid_compute.tasks import Task, TaskOptions, TaskRegistry, remote_task, task

__all__ = [
    "Current",
    "HybridExecutor",
    "HybridFuture",
    "InlineExecutor",
    "OutboxExecutor",
    "ProcessExecutor",
    "RemoteExecutor",
    "Retry",
    "Sensitive",
    "Stream",
    "Task",
    "TaskOptions",
    "TaskRegistry",
    "ThreadExecutor",
    "abc",
    "current",
    "errors",
    "events",
    "policy",
    "progress",
    "remote_task",
    "server",
    "task",
    "testing",
    "transports",
]

_HOMES = {
    "Current": "running",
    "HybridExecutor": "hybrid",
    "HybridFuture": "futures",
    "InlineExecutor": "executors.inline",
    "OutboxExecutor": "executors.outbox",
    "ProcessExecutor": "executors.process",
    "RemoteExecutor": "executors.remote",
    "Retry": "retry",
    "Sensitive": "sensitive",
    "Stream": "streams",
    "Task": "tasks",
    "TaskOptions": "tasks",
    "TaskRegistry": "tasks",
    "ThreadExecutor": "executors.thread",
    "current": "running",
    "progress": "_progress",
    "remote_task": "tasks",
    "task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name)
    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
