"""Frames: the bytes of a WebSocket client's frames (RFC 6455). No threads, no state."""

from __future__ import annotations

import os
import struct

from hybrid_compute.errors import (
    AuthError,
    HybridComputeError,
    PayloadTooLarge,
    RemoteConnectionLost,
)

__all__ = ["Masks", "error_of_close", "frame_of", "head_of", "is_sound"]

_MASKS = 64  # at a time


class Masks:
    """The masking keys of one connection, which nobody can foretell (RFC 6455, 5.3).

    They are asked of the system many at a time: a call for each would cost more than the masking.
    Any thread; no key is given out twice, since only `pop` does it.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def next(self) -> bytes:
        """Return four random bytes that are used for nothing else."""
        while True:
            try:
                return self._left.pop()
            except IndexError:
                many = os.urandom(4 * _MASKS)
                self._left = [many[at : at + 4] for at in range(0, 4 * _MASKS, 4)]


def frame_of(data: bytes, opcode: int, mask: bytes = b"") -> bytes:
    """Return a whole message as one frame, masked as a client's have to be (RFC 6455, 5.2).

    Args:
        data: the message.
        opcode: what it is.
        mask: one of `Masks`; b"": one is made.
    """
    mask = mask or os.urandom(4)
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 2**16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    # One exclusive or of two large integers: the quickest that Python itself has, and linear.
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return head + mask + (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")


def head_of(buffer: bytearray) -> tuple[int, int, int] | None:
    """Return what a server's frame begins with; None if its head has not come in full.

    Returns:
        The bytes of the head, its first byte (whether it is the last fragment, and the opcode), and
        the bytes of the data. A data length of -1 says that the frame is masked, or has reserved
        bits, which no server may send.
    """
    if len(buffer) < 2:
        return None
    first, length, head = buffer[0], buffer[1], 2
    if first & 0x70 or length & 0x80:
        return head, first, -1
    if length >= 126:
        head = 4 if length == 126 else 10
        if len(buffer) < head:
            return None
        length = int.from_bytes(buffer[2:head], "big")
    return head, first, length


def is_sound(close: bytes) -> bool:
    """Say whether the data of a close frame have a code that may be sent, and text (RFC 6455)."""
    if len(close) < 2:
        return not close
    code = int.from_bytes(close[:2], "big")
    try:
        close[2:].decode()
    except UnicodeDecodeError:
        return False
    return 3000 <= code < 5000 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def error_of_close(data: bytes, access: object) -> HybridComputeError:
    """Return what the data of a close frame mean for calls under way."""
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 1005
    reason = data[2:].decode(errors="replace")
    text = f"{access} closed the connection with code {code} {reason!r}"
    if code == 1009:
        return PayloadTooLarge(f"{text}: a message was too large for it; send less")
    if code in (1008, 4401, 4403):
        return AuthError(f"{text}; give a valid token=")
    lost = RemoteConnectionLost(text, may_have_run=True)
    lost.code = code  # type: ignore[attr-defined]
    return lost
