"""CallEncoder: pickles calls and remembers the functions that it had to pickle by value.

Owns the memory of one executor for functions without an importable name (of `__main__`, of a
notebook, lambdas, closures). cloudpickle takes 50-200 us for each; a burst of calls of the same
one pays it once. Knows how functions are made up; knows no process and no pipe. Worker
processes do not import this module.

What must never happen is that a stale function is sent. So beside the bytes stands the identity
of everything that went into them: code, names, defaults, closure cells, attributes,
annotations, and each global variable that the code names, of the function and of all by-value
functions and tasks that it refers to. The bytes are used only while every identity is as it
was, and identity tells enough because nothing else is remembered: the captured things must be
constants, modules, or functions and classes that can be imported. A function that captures
anything else (a list, an instance, a class of `__main__`) is pickled anew for every message.

Nothing is kept alive: functions, classes and modules are held by weak references, and the death
of one voids the entry; only constants and code objects, which refer to nothing of the user's,
are held. No lock: an entry is complete before it is put into the dict, never changed but for
plain flags, and two threads that make the same one at a time lose nothing but time.

A worker gets such a function once, and after that only its number (`Library`). It loads equal
bytes once (`_pickling.load_function`), so the function keeps the global variables that it assigns
to itself between calls, as one of an imported module does.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hybrid_compute._captures import (
    ABSENT,
    NAMED,
    absent_submodules,
    capture,
    find_global_names,
    importable,
    is_constant,
    is_function,
    is_module,
    is_plain,
)
from hybrid_compute._pickling import (
    CANNOT,
    MAIN,
    Buffers,
    by_value,
    flat,
    known_function,
    load_function,
)

if TYPE_CHECKING:
    from hybrid_compute._pickling import Call

__all__ = ["CallEncoder", "Library", "is_interrupt", "on_main_thread"]

# Beyond these an entry costs more than it saves: huge constants, variables that always change.
_MAX_BYTES = 1 << 20
_MAX_CHANGES = 16
_MAX_NAMES = 512

# What a worker keeps of the functions that it was sent, at the most: number and bytes of them.
_LIBRARY_MOST = 256
_LIBRARY_BYTES = 1 << 24


def on_main_thread() -> bool:
    """Say whether this is the thread on which signal handlers run."""
    return threading.current_thread() is threading.main_thread()


def is_interrupt(error: BaseException) -> bool:
    """Say whether what pickling has raised is Ctrl-C rather than the pickled object's fault."""
    return isinstance(error, KeyboardInterrupt) and on_main_thread()


class Library:
    """The functions that one worker has, by number. Used by whoever feeds that worker.

    A number is sent in place of a function; the function itself goes ahead, once. When they
    become many, the worker is told to forget the oldest.
    """

    __slots__ = ("known", "new")

    def __init__(self) -> None:
        self.known: dict[int, int] = {}  # size by number, the oldest first
        self.new: dict[int, _Sent] = {}  # referred to by what is being encoded

    def reference(self, sent: _Sent) -> _Reference:
        if sent.number not in self.known:
            self.new[sent.number] = sent
        return sent.reference

    def with_new(self) -> tuple[dict[int, int], list[int]]:
        """Return what `known` must become when the new ones are sent, and whom to forget then."""
        known = self.known | {number: len(sent.data) for number, sent in self.new.items()}
        size = sum(known.values())
        gone: list[int] = []
        for number, each in known.items():
            if len(known) - len(gone) <= _LIBRARY_MOST and size <= _LIBRARY_BYTES:
                break
            gone.append(number)
            size -= each
        for number in gone:
            del known[number]
        return known, gone


