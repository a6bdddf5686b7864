"""Both sessions against a network that loses, repeats and reorders, and against nonsense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hybrid_compute.errors import ProtocolError, RemoteConnectionLost
from hybrid_compute.protocol import ClientSession, ServerSession
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.outcomes import Answered, Ended, Errored, Items
from hybrid_compute.protocol.server import Cancelled

KINDS = [
    {"client": {}, "server": {}},
    {"client": {}, "server": {"own": True}},
    {"client": {"own": True}, "server": {}},
    {"client": {"binary": True}, "server": {"binary": True}},
]
VALUES = st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=3)


class Exchange(RuleBasedStateMachine):
    """Calls of one connection at a time. What each value must be follows from its call.

    In a faithful network all calls must end when all has been delivered; in a faulty one none
    may end twice or with what belongs to another.
    """

    faulty = False

    @initialize(
        kind=st.sampled_from(KINDS),
        msgspec=st.booleans(),
        limit=st.integers(1, 5),
        ahead=st.integers(0, 9),
    )
    def start(self, kind, msgspec, limit, ahead):
        if "binary" in kind["client"]:
            msgspec = True
        self.kind, self.limit, self.ahead, self.msgspec = kind, limit, ahead, msgspec
        self.calls = {}  # argument by id
        self.streams = {}  # items received by id
        self.over = set()
        self.cancelled = set()
        self.never_ran = set()
        self.next_id = 1
        self.ran = set()
        self.now = 100.0
        self.connect()

    def connect(self):
        options = {"msgspec": self.msgspec}
        self.client = ClientSession(**self.kind["client"], first_id=self.next_id, **options)
        self.server = ServerSession(
            **self.kind["server"], in_flight=self.limit, ahead=self.ahead, **options
        )
        self.network = {self.client: [], self.server: []}  # frames on their way, by sender
        self.running = {}
        self.sending = {}  # streams: number of the next item

    # -- the client's owner ------------------------------------------------------------------

    @rule(value=VALUES, stream=st.none() | st.tuples(st.integers(1, 4), st.integers(1, 30)))
    def call(self, value, stream):
        if not self.client.own_peer:
            stream = None
        identity = self.client.call(
            "f", ([self.client.next_id, value],), context=value, stream=stream
        )
        self.calls[identity] = value
        if stream is not None:
            self.streams[identity] = []
        self.pump(self.client)

    @precondition(lambda self: set(self.calls) - self.over)
    @rule(data=st.data())
    def cancel(self, data):
        identity = data.draw(st.sampled_from(sorted(set(self.calls) - self.over)))
        if self.client.cancel(identity):
            self.never_ran.add(identity)
        self.end(identity)
        self.cancelled.add(identity)
        self.pump(self.client)

    @rule()
    def lose_the_connection(self):
        for lost in self.client.lost("cut"):
            self.end(lost.id)
            if not lost.may_have_run:
                self.never_ran.add(lost.id)
        self.server.lost()
        with pytest.raises(RemoteConnectionLost):
            self.client.call("f")
        self.next_id = self.client.next_id
        self.connect()

    def end(self, identity):
        assert identity in self.calls
        assert identity not in self.over, "a call ended twice"
        self.over.add(identity)

    # -- the server's owner --------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["result", "fail", "item", "item", "done"]))
    def work(self, data, how):
        request = data.draw(st.sampled_from(list(self.running.values())))
        self.act(request, how)
        self.pump(self.server)

    def act(self, request, how):
        identity, server = request.id, self.server
        if not server.wants_stream(identity) and how in ("item", "done"):
            how = "result"
        if how == "item":
            if server.room(identity) > 0:
                number = self.sending.setdefault(identity, 0)
                assert server.item(identity, [identity, number])
                self.sending[identity] = number + 1
            return
        del self.running[identity]
        if how == "result":
            assert server.result(identity, request.args[0])
        elif how == "fail":
            assert server.fail(identity, f"failed {identity}")
        else:
            assert server.done(identity, self.sending.get(identity, 0))
        self.go_ahead()

    def go_ahead(self):
        for request in self.server.next_calls():
            self.at_server(request)

    # -- the network ---------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.001, 0.005, 1.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for session in (self.client, self.server):
            self.pump(session)

    def pump(self, session):
        self.network[session] += session.frames_to_send(self.now)

    def other(self, session):
        return self.server if session is self.client else self.client

    @precondition(lambda self: any(self.network.values()))
    @rule(data=st.data())
    def deliver(self, data):
        sender = data.draw(st.sampled_from([s for s in self.network if self.network[s]]))
        frames = self.network[sender]
        index = data.draw(st.integers(0, len(frames) - 1)) if self.faulty else 0
        self.arrive(frames.pop(index), self.other(sender))

    def arrive(self, frame, target):
        try:
            events = target.receive(frame)
        except ProtocolError:
            assert self.faulty
            return
        for event in events:
            self.at_client(event) if target is self.client else self.at_server(event)
        self.pump(target)

    def at_client(self, event):
        if isinstance(event, Items):
            got = self.streams[event.id]
            assert event.id not in self.over
            assert event.seq == len(got)
            got += event.items
            assert got == [[event.id, number] for number in range(len(got))]
            self.client.consumed(event.id, len(event.items), event.size)
        elif isinstance(event, Answered):
            self.end(event.id)
            assert event.value == [event.id, event.context]
            assert event.context == self.calls[event.id]
        elif isinstance(event, Ended):
            self.end(event.id)
            assert event.value == len(self.streams[event.id])
        elif isinstance(event, Errored):
            self.end(event.id)
            assert self.faulty or str(event.error).startswith(("failed ", "5", "4", "3", "2", "1"))

    def at_server(self, event):
        if isinstance(event, Request):
            assert event.id not in self.never_ran
            assert self.faulty or event.id not in self.ran
            assert event.args[0][0] == event.id
            self.ran.add(event.id)
            self.running[event.id] = event
            self.sending.pop(event.id, None)
            assert len(self.running) <= self.limit
        elif isinstance(event, Cancelled):
            del self.running[event.id]
            self.go_ahead()

    # -- always ----------------------------------------------------------------------------------

    @invariant()
    def the_sessions_know_what_is_pending(self):
        if hasattr(self, "client"):
            assert len(self.client) == len(set(self.calls) - self.over)
            waiting = len(self.server) - len(self.running)
            assert 0 <= waiting <= self.ahead
            assert not waiting or len(self.running) == self.limit
            assert not self.server.next_calls()

    @precondition(lambda self: not self.faulty)
    @rule()
    def all_that_can_happen_ends_all_calls(self):
        for _ in range(2000):
            if not set(self.calls) - self.over:
                break
            for session in (self.client, self.server):
                self.pump(session)
                while self.network[session]:
                    self.arrive(self.network[session].pop(0), self.other(session))
            for request in list(self.running.values()):
                streams = self.server.wants_stream(request.id)
                more = streams and self.sending.get(request.id, 0) < 8
                self.act(request, "item" if more else "done")
        assert not set(self.calls) - self.over
        assert len(self.client) == 0


class Faulty(Exchange):
    """The same with frames that get lost, come twice or overtake each other."""

    faulty = True

    @precondition(lambda self: any(self.network.values()))
    @rule(data=st.data(), twice=st.booleans())
    def lose_or_repeat(self, data, twice):
        sender = data.draw(st.sampled_from([s for s in self.network if self.network[s]]))
        frames = self.network[sender]
        index = data.draw(st.integers(0, len(frames) - 1))
        if twice:
            frames.append(frames[index])
        else:
            frames.pop(index)


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=80, stateful_step_count=40)
TestFaulty = Faulty.TestCase
TestFaulty.settings = settings(max_examples=80, stateful_step_count=40)


def sessions():
    for own in (False, True):
        client = ClientSession(own=own, msgspec=False)
        server = ServerSession(own=own, msgspec=False, in_flight=4)
        if own:
            for frame in client.frames_to_send():
                server.receive(frame)
            for frame in server.frames_to_send():
                client.receive(frame)
        yield client, server


WORDS = "id task input args kwargs result error chunk chunks done seq size credit cancel hello ack"
MESSAGES = st.dictionaries(
    st.sampled_from([*WORDS.split(), "$hc", "timeout", "status"]),
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.sampled_from(
        ["1", "f", "", [1, 2], [], {}, {"version": 1, "max_bytes": 0, "in_flight": 0}]
    ),
    max_size=5,
)
FRAMES = (
    st.binary(max_size=30)
    | st.text(max_size=30)
    | MESSAGES.map(json.dumps)
    | st.lists(MESSAGES | st.integers() | st.lists(MESSAGES, max_size=2), max_size=4).map(
        json.dumps
    )
)


@given(st.lists(FRAMES, max_size=15))
def test_no_frame_makes_a_session_raise_anything_but_a_protocol_error(frames):
    for client, server in sessions():
        ids = [client.call("f", (n,), stream=(2, 10) if n % 2 else None) for n in range(4)]
        answered = []
        for frame in frames:
            for session in (client, server):
                try:
                    events = session.receive(frame)
                except ProtocolError:
                    continue
                if session is client:
                    answered += [e.id for e in events if isinstance(e, (Answered, Errored, Ended))]
                session.frames_to_send()
        assert len(set(answered)) == len(answered)
        assert set(answered) <= set(ids)
        assert len(client) == len(ids) - len(answered)
        assert len(server) <= 4
        lost = client.lost("over")
        assert {each.id for each in lost} == set(ids) - set(answered)


def test_memory_stays_bounded_under_a_flood_of_answers_to_nobody():
    for client, _ in sessions():
        for number in range(20_000):
            client.receive(b'{"id":%d,"result":[1,2,3]}' % (number + 100))
            client.frames_to_send()
        assert client.ignored == 20_000
        assert client.backlog_bytes < 1000
