"""Codec: values to bytes and back.

Owns the bytes of one frame. There are three codecs: `Codec()` writes JSON that anybody's peer
reads, `Codec(tagged=True)` JSON with tags between our own peers, `Codec(binary=True)` the same
values as msgpack, where bytes and arrays stay bytes; that one needs msgspec on both sides and is
negotiated (see `messages`). For JSON, msgspec is used if it is installed and the standard
library's json if not; the results are the same (the tests hold them against each other), only
the time differs. Knows nothing of messages, but how to join one from values that are bytes
already (`mould`, `fields`), and a batch from messages that are (`array`): so a value is encoded
once, at the call, when a failure has someone to be told to.

Decoding is strict: UTF-8 without a byte order mark, one value and nothing behind it, no NaN, no
infinities (nor numbers that would overflow to one), no lone surrogates, integers of at most 4300
digits, containers at most 64 deep, no key twice in an object, no more bytes than the limit.
Anything else is a ProtocolError, in time linear in the bytes. (In msgpack, which only our own peers
write, a key that stands twice counts where it stands last.)

Threads: a codec has no state after its construction; any thread may use it.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, NoReturn

from hybrid_compute._failures import text_of, type_name_of
from hybrid_compute.errors import PayloadTooLarge, ProtocolError
from hybrid_compute.protocol.tags import Form
from hybrid_compute.protocol.values import MAX_DEPTH, Refused, Values

__all__ = ["MAX_BYTES", "Codec", "has_msgspec"]

MAX_BYTES = 16 * 2**20

_DIGITS = 4300
# Containers around a value: the batch, the message, `args`; and per level of a tagged value the
# tag's object, its list and one of items. Parsers go no deeper, whatever the recursion limit.
_PARSER_DEPTH = 4 * MAX_DEPTH + 8
# json and msgspec stop at the recursion limit. If a program on 3.11 has lifted that, they would
# overflow the C stack (8 MB hold more than 20,000 levels); later Pythons count C's calls apart.
_SAFE_RECURSION = 10_000
_CONTAINERS = frozenset({dict, list})
_MAY_OVERFLOW = sys.version_info < (3, 12)

# The end of a string is optional: then no text makes the search start again within a string,
# which would take quadratic time.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))


def has_msgspec() -> bool:
    """Tell whether the fast codec, and with it the binary one, can be had."""
    return _msgspec() is not None


def _msgspec() -> Any:
    try:
        return importlib.import_module("msgspec")
    except ImportError:
        return None


class Codec:
    """Bytes for one kind of peer."""

    def __init__(
        self,
        *,
        tagged: bool = False,
        binary: bool = False,
        max_bytes: int = MAX_BYTES,
        msgspec: bool | None = None,
    ) -> None:
        """Choose what is written.

        Args:
            tagged: the peer is ours and reads tags.
            binary: the peer is ours and reads msgpack; implies `tagged`.
            max_bytes: the largest frame to decode, and the largest value to encode.
            msgspec: False does without it, True needs it; None uses it if it is there.

        Raises:
            ImportError: msgspec is needed and not installed.
        """
        found: Any = _msgspec() if msgspec is not False else None
        if found is None and (msgspec or binary):
            raise ImportError(
                "the fast and the binary codec need msgspec: pip install 'hybrid-compute[server]'"
            )
        self.tagged: bool = tagged or binary
        self.binary = binary
        self.max_bytes = max_bytes
        form = Form(octets=binary, numbers=binary) if self.tagged else None
        self._values = Values(form)
        self.record: Callable[[dict[str, Any]], bytes]  # a map of plain values that need no check
        self._form = form
        self._write: Callable[[Any], bytes]
        self._read: Callable[[bytes], Any]
        if found is not None and binary:
            self._write = found.msgpack.Encoder().encode
            self._read = found.msgpack.Decoder(ext_hook=_no_extension).decode
        elif found is not None:
            self._write = found.json.Encoder().encode
            self._read = found.json.Decoder().decode
        else:
            self._write = _write_json
            self._read = _read_json
        self.record = self._write

    # -- values ----------------------------------------------------------------------------

    def encode(self, value: Any, path: str = "$") -> bytes:
        """Return the bytes of a value.

        Args:
            value: anything; what the peer cannot get exactly is refused.
            path: how to call the value in the error.

        Raises:
            Refused: a part of it cannot go; its `path` tells which.
            PayloadTooLarge: there are more bytes than `max_bytes`.
        """
        kind = type(value)
        if kind is int and -(2**63) <= value < 2**63:
            return self._write(value) if self.binary else b"%d" % value
        values = self._values
        # With Python's own limit lifted the encoders take any integer, in quadratic time.
        if sys.get_int_max_str_digits() != _DIGITS:
            values = Values(self._form, thorough=True)
        try:
            data = self._write(values.pack(value))
        except Exception:
            # A lone surrogate, a large integer, or refused: slowly, to tag it or to name it. A
            # value's own code may raise anything.
            data = self._encode_thoroughly(value, path)
        if len(data) > self.max_bytes:
            raise PayloadTooLarge(
                f"{path} takes {len(data)} bytes, and {self.max_bytes} may be sent; "
                "send it in parts, or raise the limit on both sides",
                size=len(data),
                limit=self.max_bytes,
            )
        return data

    def _encode_thoroughly(self, value: Any, path: str) -> bytes:
        values = Values(self._form, thorough=True)
        try:
            try:
                return self._write(values.pack(value))
            except Refused as refusal:
                raise Refused(refusal.reason, values.locate(value, path)) from None
        except Refused:
            raise
        except (ValueError, OverflowError, RecursionError) as error:
            raise Refused(str(error), path) from error
        except Exception as error:  # of the value's own code
            text = f"reading it raised {type_name_of(type(error))}: {text_of(error)}"
            raise Refused(text, path) from error

    def decode(self, data: bytes | str) -> Any:
        """Parse one frame, without a look at what it means.

        Each value in it still has to go through `value`, which checks its depth and reads tags.

        Raises:
            PayloadTooLarge: it has more bytes than `max_bytes`.
            ProtocolError: it is malformed.
        """
        if len(data) > self.max_bytes:
            raise PayloadTooLarge(
                f"a frame of {len(data)} bytes came, and {self.max_bytes} are taken; "
                "raise the limit, or send less",
                size=len(data),
                limit=self.max_bytes,
            )
        try:
            if isinstance(data, str):
                data = data.encode()
                if len(data) > self.max_bytes:
                    raise PayloadTooLarge(
                        f"a frame of {len(data)} bytes came, and {self.max_bytes} are taken; "
                        "raise the limit, or send less",
                        size=len(data),
                        limit=self.max_bytes,
                    )
            if _MAY_OVERFLOW and sys.getrecursionlimit() > _SAFE_RECURSION:
                _check_depth(data, self.binary)
            value = self._read(data)
            if not self.binary:
                _check_keys(data, value)
            return value
        except (ProtocolError, PayloadTooLarge):
            raise
        except RecursionError:
            raise ProtocolError("a frame is nested too deep", excerpt=_start(data)) from None
        except Exception as error:  # the parsers have many
            what = "msgpack" if self.binary else "JSON"
            raise ProtocolError(
                f"a frame is not {what} that can be read here: {error}", excerpt=_start(data)
            ) from error

    def value(self, raw: Any) -> Any:
        """Return the value that a part of a decoded frame stands for.

        Raises:
            ProtocolError: it is nested too deep, or has a malformed tag.
        """
        return self._values.unpack(raw)

    # -- messages: maps whose values are bytes already ---------------------------------------

    def mould(self, *names: str) -> list[bytes]:
        """Return what stands before, between and behind the values of a map with these keys."""
        if self.binary:
            keys = [self._write(name) for name in names]
            keys[0] = bytes((0x80 + len(names),)) + keys[0]  # fewer than 16
            return [*keys, b""]
        keys = [b',"' + name.encode() + b'":' for name in names]
        return [b"{" + keys[0][1:], *keys[1:], b"}"]

    def fields(self, **values: bytes) -> bytes:
        """Return a map of encoded values."""
        *keys, end = self.mould(*values)
        return (
            b"".join([part for pair in zip(keys, values.values(), strict=True) for part in pair])
            + end
        )

    def array(self, parts: Sequence[bytes]) -> bytes:
        """Join encoded values to an array."""
        if not self.binary:
            return b"[" + b",".join(parts) + b"]"
        if len(parts) < 16:
            return bytes((0x90 + len(parts),)) + b"".join(parts)
        return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(parts)


def _start(data: bytes | str) -> bytes:
    return data[:200].encode(errors="replace") if isinstance(data, str) else data[:200]


def _no_extension(code: int, _data: memoryview) -> NoReturn:
    raise ProtocolError(f"msgpack extension {code} has no meaning here")


# -- JSON with the standard library ------------------------------------------------------------


def _integer(text: str) -> int:
    if len(text) > _DIGITS + text.startswith("-"):
        raise ValueError(f"an integer has more than {_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text[:20]} is out of range")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
_DECODER = json.JSONDecoder(
    parse_float=_float, parse_int=_integer, parse_constant=_no_constant, strict=True
)


def _write_json(value: Any) -> bytes:
    if type(value) is str:
        return encode_basestring(value).encode()
    return _ENCODER.encode(value).encode()


def _read_json(data: bytes) -> Any:
    text = str(data, "utf-8")
    value = _DECODER.decode(text)
    if "\\u" in text:
        # A lone surrogate can only come by an escape; writing it again finds it.
        _write_json(value)
    return value


def _check_keys(data: bytes, value: Any) -> None:
    """Refuse an object in which a key stands twice: who reads the first sees another call.

    Parsers keep the last of them. So there are more colons between the strings than there are keys.
    """
    colons = data.count(b":")
    if not colons:
        return
    keys = 0
    rest = [value]  # a list or a dict
    while rest:
        each = rest.pop()
        if type(each) is dict:
            keys += len(each)
            each = each.values()
        rest += [inner for inner in each if type(inner) in _CONTAINERS]
    if keys != colons and keys != _STRING.sub(b"", data).count(b":"):
        raise ProtocolError("a key stands twice in an object", excerpt=data[:200])


def _check_depth(data: bytes, binary: bool) -> None:
    """Refuse deep nesting before a parser recurses: someone lifted Python's recursion limit."""
    if binary:
        if len(data) > _SAFE_RECURSION:  # a level takes a byte at least
            raise ProtocolError(
                f"a frame of {len(data)} bytes is not safe to read as msgpack while Python's "
                f"recursion limit is over {_SAFE_RECURSION}: lower it (sys.setrecursionlimit)"
            )
        return
    if data.count(b"[") + data.count(b"{") <= _PARSER_DEPTH:
        return
    steps = _STRING.sub(b"", data).translate(_STEPS, _NO_BRACKETS)
    if max(accumulate(memoryview(steps).cast("b")), default=0) > _PARSER_DEPTH:
        raise ProtocolError("a frame is nested too deep", excerpt=data[:200])
