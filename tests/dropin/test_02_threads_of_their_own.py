"""Point 2: a plain call never runs on the submitter's thread, where its state would leak."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import sys
import threading
from types import TracebackType

import pytest

from .makers import TIMEOUT, Make

pytestmark = pytest.mark.timeout(60)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")


def test_a_call_runs_on_another_thread(make: Make) -> None:
    executor = make(2)
    idents = {executor.submit(threading.get_ident).result(TIMEOUT) for _ in range(100)}
    idents |= set(executor.map(lambda _: threading.get_ident(), range(100)))
    assert threading.get_ident() not in idents


def test_a_worker_is_a_thread_like_any_other(make: Make) -> None:
    def look() -> tuple[threading.Thread, bool]:
        current = threading.current_thread()
        return current, current in threading.enumerate()

    thread, listed = make(1).submit(look).result(TIMEOUT)
    assert listed
    assert type(thread) is threading.Thread or isinstance(thread, threading.Thread)
    assert not isinstance(thread, threading._DummyThread)  # type: ignore[attr-defined]
    assert thread.native_id is not None
    assert not thread.daemon


def test_a_reentrant_lock_of_the_submitter_is_locked_for_the_call(make: Make) -> None:
    lock = threading.RLock()

    def work() -> bool:
        got = lock.acquire(blocking=False)
        if got:
            lock.release()
        return got

    executor = make(2)
    with lock:
        assert executor.submit(work).result(TIMEOUT) is False
        assert list(executor.map(lambda _: work(), range(3))) == [False] * 3
    assert executor.submit(work).result(TIMEOUT) is True


def test_a_thread_local_of_the_submitter_is_not_seen(make: Make) -> None:
    local = threading.local()
    local.value = 1
    executor = make(2)
    assert executor.submit(lambda: hasattr(local, "value")).result(TIMEOUT) is False
    executor.submit(setattr, local, "value", 2).result(TIMEOUT)
    assert local.value == 1


def test_a_thread_local_of_a_worker_is_kept_from_call_to_call(make: Make) -> None:
    local = threading.local()

    def count() -> int:
        local.value = getattr(local, "value", 0) + 1
        found: int = local.value
        return found

    executor = make(1)
    assert [executor.submit(count).result(TIMEOUT) for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0) == 1, reason="threads inherit the context"
)
def test_a_context_variable_of_the_submitter_is_not_seen(make: Make) -> None:
    token = variable.set("submitter")
    try:
        executor = make(2)
        assert executor.submit(variable.get).result(TIMEOUT) == "default"
        assert list(executor.map(lambda _: variable.get(), range(2))) == ["default"] * 2
    finally:
        variable.reset(token)


def test_a_context_variable_that_a_call_sets_stays_on_its_worker(make: Make) -> None:
    executor = make(1)
    executor.submit(variable.set, "worker").result(TIMEOUT)
    assert variable.get() == "default"
    assert executor.submit(variable.get).result(TIMEOUT) == "worker"


@pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0) == 1, reason="threads inherit the context"
)
def test_the_decimal_context_of_the_submitter_is_not_seen(make: Make) -> None:
    executor = make(2)
    with decimal.localcontext() as context:
        context.prec = 5
        third = executor.submit(lambda: decimal.Decimal(1) / 3).result(TIMEOUT)
    assert third == decimal.Decimal("0.3333333333333333333333333333")


def test_a_call_may_run_an_event_loop_while_the_submitter_is_in_one(make: Make) -> None:
    executor = make(2)

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    def work() -> int:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return asyncio.run(answer())

    async def main() -> list[int]:
        future = executor.submit(work)
        return [await asyncio.wrap_future(future), *executor.map(lambda _: work(), range(2))]

    assert asyncio.run(main()) == [42, 42, 42]


def test_a_call_has_a_whole_stack_to_itself(make: Make) -> None:
    executor = make(2)

    def deep(levels: int) -> int:
        return 0 if levels == 0 else 1 + deep(levels - 1)

    def submit_from(levels: int) -> int:
        if levels:
            return submit_from(levels - 1)
        return executor.submit(deep, half).result(TIMEOUT)

    room = sys.getrecursionlimit() - len_of_stack()
    half = room * 2 // 3
    assert submit_from(half) == half


def len_of_stack() -> int:
    """Return how deep the stack is here."""
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
    return depth


def test_an_exception_that_the_submitter_handles_is_not_seen(make: Make) -> None:
    executor = make(2)

    def fail() -> None:
        raise KeyError("inner")

    try:
        raise ValueError("outer")
    except ValueError:
        seen = executor.submit(sys.exc_info).result(TIMEOUT)
        error = executor.submit(fail).exception(TIMEOUT)
        results = executor.map(lambda _: fail(), [1])
        with pytest.raises(KeyError) as caught:
            next(results)
    assert seen == (None, None, None)
    assert error is not None
    assert error.__context__ is None
    # Raised again here, in the handler of another, it gets that as its context; not there.
    assert isinstance(caught.value.__context__, ValueError | None)


def test_an_exception_of_one_call_is_not_seen_by_the_next(make: Make) -> None:
    executor = make(1)

    def fail(text: str) -> tuple[type[BaseException] | None, object, TracebackType | None]:
        raise KeyError(text)

    executor.submit(fail, "first").exception(TIMEOUT)
    assert executor.submit(sys.exc_info).result(TIMEOUT) == (None, None, None)
    error = executor.submit(fail, "second").exception(TIMEOUT)
    assert error is not None
    assert error.__context__ is None
