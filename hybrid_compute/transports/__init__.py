"""Transports: what moves frames between two ends. They know nothing of tasks.

Owns the contract. `websocket` moves many frames both ways over one connection; `http`, where an
answer belongs to its question, has an `exchange` instead. `_access` has what both need to reach a
service: its address, TLS, token, headers and limits.

Imports neither requests nor websocket-client nor ssl: they are loaded when a connection is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

__all__ = ["OnFrame", "OnLost", "Transport"]

OnFrame: TypeAlias = Callable[[bytes], None]
OnLost: TypeAlias = Callable[[Exception], None]


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
        """Connect. Blocks, for a bounded time.

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
