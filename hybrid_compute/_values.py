"""Value: the base of the few frozen records that every program needs at import.

Records elsewhere are `attrs.frozen`. These are not, since importing attrs takes 17 ms, as long as
all that the library needs of the standard library beyond `concurrent.futures`.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

__all__ = ["Value"]


class Value:
    """An immutable record: its fields are its slots, set once by the constructor.

    Two are equal if their class and all fields are. A subclass has keyword-only arguments named
    as its slots, and sets them with `_set`.
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    def _with(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**self._fields(), **changes})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a {type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a {type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash((type(self), *self._fields().values()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({inside})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._fields())


def _again(cls: type[Value], fields: dict[str, Any]) -> Value:
    return cls(**fields)
