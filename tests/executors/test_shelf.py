"""What an alarm finds in a thread pool: all that is there, wherever it is at the moment."""

from __future__ import annotations

import gc
import threading
import time
from math import inf
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, ThreadExecutor, _alarm, current, supervised, task
from hybrid_compute._seats import known
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.executors import _threads
from hybrid_compute.futures import HybridFuture
from hybrid_compute.supervised import SupervisedItem, watch
from hybrid_compute.tasks import TaskOptions

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
    later, _, _ = ex._pool.look(now, due, [])
    return later, [each.future for each in due if each.claim()]


def hidden(ex: Any) -> bool:
    """Say whether something may be in a thread's hand."""
    return bool(ex._pool.peek([]))


def settled(ex: Any) -> float:
    """Return when to look again, once nothing is in anybody's hand."""
    until(lambda: not hidden(ex))
    return looked(ex)[0]


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


def test_what_leaves_the_queue_as_it_looks_is_found_where_it_runs(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, all_of = threading.Event(), _threads._all_of

    def meanwhile(jobs: Any) -> Any:
        before.set()
        until(future.running)
        return all_of(jobs)

    with ThreadExecutor(1) as ex:
        ex.submit(before.wait, SOON)
        until(lambda: ex._pool.seats and ex._pool.seats[0].job is not None)
        with ex._pool.lock:  # the alarm does not look meanwhile
            future = ex.submit(waits(go))
            with monkeypatch.context() as patch:
                patch.setattr(_threads, "_all_of", meanwhile)
                assert looked(ex, time.monotonic() + 2 * LONG)[1] == [future]
        go.set()


def test_a_thread_that_wakes_has_nothing_in_its_hand(go: threading.Event) -> None:
    with ThreadExecutor(1) as ex:
        ex.submit(abs, -1).result(SOON)
        until(lambda: ex._pool.parked)
        with ex._pool.lock:  # it cannot look into the queue before
            future = ex.submit(waits(go))
            assert ex._pool.waking
            assert looked(ex)[0] > time.monotonic() + LONG / 2
        go.set()
        assert future.result(SOON)


def test_it_waits_until_nobody_moves_what_is_there(go: threading.Event) -> None:
    with ThreadExecutor(1) as ex:
        found: list[Any] = []
        other = threading.Thread(target=lambda: found.append(looked(ex)))
        with ex._pool.lock:
            other.start()
            other.join(0.02)
            assert not found
        other.join(SOON)
        assert found == [(inf, [])]


def standing_still(
    monkeypatch: pytest.MonkeyPatch, which: Any
) -> tuple[threading.Event, threading.Event]:
    """Have a thread stand still with a job in its hand, once, if `which` says so of that.

    Returns:
        What is set when it does, and what lets it go on.
    """
    stands, goes_on = threading.Event(), threading.Event()

    class Slow(_threads.Seat):
        __slots__ = ("shown",)

        @property
        def job(self) -> Any:
            return self.shown

        @job.setter
        def job(self, job: Any) -> None:
            if job is not None and not stands.is_set() and which(job):
                stands.set()
                goes_on.wait(SOON)
            self.shown = job

    monkeypatch.setattr(_threads, "Seat", Slow)
    return stands, goes_on


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
    armed = [first]

    stands, goes_on = standing_still(monkeypatch, lambda _: armed[0])
    with ThreadExecutor(1) as ex:
        if not first:
            assert ex.submit(abs, -1).result(SOON) == 1
            until(lambda: ex._pool.parked)
            armed[0] = True
        future = unnoted(ex, waits(go, 0.05))
        assert stands.wait(SOON)
        assert looked(ex) == (inf, [])
        assert hidden(ex)
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
        assert hidden(ex)
        time.sleep(0.1)
        assert not future.done()
        goes_on.set()
        assert isinstance(future.exception(SOON / 2), TaskTimeout)
        go.set()


def test_a_thread_that_initializes_has_nothing_in_its_hand(go: threading.Event) -> None:
    with ThreadExecutor(1, initializer=go.wait, initargs=(SOON,)) as ex:
        future = ex.submit(waits(go))
        until(lambda: ex._pool.seats)
        assert time.monotonic() < looked(ex)[0] < time.monotonic() + LONG
        assert not hidden(ex)
        go.set()
        assert future.result(SOON)


@pytest.mark.parametrize("exits", [False, True], ids=["", "and a callback exits"])
def test_a_pool_whose_initializer_failed_lets_the_alarm_rest(
    exits: bool, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        go.wait(SOON)
        raise OSError("no licence")

    def callback(_: object) -> None:
        if exits:
            raise SystemExit

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with ThreadExecutor(1, initializer=fails) as ex:
        future = ex.submit(task(timeout=LONG)(abs), -1)
        future.add_done_callback(callback)
        go.set()
        assert future.exception(SOON) is not None
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


@pytest.mark.parametrize("lingers", [False, True])
def test_so_it_does_when_the_last_one_ends_while_it_looks(
    lingers: bool, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends between the look and the plan is not waited for."""
    look = _threads.Pool.look
    futures: list[Any] = []

    def slowly(pool: Any, now: float, *lists: Any) -> Any:
        found = look(pool, now, *lists)
        if found[0] < inf and not go.is_set():
            alarm._lingers = lingers
            go.set()
            futures[0].result(SOON)
            until(lambda: pool.parked)
        return found

    monkeypatch.setattr(_threads.Pool, "look", slowly)
    with ThreadExecutor(1) as ex:
        alarm = watch(ex)
        with alarm._lock:  # it does not look before the test knows its future
            futures.append(ex.submit(waits(go)))
            alarm.until = 0.0  # whatever for: it is to look now
            alarm._bell.ring()
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


# -- what must not be lost -----------------------------------------------------------------------


def test_what_is_in_a_hand_is_not_late_however_long_the_queue_is(
    go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    target: list[Any] = []
    stands, goes_on = standing_still(monkeypatch, lambda job: job in target)
    monkeypatch.setattr(supervised, "_REST", 0.1)  # as if a look took 2 ms a job
    first = threading.Event()
    with ThreadExecutor(1) as ex:
        ex.submit(first.wait, SOON)
        begun = time.monotonic()
        future = unnoted(ex, waits(go, 0.5))
        target.append(future._item)
        others = [ex.submit(abs, -1) for _ in range(100)]
        first.set()
        assert stands.wait(SOON)
        alarm: Any = ex._alarm
        looks = alarm._rests
        alarm._emptied = True  # whatever for: it is to look now
        alarm._bell.ring()
        until(lambda: alarm._rests != looks)
        goes_on.set()
        assert isinstance(future.exception(SOON), TaskTimeout)
        assert time.monotonic() - begun < 5.0  # the next look is 10 s later
        go.set()
        for each in others:
            each.result(SOON)


def test_an_executor_that_holds_items_back_is_not_taken_for_its_pool() -> None:
    held: list[Any] = []

    class Gated(ThreadExecutor):
        def execute(self, item: Any) -> None:
            held.append(item)

    with Gated(1) as ex:
        future = ex.submit(task(timeout=0.05)(abs), -1)
        assert isinstance(future.exception(SOON), TaskTimeout)
        assert len(held) == 1


def test_what_a_call_submits_has_no_more_time_than_it_whatever_came_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first call that the executor saw had retries, and no deadline."""
    monkeypatch.setattr(known, "deadlines", False)
    with ThreadExecutor(2) as ex:
        ex.submit(task(retries=2)(abs), -1).result(SOON)

        def outer() -> Any:
            return ex.submit(lambda: current().deadline).result(SOON), current().deadline

        inner, own = ex.submit(task(timeout=LONG)(outer)).result(SOON)
        assert inner == own is not None


def test_ctrl_c_as_a_thread_is_made_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new thread is to be born with what another submit has queued."""
    held, armed = threading.Event(), [True]
    following, init = _threads.Pool.next_job, threading.Thread.__init__

    def slowly(pool: Any, gate: Any, counted: str, seat: Any) -> Any:
        if counted == "waking":
            held.wait(SOON)  # the thread that was woken for the first one is slow to come
        return following(pool, gate, counted, seat)

    def interrupted(thread: Any, *given: Any, **more: Any) -> None:
        if str(more.get("name", "")).startswith("ThreadPool") and armed:
            armed.clear()
            raise KeyboardInterrupt
        init(thread, *given, **more)

    with ThreadExecutor(2) as ex:
        ex.submit(abs, -1).result(SOON)
        until(lambda: ex._pool.parked)
        monkeypatch.setattr(_threads.Pool, "next_job", slowly)
        first = ex.submit(abs, -2)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ex.submit(abs, -3)
        held.set()
        assert first.result(SOON) == 2
        assert ex.submit(abs, -4).result(SOON) == 4
        assert not hidden(ex)


@pytest.mark.parametrize("hidden_in", [None, RuntimeError], ids=["as it is", "in another error"])
def test_ctrl_c_as_a_thread_starts_has_its_job_run_once(
    hidden_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread runs all the same; a lock that Ctrl-C has left in disorder may say so."""
    held, armed, runs = threading.Event(), [True], []
    following, start = _threads.Pool.next_job, threading.Thread.start

    def slowly(pool: Any, gate: Any, counted: str, seat: Any) -> Any:
        if counted == "waking":
            held.wait(SOON)  # the thread that was woken for the first one is slow to come
        return following(pool, gate, counted, seat)

    def interrupted(thread: Any) -> None:
        start(thread)
        if thread.name.startswith("ThreadPool") and armed:
            armed.clear()
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                if hidden_in is None:
                    raise
                raise hidden_in("release unlocked lock")  # noqa: B904 - as a lock does

    with ThreadExecutor(2) as ex:
        ex.submit(abs, -1).result(SOON)
        until(lambda: ex._pool.parked)
        monkeypatch.setattr(_threads.Pool, "next_job", slowly)
        first = ex.submit(task(timeout=LONG)(runs.append), 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ex.submit(abs, -3)
        held.set()
        first.result(SOON)
        assert ex.submit(abs, -4).result(SOON) == 4
        until(lambda: not hidden(ex))
    assert runs == [1]
    assert not any(each.is_alive() for each in ex._pool.threads)


def test_who_submits_as_he_handles_ctrl_c_is_told_what_is_wrong_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadExecutor(1) as ex, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            with pytest.raises(RuntimeError, match="can't start"):
                ex.submit(abs, -1)


def interrupt_behind_the_push(monkeypatch: pytest.MonkeyPatch, started: threading.Event) -> None:
    execute = ThreadExecutor.execute

    def interrupted(ex: Any, item: Any) -> None:
        execute(ex, item)
        if type(item) is SupervisedItem:
            assert started.wait(SOON)
            raise KeyboardInterrupt

    monkeypatch.setattr(ThreadExecutor, "execute", interrupted)


@pytest.mark.parametrize("make", [ThreadExecutor, HybridExecutor])
@pytest.mark.parametrize("before", [0, 1], ids=["the first one", "one more"])
def test_the_time_of_what_runs_is_kept_though_its_submitter_was_interrupted(
    make: Any, before: int, go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread is stuck then, and another has to be there in its place."""
    started = threading.Event()

    def work() -> None:
        started.set()
        go.wait(SOON)

    def submit(ex: Any, seconds: float, fn: Any, *args: Any) -> Any:
        if make is ThreadExecutor:
            return ex.submit(task(timeout=seconds)(fn), *args)
        return ex.options(timeout=seconds).submit(fn, *args)

    with make(1) as ex:
        for _ in range(before):
            submit(ex, LONG, abs, -1).result(SOON)
        with monkeypatch.context() as patch:
            interrupt_behind_the_push(patch, started)
            with pytest.raises(KeyboardInterrupt):
                submit(ex, 0.05, work)
        assert ex.submit(abs, -1).result(SOON / 2) == 1
        go.set()


def test_what_runs_is_not_refused_because_the_alarm_can_have_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread was there when it was handed over, and ended a moment later."""
    runs: list[int] = []
    start, execute = threading.Thread.start, ThreadExecutor.execute

    def none(thread: Any) -> None:
        if thread.name == "alarm":
            raise RuntimeError("can't start new thread")
        start(thread)

    def slowly(ex: Any, item: Any) -> None:
        until(lambda: alarm.thread is None)
        monkeypatch.setattr(threading.Thread, "start", none)
        execute(ex, item)
        until(lambda: runs)

    with ThreadExecutor(2) as ex:
        call = task(timeout=LONG)(lambda: runs.append(1))
        ex.submit(call).result(SOON)
        runs.clear()
        alarm: Any = ex._alarm
        alarm.start()
        with monkeypatch.context():
            monkeypatch.setattr(ThreadExecutor, "execute", slowly)
            assert ex.submit(call).result(SOON) is None
        monkeypatch.undo()
        assert runs == [1]


def test_a_thread_that_ends_has_promised_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One was noted while it looked, and was over by then: others rely on the look at its time."""
    look, push = _threads.Pool.look, _threads.Pool.push
    pushing, may, done = threading.Event(), threading.Event(), threading.Event()
    ends: list[float] = []

    def slowly(pool: Any, job: Any, *given: Any, **more: Any) -> None:
        if type(job) is SupervisedItem and not pushing.is_set():
            pushing.set()
            may.wait(SOON)  # it stands still until the alarm has heard that it came
        push(pool, job, *given, **more)

    def and_waits(pool: Any, now: float, *lists: Any) -> Any:
        found = look(pool, now, *lists)
        if pushing.is_set() and alarm._lingers and not may.is_set():
            may.set()
            done.wait(SOON)
        return found

    finish = _alarm.Alarm._ends

    def noted(alarm: Any, *given: Any, **more: Any) -> bool:
        promised = alarm.until
        ended = finish(alarm, *given, **more)
        if ended:
            ends.append(promised)
        return ended

    with ThreadExecutor(1) as ex:
        call = task(timeout=LONG)(abs)
        ex.submit(call, -1).result(SOON)
        alarm: Any = ex._alarm
        until(lambda: alarm.thread is None)
        monkeypatch.setattr(_threads.Pool, "push", slowly)
        monkeypatch.setattr(_threads.Pool, "look", and_waits)
        monkeypatch.setattr(_alarm.Alarm, "_ends", noted)
        ex.submit(call, -2).result(SOON)
        done.set()
        until(lambda: alarm.thread is None)
        assert ends == [inf]
        assert alarm.until == inf


def test_how_old_a_call_is_can_be_told_however_much_time_it_has() -> None:
    for timeout in (None, 1.0, 1e9, 1e15, 1e300):
        item = SupervisedItem(abs, (-1,), None, TaskOptions(timeout=timeout), None)
        begun = time.monotonic()
        assert -0.01 <= item._age() <= time.monotonic() - begun + 0.01
