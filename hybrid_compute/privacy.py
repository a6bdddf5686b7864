"""Privacy: what of a call may leave this machine, decided before anything is pickled or sent.

Owns the answer to that question (`why_here`), and the `Guard` of an item with something to hide.
An item keeps what is sensitive wrapped until it is handed over. Then, for each attempt anew, the
guard gives it the arguments that this very executor may have:

    executor on this machine          the bare values
    one that leaves it                what `before_remote` made of the arguments; else nothing, and
                                      the next executor of the route is tried

So a fallback never gets what was meant for another, and whatever goes wrong, the data stays.

Executors are told apart by `capabilities.remote`, and by nothing else. No threads, no locks: an
item, with its guard, is in one pair of hands at a time. (Some lines over 400: who decides what may
leave should be read in one place.)
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hybrid_compute._failures import add_note
from hybrid_compute.errors import ExecutorUnavailable, PlacementError
from hybrid_compute.items import ContextItem, WorkItem
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

if TYPE_CHECKING:
    from hybrid_compute._secrets import Secrets
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.routed import RoutedItem

__all__ = [
    "SENSITIVE",
    "Guard",
    "OpenedGuard",
    "OpenedPiece",
    "Withheld",
    "guard_of",
    "has_wrapped",
    "is_bare",
    "last_word",
    "needs_a_look",
    "open_map",
    "refuse_to_send",
    "why_here",
]

SENSITIVE = "hybrid_compute.sensitive"  # the module; while it is not loaded, nothing is wrapped

_MODULES = sys.modules
_ARGUMENT = "an argument is Sensitive"
_IS_OPENED = "it is a part of a map, and its arguments may have been Sensitive"
_CONTAINERS = (list, tuple, set, frozenset, dict)
_INERT = (range, str, bytes, bytearray)  # can be iterated over, and hold nothing of ours


class Withheld(ExecutorUnavailable):
    """An executor was kept from an item. Never gets to a user: see `last_word`."""


def last_word(error: ExecutorUnavailable) -> Exception:
    """Return the error for the caller, when there is no other executor to try."""
    if type(error) is not Withheld:
        return error
    final = PlacementError(str(error))
    final.__cause__ = error.__cause__
    return final


def needs_a_look(*, remote: bool) -> bool:
    """Say whether any call could have something to hide: where most have not, this is all."""
    return remote or SENSITIVE in _MODULES


def is_bare(fn: Task[..., Any]) -> bool:
    """Say whether no call of a task has anything to hide; False: that has to be looked at."""
    return fn._secrets is None and fn._open and SENSITIVE not in _MODULES


def _sensitive() -> Any:
    # While another thread imports the module it has no such name yet, and nobody has an instance.
    return getattr(_MODULES.get(SENSITIVE), "Sensitive", None)


def guard_of(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    options: TaskOptions,
) -> Guard | None:
    """Return the guard of a call; None: it has nothing to hide.

    Args:
        fn: what is called.
        args: its arguments; if one is a `Sensitive`, the call needs a guard.
        kwargs: its keywords; likewise.
        options: the call's own, completed by the task's.
    """
    # By hand: has_wrapped(args, kwargs), as many submits come by here.
    module = _MODULES.get(SENSITIVE)
    if module is not None:
        kind: Any = module.__dict__.get("Sensitive")
        for each in args:
            if type(each) is kind:
                return Guard(fn, args, kwargs, options)
        if kwargs and kind in map(type, kwargs.values()):
            return Guard(fn, args, kwargs, options)
    if options.local_only or options.before_remote is not None:
        return Guard(fn, args, kwargs, options)
    if isinstance(fn, Task):
        secrets = fn._secrets
        if secrets is not None and (secrets is not Ellipsis or _secrets(fn) is not None):
            return Guard(fn, args, kwargs, options)
    return None


def has_wrapped(args: Iterable[Any], kwargs: dict[str, Any] | None) -> bool:
    """Say whether an argument is a Sensitive."""
    kind = _sensitive()
    if kind is None:
        return False
    return kind in map(type, args) or (bool(kwargs) and kind in map(type, (kwargs or {}).values()))


def _secrets(fn: object) -> Secrets | None:
    if not isinstance(fn, Task):
        return None
    found = fn._secrets
    if found is not Ellipsis:
        return found  # type: ignore[no-any-return]
    from hybrid_compute._secrets import secrets_of  # noqa: PLC0415 - once a task, and where needed

    return secrets_of(fn)


def why_here(item: WorkItem) -> str | None:
    """Return why an item must stay on this machine, in words without values; None: it may leave.

    It may also leave if it has a `before_remote`, through its guard.
    """
    guard = item.guard
    if guard is not None and not (guard.opened and guard.why is None):
        return guard.why
    return _why(item.target, item.args, item.kwargs, item.options)


def _why(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, options: TaskOptions
) -> str | None:
    if options.local_only or (isinstance(fn, Task) and fn.options.local_only):
        return "it is local_only"
    if options.before_remote is not None:
        return None
    if SENSITIVE in _MODULES and has_wrapped(args, kwargs):
        return _ARGUMENT
    secrets = _secrets(fn)
    return None if secrets is None else secrets.why


def refuse_to_send(item: WorkItem, where: object) -> None:
    """Refuse an item that must not leave as it is. The last look, by who sends it.

    Raises:
        PlacementError: it must not; nothing was sent.
    """
    guard = item.guard
    if guard is not None:
        if guard.cleared:
            return
    else:
        fn: Any = item.fn
        if type(fn) is Task and item.options is fn.options and is_bare(fn):
            return  # `why_here` would say the same
    why = why_here(item)
    if why is None and guard is not None and guard.opened:
        why = _IS_OPENED
    if why is None and item.options.before_remote is not None:
        why = "its before_remote was not asked"
    if why is not None:
        raise PlacementError(f"{item.name!r} is not sent to {where}: {why}")


class Guard:
    """What one item has to hide.

    Attributes:
        why: why it must stay on this machine; None: it may leave through its `before_remote`.
        cleared: whether the item has what may leave, at the moment.
        opened: whether the arguments are bare before anybody was chosen.
    """

    opened = False

    __slots__ = ("_args", "_fn", "_kwargs", "_options", "_refusal", "_sent", "cleared")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
    ) -> None:
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._options = options
        self._sent: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._refusal: tuple[str, BaseException | None] | None = None
        self.cleared: bool = False

    def twin(self) -> Guard:
        """Return one for another item of the same call: what `before_remote` said holds for it."""
        other = Guard(self._fn, self._args, self._kwargs, self._options)
        other._sent, other._refusal = self._sent, self._refusal
        return other

    @property
    def why(self) -> str | None:
        """Why it must stay on this machine; None: it may leave through its `before_remote`."""
        return _why(self._fn, self._args, self._kwargs, self._options)

    def present(self, item: RoutedItem, executor: SubExecutor) -> None:
        """Give the item the arguments that an executor may have. Runs `before_remote`.

        Raises:
            Withheld: that executor may have none; the item is as it was.
        """
        self.cleared = False
        if executor.capabilities.remote:
            args, kwargs = self._for_others(item)
        else:
            args = tuple(map(_bare, self._args))
            kwargs = {name: _bare(each) for name, each in (self._kwargs or {}).items()}
        # What streams has its function, and three numbers, before its arguments.
        item.args = (*item.args[:4], *args) if item.streams else args
        item.kwargs = kwargs or None
        self.cleared = executor.capabilities.remote

    def _for_others(self, item: RoutedItem) -> tuple[tuple[Any, ...], dict[str, Any]]:
        who = item.executor or ""
        why = self.why
        if why is None and self._sent is None and self._refusal is None:
            self._transform()
        cause = None
        if self._refusal is not None:
            why, cause = self._refusal
        if why is not None or self._sent is None:
            if item.observed:
                item.tell_privacy("withheld", who, str(why))
            raise Withheld(f"{item.name!r} was not sent to {who!r}: {why}") from cause
        if item.observed:
            item.tell_privacy("redacted", who, f"{self._transform_name()} has made its arguments")
        return self._sent

    def _transform(self) -> None:
        """Ask `before_remote`, once: what it says holds for all attempts."""
        before = self._options.before_remote
        assert before is not None  # noqa: S101 - `why` has seen to that
        args, kwargs = self._wrapped()
        try:
            said = before(*args, **kwargs)
        except BaseException as error:
            interrupt = isinstance(error, KeyboardInterrupt)
            if interrupt and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            # Where it happened, as text: the frames hold the arguments.
            add_note(error, "".join(traceback.format_tb(error.__traceback__)))
            self._refuse(f"raised {_name_of_type(error)}", error.with_traceback(None))
            return
        if _is_pair(said):
            said_args, said_kwargs = said
        elif type(said) is tuple:
            said_args, said_kwargs = said, {}
        else:
            self._refuse(
                f"returned a {_name_of_type(said)}, and not a tuple of arguments, or a pair of a "
                "tuple and a dict"
            )
            return
        left = [f"argument {i + 1}" for i, each in enumerate(said_args) if _holds_wrapped(each)]
        left += [f"keyword {k!r}" for k, each in said_kwargs.items() if _holds_wrapped(each)]
        if left:
            self._refuse(f"left a Sensitive in {left[0]}: reveal() it, and return what may leave")
        else:
            self._sent = said_args, said_kwargs

    def _wrapped(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments, with those wrapped that the annotations call sensitive."""
        args, kwargs = self._args, self._kwargs or {}
        secrets = _secrets(self._fn)
        if secrets is None:
            return args, kwargs
        from hybrid_compute.sensitive import Sensitive  # noqa: PLC0415 - see its docstring

        args = tuple(
            Sensitive(each) if secrets.has_position(index) else each
            for index, each in enumerate(args)
        )
        return args, {
            name: Sensitive(each) if secrets.has_name(name) else each
            for name, each in kwargs.items()
        }

    def _refuse(self, what: str, cause: BaseException | None = None) -> None:
        self._refusal = f"{self._transform_name()} {what}", cause

    def _transform_name(self) -> str:
        before = self._options.before_remote
        return f"before_remote={getattr(before, '__qualname__', type(before).__qualname__)}"


