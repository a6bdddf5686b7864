"""Channel: whole frames in their order, over datagrams that get lost and overtake each other.

Sans-I/O: datagrams go in (`receive`) and come out (`datagrams`), and the time is told. Both ends
have one, with the same number. A frame is cut into fragments of at most `FRAGMENT` bytes; each has
a number, and is sent until it is acknowledged:

    send -> _unsent -> (window) -> _flying -- acknowledged --> gone
                                      `-- due, or overtaken by three -> sent again

    datagram -> _early (until those before it have come) -> fragments -> frame

Not for two threads: its owner has a lock. Memory: `_early` holds at most WINDOW fragments, a frame
at most `max_bytes`; `_unsent` what the owner gives.
"""

from __future__ import annotations

import struct
from collections import deque

__all__ = ["FRAGMENT", "Channel", "Kind", "head_of", "pack"]

FRAGMENT = 1200  # bytes: with all headers it fits any path's datagrams, as in WebRTC
WINDOW = 256  # fragments that may be on the way
_HEAD = struct.Struct("!BQ")  # kind, number of the channel
_DATA = struct.Struct("!QB")  # number of the fragment, whether it is the frame's last
_ACK = struct.Struct("!QI")  # next fragment that is wanted, how many more are taken
_GAPS = WINDOW // 8  # bytes: a bit for each fragment behind that one, which has come
_FIRST_PAUSE, _SHORTEST, _LONGEST = 0.1, 0.02, 1.0  # seconds until a fragment is sent again
_START, _LEAST, _MOST = 32, 4, 64  # fragments: what the receiver's socket can be trusted to hold


class Kind:
    """What a datagram is."""

    HELLO, WELCOME, REFUSED, DATA, ACK, PING, BYE = range(1, 8)


def pack(kind: int, number: int, body: bytes = b"") -> bytes:
    """Return a datagram."""
    return _HEAD.pack(kind, number) + body


def head_of(datagram: bytes) -> tuple[int, int, bytes] | None:
    """Return kind, number of the channel, and body; None: it is no datagram of ours."""
    if len(datagram) < _HEAD.size:
        return None
    kind, number = _HEAD.unpack_from(datagram)
    return kind, number, datagram[_HEAD.size :]


class _Flying:
    __slots__ = ("again_at", "datagram", "passed", "sent_at", "times")

    def __init__(self, datagram: bytes) -> None:
        self.datagram = datagram
        self.times = 0  # that it was sent
        self.sent_at = self.again_at = 0.0
        self.passed = False  # it was sent again since later ones have come


