"""Tasks: functions whose author said that they may run anywhere, and how.

Owns `Task`, its options and the registry that maps names to tasks (the allow-list of a
server). Knows no executor, thread or wire. Everything here is immutable but `TaskRegistry`,
whose one lock guards its mapping.

(A few lines over 400: each option stands in four signatures, for those who write them.)
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from hybrid_compute._hedge import as_hedge
from hybrid_compute._keys import key_of
from hybrid_compute._values import Value
from hybrid_compute.errors import ConfigurationError, DuplicateTaskError, PlacementError
from hybrid_compute.retry import Retry, as_retry

__all__ = [
    "NO_OPTIONS",
    "OptionKeywords",
    "Task",
    "TaskOptions",
    "TaskRegistry",
    "has_body",
    "remote_task",
    "task",
]

P = ParamSpec("P")
P2 = ParamSpec("P2")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def _tags(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return frozenset((value,))
    if not isinstance(value, Iterable) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError(f"tags={value!r} is neither a string nor a list of strings")
    return frozenset(value)


def _size(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ConfigurationError(f"{name}={value!r} is not a whole number of at least 1")


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ConfigurationError(f"{name}={value!r} is not a number of seconds greater than 0")


def _flag(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name}={value!r} is not True, False or None")


def _transform(name: str, value: Any) -> Any:
    if value is None or callable(value):
        return value
    raise ConfigurationError(f"{name}={value!r} cannot be called; give a function of the arguments")


def _name(name: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigurationError(f"{name}={value!r} is not a non-empty string")


class TaskOptions(Value):
    """What the author of a task, or a caller, says about where and how it may run.

    None means "not said": `over` then takes the other's word, and the default is the one given
    below.

    Attributes:
        executor: name of the one executor to use, past the policy; default: the policy decides.
        timeout: seconds from its submission to its end, waiting included; then it fails with
            `TaskTimeout`. In a process the work is ended; a thread cannot be, so there the
            future fails and the work goes on, in vain, unless it asks `current().cancelled()`. What
            the work submits has no more time than is left of it. Default: none.
        retries: how many more attempts there are after the first failed, at once; default 0. Or
            a `Retry`, which says how often, how soon and after what; or a `tenacity.Retrying`, of
            which `stop`, `wait`, and `retry` for exceptions, count. An exception that the work
            itself raised counts as a failure, and so does that nobody takes the call.
        idempotent: True if running it twice does no harm, so that it may run again after a
            worker died in the middle of it; default False.
        movable: True if it may leave the thread pool, False if it must not; default: True for
            a declared task, False for a plain callable.
        local_only: True if it must never leave this machine; default False.
        before_remote: called with the call's arguments just before it is handed to an executor
            that leaves this machine, and only then; returns what goes out in their place: a tuple
            of arguments, or a pair `(args, kwargs)` of a tuple and a dict. It gets a `Sensitive`
            for each argument that is one, or whose parameter is annotated so; if any is left in
            what it returns, or if it raises, that executor gets nothing, and the next of the route
            is tried. Called once for each call, on the thread that hands it over: it must be quick
            and have no effects. Default: the arguments go as they are, and never if one of them is
            sensitive.
        inline: False: never on the thread that submits it; default True, which a policy makes use
            of only after many quick runs.
        tags: free words for `hybrid_compute.policy.tagged`; default none.
        key: tenant or shard key: policies may keep items of one key together; default none.
        buffersize: of a stream: by how many items its generator may be ahead of its consumer;
            default 1024.
        buffer_bytes: of a stream: by how many bytes; default 16 MiB. Pickled items count with
            their size, others as far as they tell it (text, bytes, arrays). One item may always
            be ahead.
        hedge: seconds after which a call that has no answer gets a second attempt elsewhere, at
            another executor of its route or another worker; or a percentile of what such calls of
            the task have taken, as "p95". The first answer counts, which may be an exception of
            the work if `retries` does not have it tried again, and the other attempt is ended if it
            can be. Needs `idempotent`. A HybridExecutor does that; an executor by itself, and a
            stream, has no second attempt. Default: none.
    """

    __slots__ = (
        *("before_remote", "buffer_bytes", "buffersize", "executor", "hedge"),
        *("idempotent", "inline", "key", "local_only", "movable", "retries", "tags", "timeout"),
    )

    executor: str | None
    retries: Any
    idempotent: bool | None
    movable: bool | None
    local_only: bool | None
    before_remote: Callable[..., Any] | None
    inline: bool | None
    tags: frozenset[str] | None
    key: str | None
    timeout: float | None
    buffersize: int | None
    buffer_bytes: int | None
    hedge: float | str | None

    def __init__(  # noqa: PLR0913 - all are keywords
        self,
        *,
        executor: str | None = None,
        retries: int | Retry | Any | None = None,
        idempotent: bool | None = None,
        movable: bool | None = None,
        local_only: bool | None = None,
        before_remote: Callable[..., Any] | None = None,
        inline: bool | None = None,
        tags: str | Iterable[str] | None = None,
        key: str | None = None,
        timeout: float | None = None,
        buffersize: int | None = None,
        buffer_bytes: int | None = None,
        hedge: float | str | None = None,
    ) -> None:
        self._set(
            executor=_name("executor", executor),
            retries=as_retry(retries),
            idempotent=_flag("idempotent", idempotent),
            movable=_flag("movable", movable),
            local_only=_flag("local_only", local_only),
            before_remote=_transform("before_remote", before_remote),
            inline=_flag("inline", inline),
            tags=_tags(tags),
            key=_name("key", key),
            timeout=_seconds("timeout", timeout),
            buffersize=_size("buffersize", buffersize),
            buffer_bytes=_size("buffer_bytes", buffer_bytes),
            hedge=as_hedge(hedge),
        )

    @property
    def supervised(self) -> bool:
        """Whether somebody must look after the item once it is handed over."""
        return bool(self.retries) or self.timeout is not None

    def over(self, other: TaskOptions) -> TaskOptions:
        """Return these options, completed by those of `other` where these say nothing.

        `local_only` is a promise to the data's owner: once either says True, it stays. Tags
        add up.
        """
        if other is NO_OPTIONS:
            return self
        if self is NO_OPTIONS:
            return other
        mine = {name: value for name, value in self._fields().items() if value is not None}
        if other.local_only:
            mine["local_only"] = True
        if other.tags and self.tags:
            mine["tags"] = self.tags | other.tags
        return other._with(**mine)

    def _for_another_process(self) -> TaskOptions:
        # A transform may hold keys, and is of use only here; without it the data stays there.
        if self.before_remote is None:
            return self
        return self._with(before_remote=None, local_only=True)


class OptionKeywords(TypedDict, total=False):
    """The keywords of `TaskOptions`, for type checkers; that says what they mean."""

    executor: str | None
    retries: int | Retry | Any | None
    idempotent: bool | None
    movable: bool | None
    local_only: bool | None
    before_remote: Callable[..., Any] | None
    inline: bool | None
    tags: str | Iterable[str] | None
    key: str | None
    timeout: float | None
    hedge: float | str | None
    buffersize: int | None
    buffer_bytes: int | None


NO_OPTIONS = TaskOptions()


_GENERATOR = 0x20 | 0x200  # inspect's CO_GENERATOR and CO_ASYNC_GENERATOR; it is slow to import


class Task(Generic[P, T_co]):
    """A function declared with `@task`; calling it still calls the function, right here.

    Declaring says: no side effects on the caller's memory, and no waiting for what the caller
    does next. So it may run in any executor that its options allow. Immutable and thread-safe.

    Attributes:
        fn: the function itself.
        name: its name in registries, events and on the wire; default: the function's
            `__name__`.
        options: see `TaskOptions`.
        streams: whether it is a generator function: submitting it gives a `Stream`.
        key: the code that it runs, by which what is measured is remembered.

    Raises:
        ConfigurationError: `fn` is no function, or is a task already.
    """

    __task__ = True  # for `key_of`

    fn: Callable[P, T_co]
    name: str
    streams: bool
    options: TaskOptions
    key: Any

    def __init__(
        self, fn: Callable[P, T_co], *, name: str | None = None, options: TaskOptions = NO_OPTIONS
    ) -> None:
        if isinstance(fn, Task):
            raise ConfigurationError(f"{fn!r} is a task already; declare the function only once")
        if not callable(fn):
            raise ConfigurationError(f"@task needs a function, not {fn!r}")
        _wrap(self, fn)
        self.fn = fn
        self.name = str(getattr(fn, "__name__", type(fn).__name__)) if name is None else name
        _name("name", self.name)
        self.options = options
        self.streams = _is_generator_function(fn)
        self.key = key_of(fn)
        # What many submits look at, once for all: it streams, or somebody looks after its calls;
        # and its options let any call leave this machine as it is.
        self._special: bool = self.streams or options.supervised
        self._open: bool = options.before_remote is None and not options.local_only
        self._secrets: Any = ...  # not read yet: see `_secrets`, which owns it
        self._declared: Task[..., Any] | None = None  # what a bound method was declared as

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function, right here on this thread."""
        return self.fn(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, P2], T], instance: object, owner: type | None = None
    ) -> Task[P2, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        # As a method: bind the function, keep the declaration.
        if instance is None:
            return self
        bound = self.fn.__get__(instance, owner)
        method: Task[..., Any] = Task(bound, name=self.name, options=self.options)
        if getattr(bound, "__func__", None) is self.fn:
            method._declared = self
        return method

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        # A module-level task pickles as a global, like a function: its own name finds it. Any
        # other travels with its function by value.
        module, qualname = getattr(self, "__module__", None), getattr(self, "__qualname__", None)
        if module != "__main__" and _is_global(self, module, qualname):
            return str(qualname)
        return _task_by_value, (self.fn, self.name, self.options._for_another_process())


def _wrap(task: Task[..., Any], fn: Any) -> None:
    """Do as `functools.update_wrapper`, but look at the dict of a task only if that must be.

    Before Python 3.13, the attributes of an object take five times as long once that was done.
    """
    for name in functools.WRAPPER_ASSIGNMENTS:
        with contextlib.suppress(AttributeError):
            setattr(task, name, getattr(fn, name))
    if more := getattr(fn, "__dict__", None):  # few functions have attributes; classes all do
        task.__dict__.update(more)
    task.__wrapped__ = fn  # type: ignore[attr-defined]  # as update_wrapper does


def _is_generator_function(fn: Any) -> bool:
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    return code is not None and bool(code.co_flags & _GENERATOR)


def _is_global(obj: object, module: str | None, qualname: str | None) -> bool:
    import sys  # noqa: PLC0415 - only on the pickling path

    found: Any = sys.modules.get(module or "")
    for part in (qualname or "").split("."):
        found = getattr(found, part, None)
    return found is obj


def _task_by_value(fn: Callable[P, T], name: str, options: TaskOptions) -> Task[P, T]:
    if isinstance(fn, Task):
        return fn  # a bound method is found by its name, and what is found is the declared one
    return Task(fn, name=name, options=options)


@overload
def task(fn: Callable[P, T], /) -> Task[P, T]: ...
@overload
def task(
    *,
    name: str | None = None,
    executor: str | None = None,
    retries: int | Retry | Any | None = None,
    idempotent: bool | None = None,
    movable: bool | None = None,
    local_only: bool | None = None,
    before_remote: Callable[..., Any] | None = None,
    inline: bool | None = None,
    tags: str | Iterable[str] | None = None,
    key: str | None = None,
    timeout: float | None = None,
    buffersize: int | None = None,
    buffer_bytes: int | None = None,
    hedge: float | str | None = None,
) -> Callable[[Callable[P, T]], Task[P, T]]: ...
def task(fn: Any = None, /, *, name: Any = None, **options: Any) -> Any:
    """Declare a function as a task: it may run in any executor.

    Use it bare (`@task`) or with options (`@task(idempotent=True)`), which are those of
    `TaskOptions`, and `name`: by which registries, events and services know it, the function's
    own if not given.

    Raises:
        ConfigurationError: an option has a wrong value, or `fn` is no function.
        TypeError: there is no such option.
    """
    if fn is not None:
        return Task(fn, name=name, options=TaskOptions(**options))
    settled = TaskOptions(**options)
    return lambda function: Task(function, name=name, options=settled)


class _NoBody:
    """Stands where a task's function would; only a server has that."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    def __call__(self, /, *_: Any, **__: Any) -> Any:
        raise PlacementError(
            f"task {self.__name__!r} has no body here; submit it to a "
            "HybridExecutor(remote=...) or RemoteExecutor whose service has it"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _NoBody, (self.__name__,)


def remote_task(name: str, **options: Unpack[OptionKeywords]) -> Task[..., Any]:
    """Return a task whose body only a server has: it goes to a remote executor, by its name.

    Args:
        name: the task's name on the server.
        **options: those of `TaskOptions`.

    Raises:
        ConfigurationError: the name, or an option, has a wrong value.
    """
    given: Any = name  # by who has no type checker
    if not isinstance(given, str) or not given:
        raise ConfigurationError(f"remote_task({name!r}): give the task's name on the server")
    return Task(_NoBody(name), name=name, options=TaskOptions(**options))


def has_body(fn: object) -> bool:
    """Say whether what is to be called can be called on this machine at all."""
    return not (isinstance(fn, Task) and isinstance(fn.fn, _NoBody))


class TaskRegistry(Mapping[str, Task[..., Any]]):
    """Tasks by name: `registry[name]`, iteration and `len` are a mapping's.

    A name that is not in it does not run: it is looked up, never imported. Thread-safe.
    """

    def __init__(self, tasks: Iterable[Task[..., Any]] = ()) -> None:
        self._lock = threading.Lock()  # guards _tasks: two registrations of one name
        self._tasks: dict[str, Task[..., Any]] = {}
        for each in tasks:
            self.add(each)

    def add(self, new: Task[P, T]) -> Task[P, T]:
        """Add a task and return it.

        Raises:
            DuplicateTaskError: another task has its name.
            ConfigurationError: `new` is no task.
        """
        if not isinstance(new, Task):
            raise ConfigurationError(
                f"{new!r} is not a task; declare it with @task or @registry.task"
            )
        with self._lock:
            if self._tasks.setdefault(new.name, new) is not new:
                raise DuplicateTaskError(
                    f"task name {new.name!r} is taken by {self._tasks[new.name].fn!r}; "
                    f"give {new.fn!r} another with @task(name=...)"
                )
        return new

    @overload
    def task(self, fn: Callable[P, T], /) -> Task[P, T]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        executor: str | None = None,
        retries: int | Retry | Any | None = None,
        idempotent: bool | None = None,
        movable: bool | None = None,
        local_only: bool | None = None,
        before_remote: Callable[..., Any] | None = None,
        inline: bool | None = None,
        tags: str | Iterable[str] | None = None,
        key: str | None = None,
        timeout: float | None = None,
        buffersize: int | None = None,
        buffer_bytes: int | None = None,
        hedge: float | str | None = None,
    ) -> Callable[[Callable[P, T]], Task[P, T]]: ...
    def task(self, fn: Any = None, /, *, name: Any = None, **options: Any) -> Any:
        """Declare a function as a task, as `task` does, and add it.

        Raises:
            ConfigurationError, TypeError: as `task`.
            DuplicateTaskError: another task has its name.
        """
        if fn is not None:
            return self.add(task(fn))
        declare = task(name=name, **options)
        return lambda function: self.add(declare(function))

    def __getitem__(self, name: str) -> Task[..., Any]:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<TaskRegistry of {len(self)} tasks>"
