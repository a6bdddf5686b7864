"""Messages: the forms that the JavaScript peers speak, our extensions, and whatever is neither."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute import errors
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.messages import (
    Ack,
    Cancel,
    Chunk,
    Complaint,
    Credit,
    Done,
    Failed,
    Hello,
    Malformed,
    Request,
    Result,
    parse_answer,
    parse_request,
)
from hybrid_compute.protocol.values import Refused
from hybrid_compute.protocol.writer import Writer

JSON = Codec(msgspec=False)


@pytest.fixture
def writer(plain):
    return Writer(plain)


def loads(data):
    return json.loads(data)


# -- what is written to a peer that is not ours --------------------------------------------


def test_a_call_of_one_argument_has_an_input(writer):
    assert loads(writer.request(1, "echo", ("x",))) == {"id": 1, "task": "echo", "input": "x"}


def test_a_call_without_arguments_has_no_input(writer):
    assert loads(writer.request(1, "now", ())) == {"id": 1, "task": "now"}


def test_a_call_with_none_has_an_input(writer):
    assert loads(writer.request(1, "echo", (None,)))["input"] is None


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"x": 1}), ((1,), {"x": 1})])
def test_a_call_of_another_form_is_refused_to_a_plain_peer(writer, args, kwargs):
    with pytest.raises(Refused, match="take one argument"):
        writer.request(1, "f", args, kwargs)


def test_a_plain_peer_gets_no_key_that_it_does_not_know(writer):
    call = writer.request(1, "f", (1,), timeout=3.0, credit=(1, 1), seq=5, key="k")
    assert loads(call) == {"id": 1, "task": "f", "input": 1}
    failed = writer.failed(Failed(2, "no", 404, "KeyError", "Traceback", "$.x", 3.0))
    assert loads(failed) == {"id": 2, "error": "no"}
    assert loads(writer.result("a", 5)) == {"id": "a", "result": 5}


def test_an_error_text_is_never_empty_and_always_text(writer):
    assert loads(writer.failed(Failed(1, "")))["error"]
    assert loads(writer.failed(Failed(1, "\ud800")))["error"] == "\\ud800"
    assert len(loads(writer.failed(Failed(1, "x" * 10**6)))["error"]) < 30_000


@pytest.mark.parametrize("name", ["", "x" * 1001])
def test_a_task_needs_a_name_of_some_length(writer, name):
    for args in ((1,), (), (1, 2)):
        with pytest.raises(Refused, match=r"\$\.task"):
            writer.request(1, name, args)


@pytest.mark.parametrize("name", ["constructor", "__class__", '"quoted"', "\0", "Zürich"])
def test_any_text_is_a_name(writer, name):
    assert loads(writer.request(1, name, (1,)))["task"] == name


def test_the_memory_of_tasks_is_bounded(writer):
    for number in range(1000):
        writer.request(1, f"task{number}", (1,))
    assert len(writer._calls) <= 256


# -- there and back --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        Request(1, "f", (5,), {}),
        Request(1, "f", (), {}),
        Request("a", "f", (1, (2,)), {"x": {3}}),
        Request(1, "f", (), {"$hc": 1}),
        Request(2, "f", (b"x",), {}, 2.5, (8, 1024), 7),
        Request(3, "f", (1,), {}, None, None, 0, "a-key"),
        Request(4, "f", (1,), {}, None, None, 0, None, {"trace": (1, b"x"), "of": None}),
    ],
)
def test_a_call_comes_back_as_it_was_for_our_own_peers(tagged, request_):
    identity, task, args, kwargs, timeout, credit, seq, key, context = request_
    data = Writer(tagged).request(
        identity,
        task,
        args,
        kwargs,
        timeout=timeout,
        credit=credit,
        seq=seq,
        key=key,
        variables=context,
    )
    assert parse_request(tagged.decode(data), tagged) == request_


def test_a_context_variable_that_cannot_be_sent_stays_where_it_is(tagged, plain):
    data = Writer(tagged).request(1, "f", (), variables={"a": object(), "b": 1})
    assert parse_request(tagged.decode(data), tagged).context == {"b": 1}
    assert b"context" not in Writer(plain).request(1, "f", (), variables={"b": 1})


@pytest.mark.parametrize("context", [b"[]", b"1", b'{"$hc":[]}'])
def test_what_is_no_context_is_refused_and_means_nothing_to_plain_peers(context):
    raw = b'{"id":1,"task":"f","context":' + context + b"}"
    own = Codec(tagged=True, msgspec=False)
    with pytest.raises(Malformed):
        parse_request(own.decode(raw), own)
    assert parse_request(JSON.decode(raw), JSON).context is None


def test_all_other_messages_come_back_as_they_were(tagged):
    writer = Writer(tagged)
    hello, failed = Hello(1, 1000, 5), Failed(1, "no", 429, "KeyError", "trace", "$.x", 2.5)

    def to_server(data):
        return parse_request(tagged.decode(data), tagged)

    def to_client(data):
        return parse_answer(tagged.decode(data), tagged)

    assert to_server(writer.cancel(5)) == Cancel(5)
    assert to_server(writer.credit(5, 8, 1024)) == Credit(5, 8, 1024)
    for parse in (to_server, to_client):
        assert parse(writer.hello(hello)) == hello
        assert parse(writer.ack(7)) == Ack(7)
    assert to_client(writer.result(1, {1: (2,)})) == Result(1, {1: (2,)})
    assert to_client(writer.failed(failed)) == failed
    assert to_client(writer.failed(Failed(None, "what?"))) == Complaint("what?")
    items = [tagged.encode(each) for each in (1, b"2")]
    assert to_client(writer.chunks(3, 4, items, 9)) == Chunk(3, 4, [1, b"2"], 9)
    assert to_client(writer.chunks(3, 4, items[:1], 1)) == Chunk(3, 4, [1], 1)
    assert to_client(writer.done(3, (None,), 6)) == Done(3, (None,), 6)


# -- what a server reads ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("1", None),
        ("null", None),
        ('"x"', None),
        ("[1]", None),
        ("{}", None),
        ('{"task":"f"}', None),
        ('{"id":null,"task":"f"}', None),
        ('{"id":true,"task":"f"}', None),
        ('{"id":1.0,"task":"f"}', None),
        ('{"id":[1],"task":"f"}', None),
        ('{"id":{},"task":"f"}', None),
        ('{"id":1}', 1),
        ('{"id":"a"}', "a"),
        ('{"id":1,"task":5}', 1),
        ('{"id":1,"task":""}', 1),
        ('{"id":1,"task":null}', 1),
        ('{"id":1,"task":["f"]}', 1),
        ('{"id":1,"task":"f","input":1,"args":[1]}', 1),
        ('{"id":1,"task":"f","input":1,"kwargs":{}}', 1),
        ('{"id":1,"task":"f","args":5}', 1),
        ('{"id":1,"task":"f","args":{}}', 1),
        ('{"id":1,"task":"f","kwargs":[]}', 1),
        ('{"id":1,"task":"f","timeout":"5"}', 1),
        ('{"id":1,"task":"f","timeout":-1}', 1),
        ('{"id":1,"task":"f","timeout":true}', 1),
        ('{"id":1,"task":"f","credit":5}', 1),
        ('{"id":1,"task":"f","credit":[1]}', 1),
        ('{"id":1,"task":"f","credit":[1,-1]}', 1),
        ('{"id":1,"task":"f","credit":[1,1.5]}', 1),
        ('{"id":1,"task":"f","seq":-1}', 1),
        ('{"id":1,"credit":null}', 1),
        ('{"id":1,"cancel":false}', 1),
        ('{"id":1,"cancel":1}', 1),
        ('{"ack":-1}', None),
        ('{"ack":true}', None),
        ('{"hello":1}', None),
        ('{"hello":{}}', None),
        ('{"hello":{"version":1,"max_bytes":1,"in_flight":"5"}}', None),
    ],
)
def test_a_server_refuses_what_is_no_message_and_knows_whose_it_is(text, identity):
    with pytest.raises(Malformed) as info:
        parse_request(JSON.decode(text), JSON)
    assert info.value.id == identity
    assert type(info.value.id) is type(identity)


@pytest.mark.parametrize("identity", [1, 0, -5, 2**53 + 1, "1", "", "x" * 1000])
def test_an_id_keeps_its_json_type(identity):
    found = parse_request(JSON.decode(json.dumps({"id": identity, "task": "f"})), JSON)
    assert found == Request(identity, "f", (), {})
    assert type(found.id) is type(identity)


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "\u00e9", "a\n", 5, None, ["k"]])
def test_an_idempotency_key_is_short_text_that_a_header_can_have(tagged, key):
    raw = {"id": 7, "task": "f", "input": 1, "key": key}
    with pytest.raises(Malformed, match="idempotency key") as caught:
        parse_request(raw, tagged)
    assert caught.value.id == 7


def test_what_a_peer_that_is_not_ours_calls_a_key_is_none(plain):
    assert parse_request({"id": 7, "task": "f", "key": 5}, plain).key is None


def test_keys_without_a_meaning_are_let_be():
    raw = JSON.decode('{"id":1,"task":"f","input":2,"priority":3}')
    assert parse_request(raw, JSON) == Request(1, "f", (2,), {})


def test_an_input_nested_too_deep_is_the_error_of_its_call():
    with pytest.raises(Malformed) as info:
        parse_request(JSON.decode('{"id":3,"task":"f","input":' + "[" * 65 + "]" * 65 + "}"), JSON)
    assert info.value.id == 3


# -- what a client reads -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("1", None),
        ("[1]", None),
        ("{}", None),
        ('{"result":1}', None),
        ('{"error":"x"}', None),
        ('{"id":null,"result":1}', None),
        ('{"id":null}', None),
        ('{"id":true,"result":1}', None),
        ('{"id":1.0,"result":1}', None),
        ('{"id":"1","result":1}', None),
        ('{"id":1}', 1),
        ('{"id":1,"results":1}', 1),
        ('{"id":1,"result":1,"error":"x"}', 1),
        ('{"id":1,"result":1,"error":null}', 1),
        ('{"id":1,"chunk":1}', 1),
        ('{"id":1,"chunk":1,"seq":-1}', 1),
        ('{"id":1,"chunk":1,"seq":"0"}', 1),
        ('{"id":1,"chunk":1,"chunks":[1],"seq":0}', 1),
        ('{"id":1,"chunks":5,"seq":0}', 1),
        ('{"id":1,"done":true}', 1),
        ('{"id":1,"done":false,"result":1}', 1),
        ('{"id":1,"done":true,"result":1,"seq":"x"}', 1),
    ],
)
def test_a_client_never_makes_up_a_result(text, identity):
    with pytest.raises(Malformed) as info:
        parse_answer(JSON.decode(text), JSON)
    assert info.value.id == identity


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ('"boom"', "boom"),
        ('{"message":"boom","code":5}', "boom"),
        ('{"code":5}', '{"code": 5}'),
        ("5", "5"),
        ("null", "null"),
        ("[1]", "[1]"),
        ('""', "the other side gave no reason"),
        ('"  "', "the other side gave no reason"),
        ('{"message":""}', "the other side gave no reason"),
    ],
)
def test_an_error_of_any_form_is_an_error_with_a_text(error, text):
    assert parse_answer(JSON.decode('{"id":1,"error":' + error + "}"), JSON) == Failed(1, text)
    assert parse_answer(JSON.decode('{"id":null,"error":' + error + "}"), JSON) == Complaint(text)


def test_nonsense_beside_an_error_is_left_out():
    raw = JSON.decode('{"id":1,"error":"x","status":"5","type":7,"path":[],"retry_after":-1}')
    assert parse_answer(raw, JSON) == Failed(1, "x")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "id task input args kwargs result error chunk chunks done seq size credit cancel "
                "hello ack version max_bytes in_flight timeout status message $hc".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(ANYTHING)
def test_anything_parses_to_a_message_or_is_malformed(raw):
    for parse in (parse_request, parse_answer):
        for codec in (JSON, Codec(tagged=True, msgspec=False)):
            try:
                parse(json.loads(json.dumps(raw)), codec)
            except Malformed:
                continue


@pytest.mark.parametrize(
    "error",
    [
        errors.ProtocolError("x", status=200, content_type="text/html", excerpt=b"<" * 300),
        errors.PayloadTooLarge("x"),
        errors.RemoteConnectionLost("x", may_have_run=True),
        errors.RemoteUnavailable("x"),
        errors.RemoteBusy("x", retry_after=2.0),
        errors.AuthError("x", status=401),
        errors.TLSError("x"),
        errors.RemoteTaskError("x", status=500, type_name="KeyError", traceback_text="t"),
        errors.UnknownTaskError("x", status=404),
        errors.TaskInputError("x", path="$.a", status=422),
        errors.OutcomeUnknown("x", status=409),
        errors.OutboxError("x", path="/p"),
        errors.OutboxFull("x", path="/p"),
        errors.NotDelivered("x", path="/p", key="k"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_errors_survive_pickling_with_their_attributes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == ("x", ("x",), vars(error))


def test_the_errors_are_what_a_user_would_catch():
    for name, kinds in {
        "ProtocolError": (ValueError,),
        "PayloadTooLarge": (errors.PayloadError,),
        "RemoteConnectionLost": (ConnectionError,),
        "RemoteUnavailable": (ConnectionError, errors.ExecutorUnavailable),
        "RemoteBusy": (errors.ExecutorUnavailable,),
        "AuthError": (PermissionError,),
        "OutboxError": (OSError,),
        "OutboxFull": (errors.ExecutorUnavailable, errors.OutboxError),
        "NotDelivered": (RuntimeError,),
        "OutcomeUnknown": (errors.RemoteTaskError,),
        "TLSError": (ConnectionError,),
        "UnknownTaskError": (LookupError, errors.RemoteTaskError, errors.RemoteError),
        "TaskInputError": (ValueError, errors.RemoteTaskError),
    }.items():
        for kind in kinds:
            assert issubclass(getattr(errors, name), kind)


@given(
    value=st.integers() | st.text() | st.booleans() | st.none() | st.floats(allow_nan=False),
    name=st.text(st.characters(codec="ascii"), min_size=1, max_size=20) | st.just("größe"),
    timeout=st.floats(0.001, 1e9) | st.integers(1, 10**9),
    binary=st.booleans(),
)
def test_a_call_with_a_deadline_is_the_same_however_it_is_written(value, name, timeout, binary):
    codec = Codec(tagged=True, binary=binary)
    writer = Writer(codec)
    try:
        fields = {"id": codec.encode(7)} | writer.call(name, (value,), timeout=timeout)
        expected = codec.fields(**fields)
    except (Refused, errors.HybridComputeError) as refusal:
        with pytest.raises(type(refusal)):
            writer.request(7, name, (value,), timeout=timeout)
        return
    written = writer.request(7, name, (value,), timeout=timeout)
    assert parse_request(codec.decode(written), codec) == parse_request(
        codec.decode(expected), codec
    )


def test_a_peer_that_is_not_ours_learns_of_no_deadline():
    codec = Codec()
    written = Writer(codec).request(7, "f", (1,), timeout=9)
    assert json.loads(written) == {"id": 7, "task": "f", "input": 1}
