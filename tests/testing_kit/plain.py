"""A transport that somebody else might write: frames with their length before them, over TCP."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading

from hybrid_compute.errors import RemoteConnectionLost, RemoteUnavailable


def read_frame(sock):
    head = sock.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("!I", head)
    data = sock.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else None


class Plain:
    """A thread that reads, and one that writes what is queued."""

    def __init__(self, port):
        self.port = port
        self.out = queue.SimpleQueue()
        self.sock = None

    def open(self, on_frame, on_lost):
        try:
            self.sock = socket.create_connection(("127.0.0.1", self.port))
        except OSError as error:
            raise RemoteUnavailable(f"no connection to port {self.port}") from error
        self.writer = threading.Thread(target=self._write)
        self.reader = threading.Thread(target=self._read, args=(on_frame, on_lost))
        self.writer.start()
        self.reader.start()

    def send(self, frame):
        self.out.put(frame)

    def close(self):
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def _write(self):
        with contextlib.suppress(OSError):
            while (frame := self.out.get()) is not None:
                self.sock.sendall(struct.pack("!I", len(frame)) + frame)
        self.close()

    def _read(self, on_frame, on_lost):
        with contextlib.suppress(OSError):
            while (frame := read_frame(self.sock)) is not None:
                on_frame(frame)
        self.out.put(None)
        self.close()
        self.writer.join()
        self.sock.close()
        on_lost(RemoteConnectionLost("the other end hung up", may_have_run=True))


class PlainLink:
    """The transport under test, and a socket that speaks the same."""

    def __init__(self, kind=Plain):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.transport = kind(self.listener.getsockname()[1])
        self.sock = None

    def peer(self):
        if self.sock is None:
            self.sock, _ = self.listener.accept()
        return self.sock

    def receive(self, timeout):
        ready, _, _ = select.select([self.peer()], [], [], timeout)
        return read_frame(self.peer()) if ready else None

    def send(self, frame):
        self.peer().sendall(struct.pack("!I", len(frame)) + frame)

    def vanish(self):
        self.listener.setblocking(False)
        with contextlib.suppress(OSError):
            self.peer()
        self.listener.close()
        if self.sock is not None:
            self.sock.close()

    close = vanish
