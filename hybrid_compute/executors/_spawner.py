"""The spawner: a process with one thread whose only work is to fork workers and to bury them.

A program that has threads must not fork: the child inherits locks whose holders do not exist in
it. Starting Python anew for each worker is slow. So the executor starts this process once, and
this one, which never has a second thread, forks a worker in a millisecond.

    executor                     spawner                        worker
    REQUEST(serial) + 2 fds ---> fork ------------------------> _worker.main(fds)
    <--- REPORT(serial, pid, NO_STATUS)                            |
    <--- REPORT(serial, pid, wait status) <--- SIGCHLD, waitpid <--'

Nobody outlives the caller. The spawner ends when its socket does, and kills what is left of its
workers. Should it be dead itself by then, the kernel does it: the caller holds the one writing
end of the `life` pipe, whose reading end is set to raise SIGKILL for the whole process group
once the caller, and that end with it, is gone. (PR_SET_PDEATHSIG would need ctypes, which takes
longer to import than all the rest, and would be set anew by each worker.)

The process group of their own keeps Ctrl-C at the terminal, which goes to the foreground group,
from them: it is the caller's. Runs in the child; imports next to nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal without its enums: 2 ms
import _socket
import fcntl
import os
import select
from struct import Struct

from hybrid_compute.executors import _worker
from hybrid_compute.executors._frames import NO_STATUS, REPORT, REQUEST

__all__ = ["main"]

_FDS = Struct("2i")


def main(control_fd: int, life_fd: int) -> None:
    """Serve until the caller closes its end of `control_fd`; then end, with all workers."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _die_with(life_fd)
    control = _socket.socket(fileno=control_fd)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)  # without a handler, no wake-up
    _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    serials: dict[int, int] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wake_read:
                _drain(wake_read)
                _bury(control, serials)
                continue
            request = _receive(control)
            if request is None:
                _end(life_fd, serials)
                return
            serial, fds = request
            try:
                pid = os.fork()
            except OSError as error:
                _report(control, serial, -1, error.errno or 1)
            else:
                if pid == 0:
                    _become_worker((control, wake_read, wake_write), fds)
                serials[pid] = serial
                _report(control, serial, pid, NO_STATUS)
            finally:
                for each in fds:
                    os.close(each)


def _die_with(life_fd: int) -> None:
    if hasattr(fcntl, "F_SETSIG"):  # Linux
        fcntl.fcntl(life_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life_fd, fcntl.F_SETSIG, _signal.SIGKILL)
        fcntl.fcntl(life_fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        try:
            gone = os.read(life_fd, 1) == b""  # before the signal was set up
        except BlockingIOError:
            gone = False
        if gone:
            os._exit(1)


def _receive(control: _socket.socket) -> tuple[int, list[int]] | None:
    try:
        data, ancillary, _, _ = control.recvmsg(REQUEST.size, _socket.CMSG_SPACE(_FDS.size))
    except OSError:
        return None
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += _FDS.unpack(content)
    if len(data) < REQUEST.size or len(fds) != 2:
        return None
    return REQUEST.unpack(data)[0], fds


def _become_worker(mine: tuple[_socket.socket, int, int], fds: list[int]) -> None:
    """Turn this forked child into a worker; does not return."""
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        control, wake_read, wake_write = mine
        control.close()
        os.close(wake_read)
        os.close(wake_write)
        _worker.main(*fds)
    except BaseException:  # a bug; without this, the child would go on as a second spawner
        import traceback  # noqa: PLC0415 - see above

        traceback.print_exc()
    finally:
        os._exit(70)  # EX_SOFTWARE; main() has its own exit


def _bury(control: _socket.socket, serials: dict[int, int]) -> None:
    while serials:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        serial = serials.pop(pid, None)
        if serial is not None:
            _report(control, serial, pid, status)


def _report(control: _socket.socket, serial: int, pid: int, status: int) -> None:
    try:  # noqa: SIM105 - contextlib is not loaded here
        control.sendall(REPORT.pack(serial, pid, status))
    except OSError:
        pass  # the caller is gone, and the next receive says so


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        pass


def _end(life_fd: int, serials: dict[int, int]) -> None:
    if hasattr(fcntl, "F_SETSIG"):
        # The group may hold processes that the work has left behind on purpose.
        fcntl.fcntl(life_fd, fcntl.F_SETFL, 0)
    for pid in serials:
        os.kill(pid, _signal.SIGKILL)  # not yet waited for, so it is still our child
    os._exit(0)
