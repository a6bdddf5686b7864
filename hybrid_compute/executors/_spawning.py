"""The caller's handle of the spawner process, and what a worker that it forks is told first.

Owns the spawner's socket, its `life` pipe and its end. Used by one thread, the reader's.
"""

from __future__ import annotations

import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from hybrid_compute.executors._frames import REPORT, REQUEST
from hybrid_compute.executors._settings import Settings

__all__ = ["Spawner", "setup_body"]

_GRACE = 5.0  # seconds; it takes a millisecond
_BOOT = __file__.rpartition("/")[0] + "/_boot.py"


def setup_body(initializer: bytes, settings: Settings, levels: bytes | None = None) -> bytes:
    """Return what a new worker must know: where its caller stands at this moment.

    Args:
        initializer: a call from `encode_call`; b"" for none.
        settings: of its pool.
        levels: of our loggers, see `_logs`; None: it keeps its log records.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - a plain string is what travels
    except OSError:  # it was removed; the spawner is where we are
        here = ""
    argv = getattr(sys, "argv", ())  # an embedded interpreter has none
    # Managers of multiprocessing know their own by it.
    multiprocessing = sys.modules.get("multiprocessing.process")
    key = bytes(multiprocessing.current_process().authkey) if multiprocessing else b""
    return marshal.dumps(
        (
            list(map(str, sys.path)),
            settings.environ(),
            here,
            list(map(str, argv)),
            key,
            initializer,
            settings.max_payload,
            levels,
        )
    )


class Spawner:
    """The process that forks the workers. Used by one thread, that which made it.

    Attributes:
        control: our end of its socket, non-blocking; also what a selector looks at.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: there is no interpreter to start, or no process or descriptor left.
        """
        if not sys.executable:
            raise FileNotFoundError(
                "sys.executable is empty, so that no worker process can be started; set it to "
                "the path of a Python interpreter"
            )
        self.control, theirs = socket.socketpair()
        life_read, self._life = os.pipe()
        self._rest = b""
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    _BOOT,
                    str(theirs.fileno()),
                    str(life_read),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life_read),
                process_group=0,
            )
        except BaseException:
            self.control.close()
            os.close(self._life)
            raise
        finally:
            theirs.close()
            os.close(life_read)
        self.control.setblocking(False)

    def fork(self, serial: int, fds: list[int]) -> None:
        """Have a worker forked that gets these descriptors. Does not wait for it.

        Raises:
            BlockingIOError: not now, there are too many requests already.
            OSError: the spawner is dead.
        """
        socket.send_fds(self.control, [REQUEST.pack(serial)], fds)

    def reports(self) -> Iterator[tuple[int, int, int]]:
        """Receive once: serial, pid and status of workers, see `_frames.REPORT`.

        Raises:
            BlockingIOError: there is none.
            EOFError: the spawner is dead.
        """
        try:
            data = self.control.recv(REPORT.size * 256)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            raise EOFError
        data = self._rest + data
        whole = len(data) - len(data) % REPORT.size
        self._rest = data[whole:]
        return REPORT.iter_unpack(data[:whole])

    def end(self) -> None:
        """End it, and with it all workers that are left; wait until it is gone."""
        self.control.close()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            self.process.kill()
            self.process.wait()
        os.close(self._life)  # only now: it would kill the group

    def forget(self) -> None:
        """Close our descriptors in a forked child; the spawner is the parent's."""
        self.control.close()
        os.close(self._life)
        self.process.returncode = 0  # nobody's child here: there is nothing to wait for
