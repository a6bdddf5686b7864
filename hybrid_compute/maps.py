"""The consumer's half of `map`: results come from any thread, in any order; one iterator leaves.

Owns the rules that all executors share: order, time-out, errors, progress, cancelling what is
left, and how far the input is read ahead. An executor brings a `Source`, which turns input into
running calls and puts their outcomes into a `Results`. (Some lines over 400: the two halves of one
hand-over.)

Threads and locks: `Results._lock` guards `_wanted`, the one thing that the consumer and the
workers both write. Under the GIL a worker may look at `_wanted` without the lock: it has stored
its outcome before it looks, and the consumer sets `_wanted` before it looks for the outcome, so
one of the two sees the other. Free-threaded builds promise no such order, so there every worker
takes the lock. (A few lines over 400, since the rules of one iterator belong together.)
"""

from __future__ import annotations

import _thread
import functools
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

from hybrid_compute._seats import Seat, Wait, here, wait_for_any
from hybrid_compute._values import Value
from hybrid_compute.errors import ConfigurationError

__all__ = ["MapOptions", "Results", "Source", "bar_of", "iterate", "map_by_submit", "shortest"]

T = TypeVar("T")

_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
_NOBODY, _ANY = -1, -2  # values of Results._wanted besides an index


def _positive(name: str, value: Any) -> int | None:
    # The stdlib's own types and words (Python 3.14).
    if value is None:
        return None
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be None or > 0, not {value}")
    return value


def _seconds(name: str, value: Any) -> float | None:
    if value is None or isinstance(value, (int, float)):
        return value
    raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")


def bar_of(progress: Any, name: str = "progress", *, total: int | None = None) -> Any:
    """Return what shows the progress: a tqdm bar, or what was given; None: nothing.

    Args:
        progress: True, a bar, or None or False.
        name: what the caller calls it.
        total: how many steps there will be, which a bar is told; None: not known.

    Raises:
        ConfigurationError: it is no bar.
        ImportError: tqdm is not installed.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        try:
            from tqdm.auto import tqdm  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ImportError(
                f"{name}=True needs tqdm: pip install 'hybrid-compute[progress]'"
            ) from error
        return tqdm(total=total)
    if not callable(getattr(progress, "update", None)):
        raise ConfigurationError(
            f"{name}={progress!r} is neither True nor an object with a method update(n)"
        )
    if total is not None and getattr(progress, "total", total) is None:
        progress.total = total
    return progress


class MapOptions(Value):
    """The keywords of `map`, checked. Their meaning stands in `SubExecutor.map`.

    Attributes:
        length: how many calls there will be, where the input tells; else None.
    """

    __slots__ = (
        "buffersize",
        "chunksize",
        "length",
        "ordered",
        "progress",
        "return_exceptions",
        "timeout",
    )

    timeout: float | None
    chunksize: int | None  # checked by who sends chunks; threads take any
    buffersize: int | None
    ordered: bool
    return_exceptions: bool
    progress: Any
    length: int | None

    def __init__(
        self,
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: Any = None,
        length: int | None = None,
    ) -> None:
        self._set(
            timeout=_seconds("timeout", timeout),
            chunksize=chunksize,
            buffersize=_positive("buffersize", buffersize),
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=bar_of(progress),
            length=length,
        )
        if length is not None and getattr(self.progress, "total", self) is None:
            self.progress.total = length
            self.progress.refresh()


def shortest(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """Return how many calls the iterables make, if all of them have a length."""
    try:
        return min((len(each) for each in iterables), default=0)  # type: ignore[arg-type]
    except TypeError:
        return None


class Source(Protocol):
    """What an executor does for one call of `map`. `feed*` run on the consumer's thread."""

    def feed(self, index: int, call: Any) -> None:
        """Submit one call, whose outcome is to be put under `index`."""

    def feed_all(self, calls: Iterable[Any]) -> None:
        """Submit all calls at once, counted from 0; set `Results.total` once it is known."""

    def cancel(self) -> None:
        """Cancel all that has not started; their outcomes are never asked for. Any thread."""

    def wait_of(self, index: int | None, *, timed: bool) -> Wait:
        """Return what a consumer waits for who wants this outcome; None: the next, whichever."""
        ...


