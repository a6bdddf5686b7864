"""What the contract suite has executors run: tasks that work in any process of this machine.

Owns the tasks and `Gate`, which holds work up until it is told otherwise. A server is made to pass
by serving `hybrid_compute.testing.work:TASKS`. Tasks tell what they do by sockets and files, as
they may run in another process: neither end ever asks again and again.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn

from hybrid_compute.tasks import TaskRegistry

__all__ = [
    "TASKS",
    "Gate",
    "OddError",
    "count",
    "crash",
    "echo",
    "fail",
    "fail_oddly",
    "hold",
    "keep_here",
    "keywords",
    "leave",
    "mark",
    "raise_it",
]

TASKS = TaskRegistry()


@TASKS.task
def echo(value: Any = None) -> Any:
    """Return the argument."""
    return value


@TASKS.task
def keywords(**named: Any) -> dict[str, Any]:
    """Return the keyword arguments."""
    return named


@TASKS.task
def mark(path: str) -> None:
    """Make a file one byte longer."""
    with Path(path).open("ab") as file:
        file.write(b"x")


@TASKS.task
def hold(port: int, value: Any = None) -> Any:
    """Return a value once the gate at a port of this machine is opened, or there is none."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port)) as sock,
    ):
        sock.recv(1)
    return value


@TASKS.task
def fail(text: str) -> NoReturn:
    """Raise ValueError."""
    raise ValueError(text)


@TASKS.task
def raise_it(error: Any) -> NoReturn:
    """Raise the argument, an exception: for executors that share memory."""
    raise error


@TASKS.task
def leave(status: int) -> NoReturn:
    """Raise SystemExit."""
    raise SystemExit(status)


class OddError(Exception):
    """Cannot be made again from its arguments, which is how exceptions are unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


@TASKS.task
def fail_oddly() -> NoReturn:
    """Raise an exception that can be pickled and not be unpickled."""
    raise OddError("odd", "ly")


@TASKS.task
def crash() -> NoReturn:
    """End the process at once."""
    os._exit(3)


@TASKS.task(local_only=True)
def keep_here(path: str) -> None:
    """Make a file one byte longer; never on another machine."""
    mark.fn(path)


@TASKS.task
def count(stop: int, port: int = 0, fails: bool = False) -> Generator[int, None, str]:
    """Stream the numbers below `stop`, then fail or return "end"; come to a gate at the end."""
    try:
        yield from range(stop)
        if fails:
            raise ValueError("after the items")
        return "end"
    finally:
        if port:
            hold.fn(port)


class Gate:
    """Holds `hold(gate.port)` up. Made and used by one thread, but `open`: any thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []

    def arrived(self, timeout: float) -> bool:
        """Wait until one more piece of work has come to the gate; say whether it has."""
        self._listener.settimeout(timeout)
        try:
            held, _ = self._listener.accept()
        except OSError:
            return False
        self._held.append(held)
        return True

    def left(self, timeout: float) -> bool:
        """Wait until the work that came first is ended by somebody else; say whether it was."""
        held = self._held[0]
        held.settimeout(timeout)
        try:
            return held.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def open(self) -> None:
        """Let all go on, also those who come later. Idempotent."""
        self._listener.close()  # who waits to be accepted is let go as well
        for each in self._held:
            each.close()
