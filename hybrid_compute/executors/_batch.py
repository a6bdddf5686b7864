"""A batch of calls as one call: what a chunk of a `map` is in the worker.

Runs in worker processes, so it imports nothing that is dear. Pure: no threads, no state.
"""

from __future__ import annotations

import time
from _pickle import PickleBuffer

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["Outcome", "run_batch"]

# What certainly travels, in both directions, without code of anybody's being run.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})


class Outcome:
    """How the calls of a batch ended.

    Attributes:
        values: the results, in order; None in the place of a failure.
        failures: what was raised, by place in the batch.
        seconds: how long the batch ran.
    """

    __slots__ = ("failures", "seconds", "values")

    def __init__(
        self, values: list[Any], failures: dict[int, BaseException], seconds: float
    ) -> None:
        self.values = values
        self.failures = failures
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle so that one result that cannot travel does not take the others along."""
        from hybrid_compute import _failures, _pickling  # noqa: PLC0415 - only in a worker

        limited = _pickling.max_payload is not None
        if not limited and not self.failures and _ATOMS.issuperset(map(type, self.values)):
            return Outcome, (self.values, {}, self.seconds)
        failures = {place: _failures.encode_error(e) for place, e in self.failures.items()}
        values = [
            value if type(value) in _ATOMS and not limited else _piece(value, place, failures)
            for place, value in enumerate(self.values)
        ]
        return _unpack, (values, failures, self.seconds)


class _Piece:
    """One result, pickled by itself; its large buffers stay out of the outer pickle too."""

    __slots__ = ("_buffers", "_data")

    def __init__(self, data: bytes, buffers: list[memoryview]) -> None:
        self._data = data
        self._buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_piece, (self._data, *map(PickleBuffer, self._buffers))


class _Undecodable:
    """Stands for a result that cannot be unpickled."""

    __slots__ = ("cause",)

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


def _piece(value: Any, place: int, failures: dict[int, bytes]) -> _Piece | None:
    from hybrid_compute import _failures, _pickling  # noqa: PLC0415 - only in a worker
    from hybrid_compute.errors import PayloadTooLarge, ResultEncodeError  # noqa: PLC0415

    buffers = _pickling.Buffers()
    try:
        data = _pickling.dumps(value, buffers)
        _pickling.check_size(value, len(data) + buffers.size())
        return _Piece(data, buffers)
    except PayloadTooLarge as error:
        failures[place] = _failures.encode_error(error)
        return None
    except BaseException as error:  # whatever a __reduce__ raises
        refused = ResultEncodeError(
            f"the result of call {place} of a batch, {type(value).__qualname__}, cannot be "
            f"pickled: {error!r}; return something that can"
        )
        failures[place] = _failures.encode_error(refused)
        return None


def _load_piece(data: bytes, *buffers: memoryview) -> Any:
    from hybrid_compute import _pickling  # noqa: PLC0415 - see above

    try:
        return _pickling.loads(data, buffers)
    except BaseException as error:  # whatever a constructor raises
        return _Undecodable(error)


def _unpack(values: list[Any], encoded: dict[int, bytes], seconds: float) -> Outcome:
    from hybrid_compute import _failures  # noqa: PLC0415 - see above
    from hybrid_compute.errors import ResultDecodeError  # noqa: PLC0415

    failures = {place: _failures.decode_error(data) for place, data in encoded.items()}
    for place, value in enumerate(values):
        if type(value) is _Undecodable:
            values[place] = None
            error = ResultDecodeError(
                f"call {place} of a batch was done, but its result cannot be unpickled here: "
                f"{value.cause!r}"
            )
            error.__cause__ = value.cause
            failures[place] = error
    return Outcome(values, failures, seconds)


def run_batch(fn: Callable[..., Any], calls: Sequence[Any], star: bool) -> Outcome:
    """Call `fn` on each of `calls` (on the items of each, if `star`); never raises."""
    values: list[Any] = []
    failures: dict[int, BaseException] = {}
    keep = values.append
    start = time.perf_counter()
    for call in calls:
        try:
            keep(fn(*call) if star else fn(call))
        except BaseException as error:
            failures[len(values)] = error
            keep(None)
    return Outcome(values, failures, time.perf_counter() - start)


run_batch.carries_function = True  # type: ignore[attr-defined]  # see WorkItem.name
run_batch.carries_calls = True  # type: ignore[attr-defined]  # see WorkItem.calls
