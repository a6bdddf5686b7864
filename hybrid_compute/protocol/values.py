"""Values: what may stand in a message, and how what JSON lacks is written.

Owns the two readings of a value. *Plain*, for anybody's peers: what JSON cannot carry exactly is
refused with its path, never changed (but a tuple goes as an array, as every JSON library does).
*Tagged*, between our own peers: what JSON lacks stands as `{"$hc": [kind, ...]}`, by the tables
of `tags`. The two are told apart by who the peer is, never by looking at a value. A dict of the
user's which has the key `$hc` itself is tagged too, so a tag never means anything else.

Knows no bytes: `codec` makes those. No threads, no state, no clock.

Only exact types pass: a subclass of int, str, dict, ... may have lost something on the way, so
it is refused as well. `pack` returns the very object that it was given where nothing in it needs
a tag; it must be encoded before anybody can change it. Depth counts containers, tags included: 64
are allowed, also one within another by a cycle.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any, NoReturn

from hybrid_compute._failures import short, type_name_of
from hybrid_compute.errors import ProtocolError
from hybrid_compute.protocol.tags import DECODERS, MAX_DIGITS, TAG, Form, encoder_of

__all__ = ["MAX_DEPTH", "Refused", "Values"]

MAX_DEPTH = 64

_SCALARS = frozenset((str, int, bool, type(None)))
_CONSTANTS = frozenset((bool, type(None)))
_CONTAINERS = frozenset((list, dict))


class Refused(Exception):
    """A value cannot go to this peer exactly.

    Attributes:
        path: where it stands, as in `$.args[1].x`.
        reason: why, and what to do instead.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


class Values:
    """One reading of values: plain, or tagged in a form."""

    __slots__ = ("_atoms", "_form", "_sequences")

    def __init__(self, form: Form | None = None, *, thorough: bool = False) -> None:
        """Choose the reading.

        Args:
            form: what the encoder of tagged values carries by itself. None: plain.
            thorough: look into text and integers too, for lone surrogates and size. The quick
                way lets the encoder stumble over them.
        """
        self._form = form
        self._atoms = _CONSTANTS if thorough else _SCALARS
        self._sequences = (list, tuple) if form is None else (list,)

    def pack(self, value: Any, depth: int = 0) -> Any:
        """Return what the encoder can write of a value.

        Raises:
            Refused: a part cannot go; `locate` finds which.
        """
        kind = type(value)
        if kind in self._atoms:
            return value
        if kind is dict:
            return self._pack_dict(value, depth)
        if kind in self._sequences:
            return self._pack_items(value, depth)
        return self._pack_other(value, kind, depth)

    def _pack_items(self, values: Any, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            _too_deep()
        kinds = set(map(type, values))  # a loop in C: most lists hold one kind of atom
        if kinds <= self._atoms:
            return values
        if kinds == {float} and all(map(isfinite, values)):
            return values
        pack = self.pack
        return [pack(each, depth + 1) for each in values]

    def _pack_dict(self, value: dict[Any, Any], depth: int) -> Any:
        if depth >= MAX_DEPTH:
            _too_deep()
        pack = self.pack
        if value and set(map(type, value)) != {str}:
            key = next(each for each in value if type(each) is not str)
            if self._form is None:
                raise Refused(
                    f"its key {short(key)} is no text but of type {type_name_of(type(key))}, and "
                    "JSON has text only; use str(key)"
                )
        elif self._form is None or TAG not in value:
            if _SCALARS is self._atoms:
                if _SCALARS.issuperset(map(type, value.values())):
                    return value
                return {key: pack(each, depth + 1) for key, each in value.items()}
            if all(map(_is_text, value)):
                return {key: pack(each, depth + 1) for key, each in value.items()}
            if self._form is None:
                raise Refused("a key of it holds a lone surrogate, which UTF-8 cannot carry")
        pairs = [[pack(k, depth + 1), pack(v, depth + 1)] for k, v in value.items()]
        return {TAG: ["dict", pairs]}

    def _pack_other(self, value: Any, kind: type, depth: int) -> Any:
        form = self._form
        if kind is float:
            if isfinite(value) or (form is not None and form.numbers):
                return value
            reason = "JSON has no infinities and no NaN; use None or text"
        elif kind is int:
            if abs(value) < (MAX_DIGITS if form is None or not form.numbers else 2**63):
                return value
            reason = "it has more than 4300 digits; use text"
        elif kind is str:
            if _is_text(value):
                return value
            reason = "it holds a lone surrogate, which UTF-8 cannot carry; use bytes.hex()"
        elif kind is bytes and form is not None and form.octets:
            return value
        else:
            reason = f"JSON has nothing for a {type_name_of(kind)}; convert it"
        if form is None:
            raise Refused(f"{short(value)} cannot be sent exactly to this peer: {reason}")
        encode = encoder_of(kind)
        if encode is None:
            raise Refused(
                f"{short(value)}: nothing here can send a {type_name_of(kind)}; convert it"
            )
        if depth >= MAX_DEPTH:
            _too_deep()
        try:
            return {TAG: encode(value, lambda each: self.pack(each, depth + 1), form)}
        except (ValueError, TypeError) as error:
            raise Refused(f"{short(value)}: {error}") from error

    def unpack(self, value: Any, depth: int = 0) -> Any:
        """Undo `pack`, in place where that can be.

        Raises:
            ProtocolError: a tag is malformed, or containers are nested too deep.
        """
        kind = type(value)
        if kind is list:
            if depth >= MAX_DEPTH:
                _too_deep_in()
            if not _CONTAINERS.isdisjoint(map(type, value)):
                for index, each in enumerate(value):
                    if type(each) in _CONTAINERS:
                        value[index] = self.unpack(each, depth + 1)
        elif kind is dict:
            if depth >= MAX_DEPTH:
                _too_deep_in()
            if self._form is not None and TAG in value:
                return self._untag(value, depth, self._form)
            if not _CONTAINERS.isdisjoint(map(type, value.values())):
                for key, each in value.items():
                    if type(each) in _CONTAINERS:
                        value[key] = self.unpack(each, depth + 1)
        return value

    def _untag(self, value: dict[str, Any], depth: int, form: Form) -> Any:
        body = value[TAG]
        try:
            kind, *rest = body
            decode = DECODERS[kind]
            if len(value) != 1:
                raise ValueError("a tag stands alone")
            return decode(rest, lambda each: self.unpack(each, depth + 1), form)
        except ProtocolError:
            raise
        except Exception as error:  # constructors of the standard library and numpy raise anything
            raise ProtocolError(f"malformed tag {short(body)}: {error}") from error

    def locate(self, value: Any, path: str) -> str:
        """Return the path of the part of a value which `pack` refuses; `path` is the value's."""
        for _ in range(MAX_DEPTH):  # no further than packing goes, for a cycle has no end
            for suffix, child in _children(value):
                try:
                    self.pack(child)
                except Refused:
                    path += suffix
                    value = child
                    break
            else:
                break
        return path


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            if type(key) is not str:
                yield f"[{short(key)}]", each
            else:
                yield f".{key}" if key.isidentifier() else f"[{short(key)}]", each
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield f"[{index}]", each
    elif isinstance(value, (set, frozenset)):
        for each in value:
            yield f"{{{short(each)}}}", each


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep() -> NoReturn:
    raise Refused(f"it is nested more than {MAX_DEPTH} deep, or contains itself")


def _too_deep_in() -> NoReturn:
    raise ProtocolError(f"a value is nested more than {MAX_DEPTH} deep")
