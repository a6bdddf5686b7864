"""What an alarm finds in a thread pool: all that is there, wherever it is at the moment."""

from __future__ import annotations

import gc
import threading
import time
from math import inf
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, ThreadExecutor, _alarm, task
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.executors import _threads
from hybrid_compute.futures import HybridFuture
from hybrid_compute.supervised import watch

SOON = 60.0  # seconds; nothing here takes that long, and a hang shall be a failure of its test
LONG = 1000.0


@pytest.fixture
def go() -> Any:
    event = threading.Event()
    yield event
    event.set()


def until(condition: Any) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def waits(go: threading.Event, seconds: float = LONG) -> Any:
    return task(timeout=seconds)(lambda: go.wait(SOON))


def looked(ex: Any, now: float = 0.0) -> tuple[float, list[Any]]:
    """Return when to look again, and the futures of those that are due, which are claimed."""
    due: list[Any] = []
    later, _ = ex._pool.look(now, due, [])
    return later, [each.future for each in due if each.claim()]


def settled(ex: Any) -> float:
    """Return when to look again, once nothing is in anybody's hand."""
    found: list[float] = []
    until(lambda: found.append(looked(ex)[0]) or found[-1] > 1.0)
    return found[-1]


def test_what_runs_is_found_and_so_is_what_waits(go: threading.Event) -> None:
    with ThreadExecutor(2) as ex:
        begun = time.monotonic()
        futures = [ex.submit(waits(go, LONG + each)) for each in (30, 10, 0, 20)]
        assert begun + LONG <= settled(ex) < time.monotonic() + LONG
        assert looked(ex, begun + LONG + 15)[1] == [futures[1], futures[2]]
        assert begun + LONG + 20 <= settled(ex) < time.monotonic() + LONG + 20
        assert looked(ex, begun + 2 * LONG)[1] == [futures[0], futures[3]]
        assert settled(ex) == inf
        go.set()


def test_what_somebody_waits_for_is_found(go: threading.Event) -> None:
    """It is taken out of the queue, and stands where it is done first."""
    inside: list[HybridFuture[Any]] = []

    with ThreadExecutor(1) as ex:

        def outer() -> Any:
            inside.append(ex.submit(waits(go)))
            return inside[0].result(SOON)

        future = ex.submit(outer)
        until(lambda: inside and (ex._pool.urgent or inside[0].running()))
        assert settled(ex) < time.monotonic() + LONG
        assert looked(ex, time.monotonic() + LONG)[1] == inside
        go.set()
        assert future.exception(SOON) is None or isinstance(future.exception(), TaskTimeout)


def test_plain_work_is_passed_by(go: threading.Event) -> None:
    with ThreadExecutor(1) as ex:
        ex.submit(go.wait, SOON)
        ex.submit(task(retries=2)(go.wait), SOON)
        ex.submit(go.wait, SOON)
        mapped = ex.map(abs, range(100))
        assert settled(ex) == inf
        go.set()
        assert list(mapped) == list(range(100))


def test_a_pool_that_has_done_all_has_nothing(go: threading.Event) -> None:
    go.set()
    with ThreadExecutor(3) as ex:
        for future in [ex.submit(waits(go)) for _ in range(20)]:
            assert future.result(SOON)
        assert settled(ex) == inf
    assert looked(ex) == (inf, [])


def unnoted(ex: Any, call: Any) -> Any:
    """Submit a call of which the alarm is not told, as it is going to look before that is due."""
    alarm = watch(ex)
    alarm.start()
    with alarm._lock:
        alarm.until, rests = 0.0, alarm.until
        future = ex.submit(call)
        alarm.until = rests
    return future


