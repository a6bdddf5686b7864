"""Signing: calls of any callable, and their answers, in envelopes that only key holders can make.

Owns the envelope's form, the keys, and what makes a call good: the key, what was signed (all of
it), for which server and which run of that, when, and that it comes for the first time. What is
inside stays bytes here: nobody decodes a body that did not come out of `Verifier.open` or
`open_answer`. Pure: no I/O; the clock and all random bytes are passed in.

    call    version, "C", key id, MAC, time (ms), nonce, call id, boot id, audience, body
    answer  version, "A", key id, MAC, failed?, body
    rest    version, "R", key id, MAC, body                 what a caller leaves on his own disk

Each MAC is HMAC-SHA256 over all that stands before and behind it, with the body's SHA-256 in its
place. An answer's covers the call's MAC too, so it answers that one call; what is at rest has one
that covers what it is about. The kinds begin differently, so none is ever taken for another.

A call is taken once by one run of one server: `boot id` is chosen when a server starts, and a nonce
is remembered for as long as its call's time would be good. The wall clock may jump: times that
were forgotten once are refused for good.

No threads: a `Verifier` belongs to the event loop of its server.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hybrid_compute.errors import ConfigurationError

__all__ = [
    "BOOT_BYTES",
    "BOOT_HEADER",
    "NONCE_BYTES",
    "SIGNED_TASK",
    "WINDOW",
    "BadSignature",
    "GuardFull",
    "ReplayGuard",
    "SigningKey",
    "Verified",
    "Verifier",
    "mac_of",
    "open_answer",
    "open_at_rest",
    "sign_answer",
    "sign_at_rest",
    "sign_call",
]

# The name of such calls; no registry may have it. Their one argument is the envelope.
SIGNED_TASK = "hybrid-compute:signed-call"
# Tells the boot id, in hexadecimal, in a service's `GET /tasks` and WebSocket handshake.
BOOT_HEADER = "Hybrid-Compute-Boot"

WINDOW = 60.0  # seconds that two clocks may differ by, the way included
NONCE_BYTES = BOOT_BYTES = 16
_CAPACITY = 2**18  # calls within a window; some 40 MB

_VERSION = 1
_CALL, _ANSWER, _REST_KIND = b"C", b"A", b"R"
_HEAD = struct.Struct("!Bc8s32s")  # version, kind, key id, MAC
_REST = struct.Struct("!Q16s16s16sH")  # time, nonce, call id, boot id, bytes of the audience
_CONTEXT = b"hybrid_compute signed pickle\0"

_HEX = re.compile(r"[0-9a-fA-F]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+=*")


class BadSignature(ValueError):
    """An envelope is not taken. Its text may go to whoever sent it."""


class GuardFull(Exception):
    """More calls came within the window than can be remembered: refused, so that none is replayed.

    Forgetting one to make room would let it in a second time.
    """


class SigningKey:
    """A secret of 256 bits or more, shared by a service and those who may run anything on it.

    Attributes:
        id: tells it from other keys; says nothing about it.
        digest: SHA-256 of its text, to compare it with tokens.
    """

    __slots__ = ("_secret", "digest", "id")

    def __init__(self, text: str) -> None:
        """Take the key's text: 64 hexadecimal digits, or 43 letters of base64, at least.

        Raises:
            ConfigurationError: it is too short, or no such text. The error does not tell it.
        """
        given: Any = text
        if (
            not isinstance(given, str)
            or not _BASE64.fullmatch(text)
            or len(text.rstrip("=")) < (64 if _HEX.fullmatch(text) else 43)
            or len(set(text)) < 10  # random text has more, but for one key in billions
        ):
            raise ConfigurationError(
                "the signing key is no random text of 256 bits or more (64 hexadecimal digits, or "
                "43 letters of base64): make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        secret = text.encode()
        self.digest: bytes = hashlib.sha256(secret).digest()
        self._secret = hmac.digest(secret, _CONTEXT + b"key", "sha256")
        self.id: bytes = hmac.digest(secret, _CONTEXT + b"key id", "sha256")[:8]

    def mac(self, *parts: bytes) -> bytes:
        """Return the MAC of some parts, each of which has a fixed length or tells it."""
        return hmac.digest(self._secret, b"".join((_CONTEXT, *parts)), "sha256")

    def __repr__(self) -> str:
        return f"<SigningKey {self.id.hex()}>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a signing key is not pickled: it must not travel")


class Verified(NamedTuple):
    """What came out of an envelope whose signature is good. Nothing else makes one."""

    body: bytes
    failed: bool  # of an answer: the body is an exception
    call_id: bytes
    mac: bytes
    key: SigningKey


class ReplayGuard:
    """The nonces of one window: each is good once."""

    def __init__(self, *, window: float = WINDOW, capacity: int = _CAPACITY) -> None:
        """Remember at most `capacity` of them, for times within `window` seconds of the clock."""
        self._window = round(window * 1000)
        self._capacity = capacity
        self._seen: set[bytes] = set()
        self._by_time: list[tuple[int, bytes]] = []  # a heap
        self._floor = -1  # the latest time whose nonces were forgotten

    def __len__(self) -> int:
        return len(self._seen)

    def admit(self, moment: int, nonce: bytes, now: int) -> None:
        """Take a nonce, once.

        Args:
            moment: when it was signed, in milliseconds since 1970.
            nonce: what must come for the first time.
            now: the same clock, here.

        Raises:
            BadSignature: it is too old, from the future, or was there before.
            GuardFull: there is no room to remember it.
        """
        heap = self._by_time
        while heap and heap[0][0] < now - self._window:
            self._floor, old = heapq.heappop(heap)  # the least of a heap: floors only rise
            self._seen.discard(old)
        if abs(now - moment) > self._window:
            raise BadSignature(
                f"it was signed {(now - moment) / 1000:+.0f} s ago by this server's clock, and "
                f"{self._window / 1000:g} s are allowed: set both clocks"
            )
        if nonce in self._seen or moment <= self._floor:
            raise BadSignature("it was used before, or may have been")
        if len(self._seen) >= self._capacity:
            raise GuardFull
        self._seen.add(nonce)
        heapq.heappush(heap, (moment, nonce))


def sign_call(
    key: SigningKey,
    body: bytes,
    *,
    audience: str,
    boot: bytes,
    call_id: bytes,
    nonce: bytes,
    now: float,
) -> bytes:
    """Put a call's body into an envelope.

    Args:
        key: signs it.
        body: what is signed, and not looked at.
        audience: the host's name as the caller knows it.
        boot: which run of the server it is for.
        call_id: names the call in the server's log, the same one however often it is sent.
        nonce: random bytes, others each time.
        now: seconds since 1970.

    Raises:
        ValueError: one of them has the wrong length.
    """
    name = audience.lower().encode()
    if (len(boot), len(call_id), len(nonce)) != (BOOT_BYTES, 16, NONCE_BYTES) or len(name) > 255:
        raise ValueError("boot, call_id and nonce have 16 bytes each, an audience 255 at most")
    rest = _REST.pack(round(now * 1000), nonce, call_id, boot, len(name)) + name
    mac = _mac_of_call(key, rest, body)
    return _HEAD.pack(_VERSION, _CALL, key.id, mac) + rest + body


def mac_of(envelope: bytes) -> bytes:
    """Return the MAC in an envelope that was made here."""
    mac: bytes = _HEAD.unpack_from(envelope)[3]
    return mac


def sign_answer(key: SigningKey, body: bytes, *, failed: bool, call_mac: bytes) -> bytes:
    """Put the answer to a call into an envelope, with the key that the call was signed with."""
    flag = b"\1" if failed else b"\0"
    mac = _mac_of_answer(key, call_mac, flag, body)
    return _HEAD.pack(_VERSION, _ANSWER, key.id, mac) + flag + body


def open_answer(key: SigningKey, envelope: object, *, call_mac: bytes) -> Verified:
    """Return what is in the answer to one call.

    Raises:
        BadSignature: it is no answer, or to another call, or somebody has changed it.
    """
    head, rest = _split(envelope, _ANSWER)
    flag, body = rest[:1], rest[1:]
    good = hmac.compare_digest(head[3], _mac_of_answer(key, call_mac, flag, body))
    if not good or head[2] != key.id or flag not in (b"\0", b"\1"):
        raise BadSignature("the signature of the answer is not good")
    return Verified(body, flag == b"\1", b"", head[3], key)


def sign_at_rest(key: SigningKey, body: bytes, *, about: str) -> bytes:
    """Put bytes that are to be read by their writer again into an envelope.

    Args:
        key: signs it.
        body: what is signed, and not looked at.
        about: what it is; nobody can take it for anything else.
    """
    return _HEAD.pack(_VERSION, _REST_KIND, key.id, _mac_at_rest(key, about, body)) + body


def open_at_rest(key: SigningKey, envelope: object, *, about: str) -> bytes:
    """Return what `sign_at_rest` was given.

    Raises:
        BadSignature: it is about something else, of another key, or somebody has changed it.
    """
    head, body = _split(envelope, _REST_KIND)
    if not hmac.compare_digest(head[3], _mac_at_rest(key, about, body)) or head[2] != key.id:
        raise BadSignature("the signature is not good, or of another key")
    return body


class Verifier:
    """Says which calls are good, for one run of one server."""

    def __init__(
        self,
        keys: Iterable[SigningKey],
        *,
        audiences: Iterable[str],
        boot: bytes,
        clock: Callable[[], float],
        guard: ReplayGuard | None = None,
    ) -> None:
        """Take what calls are measured by.

        Args:
            keys: any of them may sign.
            audiences: names of this server; "*" for any.
            boot: of this run: random bytes.
            clock: seconds since 1970.
            guard: remembers nonces; None: one of the usual size.
        """
        self._keys = {each.id: each for each in keys}
        self._audiences = frozenset(each.lower().encode() for each in audiences)
        self._clock = clock
        self._guard = guard or ReplayGuard()
        self.boot = boot

    def open(self, envelope: object) -> Verified:
        """Return what is in a call's envelope. Each is taken once.

        Until the signature was checked an error does not tell what is wrong.

        Raises:
            BadSignature: it is not good, or not for this server, or not from now, or not new.
            GuardFull: too many calls came in one window.
        """
        head, rest = _split(envelope, _CALL)
        key = self._keys.get(head[2])
        if key is None or len(rest) < _REST.size:
            raise BadSignature("the signature is not good, or of a key that is not known here")
        moment, nonce, call_id, boot, length = _REST.unpack_from(rest)
        end = _REST.size + length
        audience, body = rest[_REST.size : end], rest[end:]
        mac = _mac_of_call(key, rest[:end], body)
        if len(audience) != length or not hmac.compare_digest(mac, head[3]):
            raise BadSignature("the signature is not good, or of a key that is not known here")
        if b"*" not in self._audiences and audience not in self._audiences:
            raise BadSignature("it was signed for a server of another name")
        if not hmac.compare_digest(boot, self.boot):
            raise BadSignature("it was signed for another server, or before this one was started")
        self._guard.admit(moment, nonce, round(self._clock() * 1000))
        return Verified(body, False, call_id, mac, key)


def _split(envelope: object, kind: bytes) -> tuple[tuple[int, bytes, bytes, bytes], bytes]:
    if type(envelope) is not bytes or len(envelope) < _HEAD.size:
        raise BadSignature("there is no signed envelope")
    head = _HEAD.unpack_from(envelope)
    if head[:2] != (_VERSION, kind):
        raise BadSignature("the envelope is of another kind, or of a version that is not known")
    return head, envelope[_HEAD.size :]


def _mac_of_call(key: SigningKey, rest: bytes, body: bytes) -> bytes:
    return key.mac(_CALL, bytes((_VERSION,)), key.id, rest, hashlib.sha256(body).digest())


def _mac_at_rest(key: SigningKey, about: str, body: bytes) -> bytes:
    what = hashlib.sha256(about.encode()).digest()
    return key.mac(_REST_KIND, bytes((_VERSION,)), key.id, what, hashlib.sha256(body).digest())


def _mac_of_answer(key: SigningKey, call_mac: bytes, flag: bytes, body: bytes) -> bytes:
    return key.mac(
        _ANSWER, bytes((_VERSION,)), key.id, call_mac, flag, hashlib.sha256(body).digest()
    )
