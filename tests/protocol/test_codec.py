"""Values to bytes and back: exactly, or refused with their path; anything else is one error."""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
import time
import uuid
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.errors import PayloadTooLarge, ProtocolError
from hybrid_compute.protocol import codec as codec_module
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.tags import TAG
from hybrid_compute.protocol.values import MAX_DEPTH, Refused

PLAIN = [Codec(msgspec=False), Codec(msgspec=True)]
TAGGED = [
    Codec(tagged=True, msgspec=False),
    Codec(tagged=True, msgspec=True),
    Codec(binary=True),
]
Colour = IntEnum("Colour", "RED")


class Point(NamedTuple):
    x: int
    y: int


def round_trip(codec, value):
    return codec.value(codec.decode(codec.encode(value)))


def same(one, other):
    """Equal, of the same types all through; NaN is NaN, and 0.0 is not -0.0."""
    return type(one) is type(other) and shape(one) == shape(other)


def shape(value):
    """Return something that compares as `same` wants it."""
    kind = type(value).__name__
    match value:
        case dict():
            inside = [(shape(key), shape(each)) for key, each in value.items()]
        case list() | tuple():
            inside = [shape(each) for each in value]
        case complex():
            inside = shape((value.real, value.imag))
        case float():
            inside = str(value)
        case dt.datetime() | dt.time():
            inside = value.isoformat(), value.fold
        case Decimal():
            inside = value.as_tuple()
        case _:
            inside = value
    return kind, inside


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


TEXT = st.text()
JSON_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    JSON_SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=6)
HASHABLE = (
    st.none()
    | st.booleans()
    | st.integers()
    | ANY_TEXT
    | st.binary()
    | st.dates()
    | st.decimals(allow_nan=False)
)
OURS = st.recursive(
    HASHABLE
    | st.floats()
    | st.complex_numbers()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.just(ZoneInfo("Europe/Berlin")))
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals()
    | st.binary().map(bytearray)
    | st.frozensets(HASHABLE, max_size=3)
    | st.sets(st.tuples(HASHABLE, HASHABLE), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE | st.just(TAG), inner, max_size=3)
        | st.dictionaries(st.just(TAG), inner, min_size=1)
    ),
    max_leaves=10,
)


@given(JSON)
def test_json_values_come_back_exactly_from_every_codec(value):
    for codec in PLAIN + TAGGED:
        assert same(round_trip(codec, value), value)


@given(JSON)
def test_both_engines_write_what_any_json_parser_reads(value):
    for codec in PLAIN:
        assert same(json.loads(codec.encode(value)), value)


@given(OURS)
def test_tagged_values_come_back_exactly(value):
    for codec in TAGGED:
        assert same(round_trip(codec, value), value)


@given(OURS)
def test_a_tagged_codec_reads_what_the_other_engine_wrote(value):
    one, other = TAGGED[:2]
    assert same(one.value(one.decode(other.encode(value))), value)
    assert same(other.value(other.decode(one.encode(value))), value)


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, 2**64, -(2**200), 10**4299])
def test_integers_of_any_size_stay_exact(plain, tagged, value):
    assert round_trip(plain, [value]) == [value]
    assert round_trip(tagged, [value]) == [value]


def test_integers_that_python_itself_would_not_write_are_tagged(tagged):
    assert round_trip(tagged, {"n": -(10**5000)}) == {"n": -(10**5000)}


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3), "here")),
        dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
        Decimal("sNaN123"),
        Decimal("1.200"),
        uuid.UUID(int=5),
        -0.0,
    ],
)
def test_values_with_odd_corners_come_back_with_them(tagged, value):
    back = round_trip(tagged, value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3).T,
        np.array([1, 2], ">i2"),
        np.array(7.5),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.array([b"x"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1 + 2j, np.nan]),
        np.array([True, False]),
        np.float32(2.5),
        np.bool_(True),
        np.datetime64("2020-01-01T00:00", "m"),
    ],
    ids=repr,
)
def test_numpy_arrays_and_scalars_keep_type_dtype_and_shape(tagged, array):
    back = round_trip(tagged, [array])[0]
    assert type(back) is type(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_an_array_that_came_can_be_written_to(tagged):
    back = round_trip(tagged, np.zeros(3))
    back[0] = 1
    assert back[0] == 1


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        np.ma.array([1]),
    ],
    ids=["objects", "records", "masked"],
)
def test_arrays_that_raw_bytes_cannot_carry_are_refused(tagged, array):
    with pytest.raises(Refused, match=r"^\$\.args\[0\]\[0\]: "):
        tagged.encode([array], "$.args[0]")


