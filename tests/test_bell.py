"""Bell, and those who wait for one: what is rung at any moment is heard."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, Retry, ThreadExecutor, _alarm, _rows, _timer, task
from hybrid_compute._bell import Bell
from hybrid_compute._pauses import Outstanding
from hybrid_compute._timer import Timer
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.futures import HybridFuture
from hybrid_compute.policy import Always

SOON = 60.0  # seconds; nothing here takes that long, and a hang shall be a failure of its test


def took(bell: Bell, seconds: float) -> float:
    begun = time.monotonic()
    bell.wait(seconds)
    return time.monotonic() - begun


def test_what_was_rung_before_anybody_waited_is_heard_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert took(bell, SOON) < SOON / 2
    assert took(bell, 0.02) >= 0.02


def test_whoever_waits_is_woken() -> None:
    bell, woken = Bell(), threading.Event()
    thread = threading.Thread(target=lambda: [bell.wait(SOON), woken.set()])
    thread.start()
    bell.ring()
    assert woken.wait(SOON / 2)
    thread.join()


def here(name: str) -> bool:
    return threading.current_thread().name == name


def test_what_a_finalizer_submits_on_the_alarms_own_thread_is_not_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at the rows, and then waits: in between, it is the one that submits."""
    never, found = threading.Event(), []
    work = task(timeout=0.05)(lambda: never.wait(SOON))
    later = task(timeout=1000)(never.wait)
    look = _rows.Row.deadline

    with ThreadExecutor(4) as ex:
        assert isinstance(ex.submit(work).exception(SOON), TaskTimeout)
        ex.submit(later, 0).result(SOON)
        alarm: Any = ex._alarm
        rows = alarm._all_rows()  # that of `later` is the last

        def deadline(row: Any) -> Any:
            value = look(row)
            if row is rows[-1] and here("alarm") and not (found or alarm._lingers):
                found.append(ex.submit(work))  # as a finalizer would, at an allocation here
            return value

        monkeypatch.setattr(_rows.Row, "deadline", deadline)
        ex.submit(later, SOON)
        until = time.monotonic() + SOON
        while not found and time.monotonic() < until:
            time.sleep(0.001)
        assert isinstance(found[0].exception(SOON / 2), TaskTimeout)
        never.set()


def test_what_comes_as_the_alarm_ends_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    never = threading.Event()
    is_idle = _alarm.Alarm._is_idle

    with ThreadExecutor(2) as ex:

        def idle(alarm: Any) -> bool:
            value = is_idle(alarm)
            if value and not found and here("alarm") and alarm._bell is ex._alarm._bell:  # type: ignore[union-attr]
                found.append(ex.submit(task(timeout=0.05)(lambda: never.wait(SOON))))
            return value

        monkeypatch.setattr(_alarm.Alarm, "_is_idle", idle)
        assert ex.submit(task(timeout=1000)(abs), -1).result(SOON) == 1
        until = time.monotonic() + SOON
        while not found and time.monotonic() < until:
            time.sleep(0.001)
        assert isinstance(found[0].exception(SOON / 2), TaskTimeout)
        never.set()


class Clock:
    """`time`, but for what one thread does each time that it asks for the time."""

    def __init__(self, do: Any) -> None:
        self._do = do

    def monotonic(self) -> float:
        now = time.monotonic()
        self._do()
        return now


def test_what_a_finalizer_puts_off_on_the_timers_own_thread_is_neither_late_nor_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timer, called, done = Timer("the timer"), [], threading.Event()
    once: list[int] = []

    def between() -> None:
        if here("the timer") and not once:
            once.append(1)
            timer.after(-1.0, lambda: called.append("first"))

    monkeypatch.setattr(_timer, "time", Clock(between))
    timer.after(0.0, lambda: [called.append("second"), done.set()])
    assert done.wait(SOON / 2)
    assert called == ["first", "second"]
    timer.join()


# -- what shutdown() waits for -------------------------------------------------------------------


def test_what_is_done_before_it_is_counted_is_not_waited_for() -> None:
    outstanding = Outstanding()
    future: HybridFuture[int] = HybridFuture()
    future.cancel()
    outstanding.watch(future)
    outstanding.wait()


def test_one_that_is_counted_twice_is_done_once() -> None:
    outstanding = Outstanding()
    future: HybridFuture[int] = HybridFuture()
    outstanding.watch(future)
    outstanding.watch(future)
    future.cancel()
    outstanding.wait()


def test_an_interrupt_as_an_item_is_counted_does_not_hang_a_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(self: Outstanding, future: Any) -> None:
        watch(self, future)
        raise KeyboardInterrupt

    watch = Outstanding.watch
    executor = HybridExecutor(1, policy=Always("thread"))
    work = task(retries=Retry(2))(abs)
    with monkeypatch.context() as patch:
        patch.setattr(Outstanding, "watch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(work, -1)
    assert executor.submit(work, -1).result(SOON) == 1
    closer = threading.Thread(target=executor.shutdown, daemon=True)
    closer.start()
    closer.join(SOON / 2)
    assert not closer.is_alive()
