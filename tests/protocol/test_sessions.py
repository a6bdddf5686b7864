"""The two sessions, each by itself and against the other, without a socket."""

from __future__ import annotations

import contextlib
import json
from math import nan

import pytest

from hybrid_compute.errors import (
    PayloadTooLarge,
    ProtocolError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    ResultEncodeError,
    TaskEncodeError,
    UnknownTaskError,
)
from hybrid_compute.protocol import ClientSession, ServerSession
from hybrid_compute.protocol.messages import Hello, Request
from hybrid_compute.protocol.outbox import MAX_BATCH, WINDOW
from hybrid_compute.protocol.outcomes import (
    Answered,
    Complained,
    Ended,
    Errored,
    Greeted,
    Items,
    LostCall,
)
from hybrid_compute.protocol.server import Cancelled, Room


def sent(session):
    """Return the decoded frames that a session of JSON sends now."""
    return [json.loads(frame) for frame in session.frames_to_send()]


def dumps(*messages):
    return json.dumps(messages if len(messages) != 1 else messages[0])


def carry(source, target):
    """Move all frames one way, and return the events."""
    return [event for frame in source.frames_to_send() for event in target.receive(frame)]


def settle(client, server):
    """Move frames both ways until none is left, and return the events of both."""
    events = {client: [], server: []}
    moved = True
    while moved:
        moved = False
        for source, target in ((client, server), (server, client)):
            for frame in source.frames_to_send():
                moved = True
                events[target] += target.receive(frame)
    return events[client], events[server]


@pytest.fixture(params=["json", "stdlib", "binary"])
def pair(request):
    """A client and a server of ours that know each other."""
    client = ClientSession(
        own=True, binary=request.param == "binary", msgspec=request.param != "stdlib"
    )
    server = ServerSession(
        own=True, binary=request.param == "binary", msgspec=request.param != "stdlib"
    )
    settle(client, server)
    assert client.own_peer
    assert client.peer is not None
    assert server.peer is not None
    return client, server


# -- a client with a server that is not ours -------------------------------------------------


def test_a_plain_server_gets_a_frame_a_call_at_once():
    client = ClientSession()
    for value in range(5):
        client.call("echo", (value,))
    assert sent(client) == [{"id": n + 1, "task": "echo", "input": n} for n in range(5)]
    assert sent(client) == []


def test_answers_may_come_in_any_order_and_bring_the_context():
    client = ClientSession()
    one, two = client.call("f", (1,), context="one"), client.call("f", (2,), context="two")
    sent(client)
    assert client.receive(dumps({"id": two, "result": 20})) == [Answered(two, "two", 20)]
    assert client.receive(dumps({"id": one, "result": None})) == [Answered(one, "one", None)]
    assert len(client) == 0


@pytest.mark.parametrize(
    "message",
    [
        *({"id": "1", "result": 0}, {"id": 1.0, "result": 0}, {"id": True, "result": 0}),
        *({"id": [1], "result": 0}, {"id": None, "result": 0}, {"id": 2, "result": 0}),
        *({"id": 0, "error": "x"}, {"id": -1, "result": 0}, {}, [], 1, None, "x", {"result": 0}),
        *({"id": 99, "chunk": 0, "seq": 0}, {"id": 99}, {"id": 1, "chunk": 0, "seq": 0}),
    ],
    ids=repr,
)
def test_an_answer_to_nobody_is_counted_and_ends_no_call(message):
    client = ClientSession()
    client.call("f", (1,), context="mine")
    sent(client)
    assert client.receive(dumps(message, message)) == []
    assert client.ignored == 2
    assert client.receive(dumps({"id": 1, "result": 5})) == [Answered(1, "mine", 5)]


def test_a_second_answer_is_counted_and_changes_nothing():
    client = ClientSession()
    client.call("f", (1,))
    sent(client)
    assert len(client.receive(dumps({"id": 1, "result": 5}))) == 1
    assert client.receive(dumps({"id": 1, "result": 6})) == []
    assert client.receive(dumps({"id": 1, "error": "late"})) == []
    assert client.ignored == 2


