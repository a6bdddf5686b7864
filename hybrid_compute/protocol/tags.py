"""Tags: how our own peers write what JSON has no notation for.

Owns the table of kinds: per kind, how a value becomes a list `[kind, ...]` and how that becomes
a value again. `values` puts the list under the key TAG. A decoder takes nothing on trust: it
raises whatever it likes, and `values` makes one ProtocolError of that; it allocates no more than
a small multiple of what came in, and it runs no code that a peer could name (numpy and zoneinfo
are the only modules it may load). numpy is not needed to load this.
"""

from __future__ import annotations

import binascii
import datetime as dt
import decimal
import math
import re
import sys
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["DECODERS", "MAX_DIGITS", "TAG", "Form", "encoder_of"]

TAG = "$hc"

# Python itself writes and reads integers of 4300 digits, and no more: beyond, the time is
# quadratic. Larger ones are tagged, in hexadecimal, which is linear.
MAX_DIGITS = 10**4300


class Form(NamedTuple):
    """What the bytes below tagged values carry by themselves."""

    octets: bool  # bytes
    numbers: bool  # NaN and infinities; integers up to 64 bits only


Pack = Callable[[Any], Any]
Encoder = Callable[[Any, Pack, Form], list[Any]]
Decoder = Callable[[list[Any], Pack, Form], Any]


def encoder_of(kind: type) -> Encoder | None:
    """Return what writes values of exactly this class, or None."""
    found = _ENCODERS.get(kind)
    if found is None and "numpy" in sys.modules:
        import numpy as np  # noqa: PLC0415 - it is loaded

        if kind is np.ndarray:
            return _write_array
        if issubclass(kind, np.generic):
            return _write_number
    return found


# -- octets ----------------------------------------------------------------------------------


def _octets(data: Any, form: Form) -> Any:
    return bytes(data) if form.octets else binascii.b2a_base64(data, newline=False).decode()


def _octets_in(data: Any, form: Form) -> bytes:
    if form.octets:
        if type(data) is not bytes:
            raise TypeError("no bytes")
        return data
    return binascii.a2b_base64(_text(data), strict_mode=True)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} in place of text")
    return value


def _one(rest: list[Any]) -> Any:
    (value,) = rest
    return value


def _ints(values: list[Any], count: int) -> list[int]:
    if len(values) != count or any(type(each) is not int for each in values):
        raise TypeError(f"not {count} integers")
    return values


# -- containers ------------------------------------------------------------------------------


def _write_items(kind: str) -> Encoder:
    return lambda value, pack, _: [kind, [pack(each) for each in value]]


def _read_items(make: Callable[[list[Any]], Any]) -> Decoder:
    def read(rest: list[Any], unpack: Pack, _: Form) -> Any:
        (items,) = rest
        if type(items) is not list:
            raise TypeError("no array")
        return make([unpack(each) for each in items])

    return read


def _read_pairs(rest: list[Any], unpack: Pack, _: Form) -> dict[Any, Any]:
    (pairs,) = rest
    if type(pairs) is not list or any(type(pair) is not list for pair in pairs):
        raise TypeError("no array of pairs")
    return {unpack(key): unpack(value) for key, value in pairs}


# -- numbers ---------------------------------------------------------------------------------


def _read_float(rest: list[Any], _unpack: Pack, _: Form) -> float:
    (name,) = rest
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[name]


def _read_hex(rest: list[Any], _unpack: Pack, _: Form) -> int:
    (digits,) = rest
    if not re.fullmatch("-?0x[0-9a-f]+", _text(digits)):
        raise ValueError("no hexadecimal number")
    return int(digits, 16)


def _read_complex(rest: list[Any], unpack: Pack, _: Form) -> complex:
    real, imag = map(unpack, rest)
    if type(real) is not float or type(imag) is not float:
        raise TypeError("not two floats")
    return complex(real, imag)


# -- times -----------------------------------------------------------------------------------

_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]{1,30}(/[A-Za-z0-9_+-]{1,30}){0,3}")


