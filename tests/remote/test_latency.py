"""How long the way to a service is, as RemoteExecutor tells those who ask for each item."""

from __future__ import annotations

import json
import threading
import time

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, RemoteExecutor, remote_task
from hybrid_compute.errors import RemoteUnavailable
from hybrid_compute.policy import Nearest
from hybrid_compute.transports._access import Access
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports.websocket import WebSocketTransport
from tests.remote import test_http, test_websocket
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")
KINDS = {"http": test_http.plain, "ws": test_websocket.plain}


def client(scheme: str, port: int, **options) -> RemoteExecutor:
    return RemoteExecutor(f"{scheme}://127.0.0.1:{port}/x", tasks=["echo"], **options)


@pytest.mark.parametrize("scheme", KINDS)
def test_it_is_known_once_a_call_has_been_there(scheme):
    with serving(KINDS[scheme]) as port, client(scheme, port) as ex:
        assert ex.latency() is None
        began = time.monotonic()
        assert ex.submit(echo, 1).result() == 1
        assert 0 < ex.latency() <= time.monotonic() - began


@pytest.mark.parametrize("scheme", KINDS)
def test_a_service_that_is_not_there_has_none(scheme):
    with serving(KINDS[scheme]) as port:
        pass
    with client(scheme, port, reconnect_for=0.1) as ex:
        assert isinstance(ex.submit(echo, 1).exception(), RemoteUnavailable)
        assert ex.latency() is None


def test_each_pong_is_a_measurement():
    def pongs(peer: Peer) -> None:
        peer.shake_hands()
        while (got := peer.frame()) is not None:
            if got[0] == 9:
                peer.write(got[1], 10)

    class Recorder(RoundTrips):
        def __init__(self) -> None:
            super().__init__()
            self.all: list[float] = []
            self.three = threading.Event()

        def add(self, seconds: float) -> None:
            self.all.append(seconds)
            if len(self.all) == 3:
                self.three.set()

    trips, lost = Recorder(), threading.Event()
    with serving(pongs) as port:
        transport = WebSocketTransport(
            Access(f"ws://127.0.0.1:{port}/ws"), ping_interval=0.01, round_trips=trips
        )
        transport.open(lambda frame: None, lambda why: lost.set())
        assert len(trips.all) == 1  # the handshake
        assert trips.three.wait(20)
        transport.close()
        assert lost.wait(20)
    assert min(trips.all) > 0


def test_a_pong_that_was_not_asked_for_is_none():
    def pongs(peer: Peer) -> None:
        peer.shake_hands()
        peer.write(b"", 10)
        while (raw := peer.message()) is not None:
            call = json.loads(raw)
            peer.write(json.dumps({"id": call["id"], "result": 1}).encode())

    with serving(pongs) as port, client("ws", port) as ex:
        ex.submit(echo, 1).result()
        assert ex._round_trips._count == 1


def test_the_shortest_of_the_last_ones_counts():
    trips = RoundTrips(3)
    assert trips.shortest() is None
    seen = []
    for seconds in (5.0, 1.0, 4.0, 3.0, 2.0, 6.0, 7.0, 8.0):
        trips.add(seconds)
        seen.append(trips.shortest())
    assert seen == [5.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 6.0]


def test_executors_without_a_way_have_none():
    assert InlineExecutor().latency() is None


def test_nearest_learns_from_the_calls_it_routes():
    with serving(test_websocket.plain) as one, serving(test_websocket.plain) as two:
        remotes = [client("ws", port, name=name) for port, name in ((one, "one"), (two, "two"))]
        events = []
        with HybridExecutor(1, remote=remotes, policy=Nearest(), observers=[events.append]) as ex:
            for number in range(3):
                assert ex.submit(echo, number).result() == number
            assert all(each.latency() for each in remotes)
            nearest = min(remotes, key=lambda each: each.latency()).name
    ran = [each.executor for each in events if each.kind == "succeeded"]
    assert ran[:2] == ["one", "two"]
    assert ran[2] in {"one", nearest}
