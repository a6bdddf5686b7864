"""What becomes of live executors when the interpreter exits, or when the process forks.

Owns the one list of them. It has to be the process's own: the interpreter calls one function at
exit, and one in a forked child, and neither can be given a new executor or relieved of an old
one. The list holds its members weakly. It is the only mutable state of a module here.

As with the stdlib's executors, queued work is done before the interpreter exits: first who has
work left to submit submits it, then every executor is told to refuse new work, then each is
waited for.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from contextlib import AbstractContextManager

__all__ = ["Member", "guard", "register"]


class Member:
    """What an executor's working half does for the interpreter: by default, nothing."""

    def flush(self) -> None:
        """Submit what was accepted and not submitted yet."""

    def close_at_exit(self) -> None:
        """Refuse new work from now on; do not wait. Called once, on the main thread."""

    def join(self) -> None:
        """Block until all accepted work is done and all threads and processes have ended."""

    def at_fork(self) -> None:
        """Prepare for a child. Called in the parent, before it forks and again afterwards."""

    def after_fork(self) -> None:
        """Forget threads, locks and work: this is a forked child, and they are the parent's."""


_exiting = False
_members: weakref.WeakSet[Member] = weakref.WeakSet()
# Guards _members, which must not grow while it is walked; and see `guard`. Re-entrant, since a
# signal handler or a finalizer that makes an executor may land in the middle.
_lock = threading.RLock()


def register(member: Member) -> None:
    """Have `member` asked at exit and after a fork, for as long as it lives.

    While the interpreter exits, it is closed at once.
    """
    with _lock:
        _members.add(member)
    if _exiting:
        member.close_at_exit()


def guard() -> AbstractContextManager[object]:
    """Return a lock for what is done once in the life of an executor, and takes no time."""
    return _lock


def _all() -> list[Member]:
    with _lock:
        while True:
            try:
                return list(_members)
            except RuntimeError:  # a finalizer has added one meanwhile
                continue


def _each(do: Callable[[Member], object]) -> None:
    for member in _all():
        try:
            do(member)
        except Exception:  # the others have work to finish, and threads that wait to be told
            LOGGER.exception("closing %r at the interpreter's exit", member)


def _at_exit() -> None:
    global _exiting  # noqa: PLW0603 - the interpreter exits but once
    _each(lambda member: member.flush())
    _exiting = True
    _each(lambda member: member.close_at_exit())
    _each(lambda member: member.join())


def _at_fork() -> None:
    _each(lambda member: member.at_fork())


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.RLock()
    _each(lambda member: member.after_fork())


# Before threads are joined, unlike atexit's: a worker waits for work until it is told to end.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # the stdlib's pools use it too
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_at_fork, after_in_parent=_at_fork, after_in_child=_after_fork)