def _zone(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        parts = [offset.days, offset.seconds, offset.microseconds]
        # Its name is kept only if it was given one.
        plain = dt.timezone(offset).tzname(None) == zone.tzname(None)
        return parts if plain else [*parts, zone.tzname(None)]
    key = getattr(zone, "key", None)
    if type(zone).__module__ in ("zoneinfo", "_zoneinfo") and type(key) is str:
        return key
    raise ValueError("its time zone is neither a datetime.timezone nor a zoneinfo.ZoneInfo")


def _zone_in(zone: Any) -> dt.tzinfo | None:
    if zone is None:
        return None
    if type(zone) is list:
        offset = dt.timedelta(*_ints(zone[:3], 3))
        return dt.timezone(offset, *map(_text, zone[3:]))
    if not _ZONE_NAME.fullmatch(_text(zone)):
        raise ValueError("no name of a time zone")
    import zoneinfo  # noqa: PLC0415 - rarely needed

    return zoneinfo.ZoneInfo(zone)


def _write_datetime(value: dt.datetime, _pack: Pack, _: Form) -> list[Any]:
    text = value.replace(tzinfo=None, fold=0).isoformat()
    return ["datetime", text, _zone(value.tzinfo), value.fold]


def _read_datetime(rest: list[Any], _unpack: Pack, _: Form) -> dt.datetime:
    text, zone, fold = rest
    naive = dt.datetime.fromisoformat(_text(text))
    if naive.tzinfo is not None:
        raise ValueError("two time zones")
    return naive.replace(tzinfo=_zone_in(zone), fold=_ints([fold], 1)[0])


def _write_time(value: dt.time, _pack: Pack, _: Form) -> list[Any]:
    text = value.replace(tzinfo=None, fold=0).isoformat()
    return ["time", text, _zone(value.tzinfo), value.fold]


def _read_time(rest: list[Any], _unpack: Pack, _: Form) -> dt.time:
    text, zone, fold = rest
    naive = dt.time.fromisoformat(_text(text))
    if naive.tzinfo is not None:
        raise ValueError("two time zones")
    return naive.replace(tzinfo=_zone_in(zone), fold=_ints([fold], 1)[0])


# -- numpy -----------------------------------------------------------------------------------

# Numbers, text, bytes and dates. No objects (they would be pointers) and no records.
_DTYPE = re.compile(r"[<>|]([biufcSU][1-9]\d{0,8}|[mM]8(\[\d{0,9}[a-zA-Z]{1,2}\])?)")


def _dtype(dtype: Any) -> str:
    name: str = dtype.str
    if not _DTYPE.fullmatch(name) or dtype.metadata:
        raise ValueError(f"arrays of {dtype} cannot be sent")
    return name


def _write_array(value: Any, _pack: Pack, form: Form) -> list[Any]:
    return ["ndarray", _dtype(value.dtype), list(value.shape), _octets(value.tobytes(), form)]


def _write_number(value: Any, _pack: Pack, form: Form) -> list[Any]:
    return ["number", _dtype(value.dtype), _octets(value.tobytes(), form)]


def _read_array(rest: list[Any], _unpack: Pack, form: Form) -> Any:
    name, shape, data = rest
    if type(shape) is not list or any(each < 0 for each in _ints(shape, len(shape))):
        raise ValueError("no shape")
    return _array(name, tuple(shape), _octets_in(data, form))


def _read_number(rest: list[Any], _unpack: Pack, form: Form) -> Any:
    name, data = rest
    return _array(name, (), _octets_in(data, form))[()]


def _array(name: Any, shape: tuple[int, ...], data: bytes) -> Any:
    if not _DTYPE.fullmatch(_text(name)):
        raise ValueError("no dtype that may be sent")
    import numpy as np  # noqa: PLC0415 - only who gets arrays needs it

    dtype = np.dtype(name)
    # Before anything is allocated. Python's integers cannot overflow here; numpy's could.
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes do not fill the shape {shape}")
    if not data:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, bytearray(data))  # a buffer of its own, to be written to


# -- the table -------------------------------------------------------------------------------

_ENCODERS: dict[type, Encoder] = {
    tuple: _write_items("tuple"),
    set: _write_items("set"),
    frozenset: _write_items("frozenset"),
    float: lambda value, _pack, _: ["float", str(value)],
    int: lambda value, _pack, _: ["int", hex(value)],
    str: lambda value, _pack, form: ["str", _octets(value.encode("utf-8", "surrogatepass"), form)],
    complex: lambda value, pack, _: ["complex", pack(value.real), pack(value.imag)],
    bytes: lambda value, _pack, form: ["bytes", _octets(value, form)],
    bytearray: lambda value, _pack, form: ["bytearray", _octets(value, form)],
    dt.datetime: _write_datetime,
    dt.date: lambda value, _pack, _: ["date", value.isoformat()],
    dt.time: _write_time,
    dt.timedelta: lambda value, _pack, _: [
        *("timedelta", value.days, value.seconds, value.microseconds)
    ],
    decimal.Decimal: lambda value, _pack, _: ["decimal", str(value)],
    uuid.UUID: lambda value, _pack, _: ["uuid", str(value)],
}

DECODERS: dict[str, Decoder] = {
    "tuple": _read_items(tuple),
    "set": _read_items(set),
    "frozenset": _read_items(frozenset),
    "dict": _read_pairs,
    "float": _read_float,
    "int": _read_hex,
    "str": lambda rest, _unpack, form: _octets_in(_one(rest), form).decode(
        "utf-8", "surrogatepass"
    ),
    "complex": _read_complex,
    "bytes": lambda rest, _unpack, form: _octets_in(_one(rest), form),
    "bytearray": lambda rest, _unpack, form: bytearray(_octets_in(_one(rest), form)),
    "datetime": _read_datetime,
    "date": lambda rest, _unpack, _: dt.date.fromisoformat(_text(_one(rest))),
    "time": _read_time,
    "timedelta": lambda rest, _unpack, _: dt.timedelta(*_ints(rest, 3)),
    "decimal": lambda rest, _unpack, _: decimal.Decimal(_text(_one(rest))),
    "uuid": lambda rest, _unpack, _: uuid.UUID(_text(_one(rest))),
    "ndarray": _read_array,
    "number": _read_number,
}