class Results:
    """Outcomes by index: put in from any thread, taken out by one consumer."""

    __slots__ = (
        "_gate",
        "_lock",
        "_order",
        "_seat",
        "_wanted",
        "failures",
        "options",
        "source",
        "total",
        "values",
        "weight",
    )

    def __init__(self, options: MapOptions, weight: Callable[[int], int] = lambda index: 1) -> None:
        self.options: MapOptions = options
        self.weight: Callable[[int], int] = (
            weight  # how many steps of a progress bar an index stands for
        )
        # How many outcomes there will be; None while the source does not know. It knows before
        # it puts the last one.
        self.total: int | None = 0
        self.values: dict[int, Any] = {}
        self.failures: dict[int, BaseException] = {}
        # The indexes as they finish, where somebody wants to know: results out of order, or a bar.
        watched = options.progress is not None or not options.ordered
        self._order: deque[int] | None = deque() if watched else None
        self._lock = threading.RLock()  # re-entrant: a signal handler may cancel
        self._gate = _thread.allocate_lock()  # the consumer sleeps on it; released once a sleep
        self._gate.acquire()
        self._wanted = _NOBODY
        self._seat: Seat | None = None  # that of the consumer's thread, while it sleeps
        self.source: Source | None = None

    # For workers.

    def put(self, index: int, value: Any) -> None:
        """Deliver a result. Any thread, once for each index; never blocks for long."""
        self.values[index] = value
        if self._order is not None:
            self._order.append(index)
        if self._wanted != _NOBODY or _FREE_THREADED:
            self._wake(index)

    def fail(self, index: int, error: BaseException) -> None:
        """Deliver what a call raised, as `put` does."""
        if self.options.return_exceptions:
            self.put(index, error)
            return
        self.failures[index] = error
        if self._order is not None:
            self._order.append(index)
        if self._wanted != _NOBODY or _FREE_THREADED:
            self._wake(index)

    def _wake(self, index: int) -> None:
        with self._lock:
            if self._wanted in (index, _ANY):
                self._wanted = _NOBODY
                if self._seat is not None:
                    self._seat.resume()
                self._gate.release()

    def nudge(self) -> None:
        """Have the consumer, if he sleeps, look around and sleep again. Any thread."""
        with self._lock:
            wanted = self._wanted
        if wanted != _NOBODY:
            self._wake(wanted)

    def is_awaited(self) -> bool:
        """Say whether the consumer sleeps, and nothing has woken him. Any thread."""
        return self._wanted != _NOBODY

    # For the consumer.

    def has(self, index: int) -> bool:
        """Say whether the outcome of `index` is there."""
        return index in self.values or index in self.failures

    def wait_for(self, index: int, deadline: float | None) -> None:
        """Block until the outcome of `index` is there; raise it if it is an error."""
        if self._order is None:
            self._sleep(index, lambda: self.has(index), deadline)
        else:
            while not self.has(index):
                self.next_finished(deadline)
        self.check(index)

    def check(self, index: int) -> None:
        """Raise the outcome of `index` if it is an error."""
        error = self.failures.pop(index, None)
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # the traceback must not keep the other results alive

    def next_finished(self, deadline: float | None) -> int:
        """Block until one more call has finished, tell the bar, and return the call's index."""
        order = self._order
        assert order is not None  # noqa: S101 - only called where the order is kept
        self._sleep(_ANY, lambda: bool(order), deadline)
        index = order.popleft()
        if self.options.progress is not None:
            self.options.progress.update(self.weight(index))
        return index

    def tell_progress(self) -> None:
        """Tell the bar of all calls that have finished since it was last told."""
        while self._order:
            self.next_finished(None)

    def _sleep(self, wanted: int, is_there: Callable[[], bool], deadline: float | None) -> None:
        seat = here.seat
        while not is_there():
            with self._lock:
                self._wanted = wanted
            woken = False
            if not is_there():
                told = seat is not None and self._tell(seat, wanted, timed=deadline is not None)
                try:
                    # A negative time means "for ever" to a lock.
                    left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
                    woken = self._gate.acquire(timeout=left)
                finally:
                    if told and seat is not None:
                        self._seat = None
                        seat.end()
                if not woken and not is_there():
                    self._wake_up()
                    raise TimeoutError
            if not woken:
                self._wake_up()

    def _tell(self, seat: Seat, wanted: int, *, timed: bool) -> bool:
        """Tell the pool of this thread that it is about to sleep; see `_seats`."""
        if self.source is None:
            return False
        told = False
        self._seat = seat
        try:
            index = None if wanted == _ANY else wanted
            told = seat.begin(self.source.wait_of(index, timed=timed))
        finally:
            if not told:
                self._seat = None
                if sys.exc_info()[0] is not None:
                    self._wake_up()
        return told

    def _wake_up(self) -> None:
        # Nobody sleeps any more. If a worker has just released the gate, close it again.
        with self._lock:
            released, self._wanted = self._wanted == _NOBODY, _NOBODY
        if released:
            self._gate.acquire()


