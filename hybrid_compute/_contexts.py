"""Contexts: how the context variables of who submits an item reach the item.

Owns both ways. On this machine's threads, and inline, the work runs in a copy of the submitter's
context: whole, so what it sets is seen by nobody else. To other processes, and to services, go the
values of those variables that the executor's owner has listed, as far as they can be pickled, or
sent. `Carried` is that list; the other half, which worker processes import, puts the values into a
context of the worker. An item of an empty context has none, and costs what it costs without.

A listed variable that stands in an importable module is found there by its name. Any other (of
`__main__`, of a notebook) is told by a key, under which each worker has a variable of its own; so
that functions which are pickled by value can name it, pickling knows the listed ones (`copyreg`,
which has one table for the process, as this module has). No threads, no locks: the table only
grows, by one entry for each variable that is listed; variables cannot be held weakly.
"""

from __future__ import annotations

from _contextvars import ContextVar, copy_context

from hybrid_compute import _pickling

TYPE_CHECKING = False  # as typing's, which workers do not load
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context
    from types import GeneratorType
    from typing import Any

__all__ = [
    "Carried",
    "bind",
    "current_context",
    "each_in",
    "open_in",
    "packed_call",
    "pool_in",
    "restore",
    "run_carrying",
    "variable_of",
]

# What pickles by itself, without code of anybody's being run.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_ABSENT: Any = object()

# Of this process, which has one `copyreg`: the listed variables, or, in a worker, those that stand
# for its caller's, with module and attribute, or "" and a key.
_keys: dict[ContextVar[Any], tuple[str, str]] = {}


def current_context() -> Context | None:
    """Return a copy of the context of this thread; None if it is empty."""
    return copy_context() or None


# -- threads and inline ----------------------------------------------------------------------


class _Each:
    """The function of a batch, each call of which has a context of its own."""

    __slots__ = ("_context", "_fn")

    def __init__(self, context: Context, fn: Callable[..., Any]) -> None:
        self._context = context
        self._fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._context.copy().run(self._fn, *args, **kwargs)


