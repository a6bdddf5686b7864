"""Logs: lines that nobody waits for.

Owns the way from a logger to stderr. Whoever writes there waits as long as the reader of that pipe
likes, and the event loop must never do so: `BoundedHandler` only queues. What does not fit is
dropped and counted, and the number is logged once there is room.

Threads: one for each BoundedHandler, which formats and writes; it ends with `close`. It is a
daemon, since it may be inside a write that never ends. It holds no lock while it writes, so that
neither `emit` nor the interpreter's exit ever waits for it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from typing import Any

__all__ = ["BoundedHandler", "Seldom", "Stderr"]

_LOG = "hybrid_compute.server"
_LAST_WORDS = 1.0  # seconds for what is queued at the end


class BoundedHandler(logging.Handler):
    """Has another handler write, on a thread of its own.

    For a server that is mounted elsewhere, too: its lines are logged on the event loop.
    """

    def __init__(self, target: logging.Handler, *, capacity: int = 8192) -> None:
        """Take the handler that writes, which is this one's from now on.

        Args:
            target: may block for as long as it likes.
            capacity: records that may wait for it; those beyond are dropped.
        """
        super().__init__()
        self._target = target
        self._capacity = capacity
        self._queue: queue.SimpleQueue[logging.LogRecord | threading.Event | None] = (
            queue.SimpleQueue()
        )
        self._dropped = 0
        self._told = 0
        self._thread = threading.Thread(target=self._work, name="hybrid-compute-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that found no room so far."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record. Never blocks."""
        if self._queue.qsize() >= self._capacity:
            self._dropped += 1
        else:
            self._queue.put(record)

    def flush(self, timeout: float = _LAST_WORDS) -> None:
        """Wait until all that is queued is written, for `timeout` seconds at most."""
        if self._thread.is_alive():
            written = threading.Event()
            self._queue.put(written)
            written.wait(timeout)

    def close(self) -> None:
        """Write what is queued, and end the thread; blocks, for a second at most."""
        self._queue.put(None)
        self._thread.join(_LAST_WORDS)
        super().close()

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, logging.LogRecord):
                self._write(item)
                self._tell()
            elif item is None:
                self._target.close()
                return
            else:
                item.set()

    def _write(self, record: logging.LogRecord) -> None:
        # Not `handle`, which takes the target's lock: `logging.shutdown` wants it as well.
        passed: Any = self._target.filter(record)
        if passed:
            # The stdlib's handlers keep their errors to themselves. (3.12: a filter may replace.)
            self._target.emit(passed if isinstance(passed, logging.LogRecord) else record)

    def _tell(self) -> None:
        missing = self._dropped - self._told
        if missing and self._queue.qsize() < self._capacity // 2:
            self._told += missing
            text = "%d log lines were dropped: what reads them is too slow"
            self._write(
                logging.LogRecord(_LOG, logging.WARNING, __file__, 0, text, (missing,), None)
            )


class Stderr(logging.Handler):
    """Writes to the descriptor of stderr, with no buffer whose lock others could wait for."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; blocks while the pipe is full."""
        try:
            rest = self.format(record).encode(errors="backslashreplace") + b"\n"
            while rest:
                rest = rest[os.write(2, rest) :]
        except OSError:
            pass  # nobody reads any more: there is nowhere to say so
        except Exception:  # a message that does not fit its arguments
            self.handleError(record)


class Seldom(logging.Filter):
    """Lets one record of each kind through in a second, and says how many it has kept back.

    For lines that any caller can cause: a flood of them must not fill the disk. One kind is what
    one logger says with one message.
    """

    def __init__(self, name: str = "") -> None:
        """Take the name of the loggers that this is for, with those below; "" for all."""
        super().__init__(name)
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record may pass."""
        if not super().filter(record):
            return True
        kind, now = f"{record.name} {record.msg}", time.monotonic()
        passed, kept = self._kinds.get(kind, (now - 1, 0))
        if now - passed < 1:
            self._kinds[kind] = passed, kept + 1
            return False
        if len(self._kinds) > 100:
            self._kinds.clear()
        self._kinds[kind] = now, 0
        if kept:
            record.msg = f"{record.msg} (and {kept} more of these before)"
        return True
