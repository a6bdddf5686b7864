"""Calls, results and exceptions to bytes and back, for another process of this machine.

Owns how Python objects travel: plain pickle where that works and can be loaded elsewhere,
cloudpickle where not. Knows no process, no pipe and no executor. Both halves are here: worker
processes import this module before anything else of the library, so it imports little
(cloudpickle, `errors` and `traceback` only when they are needed). No threads, no locks, no
state but the functions that were sent to this process, and those that it has loaded. Encoding
with a memory of functions is `_functions.CallEncoder`.

What plain pickle gets wrong is quiet: a function or class of `__main__` is saved by its name,
and a worker, which never runs the caller's script, has another `__main__`. So the bytes are
searched for that name. Finding it in mere data costs the time of a second pickling and nothing
else; the search itself runs at memory speed.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

__all__ = [
    "BIG",
    "Buffers",
    "RemoteTraceback",
    "by_value",
    "decode_call",
    "decode_error",
    "dumps",
    "encode_call",
    "encode_calls",
    "encode_error",
    "flat",
    "known_function",
    "load_function",
    "loads",
    "received",
    "short",
    "text_of",
    "type_name_of",
]

Call = tuple[Callable[..., Any], tuple[Any, ...], "dict[str, Any] | None"]

# How protocol 5 writes the name: opcode, length, text. The module of a global always stands so.
MAIN = b"\x8c\x08__main__"
# What pickle raises for that which cloudpickle may know better. Anything else was raised by
# the user's own __reduce__ or __getstate__, which need not run a second time; a RecursionError
# or MemoryError would only come again.
CANNOT = (pickle.PicklingError, AttributeError, TypeError)

# Bytes; a buffer, or a pickle, of that size is better off in shared memory. What is smaller goes
# through a socket as quickly, in one piece.
BIG = 1 << 17

# Added behind the end of a pickle, where unpicklers do not look, when cloudpickle made it.
_BY_VALUE = b"+"
_STOP = pickle.STOP[0]


class Buffers(list[memoryview]):
    """The large buffers of an object, kept out of its pickle (protocol 5's out-of-band data).

    They are views of the object's own memory: nothing was copied.
    """

    __slots__ = ()

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Tell pickle whether a buffer shall be in the pickle after all."""
        view = buffer.raw()
        if view.nbytes < BIG:
            return True
        self.append(view)
        return False

    def size(self) -> int:
        """Return the bytes of all."""
        return sum(each.nbytes for each in self)


class _Flat:
    """Stands for large bytes: pickle itself keeps only PickleBuffers out of a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._value), (pickle.PickleBuffer(self._value),)


def flat(value: Any) -> Any:
    """Return what is to be pickled with `Buffers` in place of a value.

    Large bytes would be copied twice more, and searched.
    """
    kind = type(value)
    return _Flat(value) if (kind is bytes or kind is bytearray) and len(value) >= BIG else value


def dumps(obj: object, apart: Buffers | None = None) -> bytes:
    """Pickle an object so that another process can load it.

    Args:
        obj: what is pickled.
        apart: gets the large buffers, which are then not in the pickle; None leaves them there.

    Raises:
        BaseException: whatever pickle, cloudpickle or the object's own methods raise.
    """
    try:
        data = pickle.dumps(obj, 5, buffer_callback=None if apart is None else apart.keep)
    except CANNOT:
        pass
    else:
        if MAIN not in data:
            return data
    return by_value(obj, apart)


def by_value(obj: object, apart: Buffers | None = None) -> bytes:
    """Pickle an object with functions and classes that have no importable name by value.

    A class that went out like this is known again when it comes back: both processes keep its
    tracker id, so instances in a result are instances of the caller's own class.
    """
    import cloudpickle  # noqa: PLC0415 - 15 ms that most programs need not spend

    if apart is not None:
        apart.clear()  # an attempt was made before
    data: bytes = cloudpickle.dumps(obj, 5, None if apart is None else apart.keep)
    return data + _BY_VALUE


def loads(data: bytes | bytearray | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """Undo `dumps` for the caller's side: results and exceptions.

    cloudpickle would do, but for one thing: when an instance of the caller's own class comes
    back, the worker's copy of the class comes with it, and cloudpickle assigns all that copy's
    methods and attributes to the caller's class. Here a class that is known stays as it is.
    """
    if data[-1] == _STOP:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - from a process of ours
    return _Unpickler(io.BytesIO(data), buffers=buffers).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, *, buffers: Sequence[memoryview]) -> None:
        super().__init__(file, buffers=buffers)
        self._new: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module != "cloudpickle.cloudpickle":
            return found
        if name in ("_make_skeleton_class", "_make_skeleton_enum"):
            return functools.partial(self._make, found)
        if name == "_class_setstate":
            return functools.partial(self._set_state, found)
        return found

    def _make(self, make: Callable[..., type], *args: Any) -> type:
        from cloudpickle import cloudpickle  # noqa: PLC0415 - it is loaded: it made this pickle

        # cloudpickle's own table; its functions and their arguments are its wire format.
        known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
        if known is not None:
            return known  # type: ignore[no-any-return]  # a table of classes
        cls = make(*args)
        self._new.add(cls)
        return cls

    def _set_state(self, set_state: Callable[..., type], cls: type, state: Any) -> type:
        return set_state(cls, state) if cls in self._new else cls


@functools.lru_cache(maxsize=256)
def load_function(data: bytes) -> Any:
    """Load a function that was pickled by value; the same bytes give the same function.

    So a function is loaded once per worker, not once per call, and what it keeps in its own
    global variables stays from call to call, as that of an imported module does.
    """
    return pickle.loads(data)  # noqa: S301 - from a process of ours


# Functions that the caller has sent, by its number for them; it says when to forget one. In a
# worker only, which has one caller.
received: dict[int, bytes] = {}


def known_function(number: int) -> Any:
    """Return a function that was sent before: what stands for it in a pickled call."""
    return load_function(received[number])


# -- calls ---------------------------------------------------------------------------------


def encode_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None, *, name: str
) -> bytes:
    """Pickle one call.

    Raises:
        TaskEncodeError: a part of it cannot be pickled. The text names the part; what pickling
            raised, be it a SystemExit, is the `__cause__`.
    """
    try:
        return dumps((fn, args, kwargs))
    except BaseException as error:  # a user's __reduce__ may raise anything
        from hybrid_compute._blame import explain  # noqa: PLC0415 - only when it fails

        raise explain(fn, args, kwargs, error, name=name) from error


def encode_calls(calls: Sequence[Call]) -> bytes:
    """Pickle many calls at once: what they share, like their function, is in it once.

    Raises:
        BaseException: whatever pickling raised. `encode_call`, one by one, finds the culprit.
    """
    return dumps(calls)


def decode_call(data: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """Undo `encode_call`, or `encode_calls`. Raises whatever unpickling raises."""
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - from a process of ours


# -- exceptions ----------------------------------------------------------------------------


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
    error: Any = None
    description = ["an exception", "its description is lost", "", ""]
    notes: list[str] = []
    try:
        body, why, *description, notes = pickle.loads(data)  # noqa: S301 - as above
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


# -- texts, from objects whose methods may do anything ---------------------------------------


def text_of(error: BaseException) -> str:
    """Return the text of an exception. Never raises."""
    try:
        return str.__str__(str(error))
    except BaseException as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


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
