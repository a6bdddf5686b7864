"""A service that is in the same process, and does what a test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hybrid_compute import OutboxExecutor
from hybrid_compute._durable import open_file
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import RemoteUnavailable
from hybrid_compute.executors._outbox_table import OUTBOX
from hybrid_compute.items import WorkItem


class Service(SubExecutor):
    """Answers each item at once, by `answer(item)`, or keeps it in `held` if that is what it says.

    Attributes:
        came: key and arguments of each item, in order.
        keep: let items wait in `held` until `go`.
    """

    name = "service"
    workers = 8
    capabilities = Capabilities(remote=True)
    HOLD = object()

    def __init__(self, answer: Callable[[WorkItem], Any] | None = None) -> None:
        self.answer = answer or (lambda item: item.args[0])
        self.came: list[tuple[str | None, tuple[Any, ...]]] = []
        self.held: list[WorkItem] = []
        self.arrived = threading.Semaphore(0)
        self.away = False
        self.closed = False

    def execute(self, item: WorkItem) -> None:
        if self.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not item.start():
            return
        if self.away:
            self.arrived.release()
            item.fail(RemoteUnavailable("nobody there; nothing was sent"))
            return
        self.came.append((item.key, item.args))
        try:
            value = self.answer(item)
        except Exception as error:
            item.fail(error)
        else:
            if value is self.HOLD:
                self.held.append(item)
            else:
                item.succeed(value)
        self.arrived.release()

    def load(self) -> float:
        return len(self.held) / self.workers

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed = True


@contextlib.contextmanager
def outbox(path: Path, service: Service | None = None, **options: Any) -> Iterator[OutboxExecutor]:
    options = {"linger": 0, **options}
    with OutboxExecutor(Service() if service is None else service, path, **options) as made:
        yield made


def rows(path: Path) -> list[tuple[int, str, int]]:
    """Return id, state and attempts of what is in a file."""
    connection = open_file(path, OUTBOX)
    try:
        return connection.execute("SELECT id, state, attempts FROM rows ORDER BY id").fetchall()
    finally:
        connection.close()
