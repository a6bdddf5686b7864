"""The caller's handle of a worker process: what was sent to it, and what it has answered.

Owns its socket, its journal, its process id and its end; knows of work only that a worker has
items sent to it, in order. No locks and no threads: who may touch what, and when, stands in
`_dispatch`, which is the only user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from hybrid_compute.executors._frames import (
    CALLS,
    HEADER,
    JOURNAL_BYTES,
    LIMIT,
    NO_LIMIT,
    SETUP,
    Inbox,
    Journal,
)
from hybrid_compute.items import WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._spawning import Spawner

__all__ = ["Message", "Worker"]


class Message:
    """A message on its way: the number behind its last call, and what to learn from its time."""

    __slots__ = ("count", "end", "key")

    def __init__(self, end: int, count: int, key: Any) -> None:
        self.end = end
        self.count = count
        self.key = key


class Worker:
    """One worker process, as its caller sees it.

    Attributes:
        serial: names it towards the spawner.
        sock: our end of its socket, non-blocking.
        inbox: cuts its answers into frames.
        words: those of its journal.
        items: sent and not answered, in order; the first has the number `number`.
        next_number: that of the next call to be sent.
        messages: sent and not ended, in order.
        hand: what the thread that feeds it has taken for it and not sent yet; None: nobody does.
        taken: the item that is on its way from a queue into the hand.
        revoked: LIMIT is set: it gets nothing new before it has ended all its messages.
        dead: it takes nothing more; who sends finds out when it is done.
        ready: its initializer has run.
        lost: its end of the socket is closed.
        home: the spawner that has forked it.
        unfit: why its initializer has failed.
        pid: None until the spawner has told.
        status: of `os.waitpid`; None while it lives.
        due: monotonic time by which its messages should have been ended; None: never mind.
        watched: number of the call that ran when it was found overdue.
        outbox: frames, or what is left of them, that did not fit into the socket.
        sent: how much of the first of them has been sent, where that is not counted yet.
    """

    __slots__ = (
        "dead",
        "due",
        "hand",
        "home",
        "inbox",
        "items",
        "journal",
        "lost",
        "messages",
        "next_number",
        "number",
        "outbox",
        "pid",
        "ready",
        "revoked",
        "sent",
        "serial",
        "sock",
        "status",
        "taken",
        "unfit",
        "watched",
        "words",
    )

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.items: deque[WorkItem] = deque()
        self.messages: deque[Message] = deque()
        self.outbox: deque[bytes | memoryview] = deque()
        self.number = self.next_number = 1
        self.sent: list[int] = []
        self.hand: list[WorkItem] | None = None
        self.taken: WorkItem | None = None
        self.revoked = self.dead = self.ready = self.lost = False
        self.pid: int | None = None
        self.status: int | None = None
        self.unfit: BaseException | None = None
        self.due: float | None = None
        self.watched: int | None = None

    def open(self, spawner: Spawner, setup: bytes) -> None:
        """Have the process forked, and put its first message into the outbox.

        Raises:
            OSError: it did not work; nothing is left open.
        """
        self.home = spawner
        self.sock, theirs = socket.socketpair()
        try:
            with _shared_memory() as memory:
                self.journal = Journal(memory.fileno())
                self.words = self.journal.words
                self.words[LIMIT] = NO_LIMIT
                try:
                    spawner.fork(self.serial, [theirs.fileno(), memory.fileno()])
                except BaseException:
                    self.journal.close()
                    raise
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.sock.setblocking(False)
        self.inbox = Inbox(self.sock)
        self.outbox += _frame(SETUP, 0, setup)

    def put_calls(self, hand: list[WorkItem], count: int, body: bytes, key: Any) -> None:
        """Put a message with the first items of the hand into the outbox: all of it, or nothing.

        Args:
            hand: the items move from here to `items`.
            count: how many.
            body: the pickled calls.
            key: what to learn from the time that they take.
        """
        first, end = self.next_number, self.next_number + count
        batch, message = hand[:count], Message(end, count, key)
        frame = _frame(CALLS, first, body)
        # Nothing is called from here on: a signal handler, which may raise, runs after a call.
        if not self.items:
            self.number = first
        self.next_number = end
        self.items += batch
        self.messages += (message,)
        self.outbox += frame
        del hand[:count]

    def flush(self) -> None:
        """Send what the socket takes now. Never blocks; a dead worker swallows it.

        If a signal handler raises in here, the next flush goes on at the right byte.
        """
        outbox, sent = self.outbox, self.sent
        while outbox:
            if sent:
                if sent[0] == len(outbox[0]):
                    del outbox[0], sent[0]
                else:
                    rest = memoryview(outbox[0])[sent[0] :]
                    outbox[0] = rest
                    del sent[0]
                continue
            sends = map(self.sock.send, (outbox[0],))
            try:
                sent += sends  # it sends, and keeps the count, before any signal handler runs
            except BlockingIOError:
                break
            except OSError:  # it is dead, as its selector or the spawner will tell
                outbox.clear()
                break

    def leave(self) -> None:
        """Tell the worker that there is nothing more to come."""
        with contextlib.suppress(OSError):  # it is dead
            self.sock.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """Send SIGKILL, unless it is known to be dead."""
        if self.pid is not None and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give back descriptor and memory."""
        self.sock.close()
        self.journal.close()
        self.outbox.clear()

    def forget(self) -> None:
        """Close our copies in a forked child; the process is the parent's."""
        self.sock.close()
        with contextlib.suppress(BufferError):  # the fork came in the middle of a look into it
            self.journal.close()


def _frame(kind: int, number: int, body: bytes) -> tuple[bytes, ...]:
    header = HEADER.pack(len(body), number, kind)
    return (header + body,) if len(body) < 4096 else (header, body)


def _shared_memory() -> Any:
    if hasattr(os, "memfd_create"):
        memory: Any = os.fdopen(os.memfd_create("hybrid-compute-journal"), "r+b", buffering=0)
    else:
        import tempfile  # noqa: PLC0415 - only where there is no memfd

        memory = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - returned
    memory.truncate(JOURNAL_BYTES)
    return memory
