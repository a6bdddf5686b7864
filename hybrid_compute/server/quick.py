"""Quick: calls of tasks that run inline, made in the turn of the event loop that has read them.

Owns which tasks those are, for one connection, and the way of such a call: it needs no future, no
place among the calls that run and no note of them, since nothing else of the server happens between
its beginning and its end. So a frame of them costs less than what `service.Call` would for each.
What it may not do, it leaves to that: the two ways have the same limits, checks, answers and lines
in the audit log, and the tests hold them against each other.

Threads: all on the event loop; `Service.left`, which another thread may call, sees which one runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from hybrid_compute._failures import type_name_of
from hybrid_compute._seats import here, known
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.hybrid import HybridExecutor
from hybrid_compute.protocol.messages import Failed, Id, Request
from hybrid_compute.running import Current, runs_work
from hybrid_compute.server import audit
from hybrid_compute.server.catalog import Catalog, Entry
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.service import Service
from hybrid_compute.server.tokens import Token
from hybrid_compute.streams import Stream
from hybrid_compute.tasks import Task, has_body

__all__ = ["Quick", "quick_ones"]


def quick_ones(catalog: Catalog, executor: HybridExecutor) -> dict[str, Entry]:
    """Return the tasks of a catalog whose submission is no more than a call, by their names.

    Their author has said that they run inline, nobody is told of it, and nothing is in the way of
    it that somebody else may have made.
    """
    plain = (
        not executor._observed
        and executor._submits_itself()
        and type(executor._fleet["inline"]) is InlineExecutor
    )
    return {
        entry.name: entry
        for entry in catalog
        if plain
        and (options := entry.task.options).executor == "inline"
        and not (options.supervised or entry.task.streams)
        and has_body(entry.task)
    }


def _within(limit: float, task: Task[..., Any], args: Any, kwargs: Any) -> Any:
    """Make a call that has so many seconds: as an executor has it that can end nothing."""
    deadline = time.monotonic() + limit
    known.deadlines = True
    here_limit = here.limit
    outer, here_limit.deadline = here_limit.deadline, deadline  # for what it submits
    try:
        value = task.fn(*args, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException:
        if time.monotonic() < deadline:
            raise
    else:
        if time.monotonic() < deadline:
            return value
    finally:
        here_limit.deadline = outer
    raise TaskTimeout(
        f"{task.name!r} was not done within its timeout of {limit:g} s",
        item_name=task.name,
        timeout=limit,
    )


def _read(frame: Any) -> Current:
    service = frame["self"]._service
    _, request, begun = service.here
    deadline = None if request.timeout is None else begun + request.timeout
    return Current(request.task, 1, deadline, executor=lambda: service.executor)


class Quick:
    """The calls of one connection that are quick.

    Args:
        service: whose limits they keep to.
        token: the caller's.
        fail: called with a call's id and why it failed.
        follow: called with a call that is over, and with its future: its result is a stream.
    """

    def __init__(
        self,
        service: Service,
        token: Token,
        *,
        fail: Callable[[Id, Failed], object],
        follow: Callable[[Request, Future[Any]], object],
    ) -> None:
        self._service = service
        self._token = token
        self._fail = fail
        self._follow = follow
        self._entries = {
            name: entry for name, entry in service.inline.items() if token.allows(name)
        }

    @runs_work(_read)
    def run(
        self, requests: Iterable[Request], *, own: bool
    ) -> tuple[list[tuple[Id, Any]], list[Request]]:
        """Run the quick ones of the calls that came in a frame.

        Args:
            requests: the calls.
            own: they came from a peer of ours.

        Returns:
            The results by id, and the calls that have to go the long way.
        """
        service, token, entries = self._service, self._token, self._entries
        results: list[tuple[Id, Any]] = []
        others: list[Request] = []
        logged = audit.is_on()
        ran: dict[str, int] = {}
        began = time.monotonic()
        try:
            for request in requests:
                # All at once: by its name, each takes as long as all of them.
                identity, name, args, kwargs, limit, _, _, key, _ = request
                entry = entries.get(name)
                if (
                    entry is None
                    or (limit is not None and limit <= 0)
                    or key is not None  # the memory may have its end already
                    or service.is_full(token)
                ):
                    others.append(request)
                    continue
                # Who looks for calls that do not end has to see it.
                service.here = at = token, request, time.monotonic()
                value = args[0] if len(args) == 1 else None
                if type(value) is not entry.scalar or kwargs:  # else `check` has nothing to say
                    try:
                        args, kwargs = entry.check(request, own=own)
                    except Refusal as no:
                        service.tally.refused += 1
                        if logged:
                            service.log(*at, f"refused {no.status}")
                        self._fail(identity, Failed(0, no.text, no.status, path=no.path))
                        continue
                ran[name] = ran.get(name, 0) + 1
                try:
                    value = (
                        entry.task.fn(*args, **kwargs)
                        if limit is None
                        else _within(limit, entry.task, args, kwargs)
                    )
                except BaseException as error:
                    service.tally.failed_here(name)
                    if logged:
                        service.log(*at, type_name_of(type(error)))
                    if isinstance(error, KeyboardInterrupt):
                        raise  # as an executor has it: it ends the server
                    self._fail(identity, service.failed(error))
                    del error
                    continue
                if isinstance(value, Stream):
                    ran[name] -= 1  # it is a call like others from here on
                    done: Future[Any] = Future()
                    done.set_result(value)
                    self._follow(request, done)
                    continue
                if logged:
                    service.log(*at, "ok")
                results.append((identity, value))
        finally:
            service.here = None
            service.tally.ended_here(ran, began)
        return results, others
