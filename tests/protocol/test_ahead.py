"""Calls that are sent before the server has a place for them."""

from __future__ import annotations

import pytest

from hybrid_compute.protocol import ClientSession, ServerSession
from hybrid_compute.protocol.ahead import FRAME_BYTES, SMALL_BYTES, Kept, Reach
from hybrid_compute.protocol.messages import Hello, Request
from hybrid_compute.protocol.outcomes import Errored
from hybrid_compute.protocol.signing import SIGNED_TASK


def make(in_flight=4, ahead=12, **options):
    """Return two sessions that have met."""
    client = ClientSession(own=True, **options)
    server = ServerSession(own=True, in_flight=in_flight, ahead=ahead, **options)
    exchange(client, server)
    return client, server


def exchange(client, server, *, answering=False):
    """Move frames until none is left; return the events of the client and the calls begun."""
    events, begun = [], []
    while True:
        frames = client.frames_to_send()
        for frame in frames:
            calls = [each for each in server.receive(frame) if type(each) is Request]
            while calls:
                begun += calls
                if answering:
                    server.results([(each.id, each.id) for each in calls])
                calls = server.next_calls()
        back = server.frames_to_send()
        events += [event for frame in back for event in client.receive(frame)]
        if not frames and not back:
            return events, begun


def quicken(client, server, calls=16):
    """Have a server answer calls as soon as it reads them."""
    for _ in range(calls):
        client.call("f")
    exchange(client, server, answering=True)
    assert len(client) == 0


def at_server(client, server, calls, *args, **options):
    """Make calls that do not end; return how many have got to the server."""
    for _ in range(calls):
        client.call("f", args, **options)
    exchange(client, server)
    return len(server)


def test_no_call_goes_ahead_to_a_server_that_is_not_known_to_be_quick():
    client, server = make()
    assert at_server(client, server, 30) == 4


def test_calls_go_ahead_to_a_server_that_answers_at_once_and_run_in_their_order():
    client, server = make()
    quicken(client, server)
    first = client.next_id
    assert client.room() == 16
    for _ in range(30):
        client.call("f")
    _, begun = exchange(client, server)
    assert len(server) > 4
    while begun[-1].id < first + 29:
        server.results([(each, 0) for each in list(server._running)])
        begun += server.next_calls()
        begun += exchange(client, server)[1]
    assert [each.id for each in begun] == list(range(first, first + 30))


def test_no_more_go_ahead_than_the_server_said():
    client, server = make(in_flight=4, ahead=3)
    quicken(client, server)
    events = []
    for _ in range(40):
        client.call("f")
        events += exchange(client, server)[0]
    assert len(server) <= 7
    assert not events


def test_a_server_that_becomes_slow_gets_no_more_ahead():
    client, server = make(in_flight=8, ahead=24)
    quicken(client, server, 64)
    assert client.room() > 8
    there = at_server(client, server, 64)
    assert there > 8
    while len(server) > 8:  # it has not answered all by far when it told that the frames had come
        server.results([(each, 0) for each in list(server._running)])
        server.next_calls()
        exchange(client, server)
    for _ in range(3):
        server.results([(next(iter(server._running)), 0)])
        server.next_calls()
        exchange(client, server)
        assert len(server) == 8


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("x" * SMALL_BYTES, {}),
        ("x", {"timeout": 5.0}),
        ("x", {"stream": (1, 100)}),
        ("x", {"key": "k"}),
    ],
)
def test_a_call_that_is_large_or_has_more_than_arguments_stays(argument, options):
    client, server = make()
    quicken(client, server)
    assert at_server(client, server, 30, argument, **options) == 4
    assert at_server(client, server, 1) == 4  # nor do others overtake it
    client.lost("over")


def test_a_signed_call_stays_since_its_signature_ages():
    client, server = make()
    quicken(client, server)
    for _ in range(30):
        client.call(SIGNED_TASK, ("x",))
    exchange(client, server)
    assert len(server) == 4
    assert not client.has_place()
    assert not Kept(1).keep(Request(1, SIGNED_TASK, (), {}), 10)


def test_calls_before_one_that_stays_and_was_taken_back_may_stay_as_well():
    client, server = make()
    quicken(client, server)
    ids = [client.call("f", timeout=5.0) for _ in range(30)]
    client.call("f")
    assert client.cancel(ids[-1])
    events, _ = exchange(client, server)
    assert len(server) == 4
    assert not events


