"""Calls and results to bytes and back, for another process of this machine.

Owns how Python objects travel: plain pickle where that works and can be loaded elsewhere,
cloudpickle where not. Knows no process, no pipe and no executor. Both halves are here: worker
processes import this module before anything else of the library, so it imports little
(cloudpickle only when it is needed). No threads, no locks, no
state but what was sent to this process: its caller's limit, and functions. Encoding
with a memory of functions is `_functions.CallEncoder`.

What plain pickle gets wrong is quiet: a function or class of `__main__` is saved by its name,
and a worker, which never runs the caller's script, has another `__main__`. So the bytes are
searched for that name. Finding it in mere data costs the time of a second pickling and nothing
else; the search itself runs at memory speed.
"""

from __future__ import annotations

# Not `pickle` and `typing`, with the regular expressions that these import: 10 ms of the 20 that a
# worker takes to start. The C module is all that is used of the former.
import _pickle as pickle
import functools
import io

TYPE_CHECKING = False  # as typing's
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]

__all__ = [
    "BIG",
    "Buffers",
    "by_value",
    "check_size",
    "decode_call",
    "dumps",
    "encode_call",
    "encode_calls",
    "flat",
    "known_function",
    "load_function",
    "loads",
    "nest",
    "produce",
    "received",
]

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
_STOP = ord(".")  # the opcode at the end of each


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

    def __init__(self, value: bytes) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (pickle.PickleBuffer(self._value),)


def flat(value: Any) -> Any:
    """Return what is to be pickled with `Buffers` in place of a value.

    Large bytes would be copied twice more, and searched. (A bytearray must not be replaced: it may
    occur a second time, deeper down, and has to be the same one in both places.)
    """
    return _Flat(value) if type(value) is bytes and len(value) >= BIG else value


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
        return pickle.loads(data, buffers=buffers)
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
    return pickle.loads(data)


# Bytes that a pickled result may have. In a worker only: its caller said so.
max_payload: int | None = None


def check_size(value: object, size: int) -> None:
    """Refuse a result that pickles to more bytes than `max_payload`.

    Raises:
        PayloadTooLarge: it does.
    """
    if max_payload is not None and size > max_payload:
        from hybrid_compute.errors import PayloadTooLarge  # noqa: PLC0415 - only when it fails

        raise PayloadTooLarge(
            f"the work was done, but its result, of type {type(value).__module__}."
            f"{type(value).__qualname__}, pickles to {size} bytes, and max_payload allows "
            f"{max_payload}. Return the name of a file, or raise max_payload",
            size=size,
            limit=max_payload,
        )


# How to run a generator and send its items: `executors._production`. In a worker only.
produce: Callable[..., Any] | None = None

# What `hybrid_compute.current` asks: the way to the caller and the number of the call that runs, or
# None between calls and on other threads. In a worker only.
nest: Callable[[], Any] | None = None

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
    return pickle.loads(data, buffers=buffers)
