"""The short ways, past the router: which of them a call may take, and the shortest.

Tiny tasks are run by their submitter, which takes less time than a hand-over; those that have one
place to go are handed over there (`direct`). Owns no state. For the former: what `InlineExecutor`
does with an item, without the item: nobody else can see the future before the work is done, so
nothing needs a lock.
"""

from __future__ import annotations

import sys
from concurrent.futures._base import FINISHED
from contextvars import copy_context
from threading import current_thread, main_thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hybrid_compute._seats import here
from hybrid_compute._unretrieved import Unretrieved
from hybrid_compute.futures import HybridFuture
from hybrid_compute.policy._sizes import measure
from hybrid_compute.privacy import SENSITIVE, has_wrapped
from hybrid_compute.running import Current, runs_work
from hybrid_compute.tasks import Task

if TYPE_CHECKING:
    from hybrid_compute.learning import Learning

__all__ = ["direct_belief", "quick_belief", "run_quick"]

_MODULES = sys.modules


def quick_belief(
    quick: dict[Any, dict[int, Any]],
    fn: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return what is known of a call that its submitter may run; None: he may not."""
    known = quick.get(fn.key)
    if known is None or (SENSITIVE in _MODULES and has_wrapped(args, kwargs)):
        return None  # who opens what is wrapped is not on this way
    belief = known.get(measure((*args, *kwargs.values()) if kwargs else args)[0])
    # The task was looked at when it was routed; the key may be that of another one as well.
    return belief if belief is not None and belief.quick_options is fn.options else None


def direct_belief(
    direct: dict[Any, dict[int, Any]],
    fn: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Return what is known of a call that has one place to go; None: it has to be asked where."""
    known = direct.get(fn.key)
    if known is None or (SENSITIVE in _MODULES and has_wrapped(args, kwargs)):
        return None  # as `quick_belief`
    belief = known.get(measure((*args, *kwargs.values()) if kwargs else args)[0])
    # The task was looked at when it was routed; the key may be that of another one as well.
    if belief is None or belief.left <= 0 or belief.direct_options is not fn.options:
        return None
    belief.left -= 1
    return belief


def _read(frame: Any) -> Current:
    return Current(frame["fn"].name, 1, here.limit.deadline, executor=frame["learning"].owner)


@runs_work(_read)
def run_quick(
    fn: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    belief: Any,
    learning: Learning,
    *,
    reports: bool | None,
) -> HybridFuture[Any]:
    """Make the call here and now; return its future, which is done.

    `reports` is False if nobody wants to hear of a failure that nobody looks at.
    """
    future: HybridFuture[Any] = HybridFuture()
    future._decision = belief.quick_choice
    begun = perf_counter()
    try:
        # What it sets is its own: nobody is to see a difference to a thread.
        run = copy_context().run
        future._result = run(fn.fn, *args, **kwargs) if kwargs else run(fn.fn, *args)
    except BaseException as error:
        # Without this frame, which would lead from the future to itself.
        trace = error.__traceback__
        future._exception = error.with_traceback(trace and trace.tb_next)
        if reports is not False and not isinstance(error, KeyboardInterrupt):
            future._unretrieved = Unretrieved(fn.name, error)
        del trace
    future._state = FINISHED
    seconds = perf_counter() - begun
    if belief.ran_inline(seconds):
        learning.slow(belief, seconds)
    error_ = future._exception
    if isinstance(error_, KeyboardInterrupt) and current_thread() is main_thread():
        raise error_  # Ctrl-C is the program's as much as the item's
    return future
