"""Bytes to a server and from it, as only an attacker would send them."""

from __future__ import annotations

import base64
import json
import os
import select
import socket
import struct
import time
from pathlib import Path

from .conftest import SECRET

PATIENCE = 30.0  # seconds; only a server that is wrong takes that long
HEAD = f"Host: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
POST = f"POST /compute HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"


class Raw:
    """One connection. As a context manager, it is closed at the end."""

    def __init__(self, port: int, *parts: str | bytes):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.came = b""
        for each in parts:
            self.send(each)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data: str | bytes) -> bool:
        """Send all; return False if the other end would not have it."""
        try:
            self.sock.sendall(data.encode() if isinstance(data, str) else data)
        except ConnectionError:
            return False
        return True

    def rest(self) -> bytes:
        """Return all that comes until the server closes; TimeoutError if it does not."""
        try:
            while data := self.sock.recv(2**16):
                self.came += data
        except ConnectionError:
            pass
        return self.came

    def status(self) -> int:
        """Return the status of a response after which the server closes; 0 if there is none."""
        answer = self.rest()
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    def until(self, what: bytes) -> bytes:
        while what not in self.came:
            data = self.sock.recv(2**16)
            assert data, self.came
            self.came += data
        return self.came

    def drip(self, data: bytes) -> None:
        """Send `data`, again and again, byte by byte, until the server closes; read nothing else.

        What it says before it does so is in `came`.
        """
        end = time.monotonic() + PATIENCE
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        while time.monotonic() < end:
            for byte in data:
                if not self.send(bytes((byte,))):
                    return
                if poll.poll(20):
                    self.rest()
                    return
        raise AssertionError("the server took it for ever")

    def wait_until_cut(self) -> None:
        """Wait, without reading, until the server has cut the connection."""
        poll = select.poll()
        poll.register(self.sock, 0)
        assert poll.poll(PATIENCE * 1000)


class RawSocket(Raw):
    """A WebSocket, to which any frame can be sent."""

    def __init__(self, port: int, more: str = ""):
        super().__init__(port)
        self.send(shake(more))
        answer = self.until(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer
        self.came = answer.partition(b"\r\n\r\n")[2]

    def closed(self) -> int:
        """Return the code with which the server closes; its other frames are skipped."""
        data = self.rest()
        while len(data) >= 2:
            size, start = data[1] & 127, 2
            if size == 126:
                size, start = struct.unpack("!H", data[2:4])[0], 4
            elif size == 127:
                size, start = struct.unpack("!Q", data[2:10])[0], 10
            if data[0] & 15 == 8:
                return struct.unpack("!H", data[start : start + 2])[0]
            data = data[start + size :]
        return 1006


def shake(more: str = "", *, head: str = HEAD) -> str:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws HTTP/1.1\r\n{head}Connection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
    )


def frame(
    data: bytes = b"", opcode: int = 1, *, fin: bool = True, says: int | None = None
) -> bytes:
    """Return a frame, masked with zeros, which may lie about its length."""
    size = len(data) if says is None else says
    first = bytes(((0x80 if fin else 0) | opcode,))
    if size < 126:
        head = bytes((0x80 | size,))
    elif size < 2**16:
        head = b"\xfe" + struct.pack("!H", size)
    else:
        head = b"\xff" + struct.pack("!Q", size)
    return first + head + b"\0\0\0\0" + data


def post(body: str | bytes, *more: str) -> bytes:
    """Return a whole request that asks for the connection to be closed."""
    data = body.encode() if isinstance(body, str) else body
    head = POST + "".join(f"{each}\r\n" for each in (*more, "Connection: close"))
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def ask(port: int, body: object, *more: str) -> tuple[int, bytes]:
    """Call; return status and body of the answer."""
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    with Raw(port, post(data, *more)) as raw:
        status = raw.status()
        return status, raw.came.partition(b"\r\n\r\n")[2]


def rss(pid: int) -> int:
    """Return the resident bytes of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