def bind(context: Context, fn: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return what to call with which arguments, so that `fn(*args)` runs in a copy of a context.

    Each of several attempts, and each call of a batch, has its own.
    """
    if getattr(fn, "carries_calls", False):
        return fn, (_Each(context, args[0]), *args[1:])
    return context.copy().run, (fn, *args)


def each_in(context: Context, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose calls run in copies of a context."""
    return _Each(context, fn)


class _Steps:
    """An iterator each of whose steps runs in one context: on whatever thread, one at a time."""

    def __init__(self, context: Context, iterator: Iterator[Any]) -> None:
        self._run = context.run
        self._iterator = iterator
        self._next = iterator.__next__

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._run(self._next)

    @property
    def gi_running(self) -> bool:
        return getattr(self._iterator, "gi_running", False)

    def close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is None:
            return
        try:
            self._run(close)
        except RuntimeError:
            if not self.gi_running:
                raise  # the generator's own
            close()  # somebody is in its context: it says so in its own words


def open_in(
    context: Context,
    opened: Callable[[Any], Iterator[Any]],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
) -> Iterator[Any]:
    """Call a generator function; return its iterator, all of it in one copy of a context."""
    own = context.copy()
    return _Steps(own, own.run(lambda: opened(fn(*args, **(kwargs or {})))))


class _PoolIn:
    """Runs a generator, which a plain call has returned, in the context of that call."""

    __slots__ = ("_context", "_pool")

    def __init__(self, pool: Any, context: Context) -> None:
        self._pool = pool
        self._context = context

    def iterate(self, generator: GeneratorType[Any, Any, Any]) -> Iterator[Any]:
        items: Iterator[Any] = self._pool.iterate(generator, self._context)
        return items


def pool_in(pool: Any, context: Context) -> Any:
    """Return what runs generators on the threads of a pool, in a copy of a context."""
    return None if pool is None else _PoolIn(pool, context)


# -- other processes, and services -----------------------------------------------------------


class Carried:
    """The variables whose values go along to other processes, and to services.

    Args:
        listed: context variables; or other objects of a `name`, with a method `capture(context)`,
            which returns a value, or None, and `restore(value)`, which is called in the context in
            which the work is about to run; with `headers(value)` and `from_headers(get)`, as below;
            and with the names `module` and `attribute` by which a worker process finds them.

    Raises:
        ConfigurationError: one is something else, or two have one name.
    """

    __slots__ = ("_entries",)

    def __init__(self, listed: Any) -> None:
        self._entries = tuple(map(_entry, _checked(listed)))

    def pack(self, context: Context) -> tuple[tuple[str, str, Any], ...]:
        """Return the values for a worker process, pickled; what cannot be is left out."""
        packed = []
        for module, attribute, variable in self._entries:
            value = _value_of(variable, context)
            if value is _ABSENT:
                continue
            if type(value) not in _ATOMS:
                try:
                    value = (_pickling.dumps(value),)
                except Exception:  # noqa: S112 - it stays here, as was promised
                    continue
            packed.append((module, attribute, value))
        return tuple(packed)

    def named(self, context: Context) -> dict[str, Any]:
        """Return the values for a service, by the names of the variables."""
        found = {variable.name: _value_of(variable, context) for _, _, variable in self._entries}
        return {name: value for name, value in found.items() if value is not _ABSENT}

    def put(self, values: dict[str, Any]) -> None:
        """Set the listed variables, in the current context, to values that came by their names.

        What is not listed is left alone; so is a value that its variable refuses.
        """
        for _, _, variable in self._entries:
            if variable.name in values:
                try:
                    _set(variable, values[variable.name])
                except Exception:  # noqa: S112 - as was said
                    continue

    def headers(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the headers of a request to any service for values that `named` gave.

        Only of those objects that have headers: those of a standard.
        """
        found: dict[str, str] = {}
        for _, _, variable in self._entries:
            if not isinstance(variable, ContextVar) and variable.name in values:
                found.update(variable.headers(values[variable.name]))
        return found

    def from_headers(self, get: Callable[[str], str | None]) -> dict[str, Any]:
        """Return the values that stand in the headers of a request, as `named` gives them.

        Args:
            get: returns the value of a header by its name; None if there is none.
        """
        found = {}
        for _, _, variable in self._entries:
            if not isinstance(variable, ContextVar):
                value = variable.from_headers(get)
                if value is not None:
                    found[variable.name] = value
        return found


def _checked(listed: Any) -> tuple[Any, ...]:
    from hybrid_compute.errors import ConfigurationError  # noqa: PLC0415 - workers do without

    if isinstance(listed, (str, ContextVar)) or not hasattr(listed, "__iter__"):
        raise ConfigurationError(f"carry={listed!r} is no list; give a list of ContextVar objects")
    found = tuple(listed)
    names = set()
    for each in found:
        if not isinstance(each, ContextVar) and not (
            callable(getattr(each, "capture", None)) and callable(getattr(each, "restore", None))
        ):
            raise ConfigurationError(
                f"carry: {each!r} is no ContextVar, which is what can be listed"
            )
        if each.name in names:
            raise ConfigurationError(
                f"carry: two variables are called {each.name!r}; services know them by their "
                "names, so list one of them"
            )
        names.add(each.name)
    return found


def _entry(variable: Any) -> tuple[str, str, Any]:
    """Return where a worker finds the variable: module and attribute; or "" and a key."""
    if not isinstance(variable, ContextVar):
        return variable.module, variable.attribute, variable
    import copyreg  # noqa: PLC0415 - only where something is listed
    import sys  # noqa: PLC0415

    # In any case: functions that are pickled by value name it, wherever it stands.
    copyreg.pickle(ContextVar, _reduce)  # which raises what pickle would, for others
    for name, module in list(sys.modules.items()):
        if name in ("__main__", "__mp_main__"):
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable and getattr(module, "__spec__", None) is not None:
                _keys[variable] = name, attribute
                return name, attribute, variable
    key = f"{variable.name} {id(variable):x}"  # it is kept from now on, so nobody else has that
    _keys[variable] = "", key
    return "", key, variable


def _reduce(var: ContextVar[Any]) -> tuple[Any, ...]:
    if var not in _keys:
        raise TypeError(  # as pickle has it
            f"cannot pickle '_contextvars.ContextVar' object {var.name!r}; list it: "
            "HybridExecutor(carry=[...])"
        )
    module, attribute = _keys[var]
    from _contextvars import Context  # noqa: PLC0415 - rare

    try:
        default = Context().run(var.get)
    except LookupError:
        return variable_of, (module, attribute)
    return variable_of, (module, attribute, *((default,) if type(default) in _ATOMS else ()))


def variable_of(module: str, attribute: str, *default: Any) -> Any:
    """Return a listed variable: by its name, or the one that stands for it in this process."""
    if module:
        from importlib import import_module  # noqa: PLC0415 - it is loaded

        return getattr(import_module(module), attribute)
    for var, where in tuple(_keys.items()):
        if where == ("", attribute):
            return var  # it is known here, or it has come home
    import copyreg  # noqa: PLC0415 - as below

    name = attribute.rpartition(" ")[0]
    made: ContextVar[Any] = ContextVar(name, default=default[0]) if default else ContextVar(name)
    copyreg.pickle(ContextVar, _reduce)
    _keys[made] = "", attribute
    return made


def _value_of(variable: Any, context: Context) -> Any:
    if isinstance(variable, ContextVar):
        return context.get(variable, _ABSENT)
    value = variable.capture(context)
    return _ABSENT if value is None else value


def _set(variable: Any, value: Any) -> None:
    if isinstance(variable, ContextVar):
        variable.set(value)
    else:
        variable.restore(value)


def restore(packed: tuple[tuple[str, str, Any], ...]) -> None:
    """Set the variables, in the current context, to what `Carried.pack` gave.

    One that is not there, or whose value cannot be unpickled here, is left alone.
    """
    for module, attribute, value in packed:
        try:
            if type(value) is tuple:
                value = _pickling.loads(value[0])  # noqa: PLW2901 - unpacked
            _set(variable_of(module, attribute), value)
        except Exception:  # noqa: S112 - the work goes on without, as was promised
            continue


def packed_call(carried: Carried, item: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Return function, arguments and keywords of an item, as a worker process is to call it."""
    fn, args, kwargs = item.fn, item.args, item.kwargs
    if item.context is None:
        return fn, args, kwargs
    packed = carried.pack(item.context)
    if getattr(fn, "carries_function", False):
        return run_carrying, (args[0], packed, fn, *args[1:]), kwargs
    return run_carrying, (fn, packed, None, *args), kwargs


def run_carrying(
    fn: Callable[..., Any],
    packed: tuple[tuple[str, str, Any], ...],
    carrier: Callable[..., Any] | None,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a function in a worker process, in a context that has the values of its caller's.

    Args:
        fn: the function.
        packed: what `Carried.pack` gave.
        carrier: what is called with it as first argument, as `run_batch` is; None: nothing.
        *args: the arguments.
        **kwargs: the keywords.
    """
    context = copy_context()
    context.run(restore, packed)
    if carrier is None:
        return context.run(fn, *args, **kwargs)
    if getattr(carrier, "carries_calls", False):
        return carrier(_Each(context, fn), *args)
    return context.run(carrier, fn, *args, **kwargs)


run_carrying.carries_function = True  # type: ignore[attr-defined]  # see WorkItem.name