def test_large_ones_among_calls_that_are_queued_together_stay_too():
    client, server = make()
    quicken(client, server)
    client.call_all([("f", ("x" * SMALL_BYTES,), None)] * 30)
    exchange(client, server)
    assert len(server) == 4


@pytest.mark.parametrize("size", [1, 5, 478, 479, 482, 483, 517, 800, 944])
@pytest.mark.parametrize("msgspec", [False, True])
def test_a_frame_that_goes_ahead_is_small(size, msgspec):
    client, server = make(in_flight=400, ahead=1200, msgspec=msgspec)
    quicken(client, server, 1600)
    assert client.room() > 400
    for _ in range(1600):
        client.call("f", ("x" * size,))
    frames = client.frames_to_send()
    assert frames
    assert max(map(len, frames)) <= FRAME_BYTES


def test_a_client_that_goes_beyond_all_bounds_is_declined():
    _, server = make(in_flight=1, ahead=2)
    codec = server._own
    server.receive(codec.record({"hello": Hello()._asdict()}))

    def ask(*messages, pad=""):
        raw = codec.array(
            [codec.record({"id": i, "task": "f", "args": [pad], **more}) for i, more in messages]
        )
        server.receive(raw)
        answers = [codec.decode(frame) for frame in server.frames_to_send()]
        flat = [x for a in answers for x in (a if type(a) is list else [a]) if "error" in x]
        server._outbox.acked(10**6)
        return {answer.get("id"): answer["status"] for answer in flat}

    assert ask((1, {}), (2, {"timeout": 5}), (3, {"key": "k"}), (4, {"credit": [1, 1]})) == {
        2: 429,
        3: 429,
        4: 429,
    }
    assert ask((5, {}), (6, {}), pad="x" * FRAME_BYTES) == {5: 429, 6: 429}
    assert ask((7, {}), (8, {}), (9, {})) == {9: 429}
    assert ask((7, {}), (1, {})) == {None: 400}  # their ids are in use
    server.draining = True
    assert ask((10, {})) == {10: 503}
    server.result(1, 0)
    assert [each.id for each in server.next_calls()] == [7]


def test_a_call_that_waits_at_the_server_can_be_taken_back():
    client, server = make(in_flight=1, ahead=3)
    quicken(client, server)
    first = client.next_id
    assert at_server(client, server, 4) > 1
    assert not client.cancel(first + 1)
    exchange(client, server)
    server.result(first, 0)
    assert [each.id for each in server.next_calls()] == [first + 2]


def test_nothing_that_waited_begins_once_the_connection_is_lost():
    client, server = make(in_flight=1, ahead=3)
    quicken(client, server)
    assert at_server(client, server, 4) > 1
    assert len(server.lost()) == 1
    assert not server.next_calls()
    assert len(server) == 0
    assert all(each.may_have_run for each in client.lost("cut")[:2])


def test_a_server_of_before_keeps_none():
    client = ClientSession(own=True)
    hello = Hello()._asdict()
    del hello["ahead"]
    client.receive(client._own.record({"hello": hello}))
    assert client.peer == Hello(ahead=0)
    assert client.room() == 64


def test_a_client_that_has_not_said_hello_has_nothing_kept():
    server = ServerSession(in_flight=1, ahead=5)
    client = ClientSession()
    for _ in range(3):
        client.call("f")
    events, _ = exchange(client, server)
    assert [each.id for each in events if type(each) is Errored] == [2, 3]
    assert len(server) == 1


def test_the_reach_grows_with_what_comes_back_and_falls_with_what_does_not():
    reach = Reach(64, 192)
    for calls, owed, expected in [
        (1, 0, 64),
        (16, 0, 64),
        (32, 0, 128),
        (64, 32, 256),
        (128, 0, 256),
        (1, 0, 256),
        (128, 65, 64),
        (40, 0, 160),
    ]:
        reach.acked(calls, owed)
        assert reach.calls == expected


def test_who_is_kept_goes_first_in_first_out():
    kept = Kept(3)
    for identity in (5, "a", 1):
        assert kept.keep(Request(identity, "f", (), {}), 10)
    assert not kept.keep(Request(9, "f", (), {}), 10)
    assert kept.drop("a")
    assert not kept.drop("a")
    assert 1 in kept
    assert [each.id for each in kept.take(0)] == []
    assert [each.id for each in kept.take(5)] == [5, 1]
    assert len(kept) == 0
