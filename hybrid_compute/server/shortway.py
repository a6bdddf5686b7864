"""ShortWay: frames between a connection and the protocol below it, past ASGI's queues.

Owns the contract. ASGI hands a message over by way of a queue and a coroutine, and pauses reading
meanwhile: three turns of the event loop and two system calls for a frame, which cost more than all
else about it. Our own protocol for uvicorn (`guards`) offers this way too, as an extension of the
scope; where another server runs the application, there is none, and all goes by way of ASGI.

Threads: all on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["SHORT_WAY", "OnFrame", "ShortWay"]

SHORT_WAY = "hybrid_compute.short_way"  # the key in scope["extensions"]

OnFrame = Callable[[bytes | str], object]


class ShortWay(Protocol):
    """What the protocol of one WebSocket offers. Everything but data still goes by way of ASGI."""

    def listen(self, on_frame: OnFrame) -> bool:
        """Have a function called with each message that comes from now on.

        Returns:
            False: it is not, for one has come already and waits in ASGI's queue.
        """
        ...

    def can_write(self) -> bool:
        """Say whether a message could be written now: the connection is open, and takes some."""
        ...

    def write(self, frame: bytes, *, binary: bool) -> None:
        """Write a message. Only if `can_write`, and with nothing before it on ASGI's way."""
