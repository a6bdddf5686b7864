"""ScriptedExecutor: does with each item what a script says, at times of a virtual clock.

Owns the script, the queue and who is being served. No threads: work is run, and outcomes are
delivered, by whoever makes time pass. Its one lock guards all of it; nothing is delivered under it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

import attrs

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import (
    ExecutorUnavailable,
    RemoteConnectionLost,
    RemoteUnavailable,
    WorkerCrashed,
)
from hybrid_compute.items import WorkItem
from hybrid_compute.testing.clock import VirtualClock

__all__ = ["Crash", "Refuse", "Run", "ScriptedExecutor", "Step"]


@attrs.frozen
class Run:
    """Run the work; its outcome is there after `seconds` of the virtual clock."""

    seconds: float = 0.0


@attrs.frozen
class Crash:
    """Start the work, and lose it, after `seconds` of the virtual clock, without running it.

    Attributes:
        seconds: how long it lasts.
        error: what it fails with; None makes it a WorkerCrashed.
    """

    seconds: float = 0.0
    error: BaseException | None = None


@attrs.frozen
class Refuse:
    """Do not accept the item.

    Attributes:
        error: what `execute` raises; None makes it an ExecutorUnavailable.
    """

    error: ExecutorUnavailable | None = None


Step: TypeAlias = Run | Crash | Refuse


class ScriptedExecutor(SubExecutor):
    """An executor for tests of what comes after a crash, a refusal or a lost connection.

    Nothing happens until `clock.advance` or `clock.run` is called, and then all of it there. All
    methods may be called from any thread.

    Args:
        clock: whose time it is.
        script: what is done with the first item that it is offered, the second, and so on.
        then: what is done with all others.
        name: its name in a fleet.
        workers: how many items are served at once; others wait.
        capabilities: what it says of itself; None claims nothing, not even shared memory.
        latency: what `latency()` returns, in seconds.
    """

    def __init__(
        self,
        clock: VirtualClock,
        script: Iterable[Step] = (),
        *,
        then: Step = Run(),
        name: str = "scripted",
        workers: int = 1,
        capabilities: Capabilities | None = None,
        latency: float | None = None,
    ) -> None:
        self.name = name
        self.workers = workers
        self.capabilities: Capabilities = Capabilities() if capabilities is None else capabilities
        self._clock = clock
        self._script = deque(script)
        self._then = then
        self._latency = latency
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may submit
        self._queue: deque[tuple[WorkItem, Run | Crash]] = deque()
        self._out: dict[int, WorkItem] = {}  # what is served, by number; with a started item
        self._number = 0
        self._offline = self._closed = False

    def execute(self, item: WorkItem) -> None:
        """Do what the script says."""
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.execute_late(item)

    def execute_late(self, item: WorkItem) -> None:
        """Do what the script says, also with what was accepted before."""
        with self._lock:
            if self._offline:
                raise RemoteUnavailable(f"executor {self.name!r} is offline, as it was told to be")
            step = self._script.popleft() if self._script else self._then
            if isinstance(step, Refuse):
                raise step.error or ExecutorUnavailable(
                    f"executor {self.name!r} refuses {item.name!r}, as its script says"
                )
            self._queue.append((item, step))
        self._clock.call_later(0, self._serve)

    def go_offline(self) -> None:
        """Be away: refuse all, and lose all that was accepted, with RemoteConnectionLost.

        What had not started is told to be safe to try again (`may_have_run=False`).
        """
        with self._lock:
            self._offline = True
            running = list(self._out.values())
            queued = [item for item, _ in self._queue]
            self._out.clear()
            self._queue.clear()
        for items, begun in (running, True), (queued, False):
            for item in items:
                error = RemoteConnectionLost(
                    f"executor {self.name!r} went offline, as it was told to", may_have_run=begun
                )
                item.fail(error) if begun else item.reject(error)

    def go_online(self) -> None:
        """Be there again."""
        with self._lock:
            self._offline = False

    def _serve(self) -> None:
        """Begin with what waits, as far as there are workers."""
        while True:
            with self._lock:
                if not self._queue or len(self._out) >= self.workers:
                    return
                item, step = self._queue.popleft()
                self._number += 1
                number = self._number
                self._out[number] = item
            if item.start():
                self._clock.call_later(step.seconds, self._end(number, step))
            else:
                with self._lock:
                    self._out.pop(number, None)

    def _end(self, number: int, step: Run | Crash) -> Callable[[], None]:
        def end() -> None:
            with self._lock:
                item = self._out.pop(number, None)
            if item is None:
                return  # lost, as the executor went offline
            try:
                if isinstance(step, Crash):
                    item.fail(
                        step.error
                        or WorkerCrashed(
                            f"{item.name!r} was lost in a crash, as {self.name!r} was told",
                            item_name=item.name,
                            pid=0,
                            exitcode=1,
                            signal=None,
                        )
                    )
                else:
                    _run(item)
            finally:
                self._serve()

        return end

    def latency(self) -> float | None:
        """Return what it was told to."""
        return self._latency

    def load(self) -> float:
        """Return how many items wait or are served per worker."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items wait and how many are served."""
        with self._lock:
            return len(self._queue), len(self._out)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more; nothing is lost.

        Args:
            wait: let time pass until all is done: nobody else would.
            cancel_futures: cancel what has not started.
        """
        with self._lock:
            self._closed = True
            queued = [item for item, _ in self._queue] if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
        for item in queued:
            item.cancel()
        while wait and self.counts() != (0, 0) and self._clock.waiting:
            self._clock.run()


def _run(item: WorkItem) -> None:
    """Run the call of an item that has started, and deliver its outcome."""
    try:
        assert item.fn is not None  # noqa: S101 - it has started, so nobody has cancelled it
        value = item.fn(*item.args, **(item.kwargs or {}))
    except BaseException as error:
        item.raised(error)
    else:
        item.succeed(value)
