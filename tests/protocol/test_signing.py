"""Envelopes: made by key holders only, good once, for one server, for a minute."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.protocol.signing import (
    BadSignature,
    GuardFull,
    ReplayGuard,
    SigningKey,
    Verifier,
    mac_of,
    open_answer,
    open_at_rest,
    sign_answer,
    sign_at_rest,
    sign_call,
)

TEXT = "k3yOfTheTests-0123456789abcdefghijklmnopqrstuv"
KEY = SigningKey(TEXT)
OTHER = SigningKey(TEXT[::-1])
BOOT = bytes(range(16))
NOW = 1_700_000_000.0
BODY = b"the body of a call"


def sign(body=BODY, *, key=KEY, **other):
    given = {"audience": "Host.example", "boot": BOOT, "call_id": b"i" * 16, "nonce": b"n" * 16}
    return sign_call(key, body, **({**given, "now": NOW} | other))


def verifier(*, keys=(KEY,), audiences=("host.example",), boot=BOOT, at=NOW, guard=None):
    return Verifier(keys, audiences=audiences, boot=boot, clock=lambda: at, guard=guard)


@given(st.binary(max_size=300), st.binary(min_size=16, max_size=16))
def test_what_was_signed_comes_out_once(body, nonce):
    server = verifier(keys=(OTHER, KEY))
    envelope = sign(body, nonce=nonce)
    found = server.open(envelope)
    assert (found.body, found.call_id, found.key, found.mac) == (
        *(body, b"i" * 16, KEY), mac_of(envelope),
    )  # fmt: skip
    with pytest.raises(BadSignature, match="before"):
        server.open(envelope)


@given(st.data())
def test_a_call_that_was_changed_anywhere_is_refused(data):
    envelope = sign()
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "insert"]))
    at = data.draw(st.integers(0, len(envelope) - 1))
    if kind == "flip":
        bit = 1 << data.draw(st.integers(0, 7))
        bad = envelope[:at] + bytes((envelope[at] ^ bit,)) + envelope[at + 1 :]
    elif kind == "cut":
        bad = envelope[:at]
    elif kind == "add":
        bad = envelope + data.draw(st.binary(min_size=1, max_size=9))
    else:
        bad = envelope[:at] + data.draw(st.binary(min_size=1, max_size=9)) + envelope[at:]
        if bad == envelope:
            return
    server = verifier(guard=(guard := ReplayGuard()))
    with pytest.raises(BadSignature):
        server.open(bad)
    assert len(guard) == 0  # and nobody without a key fills the memory
    assert server.open(envelope).body == BODY


@given(st.one_of(st.none(), st.text(), st.binary(max_size=400), st.lists(st.integers())))
def test_nonsense_is_refused(envelope):
    with pytest.raises(BadSignature):
        verifier().open(envelope)


def test_a_call_for_another_server_is_refused():
    for server in (
        verifier(keys=(OTHER,)),
        verifier(audiences=("other.example",)),
        verifier(boot=bytes(16)),
    ):
        with pytest.raises(BadSignature):
            server.open(sign())
    assert verifier(audiences=("*",)).open(sign()).body == BODY


@pytest.mark.parametrize(
    ("skew", "good"), [(0, True), (60, True), (-60, True), (60.1, False), (-60.1, False)]
)
def test_clocks_may_differ_by_the_window(skew, good):
    server = verifier(at=NOW + skew)
    if good:
        assert server.open(sign()).body == BODY
    else:
        with pytest.raises(BadSignature, match="set both clocks"):
            server.open(sign())


@given(st.lists(st.tuples(st.integers(-200, 200), st.integers(0, 3), st.integers(-300, 300))))
def test_no_clock_makes_a_guard_take_a_nonce_twice(calls):
    """Whatever the clock does, forward and back, no (time, nonce) is good twice."""
    guard, taken = ReplayGuard(window=60), set()
    for moment, nonce, now in calls:
        pair = (moment * 1000 + 500_000, bytes((nonce,)) * 16 + bytes((moment % 256,)))
        try:
            guard.admit(*pair, now * 1000 + 500_000)
        except BadSignature:
            continue
        assert pair not in taken
        taken.add(pair)


def test_a_guard_forgets_what_is_too_old_and_nothing_else():
    guard = ReplayGuard(window=60, capacity=2)
    guard.admit(1000, b"a", 1000)
    guard.admit(2000, b"b", 1000)
    with pytest.raises(GuardFull):
        guard.admit(3000, b"c", 61_000)
    guard.admit(3000, b"c", 61_001)
    assert len(guard) == 2
    with pytest.raises(BadSignature, match="before"):
        guard.admit(1000, b"a", 1000)  # the clock was set back
    with pytest.raises(BadSignature, match="before"):
        guard.admit(2000, b"b", 61_001)


@given(st.binary(max_size=100), st.booleans())
def test_an_answer_is_good_for_its_call_alone(body, failed):
    mac = mac_of(sign())
    answer = sign_answer(KEY, body, failed=failed, call_mac=mac)
    found = open_answer(KEY, answer, call_mac=mac)
    assert (found.body, found.failed) == (body, failed)
    for key, call in ((KEY, mac_of(sign(nonce=b"m" * 16))), (OTHER, mac)):
        with pytest.raises(BadSignature):
            open_answer(key, answer, call_mac=call)


@given(st.integers(0, 1000), st.integers(0, 7))
def test_an_answer_that_was_changed_is_refused(at, bit):
    mac = mac_of(sign())
    answer = bytearray(sign_answer(KEY, BODY, failed=False, call_mac=mac))
    answer[at % len(answer)] ^= 1 << bit
    with pytest.raises(BadSignature):
        open_answer(KEY, bytes(answer), call_mac=mac)


def test_a_call_is_no_answer_and_an_answer_no_call():
    call = sign()
    with pytest.raises(BadSignature):
        open_answer(KEY, call, call_mac=mac_of(call))
    answer = sign_answer(KEY, BODY, failed=False, call_mac=mac_of(call))
    with pytest.raises(BadSignature):
        verifier().open(answer)
    with pytest.raises(BadSignature):  # nor if somebody calls it one
        verifier().open(answer[:1] + b"C" + answer[2:])
    with pytest.raises(BadSignature):
        open_answer(KEY, call[:1] + b"A" + call[2:], call_mac=mac_of(call))


def test_what_is_at_rest_is_good_for_what_it_is_about_alone():
    envelope = sign_at_rest(KEY, BODY, about="call 1")
    assert open_at_rest(KEY, envelope, about="call 1") == BODY
    with pytest.raises(BadSignature):
        open_at_rest(KEY, envelope, about="call 2")
    for at in range(len(envelope)):
        changed = bytearray(envelope)
        changed[at] ^= 1
        with pytest.raises(BadSignature):
            open_at_rest(KEY, bytes(changed), about="call 1")
    for kind in (b"C", b"A"):
        with pytest.raises(BadSignature):
            open_at_rest(KEY, envelope[:1] + kind + envelope[2:], about="call 1")
    with pytest.raises(BadSignature):
        open_answer(KEY, envelope[:1] + b"A" + envelope[2:], call_mac=mac_of(sign()))


@pytest.mark.parametrize(
    "text",
    ["", "short", "f0" * 31, "0123456789abcdef" * 3, "x" * 64, "a b" * 30, "ä" * 50, None, 5],
)
def test_a_weak_key_is_refused_and_not_told(text):
    with pytest.raises(ConfigurationError, match="256 bits") as caught:
        SigningKey(text)
    assert not isinstance(text, str) or not text or text not in str(caught.value)


def test_a_key_is_not_shown_and_does_not_travel():
    assert TEXT not in repr(KEY)
    assert SigningKey("0123456789abcdef" * 4).id != KEY.id == SigningKey(TEXT).id
    with pytest.raises(TypeError):
        pickle.dumps(KEY)
