"""The map of a HybridExecutor: one decision for all of its calls, and how they travel.

Owns no state. Calls go one by one, or in chunks where a message is dear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hybrid_compute._contexts import each_in
from hybrid_compute._seats import here
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.executors._chunks import map_in_chunks
from hybrid_compute.items import ContextItem, WorkItem
from hybrid_compute.maps import MapOptions, map_by_submit
from hybrid_compute.privacy import OpenedGuard, OpenedPiece, needs_a_look, open_map
from hybrid_compute.routed import alarm_of
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions, has_body

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute.abc import Fleet, SubExecutor
    from hybrid_compute.futures import HybridFuture
    from hybrid_compute.hybrid import HybridExecutor

__all__ = ["map_on"]


def map_on(  # noqa: PLR0911 - a case each
    executor: HybridExecutor,
    said: TaskOptions,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    mapping: MapOptions,
) -> Iterator[Any]:
    """Map a function over iterables, where the executor's policy says."""
    if said is NO_OPTIONS and (executor._closed or not executor._submits_itself()):
        # Who overrides submit sees each call; who is closed refuses the first, if any.
        return map_by_submit(executor.submit, fn, iterables, mapping)
    context = executor._context(fn)
    plain_way = executor._short_way or executor._short_way_on
    timed = here.limit.deadline is not None  # a deadline is of a call, and not of a chunk
    if said is NO_OPTIONS and plain_way and not timed and not isinstance(fn, Task):
        return _map_on_threads(executor, executor._thread, context, fn, iterables, mapping)
    options = said.over(fn.options) if isinstance(fn, Task) else said

    def one_by_one(fn: Callable[..., Any], *args: Any) -> Any:
        return executor._submit(said, fn, args, None)

    if timed or options.hedge is not None or (isinstance(fn, Task) and fn.streams):
        return map_by_submit(one_by_one, fn, iterables, mapping)
    hides = executor._router.guard(said, fn, (), None, options)
    bare, guard = iterables, None if hides is None or hides.why is None else OpenedGuard(hides.why)
    if executor._router.opens(said, fn) and needs_a_look(remote=False):
        bare, found = open_map(iterables)
        guard = guard or found
    may_move = options.movable or (
        options.movable is None and (isinstance(fn, Task) or executor._router.moves_plain)
    )
    if executor._learns and may_move and options.executor is None and not options.supervised:
        if options.before_remote is None or not executor._router.remotes:
            return _map_learned(executor, options, fn, bare, mapping, guard=guard, context=context)
        # Each call may go out in another form.
        return map_by_submit(one_by_one, fn, iterables, mapping)
    route, fleet = _route_for_all(executor, fn, options)
    first = fleet[route[0]]
    priced = any(fleet[name].price for name in route)
    if priced or (first.capabilities.remote and (guard or options.before_remote is not None)):
        # Each call has its own to hide, or a price, which the policy decides on.
        return map_by_submit(one_by_one, fn, iterables, mapping)
    if options.before_remote is not None:
        guard = guard or OpenedGuard()
    return _map_routed(
        executor,
        options,
        fn,
        bare,
        mapping,
        route=route,
        fleet=fleet,
        guard=guard,
        context=context,
    )


def _map_on_threads(  # noqa: PLR0917 - as what it hands on
    executor: HybridExecutor,
    threads: SubExecutor,
    context: Context | None,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    mapping: MapOptions,
) -> Iterator[Any]:
    """Map on an executor that shares our memory; it sees to the context of a task by itself."""
    recorder = executor._recorder
    if recorder is not None:
        # One that is no task any more: its context is seen to here.
        fn = recorder.mapped(fn if context is None else each_in(context, fn), fn, threads)
    elif context is not None and not isinstance(fn, Task):
        fn = each_in(context, fn)
    return threads._map(fn, iterables, mapping)


def _route_for_all(
    executor: HybridExecutor, fn: Callable[..., Any], options: TaskOptions
) -> tuple[tuple[str, ...], Fleet]:
    """Return one decision for the whole map, on an item that stands for all of its calls."""
    probe = WorkItem(fn, options=options)
    try:
        route, fleet = executor._router.route(probe)
        return route or executor._router.for_want_of_an_answer(fleet), fleet
    finally:
        probe.future.cancel()  # it and its future refer to each other, and to `fn`


