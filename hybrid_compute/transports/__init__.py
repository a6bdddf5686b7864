"""Transports: what moves frames between two ends. They know nothing of tasks.

Owns the contract. `websocket` moves many frames both ways over one connection; `http`, where an
answer belongs to its question, has an `exchange` instead. `_access` has what both need to reach a
service: its address, TLS, token, headers and limits. Other packages add transports by the scheme of
their URLs, which `_adapted` makes into connections.

Imports neither requests nor websocket-client nor ssl: they are loaded when a connection is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

from hybrid_compute._values import Value

__all__ = ["Address", "MakeTransport", "OnFrame", "OnLost", "Transport"]

#: Called with each frame that comes, one at a time and in their order.
OnFrame: TypeAlias = Callable[[bytes], None]
#: Called once, with the reason, when no more will come.
OnLost: TypeAlias = Callable[[Exception], None]


class Address(Value):
    """Where a transport is to connect to, and what it has to keep to.

    Attributes:
        url: as it was given to `RemoteExecutor`.
        headers: returns what the peer is to be told, as in HTTP: the token is "Authorization".
            For each connection anew, since tokens change; raises AuthError if there is none.
        max_bytes: of the largest frame to take.
        connect_timeout: seconds in which `open` has to return, or to raise.
    """

    __slots__ = ("connect_timeout", "headers", "max_bytes", "url")

    url: str
    headers: Callable[[], Mapping[str, str]]
    max_bytes: int
    connect_timeout: float

    def __init__(
        self,
        *,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        max_bytes: int,
        connect_timeout: float,
    ) -> None:
        self._set(url=url, headers=headers, max_bytes=max_bytes, connect_timeout=connect_timeout)

    def __repr__(self) -> str:
        return f"Address(max_bytes={self.max_bytes}, connect_timeout={self.connect_timeout})"


@runtime_checkable
class Transport(Protocol):
    """Moves frames over one connection, once: after `on_lost` it is used up.

    `open` returns once the connection stands. From then on `on_frame` is called with each whole
    frame, one at a time and in their order, and `on_lost` just once, last, with an error that
    tells why: also after `close`. Both are called on a thread of the transport, or `on_frame` on
    one that has come to wait for it; with no lock held that others might want. They must not
    raise; from `on_lost` on no thread of it is left at work.
    """

    def open(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        """Connect, and from then on call `on_frame` and `on_lost`. Blocks, for a bounded time.

        Raises:
            RemoteUnavailable: there is no connection; nothing was sent.
            TLSError, AuthError, ProtocolError, RemoteBusy: nor will there be one, or not yet.
        """
        ...

    def send(self, frame: bytes) -> None:
        """Send a frame, in the order of the calls; any thread. Does not wait for the peer.

        A frame that is given after the connection is gone is dropped: `on_lost` tells.
        """
        ...

    def close(self) -> None:
        """End the connection. Any thread, also inside `on_frame`. Does not wait; idempotent."""
        ...


# What stands behind the scheme of a URL (entry points "hybrid_compute.transports"): makes the
# transport of one connection, which is not open yet. If it has an attribute `encrypted` that is
# true, nobody between can read, and the peer has proved who it is: only then, or on this machine,
# a token is given to it. A transport that has `own = True` knows its peer for one of ours, so that
# the extensions of the protocol are spoken from its first frame on.
MakeTransport: TypeAlias = Callable[[Address], Transport]
