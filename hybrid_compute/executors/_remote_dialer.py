"""Dialer: makes the connections of a line, one at a time, for as long as that has a point.

Owns when to connect, and how long to wait before the next attempt::

    idle --first call--> dialing --open--> open --lost--> (calls left?) waiting --> dialing
                            `--failed: calls fail, or if it was open before, wait and try again

Threads: one, while there is somebody to dial for. The line's lock guards all its state, and it is
the line that tells it to start, with that lock held.

Why nothing can hang: each attempt ends within `connect_timeout`, all of them together within
`reconnect_for` and one more, and then the line is told, whatever came of it. `ending` cuts each
pause short.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hybrid_compute.errors import RemoteBusy, RemoteUnavailable
from hybrid_compute.protocol import ClientSession

if TYPE_CHECKING:
    from hybrid_compute.transports._adapted import Connection

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Dialer"]

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class _Line(Protocol):
    def dialing(self) -> threading.Thread | None: ...

    def make_session(self, *, own: bool, binary: bool) -> ClientSession: ...

    def opened(self, session: ClientSession, transport: Connection) -> None: ...

    def failed(self, problem: Exception) -> None: ...

    def received(self, session: ClientSession, transport: Connection, frame: bytes) -> None: ...

    def lost(self, transport: Connection, why: Exception) -> None: ...


class Dialer:
    """Connects for one line.

    Attributes:
        thread: while it dials.
        lost_at: since when it is tried in vain to connect again; None: the first attempt counts.
        ending: set when nobody waits for a connection any more.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        name: str,
        reconnect_for: float,
        retry_after_cap: float,
    ) -> None:
        self._connect = connect
        self._name = name
        self._reconnect_for = reconnect_for
        self._retry_after_cap = retry_after_cap
        self.thread: threading.Thread | None = None
        self.lost_at: float | None = None
        self.ending = threading.Event()

    def start(self, line: _Line) -> None:
        """Dial, unless it does so already. With the line's lock held.

        Raises:
            RuntimeError: no thread can be started.
        """
        if self.thread is None:
            thread = threading.Thread(
                target=self._run, args=(line,), name=f"{self._name} dials", daemon=True
            )
            self.thread = thread
            try:
                thread.start()  # before it does anything it needs the lock, which we have
            except BaseException:  # Ctrl-C too, so that it may run: it looks whether it is wanted
                self.thread = None
                raise

    def over(self) -> None:
        """Note that it has stopped dialing. With the line's lock held."""
        self.thread = self.lost_at = None

    def _run(self, line: _Line) -> None:
        """Connect, now or after pauses that grow, or tell the line that it is in vain."""
        if line.dialing() is not threading.current_thread():
            return
        pause = FIRST_PAUSE
        while True:
            problem: Exception
            # All of the pause is left to chance: a server that comes back has many such callers.
            if self.lost_at is not None and self.ending.wait(random.uniform(0, pause)):  # noqa: S311 - no secret
                problem = RemoteUnavailable(f"{self._name} is shut down; nothing was sent")
                break
            try:
                self._open(line)
            except RemoteBusy as error:
                problem = error
                pause = max(pause, min(error.retry_after or 0, self._retry_after_cap))
            except RemoteUnavailable as error:
                problem = error
            except Exception as error:  # no trust, no token, no WebSocket: waiting changes nothing
                problem = error
                break
            except BaseException as error:  # of who was asked for a token; the calls must be told
                problem = RemoteUnavailable(f"{self._name}: {error!r}; nothing was sent")
                break
            else:
                return
            now = time.monotonic()
            if self.lost_at is None or now - self.lost_at > self._reconnect_for:
                break
            pause = min(2 * pause, LONGEST_PAUSE)
        line.failed(problem)

    def _open(self, line: _Line) -> None:
        transport = self._connect()
        session: list[ClientSession] = []
        ready = threading.Event()  # frames may come before there is a session for them

        def on_frame(frame: bytes) -> None:
            ready.wait()
            if session:
                line.received(session[0], transport, frame)

        def on_lost(why: Exception) -> None:
            ready.wait()
            line.lost(transport, why)

        transport.open(on_frame, on_lost)
        try:
            made = line.make_session(own=transport.own, binary=transport.binary)
            session.append(made)
            line.opened(made, transport)
        except BaseException:
            transport.close()
            raise
        finally:
            ready.set()