def _map_routed(  # noqa: PLR0913 - what was decided before
    executor: HybridExecutor,
    options: TaskOptions,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    mapping: MapOptions,
    *,
    route: tuple[str, ...],
    fleet: Fleet,
    guard: OpenedGuard | None,
    context: Context | None,
) -> Iterator[Any]:
    """Map along one route for all calls."""
    first = fleet[route[0]]
    # A retry, or a deadline, is of a call and not of a chunk.
    if first.capabilities.chunks and not options.supervised:
        return map_in_chunks(
            lambda _, *args: executor._launch(
                executor._item(run_batch, args, None, options, guard=guard, context=context),
                route,
                fleet,
            ),
            fn,
            iterables,
            mapping,
            resubmit=lambda fn, *args: _again(
                executor, options, (fn, args), route[0], fleet, guard=guard, context=context
            ),
            workers=lambda: first.workers,
            feeders=executor._feeders,
            split_crashed=bool(options.idempotent),
        )
    # Who records sees the calls that are made here; what is sent away must be an item of its own.
    unseen = executor._observed or (executor._recorder and not first.capabilities.shares_memory)
    if len(route) == 1 and not (options.supervised or unseen):
        if first.capabilities.shares_memory:
            return _map_on_threads(executor, first, context, fn, iterables, mapping)
        return first._map(fn, iterables, mapping)
    return map_by_submit(
        lambda fn, *args: executor._launch(
            executor._item(fn, args, None, options, guard=guard, context=context), route, fleet
        ),
        fn,
        iterables,
        mapping,
    )


def _again(
    executor: HybridExecutor,
    options: TaskOptions,
    call: tuple[Callable[..., Any], tuple[Any, ...]],
    name: str,
    fleet: Fleet,
    *,
    guard: OpenedGuard | None,
    context: Context | None,
) -> HybridFuture[Any]:
    """Send a piece of a chunk that has failed, where that was; observers see it as another item."""
    if executor._observed:
        item = executor._item(*call, None, options, guard=guard, context=context)
        future = item.future
        item.launch((name,), fleet, alarm_of(executor, item), late=True)
        return future
    piece: WorkItem = (ContextItem if guard is None else OpenedPiece)(*call, None, options, context)
    if executor._recorder is not None:
        piece = executor._recorder.piece(piece, name)
    fleet[name].execute_late(piece)
    return piece.future


_SHORT_MAP_SECONDS = 0.002  # not worth a message to a process, let alone the start of one


def _map_learned(
    executor: HybridExecutor,
    options: TaskOptions,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    mapping: MapOptions,
    *,
    guard: OpenedGuard | None,
    context: Context | None,
) -> Iterator[Any]:
    """Map where the policy, which learns, says for each call or chunk of calls."""
    known = executor._learning.usual(fn)
    if (known is not None and known.kind == "waits") or not has_body(fn):
        # Each call by itself: a chunk would have one wait for the other; and a service knows its
        # tasks by name, of which a chunk has none.
        return map_by_submit(
            lambda fn, *args: executor._route(
                executor._item(fn, args, None, options, guard=guard, context=context)
            ),
            fn,
            iterables,
            mapping,
        )
    short = (
        known is not None
        and known.kind in ("tiny", "quick")
        and mapping.length is not None
        and mapping.length * known.run <= _SHORT_MAP_SECONDS
        and not executor._observed
    )
    thread = executor._fleet["thread"]
    if short:
        probe = WorkItem(fn, options=options)
        fits = thread.can_run(probe)
        probe.future.cancel()  # as above
        if fits:
            return _map_on_threads(executor, thread, context, fn, iterables, mapping)
    sent = 0

    def submit(_: object, fn: Any, calls: list[Any], star: bool) -> Any:
        nonlocal sent
        sent += len(calls)
        item = executor._item(
            run_batch, (fn, calls, star), None, options, guard=guard, context=context
        )
        item.behind = 10 * len(calls) if mapping.length is None else max(0, mapping.length - sent)
        return executor._route(item)

    def workers() -> int:
        known = executor._learning.usual(fn)
        where = executor._fleet.get(known.place if known is not None else "process")
        return executor._fleet["process"].workers if where is None else where.workers

    return map_in_chunks(
        submit,
        fn,
        iterables,
        mapping,
        resubmit=lambda fn, *args: _again(
            executor, options, (fn, args), "process", executor._fleet, guard=guard, context=context
        ),
        workers=workers,
        feeders=executor._feeders,
        split_crashed=bool(options.idempotent),
    )
