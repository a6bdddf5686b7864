"""Turns: who reads a connection, its own thread or somebody who waits for what it brings.

To be woken takes longer than all else about a small call. So who waits for an answer, and has done
so again and again, may read the connection himself: then nobody has to wake him. Owns whose turn
it is, and the two ways to wake who is asleep: a pipe for the thread, and a bell for a guest.

    the thread reads --a guest asked for it, and a message was read--> lent: guests come and go
          ^---- recalled, or nobody came for a lease, and no guest is in ----------'

Threads and locks: `_reading` is held by who reads: the thread, or a guest. Nobody waits for it: a
guest who cannot have it waits as he would without all this, and the thread sleeps at its pipe until
the guest who leaves wakes it. All other fields are flags, written before the other side's are read.

Why nobody waits in vain: a guest reads until he has what he waits for. While none is in, and the
connection is lent, it is read by nobody for a lease at most: that is for who is about to come back.
Whoever makes known that he will not come recalls it at once: a callback, `wait`, a second thread, a
shutdown. (Two that begin to wait at the very same moment may miss each other: the lease ends that.)
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Turns", "Watch"]

_OFTEN = 3  # waits in a row of one thread before it may read


class Watch:
    """What one who reads looks out for: the socket, and what wakes him."""

    def __init__(self, sock: socket.socket, alarm: socket.socket) -> None:
        self._number = sock.fileno()
        self._write = False
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._poll.register(alarm, select.POLLIN)
        self._alarm = alarm

    def quiet(self) -> None:
        """Note that he who was woken is awake."""
        with contextlib.suppress(OSError):
            self._alarm.recv(4096)

    def wait(self, seconds: float, write: bool) -> tuple[bool, bool]:
        """Sleep; return whether the socket can be read, and whether he was woken."""
        if write is not self._write:
            self._poll.modify(self._number, select.POLLIN | (select.POLLOUT if write else 0))
            self._write = write
        readable = alarm = False
        for number, events in self._poll.poll(1000 * max(0.0, seconds)):
            if number == self._number:
                readable = bool(events & ~select.POLLOUT)
            else:
                alarm = True
        return readable, alarm


class Turns:
    """Whose turn it is to read one connection.

    Attributes:
        lease: seconds for which nobody reads, while a guest may be about to come back.
    """

    lease = 0.002

    def __init__(self) -> None:
        self._reading: Any = threading.RLock()  # see above; it can tell whose it is
        self.guest: int | None = None  # the thread that reads as a guest
        self.asked = False  # a guest would read
        self._lent = False
        self._last = self._times = 0  # who waited last, and how often in a row
        self._visits = 0
        self._tell = False  # the thread wants to know when the guest leaves
        self._pipe = socket.socketpair()
        try:
            self._bell = socket.socketpair()
        except BaseException:
            self._close(self._pipe)
            raise
        for each in (*self._pipe, *self._bell):
            each.setblocking(False)

    @staticmethod
    def _close(pair: tuple[socket.socket, socket.socket]) -> None:
        for each in pair:
            each.close()

    def close(self) -> None:
        """Free what it has. Who wakes somebody later finds nobody, which does no harm."""
        self._close(self._pipe)
        self._close(self._bell)

    def alarm(self, *, guest: bool) -> socket.socket:
        """Return what is readable when who reads is to look up."""
        return (self._bell if guest else self._pipe)[0]

    def wake(self) -> None:
        """Have the thread look up, whether it reads or not. Any thread."""
        with contextlib.suppress(OSError):  # full, so it is awake; or gone, so it need not be
            self._pipe[1].send(b"x")

    def ring(self) -> None:
        """Have the guest look up, if one is in on another thread. Any thread."""
        if self.guest is not None and self.guest != threading.get_ident():
            self.ring_here()

    def ring_here(self) -> None:
        """Have the guest look up, even if that is this thread."""
        with contextlib.suppress(OSError):
            self._bell[1].send(b"x")

    # -- guests ------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Say whether who is about to wait may read. If so, he has to `leave`. Any thread."""
        me = threading.get_ident()
        if me != self._last:
            self.recall()  # he who reads for himself would keep the other waiting
            self._last = me
            return False
        if self._times < _OFTEN:
            self._times += 1
            return False
        if not self._lent:
            self.asked = True
            return False
        if self.reads_here() or not self._reading.acquire(blocking=False):
            return False
        self.guest = me
        return True

    def reads_here(self) -> bool:
        """Say whether it is this thread that reads. It is, too, if `enter` was cut short."""
        return self._reading._is_owned()  # type: ignore[no-any-return]  # as threading.Condition does

    def leave(self) -> None:
        """Note that a guest reads no more."""
        self.guest = None
        self._visits += 1
        self._reading.release()
        if self._tell or not self._lent:
            self.wake()

    def recall(self) -> None:
        """Have the thread read again: somebody does not wait where he could. Any thread."""
        self.asked, self._times = False, 0
        if self._lent:
            self._lent = False
            self.wake()

    def is_mine(self) -> bool:
        """Say whether it is lent to the current thread, who will soon be back."""
        return self._lent and self._last == threading.get_ident()

    # -- the thread --------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the first turn. Called by the thread, first."""
        self._reading.acquire()

    def lend(self, needed: Callable[[], object], turn: Callable[[], object]) -> None:
        """Let guests read, until it is the thread's turn again. Called by the thread.

        Args:
            needed: whether there is something that it has to see to, guests or not.
            turn: called whenever it is awake.
        """
        self._lent = True
        if not self.asked:  # recalled just now: `recall` takes that back before it looks at `_lent`
            self._lent = False
            return
        self.asked = False
        self._reading.release()
        poll = select.poll()
        poll.register(self._pipe[0], select.POLLIN)
        visits = -1
        while True:
            pause: float | None = None
            if not self._lent or needed():
                self._lent = False  # nobody else comes in
                self._tell = True  # before the lock is tried, as `leave` lets go before it looks
                if self._reading.acquire(blocking=False):
                    break
            elif visits != self._visits:
                visits, pause = self._visits, self.lease
            else:
                self._tell = True
                if self.guest is None:
                    self._lent = visits != self._visits
                    continue
            # Not to look for work: who leaves does not tell that he will not be back.
            if poll.poll(None if pause is None else 1000 * pause):
                with contextlib.suppress(OSError):
                    self._pipe[0].recv(4096)
            self._tell = False
            turn()
        self._lent = self._tell = False