@pytest.mark.parametrize("first", [True, False], ids=["a new thread", "one that is there"])
def test_what_is_in_a_threads_hand_is_not_forgotten(
    first: bool, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has taken it, and stands still before anybody can see where it is."""
    stands, goes_on = threading.Event(), threading.Event()
    armed = [first]

    class Slow(_threads.Seat):
        __slots__ = ("shown",)

        @property
        def job(self) -> Any:
            return self.shown

        @job.setter
        def job(self, job: Any) -> None:
            if job is not None and armed[0]:
                armed[0] = False
                stands.set()
                goes_on.wait(SOON)
            self.shown = job

    monkeypatch.setattr(_threads, "Seat", Slow)
    with ThreadExecutor(1) as ex:
        if not first:
            assert ex.submit(abs, -1).result(SOON) == 1
            until(lambda: ex._pool.parked)
            armed[0] = True
        future = unnoted(ex, waits(go, 0.05))
        assert stands.wait(SOON)
        later, due = looked(ex)
        assert not due
        assert later < 1.0  # it looks again in a moment
        time.sleep(0.1)
        assert not future.done()
        goes_on.set()
        assert isinstance(future.exception(SOON / 2), TaskTimeout)
        go.set()


def test_what_a_thread_is_born_with_is_not_forgotten(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    born, goes_on = threading.Event(), threading.Event()
    work = _threads._work

    def slowly(*given: Any) -> None:
        born.set()
        goes_on.wait(SOON)
        work(*given)

    monkeypatch.setattr(_threads, "_work", slowly)
    with ThreadExecutor(1) as ex:
        future = unnoted(ex, waits(go, 0.05))
        assert born.wait(SOON)
        assert looked(ex)[0] < 1.0
        time.sleep(0.1)
        assert not future.done()
        goes_on.set()
        assert isinstance(future.exception(SOON / 2), TaskTimeout)
        go.set()


def test_a_thread_that_initializes_has_nothing_in_its_hand(go: threading.Event) -> None:
    with ThreadExecutor(1, initializer=go.wait, initargs=(SOON,)) as ex:
        future = ex.submit(waits(go))
        until(lambda: ex._pool.seats)
        later, _ = looked(ex)
        assert time.monotonic() < later < time.monotonic() + LONG
        go.set()
        assert future.result(SOON)


def test_a_pool_whose_initializer_failed_lets_the_alarm_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails() -> None:
        raise OSError("no licence")

    with ThreadExecutor(1, initializer=fails) as ex:
        future = ex.submit(task(timeout=LONG)(abs), -1)
        assert future.exception(SOON) is not None
        until(lambda: looked(ex)[0] == inf)
        alarm: Any = ex._alarm
        until(lambda: alarm.thread is None)
    assert ex._pool.seats == []
    assert ex._pool.left == len(ex._pool.threads) == 1


def test_a_queue_that_changes_under_its_eyes_is_looked_at_again() -> None:
    class Changing:
        tries = 0

        def __iter__(self) -> Any:
            self.tries += 1
            if self.tries < 3:
                raise RuntimeError("deque mutated during iteration")
            return iter([1, 2])

    queue: Any = Changing()
    assert _threads._all_of(queue) == [1, 2]


# -- the alarm's thread --------------------------------------------------------------------------


def test_it_ends_with_the_last_call_though_its_time_is_far() -> None:
    with ThreadExecutor(2) as ex:
        ex.submit(task(timeout=LONG)(abs), -1).result(SOON)
        alarm: Any = ex._alarm
        until(lambda: alarm.thread is None)


def test_so_it_does_when_the_last_one_waited_while_it_looked(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends between the look and the plan is not waited for."""
    look = _threads.Pool.look
    futures: list[Any] = []

    def slowly(pool: Any, now: float, *lists: Any) -> Any:
        found = look(pool, now, *lists)
        if LONG / 2 < found[0] - now < inf and not go.is_set():
            go.set()
            futures[0].result(SOON)
            until(lambda: pool.parked)
        return found

    monkeypatch.setattr(_threads.Pool, "look", slowly)
    monkeypatch.setattr(_alarm, "_LINGER", 0.05)
    with ThreadExecutor(1) as ex:
        futures.append(ex.submit(waits(go)))
        alarm: Any = ex._alarm
        until(go.is_set)
        until(lambda: alarm.thread is None)


def test_plain_calls_do_not_keep_it_nor_wake_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = _threads.Pool.look
    monkeypatch.setattr(_threads.Pool, "look", lambda *given: [looks.append(1), look(*given)][1])
    with ThreadExecutor(1) as ex:
        ex.submit(task(timeout=LONG)(abs), -1).result(SOON)
        alarm: Any = ex._alarm
        end = time.monotonic() + SOON
        while alarm.thread is not None:
            assert time.monotonic() < end
            ex.submit(abs, -1).result(SOON)
        before = len(looks)
        for _ in range(100):
            ex.submit(abs, -1).result(SOON)
        assert len(looks) == before


def test_among_many_calls_it_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = _threads.Pool.look
    monkeypatch.setattr(_threads.Pool, "look", lambda *given: [looks.append(1), look(*given)][1])
    call = task(timeout=LONG)(abs)
    with ThreadExecutor(2) as ex:
        for future in [ex.submit(call, -each) for each in range(20_000)]:
            future.result(SOON)
    assert len(looks) < 200


def test_a_long_queue_of_late_calls_does_not_make_it_look_all_the_time(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = _threads.Pool.look
    monkeypatch.setattr(_threads.Pool, "look", lambda *given: [looks.append(1), look(*given)][1])
    with ThreadExecutor(1) as ex:
        ex.submit(go.wait, SOON)
        calls = [task(timeout=0.5 + each / 1000)(abs) for each in range(1000)]
        futures = [ex.submit(calls[each % 1000], -1) for each in range(5000)]
        for future in futures:
            assert isinstance(future.exception(SOON), TaskTimeout)
        assert len(looks) < 100  # not once for each of 1,000 deadlines
        go.set()


def test_who_shuts_down_in_a_callback_of_what_was_late_does_not_wait_for_himself(
    go: threading.Event,
) -> None:
    """On the alarm's thread, which is the thread executor's."""
    done = threading.Event()
    ex = HybridExecutor(1)
    late = ex.options(timeout=0.05).submit(go.wait, SOON)
    late.add_done_callback(lambda _: (ex.shutdown(), done.set()))
    assert done.wait(SOON / 2)
    assert isinstance(late.exception(SOON), TaskTimeout)
    go.set()
    ex.shutdown()


def test_a_dropped_executor_still_keeps_the_time_of_what_it_has(go: threading.Event) -> None:
    ex = ThreadExecutor(1)
    futures = [ex.submit(waits(go, 0.1)), ex.submit(waits(go, 0.2))]
    del ex
    gc.collect()
    for future in futures:
        assert isinstance(future.exception(SOON / 2), TaskTimeout)
