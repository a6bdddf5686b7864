"""Recording: what became of each item, written to a file while it happens.

Owns the format, the file, and which items are under way. The items that note their steps are in
`recorded`; `hybrid-compute report` draws what stands in the file. ::

    {"recording":1,"unix_time":1700000000.0,"cores":2,"executors":{"thread":{"workers":6,...},...}}
    {"id":1,"task":"resize","executor":"process","lane":"4242","submitted_ns":12,...}

A line for each attempt that ended, in no certain order. Always there are `id`, `task`, `executor`,
`lane`, `submitted_ns`, `waited_ns`, `took_ns` and `outcome`; the rest only where there is something
to say (see `Recording`).

Threads and locks: items note their ends on any thread, by `list.append`, which is atomic. The one
lock guards the file, and who takes rows from the front of the lists. It is re-entrant, as a signal
handler may end an item while this thread writes: its row is then left to whoever writes already.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from hybrid_compute.abc import Fleet

__all__ = ["ROWS", "VERSION", "Done", "Recording"]

VERSION = 1
ROWS = 512  # so many are written at once: some 80 kB, which takes about 0.3 ms

# What a plain success is: id, task, executor, lane (those as JSON), submitted, waited, took.
Done: TypeAlias = tuple[int, str, str, str, int, int, int]


class _Texts(dict[str | int | None, str]):
    """Texts as JSON has them, made once each; of a number, its digits."""

    def __missing__(self, text: str | int | None) -> str:
        if len(self) > 10_000:  # somebody makes up a name for each call
            self.clear()
        found = self[text] = json.dumps(text if text is None else str(text))
        return found


class Recording:
    """Writes a line for each item of an executor; `hybrid-compute report` draws them.

    Made by `HybridExecutor.record`::

        with HybridExecutor() as ex, ex.record("run.jsonl"):
            ...

    It takes the items that are submitted until `close` is called, or the block is left; those of
    them that are still under way then are written as they end, and with the last one the file is
    closed. So it is complete, at the latest, when the executor has been shut down. What has not
    ended when the interpreter exits is written as "unfinished". (A `map` on threads has no items:
    of its calls those are written that end before `close`.) All methods may be called from any
    thread, and none blocks for longer than the file takes.

    It never disturbs the work: when the disk is full, it says so in one warning of the logger
    `concurrent.futures`, and writes no more. In a forked child it does nothing.

    A line is one attempt, or all calls of one chunk of a `map`. Its keys::

        id: number of the item, from 1; its attempts share it.
        task: name of the task or function.
        executor: name of the executor that had it; null: none.
        lane: name of the thread, or process id of the worker, that did the work; null: not known.
        submitted_ns: when it was submitted, in nanoseconds since the recording began; of a later
            attempt, when the one before was over.
        waited_ns: until its work began, or was sent where nothing could stop it; null: never.
        took_ns: from then on, or else from its submission, until its outcome was known.
        outcome: "ok", "failed", "retried" (failed, and another attempt follows), "cancelled" or
            "unfinished".
        attempt: its number, from 2 on.
        calls: how many calls a chunk is.
        predicted_ns: from `submitted_ns` to the end, as the policy foresaw it.
        work_ns: how long the calls of a chunk took in the worker.
        error: what was raised: its type, and its text unless arguments are sensitive.

    No argument and no result is written. A function's calls by `map` on threads are written one by
    one, with `submitted_ns` when `map` was called.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fleet: Fleet,
        on_close: Callable[[Recording], object],
    ) -> None:
        self._path = Path(path)
        # Unbuffered: a buffer that a forked child inherits would be written twice.
        self._file = self._path.open("wb", buffering=0)
        self._lock = threading.RLock()  # guards the file and the three below
        self._writing = False
        self._open = True
        self.closing: bool = False  # nothing more is taken
        self._on_close = on_close
        self._pid = os.getpid()
        # What waits to be written. The first is for `RecordedCall` as well, which saves a call.
        self.rows: list[Done] = []
        self._foreseen: list[tuple[Any, ...]] = []
        self._others: list[dict[str, Any]] = []
        self.new_number: Callable[[], int] = itertools.count(1).__next__
        self._begun: int | None = None  # how many items there are; None: more may come
        self._ended = 0  # how many of them are written
        self.texts: _Texts = _Texts()
        self.local: threading.local = threading.local()  # the name of each thread, as JSON
        self.here: frozenset[str] = frozenset(
            name for name, each in fleet.items() if each.capabilities.shares_memory
        )
        # Tell who has done what ends on this thread at the moment, by the executor's name.
        self.lanes: dict[str | None, Callable[[], str | int | None]] = {
            name: each.lane for name, each in fleet.items()
        }
        self.began: int = perf_counter_ns()
        header = {
            "recording": VERSION,
            "unix_time": time.time(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            "executors": {
                name: {
                    "workers": each.workers,
                    "remote": each.capabilities.remote,
                    "isolates": each.capabilities.isolates,
                    "shares_memory": each.capabilities.shares_memory,
                }
                for name, each in fleet.items()
            },
        }
        try:
            self._file.write(json.dumps(header, separators=(",", ":")).encode() + b"\n")
        except BaseException:
            self._file.close()
            raise
        atexit.register(self._exit)

    # For items.

    def lane_here(self) -> str:
        """Return the name of this thread, as JSON."""
        try:
            return self.local.name  # type: ignore[no-any-return]
        except AttributeError:
            name: str = self.texts[threading.current_thread().name]
            self.local.name = name
            return name

    def lane_of(self, executor: str | None) -> str:
        """Return who has done what ends on this thread at the moment, as JSON."""
        lane = self.lanes.get(executor)
        return self.texts[None if lane is None else lane()]

    def add_done(self, row: Done, predicted: int | None) -> None:
        """Write an item that succeeded, and how long that was foreseen to take."""
        if predicted is None:
            rows: list[Any] = self.rows
            rows.append(row)
        else:
            rows = self._foreseen
            rows.append((*row, predicted))
        if len(rows) >= ROWS:
            self.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Write an attempt of which there is more to say."""
        self._others.append(row)
        if len(self._others) >= ROWS:
            self.flush()

    def close_if_over(self) -> None:
        """Close the file if all items have ended; called when one has and nothing more is taken."""
        self.flush()
        with self._lock:
            over = self._begun is not None and self._ended >= self._begun
            if over and self._open and not self._writing and os.getpid() == self._pid:
                self._end()

    # Writing.

    def flush(self) -> None:
        """Write the rows that wait."""
        failure: OSError | None = None
        with self._lock:
            if not self._open or os.getpid() != self._pid:
                self._forget()  # nobody wants them; a forked child's the parent writes
                return
            if self._writing:
                return
            self._writing = True
            try:
                while self.rows or self._foreseen or self._others:
                    data = memoryview("".join(self._lines()).encode())
                    while data:
                        data = data[self._file.write(data) :]
            except OSError as error:
                failure = error
                self._end()
            finally:
                self._writing = False
        if failure is not None:
            LOGGER.warning("%r was ended, as its file cannot be written: %s", self, failure)

    def _lines(self) -> list[str]:
        """Take rows that wait, and give their lines. The lock is held; others append meanwhile."""
        rows = self.rows[:ROWS]
        del self.rows[: len(rows)]
        lines = [
            f'{{"id":{number},"task":{task},"executor":{executor},"lane":{lane},'
            f'"submitted_ns":{submitted},"waited_ns":{waited},"took_ns":{took},"outcome":"ok"}}\n'
            for number, task, executor, lane, submitted, waited, took in rows
        ]
        foreseen = self._foreseen[:ROWS]
        del self._foreseen[: len(foreseen)]
        lines += [
            f'{{"id":{number},"task":{task},"executor":{executor},"lane":{lane},'
            f'"submitted_ns":{submitted},"waited_ns":{waited},"took_ns":{took},"outcome":"ok",'
            f'"predicted_ns":{predicted}}}\n'
            for number, task, executor, lane, submitted, waited, took, predicted in foreseen
        ]
        others = self._others[:ROWS]
        del self._others[: len(others)]
        lines += [json.dumps(each, separators=(",", ":")) + "\n" for each in others]
        self._ended += len(lines) - sum(each["outcome"] == "retried" for each in others)
        return lines

    def _forget(self) -> None:
        self.rows.clear()
        self._foreseen.clear()
        self._others.clear()

    def _end(self) -> None:
        """Give up the file. The lock is held."""
        self._open = False
        self._forget()
        atexit.unregister(self._exit)
        self._file.close()

    def _exit(self) -> None:
        """Write what has not ended: the interpreter exits."""
        if os.getpid() != self._pid:
            return
        self._stop()
        # Nobody has kept a list of them, which would cost each item more than all the rest of it.
        for each in gc.get_objects():
            if getattr(type(each), "note_unfinished", None) and each.recording is self:
                each.note_unfinished()
        self.flush()
        with self._lock:
            if self._open and not self._writing:
                self._end()

    def _stop(self) -> None:
        with self._lock:
            closing, self.closing = self.closing, True
        if not closing:
            self._on_close(self)
            self._begun = self.new_number() - 1

    def close(self) -> None:
        """Take no more items; close the file once those that were taken have ended. Idempotent."""
        self._stop()
        self.close_if_over()

    @property
    def closed(self) -> bool:
        """Say whether the file is closed, since all that was taken is written."""
        return not self._open

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
        return f"Recording({str(self._path)!r})"
