"""A thread pool's half of `map`: calls without a future each.

Has no lock of its own; `_threads` and `maps` say what theirs guard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from hybrid_compute.executors._threads import Pool
from hybrid_compute.maps import _FREE_THREADED, _NOBODY, Results

__all__ = ["MapShare"]


class MapShare:
    """One `map` on the pool: its calls need no futures and no queue of their own.

    As many shares as there are workers stand in the pool's queue, where one future for each call
    would stand, and all are this object: a thread that takes one makes calls until none is left.
    A call is claimed by `popleft`, which is atomic, with and without the GIL. Where the input is
    read bit by bit, each call has a share of its own, so that others come in between.
    """

    __slots__ = ("_calls", "_fn", "_inert", "_one_each", "_pool", "_results")

    def __init__(
        self, pool: Pool, fn: Callable[..., Any], results: Results, *, inert: bool
    ) -> None:
        self._inert = inert
        self._pool = pool
        self._fn = fn
        self._one_each = False  # each call has its own job in the pool's queue
        self._results = results
        self._calls: deque[tuple[int, tuple[Any, ...]]] = deque()

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

    # For the pool's threads.

    def run(self) -> None:
        if self._one_each:
            self._make_calls()
            del self  # as below
            return
        if not self._calls:
            return  # other threads have made them all
        pool = self._pool
        with pool.lock:
            pool.shares.append(self)
            dropping = pool.dropping
        try:
            if dropping is not None:
                self.reject(dropping())  # it was in nobody's list when all was dropped
            self._make_calls()
        finally:
            with pool.lock:
                pool.shares.remove(self)
            del self  # the traceback of a call's error leads back to this frame

    def _make_calls(self) -> None:
        fn, results = self._fn, self._results
        claim = self._calls.popleft
        values, order = results.values, results._order
        one_each = self._one_each
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
