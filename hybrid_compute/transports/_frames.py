"""Frames: the bytes of a WebSocket client's frames (RFC 6455). No threads, no state."""

from __future__ import annotations

import os
import struct

__all__ = ["frame_of", "is_sound"]


def frame_of(data: bytes, opcode: int) -> bytes:
    """Return a whole message as one frame, masked as a client's have to be (RFC 6455, 5.2)."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 2**16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    # One exclusive or of two large integers: the quickest that Python itself has, and linear.
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return head + mask + (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")


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
