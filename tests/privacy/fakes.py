"""Executors that pretend to be elsewhere, and values that tell when they are looked at."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem
from hybrid_compute.errors import ExecutorUnavailable

SECRET = "alice@example.com"


class Canary:
    """A value that records each time that somebody pickles it; its repr tells all."""

    def __init__(self) -> None:
        self.pickled = 0

    def __reduce__(self) -> tuple[Any, ...]:
        self.pickled += 1
        return Canary, ()

    def __repr__(self) -> str:
        return SECRET


class Fake(SubExecutor):
    """Runs work at once, here; what is `remote` pickles the call first, as a real one would.

    Args:
        name: its name.
        remote: what its capabilities say.
        fails: what it makes of a call instead; an ExecutorUnavailable is raised, others are told.
    """

    workers = 1

    def __init__(
        self, name: str, *, remote: bool = True, fails: Callable[[], Exception] | None = None
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(remote=remote, streams=True)
        self.fails = fails
        self.seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def execute(self, item: WorkItem) -> None:
        args = item.args[4:] if item.streams else item.args
        self.seen.append((args, item.kwargs or {}))
        if self.capabilities.remote:
            pickle.dumps((args, item.kwargs))
        error = self.fails() if self.fails else None
        if isinstance(error, ExecutorUnavailable):
            raise error
        if error is None:
            item.run()
        elif item.start():
            item.fail(error)

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass
