"""DatagramTransport: frames for a `RemoteExecutor`, over UDP and a `Channel`.

    send -> channel -> bad network -> socket
    the net's thread: socket -> channel -> whole frames -> _told
    the teller's thread: _told -> on_frame ... on_lost

Two threads, from `open` to `on_lost`: one that never waits for the user's code, so that the other
end hears from us whatever a callback does; and one that calls `on_frame`. `_lock` guards the
channel and the bad network; the socket does not block. Why nothing can hang: the net's thread
sleeps at most until the channel is due, which it is at the latest when the other end was silent for
too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    HybridComputeError,
    ProtocolError,
    RemoteConnectionLost,
    RemoteUnavailable,
)
from hybrid_compute.transports import Address
from hybrid_datagrams.badness import BadNetwork
from hybrid_datagrams.channel import Channel, Kind, head_of, pack

__all__ = ["DatagramTransport"]

_PATIENCE = 8.0  # seconds of silence after which the other end is gone
_MOST_WAITING = 4 * 2**20  # bytes of frames that nobody has taken, before no more are let in
_KNOCK = 0.1  # seconds between two knocks at the door
_BIGGEST = 65536


class DatagramTransport:
    """One connection; see `hybrid_compute.transports.Transport` for the contract.

    Its URL is `datagram://host:port`, with `loss`, `reorder`, `double` and `seed` of a `BadNetwork`
    as its query, if there is to be one.
    """

    own = True  # only our own server speaks this
    encrypted = False

    def __init__(self, address: Address) -> None:
        parts = urlsplit(address.url)
        if not parts.port:
            raise ConfigurationError(f"{parts.scheme}://{parts.hostname} has no port: give one")
        self._to = (parts.hostname, parts.port)
        self._name = f"{parts.scheme}://{parts.hostname}:{parts.port}"
        said = dict(parse_qsl(parts.query))
        try:
            self.network = BadNetwork(
                **{key: (int if key == "seed" else float)(each) for key, each in said.items()}
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self._name}: the query of its URL: {error}") from error
        self._address = address
        self._number = int.from_bytes(os.urandom(8), "big")
        self._lock = threading.RLock()  # see above; re-entrant: a finalizer may close
        self._told: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._waiting = 0  # bytes in it
        self._channel: Channel | None = None
        self._why: Exception | None = None

    # -- opening -----------------------------------------------------------------------------

    def open(self, on_frame: Callable[[bytes], None], on_lost: Callable[[Exception], None]) -> None:
        """Knock until the other end answers, and start the threads."""
        hello = json.dumps(dict(self._address.headers())).encode()
        until = time.monotonic() + self._address.connect_timeout
        try:
            found = socket.getaddrinfo(*self._to, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise RemoteUnavailable(f"{self._name}: {error}; nothing was sent") from error
        sock = socket.socket(found[0][0], socket.SOCK_DGRAM)
        try:
            sock.connect(found[0][4])
            early = self._knock(sock, pack(Kind.HELLO, self._number, hello), until)
            sock.setblocking(False)
            self._sock = sock
            self._bell = socket.socketpair()
        except BaseException:
            sock.close()
            raise
        for each in self._bell:
            each.setblocking(False)
        self._channel = Channel(
            self._number,
            time.monotonic(),
            max_bytes=self._address.max_bytes,
            patience=_PATIENCE,
        )
        threads = [
            threading.Thread(target=self._run, args=(early,), name=f"{self._name} net"),
            threading.Thread(target=self._tell, args=(on_frame, on_lost), name=self._name),
        ]
        for each in threads:
            each.daemon = True
            each.start()

    def _knock(self, sock: socket.socket, hello: bytes, until: float) -> list[bytes]:
        """Say hello until there is an answer; return what has come before it."""
        early = []
        pause = 0.0
        while (left := until - time.monotonic()) > 0:
            try:
                if pause <= 0:
                    self._out(sock, [hello])
                    pause = _KNOCK
                began = time.monotonic()
                sock.settimeout(min(pause, left))
                datagram = sock.recv(_BIGGEST)
                pause -= time.monotonic() - began
            except TimeoutError:
                pause = 0.0
                continue
            except OSError as error:  # the kernel there says that nobody has that port
                raise RemoteUnavailable(
                    f"{self._name} does not answer ({error}); nothing was sent"
                ) from error
            head = head_of(datagram)
            if head is None or head[1] != self._number:
                continue
            if head[0] == Kind.WELCOME:
                return early
            if head[0] == Kind.REFUSED:
                raise AuthError(f"{self._name} refused: {head[2].decode(errors='replace')[:200]}")
            early.append(datagram)  # it overtook the welcome
        raise RemoteUnavailable(f"{self._name} does not answer; nothing was sent")

    # -- writing -----------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a frame, or keep it until there is room on the way."""
        with self._lock:
            if self._why is not None or self._channel is None:
                return
            self._channel.send(frame)
            self._flush(self._channel)
        self._ring()

    def _flush(self, channel: Channel) -> None:
        """Send what is to be sent now. With the lock held."""
        self._out(self._sock, channel.datagrams(time.monotonic()))

    def _out(self, sock: socket.socket, datagrams: list[bytes]) -> None:
        for each in datagrams:
            for datagram in self.network.pass_on(each):
                # No room in the kernel counts as lost on the way.
                with contextlib.suppress(BlockingIOError):
                    try:
                        sock.send(datagram)
                    except ConnectionRefusedError as error:
                        if self._channel is None:
                            raise
                        self._end(self._lost(str(error)))

    def close(self) -> None:
        """Say good-bye, three times for one might be lost, and end."""
        with self._lock:
            if self._channel is None:
                return
            if self._why is None:
                with contextlib.suppress(OSError):
                    self._out(self._sock, [pack(Kind.BYE, self._number)] * 3)
                self._end(RemoteConnectionLost("the connection was closed here", may_have_run=True))
        self._ring()

    def _end(self, why: Exception) -> None:
        """Note why it ends; the first reason counts. With the lock held."""
        self._why = self._why or why

    def _lost(self, why: str) -> HybridComputeError:
        return RemoteConnectionLost(
            f"the connection to {self._name} was lost: {why}", may_have_run=True
        )

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full, so it will look up; or gone
            self._bell[1].send(b"x")

    # -- reading -----------------------------------------------------------------------------

    def _run(self, early: list[bytes]) -> None:
        channel = self._channel
        assert channel is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._bell[0], select.POLLIN)
        try:
            for each in early:
                self._take(channel, each)
            while True:
                with self._lock:
                    self._flush(channel)
                    if channel.failure:
                        self._end(self._failed(channel.failure))
                    if self._why is not None:
                        break
                    pause = channel.due() - time.monotonic()
                poll.poll(1000 * max(0.0, pause))
                with contextlib.suppress(OSError):
                    self._bell[0].recv(4096)
                self._read(channel)
        except Exception as error:
            with self._lock:
                self._end(self._lost(repr(error)))
        finally:
            with self._lock:
                self._sock.close()
            for each in self._bell:
                each.close()
            assert self._why is not None
            self._told.put(self._why)

    def _failed(self, failure: str) -> HybridComputeError:
        silent = failure.startswith("nothing")
        return self._lost(failure) if silent else ProtocolError(f"{self._name}: {failure}")

    def _read(self, channel: Channel) -> None:
        try:
            for _ in range(64):  # then it is time to say what has come
                self._take(channel, self._sock.recv(_BIGGEST))
        except BlockingIOError:
            pass
        except OSError as error:  # the other end's kernel: there is nobody any more
            with self._lock:
                self._end(self._lost(str(error)))

    def _take(self, channel: Channel, datagram: bytes) -> None:
        head = head_of(datagram)
        if head is None or head[1] != self._number:
            return
        kind, _, body = head
        with self._lock:
            if kind == Kind.BYE:
                self._end(self._lost("the other end said good-bye"))
                return
            frames = channel.receive(kind, body, time.monotonic())
            self._waiting += sum(map(len, frames))
            channel.full = self._waiting > _MOST_WAITING
        for each in frames:
            self._told.put(each)

    def _tell(
        self, on_frame: Callable[[bytes], None], on_lost: Callable[[Exception], None]
    ) -> None:
        while not isinstance(told := self._told.get(), Exception):
            on_frame(told)
            with self._lock:
                self._waiting -= len(told)
                again = self._channel is not None and self._channel.full
                if again and self._waiting <= _MOST_WAITING // 2:
                    self._channel.take_more()
                else:
                    again = False
            if again:
                self._ring()
        on_lost(told)