REFUSED = [
    *(math.nan, math.inf, -math.inf, b"x", bytearray(b"x"), {1}, frozenset(), 1j, Decimal(1)),
    *(
        dt.datetime.fromisoformat("2024-01-01"),
        dt.date(2024, 1, 1),
        dt.time(1),
        dt.timedelta(1),
        uuid.UUID(int=1),
    ),
    *(np.arange(3), np.float64(1), np.int64(1), object(), len, Point(1, 2), Colour.RED, Ellipsis),
    *(OrderedDict(a=1), "\ud800", 10**4300, range(3), {1: 2}, {None: 1}, {True: 1}, {"\udc00": 1}),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_json_cannot_carry_is_refused_with_its_path(plain, value):
    for whole, path in [
        (value, "$.input"),
        ([1, {"x": value}], "$.input[1].x"),
        ({"odd key": (0, value)}, "$.input['odd key'][1]"),
        ([1.5, value], "$.input[1]"),
    ]:
        with pytest.raises(Refused) as info:
            plain.encode(whole, "$.input")
        assert info.value.path == path
        assert str(info.value).startswith(f"{path}: ")


@pytest.mark.parametrize("value", [object(), len, Point(1, 2), Colour.RED, OrderedDict(a=1)])
def test_what_no_tag_stands_for_is_refused_with_its_path(tagged, value):
    with pytest.raises(Refused, match=r"^\$\.input\.a\[0\]: "):
        tagged.encode({"a": [value]}, "$.input")


class Unreadable(dict):
    def items(self):
        raise KeyError("items")


@pytest.mark.parametrize("value", [Unreadable(a=1), [Unreadable(a=1)], {"a": Unreadable(a=1)}])
def test_a_value_whose_own_code_raises_is_refused(plain, tagged, value):
    for codec in (plain, tagged):
        with pytest.raises(Refused, match=r"^\$\.input: .* KeyError"):
            codec.encode(value, "$.input")


def test_a_tuple_goes_to_a_plain_peer_as_an_array(plain):
    assert plain.encode({"a": (1, (2, "b"))}) == b'{"a":[1,[2,"b"]]}'


def test_a_plain_codec_reads_no_tags(plain):
    value = {TAG: ["bytes", "eA=="]}
    assert round_trip(plain, value) == value


def test_arguments_are_left_as_they_were(tagged, plain):
    value = {"a": [1.5, (1, "x"), {"b": [None]}]}
    tagged.encode(value)
    plain.encode(value)
    assert value == {"a": [1.5, (1, "x"), {"b": [None]}]}


def test_values_may_be_nested_64_deep_and_no_deeper(plain, tagged):
    for codec in (plain, tagged):
        assert round_trip(codec, nested(MAX_DEPTH)) == nested(MAX_DEPTH)
        with pytest.raises(Refused, match="nested more than 64 deep"):
            codec.encode(nested(MAX_DEPTH + 1))
    assert round_trip(tagged, _tuples(MAX_DEPTH)) == _tuples(MAX_DEPTH)


def _tuples(depth):
    value = ()
    for _ in range(depth - 1):
        value = (value,)
    return value


def test_a_value_that_contains_itself_is_refused(plain, tagged):
    cycle = []
    cycle.append({"again": cycle})
    for codec in (plain, tagged):
        with pytest.raises(Refused, match="contains itself"):
            codec.encode(cycle)


MALFORMED = {
    "empty": b"",
    "not json": b"hello",
    "html": b"<html></html>",
    "trailing data": b'{"a":1} x',
    "two values": b"1 2",
    "truncated": b'{"a": [1, 2',
    "nan": b"[NaN]",
    "infinity": b"Infinity",
    "minus infinity": b'{"a":-Infinity}',
    "overflow": b"1e999",
    "bom": b"\xef\xbb\xbf{}",
    "utf-16": '{"a":1}'.encode("utf-16"),
    "lone surrogate escape": b'"\\ud800"',
    "surrogates in the wrong order": b'["\\udc00\\ud800"]',
    "surrogate in a key": b'{"\\udfff":1}',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "invalid utf-8": b'"\xff"',
    "control character": b'"\x01"',
    "leading zero": b"01",
    "trailing comma": b"[1,]",
    "single quotes": b"{'a':1}",
    "comment": b"1//x",
    "depth 1k": b"[" * 1000 + b"]" * 1000,
    "depth 100k": b"[" * 100_000 + b"]" * 100_000,
    "unclosed 1M": b"[" * 1_000_000,
    "objects 100k": b'{"a":' * 100_000,
    "4 MB integer": b"9" * 4_000_000,
    "negative 4 MB integer": b"[-" + b"9" * 4_000_000 + b"]",
    "4301 digits": b"1" * 4301,
    "4 MB of escaped quotes": b'"' + b'\\"' * 2_000_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_a_protocol_error_at_once(plain, data):
    started = time.thread_time()
    with pytest.raises(ProtocolError) as info:
        plain.value(plain.decode(data))
    assert time.thread_time() - started < 1  # a quadratic way takes a minute
    assert len(info.value.excerpt) <= 200


@pytest.mark.parametrize("digits", [0, 4300])
def test_python_s_own_limit_on_digits_makes_no_difference(plain, digits):
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(digits)
    try:
        assert plain.decode(b"9" * 4300) == 10**4300 - 1
        with pytest.raises(ProtocolError):
            plain.decode(b"9" * 400_000)
        with pytest.raises(Refused):
            plain.encode([10**4300])
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("codec", PLAIN + TAGGED)
def test_deep_nesting_does_not_overflow_the_stack_when_the_recursion_limit_was_lifted(codec):
    before = sys.getrecursionlimit()
    data = b"\x91" * 10**6 if codec.binary else b'["]",' + b"[" * 10**6
    sys.setrecursionlimit(10**7)
    try:
        with pytest.raises(ProtocolError):
            codec.decode(data)
        if not codec.binary:
            wide = b"[" + b",".join([b'["[\\"["]'] * 500) + b"]"
            assert len(codec.decode(wide)) == 500
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1,"\\u0061":1}',
        b'[{}, {"x": {"a:": ":\\":", "b": [], "a:" : 1}}]',
        b'{"a":{"b":1},"a":{"b":1,"c":2}}',
    ],
)
def test_no_key_stands_twice(plain, tagged, data):
    for codec in (plain, tagged):
        if not codec.binary:
            with pytest.raises(ProtocolError, match="twice"):
                codec.decode(data)


_JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a:",\\{[', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a:b", max_size=2), inner),
    max_leaves=20,
)


@given(_JSON, st.booleans())
def test_the_same_key_in_several_objects_is_none_that_stands_twice(value, spaces):
    data = json.dumps(value, separators=None if spaces else (",", ":")).encode()
    assert Codec().decode(data) == value
    if type(value) is dict and value:
        key = json.dumps(next(iter(value)))
        with pytest.raises(ProtocolError, match="twice"):
            Codec().decode(b"{" + key.encode() + b": 0," + data[1:])


def test_in_msgpack_the_last_counts():
    assert Codec(binary=True).decode(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}


def test_text_frames_may_come_as_str(plain):
    assert plain.decode('{"a":"\N{SNOWMAN}"}') == {"a": "\N{SNOWMAN}"}
    with pytest.raises(ProtocolError):
        plain.decode('"\ud800"')


def test_an_escaped_surrogate_pair_is_one_character(plain):
    assert plain.decode(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize("data", [b"[1,2,3,4,5]", "[1,2,3,4,5]", '"\N{SNOWMAN}\N{SNOWMAN}"'])
def test_a_frame_over_the_limit_is_too_large(msgspec, data):
    codec = Codec(max_bytes=7, msgspec=msgspec)
    with pytest.raises(PayloadTooLarge):
        codec.decode(data)


def test_a_value_over_the_limit_is_too_large(msgspec):
    with pytest.raises(PayloadTooLarge, match=r"\$\.input takes 12 bytes, and 10"):
        Codec(max_bytes=10, msgspec=msgspec).encode("0123456789", "$.input")


BAD_TAGS = [
    *(None, 1, "x", [], [1], [[]], ["no such kind"], ["bytes"], ["bytes", 1], ["bytes", "?"]),
    *(
        ["bytes", "eA"],
        ["bytes", "eA==", 1],
        ["set", 1],
        ["set", [[]]],
        ["tuple", {}],
        ["dict", [[1]]],
    ),
    *(["dict", ["ab"]], ["dict", [[[], 1]]], ["float", "1.5"], ["int", "12"], ["int", 5]),
    *(
        ["complex", 1, 2],
        ["complex", 1.0],
        ["date", "x"],
        ["datetime", "2024-01-01"],
        ["uuid", "x"],
    ),
    *(["datetime", "2024-01-01T00:00", "../../etc/passwd", 0], ["timedelta", 1.5, 0, 0]),
    *(["datetime", "2024-01-01T00:00", "No/Where", 0], ["datetime", "2024-01-01T00:00", None, 7]),
    *(["timedelta", 10**18, 0, 0], ["decimal", "x"], ["decimal", 5], ["time", "25:00", None, 0]),
    *(["str", 5], ["ndarray", "|O", [1], "AAAAAAAAAAA="], ["ndarray", "<i4", [10**9], "AAAA"]),
    *(
        ["ndarray", "<i4", [-1], ""],
        ["ndarray", "<i4", [10**18, 10**18, 0], ""],
        ["ndarray", "V4", [1], ""],
    ),
    *(["ndarray", "<i4", ["1"], ""], ["ndarray", "<U0", [10**9], ""], ["number", "<f8", ""]),
    *(["ndarray", "(1000000,)i4", [1], "AAAA"], ["ndarray", "<i4,O", [1], "AAAA"]),
]


@pytest.mark.parametrize("tag", BAD_TAGS, ids=repr)
def test_a_malformed_tag_is_a_protocol_error(tagged, tag):
    data = tagged.record({"a": [{TAG: tag}]})
    with pytest.raises(ProtocolError):
        tagged.value(tagged.decode(data))


def test_a_tag_beside_other_keys_is_a_protocol_error(tagged):
    with pytest.raises(ProtocolError):
        tagged.value({TAG: ["tuple", []], "b": 1})


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_a_value_or_a_protocol_error_and_both_engines_agree(data):
    outcomes = []
    for codec in (*PLAIN, TAGGED[2]):
        try:
            outcomes.append(codec.value(codec.decode(data)))
        except ProtocolError:
            outcomes.append(ProtocolError)
    assert same(outcomes[0], outcomes[1])


PIECES = [
    *("[", "]", "{", "}", ",", ":", '"', "a", "\\", "\\u", "d83d", "\\ud83d", "\\ude00", "0", "-"),
    *(
        "1",
        ".",
        "e",
        "E+",
        "99",
        "true",
        "null",
        "NaN",
        " ",
        "\n",
        "\t",
        '"a":',
        "\\n",
        "\x7f",
        "é",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_the_engines_agree_on_what_is_nearly_json(text):
    outcomes = []
    for codec in PLAIN:
        try:
            outcomes.append(codec.value(codec.decode(text.encode())))
        except ProtocolError:
            outcomes.append(ProtocolError)
    assert same(*outcomes)


@given(
    st.recursive(
        st.none()
        | st.integers(-9, 2**60)
        | st.text(max_size=5)
        | st.sampled_from([TAG, "bytes", "ndarray", "<i4"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([TAG, "a"]), inner, max_size=2)
        ),
        max_leaves=20,
    )
)
def test_what_looks_like_tags_gives_a_value_or_a_protocol_error(raw):
    for codec in TAGGED:
        try:
            codec.value(codec.decode(codec.record({"raw": raw})))
        except ProtocolError:
            continue


def test_the_fast_codec_is_used_if_it_is_installed_and_missed_if_it_is_needed(monkeypatch):
    assert codec_module.has_msgspec()
    monkeypatch.setitem(sys.modules, "msgspec", None)
    assert not codec_module.has_msgspec()
    assert round_trip(Codec(), [1]) == [1]
    for needy in ({"msgspec": True}, {"binary": True}):
        with pytest.raises(ImportError, match="pip install"):
            Codec(**needy)


def test_a_msgpack_extension_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        Codec(binary=True).decode(b"\xc7\x01\x05x")
