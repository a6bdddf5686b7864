"""The children of a worker: processes that its work has started, and that must end with it.

psutil knows them on every system; without it, Linux tells by itself. Elsewhere, without psutil,
they are left alone. No threads, no state but the list.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from hybrid_compute.executors._memory import read

__all__ = ["Family"]


class Family:
    """All descendants that a process has at this moment."""

    def __init__(self, pid: int) -> None:
        self._members: list[Any] = []
        self.add(pid)

    def add(self, pid: int) -> None:
        """Add those that a process has now."""
        try:
            import psutil  # noqa: PLC0415 - an extra
        except ImportError:
            self._members += _descendants(pid)
        else:
            with contextlib.suppress(psutil.Error):
                self._members += psutil.Process(pid).children(recursive=True)

    def kill(self) -> None:
        """Send them SIGKILL, those that are still the same processes."""
        members, self._members = self._members, []
        for each in members:
            with contextlib.suppress(Exception):  # it is gone
                if isinstance(each, tuple):
                    pid, began = each
                    if _began(pid) == began:
                        os.kill(pid, signal.SIGKILL)
                else:
                    each.kill()


def _descendants(pid: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    todo = [pid]
    for parent in todo:  # grows
        with contextlib.suppress(OSError):  # it is gone
            for thread in os.listdir(f"/proc/{parent}/task"):  # noqa: PTH208 - see `read`
                for child in map(int, read(f"/proc/{parent}/task/{thread}/children").split()):
                    found.append((child, _began(child)))
                    todo.append(child)
    return found


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's words: what tells it from a later namesake."""
    # Its name, in parentheses, may contain anything; the time is the 20th field behind it.
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
