"""How an item with a route, or one that is measured, runs its call."""

from __future__ import annotations

from threading import current_thread
from time import perf_counter
from types import GeneratorType
from typing import Any

from hybrid_compute._contexts import bind, pool_in
from hybrid_compute._seats import here

__all__ = ["run_measured"]


def run_measured(item: Any) -> None:
    """Run the call of an item on this thread, in its context, and deliver its outcome.

    If the item has a meter, that is told. Never raises. It is `WorkItem.run`, which says why it is
    so written, with more to see to; and a method of the items' classes as it is: the traceback of a
    failure would keep a frame between, and what stands in that.
    """
    if not item.start():
        return
    belief, meter, context = item.belief, item.meter, item.context
    fn, args = (item.fn, item.args) if context is None else bind(context, item.fn, item.args)
    deadline = item.deadline
    limit = outer = None
    if deadline is not None:
        limit = here.limit
        outer = limit.deadline
    cpu = None if meter is None else meter.begin(item)
    begun = perf_counter()
    try:
        if limit is not None:
            limit.deadline = deadline  # for what it submits; in here, so that it is taken back
        kwargs = item.kwargs
        value = fn(*args, **kwargs) if kwargs else fn(*args)
    except BaseException as error:
        if limit is not None:
            limit.deadline = outer
        news = meter is not None and meter.end(item, begun, cpu, None)
        item.raised(error)
        item = kwargs = context = fn = args = None
    else:
        if limit is not None:
            limit.deadline = outer
        news = meter is not None and meter.end(item, begun, cpu, value)
        if type(value) is GeneratorType:
            pool = current_thread().__dict__.get("hybrid_pool")
            item.future._pool = pool if context is None else pool_in(pool, context)
        item.succeed(value)
        item = kwargs = value = context = fn = args = None  # what follows may take long
    if news and meter is not None:
        meter.reconsider(belief)
    meter = None  # the traceback of a failure keeps this frame, and it leads to the fleet