class CallEncoder:
    """Encodes the calls of one executor. Thread-safe; blocks on nothing.

    The module-level functions of `_pickling` give the same bytes without the memory.

    Args:
        carriers: callables whose first argument is the function that they call.
    """

    __slots__ = ("__weakref__", "_carriers", "_forget", "_known", "_names", "_numbers")

    def __init__(self, carriers: Sequence[Callable[..., Any]] = ()) -> None:
        self._carriers = tuple(carriers)
        self._known: dict[int, _Known] = {}  # by id; an entry goes before its function does
        self._names: dict[types.CodeType, tuple[str, ...]] = {}
        self._numbers = itertools.count(1)
        myself = weakref.ref(self)  # a strong one would be a cycle through each entry

        def forget(reference: Any) -> None:
            encoder = myself()
            if encoder is not None:
                encoder._known.pop(reference.key, None)

        self._forget = forget

    def encode_call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        *,
        name: str,
        library: Library | None = None,
        apart: Buffers | None = None,
        private: bool = False,
    ) -> bytes:
        """Pickle one call, like `_pickling.encode_call`.

        Args:
            fn: the function.
            args: its positional arguments.
            kwargs: its keyword arguments.
            name: what an error calls it.
            library: of the worker that will get the call; None puts all into the pickle.
            apart: see `_pickling.dumps`.
            private: an error tells no more of the arguments than their types.

        Raises:
            TaskEncodeError: a part of it cannot be pickled.
            KeyboardInterrupt: on the main thread only, where that is most likely Ctrl-C; a
                `__reduce__` that raises it cannot be told from that.
        """
        try:
            light, named = args, kwargs
            if apart is not None:
                light = tuple(map(flat, args))
                if kwargs:
                    named = {key: flat(value) for key, value in kwargs.items()}
            if id(fn) not in self._known:
                try:
                    data = _dumps((fn, light, named), apart)
                except CANNOT:
                    pass
                else:
                    if MAIN not in data:
                        return data
            sent, light, mains = self._swap(fn, light, {}, library)
            return _dumps_with((sent, light, named), mains, apart)
        except BaseException as error:  # a user's __reduce__ may raise anything
            if is_interrupt(error):
                raise
            from hybrid_compute._blame import explain  # noqa: PLC0415 - only when it fails

            why = explain(fn, args, kwargs, error, name=name, private=private)
            raise why from (None if private else error)

    def encode_calls(
        self, calls: Sequence[Call], *, library: Library | None = None, apart: Buffers | None = None
    ) -> bytes:
        """Pickle many calls at once, like `_pickling.encode_calls`; see `encode_call`.

        Raises:
            BaseException: whatever pickling raised.
        """
        if not self._known:
            try:
                data = _dumps(calls, apart)
            except CANNOT:
                pass
            else:
                if MAIN not in data:
                    return data
        done: dict[int, Any] = {}  # each function is checked once a message
        swapped, mains = [], 0
        for fn, args, kwargs in calls:
            sent, light, more = self._swap(fn, args, done, library)
            mains += more
            swapped.append((sent, light, kwargs))
        return _dumps_with(swapped, mains, apart)

    def _swap(
        self,
        fn: Any,
        args: tuple[Any, ...],
        done: dict[int, Any],
        library: Library | None,
    ) -> tuple[Any, tuple[Any, ...], int]:
        """Return what stands for the function of a call, its arguments, and its own `mains`.

        `done` has the functions of this message, by id.
        """
        carried = fn in self._carriers and bool(args)
        function = args[0] if carried else fn
        key, mains = id(function), 0
        if key not in done:
            sent = self._in_place_of(function)
            if type(sent) is _Sent:
                if library is not None:
                    sent = library.reference(sent)
                else:
                    mains = sent.mains
            done[key] = sent
        return (fn, (done[key], *args[1:]), mains) if carried else (done[key], args, mains)

    def _in_place_of(self, fn: Any) -> Any:
        """Return what stands for a function in a pickle: itself, or its remembered bytes."""
        known = self._known.get(id(fn))
        if known is None:
            if not is_function(fn) or importable(fn):
                return fn
            known = _Known(weakref.KeyedRef(fn, self._forget, id(fn)))
        elif known.sent is not None and known.sent.is_current():
            return known.sent
        if known.changes <= _MAX_CHANGES:
            known.sent = self._remember(fn)
            # A function that was no good once will hardly be later, and looking is not free.
            known.changes = known.changes + 1 if known.sent else _MAX_CHANGES + 1
        else:
            known.sent = None
        self._known[id(fn)] = known
        return known.sent or fn

    def _remember(self, fn: Any) -> _Sent | None:
        import cloudpickle  # noqa: PLC0415 - needed for by_value() in any case

        if cloudpickle.list_registry_pickle_by_value():
            return None  # "importable" then no longer means "sent by name"
        with suppress(Exception):  # then it is pickled without us, and that reports what happens
            sent = self._examine(fn)
            if sent is not None:
                # First the identities, then the bytes, then the identities again: a change
                # made meanwhile by another thread is not missed.
                sent.data = by_value(fn)
                sent.mains = sent.data.count(MAIN)
                if len(sent.data) <= _MAX_BYTES and sent.is_current():
                    return sent
        return None

    def _examine(self, fn: Any) -> _Sent | None:
        """Return all identities that a function consists of; None if they say too little."""
        sent = _Sent(next(self._numbers))
        todo, seen = [fn], {id(fn)}
        while todo:
            each = todo.pop()
            names = self._global_names(each.__code__) if is_plain(each) else ()
            captures: list[Any] = []
            capture(each, names, captures)
            sent.parts.append((weakref.ref(each), names))
            sent.ids += map(id, captures)
            for value in captures:
                if value is ABSENT or is_constant(value):
                    sent.kept.append(value)
                elif is_module(value):
                    sent.kept.append(weakref.ref(value, sent.lost.append))
                    if hasattr(value, "__path__"):
                        sent.absent |= absent_submodules(value.__name__, each)
                elif isinstance(value, NAMED) and importable(value):
                    sent.kept.append(weakref.ref(value, sent.lost.append))
                elif is_function(value):
                    sent.kept.append(weakref.ref(value, sent.lost.append))
                    if id(value) not in seen:
                        seen.add(id(value))
                        todo.append(value)
                else:
                    return None
        return sent

    def _global_names(self, code: types.CodeType) -> tuple[str, ...]:
        names = self._names.get(code)
        if names is None:
            if len(self._names) > _MAX_NAMES:
                self._names.clear()
            names = self._names[code] = tuple(sorted(find_global_names(code)))
        return names