def iterate(results: Results, source: Source, calls: Iterator[Any]) -> Generator[Any, None, None]:
    """Submit `calls` to `source` now, as far as `buffersize` lets, and iterate over the results.

    What is returned is a generator, as the stdlib's `map` returns one: dropped before it was
    started, it lets all calls run; closed later, it cancels those that have not started.
    """
    options = results.options
    deadline = None if options.timeout is None else time.monotonic() + options.timeout
    if options.buffersize is None:
        source.feed_all(calls)
        more = None
    else:
        more = enumerate(calls)
        for index, call in itertools.islice(more, options.buffersize):
            source.feed(index, call)
            results.total = index + 1
    if options.ordered:
        return _in_order(results, source, more, deadline)
    return _as_finished(results, source, more, deadline)


def _in_order(
    results: Results,
    source: Source,
    more: Iterator[tuple[int, Any]] | None,
    deadline: float | None,
) -> Generator[Any, None, None]:
    values, progress = results.values, results.options.progress
    index = 0
    try:
        results.source = source
        while results.total is None or index < results.total:
            if more is not None:
                _feed_one(results, source, more)
            if index not in values:
                results.wait_for(index, deadline)
            if progress is not None:
                results.tell_progress()
            yield values.pop(index)  # no name for it: it is the consumer's alone from here on
            index += 1
    finally:
        _finish(results, source)


def _as_finished(
    results: Results,
    source: Source,
    more: Iterator[tuple[int, Any]] | None,
    deadline: float | None,
) -> Generator[Any, None, None]:
    yielded = 0
    try:
        results.source = source
        while results.total is None or yielded < results.total:
            if more is not None:
                _feed_one(results, source, more)
            index = results.next_finished(deadline)
            results.check(index)
            yield results.values.pop(index)
            yielded += 1
    finally:
        _finish(results, source)


def _feed_one(results: Results, source: Source, more: Iterator[tuple[int, Any]]) -> None:
    for index, call in itertools.islice(more, 1):
        source.feed(index, call)
        results.total = index + 1


def _finish(results: Results, source: Source) -> None:
    results.source = None  # they refer to each other
    source.cancel()
    close = getattr(results.options.progress, "close", None)
    if close is not None:
        close()


class _Submitter:
    """The source for any executor: one future for each call."""

    def __init__(
        self, submit: Callable[..., Future[Any]], fn: Callable[..., Any], results: Results
    ) -> None:
        self._submit = submit
        self._fn = fn
        self._results = results
        self._futures: dict[int, Future[Any]] = {}

    def feed(self, index: int, call: Any) -> None:
        future = self._submit(self._fn, *call)
        self._futures[index] = future  # before the callback, which may run at once
        future.add_done_callback(functools.partial(self._deliver, index))

    def feed_all(self, calls: Iterable[Any]) -> None:
        count = 0
        for call in calls:
            self.feed(count, call)
            count += 1
        self._results.total = count

    def _deliver(self, index: int, future: Future[Any]) -> None:
        self._futures.pop(index, None)
        if future.cancelled():
            self._results.fail(index, CancelledError())
            return
        error = future.exception()
        if error is not None:
            self._results.fail(index, error)
        else:
            self._results.put(index, future.result())

    def cancel(self) -> None:
        for future in list(self._futures.values()):  # list(): atomic in every build
            future.cancel()

    def wait_of(self, index: int | None, *, timed: bool) -> Wait:
        if index is None:
            return wait_for_any(list(self._futures.values()), timed=timed)
        future = self._futures.get(index)
        return wait_for_any([] if future is None else [future], timed=timed)


def map_by_submit(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: tuple[Iterable[Any], ...],
    options: MapOptions,
) -> Iterator[T]:
    """Map with one `submit` for each call: right for any executor, dear where a future is."""
    results = Results(options)
    return iterate(results, _Submitter(submit, fn, results), zip(*iterables, strict=False))
