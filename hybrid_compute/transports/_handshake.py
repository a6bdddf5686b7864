"""Handshake: how a connection becomes a WebSocket, by way of websocket-client.

Owns what is offered, and what is made of the answer. No threads; blocks for as long as the budget
of the socket lets it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import HybridComputeError, ProtocolError, RemoteUnavailable
from hybrid_compute.protocol import BINARY_SUBPROTOCOL, JSON_SUBPROTOCOL
from hybrid_compute.protocol.codec import has_msgspec
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.transports._access import refusal_of
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports._timed import TimedSocket

if TYPE_CHECKING:
    from hybrid_compute.transports._access import Access

__all__ = ["shake_hands"]


def shake_hands(
    access: Access, sock: TimedSocket, headers: dict[str, str], round_trips: RoundTrips
) -> tuple[bool, bool, Mapping[str, str]]:
    """Ask for a WebSocket over a connection that stands.

    Args:
        access: the service.
        sock: the connection.
        headers: to be sent with the request; more are added.
        round_trips: is told how long the answer took.

    Returns:
        Whether the service is one of ours, whether it takes the binary sub-protocol, and the
        headers of its answer, by names in lower case.

    Raises:
        RemoteUnavailable: it was cut off.
        AuthError, ProtocolError, RemoteBusy: the service refuses, or is none.
    """
    import websocket  # noqa: PLC0415 - only who connects needs it

    offers = [BINARY_SUBPROTOCOL] if has_msgspec() else []
    offers.append(JSON_SUBPROTOCOL)
    # Not as `subprotocols`: then a server that knows none of them would be refused.
    headers["Sec-WebSocket-Protocol"] = ", ".join(offers)
    path = (access.path or "/") + (f"?{access.query}" if access.query else "")
    client: Any = websocket.WebSocket()
    began = time.monotonic()
    try:
        # By nobody's name: the library keeps the cookies that any service sets for a name.
        client.connect(
            f"{access.scheme}://{os.urandom(16).hex()}{path}",
            host=access.netloc,
            socket=sock,
            header=[f"{name}: {value}" for name, value in headers.items()],
            suppress_origin=True,
            redirect_limit=0,
        )
    except websocket.WebSocketBadStatusException as error:
        raise refusal_of(access, error.status_code, error.resp_headers or {}) from error
    except HybridComputeError:
        raise
    except (websocket.WebSocketException, OSError, ValueError) as error:
        status = getattr(getattr(client, "handshake_response", None), "status", None)
        if status is not None and 300 <= status < 400:
            raise ProtocolError(
                f"{access} redirects (status {status}), and redirects are not followed: they "
                "would take the token elsewhere; give the final URL",
                status=status,
            ) from error
        gone = (OSError, websocket.WebSocketConnectionClosedException)
        if isinstance(error, (*gone, websocket.WebSocketTimeoutException)):
            why = str(error) or type(error).__name__
            raise RemoteUnavailable(
                f"no connection to {access}: the handshake was cut off ({why}); no call was sent"
            ) from error
        raise ProtocolError(f"{access} does not speak WebSocket: {error}") from error
    round_trips.add(time.monotonic() - began)
    client.sock = None  # it is ours from now on
    answer: Mapping[str, str] = client.handshake_response.headers
    chosen = (answer.get("sec-websocket-protocol") or "").strip()
    if chosen and chosen not in offers:
        raise ProtocolError(f"{access} chose a sub-protocol that was not offered: {chosen!r}")
    if answer.get("sec-websocket-extensions"):
        raise ProtocolError(f"{access} uses a WebSocket extension that was not offered")
    # Some servers choose any name that is offered: only the header proves that it is ours.
    own = HEADER.lower() in answer
    return own, own and chosen == BINARY_SUBPROTOCOL, answer