class Channel:
    """One end.

    Attributes:
        failure: why nothing more can come of it; "" while it is well.
    """

    def __init__(self, number: int, now: float, *, max_bytes: int, patience: float) -> None:
        """Start on a connection.

        Args:
            number: of the channel, the same at both ends.
            now: the time, by a monotonic clock.
            max_bytes: of the largest frame to take.
            patience: seconds of silence after which the other end is gone.
        """
        self.failure = ""
        self._number, self._max_bytes, self._patience = number, max_bytes, patience
        self._heard_at = self._spoke_at = now
        # To the other end.
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._flying: dict[int, _Flying] = {}  # by number, rising
        self._next = 0
        self._room, self._theirs = float(_START), WINDOW
        self._pause, self._smooth = _FIRST_PAUSE, 0.0
        # From the other end.
        self._wanted = 0
        self._early: dict[int, tuple[bytes, int]] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._owes_ack = False
        self.full = False  # its owner takes no more frames at the moment

    def send(self, frame: bytes) -> None:
        """Take a frame to be sent."""
        for start in range(0, max(1, len(frame)), FRAGMENT):
            last = start + FRAGMENT >= len(frame)
            self._unsent.append((frame[start : start + FRAGMENT], int(last)))

    def take_more(self) -> None:
        """Say that the owner has room again."""
        self.full, self._owes_ack = False, True

    # -- in ----------------------------------------------------------------------------------

    def receive(self, kind: int, body: bytes, now: float) -> list[bytes]:
        """Take a datagram; return the frames that are whole now."""
        self._heard_at = now
        try:
            if kind == Kind.DATA:
                return self._take(body)
            if kind == Kind.ACK:
                self._acknowledge(body, now)
            elif kind == Kind.PING:
                self._owes_ack = True
        except struct.error:
            self.failure = "the other end sent a datagram that is too short"
        return []

    def _take(self, body: bytes) -> list[bytes]:
        number, last = _DATA.unpack_from(body)
        self._owes_ack = True
        if not self._wanted <= number < self._wanted + WINDOW or self.full:
            return []  # it was here before, or there is no room for it: it will come again
        self._early.setdefault(number, (body[_DATA.size :], last))
        frames = []
        while (found := self._early.pop(self._wanted, None)) is not None:
            self._wanted += 1
            fragment, last = found
            self._parts.append(fragment)
            self._size += len(fragment)
            if self._size > self._max_bytes:
                self.failure = f"the other end sends a frame of more than {self._max_bytes} bytes"
                return frames
            if last:
                frames.append(b"".join(self._parts))
                self._parts, self._size = [], 0
        return frames

    def _acknowledge(self, body: bytes, now: float) -> None:
        wanted, self._theirs = _ACK.unpack_from(body)
        gaps = int.from_bytes(body[_ACK.size : _ACK.size + _GAPS], "little")
        highest = wanted - 1
        for number in list(self._flying):
            behind = number - wanted - 1
            if number < wanted or (behind >= 0 and gaps >> behind & 1):
                flying = self._flying.pop(number)
                highest = max(highest, number)
                self._room = min(_MOST, self._room + 1 / self._room)
                if flying.times == 1:  # else nobody knows which one was answered
                    self._measure(now - flying.sent_at)
        lost = False
        for number, flying in self._flying.items():
            if number + 3 <= highest and not flying.passed:
                flying.passed = lost = True
                flying.again_at = now
        if lost:
            self._room = max(_LEAST, self._room * 0.7)

    def _measure(self, seconds: float) -> None:
        self._smooth = seconds if not self._smooth else 0.875 * self._smooth + 0.125 * seconds
        self._pause = min(_LONGEST, max(_SHORTEST, 2 * self._smooth + 0.01))

    # -- out ---------------------------------------------------------------------------------

    def datagrams(self, now: float) -> list[bytes]:
        """Return what is to be sent now."""
        out = []
        if now - self._heard_at > self._patience:
            self.failure = self.failure or f"nothing was heard for {self._patience:g} s"
        if self._owes_ack:
            self._owes_ack = False
            out.append(self._ack())
        due = [each for each in self._flying.values() if each.again_at <= now]
        out += [self._fly(each, now) for each in due]
        while self._unsent and len(self._flying) < min(int(self._room), self._theirs):
            fragment, last = self._unsent.popleft()
            data = pack(Kind.DATA, self._number, _DATA.pack(self._next, last) + fragment)
            flying = self._flying[self._next] = _Flying(data)
            self._next += 1
            out.append(self._fly(flying, now))
        if not out and max(self._heard_at, self._spoke_at) + self._patience / 4 <= now:
            out.append(pack(Kind.PING, self._number))  # is anybody there? there is room again?
        if out:
            self._spoke_at = now
        return out

    def _ack(self) -> bytes:
        bits = 0
        for number in self._early:
            bits |= 1 << (number - self._wanted - 1)
        room = 0 if self.full else WINDOW
        body = _ACK.pack(self._wanted, room) + bits.to_bytes(_GAPS, "little")
        return pack(Kind.ACK, self._number, body)

    def _fly(self, flying: _Flying, now: float) -> bytes:
        if flying.times and not flying.passed:
            self._room = max(_LEAST, self._room * 0.7)
        flying.times += 1
        flying.sent_at = now
        flying.again_at = now + min(_LONGEST, self._pause * 2 ** (flying.times - 1))
        return flying.datagram

    def due(self) -> float:
        """Return when `datagrams` is to be asked again, if nothing comes before."""
        quiet = max(self._heard_at, self._spoke_at) + self._patience / 4
        times = [each.again_at for each in self._flying.values()]
        return min([quiet, self._heard_at + self._patience + 0.01, *times])
