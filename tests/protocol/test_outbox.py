"""When a frame may go though those before it have no ack: so much later, few, and small ones."""

from __future__ import annotations

import pytest

from hybrid_compute.protocol import ClientSession, ServerSession
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.outbox import MOST, PACE, WINDOW

BEGUN = 100.0  # a monotonic time, as any other


class End:
    """One end of a connection, which has something to send whenever it is asked to."""

    def __init__(self, name: str, *, in_flight: int = 10_000) -> None:
        client = ClientSession(own=True)
        server = ServerSession(own=True, in_flight=in_flight)
        for _ in range(3):
            for source, target in ((client, server), (server, client)):
                for frame in source.frames_to_send(BEGUN):
                    target.receive(frame)
        self.client, self.server, self.name = client, server, name
        self.session = client if name == "client" else server
        if name == "server":  # has calls to answer
            for value in range(in_flight):
                client.call("f", (value,))
            for now in range(200, 300):
                for frame in client.frames_to_send(float(now)):
                    server.receive(frame)
                for frame in server.frames_to_send(BEGUN):
                    client.receive(frame)
        self.answered = 0

    def put(self, value: object = 1) -> None:
        if self.name == "client":
            self.client.call("f", (value,))
        else:
            self.answered += 1
            assert self.server.result(self.answered, value)

    def send(self, now: float, value: object = 1) -> int:
        """Give it something to send; return how many frames it makes."""
        self.put(value)
        return len(self.session.frames_to_send(now))

    def fill(self, now: float = BEGUN, value: object = 1) -> None:
        """Have frames under way until what is queued has to wait."""
        while self.send(now, value):
            pass


ends = pytest.mark.parametrize("name", ["client", "server"])


@ends
def test_until_an_ack_comes_or_the_time_has_passed_all_waits(name):
    end = End(name, in_flight=100)
    end.fill()
    assert not end.send(BEGUN + 0.9 * PACE)
    assert end.session.opens_at(BEGUN + 0.9 * PACE) == BEGUN + PACE


@ends
def test_after_the_time_one_frame_with_all_that_waits_goes_and_the_next_so_much_later(name):
    end = End(name, in_flight=100)
    end.fill()
    now = BEGUN + PACE
    assert end.send(now) == 1
    assert not end.send(now)
    assert end.session.opens_at(now) == now + PACE
    assert end.send(now + PACE) == 1


@ends
def test_who_has_no_clock_waits_for_acks(name):
    end = End(name, in_flight=100)
    end.fill(0.0)
    assert not end.session.frames_to_send()


@ends
def test_an_ack_needs_no_time(name):
    end = End(name, in_flight=100)
    end.fill()
    assert end.session.opens_at(BEGUN) is not None
    end.session._outbox.acked(1000)
    assert end.session.opens_at(BEGUN) is None
    assert len(end.session.frames_to_send(BEGUN)) == 1


@ends
def test_however_late_it_is_no_more_than_so_many_frames_have_no_ack(name):
    end = End(name, in_flight=2 * MOST)
    now, sent = BEGUN, 0
    for _ in range(2 * MOST - 10):
        now += 1.0
        sent += end.send(now)
    assert MOST - WINDOW <= sent <= MOST  # hello may be one of them
    assert end.session.opens_at(now) is None  # only an ack helps


@ends
def test_large_frames_wait_for_acks_however_late_it_is(name):
    end = End(name, in_flight=100)
    large = "x" * 300_000  # more than a frame of many calls has
    end.fill(value=large)
    assert not end.session.frames_to_send(BEGUN + 1000)
    assert end.session.opens_at(BEGUN + 1000) is None
    end.session._outbox.acked(1000)
    assert end.session.frames_to_send(BEGUN + 1000)


def test_a_client_has_room_again_when_the_time_has_passed():
    end = End("client", in_flight=100)
    end.fill()
    end.session.frames_to_send(BEGUN + PACE)  # what the filling has left
    now = BEGUN + PACE
    assert end.client.room(now) == 0
    assert end.client.room(now + PACE) > 0


def test_with_nothing_that_waits_a_server_need_not_be_asked_again():
    end = End("server", in_flight=100)
    end.fill()
    assert end.server.frames_to_send(BEGUN + PACE)
    assert end.server.opens_at(BEGUN + PACE) is None


def test_calls_are_all_there_before_the_first_ack_is_back():
    end = End("client", in_flight=100)
    for value in range(20):
        now = BEGUN + value * 2 * PACE
        end.client.call("f", (value,))
        (frame,) = end.client.frames_to_send(now)
        assert [type(each) for each in end.server.receive(frame)] == [Request]
