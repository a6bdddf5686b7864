"""The caller's handle of a worker process: what was sent to it, and what it has answered.

Owns its socket, its journal, its process id and its end; knows of work only that a worker has
items sent to it, in order. No locks and no threads: who may touch what, and when, stands in
`_dispatch`, which is the only user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeAlias

from hybrid_compute._functions import Library
from hybrid_compute.executors._frames import (
    CALLS,
    CALLS_APART,
    FUNCTION,
    HEADER,
    JOURNAL_BYTES,
    LEVELS,
    LIMIT,
    NO_LIMIT,
    SEGMENT,
    SETUP,
    Inbox,
    Journal,
)
from hybrid_compute.executors._segments import (
    ONCE,
    USED,
    Parcel,
    Receiver,
    Sender,
    Slot,
    shared_memory,
)
from hybrid_compute.items import Meter, WorkItem

if TYPE_CHECKING:
    from hybrid_compute.executors._agents import Agent
    from hybrid_compute.executors._memory import OomCounter
    from hybrid_compute.executors._spawning import Spawner

__all__ = ["Message", "Metered", "Worker"]

# Who is told of the time of a message: a meter, what it knows of the task, and how many calls.
Metered: TypeAlias = "tuple[Meter, Any, int]"

_FD = Struct("i")
_NO_END = 1 << 62


class Message:
    """A message on its way: the number behind its last call, and what to learn from its time."""

    __slots__ = ("count", "end", "key", "metered")

    def __init__(self, end: int, count: int, key: Any, metered: Metered | None) -> None:
        self.end = end
        self.count = count
        self.key = key
        self.metered = metered


class Worker:
    """One worker process, as its caller sees it.

    Attributes:
        serial: names it towards the spawner.
        sock: our end of its socket, non-blocking.
        inbox: cuts its answers into frames.
        words: those of its journal.
        sender: puts large calls into memory that it shares; of whoever feeds it.
        receiver: gets large results out of such memory; the reader's.
        library: the functions that it has; of whoever feeds it.
        items: sent and not answered, in order; the first has the number `number`.
        next_number: that of the next call to be sent.
        agent: stands here for what it runs; None: that has never asked anything.
        waits: its work waits for other work: how many times over.
        messages: sent and not ended, in order.
        hand: what the thread that feeds it has taken for it and not sent yet; None: nobody does.
        taken: the item that is on its way from a queue into the hand.
        left: how many more calls it may be sent in its life.
        retiring: it gets nothing new, and ends when it has answered all.
        idle_since: monotonic time; None: busy, or nobody wants to know.
        trims: how often memory for large calls was given back since it became idle.
        next_look: monotonic time before which nobody looks at its memory.
        process: psutil's handle of it.
        stack: what the interpreter wrote of its threads as it crashed.
        oom: counts those whom the kernel kills for want of memory, since `oom_since`.
        withheld: the first call which certainly will not begin; None: there is no such.
        revoked: LIMIT is set: it gets nothing new before it has ended all its messages.
        dead: it takes nothing more; who sends finds out when it is done.
        buried: nobody looks at what it has left any more.
        leaving: it was told that there is nothing more to come; monotonic time, None: it was not.
        ready: its initializer has run.
        lost: its end of the socket is closed.
        home: the spawner that has forked it.
        unfit: why its initializer has failed.
        pid: None until the spawner, or the worker itself, has told.
        status: of `os.waitpid`; None while it lives.
        due: monotonic time by which its messages should have been ended; None: never mind.
        watched: number of the call that ran when it was found overdue.
        outbox: frames, or what is left of them, that did not fit into the socket; one that takes
            a descriptor along stands with its slot.
        sent: how much of the first of them has been sent, where that is not counted yet.
    """

    __slots__ = (
        "agent",
        "buried",
        "dead",
        "due",
        "hand",
        "home",
        "idle_since",
        "inbox",
        "items",
        "journal",
        "leaving",
        "left",
        "levels",
        "library",
        "lost",
        "messages",
        "next_look",
        "next_number",
        "number",
        "oom",
        "oom_since",
        "outbox",
        "pid",
        "process",
        "ready",
        "receiver",
        "retiring",
        "revoked",
        "sender",
        "sent",
        "serial",
        "sock",
        "stack",
        "status",
        "taken",
        "trims",
        "unfit",
        "waits",
        "watched",
        "withheld",
        "words",
    )

    def __init__(self, serial: int, calls: int | None = None) -> None:
        self.serial = serial
        self.levels: bytes | None = None  # of our loggers, as it was told last
        self.left = _NO_END if calls is None else calls
        self.retiring = False
        self.idle_since: float | None = None
        self.next_look = 0.0
        self.trims = 0
        self.process: Any = None
        self.stack = ""
        self.oom: OomCounter | None = None
        self.oom_since = 0.0
        self.withheld: int | None = None
        self.items: deque[WorkItem] = deque()
        self.messages: deque[Message] = deque()
        self.outbox: deque[bytes | memoryview | tuple[bytes, Slot]] = deque()
        self.library = Library()
        self.number = self.next_number = 1
        self.sent: list[int] = []
        self.hand: list[WorkItem] | None = None
        self.taken: WorkItem | None = None
        self.revoked = self.dead = self.buried = self.ready = self.lost = False
        self.leaving: float | None = None
        self.pid: int | None = None
        self.status: int | None = None
        self.unfit: BaseException | None = None
        self.due: float | None = None
        self.watched: int | None = None
        self.agent: Agent | None = None
        self.waits = 0

    def open(self, spawner: Spawner, setup: bytes) -> None:
        """Have the process forked, and put its first message into the outbox.

        Raises:
            OSError: it did not work; nothing is left open.
        """
        self.home = spawner
        self.sock, theirs = socket.socketpair()
        try:
            memory = shared_memory(JOURNAL_BYTES, "journal")
            try:
                self.journal = Journal(memory)
                self.words = self.journal.words
                self.words[LIMIT] = NO_LIMIT
                try:
                    spawner.fork(self.serial, [theirs.fileno(), memory])
                except BaseException:
                    self.journal.close()
                    raise
            finally:
                os.close(memory)
        except BaseException:
            self.sock.close()
            raise
        finally:
            theirs.close()
        self.sock.setblocking(False)
        self.inbox = Inbox(self.sock)
        self.sender = Sender(self.journal.call_flags, mapped=False)
        self.receiver = Receiver(self.journal.value_flags)
        self.outbox += _frame(SETUP, 0, setup)

    def put_calls(  # noqa: PLR0917 - what a message consists of
        self,
        hand: list[WorkItem],
        count: int,
        payload: bytes | Parcel,
        key: Any,
        metered: Metered | None,
        levels: bytes | None,
    ) -> None:
        """Put a message with the first items of the hand into the outbox: all of it, or nothing.

        Args:
            hand: the items move from here to `items`.
            count: how many.
            payload: the pickled calls.
            key: what to learn from the time that they take.
            metered: who else wants to know of it.
            levels: of our loggers; None: the worker need not know.
        """
        first, end = self.next_number, self.next_number + count
        batch, message = hand[:count], Message(end, count, key, metered)
        frame: tuple[bytes | tuple[bytes, Slot], ...]
        slot, place, flags = None, ONCE, self.sender.flags
        if isinstance(payload, bytes):
            frame = _frame(CALLS, first, payload)
        else:
            slot, frame = payload.slot, ()
            place = slot.index
            if not slot.announced:
                frame = ((HEADER.pack(0, place, SEGMENT), slot),)
            frame += _frame(CALLS_APART, first, payload.body)
        library, known = self.library, self.library.known
        if library.new:
            known, gone = library.with_new()
            frame = (
                *itertools.chain.from_iterable(
                    _frame(FUNCTION, number, sent.data) for number, sent in library.new.items()
                ),
                *frame,  # its calls may need those that are to be forgotten
                *(_frame(FUNCTION, number, b"")[0] for number in gone),
            )
        if levels is not self.levels and levels is not None:
            frame = (*_frame(LEVELS, 0, levels), *frame)
        none: dict[int, Any] = {}
        # Nothing is called from here on: a signal handler, which may raise, runs after a call.
        self.levels = levels
        if slot is not None:
            slot.announced = True
            if place != ONCE:
                flags[place] = USED
        if not self.items:
            self.number = first
        self.next_number = end
        self.left -= count
        self.retiring = self.retiring or self.left <= 0
        self.items += batch
        self.messages += (message,)
        self.outbox += frame
        library.known = known
        library.new = none
        del hand[:count]

    def flush(self) -> None:
        """Send what the socket takes now. Never blocks; a dead worker swallows it.

        If a signal handler raises in here, the next flush goes on at the right byte.
        """
        outbox, sent = self.outbox, self.sent
        while outbox:
            first = outbox[0]
            if sent:
                data = first[0] if type(first) is tuple else first
                if sent[0] == len(data):
                    del outbox[0], sent[0]
                else:
                    outbox[0] = memoryview(data)[sent[0] :]  # type: ignore[arg-type]  # bytes
                    del sent[0]
                continue
            if type(first) is tuple:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(first[1].fd))
                sends = map(self.sock.sendmsg, (first[:1],), ((rights,),))
            else:
                sends = map(self.sock.send, (first,))  # type: ignore[arg-type]  # bytes
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
        """Give back descriptors and memory."""
        self.sock.close()
        self._close_memory()
        self.outbox.clear()

    def _close_memory(self) -> None:
        self.sender.close()
        self.receiver.close()
        for fd in self.inbox.fds:
            if fd >= 0:
                os.close(fd)
        self.inbox.fds.clear()
        self.journal.close()

    def forget(self) -> None:
        """Close our copies in a forked child; the process is the parent's."""
        self.sock.close()
        with contextlib.suppress(BufferError):  # the fork came in the middle of a look into it
            self._close_memory()


def _frame(kind: int, number: int, body: bytes) -> tuple[bytes, ...]:
    header = HEADER.pack(len(body), number, kind)
    return (header + body,) if len(body) < 4096 else (header, body)