@pytest.mark.parametrize(
    "message",
    [
        *({"id": 1}, {"id": 1, "result": 1, "error": "x"}, {"id": 1, "result": 1, "error": None}),
        *({"id": 1, "done": True, "result": 1}, {"id": 1, "chunk": 1}, {"id": 1, "status": 200}),
    ],
    ids=repr,
)
def test_half_an_answer_is_the_error_of_its_call(message):
    client = ClientSession()
    client.call("f", (1,), context="mine")
    sent(client)
    (event,) = client.receive(dumps(message))
    assert event[:2] == (1, "mine")
    assert type(event.error) is ProtocolError


@pytest.mark.parametrize("error", ["", " ", {"message": ""}])
def test_an_empty_error_is_an_error(error):
    client = ClientSession()
    client.call("f", (1,))
    (event,) = client.receive(dumps({"id": 1, "error": error}))
    assert type(event.error) is RemoteTaskError
    assert str(event.error)


def test_a_complaint_ends_no_call():
    client = ClientSession()
    client.call("f", (1,))
    assert client.receive(dumps({"id": None, "error": "what?"})) == [Complained("what?")]
    assert len(client) == 1


@pytest.mark.parametrize("frame", [b"", b"x", b"<html>", b"{", b"[NaN]", b"\xff", "\ud800"])
def test_a_frame_that_cannot_be_read_changes_nothing(frame):
    client = ClientSession()
    client.call("f", (1,))
    with pytest.raises(ProtocolError):
        client.receive(frame)
    assert len(client.receive(dumps({"id": 1, "result": 5}))) == 1


def test_a_call_that_cannot_be_written_uses_no_id():
    client = ClientSession()
    with pytest.raises(TaskEncodeError, match=r"f: \$\.input\.x: "):
        client.call("f", ({"x": b""},))
    with pytest.raises(TaskEncodeError, match="take one argument"):
        client.call("f", (1, 2))
    assert client.call("f", (1,)) == 1
    assert len(client) == 1


def test_a_call_that_is_too_large_is_not_sent():
    client = ClientSession(max_bytes=1000)
    for size in (990, 2000):
        with pytest.raises(PayloadTooLarge):
            client.call("f", ("x" * size,))
    assert sent(client) == []


def test_arguments_are_those_of_the_time_of_the_call():
    client = ClientSession()
    argument = [1]
    client.call("f", (argument,))
    argument.append(2)
    assert sent(client)[0]["input"] == [1]


def test_a_call_that_waits_is_cancelled_without_a_word():
    client = ClientSession()
    one, two = client.call("f", (1,)), client.call("f", (2,))
    assert client.cancel(one)
    assert [frame["id"] for frame in sent(client)] == [two]
    assert not client.cancel(two)
    assert not client.cancel(two)
    assert sent(client) == []  # a plain server does not know the word
    assert client.receive(dumps({"id": two, "result": 1})) == []
    assert client.ignored == 1


def test_what_is_lost_tells_which_calls_may_have_run():
    client = ClientSession(first_id=7)
    client.call("f", (1,), context="sent")
    sent(client)
    client.call("f", (2,), context="queued")
    lost = client.lost("code 1006")
    assert lost == [LostCall(7, "sent", True, 0), LostCall(8, "queued", False, 0)]
    assert [each.error("code 1006").may_have_run for each in lost] == [True, False]
    assert client.lost("again") == []
    with pytest.raises(RemoteConnectionLost, match="code 1006") as info:
        client.call("f", (3,))
    assert not info.value.may_have_run
    assert client.next_id == 9
    assert client.backlog_bytes == 0


def test_a_late_answer_to_a_former_connection_ends_no_call():
    first = ClientSession()
    first.call("f", (1,))
    first.lost("gone")
    second = ClientSession(first_id=first.next_id)
    second.call("f", (1,))
    assert second.receive(dumps({"id": 1, "result": "old"})) == []
    assert len(second) == 1


# -- a server with a client that is not ours ---------------------------------------------------


def test_calls_are_answered_in_any_order_with_the_type_of_their_ids():
    server = ServerSession()
    (one,) = server.receive('{"id":1,"task":"f","input":5}')
    (two,) = server.receive('{"id":"1","task":"g"}')
    assert one == Request(1, "f", (5,), {})
    assert two == Request("1", "g", (), {})
    assert server.result("1", "b")
    assert server.result(1, "a")
    assert sent(server) == [{"id": "1", "result": "b"}, {"id": 1, "result": "a"}]


