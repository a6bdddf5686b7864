"""DecisionLog: an observer that writes a line for each item that ended, to be replayed.

Owns the way from events to lines, and the file they go to. What a line says, `simulate.log` says.

Threads and locks: called on any thread. An item is in one pair of hands at a time, so what is
known of it needs no lock. The one lock guards the file and the lines that wait for it: they are
written when there are enough, so most take microseconds. It is re-entrant, as a signal handler may
end an item while this thread writes: its line is then left to whoever writes already.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from concurrent.futures._base import LOGGER
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.events import Event
from hybrid_compute.prices import Price
from hybrid_compute.simulate.log import ExecutorRecord, Header, ItemRecord, to_line

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.decisions import Choice
    from hybrid_compute.hybrid import HybridExecutor

__all__ = ["DecisionLog"]

_BUFFER_BYTES = 1 << 16


class _Pending:
    """What is known so far of an item that has not ended."""

    __slots__ = ("choice", "executor", "started", "submitted", "withheld")

    def __init__(self, submitted: Event) -> None:
        self.submitted = submitted
        self.executor: str | None = None
        self.started: dict[int, float] = {}  # by attempt: of one that is hedged, there are two
        self.choice: Choice | None = None
        self.withheld = False  # whether privacy keeps it on this machine


class DecisionLog:
    """Writes a line of JSON for each item that ended; `hybrid-compute replay` reads them.

    Pass it in `observers`:

        with DecisionLog("run.jsonl") as log, HybridExecutor(observers=[log]) as ex:
            ...

    One log is for one executor. It never disturbs the work: when the disk is full, it says so in
    one warning of the logger `concurrent.futures`, and writes no more. In a forked child it does
    nothing. If nobody closes it, the interpreter's end does. All methods may be called from any
    thread.

    Args:
        path: the file; what stands in it is replaced.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        # Unbuffered: a buffer that a forked child inherits would be written twice.
        self._file = self._path.open("wb", buffering=0)
        self._lock = threading.RLock()  # guards the file, and the four below
        self._lines: list[bytes] = []
        self._size = 0  # of the lines
        self._writing = False
        self._open = True
        atexit.register(self.close)
        self._pid = os.getpid()
        self._begun: float | None = None  # when it was told of the executor
        self._pending: dict[int, _Pending] = {}

    def attach(self, executor: HybridExecutor) -> None:
        """Write the header: what the fleet of the executor is, and how many cores there are.

        Called by the executor that it observes.

        Raises:
            ConfigurationError: it was called before.
        """
        if self._begun is not None:
            raise ConfigurationError(
                f"{self!r} observes an executor already; give each executor a log of its own"
            )
        self._begun = time.monotonic()
        fleet = {name: _record_of(each) for name, each in executor._fleet.items()}
        self._write(Header(cores=_usable_cores(), fleet=fleet))

    def __call__(self, event: Event) -> None:
        """Take note of an `event`; write the line of its item if it was the last of that.

        Quick: lines are gathered, and written many at once. Any thread.

        Raises:
            ConfigurationError: `attach` was not called.
        """
        if os.getpid() != self._pid or not self._open:
            return
        if self._begun is None:
            raise ConfigurationError(
                f"{self!r} does not know the fleet: give it to HybridExecutor(observers=[...])"
            )
        if event.kind == "submitted":
            self._pending[event.item_id] = _Pending(event)
            return
        pending = self._pending.get(event.item_id)
        if pending is None:
            return  # it was submitted before the log was there
        if event.kind == "routed":
            pending.executor = event.executor
            pending.choice = event.choice or pending.choice
        elif event.kind == "started":
            pending.started[event.attempt] = event.time
        elif event.kind == "retried":
            pending.started.pop(event.attempt, None)
        elif event.kind == "withheld":
            pending.withheld = True
        elif event.kind in ("succeeded", "failed", "cancelled"):
            del self._pending[event.item_id]
            self._write(self._item(pending, event, self._begun))

    def _item(self, pending: _Pending, event: Event, begun: float) -> ItemRecord:
        submitted, choice = pending.submitted, pending.choice
        options = submitted.options
        started = pending.started.get(event.attempt)
        return ItemRecord(
            id=event.item_id,
            task=event.name,
            submitted=submitted.time - begun,
            executor=event.executor or pending.executor,
            started=None if started is None else min(started, event.time) - begun,
            ended=event.time - begun,
            ok=event.kind == "succeeded",
            wall=event.wall,
            cpu=event.cpu,
            bytes=submitted.size_bytes,
            rule=None if choice is None else choice.rule,
            predicted={} if choice is None else dict(choice.candidates),
            declared=submitted.declared is not False,
            pinned=None if options is None else options.executor,
            movable=None if options is None else options.movable,
            local_only=pending.withheld or (options is not None and bool(options.local_only)),
            tags=() if options is None else tuple(sorted(options.tags or ())),
        )

    def _write(self, record: Header | ItemRecord) -> None:
        line = to_line(record).encode()
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            failure = self._flush() if self._size >= _BUFFER_BYTES else None
        if failure is not None:
            self._warn(failure)

    def _flush(self) -> OSError | None:
        """Write the lines that wait; end the log if that fails. The lock is held."""
        if self._writing or not self._open:
            return None
        self._writing = True
        try:
            while self._lines:
                data = memoryview(b"".join(self._lines))
                self._lines, self._size = [], 0
                while data:
                    data = data[self._file.write(data) :]
        except OSError as error:
            self._end()
            return error
        finally:
            self._writing = False
        return None

    def _end(self) -> None:
        self._open = False
        self._lines = []
        atexit.unregister(self.close)
        self._file.close()

    def _warn(self, error: OSError) -> None:
        LOGGER.warning("%r was ended, as its file cannot be written: %s", self, error)

    def close(self) -> None:
        """Write what is left, and close the file; blocks for the disk. Idempotent, any thread.

        Items that end later are left out.
        """
        if os.getpid() != self._pid:
            return  # the parent writes what waits
        with self._lock:
            failure = self._flush()
            if self._open:
                self._end()
        self._pending.clear()
        if failure is not None:
            self._warn(failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DecisionLog({str(self._path)!r})"


def _record_of(executor: SubExecutor) -> ExecutorRecord:
    capabilities = executor.capabilities
    price = executor.price or Price()
    return ExecutorRecord(
        workers=executor.workers,
        shares_memory=capabilities.shares_memory,
        isolates=capabilities.isolates,
        remote=capabilities.remote,
        blocks=capabilities.blocks,
        per_call=price.per_call,
        per_second=price.per_second,
        per_megabyte=price.per_megabyte,
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
