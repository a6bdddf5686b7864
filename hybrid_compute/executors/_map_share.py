"""A thread pool's half of `map`: calls without a future each.

Has no lock of its own; `_threads` and `maps` say what theirs guard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from hybrid_compute._seats import Wait, here
from hybrid_compute.executors._threads import Pool
from hybrid_compute.items import name_of
from hybrid_compute.maps import _FREE_THREADED, _NOBODY, Results

__all__ = ["MapShare"]


class MapShare:
    """One `map` on the pool: its calls need no futures and no queue of their own.

    As many shares as there are workers stand in the pool's queue, where one future for each call
    would stand, and all are this object: a thread that takes one makes calls until none is left.
    A call is claimed by `popleft`, which is atomic, with and without the GIL. Where the input is
    read bit by bit, each call has a share of its own, so that others come in between.
    """

    __slots__ = ("_at", "_calls", "_fn", "_inert", "_one_each", "_pool", "_results", "_searched")

    def __init__(
        self, pool: Pool, fn: Callable[..., Any], results: Results, *, inert: bool
    ) -> None:
        self._inert = inert
        self._pool = pool
        self._fn = fn
        self._at: list[Any] = []  # the seats of the threads that make calls
        self._searched = False  # somebody has looked whether its calls hold him up
        self._one_each = False  # each call has its own job in the pool's queue
        self._results = results
        self._calls: deque[tuple[int, tuple[Any, ...]]] = deque()

    @property
    def name(self) -> str:
        """That of the function."""
        return name_of(self._fn)

    def is_unwanted(self) -> bool:
        """Say whether nobody waits for the results any more: it cannot be told."""
        return False

    # For the map's consumer.

    def feed(self, index: int, call: Any) -> None:
        self._one_each = True
        self._calls.append((index, call))
        self._pool.push(self)

    def feed_all(self, calls: Iterable[Any]) -> None:
        if self._inert:
            self._calls.extend(enumerate(calls))
            count = self._results.total = len(self._calls)
            if count:
                self._pool.push(self, min(count, self._pool.size))
            return
        # As in the stdlib, calls run while the input is still being read, and those run that
        # were read before the input raised.
        index = -1
        for index, call in enumerate(calls):
            self.feed(index, call)
        self._results.total = index + 1

    # For the map's consumer and for a pool that shuts down.

    def cancel(self) -> None:
        self.reject(CancelledError())

    def reject(self, error: BaseException) -> None:
        while self._calls:
            try:
                index, _ = self._calls.popleft()
            except IndexError:  # a thread took the last one meanwhile
                return
            self._results.fail(index, error)

    # For a consumer on one of the pool's threads, which nobody needs while it waits.

    def wait_of(self, index: int | None, *, timed: bool) -> Wait:
        return Wait((self,), timed=timed)

    def _urge(self, queued: dict[Any, set[Any]]) -> None:
        if self._calls:  # else all are made, or at least begun
            self._pool.help(_Help(self))

    def _held_up_by(self) -> tuple[Wait, ...]:
        self._searched = True  # first: see `_leave`
        if self._calls:
            return ()
        waits = [each.wait for each in tuple(self._at)]
        return tuple(w for w in waits if w is not None) if all(map(_holds, waits)) else ()

    def help(self) -> None:
        """Make calls until the consumer has what he waits for."""
        while self._calls and self._results.is_awaited():
            self._run_one()
        del self  # as below

    def _run_one(self) -> None:
        seat = here.seat
        self._at.append(seat)
        try:
            self._make_calls(one_each=True)
        finally:
            self._leave(seat)
            del self  # as below

    def _leave(self, seat: Any) -> None:
        """Note that a thread makes no more calls.

        Who looked for a circle while it was here found that it goes on. So the consumer, who would
        be in it, looks again: now it is the other calls that count.
        """
        self._at.remove(seat)
        if self._searched and any(each.wait is not None for each in tuple(self._at)):
            self._results.nudge()

    # For the pool's threads.

    def run(self) -> None:
        if not self._calls:
            return  # other threads have made them all
        if self._one_each:
            self._run_one()
            del self  # as below
            return
        pool, seat = self._pool, here.seat
        with pool.lock:
            pool.shares.append(self)
            dropping = pool.dropping
        self._at.append(seat)
        try:
            if dropping is not None:
                self.reject(dropping())  # it was in nobody's list when all was dropped
            self._make_calls(one_each=False)
        finally:
            with pool.lock:
                pool.shares.remove(self)
            self._leave(seat)
            del self  # the traceback of a call's error leads back to this frame

    def _make_calls(self, *, one_each: bool) -> None:
        fn, results = self._fn, self._results
        claim = self._calls.popleft
        values, order = results.values, results._order
        try:
            while True:
                index, args = claim()
                try:
                    value = fn(*args)
                except BaseException as error:
                    # Without this frame, which holds the results of the others.
                    trace = error.__traceback__
                    results.fail(index, error.with_traceback(trace and trace.tb_next))
                    del trace, args
                    if one_each:
                        break
                    continue
                # By hand: results.put(index, value), which costs as much as the rest together.
                values[index] = value
                if order is not None:
                    order.append(index)
                if results._wanted != _NOBODY or _FREE_THREADED:
                    results._wake(index)
                del value, args  # the next call may take long
                if one_each:
                    break
        except IndexError:
            pass  # no call is left; an IndexError of `fn` does not get here
        # The traceback of a call's error leads back to this frame: leave nothing in it.
        del self, fn, results, values, order, claim


class _Help:
    """A job: help with a map whose consumer waits on a thread of the pool."""

    __slots__ = ("is_unwanted", "name", "share")

    def __init__(self, share: MapShare) -> None:
        self.share = share
        self.name = share.name
        self.is_unwanted = share.is_unwanted

    def run(self) -> None:
        self.share.help()

    def cancel(self) -> None:
        """Do nothing: the share is cancelled by itself."""

    def reject(self, error: BaseException) -> None:
        """Do nothing: the share is rejected by itself."""


def _holds(wait: Wait | None) -> bool:
    return wait is not None and not wait.timed
