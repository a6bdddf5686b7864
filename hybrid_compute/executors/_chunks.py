"""`map` where a message is dear: many calls to one message, as many as fit the time.

(A few lines over 400: one object, and its one lock.)
Owns how a map's calls are cut into chunks, and what becomes of a chunk that fails as a whole.
Each chunk is one work item, made by a `submit` that is passed in.

The size starts at 1 and grows, at most 8-fold at a time, until a chunk takes 5 ms: then the cost
of a message (some 50 us) is paid at one per cent, and a worker is never further than that from
its next decision. The growth is bounded because the first calls may not be typical of the rest.
Towards the end chunks shrink, so that all workers finish together.

Since not all is submitted at once, an executor that shuts down must first ask for the rest, or
calls that `map` has accepted would be lost: that is what `Feeders` is for.

Threads and locks: outcomes arrive on other threads. `_Chunks._lock` guards the input, the number
of chunks out and the size. One thread at a time submits (`_submitter`); one that finds another
at it leaves the submitting to it, which is what keeps a chunk that fails at once from recursing.
Only `flush` waits for it, on the lock's condition, and never for itself.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar

from hybrid_compute import _exit
from hybrid_compute._seats import Wait, wait_for_any
from hybrid_compute.errors import (
    PayloadTooLarge,
    TaskDecodeError,
    TaskEncodeError,
    WorkerCrashed,
)
from hybrid_compute.executors._batch import Outcome, run_batch
from hybrid_compute.maps import MapOptions, Results, iterate

__all__ = ["Feeders", "map_in_chunks"]

T = TypeVar("T")

_CHUNK_SECONDS = 0.005
_GROWTH = 8
_SHRINK = 16  # the last chunks are so much shorter, at most: a message has its price too
_LARGEST = 1 << 16
_AHEAD = 3  # chunks out per worker: one runs, one waits in the worker, one is on its way


class _Chunks:
    """The source of one map: cuts its input, submits the chunks, puts their outcomes."""

    def __init__(
        self,
        submit: Callable[..., Future[Outcome]],
        fn: Callable[..., Any],
        *,
        resubmit: Callable[..., Future[Outcome]],
        star: bool,
        workers: Callable[[], int],
        chunksize: int | None,
        split_crashed: bool,
    ) -> None:
        self._submit = submit
        self._resubmit = resubmit
        self._fn = fn
        self._star = star
        self._workers = workers
        self._fixed = chunksize
        self._split_crashed = split_crashed
        # Guards all below, and tells when a submitter stops; re-entrant: finalizers may submit.
        self._lock = threading.Condition(threading.RLock())
        self._flushing = False
        self._size = chunksize or 1
        self._input: list[Any] = []
        self._next = 0
        self._out: dict[int, Future[Outcome]] = {}
        self._lengths: dict[int, int] = {}
        self._numbers = itertools.count()
        self._submitter: int | None = None  # the thread that submits at the moment
        self._cancelled = False
        self.results: Results

    def feed(self, index: int, call: Any) -> None:
        with self._lock:
            self._lengths[index] = len(call)
        self._send(index, call)

    def feed_all(self, calls: Iterable[Any]) -> None:
        self._input = calls if isinstance(calls, list) else list(calls)
        self.results.total = None if self._input else 0
        self._submit_more()

    def length(self, index: int) -> int:
        return self._lengths.get(index, 1)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            self._input, self._next = [], 0
            out = list(self._out.values())
        for future in out:
            future.cancel()

    def wait_of(self, index: int | None, *, timed: bool) -> Wait:
        # Whichever it is in: what is not submitted yet will be when another chunk is done.
        with self._lock:
            out = list(self._out.values())
        return wait_for_any(out, timed=timed)

    # For an executor that shuts down.

    def flush(self) -> None:
        """Submit all that is left, however long the executor's queue gets; then return."""
        with self._lock:
            self._flushing = True
        self._submit_more()
        with self._lock:
            me = threading.get_ident()
            self._lock.wait_for(lambda: self._submitter in (None, me))

    def cancel_rest(self) -> None:
        """Deliver that all that was not submitted is cancelled."""
        with self._lock:
            chunk = self._take(everything=True)
        if chunk is not None:
            self._put(chunk[0], _all_failed(chunk[1], CancelledError()))

    # Submitting.

    def _submit_more(self) -> None:
        with self._lock:
            if self._submitter is not None:
                return  # it looks again before it stops
            self._submitter = threading.get_ident()
        try:
            while True:
                with self._lock:
                    chunk = self._take()
                    if chunk is None:
                        self._stop_submitting()
                        return
                self._send(*chunk)
        except BaseException:
            with self._lock:
                self._stop_submitting()
            raise

    def _stop_submitting(self) -> None:
        self._submitter = None
        self._lock.notify_all()

    def _take(self, *, everything: bool = False) -> tuple[int, list[Any]] | None:
        left = len(self._input) - self._next
        bounded = self._fixed is None and not self._flushing and not everything
        if not left or (bounded and len(self._out) >= _AHEAD * self._workers()):
            return None
        size = self._size
        if everything:
            size = left
        elif self._fixed is None:
            share = max(1, left // (2 * self._workers()))
            least = max(share, size // _SHRINK)
            size = max(size, share) if self._flushing else min(size, least)
        calls = self._input[self._next : self._next + size]
        self._next += len(calls)
        index = next(self._numbers)
        self._lengths[index] = len(calls)
        if self._next == len(self._input):
            self._input, self._next = [], 0
            self.results.total = index + 1  # before the last chunk can be done
        return index, calls

    def _send(self, index: int, calls: list[Any]) -> None:
        try:
            future = self._submit(run_batch, self._fn, calls, self._star)
        except Exception as error:  # shut down meanwhile, or whatever a foreign submit raises
            if index == 0:
                raise
            self._put(index, _all_failed(calls, error))
            return
        with self._lock:
            self._out[index] = future
            cancelled = self._cancelled
        future.add_done_callback(lambda done: self._done(index, calls, done))
        if cancelled:
            future.cancel()

    # Delivering; on any thread.

    def _done(self, index: int, calls: list[Any], future: Future[Outcome]) -> None:
        with self._lock:
            self._out.pop(index, None)
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            outcome = future.result()
            self._grow(len(calls), outcome.seconds)
            self._put(index, outcome)
        elif len(calls) > 1 and self._is_one_to_blame(error):
            _Pieces(
                self._resubmit,
                self._fn,
                calls,
                lambda whole: self._put(index, whole),
                star=self._star,
            )
        else:
            self._put(index, _all_failed(calls, error))
        self._submit_more()

    def _is_one_to_blame(self, error: BaseException) -> bool:
        # Not started, or free to run again: then each call may be tried by itself.
        if isinstance(error, (TaskEncodeError, TaskDecodeError, PayloadTooLarge)):
            return True
        return self._split_crashed and isinstance(error, WorkerCrashed)

    def _grow(self, count: int, seconds: float) -> None:
        if self._fixed is None:
            ideal = int(count * _CHUNK_SECONDS / max(seconds, 1e-9))
            with self._lock:
                # From this chunk's own length: several of one size finish side by side.
                most = max(self._size, count * _GROWTH)
                self._size = max(1, min(ideal, most, _LARGEST))

    def _put(self, index: int, outcome: Outcome) -> None:
        self.results.put(index, outcome)


class _Pieces:
    """A chunk sent again call by call, so that only the guilty call fails."""

    def __init__(
        self,
        submit: Callable[..., Future[Outcome]],
        fn: Callable[..., Any],
        calls: list[Any],
        deliver: Callable[[Outcome], None],
        *,
        star: bool,
    ) -> None:
        self._deliver = deliver
        self._whole = Outcome([None] * len(calls), {}, 0.0)
        self._lock = threading.Lock()  # guards _left, and the two containers above
        self._left = len(calls)
        for place, call in enumerate(calls):
            try:
                future = submit(run_batch, fn, [call], star)
            except Exception as error:  # shut down meanwhile
                self._settle(place, error, None)
            else:
                future.add_done_callback(partial(self._done, place))

    def _done(self, place: int, future: Future[Outcome]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        if error is None:
            piece = future.result()
            self._settle(place, piece.failures.get(0), piece.values[0])
        else:
            self._settle(place, error, None)

    def _settle(self, place: int, error: BaseException | None, value: Any) -> None:
        with self._lock:
            if error is not None:
                self._whole.failures[place] = error
            self._whole.values[place] = value
            self._left -= 1
            last = not self._left
        if last:
            self._deliver(self._whole)


class Feeders(_exit.Member):
    """The maps of one executor that have input left to submit."""

    def __init__(self) -> None:
        # Guards _live, which must not grow while it is walked; re-entrant for signal handlers.
        self._lock = threading.RLock()
        self._live: weakref.WeakSet[_Chunks] = weakref.WeakSet()
        _exit.register(self)

    def add(self, chunks: _Chunks) -> None:
        """Remember a map for as long as chunks of it are out or its results are read."""
        with self._lock:
            self._live.add(chunks)

    def _all(self) -> list[_Chunks]:
        with self._lock:
            while True:
                try:
                    return list(self._live)
                except RuntimeError:  # a finalizer has added one meanwhile
                    continue

    def flush(self) -> None:
        """Have all maps submit what they have left: the executor is about to close."""
        for chunks in self._all():
            chunks.flush()

    def cancel(self) -> None:
        """Cancel what all maps have left."""
        for chunks in self._all():
            chunks.cancel_rest()

    def after_fork(self) -> None:
        """Forget the parent's maps."""
        self._lock = threading.RLock()
        self._live = weakref.WeakSet()


def _all_failed(calls: list[Any], error: BaseException) -> Outcome:
    return Outcome([None] * len(calls), dict.fromkeys(range(len(calls)), error), 0.0)


def map_in_chunks(
    submit: Callable[..., Future[Outcome]],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    options: MapOptions,
    *,
    resubmit: Callable[..., Future[Outcome]],
    workers: Callable[[], int],
    feeders: Feeders,
    split_crashed: bool = False,
) -> Iterator[T]:
    """Map `fn` with one `submit(run_batch, fn, calls, star)` for each chunk of calls.

    Args:
        submit: makes a work item of a call of `run_batch` and returns its future.
        fn: what is mapped.
        iterables: its arguments.
        options: the keywords of `map`.
        resubmit: the same for a piece of a chunk that has failed, also during a shutdown.
        workers: tells how many chunks can run side by side; asked again for each.
        feeders: those of the executor, which asks them for the rest when it shuts down.
        split_crashed: the calls are idempotent, so that a chunk whose worker crashed is tried
            again call by call.

    Raises:
        ValueError: `chunksize` is less than 1.
    """
    chunksize = options.chunksize
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")  # the stdlib's words
    star = len(iterables) != 1
    calls: Iterator[Any] = zip(*iterables, strict=False) if star else iter(iterables[0])
    if options.buffersize is not None:
        # A chunk is now the unit of what is ahead of the consumer; all chunks together hold no
        # more than `buffersize` calls, one of them being on its way out.
        chunksize = min(
            options.buffersize, chunksize or max(1, options.buffersize // (2 * workers()))
        )
        ahead = max(1, options.buffersize // chunksize)
        size, source_calls = chunksize, calls
        calls = iter(lambda: list(itertools.islice(source_calls, size)), [])
        options = options._with(buffersize=ahead)
    chunks = _Chunks(
        submit,
        fn,
        resubmit=resubmit,
        star=star,
        workers=workers,
        chunksize=chunksize,
        split_crashed=split_crashed,
    )
    chunks.results = Results(options, chunks.length)
    feeders.add(chunks)
    return _flatten(iterate(chunks.results, chunks, calls), options.return_exceptions)


def _flatten(outcomes: Iterator[Outcome], return_exceptions: bool) -> Iterator[Any]:
    """Yield the calls' results, chunk after chunk; close `outcomes` when closed."""
    try:
        for outcome in outcomes:
            values, failures = outcome.values, outcome.failures
            if failures:
                yield from _with_failures(values, failures, return_exceptions)
            else:
                values.reverse()
                while values:
                    yield values.pop()  # no reference is kept to what is yielded
    finally:
        outcomes.close()  # type: ignore[attr-defined]  # a generator


def _with_failures(
    values: list[Any], failures: dict[int, BaseException], return_exceptions: bool
) -> Iterator[Any]:
    for place in range(len(values)):
        error = failures.pop(place, None)
        if error is None:
            yield values[place]
            values[place] = None
        elif return_exceptions:
            yield error
        else:
            try:
                raise error
            finally:
                del error, failures, values