@pytest.mark.parametrize(
    ("frame", "identity"),
    [
        *(("x", None), ("", None), ("[]", None), ("1", None), ("{}", None), ('{"id":5}', 5)),
        *((b"\xff", None), ('{"id":null,"task":"f"}', None), ('{"id":"a","task":1}', "a")),
        *(('{"id":1,"task":"f","input":NaN}', None), ("[" * 100_000, None)),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_call_is_answered_with_an_error_and_the_connection_goes_on(frame, identity):
    server = ServerSession()
    assert server.receive(frame) == []
    (answer,) = sent(server)
    assert answer["id"] == identity
    assert answer["error"]
    assert set(answer) == {"id", "error"}
    assert server.receive('{"id":1,"task":"f"}') == [Request(1, "f", (), {})]


def test_a_frame_over_the_limit_ends_the_connection():
    with pytest.raises(PayloadTooLarge):
        ServerSession(max_bytes=10).receive('{"id":1,"task":"f"}')


def test_a_call_is_answered_once():
    server = ServerSession()
    server.receive('{"id":1,"task":"f"}')
    assert server.result(1, 5)
    assert not server.result(1, 6)
    assert not server.fail(1, "x")
    assert not server.done(1)
    assert not server.item(1, 1)
    assert len(sent(server)) == 1


def test_an_id_that_is_in_use_is_refused_and_its_call_goes_on():
    server = ServerSession(in_flight=2)
    server.receive('{"id":1,"task":"f"}')
    for frame in ('{"id":1,"task":"g"}', '{"id":1,"task":5}', '{"id":1,"nonsense":5}'):
        assert server.receive(frame) == []
        assert sent(server)[0]["id"] is None
    server.receive('{"id":2,"task":"f"}')
    server.receive('{"id":1,"task":"g"}')  # full, and in use
    assert sent(server)[0]["id"] is None
    assert server.result(1, "right")
    assert sent(server) == [{"id": 1, "result": "right"}]


def test_a_result_that_cannot_be_sent_is_answered_with_why():
    server = ServerSession(max_bytes=1000)
    for identity, value in ((1, {"x": {1}}), (2, "x" * 2000), (3, "x" * 960)):
        server.receive(dumps({"id": identity, "task": "f"}))
        with pytest.raises(ResultEncodeError):
            server.result(identity, value)
        (answer,) = sent(server)
        assert answer["id"] == identity
        assert "cannot be sent" in answer["error"]
    assert len(server) == 0


def test_calls_beyond_the_limit_are_declined():
    server = ServerSession(in_flight=2)
    for identity in (1, 2, 3):
        server.receive(dumps({"id": identity, "task": "f"}))
    assert len(server) == 2
    (answer,) = sent(server)
    assert answer["id"] == 3
    server.result(1, 0)
    assert server.receive(dumps({"id": 4, "task": "f"}))


def test_a_server_that_drains_declines_new_calls_and_answers_those_it_has():
    client, server = ClientSession(own=True), ServerSession()
    client.call("f", (1,), context="old")
    settle(client, server)
    server.draining = True
    client.call("f", (2,), context="new")
    ((_, context, error),) = settle(client, server)[0]
    assert (context, type(error), error.status) == ("new", RemoteBusy, 503)
    server.result(1, "done")
    assert settle(client, server)[0] == [Answered(1, "old", "done")]


def test_a_batch_is_answered_by_an_array_once_all_is_there():
    server = ServerSession()
    events = server.receive(
        '[{"id":1,"task":"f"},5,{"id":2,"task":"g"},{"id":"x"},{"id":3,"task":"h"}]'
    )
    assert [event.id for event in events] == [1, 2, 3]
    server.result(3, "c")
    server.fail(1, "no")
    assert sent(server) == []
    server.result(2, "b")
    (answers,) = sent(server)
    assert {answer["id"]: answer.get("result") for answer in answers} == {
        None: None,
        "x": None,
        3: "c",
        1: None,
        2: "b",
    }


def test_a_batch_of_nothing_but_nonsense_is_answered_at_once():
    server = ServerSession()
    assert server.receive("[1,2]") == []
    ((one, two),) = sent(server)
    assert one["id"] is two["id"] is None


def test_a_batch_does_not_wait_for_calls_that_were_cancelled():
    server = ServerSession()
    server.receive('[{"id":1,"task":"f"},{"id":2,"task":"g"}]')
    server.result(2, "b")
    assert server.receive('{"id":1,"cancel":true}') == [Cancelled(1)]
    assert sent(server) == [[{"id": 2, "result": "b"}]]


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_a_batch_of_another_size_is_refused(count):
    server = ServerSession(in_flight=10**6)
    frame = json.dumps([{"id": n, "task": "f"} for n in range(count)])
    assert server.receive(frame) == []
    assert sent(server)[0]["id"] is None


def test_a_cancelled_call_is_not_answered():
    server = ServerSession()
    server.receive('{"id":1,"task":"f"}')
    assert server.receive('{"id":1,"cancel":true}') == [Cancelled(1)]
    assert not server.result(1, 5)
    assert server.receive('{"id":1,"cancel":true}') == []
    assert server.ignored == 1
    assert sent(server) == []


def test_a_client_that_does_not_read_is_cut_off():
    server = ServerSession(max_bytes=2000, max_backlog=10_000)
    with pytest.raises(ProtocolError, match="does not read"):
        for _ in range(1000):
            server.receive(b"x")
    assert server.backlog_bytes < 20_000


def test_a_lost_client_s_calls_are_told_and_their_results_dropped():
    server = ServerSession()
    server.receive('[{"id":1,"task":"f"},{"id":"2","task":"g"}]')
    assert server.lost() == [1, "2"]
    assert not server.result(1, 5)
    assert sent(server) == []


def test_the_error_of_a_task_that_is_not_there_is_told_by_its_status_to_ours_only(pair):
    client, server = pair
    client.call("__class__", (1,))
    settle(client, server)
    server.fail(1, "no task '__class__'", status=404)
    ((_, _, error),) = settle(client, server)[0]
    assert type(error) is UnknownTaskError


# -- ours with ours --------------------------------------------------------------------------


def test_any_call_and_value_goes_to_a_peer_of_ours(pair):
    client, server = pair
    identity = client.call("f", (1, (2, b"x")), {"k": {3}}, timeout=2.5)
    assert settle(client, server)[1] == [Request(identity, "f", (1, (2, b"x")), {"k": {3}}, 2.5)]
    server.result(identity, {1: {"$hc": 2}})
    assert settle(client, server)[0] == [Answered(identity, None, {1: {"$hc": 2}})]


def test_peers_find_each_other_by_hello():
    client, server = ClientSession(), ServerSession(own=True)
    client.call("f", ({"$hc": ["tuple", []]},))  # plain: no tag
    (frame,) = client.frames_to_send()
    assert server.receive(frame) == [Request(1, "f", ({"$hc": ["tuple", []]},), {})]
    client.call("f", ({"$hc": ["tuple", []]},))  # written while the server was anybody's
    assert isinstance(carry(server, client)[0], Greeted)
    client.call("f", ((1, 2),))
    assert carry(client, server) == [
        Request(2, "f", ({"$hc": ["tuple", []]},), {}),
        Hello(),
        Request(3, "f", ((1, 2),), {}),
    ]


def test_calls_in_the_frame_of_hello_are_answered_as_they_are_done():
    client, server = ClientSession(own=True), ServerSession()
    client.call("f", (1,))
    client.call("f", (2,))
    (frame,) = client.frames_to_send()
    assert len(server.receive(frame)) == 3
    server.result(2, "b")
    assert Answered(2, None, "b") in carry(server, client)


def test_a_second_hello_is_counted_only(pair):
    for session in pair:
        session.receive(session._own.record({"hello": Hello(1, 5, 5)._asdict()}))
        assert session.peer == Hello()
        assert session.ignored == 1


def test_small_calls_travel_together_with_two_frames_under_way():
    client, server = ClientSession(own=True), ServerSession(in_flight=1000)
    settle(client, server)
    frames = []
    for value in range(50):
        client.call("f", (value,))
        frames += client.frames_to_send()
    assert len(frames) < WINDOW + 1  # hello may be one of those under way
    there = sum(len(server.receive(frame)) for frame in frames)
    for frame in server.frames_to_send():  # nothing is answered yet: this acknowledges the frames
        client.receive(frame)
    rest = [len(server.receive(frame)) for frame in client.frames_to_send()]
    assert len(rest) <= WINDOW
    assert sum(rest) == 50 - there


def test_a_client_keeps_something_for_a_second_frame_so_that_both_sides_have_work():
    client, server = ClientSession(own=True), ServerSession(in_flight=64)
    settle(client, server)
    for value in range(32):
        client.call("f", (value,))
    sizes = [len(server.receive(frame)) for frame in client.frames_to_send()]
    assert set(sizes) == {16}  # one or two: hello may be one of those under way


def test_a_handful_of_calls_goes_in_one_frame():
    client, server = ClientSession(own=True), ServerSession(in_flight=64)
    settle(client, server)
    for value in range(8):
        client.call("f", (value,))
    (frame,) = client.frames_to_send()
    assert len(server.receive(frame)) == 8


def test_slow_calls_do_not_hold_up_the_next_ones(pair):
    client, server = pair
    for value in range(30):
        client.call("slow", (value,))
        settle(client, server)
    assert len(server) == 30


def test_a_client_does_not_send_more_calls_than_the_server_takes():
    client, server = ClientSession(own=True), ServerSession(in_flight=5)
    settle(client, server)
    for value in range(12):
        client.call("f", (value,), context=value)
    answers = []
    while len(answers) < 12:
        assert len(settle(client, server)[1]) <= 5
        for identity in list(server._running):
            server.result(identity, None)
        events = settle(client, server)[0]
        answers += [event.context for event in events if isinstance(event, Answered)]
    assert answers == list(range(12))


def test_one_call_at_a_time_costs_one_frame_each_way(pair):
    client, server = pair
    for value in range(20):
        client.call("f", (value,))
        (there,) = client.frames_to_send()
        (request,) = server.receive(there)
        server.result(request.id, value)
        (back,) = server.frames_to_send()
        assert [event.value for event in client.receive(back)] == [value]


def test_a_frame_holds_no_more_than_a_quarter_of_a_megabyte_of_many_calls(pair):
    client, server = pair
    for _ in range(40):
        client.call("f", ("x" * 50_000,))
    calls, frames = 0, 1
    while frames:
        frames = client.frames_to_send()
        assert all(len(frame) < 300_000 for frame in frames)
        calls += sum(len(server.receive(frame)) for frame in frames)
        carry(server, client)
    assert calls == 40


def test_the_largest_message_makes_a_frame_that_the_peer_takes(pair):
    client, server = pair
    largest = 16 * 2**20 - 200
    client.call("f", ("small",))
    client.call("f", ("x" * largest,))
    events = settle(client, server)[1]
    assert [len(event.args[0]) for event in events] == [5, largest]


def test_many_cancels_go_out_in_frames_that_the_peer_takes():
    client, server = ClientSession(own=True), ServerSession(in_flight=20_000)
    settle(client, server)
    ids = [client.call("f", (1,)) for _ in range(10_000)]
    settle(client, server)
    for identity in ids:
        client.cancel(identity)
    assert settle(client, server)[1] == [Cancelled(identity) for identity in ids]


def test_a_cancel_reaches_the_server(pair):
    client, server = pair
    identity = client.call("f", (1,))
    settle(client, server)
    assert not client.cancel(identity)
    assert settle(client, server)[1] == [Cancelled(identity)]


def test_an_error_brings_its_type_and_traceback(pair):
    client, server = pair
    client.call("f", (1,))
    settle(client, server)
    server.fail(1, "boom", type_name="KeyError", traceback="Traceback ...")
    ((_, _, error),) = settle(client, server)[0]
    assert type(error) is RemoteTaskError
    assert (str(error), error.type_name, error.traceback_text) == (
        "boom",
        "KeyError",
        "Traceback ...",
    )


# -- streams -----------------------------------------------------------------------------------


def begin(pair, items=4, size=1000, seq=0):
    client, server = pair
    identity = client.call("f", (1,), context="s", stream=(items, size), seq=seq)
    settle(client, server)
    assert server.wants_stream(identity)
    return identity


def test_items_that_wait_travel_together_in_their_order(pair):
    client, server = pair
    identity = begin(pair)
    assert server.item(identity, "a")
    assert settle(client, server)[0][0][:3] == (identity, "s", ["a"])
    for item in ("b", (1, 2), b"c"):
        server.item(identity, item)
    server.done(identity, "value")
    items, ended = settle(client, server)[0]
    assert items.items == ["b", (1, 2), b"c"]
    assert items.seq == 1
    assert ended == Ended(identity, "s", "value")


def test_an_error_comes_behind_the_items_before_it(pair):
    client, server = pair
    identity = begin(pair)
    server.item(identity, 1)
    server.item(identity, 2)
    server.fail(identity, "boom")
    items, errored = settle(client, server)[0]
    assert items.items == [1, 2]
    assert isinstance(errored, Errored)


def test_a_producer_stops_at_the_items_and_goes_on_with_new_credit(pair):
    client, server = pair
    identity = begin(pair, items=4)
    for item in range(4):
        assert server.room(identity) == 4 - item
        server.item(identity, item)
    with pytest.raises(RuntimeError, match="no room"):
        server.item(identity, 4)
    (event,) = settle(client, server)[0]
    client.consumed(identity, 1, 1)
    assert settle(client, server)[1] == []  # less than half of the window
    client.consumed(identity, 1, event.size - 1)
    assert settle(client, server)[1] == [Room(identity)]
    assert server.room(identity) == 2


def test_a_producer_stops_at_the_bytes_but_a_large_item_gets_through(pair):
    client, server = pair
    identity = begin(pair, items=100, size=1000)
    for _ in range(3):
        assert server.room(identity) > 0
        server.item(identity, "x" * 5000)
        assert server.room(identity) == 0
        (event,) = settle(client, server)[0]
        client.consumed(identity, 1, event.size)
        assert settle(client, server)[1] == [Room(identity)]


def test_a_cancelled_stream_tells_its_producer_to_stop(pair):
    client, server = pair
    identity = begin(pair)
    server.item(identity, 1)
    client.cancel(identity)
    assert settle(client, server) == ([], [Cancelled(identity)])
    assert server.room(identity) is None
    assert not server.item(identity, 2)


def test_a_stream_can_go_on_where_it_was_lost(pair):
    client, server = pair
    identity = begin(pair)
    server.item(identity, 1)
    server.item(identity, 2)
    settle(client, server)
    assert client.lost("gone") == [LostCall(identity, "s", True, 2)]
    again = ClientSession(own=True), ServerSession(own=True)
    settle(*again)
    identity = again[0].call("f", (1,), stream=(4, 1000), seq=2)
    (request,) = settle(*again)[1]
    assert request.seq == 2
    again[1].item(request.id, 3)
    again[1].done(request.id)
    items, ended = settle(*again)[0]
    assert (items.seq, items.items) == (2, [3])
    assert isinstance(ended, Ended)


def test_a_stream_may_be_answered_with_a_result(pair):
    client, server = pair
    identity = begin(pair)
    server.result(identity, [1, 2])
    assert settle(client, server)[0] == [Answered(identity, "s", [1, 2])]


def test_an_item_that_cannot_be_sent_ends_the_stream_with_why(pair):
    client, server = pair
    identity = begin(pair)
    server.item(identity, 1)
    with pytest.raises(ResultEncodeError, match="item 1 of the stream"):
        server.item(identity, object())
    items, errored = settle(client, server)[0]
    assert items.items == [1]
    assert "item 1 of the stream" in str(errored.error)


def stream_of_one(items=4):
    client = ClientSession(own=True, msgspec=False)
    identity = client.call("f", (1,), context="s", stream=(items, 1000))
    client.frames_to_send()
    return client, identity


def test_items_that_come_twice_are_given_once():
    client, identity = stream_of_one()
    frame = dumps({"id": identity, "chunks": [1, 2], "seq": 0})
    assert client.receive(frame) == [Items(identity, "s", [1, 2], 0, 0)]
    assert client.receive(frame) == []
    more = dumps({"id": identity, "chunks": [2, 3], "seq": 1})
    assert client.receive(more) == [Items(identity, "s", [3], 0, 2)]
    assert client.ignored == 2


@pytest.mark.parametrize(
    "message",
    [
        {"chunk": 1, "seq": 1},
        {"chunks": [1, 2, 3, 4, 5], "seq": 0},
        {"done": True, "result": None, "seq": 3},
        {"chunk": 1},
    ],
    ids=["a gap", "more than there is room for", "an end too early", "no number"],
)
def test_a_stream_that_breaks_the_rules_ends_with_an_error(message):
    client, identity = stream_of_one()
    (event,) = client.receive(dumps({"id": identity, **message}))
    assert type(event.error) is ProtocolError
    assert client.receive(dumps({"id": identity, "done": True, "result": 1, "seq": 0})) == []
    assert len(client) == 0


# -- many at once ------------------------------------------------------------------------------

UNKNOWN = object()
SMALL = [0, -5, 2**63 - 1, -(2**63), True, None, "x", "y" * 256, "\x00" * 200]
OTHER = [2**63, 2**70, "\u20ac", "y" * 257, "\ud800", 1.5, nan, [1], {"a": 1}, b"\x00", UNKNOWN]
MANY = [SMALL, *([each] for each in SMALL + OTHER), *([1, each, 2] for each in OTHER)]


def two_pairs(kind, max_bytes):
    made = []
    for _ in "12":
        own, binary = kind != "plain", kind == "binary"
        client = ClientSession(own=own, binary=binary, max_bytes=max_bytes)
        server = ServerSession(own=own, binary=binary, max_bytes=max_bytes)
        settle(client, server)
        made.append((client, server))
    return made


def told(outcomes):
    return [(type(x), str(x)) if isinstance(x, Exception) else x for x in outcomes]


@pytest.mark.parametrize("max_bytes", [400, 2**24])
@pytest.mark.parametrize("kind", ["plain", "own", "binary"])
def test_calls_that_are_given_together_go_as_those_that_are_given_one_by_one(kind, max_bytes):
    def one_by_one(session, calls):
        for task, args, context in calls:
            try:
                yield session.call(task, args, context=context)
            except Exception as error:
                yield error

    for values in MANY:
        for task in ("f", "\u00e9", "", "n" * 1001):
            calls = [(task, (value,), index) for index, value in enumerate(values)]
            calls += [("g", (), "none"), ("g", (1, 2), "two")] if value_is_last(values) else []
            (one, _), (two, _) = two_pairs(kind, max_bytes)
            assert told(one.call_all(calls)) == told(one_by_one(two, calls))
            assert len(one) == len(two)
            assert one.frames_to_send() == two.frames_to_send()
            one.lost("gone")
            two.lost("gone")
            assert told(one.call_all(calls)) == told(one_by_one(two, calls))


def value_is_last(values):
    return values == MANY[-1]


@pytest.mark.parametrize("max_bytes", [400, 2**24])
@pytest.mark.parametrize("kind", ["plain", "own", "binary"])
def test_results_that_are_given_together_go_as_those_that_are_given_one_by_one(kind, max_bytes):
    for values in MANY:
        (client, one), (another, two) = two_pairs(kind, max_bytes)
        for session in (client, another):
            session.call_all([("f", (), None) for _ in values])
        carry(client, one)
        carry(another, two)
        answers = [(index + 1, value) for index, value in enumerate(values)]
        answers.append((99, "nobody waits"))
        one.results(answers)
        for identity, value in answers:
            with contextlib.suppress(ResultEncodeError):
                two.result(identity, value)
        assert one.frames_to_send() == two.frames_to_send()
        assert len(one) == len(two) == 0


def test_results_that_are_given_together_keep_arrays_and_streams_as_they_are():
    server = ServerSession()
    server.receive(dumps([{"id": 1, "task": "f"}, {"id": 2, "task": "f"}]))
    server.receive(dumps({"id": 3, "task": "f"}))
    server.results([(1, "a"), (3, "c")])
    assert sent(server) == [{"id": 3, "result": "c"}]
    server.results([(2, "b")])
    assert sent(server) == [[{"id": 1, "result": "a"}, {"id": 2, "result": "b"}]]
