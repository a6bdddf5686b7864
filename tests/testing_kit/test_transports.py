"""`check_transport`: transports that keep the contract pass, and each rule finds who breaks it."""

from __future__ import annotations

import contextlib
import queue
import struct
import threading

import pytest

from hybrid_compute.errors import RemoteConnectionLost
from hybrid_compute.testing import ContractBroken, check_transport, transport_checks
from hybrid_compute.transports._access import Access
from hybrid_compute.transports.websocket import WebSocketTransport
from tests.remote.servers import Peer, serving
from tests.testing_kit.plain import Plain, PlainLink

CHECKS = {check.name: check for check in transport_checks()}


class WebSocketLink:
    """Our own transport, and a server's end over a plain socket."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.frames = queue.SimpleQueue()
        self.accepted = queue.SimpleQueue()
        self.peer = None
        self.reading = threading.Event()
        self.ended = False
        port = self.stack.enter_context(serving(self.handle))
        self.transport = WebSocketTransport(Access(f"ws://127.0.0.1:{port}/ws"))

    def handle(self, peer: Peer):
        peer.shake_hands()
        self.accepted.put(peer)
        self.reading.wait()  # nothing is read before somebody asks
        while not self.ended and (got := peer.message()) is not None:
            self.frames.put(got)

    def receive(self, timeout):
        self.reading.set()
        try:
            return self.frames.get(timeout=timeout)
        except queue.Empty:
            return None

    def send(self, frame):
        self.peer = self.peer or self.accepted.get(timeout=30)
        self.peer.write(frame)

    def vanish(self):
        self.ended = True
        self.reading.set()
        self.stack.close()

    close = vanish


@pytest.mark.parametrize("make", [WebSocketLink, PlainLink])
def test_a_transport_keeps_the_contract(make):
    check_transport(make, timeout=60)


class Halves(Plain):
    def send(self, frame):
        super().send(frame[: len(frame) // 2])
        super().send(frame[len(frame) // 2 :])


class GivesPieces(Plain):
    def open(self, on_frame, on_lost):
        super().open(lambda frame: [on_frame(frame[:1]), on_frame(frame[1:])], on_lost)


class OwnThreadOnly(Plain):
    def send(self, frame):
        mine = threading.current_thread()  # not its number, which another one gets later
        if self.__dict__.setdefault("first", mine) is mine:
            super().send(frame)


class Blocks(Plain):
    def send(self, frame):
        if not self.out.empty():
            return
        with contextlib.suppress(OSError):
            self.sock.sendall(struct.pack("!I", len(frame)) + frame)


class Parallel(Plain):
    def open(self, on_frame, on_lost):
        threads = []

        def spread(frame):
            threads.append(threading.Thread(target=on_frame, args=(frame,)))
            threads[-1].start()

        def lost(why):
            for each in threads:
                each.join()
            on_lost(why)

        super().open(spread, lost)


class TellsInClose(Plain):
    def open(self, on_frame, on_lost):
        self.on_lost = on_lost
        super().open(on_frame, lambda why: None)

    def close(self):
        if self.sock is not None and threading.current_thread() not in (self.reader, self.writer):
            on_lost, self.on_lost = self.on_lost, lambda why: None
            on_lost(RemoteConnectionLost("closed", may_have_run=True))
        super().close()


class Locks(Plain):
    def __init__(self, port):
        super().__init__(port)
        self.lock = threading.RLock()

    def open(self, on_frame, on_lost):
        def locked(frame):
            with self.lock:
                on_frame(frame)

        super().open(locked, on_lost)

    def send(self, frame):
        with self.lock:
            super().send(frame)


class TellsTwice(Plain):
    def open(self, on_frame, on_lost):
        super().open(on_frame, lambda why: [on_lost(why), on_lost(why)])


class ClosesQuietly(Plain):
    closed = False

    def open(self, on_frame, on_lost):
        super().open(on_frame, lambda why: None if self.closed else on_lost(why))

    def close(self):
        self.closed = self.closed or threading.current_thread() is not self.writer
        super().close()


class JoinsInClose(Plain):
    def __init__(self, port):
        super().__init__(port)
        self.waited = threading.Event()

    def close(self):
        if self.sock is not None and threading.current_thread() is self.reader:
            self.waited.wait(1)  # for the reader, which is this very thread
            self.waited.set()
        super().close()


class RaisesLate(Plain):
    lost = False

    def open(self, on_frame, on_lost):
        def told(why):
            self.lost = True
            on_lost(why)

        super().open(on_frame, told)

    def send(self, frame):
        if self.lost:
            raise OSError("too late")
        super().send(frame)


class OpensAlways(Plain):
    def open(self, on_frame, on_lost):
        with contextlib.suppress(OSError):
            super().open(on_frame, on_lost)


class Lingers(Plain):
    over = threading.Event()

    def open(self, on_frame, on_lost):
        super().open(on_frame, on_lost)
        threading.Thread(target=self.over.wait, name="lingers").start()


BROKEN = {
    "sends_whole_frames_in_order": Halves,
    "receives_whole_frames_in_order": GivesPieces,
    "takes_frames_of_many_threads": OwnThreadOnly,
    "does_not_wait_for_the_peer": Blocks,
    "calls_one_at_a_time": Parallel,
    "calls_on_its_own_thread": TellsInClose,
    "calls_holding_no_lock": Locks,
    "tells_once_that_it_is_lost": TellsTwice,
    "tells_once_that_it_was_closed": ClosesQuietly,
    "can_be_closed_inside_on_frame": JoinsInClose,
    "drops_what_comes_too_late": RaisesLate,
    "says_that_nobody_is_there": OpensAlways,
    "leaves_no_thread": Lingers,
}


def test_each_rule_has_somebody_who_breaks_it():
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_a_rule_is_told_which(name):
    Lingers.over.clear()
    with pytest.raises(ContractBroken) as info:
        CHECKS[name](lambda: PlainLink(BROKEN[name]), timeout=0.5)
    Lingers.over.set()
    broken = info.value
    assert (broken.check, broken.rule) == (name, CHECKS[name].rule)
    assert str(broken).startswith(f"{BROKEN[name].__name__} breaks the rule")
