"""Many clients of one server at once, from one process, and what that does to the server.

The clients are an asyncio protocol over plain sockets, which knows just enough of WebSocket: one
text frame a call, none of our sub-protocols. Frames have a mask of zeros, which RFC 6455 allows and
which leaves their payload as it is, so that this side costs as little as Python can.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
from pathlib import Path
from time import perf_counter
from typing import cast

from benchmarks._remote_servers import OURS, cpu_seconds, served

__all__ = ["load"]

CLIENTS = 200
MIB = 2**20
_SETTLE = 1.0  # seconds for the server to see that its clients have gone


class _Client(asyncio.Protocol):
    """One connection: a call after another."""

    def __init__(self, port: int, calls: int, took: list[float]) -> None:
        self._port = port
        self._calls = calls
        self._took = took
        self._number = 0
        self._buffer = b""
        self._begun = 0.0
        self.errors = 0
        self.open = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            self._buffer += data
            head, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if end:
                if head.startswith(b"HTTP/1.1 101 "):
                    self.open.set_result(None)
                else:
                    self.open.set_exception(RuntimeError(head.decode()))
            else:
                self._buffer = head
            return
        data = self._buffer + data if self._buffer else data
        if len(data) < 2 or len(data) < 2 + data[1]:  # answers have less than 126 bytes
            self._buffer = data
            return
        self._buffer = b""
        end = 2 + data[1]
        if data[0] == 0x89:  # a ping: the server asks now and then whether anybody is there
            self.transport.write(b"\x8a" + bytes((0x80 | data[1],)) + b"\0\0\0\0" + data[2:end])
        else:
            self._answered(data[2:end])
        if len(data) > end:
            self.data_received(data[end:])

    def _answered(self, text: bytes) -> None:
        number = self._number
        self._took.append(perf_counter() - self._begun)
        if text != b'{"id":%d,"result":%d}' % (number, number + 1):
            self.errors += 1
        self.call()

    def connection_lost(self, exc: Exception | None) -> None:
        for each in (self.open, self.done):
            if not each.done():
                each.set_exception(exc or EOFError("the server hung up"))

    def call(self) -> None:
        """Make the next call, or end."""
        if self._number == self._calls:
            if not self.done.done():
                self.done.set_result(None)
            return
        self._number = number = self._number + 1
        text = b'{"id":%d,"task":"successor","input":%d}' % (number, number)
        self._begun = perf_counter()
        self.transport.write(b"\x81" + bytes((0x80 | len(text),)) + b"\0\0\0\0" + text)


async def _drive(port: int, calls: int) -> tuple[list[float], int, float]:
    loop = asyncio.get_running_loop()
    took: list[float] = []
    clients = []
    for _ in range(CLIENTS):
        _, client = await loop.create_connection(
            lambda: _Client(port, calls, took), "127.0.0.1", port
        )
        clients.append(client)
    await asyncio.gather(*(each.open for each in clients))
    begin = perf_counter()
    for each in clients:
        each.call()
    outcomes = await asyncio.gather(*(each.done for each in clients), return_exceptions=True)
    seconds = perf_counter() - begin
    errors = sum(each.errors for each in clients) + sum(each is not None for each in outcomes)
    for each in clients:
        each.transport.close()
    await asyncio.sleep(_SETTLE)
    return took, errors, seconds


def load(calls: int) -> dict[str, float]:
    """Let all clients make so many calls each; return how that went."""
    with served(OURS) as (port, process):
        asyncio.run(_drive(port, 1))  # what is imported and made once, is
        before, used = _memory(process, "VmRSS"), cpu_seconds()
        took, errors, seconds = asyncio.run(_drive(port, calls))
        used = cpu_seconds() - used
        peak, after = _memory(process, "VmHWM"), _memory(process, "VmRSS")
    cuts = statistics.quantiles(took, n=100, method="inclusive")
    return {
        "errors": float(errors + abs(CLIENTS * calls - len(took))),
        "us a call": seconds / len(took) * 1e6,
        "CPU of both ends, us a call": used / len(took) * 1e6,
        "p50, ms": cuts[49] * 1e3,
        "p99, ms": cuts[98] * 1e3,
        "memory before, MiB": before,
        "memory at its peak, MiB": peak,
        "memory after, MiB": after,
    }


def _memory(process: int, key: str) -> float:
    for line in Path(f"/proc/{process}/status").read_text().split("\n"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError(f"/proc/{process}/status has no {key}: memory is measured on Linux only")
