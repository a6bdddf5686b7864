"""Lives: which sessions of an outbox are alive, and the end of those that are not.

Owns a file beside the outbox for each session, `PATH.NAME.live`, and a lock on it that the kernel
lets go when the process ends, however it ends. So a session that was killed is known to be dead at
once, by whoever looks, and no clock has a say in it.

A process can also be alive and do nothing: stopped by a signal, or hung. So sessions that have
rows count up a number in the outbox, their beat. An observer for whom a beat has not changed
throughout a lease takes the session for dead. It measures the lease on its own monotonic clock,
between two looks of its own: no time of one process is ever compared with that of another one, or
with one from before a reboot, and the wall clock may jump as it likes. (While the machine sleeps,
neither clock nor sessions go on.) If such a process wakes up, it finds its session gone, and what
it still delivers has the same key: the service takes it for the same call.

Threads: one at a time; its owner sees to that.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hybrid_compute.executors._outbox_file import OutboxFile

__all__ = ["Lives", "bury_ended", "is_dead"]


class Lives:
    """One session, and what it knows of the others."""

    def __init__(
        self, file: OutboxFile, lease: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a session of a file.

        Args:
            file: the outbox.
            lease: seconds for which a beat may stand still.
            clock: monotonic seconds.
        """
        self._file = file
        self._lease = lease
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}  # beat, and since when, by session
        name = os.urandom(8).hex()
        self._path = _live_path(file.path, name)
        # Before the session can be seen: who sees it without a lock takes it for dead.
        self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.begin(name)
        except BaseException:
            self.end()
            raise

    def bury(self) -> int:
        """End the sessions that are dead. Returns how many of their rows are anybody's now."""
        now = self._clock()
        found = 0
        sessions = self._file.sessions()
        for identity, name, beat, busy in sessions:
            path = _live_path(self._file.path, name)
            if is_dead(path):
                found += self._file.release(identity)
                with suppress(FileNotFoundError):  # somebody else has buried it as well
                    path.unlink()
                self._seen.pop(identity, None)
            elif not busy:
                self._seen.pop(identity, None)  # it need not beat, and nobody needs to wait for it
            elif self._seen.get(identity, (None, 0.0))[0] != beat:
                self._seen[identity] = beat, now
            elif now - self._seen[identity][1] >= self._lease:
                found += self._file.release(identity, beat)
                del self._seen[identity]
        for gone in self._seen.keys() - {each[0] for each in sessions}:
            del self._seen[gone]
        return found

    def renew(self) -> None:
        """Begin another session, since the others have taken this one for dead."""
        self._file.begin(self._path.name.split(".")[-2])

    def end(self) -> None:
        """Let go of the lock; the session itself is released before that."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(FileNotFoundError):
                self._path.unlink()
            os.close(fd)

    def forget(self) -> None:
        """Close the descriptor, and leave the lock to the parent: this is a forked child."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def bury_ended(file: OutboxFile) -> None:
    """End the sessions whose processes have ended. For who has no session of his own."""
    for identity, name, _, _ in file.sessions():
        path = _live_path(file.path, name)
        if is_dead(path):
            file.release(identity)
            with suppress(FileNotFoundError):
                path.unlink()


def is_dead(path: Path) -> bool:
    """Tell whether nobody holds the lock on a session's file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _live_path(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}.live")
