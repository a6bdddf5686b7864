"""InlineExecutor: runs the work in the caller, before `submit` returns.

For declared tasks that are over in less time than a hand-over to a thread takes, and for tests.
Has no threads and no locks: its only state is a flag that goes from False to True once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from threading import current_thread, main_thread
from typing import Any

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.running import item_runs, runs_work
from hybrid_compute.streamed import StreamItem

__all__ = ["InlineExecutor"]


class InlineExecutor(SubExecutor):
    """Runs each item on the thread that submits it; its future is done when `submit` returns.

    Thread-safe: two threads that submit run side by side. An exception goes into the future,
    SystemExit too. A KeyboardInterrupt on the main thread goes into the future and is raised by
    `submit` as well, so that Ctrl-C ends the program.

    Args:
        name: its name in a fleet.
    """

    capabilities: Capabilities = Capabilities(shares_memory=True, blocks=True, streams=True)
    workers = 1

    def __init__(self, *, name: str = "inline") -> None:
        self.name = name
        self._closed = False
        self.owner: Callable[[], Any] = weakref.ref(self)

    def belongs_to(self, owner: Executor) -> None:
        """Have the work that runs here find `owner`, when it asks `current().executor`."""
        self.owner = weakref.ref(owner)

    @runs_work(lambda frame: item_runs(frame["item"], frame["self"].owner))
    def execute(self, item: WorkItem) -> None:
        """Run the item now; return when it is done."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = item.future
        if isinstance(item, StreamItem):
            item.run_here(self.owner)
            return
        if item.context is None:
            # What it sets is its own, as it would be on a thread.
            copy_context().run(item.run)
        else:
            item.run()
        # Ctrl-C is the program's as much as the item's, when it lands on the main thread.
        if isinstance(future._exception, KeyboardInterrupt) and current_thread() is main_thread():
            raise future.exception()  # type: ignore[misc]  # it is one; and looked at, herewith

    def load(self) -> float:
        """Return 0: a caller who runs its own work waits for nobody."""
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse new work. There is nothing to wait for: what runs, runs in its caller."""
        self._closed = True
