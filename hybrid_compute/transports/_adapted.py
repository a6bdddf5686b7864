"""Adapted: any `Transport` as the connection of a line, which asks for more than that contract.

Owns what a line wants to know beside: whose thread this is, and when all is over. Threads: none of
its own; `_here` is written by who calls `on_frame` and `on_lost`, which is one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hybrid_compute.transports import OnFrame, OnLost, Transport

__all__ = ["Adapted", "Connection"]

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Connection(Protocol):
    """What a line needs of a connection; see `WebSocketTransport`, which has all of it.

    Attributes:
        own: whether the server is known as ours.
        binary: whether it takes the binary sub-protocol.
        answer: the headers of its handshake, by names in lower case.
    """

    own: bool
    binary: bool
    answer: Mapping[str, str]

    def open(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        """Connect."""
        ...

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    def join(self) -> None:
        """Block until `on_lost` has returned."""
        ...

    def reads_here(self) -> bool:
        """Say whether this is the connection's own thread."""
        ...

    def nudge(self, do: Callable[[], object], *, patient: bool = False) -> bool:
        """Have that thread call a function soon; False: it will not."""
        ...

    def attend(self, over: Callable[[], object], timeout: float | None) -> None:
        """Read in the place of the thread, if that can be."""
        ...

    def ring(self) -> None:
        """Have who attends look up."""
        ...

    def recall(self) -> None:
        """Have the thread read."""
        ...


class Adapted:
    """One connection over a transport that keeps the contract, and nothing more.

    Nobody reads in its thread's place, and who submits sends.
    """

    answer: Mapping[str, str] = _NO_HEADERS

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.own = bool(getattr(transport, "own", False))
        self.binary = bool(getattr(transport, "binary", False))
        self._here: int | None = None  # the thread that is inside of on_frame or on_lost
        self._last: threading.Thread | None = None
        self._over = threading.Event()

    def open(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        """Connect."""

        def take(frame: bytes) -> None:
            self._here = threading.get_ident()
            try:
                on_frame(frame)
            finally:
                self._here = None

        def end(why: Exception) -> None:
            self._here = threading.get_ident()
            try:
                on_lost(why)
            finally:
                self._last = threading.current_thread()
                self._over.set()

        self._transport.open(take, end)

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        self._transport.send(frame)

    def close(self) -> None:
        """End the connection."""
        self._transport.close()

    def join(self) -> None:
        """Block until `on_lost` has returned, and its thread has ended: it has no other work."""
        self._over.wait()
        if (last := self._last) is not None:
            last.join()

    def reads_here(self) -> bool:
        """Say whether this is the thread that is inside of `on_frame` or `on_lost`."""
        return self._here == threading.get_ident()

    def nudge(self, do: Callable[[], object], *, patient: bool = False) -> bool:
        """Return False: the contract has no such thing."""
        return False

    def attend(self, over: Callable[[], object], timeout: float | None) -> None:
        """Return at once: only its thread reads."""

    def ring(self) -> None:
        """Do nothing: nobody attends."""

    def recall(self) -> None:
        """Do nothing: its thread reads."""