def _dumps(calls: object, apart: Buffers | None) -> bytes:
    if apart is None:
        return pickle.dumps(calls, 5)
    apart.clear()
    return pickle.dumps(calls, 5, buffer_callback=apart.keep)


def _dumps_with(calls: object, mains: int, apart: Buffers | None) -> bytes:
    # As `_pickling.dumps`, but the functions' own bytes may name __main__; nothing else may.
    try:
        data = _dumps(calls, apart)
    except CANNOT:
        pass
    else:
        if data.count(MAIN) == mains:
            return data
    return by_value(calls, apart)


class _Reference:
    """Stands for a function that the worker has."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return known_function, (self._number,)


class _Known:
    """What is known of one function: its entry, if any, and how often that was made anew."""

    __slots__ = ("changes", "reference", "sent")

    def __init__(self, reference: weakref.KeyedRef[int, Any]) -> None:
        self.reference = reference  # kept for its callback, which removes this object
        self.sent: _Sent | None = None
        self.changes = 0


class _Sent:
    """A function's bytes, and what it consisted of when they were made.

    Attributes:
        data: the pickled function.
        number: stands for it, see `Library`.
        reference: what is pickled in its place.
        mains: how often `__main__` stands in these bytes, rightly.
        parts: the function and all by-value functions and tasks that it refers to, weakly, each
            with the global names in its code.
        ids: identities of everything that `capture` finds in the parts.
        kept: the things themselves, or weak references; so no identity is reused unseen.
        lost: not empty once one of the weakly held things is gone.
        absent: modules whose import would change the bytes, since cloudpickle adds those
            submodules that are loaded and that the code seems to use.
    """

    __slots__ = ("absent", "data", "ids", "kept", "lost", "mains", "number", "parts", "reference")

    def __init__(self, number: int) -> None:
        self.number = number
        self.reference = _Reference(number)
        self.data = b""
        self.mains = 0
        self.parts: list[tuple[weakref.ref[Any], tuple[str, ...]]] = []
        self.ids: list[int] = []
        self.kept: list[Any] = []
        self.lost: list[Any] = []
        self.absent: set[str] = set()

    def is_current(self) -> bool:
        captures: list[Any] = []
        for reference, names in self.parts:
            each = reference()
            if each is None:
                return False
            capture(each, names, captures)
        return (
            not self.lost
            and list(map(id, captures)) == self.ids
            and (not self.absent or sys.modules.keys().isdisjoint(self.absent))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return load_function, (self.data,)
