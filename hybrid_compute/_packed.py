"""A call as bytes, run where other people's workers are, and what became of it as bytes.

For engines that would pickle by rules of their own: so lambdas and functions of `__main__` travel,
an exception that cannot be unpickled costs only its own call, and what the work raises is told
from what became of the worker. `run_packed` runs in that worker, which needs this library, and
nothing of it but floor 0. No threads, no locks, no state.
"""

from __future__ import annotations

from hybrid_compute import _contexts, _failures, _pickling

TYPE_CHECKING = False  # as typing's, which workers do not load
if TYPE_CHECKING:
    from typing import Any

    from hybrid_compute._contexts import Carried
    from hybrid_compute.items import WorkItem

__all__ = [
    "RAISED",
    "UNDECODABLE",
    "VALUE",
    "Hole",
    "deliver",
    "encode_value",
    "pack",
    "refused",
    "run_packed",
    "unpack",
]

VALUE, RAISED, UNDECODABLE = range(3)  # what became of a call


class Hole:
    """Stands in a packed call for the argument of that number, which travels by itself."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return Hole, (self.number,)


def pack(item: WorkItem, carried: Carried | None = None) -> bytes:
    """Return an item's call as bytes.

    Args:
        item: whose.
        carried: the context variables that go along; None: none do.

    Raises:
        TaskEncodeError: it cannot be pickled.
    """
    assert item.fn is not None  # noqa: S101 - an item that was released is never routed
    fn, args, kwargs = item.fn, item.args, item.kwargs
    if carried is not None:
        fn, args, kwargs = _contexts.packed_call(carried, item)
    return _pickling.encode_call(fn, args, kwargs, name=item.name)


def run_packed(call: bytes, *apart: Any) -> tuple[int, bytes]:
    """Run a packed call; return what became of it. Raises nothing that the work raises.

    Args:
        call: what `pack` gave.
        *apart: what stands where it has holes.
    """
    try:
        fn, args, kwargs = unpack(call, apart)
    except BaseException as error:  # whatever an import raises
        return UNDECODABLE, _failures.encode_error(error)
    try:
        return VALUE, encode_value(fn(*args, **kwargs))
    except BaseException as error:  # KeyboardInterrupt and the like go to the caller as well
        return RAISED, _failures.encode_error(error)


def unpack(call: bytes, apart: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return function, arguments and keywords of a packed call, its holes filled."""
    fn, args, kwargs = _pickling.decode_call(call)
    if apart:
        args = tuple(_filled(each, apart) for each in args)
        kwargs = {name: _filled(each, apart) for name, each in (kwargs or {}).items()}
    return fn, args, kwargs or {}


def _filled(value: Any, apart: tuple[Any, ...]) -> Any:
    return apart[value.number] if type(value) is Hole else value


def encode_value(value: Any) -> bytes:
    """Pickle a result, or an item of a stream.

    Raises:
        ResultEncodeError: it cannot be pickled.
    """
    try:
        return _pickling.dumps(value)
    except BaseException as error:
        raise refused(value, error) from error


def refused(value: object, failure: BaseException) -> BaseException:
    """Return the error of a result that cannot be pickled."""
    from hybrid_compute.errors import ResultEncodeError  # noqa: PLC0415 - only when it fails

    return ResultEncodeError(
        f"the work was done, but its result, of type {_failures.type_name_of(type(value))}, "
        f"cannot be pickled: {type(failure).__name__}: {_failures.text_of(failure)}. Return plain "
        "data"
    )


def deliver(item: WorkItem, outcome: tuple[int, bytes]) -> None:
    """Deliver to an item, which has started, what `run_packed` returned. Callbacks run."""
    kind, data = outcome
    if kind == VALUE:
        try:
            value = _pickling.loads(data)
        except BaseException as error:  # whatever a constructor raises
            item.fail(_undecodable(item, error))
        else:
            item.succeed(value)
    elif kind == RAISED:
        from hybrid_compute.errors import ResultEncodeError  # noqa: PLC0415 - only when it fails

        raised = _failures.decode_error(data)
        (item.fail if type(raised) is ResultEncodeError else item.raised)(raised)
    else:
        item.fail(_unknown_there(item, _failures.decode_error(data)))


def _undecodable(item: WorkItem, cause: BaseException) -> BaseException:
    from hybrid_compute.errors import ResultDecodeError  # noqa: PLC0415 - only when it fails

    error = ResultDecodeError(
        f"task {item.name!r} was done, but its result cannot be unpickled here: "
        f"{type(cause).__name__}: {_failures.text_of(cause)}"
    )
    error.__cause__ = cause
    return error


def _unknown_there(item: WorkItem, cause: BaseException) -> BaseException:
    from hybrid_compute.errors import TaskDecodeError  # noqa: PLC0415 - only when it fails

    error = TaskDecodeError(
        f"a worker cannot unpickle task {item.name!r} or its arguments: "
        f"{type(cause).__name__}: {_failures.text_of(cause)}. Is all that they need importable "
        "there?"
    )
    error.__cause__ = cause
    return error
