"""How a call is run where a policy wants to learn from it."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from hybrid_compute._contexts import bind

__all__ = ["run_metered"]


def run_metered(item: Any) -> None:
    """Run the call of an item that has a meter on this thread, and deliver its outcome.

    Never raises. The place of `WorkItem.run`, which says why it is so written.
    """
    if not item.start():
        return
    belief, meter = item.belief, item.meter
    fn, args, context = item.fn, item.args, item.context
    if context is not None:
        fn, args = bind(context, fn, args)
    cpu = meter.begin(item)
    begun = perf_counter()
    try:
        kwargs = item.kwargs
        value = fn(*args, **kwargs) if kwargs else fn(*args)
    except BaseException as error:
        news = meter.end(item, begun, cpu, None)
        item.raised(error)
        item = kwargs = context = fn = args = None
    else:
        news = meter.end(item, begun, cpu, value)
        item.succeed(value)
        item = kwargs = value = context = fn = args = None  # what follows may take long
    if news:
        meter.reconsider(belief)
    meter = None  # the traceback of a failure keeps this frame, and it leads to the fleet
