"""Recording: what became of each item, written to a file while it happens.

Owns the format, the file, and which items are under way. The items that note their steps are in
`recorded`; `hybrid-compute report` draws what stands in the file. ::

    {"recording":1,"unix_time":1700000000.0,"cores":2,"executors":{"thread":{"workers":6,...},...}}
    {"id":1,"task":"resize","executor":"process","lane":"4242","submitted_ns":12,...}

A line for each attempt that ended, in no certain order. Always there are `id`, `task`, `executor`,
`lane`, `submitted_ns`, `waited_ns`, `took_ns` and `outcome`; the rest only where there is something
to say (see `Recording`).

Threads and locks: items note their ends on any thread, by `list.append`, which is atomic. The one
lock guards the file, and who takes lines from the front of the lists. It is re-entrant, as a signal
handler may end an item while this thread writes: its line is then left to whoever writes already.

What it costs is in benchmarks/observe.py. Hence a success is five things in one list, of which a
block of lines is made in one go; and what depends on who did what where is made once (`Lane`).
"""

from __future__ import annotations

import atexit
import gc
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hybrid_compute.abc import Fleet

__all__ = ["VERSION", "Lane", "Recording"]

VERSION = 1
_LINES = 512  # so many are written at once: some 80 kB
_PARTS = 5  # of the line of a success: see `Recording.done`
_BLOCK = _LINES * _PARTS
_LINE = b'{"id":%d%b,"submitted_ns":%d,"waited_ns":%d,"took_ns":%d,"outcome":"ok"}\n'
_MOST_NAMES = 10_000  # somebody makes up a name for each call


class Lane:
    """One who does work, and what lines say of it: made once for each executor and task.

    Attributes:
        name: name of the thread, or process id of the worker; None: not known.
        said: what is made already, by the executor and the task. (Dictionaries as they are: those
            that fill themselves take three times as long to look into.)
    """

    __slots__ = ("name", "said")

    def __init__(self, name: str | int | None) -> None:
        self.name: str | None = None if name is None else str(name)
        self.said: dict[str | None, dict[str, bytes]] = {}

    def say(self, executor: str | None, task: str) -> bytes:
        """Return what a line says, between its number and its times."""
        said = self.said.setdefault(executor, {})
        found = said.get(task)
        if found is None:
            if len(said) >= _MOST_NAMES:
                said.clear()
            names = map(json.dumps, (task, executor, self.name))
            found = said[task] = ',"task":{},"executor":{},"lane":{}'.format(*names).encode()
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
        self._ended = 0  # how many items are written
        self.closing: bool = False  # nothing more is taken
        self.last: int = sys.maxsize  # number of the last item that was taken; this: more may come
        self._on_close = on_close
        self._pid = os.getpid()
        # What waits to be written. Of each success there are five things: the item's number, what
        # its Lane says, when it was submitted (since `began`), how long it waited and how long it
        # took.
        self.done: list[Any] = []
        self.most: int = _BLOCK  # are in it: more, and it is written
        self._others: list[dict[str, Any]] = []
        self.numbers: itertools.count[int] = itertools.count(1)  # of items
        self.local: threading.local = threading.local()  # the Lane of each thread
        self.named: dict[str | int | None, Lane] = {}  # those of others
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

    def lane_here(self) -> Lane:
        """Return that of this thread."""
        try:
            return self.local.lane  # type: ignore[no-any-return]
        except AttributeError:
            lane = self.local.lane = Lane(threading.current_thread().name)
            return lane

    def lane_of(self, executor: str | None) -> Lane:
        """Return that of who has done what ends on this thread at the moment."""
        ask = self.lanes.get(executor)
        name = None if ask is None else ask()
        lane = self.named.get(name)
        if lane is None:
            if len(self.named) >= _MOST_NAMES:
                self.named.clear()
            lane = self.named[name] = Lane(name)
        return lane

    def add_done(
        self, number: int, said: bytes, times: tuple[int, int, int], predicted: int | None = None
    ) -> None:
        """Write an item that succeeded.

        Args:
            number: the item's.
            said: what its Lane says.
            times: when it was submitted, began and ended.
            predicted: how long that was foreseen to take.
        """
        submitted, began, ended = times
        if predicted is not None:
            said += b',"predicted_ns":%d' % predicted
        done = self.done
        done += (number, said, submitted - self.began, began - submitted, ended - began)
        if len(done) >= self.most:
            self.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Write an attempt of which there is more to say."""
        self._others.append(row)
        if len(self._others) >= _LINES or (self.closing and row["outcome"] != "unfinished"):
            self.flush()

    # Writing.

    def flush(self) -> None:
        """Write what waits; then close the file, if nothing more can come."""
        failure: OSError | None = None
        with self._lock:
            if not self._open or os.getpid() != self._pid:
                self._forget()  # nobody wants them; a forked child's the parent writes
                return
            if self._writing:
                return
            self._writing = True
            try:
                while self.done or self._others:
                    data = memoryview(self._take())
                    while data:
                        data = data[self._file.write(data) :]
                if self._ended >= self.last:
                    self._end()
            except OSError as error:
                failure = error
                self._end()
            finally:
                self._writing = False
        if failure is not None:
            LOGGER.warning("%r was ended, as its file cannot be written: %s", self, failure)

    def _take(self) -> bytes:
        """Take what waits, and give its lines. The lock is held; others append meanwhile."""
        done, others = self.done[:_BLOCK], self._others[:_LINES]
        del self.done[: len(done)]
        del self._others[: len(others)]
        count, last = len(done) // _PARTS, self.last
        self._ended += sum(number <= last for number in done[::_PARTS]) if self.closing else count
        self._ended += sum(each["outcome"] != "retried" and each["id"] <= last for each in others)
        more = [json.dumps(each, separators=(",", ":")) + "\n" for each in others]
        return _LINE * count % tuple(done) + "".join(more).encode()

    def _forget(self) -> None:
        self.done.clear()
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
            with self._lock:
                self.last = next(self.numbers) - 1  # of items that are made by now nobody counts on
            self.most = 0  # each one may be the last

    def close(self) -> None:
        """Take no more items; close the file once those that were taken have ended. Idempotent."""
        self._stop()
        self.flush()

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
