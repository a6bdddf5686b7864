"""Points 4 and 5: a call that raises has run once, and what it raised is its result."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from concurrent.futures import (
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    InvalidStateError,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from typing import NoReturn

import pytest

from .makers import TIMEOUT, Make, nothing

pytestmark = pytest.mark.timeout(60)

ERRORS = (
    TypeError("cannot pickle '_thread.lock' object"),
    pickle.PicklingError("Can't pickle <function <lambda>>: attribute lookup failed"),
    pickle.UnpicklingError("unpickling stack underflow"),
    AttributeError("Can't pickle local object 'f.<locals>.g'"),
    ImportError("no module"),
    MemoryError("none left"),
    RecursionError("maximum recursion depth exceeded"),
    TimeoutError("mine"),
    CancelledError("mine"),
    InvalidStateError("mine"),
    BrokenExecutor("mine"),
    BrokenThreadPool("mine"),
    BrokenProcessPool("mine"),
    RuntimeError("cannot schedule new futures after shutdown"),
    EOFError("mine"),
    BrokenPipeError("mine"),
    StopIteration("mine"),
    ExceptionGroup("several", [ValueError(1), TypeError(2)]),
)
BASE_ERRORS = (
    KeyboardInterrupt("mine"),
    SystemExit(3),
    GeneratorExit("mine"),
    asyncio.CancelledError("mine"),
    BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError(1)]),
)
both = pytest.mark.parametrize("error", ERRORS + BASE_ERRORS, ids=lambda e: type(e).__qualname__)


class Failing:
    """A function that counts its calls and raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error.with_traceback(None)
        self.calls = 0

    def __call__(self, *_: object) -> NoReturn:
        self.calls += 1
        self.raise_it()

    def raise_it(self) -> NoReturn:
        raise self.error


@both
def test_a_call_that_raises_runs_once(narrow: Make, error: BaseException) -> None:
    executor = narrow(1)
    fail = Failing(error)
    assert executor.submit(fail).exception(TIMEOUT) is error
    executor.submit(nothing).result(TIMEOUT)
    assert fail.calls == 1


@both
def test_what_a_call_raises_is_the_result_of_its_future(narrow: Make, error: BaseException) -> None:
    future = narrow(2).submit(Failing(error))
    done, not_done = wait([future], TIMEOUT, FIRST_EXCEPTION)
    assert (done, not_done) == ({future}, set())
    with pytest.raises(BaseException) as caught:
        future.result(TIMEOUT)
    assert caught.value is error
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert not future.cancel()
    assert f"state=finished raised {type(error).__name__}>" in repr(future)


@both
def test_the_traceback_tells_where_it_was_raised(narrow: Make, error: BaseException) -> None:
    future = narrow(1).submit(Failing(error))
    raised = future.exception(TIMEOUT)
    assert raised is not None
    names = [frame.name for frame in traceback.extract_tb(raised.__traceback__)]
    assert names[-2:] == ["__call__", "raise_it"]


@both
def test_a_worker_survives_what_a_call_raises(narrow: Make, error: BaseException) -> None:
    executor = narrow(1)
    futures = [executor.submit(Failing(error)) for _ in range(3)]
    assert executor.submit(abs, -1).result(TIMEOUT) == 1
    assert all(future.exception() is error for future in futures)


@both
def test_map_raises_what_a_call_raises_in_its_turn(narrow: Make, error: BaseException) -> None:
    executor = narrow(2)
    fail = Failing(error)
    results = executor.map(lambda n: fail() if n == 2 else n, range(3))
    assert next(results) == 0
    assert next(results) == 1
    if isinstance(error, StopIteration):
        # A generator cannot raise it; the stdlib's map is one.
        with pytest.raises(RuntimeError, match="generator raised StopIteration") as surrogate:
            next(results)
        assert surrogate.value.__cause__ is error
    else:
        with pytest.raises(BaseException) as caught:
            next(results)
        assert caught.value is error
    assert next(results, None) is None
    assert fail.calls == 1


@pytest.mark.parametrize(
    "name", ["ExecutorUnavailable", "PlacementError", "TaskEncodeError", "ResultEncodeError"]
)
def test_an_error_of_the_library_that_a_call_raises_is_its_result(ours: Make, name: str) -> None:
    from hybrid_compute import errors

    error = getattr(errors, name)("mine")
    executor = ours(1)
    fail = Failing(error)
    assert executor.submit(fail).exception(TIMEOUT) is error
    executor.submit(nothing).result(TIMEOUT)
    assert fail.calls == 1


def test_a_crash_error_that_a_call_raises_is_its_result(ours: Make) -> None:
    from hybrid_compute import errors

    error = errors.WorkerCrashed("mine", item_name="x", pid=1, exitcode=1, signal=None)
    fail = Failing(error)
    assert ours(1).submit(fail).exception(TIMEOUT) is error
    assert fail.calls == 1


def test_the_chain_of_causes_is_kept(make: Make) -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    error = make(1).submit(fail).exception(TIMEOUT)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)


def test_an_error_may_be_asked_for_many_times(make: Make) -> None:
    future = make(1).submit(Failing(ValueError("mine")))
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            future.result(TIMEOUT)
    assert isinstance(future.exception(), ValueError)
