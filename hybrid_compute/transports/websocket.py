"""WebSocket: frames both ways over one connection, by way of websocket-client.

Owns the socket, the thread that listens on it, its pings, and the bytes that wait to be written.
Of websocket-client it uses the handshake. Not its loop, which takes frames of any size, joins
fragments in quadratic time, and tells nothing of why a connection ended; not its connect, which
follows redirects with the token in hand; and not its frames, whose objects take longer to make than
all else that sends a small one.

    send -> _out -> the socket, as far as it takes them; the thread writes the rest
    the thread: poll -> read -> whole messages -> on_frame ... -> on_lost, once, last

Threads and locks: one thread, from `open` to `on_lost`. `_lock` guards `_out` and the writing; for
TLS also the reading, since an SSL object is for one thread at a time. The socket does not block,
so neither does who holds the lock. The thread is woken by a socket pair.

Why nothing can hang: the thread waits in `poll` alone, at most until its next ping is due. A peer
that sends no pong in time is lost, whatever else it sends; so is one that reads nothing, for it
reads no ping.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import (
    AuthError,
    HybridComputeError,
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
    RemoteUnavailable,
)
from hybrid_compute.protocol import BINARY_SUBPROTOCOL, JSON_SUBPROTOCOL
from hybrid_compute.protocol.codec import has_msgspec
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.transports._access import refusal_of
from hybrid_compute.transports._frames import frame_of, is_sound
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports._timed import Budget, TimedSocket, dial

if TYPE_CHECKING:
    from hybrid_compute.transports import OnFrame, OnLost
    from hybrid_compute.transports._access import Access

__all__ = ["WebSocketTransport"]

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_READ = 64 * 1024
_MAX_HANDSHAKE = 128 * 1024  # bytes of headers and, of a refusal, of its page
_MAX_PONGS = 64


class WebSocketTransport:
    """One connection; see `Transport` for the contract.

    Attributes:
        own: whether the server is known as ours.
        binary: whether it takes the binary sub-protocol.
        answer: the headers of its handshake, by names in lower case.
    """

    def __init__(
        self,
        access: Access,
        *,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        round_trips: RoundTrips | None = None,
    ) -> None:
        self._access = access
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._round_trips = round_trips or RoundTrips()
        self._pinged: float | None = None  # since when a pong is due
        self.own = self.binary = False
        self.answer: Mapping[str, str] = {}
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may send
        self._out: deque[memoryview] = deque()
        self._sock: Any = None
        self._closing: Exception | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._nudged: Callable[[], object] | None = None
        self._in, self._pongs = bytearray(), 0
        self._tls = access.tls
        self.thread: threading.Thread | None = None

    # -- opening -----------------------------------------------------------------------------

    def open(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        """Connect, shake hands, and start to listen."""
        access = self._access
        headers = access.headers_now()
        budget = Budget(time.monotonic() + access.connect_timeout, _MAX_HANDSHAKE)
        sock = dial(access, budget)
        try:
            self._shake_hands(TimedSocket(sock, budget), headers)
            sock.settimeout(0)
            self._wake = socket.socketpair()
        except BaseException:
            sock.close()
            raise
        for each in self._wake:
            each.setblocking(False)
        self._sock = sock
        self.thread = threading.Thread(
            target=self._run, args=(on_frame, on_lost), name=f"websocket {access.host}", daemon=True
        )
        try:
            self.thread.start()
        except BaseException:
            for each in (sock, *self._wake):
                each.close()
            raise

    def _shake_hands(self, sock: TimedSocket, headers: dict[str, str]) -> None:
        import websocket  # noqa: PLC0415 - only who connects needs it

        access = self._access
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
                    f"no connection to {access}: the handshake was cut off ({why}); no call was "
                    "sent"
                ) from error
            raise ProtocolError(f"{access} does not speak WebSocket: {error}") from error
        self._round_trips.add(time.monotonic() - began)
        client.sock = None  # it is ours from now on
        self.answer = answer = client.handshake_response.headers
        chosen = (answer.get("sec-websocket-protocol") or "").strip()
        if chosen and chosen not in offers:
            raise ProtocolError(f"{access} chose a sub-protocol that was not offered: {chosen!r}")
        if answer.get("sec-websocket-extensions"):
            raise ProtocolError(f"{access} uses a WebSocket extension that was not offered")
        # Some servers choose any name that is offered: only the header proves that it is ours.
        self.own = HEADER.lower() in answer
        self.binary = self.own and chosen == BINARY_SUBPROTOCOL

    # -- writing -----------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a message: a binary one if the binary sub-protocol was agreed upon, else text."""
        self._write(frame, _BINARY if self.binary else _TEXT)

    def _write(self, data: bytes, opcode: int) -> None:
        message = memoryview(frame_of(data, opcode))
        with self._lock:
            if self._closing is not None:
                return
            self._out.append(message)
            if len(self._out) == 1:
                self._flush()
            left = bool(self._out)
        if left:
            self._wake_up()

    def _flush(self) -> None:
        """Write what the socket takes. With the lock held."""
        import ssl  # noqa: PLC0415 - a part of `socket`'s own errors for TLS

        try:
            while self._out:
                head = self._out[0]
                done = self._sock.send(head)
                if self._closing is not None:  # by a finalizer, just now
                    return
                if done < len(head):
                    self._out[0] = head[done:]
                else:
                    self._out.popleft()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._end(self._lost(error))

    def _end(self, why: Exception) -> None:
        with self._lock:
            if self._closing is None:
                self._closing = why
                self._out.clear()

    def nudge(self, do: Callable[[], object]) -> bool:
        """Have the thread call a function soon, once for all nudges till then.

        Returns:
            False: this is the thread, or it has ended. If it ends later, `on_lost` is yet to come.
        """
        if self._wake is None or threading.current_thread() is self.thread:
            return False
        if self._nudged is None:
            self._nudged = do
            self._wake_up()
        return True

    def _wake_up(self) -> None:
        wake = self._wake  # read once: it goes when the thread ends
        if wake is not None:
            with contextlib.suppress(OSError):  # full, so it is awake; or gone, so it need not be
                wake[1].send(b"x")

    def close(self) -> None:
        """Say good-bye, as far as the socket takes it at once, and end."""
        self._write(struct.pack("!H", 1000), _CLOSE)
        self._end(RemoteConnectionLost("the connection was closed here", may_have_run=True))
        self._wake_up()

    def _lost(self, error: BaseException) -> RemoteConnectionLost:
        return RemoteConnectionLost(
            f"the connection to {self._access} was lost: {str(error) or type(error).__name__}",
            may_have_run=True,
        )

    # -- reading -----------------------------------------------------------------------------

    def _run(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        try:
            self._listen(on_frame)
        except HybridComputeError as error:
            self._end(error)
        except Exception as error:  # whatever it is, the calls must be told
            self._end(self._lost(error))
        with self._lock:
            wake, self._wake = self._wake, None
            self._sock.close()
            self._out.clear()
        for each in wake or ():
            each.close()
        why = self._closing or self._lost(EOFError("its end"))
        on_lost(why)

    def _listen(self, on_frame: OnFrame) -> None:
        parts: list[bytes] = []  # of a message that comes in fragments
        size = 0
        self._next_ping = time.monotonic() + self._ping_interval
        while True:
            fin, opcode, data = self._frame(self._access.max_bytes - size)
            if opcode == _CLOSE:
                raise self._closed(data)
            if opcode == _PING:
                self._pongs = self._pongs + 1 if self._out else 0
                if self._pongs < _MAX_PONGS:  # to who reads none: they would pile up
                    self._write(data, _PONG)
            elif opcode == _PONG:
                if self._pinged is not None:
                    self._round_trips.add(time.monotonic() - self._pinged)
                self._pinged = None
            elif opcode in ((0,) if parts else (_TEXT, _BINARY)):
                if fin and not parts:
                    on_frame(data)
                    continue
                parts.append(data)
                size += len(data) + 64  # an empty fragment takes memory too
                if fin:
                    on_frame(b"".join(parts))
                    parts, size = [], 0
            else:
                raise ProtocolError(f"{self._access} sent a frame of opcode {opcode} out of turn")

    def _frame(self, limit: int) -> tuple[int, int, bytes]:
        first, second = self._bytes(2)
        fin, opcode, length = first & 0x80, first & 0x0F, second & 0x7F
        if first & 0x70 or second & 0x80:
            raise ProtocolError(f"{self._access} sent a frame that is masked or has reserved bits")
        if opcode >= _CLOSE and (length > 125 or not fin):
            raise ProtocolError(f"{self._access} sent a control frame that is too long")
        if length >= 126:
            (length,) = struct.unpack(
                *(("!H", self._bytes(2)) if length == 126 else ("!Q", self._bytes(8)))
            )
        if length > limit:
            self._write(struct.pack("!H", 1009), _CLOSE)
            raise PayloadTooLarge(
                f"{self._access} sends a message of more than {self._access.max_bytes} bytes; send "
                "less, or give max_bytes=",
                limit=self._access.max_bytes,
            )
        return fin, opcode, self._bytes(length)

    def _bytes(self, count: int) -> bytes:
        buffer = self._in
        while len(buffer) < count:
            self._fill()
        data = bytes(memoryview(buffer)[:count])
        del buffer[:count]
        return data

    def _fill(self) -> None:
        """Read some bytes; meanwhile write, and see to the pings."""
        import ssl  # noqa: PLC0415 - see `_flush`

        poll = select.poll()
        assert self._wake is not None  # noqa: S101 - from `open` to the end of `_run`
        poll.register(self._wake[0], select.POLLIN)
        while True:
            with self._lock:
                if self._closing is not None:
                    raise self._closing
                self._flush()
                events = select.POLLIN | (select.POLLOUT if self._out else 0)
                try:
                    data = self._sock.recv(_READ) if self._tls else None
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    data = None
            if data is None:
                poll.register(self._sock, events)
                found = dict(poll.poll(1000 * max(0.0, self._keep_alive())))
                if self._wake[0].fileno() in found:
                    with contextlib.suppress(BlockingIOError):
                        self._wake[0].recv(4096)
                    nudged, self._nudged = self._nudged, None  # before it is called
                    if nudged is not None:
                        nudged()
                if self._tls or not found.get(self._sock.fileno(), 0) & ~select.POLLOUT:
                    continue
                try:
                    data = self._sock.recv(_READ)
                except BlockingIOError:
                    continue
            else:
                self._keep_alive()
            if not data:
                raise self._lost(EOFError("the other end hung up without a word"))
            self._in += data
            return

    def _keep_alive(self) -> float:
        """Ping if it is time to; return the seconds until there is something to do again."""
        now = time.monotonic()
        if self._pinged is not None:
            if now >= self._pinged + self._ping_timeout:
                raise self._lost(
                    TimeoutError(f"no pong came within {self._ping_timeout:g} s of a ping")
                )
            return self._pinged + self._ping_timeout - now
        if now >= self._next_ping:
            self._pinged, self._next_ping = now, now + self._ping_interval
            self._write(b"", _PING)
            return self._ping_timeout
        return self._next_ping - now

    def _closed(self, data: bytes) -> HybridComputeError:
        """Return what a close frame means."""
        code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
        reason = data[2:].decode(errors="replace")
        text = f"{self._access} closed the connection with code {code} {reason!r}"
        # A code that may not be sent is not sent back: 1002 says that the frame broke the rules.
        self._write(data[:2] if is_sound(data) else struct.pack("!H", 1002), _CLOSE)
        if code == 1009:
            return PayloadTooLarge(f"{text}: a message was too large for it; send less")
        if code in (1008, 4401, 4403):
            return AuthError(f"{text}; give a valid token=")
        lost = RemoteConnectionLost(text, may_have_run=True)
        lost.code = code  # type: ignore[attr-defined]
        return lost
