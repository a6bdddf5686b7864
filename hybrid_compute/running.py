"""`current()`: what runs here, for the work itself to ask.

Owns nothing that would have to be kept up to date for each item: who asks finds out. On a thread of
a pool its seat tells the job (`_seats`). What its submitter runs himself is found on the stack: a
frame of one of those functions that run such work, which say so by `runs_work`. A worker process
asks its caller (`executors._nested`). So work that does not ask pays nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid_compute import _pickling
from hybrid_compute._seats import here, locals_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Current", "current", "item_runs", "runs_work"]

F = TypeVar("F", bound=Callable[..., Any])

# How to read a frame of each of the functions that run work on their caller's thread. Filled as
# their modules are loaded, and not changed afterwards.
_FRAMES: dict[CodeType, Callable[[Any], Current]] = {}


class Current:
    """What runs: made by `current()`. It may be handed to other threads; any of them may ask.

    Attributes:
        name: what was submitted, as in errors and events; "" outside of any work item.
        attempt: 1, or more if earlier ones have failed; 0 outside of any.
        deadline: `time.monotonic()` by which it must be done; None: never mind.

    It is true inside of a work item, and false outside.

    Args:
        name: see above.
        attempt: see above.
        deadline: see above.
        executor: gives the executor, or None if it is gone; None: no work item runs.
        over: tells whether nobody waits for the outcome any more; None: that cannot be told.
    """

    __slots__ = ("_executor", "_over", "attempt", "deadline", "name")

    name: str
    attempt: int
    deadline: float | None

    def __init__(
        self,
        name: str = "",
        attempt: int = 0,
        deadline: float | None = None,
        *,
        executor: Callable[[], Any] | None = None,
        over: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.attempt = attempt
        self.deadline = deadline
        self._executor = executor
        self._over = over

    @property
    def executor(self) -> Executor:
        """The executor that it was submitted to, to submit more and wait for it.

        In a worker process it is that of the process which submitted: a small object with `submit`,
        `map`, `options` and `shutdown`, by which work goes there.

        Raises:
            RuntimeError: outside of any work item; or the executor was dropped without `shutdown`.
        """
        if self._executor is None:
            raise RuntimeError(
                "no work item runs here: current().executor is there only inside of work that was "
                "submitted to an executor of hybrid_compute, on the thread that runs it"
            )
        found = self._executor()
        if found is None:
            raise RuntimeError(
                f"the executor that runs {self.name!r} was dropped without shutdown, and takes no "
                "more work: keep a reference to it for as long as work may submit to it"
            )
        return found  # type: ignore[no-any-return]  # whoever made this has put one there

    @property
    def remaining(self) -> float | None:
        """How many seconds there are until the deadline, 0 at least. None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Return True if nobody waits for the outcome any more, though the work still runs.

        Its time was up, so that its future has failed; it was cancelled; or its stream was closed.
        A thread cannot be ended: work that may take long on one looks here now and then, and
        returns. Does not block; in a worker process it asks the caller (some 50 us).
        """
        return self._over is not None and self._over()

    def __bool__(self) -> bool:
        return self._executor is not None

    def __repr__(self) -> str:
        if not self:
            return "<no work item runs here>"
        left = "" if self.deadline is None else f", {self.remaining:.3g} s left"
        return f"<{self.name!r} runs, attempt {self.attempt}{left}>"


_NOTHING = Current()


def runs_work(read: Callable[[Any], Current]) -> Callable[[F], F]:
    """Say that a function runs work on its caller's thread; `read` reads its local variables."""

    def register(fn: F) -> F:
        _FRAMES[fn.__code__] = read
        return fn

    return register


def item_runs(item: Any, executor: Callable[[], Any]) -> Current:
    """Return what is known of a work item that runs in this process."""
    decision = getattr(item, "decision", None)
    attempt = 1 if decision is None else len(decision.earlier) + 1
    over = item.is_unwanted
    return Current(item.name, attempt, item.deadline, executor=executor, over=over)


def current() -> Current:
    """Return what runs on this thread: the innermost work item; outside of any, one that is false.

    ::

        def search(area):
            me = hybrid_compute.current()
            for part in split(area):
                if me.cancelled():  # also False where the function is just called
                    return None
                ...

    Any thread; does not block (in a worker process, it asks the process that submitted once for
    each call). Threads that the work starts by itself run no item: hand them what this returns.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        read = _FRAMES.get(frame.f_code)
        if read is not None:
            with locals_of(frame) as names:
                return read(names)
        frame = frame.f_back
    seat = here.seat
    if seat is not None:
        return _of_seat(seat)
    if _pickling.nest is not None:
        return _of_worker()
    return _NOTHING


def _of_seat(seat: Any) -> Current:
    item, job, owner = seat.item, seat.job, seat.bench.owner
    if item is not None:
        return item_runs(item, owner)
    if job is None:
        return _NOTHING
    return Current(job.name, 1, here.limit.deadline, executor=owner, over=job.is_unwanted)


def _of_worker() -> Current:
    assert _pickling.nest is not None  # noqa: S101 - the caller has looked
    found = _pickling.nest()
    if found is None:
        return _NOTHING
    link, number = found
    name, attempt, deadline = link.about(number)
    return Current(
        name,
        attempt,
        deadline,
        executor=lambda: link.executor(number),
        over=lambda: link.ask("over", number),
    )
