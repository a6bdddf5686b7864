"""Timed sockets: one deadline for all that is read and written until it is set anew.

A socket's own time-out counts from each read, so a peer that sends a byte a second is never late.
`TimedSocket` stands in the place of a socket for HTTP libraries, which read from what `makefile`
returns, or call `recv`. Owns no thread; one thread uses it at a time.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ProtocolError, RemoteUnavailable, TLSError

if TYPE_CHECKING:
    from hybrid_compute.transports._access import Access

__all__ = ["Budget", "TimedSocket", "dial"]

_MAX_HEADERS = 64 * 1024


class Budget:
    """How long, and how much, may be read: what belongs to one exchange, not to a socket.

    Attributes:
        deadline: monotonic time; None: never.
        left: bytes that may still be read; None: any number.
        sent: whether a byte of the request may have gone out.
        sock: the connection of the moment; None: there was none yet.
        cut_off: nothing is to be read any more.
    """

    __slots__ = ("_pid", "cut_off", "deadline", "left", "sent", "sock")

    def __init__(self, deadline: float | None = None, left: int | None = None) -> None:
        self.deadline = deadline
        self.left = left
        self.sent = False
        self.sock: Any = None
        self.cut_off = False
        self._pid = os.getpid()

    def cut(self) -> None:
        """Shut the connection down under whoever uses it, now or later. From any thread."""
        self.cut_off = True
        # A forked child has copies of our sockets, and shutting one down would cut ours as well.
        if self.sock is not None and os.getpid() == self._pid:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # below TLS: at once

    def seconds(self) -> float | None:
        """Return the seconds left.

        Raises:
            TimeoutError: there are none.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left

    def take(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            ProtocolError: they are too many.
        """
        if self.left is not None:
            self.left -= count
            if self.left < 0:
                raise ProtocolError("the answer's headers have no end; this is no such service")


class TimedSocket:
    """A socket whose every read and write ends at the deadline of a budget."""

    def __init__(self, sock: Any, budget: Budget) -> None:
        self._sock = budget.sock = sock
        self._budget = budget
        if budget.cut_off:  # perhaps before there was a connection to be cut
            sock.close()
            raise ConnectionError("nobody waits for the answer any more")

    def recv(self, size: int) -> bytes:
        """Read some bytes."""
        self._sock.settimeout(self._budget.seconds())
        data: bytes = self._sock.recv(size)
        self._budget.take(len(data))
        return data

    def send(self, data: bytes) -> int:
        """Write some bytes."""
        self._budget.sent = True
        self._sock.settimeout(self._budget.seconds())
        return self._sock.send(data)  # type: ignore[no-any-return]

    def sendall(self, data: Any) -> None:
        """Write all bytes: by `send`, since an SSLSocket's own starts its time-out anew."""
        with memoryview(data).cast("B") as view:
            done = 0
            while done < len(view):
                done += self.send(view[done:])  # type: ignore[arg-type]

    def makefile(self, mode: str = "rb", buffering: int | None = None, **_: Any) -> Any:
        """Return a file to read from."""
        raw = _TimedIO(self._sock, self._budget)
        self._sock._io_refs += 1  # as socket.makefile: the descriptor lives as long as the file
        return io.BufferedReader(raw)

    def settimeout(self, timeout: float | None) -> None:
        """Do nothing: the deadline counts."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _TimedIO(socket.SocketIO):
    def __init__(self, sock: Any, budget: Budget) -> None:
        super().__init__(sock, "r")
        self._timed = sock
        self._budget = budget

    def readinto(self, b: Any) -> int | None:
        self._timed.settimeout(self._budget.seconds())
        return super().readinto(b)


def dial(access: Access, budget: Budget) -> socket.socket:
    """Return a connection to the service, by way of its proxy, encrypted if it is to be.

    The system's search for a name has a time-out of its own, which is not ours to set.

    Raises:
        RemoteUnavailable: there is none.
        TLSError: the other end did not prove who it is, or does not speak TLS.
    """
    proxy = access.proxy_now()
    try:
        if proxy is None:
            sock = _connect(access.host, access.port, budget)
        else:
            sock = _tunnel(access, proxy, budget)
    except (OSError, ProtocolError, UnicodeError) as error:
        where = "" if proxy is None else " by its proxy"
        raise RemoteUnavailable(
            f"no connection to {access}{where}: {str(error) or type(error).__name__}; "
            "nothing was sent"
        ) from error
    if not access.tls:
        return sock
    try:
        return _encrypted(sock, access, budget)
    except BaseException:
        sock.close()
        raise


def _encrypted(sock: socket.socket, access: Access, budget: Budget) -> socket.socket:
    import ssl  # noqa: PLC0415 - plain connections do without

    context = access.tls_context()
    try:
        sock.settimeout(budget.seconds())
        return context.wrap_socket(sock, server_hostname=access.host)
    except (ssl.SSLError, ssl.CertificateError) as error:
        raise TLSError(
            f"{access} did not prove who it is, or does not speak TLS: {error}; for a private "
            "authority give tls_ca="
        ) from error
    except (OSError, ValueError) as error:
        raise RemoteUnavailable(
            f"no connection to {access}: the TLS handshake was cut off: {error}; nothing was sent"
        ) from error


def _connect(host: str, port: int, budget: Budget) -> socket.socket:
    """Connect to the first address that answers; all of them share one deadline."""
    problem: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(budget.seconds())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _watch(sock)
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem or OSError(f"{host!r} has no address")


def _watch(sock: socket.socket) -> None:
    # An HTTP server may think for hours; one that is gone is noticed in about 75 seconds.
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _tunnel(access: Access, proxy: str, budget: Budget) -> socket.socket:
    """Have an HTTP proxy connect us. Nothing but the address is told to it."""
    from base64 import b64encode  # noqa: PLC0415 - few have a proxy
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415

    parts = urlsplit(proxy)
    sock = _connect(str(parts.hostname), parts.port or 80, budget)
    try:
        timed = TimedSocket(sock, Budget(budget.deadline, _MAX_HEADERS))
        host = f"[{access.host}]" if ":" in access.host else access.host
        lines = [f"CONNECT {host}:{access.port} HTTP/1.1", f"Host: {host}:{access.port}"]
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
        timed.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows is the service's
            byte = timed.recv(1)
            if not byte:
                raise OSError("the proxy hung up")
            head += byte
        status = head.split(b" ", 2)[1:2]
        if status != [b"200"]:
            raise OSError(f"the proxy answered {head.splitlines()[0][:100]!r}")
    except BaseException:
        sock.close()
        raise
    return sock
