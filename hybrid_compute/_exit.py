"""What becomes of live executors when the interpreter exits, or when the process forks.

Owns the one list of them. It has to be the process's own: the interpreter calls one function at
exit, and one in a forked child, and neither can be given a new executor or relieved of an old
one. The list holds its members weakly. It is the only mutable state of a module here.

As with the stdlib's executors, queued work is done before the interpreter exits: first what has
work left to submit submits it, then every executor is told to refuse new work, then each is
waited for.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["Closable", "Feeder", "register", "register_feeder"]


class Closable(Protocol):
    """What an executor's working half does for the interpreter."""

    def close_at_exit(self) -> None:
        """Refuse new work from now on; do not wait. Called once, on the main thread."""

    def join(self) -> None:
        """Block until all accepted work is done and all threads and processes have ended."""

    def after_fork(self) -> None:
        """Forget threads and locks: this is a forked child, which has none of the former."""


class Feeder(Protocol):
    """What has accepted work that it has not submitted yet."""

    def flush(self) -> None:
        """Submit it now."""


_exiting = False
_feeders: weakref.WeakSet[Feeder] = weakref.WeakSet()
_live: weakref.WeakSet[Closable] = weakref.WeakSet()
_lock = threading.Lock()  # guards both sets: a weak set must not grow while it is walked


def register(closable: Closable) -> None:
    """Have `closable` finish its work before the interpreter exits, for as long as it lives.

    While the interpreter exits, it is closed at once.
    """
    with _lock:
        _live.add(closable)
    if _exiting:
        closable.close_at_exit()


def register_feeder(feeder: Feeder) -> None:
    """Have `feeder` submit what it has left before any executor closes."""
    with _lock:
        _feeders.add(feeder)


def _all() -> list[Closable]:
    with _lock:
        return list(_live)


def _at_exit() -> None:
    global _exiting  # noqa: PLW0603 - the interpreter exits but once
    with _lock:
        feeders = list(_feeders)
    for feeder in feeders:
        feeder.flush()
    _exiting = True
    living = _all()
    for each in living:
        each.close_at_exit()
    for each in living:
        each.join()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    for each in _all():
        each.after_fork()


# Before threads are joined, unlike atexit's: a worker waits for work until it is told to end.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # the stdlib's pools use it too
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
