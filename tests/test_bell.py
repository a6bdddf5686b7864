"""Bell, and those who wait for one: what is rung at any moment is heard."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, Retry, ThreadExecutor, _alarm, _timer, task
from hybrid_compute._bell import Bell
from hybrid_compute._pauses import Outstanding
from hybrid_compute._timer import Timer
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.executors import _threads
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


def timed_out(future: Any) -> bool:
    return isinstance(future.exception(SOON / 2), TaskTimeout)


def until(condition: Any) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def test_what_a_finalizer_submits_on_the_alarms_own_thread_is_not_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks through what is there, and then waits: in between, it is the one that submits."""
    never, found = threading.Event(), []
    work = task(timeout=0.05)(lambda: never.wait(SOON))
    look = _threads.Pool.look

    def and_submits(pool: Any, now: float, *lists: Any) -> Any:
        seen = look(pool, now, *lists)
        if here("alarm") and seen[0] > now + 500 and not found:
            found.append(ex.submit(work))  # as a finalizer would, at an allocation here
        return seen

    with ThreadExecutor(4) as ex:
        monkeypatch.setattr(_threads.Pool, "look", and_submits)
        ex.submit(task(timeout=1000)(never.wait), SOON)
        until(lambda: found)
        assert timed_out(found[0])
        never.set()


@pytest.mark.parametrize("when", ["as it looks for the last time", "when it has said that it ends"])
def test_what_comes_as_the_alarm_ends_is_not_forgotten(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, found = threading.Event(), []
    look, following = _threads.Pool.look, _alarm.Deadlines.next

    def submit() -> None:
        found.append(ex.submit(task(timeout=0.05)(lambda: never.wait(SOON))))

    def and_submits(pool: Any, now: float, *lists: Any) -> Any:
        seen = look(pool, now, *lists)
        if when.startswith("as") and seen[0] == math.inf and alarm()._lingers and not found:
            submit()
        return seen

    def later(deadlines: Any) -> Any:
        value = following(deadlines)
        ends = deadlines is alarm()._deadlines and here("alarm") and alarm().thread is None
        if when.startswith("when") and ends and not found:
            submit()
        return value

    def alarm() -> Any:
        return ex._alarm

    with ThreadExecutor(2) as ex:
        assert ex.submit(task(timeout=1000)(abs), -1).result(SOON) == 1
        monkeypatch.setattr(_threads.Pool, "look", and_submits)
        monkeypatch.setattr(_alarm.Deadlines, "next", later)
        ex.submit(task(timeout=1000)(abs), -1).result(SOON)
        until(lambda: found)
        assert timed_out(found[0])
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
