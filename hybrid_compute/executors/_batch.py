"""A batch of calls as one call: what a chunk of a `map` is in the worker.

Runs in worker processes, so it imports nothing that is dear. Pure: no threads, no state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Outcome", "run_batch"]


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
        from hybrid_compute import _pickling  # noqa: PLC0415 - only in a worker

        encoded = {place: _pickling.encode_error(e) for place, e in self.failures.items()}
        try:
            packed = _pickling.dumps(self.values)
        except BaseException:  # whatever a __reduce__ raises; found out below, one by one
            packed = _pickling.dumps(self._what_travels(encoded))
        return _unpack, (packed, encoded, self.seconds)

    def _what_travels(self, encoded: dict[int, bytes]) -> list[Any]:
        from hybrid_compute import _pickling  # noqa: PLC0415 - only in a worker
        from hybrid_compute.errors import ResultEncodeError  # noqa: PLC0415

        kept: list[Any] = []
        for place, value in enumerate(self.values):
            try:
                _pickling.dumps(value)
            except BaseException as error:
                refused = ResultEncodeError(
                    f"the result of call {place} of a batch, {type(value).__qualname__}, cannot "
                    f"be pickled: {error!r}; return something that can"
                )
                encoded[place] = _pickling.encode_error(refused)
                kept.append(None)
            else:
                kept.append(value)
        return kept


def _unpack(packed: bytes, encoded: dict[int, bytes], seconds: float) -> Outcome:
    from hybrid_compute import _pickling  # noqa: PLC0415 - see above

    failures = {place: _pickling.decode_error(data) for place, data in encoded.items()}
    return Outcome(_pickling.loads(packed), failures, seconds)


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
