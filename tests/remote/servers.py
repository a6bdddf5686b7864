"""Small servers on loopback, good and hostile, over plain sockets. Each is a context manager."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number  # of the connection, from 1
        self.file = sock.makefile("rb")
        self.headers: dict[str, str] = {}
        self.start = ""

    # HTTP

    def request(self) -> bytes | None:
        """Read a request; return its body, or None at the end."""
        self.start = self.file.readline().decode()
        if not self.start:
            return None
        self.headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        return self.file.read(int(self.headers.get("content-length", 0)))

    def answer(
        self, body: bytes, status: int = 200, kind: str = "application/json", extra: str = ""
    ) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{extra}"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    # WebSocket

    def shake_hands(self, extra: str = "") -> None:
        self.request()
        key = self.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        self.sock.sendall(
            (
                "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
            ).encode()
        )

    def frame(self) -> tuple[int, bytes] | None:
        head = self.file.read(2)
        if len(head) < 2:
            return None
        length = head[1] & 127
        if length == 126:
            (length,) = struct.unpack("!H", self.file.read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.file.read(8))
        mask = self.file.read(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.file.read(length)))
        return head[0] & 15, data

    def message(self) -> bytes | None:
        """Return the next text or binary message; None at the end."""
        while (got := self.frame()) is not None:
            if got[0] in (1, 2):
                return got[1]
            if got[0] == 8:
                return None
        return None

    def write(self, data: bytes, opcode: int = 1, *, fin: bool = True) -> None:
        first = bytes(((0x80 if fin else 0) | opcode,))
        size = len(data)
        if size < 126:
            head = bytes((size,))
        elif size < 2**16:
            head = b"\x7e" + struct.pack("!H", size)
        else:
            head = b"\x7f" + struct.pack("!Q", size)
        self.sock.sendall(first + head + data)

    def close(self, code: int) -> None:
        self.write(struct.pack("!H", code), 8)
        while self.frame() is not None:  # till the client hangs up
            pass

    def reset(self) -> None:
        """Hang up with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def serving(handle: Callable[[Peer], None]) -> Iterator[int]:
    """Call `handle` with each connection, on a thread of its own; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    peers: list[Peer] = []

    def run(peer: Peer) -> None:
        with contextlib.suppress(OSError, ValueError):
            handle(peer)
        with contextlib.suppress(OSError):
            peer.file.close()
            peer.sock.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers.append(Peer(sock, len(peers) + 1))
                threads.append(threading.Thread(target=run, args=(peers[-1],)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