def _is_pair(said: Any) -> bool:
    return (
        type(said) is tuple
        and len(said) == 2
        and type(said[0]) is tuple
        and type(said[1]) is dict
        and set(map(type, said[1])) <= {str}
    )


def _name_of_type(value: object) -> str:
    return type(value).__qualname__


def _bare(value: Any) -> Any:
    return value.reveal() if type(value) is _sensitive() else value


def _holds_wrapped(value: Any) -> bool:
    """Say whether a value is a Sensitive, or holds one, however deep in its containers."""
    kind = _sensitive()
    if type(value) is kind:
        return True
    seen: set[int] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if not isinstance(each, _CONTAINERS) or id(each) in seen:
            continue
        seen.add(id(each))
        parts = [*each, *each.values()] if isinstance(each, dict) else [*each]
        kinds = set(map(type, parts))  # a loop in C: most hold only what is small
        if kind in kinds:
            return True
        if any(issubclass(each, _CONTAINERS) for each in kinds):
            todo += parts
    return False


# -- maps ------------------------------------------------------------------------------------


class OpenedGuard(Guard):
    """That of a part of a map, whose arguments are bare already: it stays, wherever it is routed.

    Never changes: one will do for all parts.
    """

    __slots__ = ("_known",)

    opened = True

    def __init__(self, known: str | None = None) -> None:
        """Take why it must stay on this machine; None: that is not known, and may be."""
        super().__init__(OpenedGuard, (), None, NO_OPTIONS)
        self._known = known

    @property
    def why(self) -> str | None:
        """Why it must stay on this machine, if that is known."""
        return self._known

    def present(self, item: RoutedItem, executor: SubExecutor) -> None:
        """Leave the item as it is, if the executor is on this machine.

        Raises:
            Withheld: it is not.
        """
        if executor.capabilities.remote:
            why = self.why or _IS_OPENED
            if item.observed:
                item.tell_privacy("withheld", item.executor or "", why)
            raise Withheld(f"{item.name!r} was not sent to {item.executor!r}: {why}")


class OpenedPiece(ContextItem):
    """A part of such a part, which is tried again where that was."""

    __slots__ = ()

    guard: Guard | None = OpenedGuard()


def open_map(
    iterables: tuple[Iterable[Any], ...],
) -> tuple[tuple[Iterable[Any], ...], OpenedGuard | None]:
    """Return the input of a map with its arguments bare, for executors on this machine.

    Lists and tuples are looked through; what is read bit by bit is opened on the way.

    Returns:
        The input, and the guard of each part of the map; None: there is nothing to hide.
    """
    kind = _sensitive()
    if kind is None:
        return iterables, None
    found = unknown = False
    bare: list[Iterable[Any]] = []
    for each in iterables:
        if type(each) in (list, tuple):
            if kind in map(type, each):
                found = True
                bare.append([*map(_bare, each)])
                continue
        elif not isinstance(each, _INERT):
            unknown = True
            bare.append(map(_bare, each))
            continue
        bare.append(each)
    if found or unknown:
        return tuple(bare), OpenedGuard(_ARGUMENT if found else None)
    return iterables, None
