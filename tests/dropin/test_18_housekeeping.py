"""Point 18: threads start late, idle ones cost nothing, nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from types import FrameType

import psutil
import pytest

from .makers import TIMEOUT, Make, block, new_event, nothing

pytestmark = pytest.mark.timeout(60)


def test_no_thread_starts_before_the_first_call(fresh: Make) -> None:
    before = set(threading.enumerate())
    executor = fresh(8)
    assert set(threading.enumerate()) <= before
    executor.submit(nothing).result(TIMEOUT)
    assert len(set(threading.enumerate()) - before) == 1


def test_no_more_threads_start_than_there_are_calls(fresh: Make) -> None:
    before = set(threading.enumerate())
    executor = fresh(8)
    release = block(executor, 3)
    assert len(set(threading.enumerate()) - before) == 3
    release.set()


def test_nothing_is_started_but_threads(fresh: Make) -> None:
    before = set(psutil.Process().children())
    executor = fresh(4)
    assert list(executor.map(abs, range(50))) == list(range(50))
    assert executor.submit(abs, -1).result(TIMEOUT) == 1
    assert set(psutil.Process().children()) <= before


def test_an_idle_executor_uses_no_cpu(make: Make) -> None:
    executor = make(8)
    barrier = threading.Barrier(8)
    assert len([*executor.map(lambda _: barrier.wait(TIMEOUT), range(8))]) == 8
    gc.collect()
    before = time.process_time()
    threading.Event().wait(0.2)  # the one wait that is meant: for nothing to happen
    assert time.process_time() - before < 0.04


def test_an_executor_whose_calls_block_uses_no_cpu(make: Make) -> None:
    executor = make(4)
    release = block(executor, 4)
    queued = [executor.submit(nothing) for _ in range(100)]
    waiter = threading.Thread(target=queued[0].result)
    waiter.start()
    gc.collect()
    before = time.process_time()
    threading.Event().wait(0.2)  # the one wait that is meant: for nothing to happen
    assert time.process_time() - before < 0.04
    release.set()
    waiter.join(TIMEOUT)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_descriptor_and_no_thread_is_left_behind(fresh: Make) -> None:
    def use() -> None:
        with fresh(4) as executor:
            assert list(executor.map(abs, range(50))) == list(range(50))
            executor.submit(nothing).result(TIMEOUT)

    use()
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    for _ in range(20):
        use()
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert set(threading.enumerate()) <= threads


needs_signals = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1") or threading.current_thread() is not threading.main_thread(),
    reason="needs the main thread and SIGUSR1",
)


@pytest.fixture
def handled() -> Iterator[threading.Event]:
    """Install a handler of SIGUSR1 that sets the event."""
    event = new_event()

    def handle(_: int, __: FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGUSR1, handle)
    yield event
    signal.signal(signal.SIGUSR1, before)


def raise_and_wait(event: threading.Event) -> bool:
    """Send the signal until it was handled by the main thread, which is waiting.

    Once is not enough: a signal that comes after the main thread has let go of the GIL, and
    before it sleeps, is noted by the interpreter but does not wake it.
    """
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGUSR1)
        if event.wait(0.05):
            return True
    return False


@needs_signals
@pytest.mark.parametrize("timeout", [None, TIMEOUT])
def test_signal_handlers_get_through_result(
    make: Make, handled: threading.Event, timeout: float | None
) -> None:
    assert make(1).submit(raise_and_wait, handled).result(timeout) is True


@needs_signals
def test_signal_handlers_get_through_wait_and_as_completed(
    make: Make, handled: threading.Event
) -> None:
    executor = make(1)
    future = executor.submit(raise_and_wait, handled)
    assert wait([future], return_when=FIRST_COMPLETED).done == {future}
    assert future.result(0) is True
    handled.clear()
    future = executor.submit(raise_and_wait, handled)
    assert [f.result(0) for f in as_completed([future])] == [True]


@needs_signals
def test_signal_handlers_get_through_the_results_of_a_map(
    make: Make, handled: threading.Event
) -> None:
    executor = make(1)
    assert list(executor.map(raise_and_wait, [handled])) == [True]
    handled.clear()
    assert list(executor.map(raise_and_wait, [handled], timeout=TIMEOUT)) == [True]


@needs_signals
def test_signal_handlers_get_through_shutdown(make: Make, handled: threading.Event) -> None:
    executor = make(1)
    release = block(executor)
    future = executor.submit(raise_and_wait, handled)
    threading.Timer(0, release.set).start()
    executor.shutdown()
    assert future.result(0) is True


@needs_signals
def test_a_signal_handler_that_raises_ends_result_and_harms_nothing(make: Make) -> None:
    class Stop(BaseException):
        pass

    executor, stopped, raised = make(1), new_event(), new_event()

    def handle(_: int, __: FrameType | None) -> None:
        if not raised.is_set():
            raised.set()
            raise Stop

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        for wait_for in ("result", "map"):
            stopped.clear()
            raised.clear()
            waiting = new_event()

            def work(_: object, waiting: threading.Event = waiting) -> bool:
                waiting.wait()
                return raise_and_wait(stopped)

            results = executor.map(work, [0]) if wait_for == "map" else None
            future = executor.submit(work, 0) if wait_for == "result" else None
            with pytest.raises(Stop):
                waiting.set()
                if results is not None:
                    next(results)
                if future is not None:
                    future.result()
            stopped.set()
            if future is not None:
                assert future.result(TIMEOUT) is True
            assert executor.submit(abs, -1).result(TIMEOUT) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_profiler_of_threads_sees_the_calls(fresh: Make) -> None:
    seen: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    def profiled_by_name() -> None:
        """Do nothing."""

    before = threading.getprofile()
    threading.setprofile(profile)
    try:
        executor = fresh(1)
        executor.submit(profiled_by_name).result(TIMEOUT)
        executor.shutdown()
    finally:
        threading.setprofile(before)  # type: ignore[arg-type]  # None takes it away
    assert "profiled_by_name" in seen


def test_a_call_that_fails_is_not_reported_as_an_error_of_its_thread(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    executor = make(1)
    for error in (KeyError("mine"), SystemExit(1), KeyboardInterrupt()):
        executor.submit(_raise, error).exception(TIMEOUT)
    executor.shutdown()
    assert capfd.readouterr().err == ""


def _raise(error: BaseException) -> None:
    raise error
