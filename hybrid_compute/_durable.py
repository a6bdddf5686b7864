"""Durable: SQLite files that only this user reads, and that survive what may happen to them.

Owns what must hold before anybody's SQL runs: whose the file is and who can reach it, that it lies
on a disk of this machine, that it is ours, of a version that is known, and whole. A file that is
made is made under another name and linked to its own when it is complete, so that no crash and no
race leaves half of one. A file that is damaged is moved aside, with its WAL, and never deleted.

Connections are in WAL mode with synchronous=FULL: a commit that has returned survives the end of
the process and of the power. No threads and no locks: whoever opens a connection guards it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_compute.errors import ConfigurationError, OutboxError

__all__ = ["Kind", "checked_path", "is_full", "is_on_network", "open_file"]

_SMALLEST = 512  # bytes: a page at least
_OLDEST = (3, 37)  # it has STRICT tables
_BUSY = 10.0  # seconds to wait for another process that writes
_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ncpfs", "coda", "ceph"),
        *("glusterfs", "lustre", "fuse.sshfs"),
    )
)
_MOUNTS = Path("/proc/self/mountinfo")


class Kind(NamedTuple):
    """What is in a file."""

    name: str  # in errors
    application_id: int
    version: int
    schema: str


def open_file(path: Path, kind: Kind) -> sqlite3.Connection:
    """Return a connection to a file, which is made if there is none.

    Args:
        path: absolute. Its directory is made if there is none, for this user alone.
        kind: what is in it.

    Raises:
        OutboxError: it cannot be used; the text says what to do. A damaged file has been moved.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise OutboxError(
            f"{path} needs SQLite 3.37 or later, and Python was built with "
            f"{sqlite3.sqlite_version}: use another Python",
            path=str(path),
        )
    _check_directory(path)
    try:
        if not _exists(path, kind):
            _make(path, kind)
        return _connect(path, kind)
    except sqlite3.OperationalError as error:
        raise OutboxError(f"{path} cannot be opened: {error}", path=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise _moved_aside(path, kind, str(error)) from error
    except OSError as error:
        if isinstance(error, OutboxError):
            raise
        raise OutboxError(f"{path} cannot be opened: {error}", path=str(path)) from error


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Tell whether an error means that there is no room, in the file or on its disk."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code != sqlite3.SQLITE_IOERR:
        return code == sqlite3.SQLITE_FULL
    try:  # the memory that connections share is a file on that disk as well
        return os.statvfs(path).f_bavail < 64
    except OSError:
        return False


def is_on_network(path: Path, mounts: str) -> bool:
    """Tell whether a path is on another machine's disk, by the text of /proc/self/mountinfo."""
    best, found = -1, ""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(" "), tail.partition(" ")[0]
        if len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= best:
            best, found = len(point), kind
    return found in _NETWORK


# -- the place ---------------------------------------------------------------------------------


def _check_directory(path: Path) -> None:
    where = path.parent
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = where.stat()
    except OSError as error:
        raise OutboxError(
            f"{where} is no directory for {path.name}: {error}", path=str(path)
        ) from (error)
    if found.st_uid not in (os.geteuid(), 0):
        raise OutboxError(
            f"{where} belongs to another user, who could change {path.name}: choose a directory "
            "of your own",
            path=str(path),
        )
    if found.st_mode & 0o022:
        raise OutboxError(
            f"{where} has mode {stat.S_IMODE(found.st_mode):04o}, so that others could put files "
            f"there: chmod 700 {where}, or choose a directory of your own",
            path=str(path),
        )
    try:
        mounts = _MOUNTS.read_text()
    except OSError:  # no Linux: SQLite itself has to find out
        return
    if is_on_network(where.resolve(), mounts):
        raise OutboxError(
            f"{path} is on a network file system, whose locks and shared memory cannot be relied "
            "on: choose a path on a disk of this machine",
            path=str(path),
        )


def _exists(path: Path, kind: Kind) -> bool:
    """Check the file and what belongs to it; False if there is none."""
    for suffix in ("", "-wal", "-shm"):
        try:
            found = Path(f"{path}{suffix}").lstat()
        except FileNotFoundError:
            if suffix:
                continue
            return False
        _check_owner(f"{path}{suffix}", found, path)
        if not suffix and found.st_size < _SMALLEST:
            raise _moved_aside(path, kind, "it is no SQLite file")
    return True


def _check_owner(name: str, found: os.stat_result, path: Path) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise OutboxError(f"{name} is no regular file: give another path", path=str(path))
    if found.st_uid != os.geteuid():
        raise OutboxError(
            f"{name} belongs to the user {found.st_uid}, and is left alone: give another path",
            path=str(path),
        )
    if mode & 0o077:
        raise OutboxError(
            f"{name} has mode {mode:04o}, so that others can reach it: chmod 600 {name}",
            path=str(path),
        )
    if not mode & 0o200:
        raise OutboxError(f"{name} is read-only: chmod 600 {name}", path=str(path))


def _make(path: Path, kind: Kind) -> None:
    """Make a complete file and give it its name; if another process was first, take that one."""
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}.new")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            # Not in WAL mode yet, so that all of it is in this one file.
            connection.executescript(
                f"PRAGMA synchronous=FULL; PRAGMA application_id={kind.application_id}; "
                f"PRAGMA user_version={kind.version}; BEGIN; {kind.schema}; COMMIT;"
            )
        finally:
            connection.close()
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: Path, kind: Kind) -> sqlite3.Connection:
    """Return a connection to a file that is there and was checked.

    Nothing but SQLite may open the file: the locks of a process on it are gone with the first
    descriptor that is closed.

    Raises:
        sqlite3.DatabaseError: it is damaged, or (OperationalError) cannot be opened.
        OutboxError: it is something else, or cannot be used in WAL mode.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = lambda data: data.decode(errors="replace")  # a row may be damaged
    try:
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if identity != kind.application_id:
            raise OutboxError(
                f"{path} is a database, but no {kind.name}: give another path", path=str(path)
            )
        if version != kind.version:
            raise OutboxError(
                f"{path} is of version {version}, and this hybrid_compute knows version "
                f"{kind.version}: use the one that has made it, or give another path",
                path=str(path),
            )
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise OutboxError(f"{path}: its file system has no WAL mode ({mode})", path=str(path))
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute(f"PRAGMA journal_size_limit={4 * 2**20}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(str(verdict).split()))
    except BaseException:
        connection.close()
        raise
    return connection


def _moved_aside(path: Path, kind: Kind, why: str) -> OutboxError:
    number = 1
    while os.path.lexists(aside := Path(f"{path}.corrupt-{number}")):
        number += 1
    try:
        for suffix in ("-wal", "-shm", ""):  # the file last: until then it is found damaged again
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    except OSError as error:
        return OutboxError(
            f"{path} is damaged ({why}), and cannot be moved aside: {error}", path=str(path)
        )
    return OutboxError(
        f"{path} is damaged ({why}): it was moved to {aside}, and nothing of it was deleted. The "
        f"next {kind.name} at this path begins empty; `sqlite3 {aside} .recover` may bring calls "
        "back",
        path=str(path),
    )


def checked_path(path: Any, what: str) -> Path:
    """Return an absolute path.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigurationError(f"{what}={path!r} is no path of a file")
    try:
        return Path(os.path.abspath(os.fspath(path)))  # noqa: PTH100 - links are looked at later
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{what}={path!r} is no path of a file: {error}") from error
