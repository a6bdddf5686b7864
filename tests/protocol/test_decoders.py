"""Streams of services: every form, however the network cuts it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.errors import (
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
    RemoteTaskError,
)
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.decoders import DECODERS, OwnLines, decode, decoder_for

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def pieces(data: bytes, cuts):
    """Cut bytes into pieces at some places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def read(kind, *parts, max_bytes=1 << 20):
    """Return the items that a decoder finds, what it returns, and the error."""
    make = OwnLines if kind == "own" else DECODERS[kind]
    codec = Codec(tagged=kind == "own", max_bytes=max_bytes)
    items = []
    reading = decode(make(codec), parts)
    while True:
        try:
            items.append(next(reading))
        except StopIteration as end:
            return items, end.value, None
        except Exception as error:
            return items, None, error


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@given(st.lists(VALUES, max_size=6), CUTS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_lines_of_json_however_cut(values, cuts, last, end):
    text = end.join(json.dumps(each, ensure_ascii=False) for each in values)
    data = (text + (end if last else "")).encode()
    assert read("ndjson", *pieces(data, cuts)) == (values, None, None)


@given(st.lists(VALUES, max_size=6), CUTS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_events_however_cut(values, cuts, end, bom):
    lines = [": hello", "retry: 5"]
    for value in values:
        lines += ["event: message", "id: 7", "data: " + json.dumps(value, ensure_ascii=False), ""]
    data = (b"\xef\xbb\xbf" if bom else b"") + end.join([*lines, ""]).encode()
    assert read("sse", *pieces(data, cuts)) == (values, None, None)


@given(st.lists(st.text(min_size=1), max_size=6), CUTS)
def test_text_is_never_cut_within_a_character(texts, cuts):
    data = "".join(texts).encode(errors="replace")
    items, _, error = read("text", *pieces(data, cuts))
    assert error is None
    assert "".join(items) == data.decode()


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=4), VALUES, CUTS)
def test_our_own_lines_however_cut(batches, value, cuts):
    lines = [json.dumps(each) for each in batches]
    lines += ["", json.dumps({"done": True, "result": value})]
    data = ("\n".join(lines) + "\n").encode()
    items = [item for batch in batches for item in batch]
    got, returned, error = read("own", *pieces(data, cuts))
    if any("$" in repr(each) for each in [*items, value]):
        return  # tags have their own tests
    assert (got, returned, error) == (items, value, None)


def test_our_own_stream_that_is_cut_off_is_lost():
    items, _, error = read("own", b"[1,2]\n[3]\n")
    assert items == [1, 2, 3]
    assert isinstance(error, RemoteConnectionLost)


def test_our_own_error_comes_behind_the_items():
    items, _, error = read(
        "own", b'[1,2]\n{"error":"no luck","status":500,"type":"KeyError"}\n[9]\n'
    )
    assert items == [1, 2]
    assert isinstance(error, RemoteTaskError)
    assert "no luck" in str(error)


@pytest.mark.parametrize("line", [b"5\n", b'{"result":1}\n', b'{"done":true}\n', b'"x"\n'])
def test_our_own_lines_are_items_or_an_end(line):
    assert isinstance(read("own", b"[1]\n" + line)[2], ProtocolError)


@pytest.mark.parametrize("kind", ["ndjson", "sse"])
def test_an_item_is_bounded(kind):
    start = b"data: " if kind == "sse" else b""
    items, _, error = read(kind, start + b'"' + b"x" * 600, b"x" * 600, max_bytes=1000)
    assert items == []
    assert isinstance(error, PayloadTooLarge)


def test_an_event_of_many_lines_is_bounded():
    assert isinstance(read("sse", b"data: xxxxx\n" * 1000, max_bytes=1000)[2], PayloadTooLarge)


def test_an_event_of_many_empty_lines_is_bounded():
    assert isinstance(read("sse", b"data:\n" * 101, max_bytes=100)[2], PayloadTooLarge)


def test_a_line_that_is_no_json_ends_the_stream_there():
    items, _, error = read("ndjson", b"1\n2\nnonsense\n3\n")
    assert items == [1, 2]
    assert isinstance(error, ProtocolError)


def test_several_data_lines_make_one_item():
    assert read("sse", b"data: one\ndata: two\n\ndata\n\ndata:three\n\n")[0] == [
        "one\ntwo",
        "",
        "three",
    ]


@pytest.mark.parametrize(
    ("data", "items"),
    [
        (b'data: 1\n\ndata: {"a": 2}', [1, {"a": 2}]),  # the last line without its end
        (b"data: 1\n\ndata: half of som", [1]),  # cut off: nobody knows the rest
        (b"data: 1\n\n: nothing\n\n\n\n", [1]),
        (b"data: [DONE]", []),
        (b"", []),
    ],
)
def test_events_at_the_end(data, items):
    assert read("sse", data) == (items, None, None)


def test_events_of_our_servers():
    data = b'data: 1\n\nevent: done\ndata: {"result": 5}\n\ndata: 9\n\n'
    assert read("sse", data) == ([1], 5, None)
    items, _, error = read("sse", b'data: 1\n\nevent: error\ndata: {"error": "no luck"}\n\n')
    assert items == [1]
    assert isinstance(error, RemoteTaskError)
    assert str(error) == "no luck"


def chat(**delta):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


@given(CUTS)
def test_the_tokens_of_a_chat(cuts):
    data = chat(role="assistant", content="") + chat(content="Hé") + chat(content="llo")
    data += b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n' + chat()
    data += b"data: [DONE]\n\n" + chat(content="late")
    assert read("chat", *pieces(data, cuts)) == (["Hé", "llo"], None, None)


def test_an_error_in_the_middle_of_a_chat():
    data = chat(content="a") + b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
    items, _, error = read("chat", data)
    assert items == ["a"]
    assert isinstance(error, RemoteTaskError)
    assert "overloaded" in str(error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("application/x-ndjson", "ndjson"),
        ("application/jsonl; charset=utf-8", "ndjson"),
        ("text/event-stream; charset=utf-8", "sse"),
        ("Text/Plain", "text"),
        ("application/octet-stream", "bytes"),
    ],
)
def test_a_decoder_by_content_type(kind, name):
    assert decoder_for(kind) is DECODERS[name]


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json; x=y"])
def test_one_json_value_is_no_stream(kind):
    assert decoder_for(kind) is None


@pytest.mark.parametrize("kind", ["sse", "chat"])
def test_an_event_that_was_cut_off_is_none_however_deep_it_is(kind):
    assert read(kind, b"data: 1\n\ndata: " + b"[" * 100_000)[0] == ([1] if kind == "sse" else [])
