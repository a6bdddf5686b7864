"""Exceptions to bytes and back, for another process of this machine; and texts of any object.

Owns what becomes of an exception on the way: it is pickled and unpickled where it was raised
before that is relied on, and its description takes the place of what cannot travel. Worker
processes import this module first of all, so it imports little (`errors` and `traceback` only
when they are needed). No threads, no locks, no state.
"""

from __future__ import annotations

import _pickle as pickle  # see `_pickling`
import copyreg
import types

from hybrid_compute._pickling import dumps, loads

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "RemoteTraceback",
    "add_note",
    "decode_error",
    "encode_error",
    "short",
    "text_of",
    "type_name_of",
]


class RemoteTraceback(Exception):
    """The `__cause__` of an exception from another process: its traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


def encode_error(error: BaseException) -> bytes:
    """Pickle an exception with the text of its traceback. Never raises.

    It is unpickled here before that is relied on: if this fails, or gives something else, its
    description travels alone and `decode_error` makes a RemoteError of it. In a group, only the
    exceptions which cannot travel are replaced.
    """
    body, why = _checked(error)
    return pickle.dumps((body, why, *_description(error), _notes(error)), 5)


def decode_error(data: bytes) -> BaseException:
    """Undo `encode_error`; the remote traceback is the `__cause__`. Never raises."""
    from contextlib import suppress  # noqa: PLC0415 - as `errors`: only when it fails

    error: Any = None
    description = ["an exception", "its description is lost", "", ""]
    notes: list[str] = []
    try:
        body, why, *description, notes = pickle.loads(data)
        if body is not None:
            error = loads(body)
            if not isinstance(error, BaseException):
                error, why = None, f"it unpickles to a {type(error).__name__}"
    except BaseException as failure:  # a constructor may raise anything
        error, why = None, f"{type(failure).__name__}: {text_of(failure)}"
    if error is None:
        error = _stand_in(why, *description)
    with suppress(BaseException):  # its class may forbid it: the exception itself matters more
        if notes and getattr(error, "__notes__", None) != notes:
            error.__notes__ = notes
        if description[-1]:
            error.__cause__ = RemoteTraceback(description[-1])
    return error  # type: ignore[no-any-return]  # checked above


def _checked(error: BaseException) -> tuple[bytes | None, str]:
    """Return the pickle of an exception that survives the round trip, or None and the reason."""
    try:
        body = dumps(error)
        difference = _difference(error, loads(body))
        if not difference:
            return body, ""
    except BaseException as failure:  # a broken __reduce__ may raise anything
        difference = f"{type(failure).__name__}: {text_of(failure)}"
    if isinstance(error, BaseExceptionGroup):
        from contextlib import suppress  # noqa: PLC0415 - see above

        with suppress(BaseException):  # no group then, but its description
            group = error.derive([_portable(each) for each in error.exceptions])
            group.__dict__.update(error.__dict__)
            body = dumps(group)
            if type(group) is type(error) and not _difference(group, loads(body)):
                return body, ""
    return None, difference


def _portable(error: BaseException) -> BaseException:
    body, why = _checked(error)
    if body is not None:
        rebuilt: BaseException = loads(body)
        return rebuilt
    return _stand_in(why, *_description(error))


def _stand_in(why: str, type_name: str, text: str, args: str, trace: str) -> Exception:
    from hybrid_compute.errors import RemoteError  # noqa: PLC0415 - only when it fails

    return RemoteError(
        f"{type_name}: {text} (args: {args}; the exception itself cannot be pickled and "
        f"unpickled: {why}. Give its class a __reduce__ that works)",
        type_name=type_name,
        traceback_text=trace,
    )


_ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None)))
_ABSENT = object()


def _difference(error: Any, copy: Any) -> str:
    """Say what an exception has lost on the way; "" if nothing."""
    if type(copy) is not type(error):
        return f"it unpickles to a {type_name_of(type(copy))}"
    if isinstance(error, BaseExceptionGroup):
        for mine, other in zip(error.exceptions, copy.exceptions, strict=True):
            if lost := _difference(mine, other):
                return lost
    kind: Any = type(error)
    if (
        kind.__reduce__ is not BaseException.__reduce__
        or kind.__reduce_ex__ is not object.__reduce_ex__
        or kind in copyreg.dispatch_table
    ):
        return ""  # its author said how it is rebuilt, and what may be left behind
    if not _alike(error.args, copy.args):
        return f"its args become {short(copy.args)}"
    mine = {k: v for k, v in error.__dict__.items() if k != "__notes__"}
    for name, value in (mine | _slots(error)).items():
        if not _alike(value, getattr(copy, name, _ABSENT)):
            return f"its attribute {name!r} gets lost"
    return ""


def _alike(mine: Any, other: Any) -> bool:
    # Same class, and same value where that is certain to be comparable.
    if type(mine) is not type(other):
        return False
    if type(mine) is tuple:
        return len(mine) == len(other) and all(map(_alike, mine, other))
    return type(mine) not in _ATOMS or bool(mine == other) or mine != mine  # noqa: PLR0124 - NaN


def _slots(error: BaseException) -> dict[str, Any]:
    found = {}
    for cls in type(error).__mro__:
        if cls.__module__ != "builtins":
            for name, member in vars(cls).items():
                if isinstance(member, types.MemberDescriptorType) and hasattr(error, name):
                    found[name] = getattr(error, name)
    return found


def text_of(error: BaseException) -> str:
    """Return the text of an exception. Never raises."""
    try:
        return str.__str__(str(error))
    except BaseException as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


def add_note(error: BaseException, text: str) -> None:
    """Add a note to anybody's exception, if its class takes any: a frozen one does not."""
    try:  # noqa: SIM105 - see above
        error.add_note(text)
    except Exception:  # noqa: S110 - the exception itself matters more
        pass


def short(value: object) -> str:
    """Return the repr of an object, or the start of it. Never raises."""
    try:
        text = str.__str__(repr(value))
    except BaseException:
        return f"<a {type_name_of(type(value))}>"
    return text if len(text) <= 200 else f"{text[:200]}..."


def type_name_of(cls: type) -> str:
    """Return the qualified name of a class. Never raises."""
    try:
        return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
    except BaseException:
        return type.__repr__(cls)


def _notes(error: BaseException) -> list[str]:
    try:
        return [str.__str__(note) for note in vars(error)["__notes__"] if isinstance(note, str)]
    except BaseException:  # most have none
        return []


def _description(error: BaseException) -> tuple[str, str, str, str]:
    """Return type name, text, args and traceback of an exception, as texts."""
    import traceback  # noqa: PLC0415 - dear to import, and needed only when something fails

    type_name, text = type_name_of(type(error)), text_of(error)
    try:
        trace = "".join(traceback.format_exception(error))
    except BaseException:
        trace = f"{type_name}: {text}\n"
    return type_name, text, short(error.args), trace
