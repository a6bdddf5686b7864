"""The caller's half of the log records of worker processes: his levels, and what comes back.

`_worker_logs` is the other half. Owns one mark in the cache that `logging` keeps of levels: any
change of a level empties that cache, so as long as the mark is there nothing has changed, and to
look costs next to nothing. Any thread may ask; two that ask at the same time do the work twice.
"""

from __future__ import annotations

import logging
import marshal
from typing import Any

from hybrid_compute import _pickling

__all__ = ["Levels", "handle"]


class Levels:
    """The levels of this process's loggers."""

    def __init__(self) -> None:
        self._mark: Any = object()
        self._last = b""

    def now(self) -> bytes:
        """Return them, marshalled: the same object as long as they have not changed."""
        root = logging.root
        cache: Any = getattr(root, "_cache", None)
        if cache is not None:
            if self._mark in cache:
                return self._last
            cache[self._mark] = True  # first: a change that comes meanwhile takes it away again
        levels = {" disable": root.manager.disable, "": root.level}
        for name, each in list(root.manager.loggerDict.items()):
            if isinstance(each, logging.Logger) and each.level:
                levels[name] = each.level
        data = marshal.dumps(levels)
        if data != self._last:
            self._last = data
        return self._last


def handle(body: bytes | memoryview) -> None:
    """Hand a record of a worker to the logger of its name, as if it had been made here."""
    fields, more = marshal.loads(body)  # noqa: S302 - from our worker
    for name, data in more.items():
        try:
            fields[name] = _pickling.loads(data)
        except Exception as error:  # its class is not to be had here
            fields[name] = f"<{type(error).__name__}: it cannot be unpickled here>"
    logger = logging.getLogger(fields["name"])
    # The levels may have changed since it was made.
    if logger.isEnabledFor(fields["levelno"]):
        logger.handle(logging.makeLogRecord(fields))
