"""What does as it is told: ManualExecutor, ScriptedExecutor, VirtualClock; what tells of it."""

from __future__ import annotations

import threading

import pytest

from hybrid_compute import HybridExecutor, Retry, task
from hybrid_compute.abc import Capabilities
from hybrid_compute.errors import (
    ExecutorUnavailable,
    PlacementError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteUnavailable,
    WorkerCrashed,
)
from hybrid_compute.events import Event
from hybrid_compute.policy import Prefer
from hybrid_compute.testing import (
    Crash,
    ManualExecutor,
    Recorder,
    Refuse,
    Run,
    ScriptedExecutor,
    VirtualClock,
    assert_routed,
)


@task
def double(x):
    return 2 * x


again = task(idempotent=True, retries=2)(double.fn)


# ManualExecutor


def test_nothing_runs_before_it_is_told_and_then_right_there():
    ex = ManualExecutor()
    first, second = ex.submit(double, 1), ex.submit(threading.get_ident)
    assert [item.name for item in ex.pending] == ["double", "get_ident"]
    assert (first.done(), ex.counts(), ex.load()) == (False, (2, 0), 2.0)
    assert ex.run_next().future is first
    assert (first.result(0), second.done()) == (2, False)
    assert ex.run_all() == 1
    assert second.result(0) == threading.get_ident()
    assert ex.pending == ()


def test_what_was_cancelled_is_passed_over_and_not_counted():
    ex = ManualExecutor()
    cancelled, kept = ex.submit(double, 1), ex.submit(double, 2)
    assert cancelled.cancel()
    assert [item.future for item in ex.pending] == [kept]
    assert ex.run_next().future is kept
    assert ex.run_all() == 0
    with pytest.raises(LookupError, match="'manual' has nothing to run"):
        ex.run_next()


def test_run_all_runs_what_is_submitted_meanwhile():
    ex = ManualExecutor()
    later = []
    ex.submit(lambda: later.append(ex.submit(double, 3)))
    assert ex.run_all() == 2
    assert later[0].result(0) == 6


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_runs_or_cancels_what_is_pending(cancel):
    ex = ManualExecutor()
    future = ex.submit(double, 1)
    ex.shutdown(cancel_futures=cancel)
    assert future.cancelled() == cancel
    assert future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(double, 1)


def test_it_can_pretend_to_be_elsewhere():
    away = ManualExecutor("away", capabilities=Capabilities(remote=True))
    with HybridExecutor(executors={"away": away}, policy=Prefer("away", "inline")) as ex:
        secret = ex.options(local_only=True).submit(double, 1)
        with pytest.raises(PlacementError):
            away.submit(task(local_only=True)(double.fn), 1).result()
        assert secret.result(0) == 2
        assert away.pending == ()


# VirtualClock


def test_time_passes_only_when_it_is_told_to_and_calls_what_is_due_at_its_time():
    clock = VirtualClock(100.0)
    seen = []
    for seconds in (2, 1, 1, 0):
        clock.call_later(seconds, lambda s=seconds: seen.append((s, clock())))
    assert (seen, clock(), clock.waiting) == ([], 100.0, 4)
    clock.advance()
    assert seen == [(0, 100.0)]
    clock.advance(1.5)
    assert seen[1:] == [(1, 101.0), (1, 101.0)]
    assert clock() == 101.5
    clock.call_later(5, lambda: clock.call_later(1, lambda: seen.append("last")))
    assert clock.run() == 107.5
    assert seen[3:] == [(2, 102.0), "last"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_goes_forward(seconds):
    with pytest.raises(ValueError, match="give a number of seconds that is not negative"):
        VirtualClock().advance(seconds)


# ScriptedExecutor


def test_work_takes_the_time_that_the_script_says_and_others_wait():
    clock = VirtualClock()
    ex = ScriptedExecutor(clock, [Run(2.0)], then=Run(1.0), latency=0.3)
    first, second = ex.submit(double, 1), ex.submit(double, 2)
    clock.advance(1.9)
    assert (first.running(), second.running(), ex.counts()) == (True, False, (1, 1))
    clock.advance(0.1)
    assert (first.result(0), second.running()) == (2, True)
    clock.advance(0.9)
    assert not second.done()
    assert clock.run() == pytest.approx(3.0)
    assert second.result(0) == 4
    assert (ex.latency(), ex.load()) == (0.3, 0.0)


def test_two_workers_serve_side_by_side():
    clock = VirtualClock()
    ex = ScriptedExecutor(clock, then=Run(1.0), workers=2)
    futures = [ex.submit(double, n) for n in range(4)]
    assert clock.run() == 2.0
    assert [future.result(0) for future in futures] == [0, 2, 4, 6]


def test_a_crash_is_tried_again_as_the_options_say():
    clock, recorder = VirtualClock(), Recorder()
    pool = ScriptedExecutor(clock, [Crash(1.0), Crash(1.0), Run(1.0)], name="pool")
    with HybridExecutor(
        executors={"pool": pool}, policy=Prefer("pool"), observers=[recorder]
    ) as ex:
        future, alone = ex.submit(again, 4), pool.submit(double, 1)
        clock.run()
        assert future.result(0) == 8
        with pytest.raises(WorkerCrashed, match="'double' was lost in a crash, as 'pool' was told"):
            alone.result(0)
        assert_routed(future, "pool", after=["pool"])
    assert recorder.kinds()[-2:] == ["started", "succeeded"]
    assert len(recorder.of("retried", executor="pool")) == 1


def test_a_refusal_is_passed_over_and_says_what_it_was_told_to():
    clock = VirtualClock()
    busy = RemoteBusy("too much to do", status=503)
    away = ScriptedExecutor(clock, [Refuse(), Refuse(busy)], name="away")
    with HybridExecutor(executors={"away": away}, policy=Prefer("away", "inline")) as ex:
        assert_routed(ex, "inline", double, 1, after=["away"], rule="as the policy")
        with pytest.raises(RemoteBusy, match="too much"):
            away.submit(double, 1)


def test_offline_it_loses_what_it_has_and_refuses_the_rest_until_it_is_back():
    clock = VirtualClock()
    away = ScriptedExecutor(clock, then=Run(1.0), name="away")
    running, queued = away.submit(double, 1), away.submit(double, 2)
    clock.advance(0.5)
    away.go_offline()
    lost = running.exception(0), queued.exception(0)
    assert {type(each) for each in lost} == {RemoteConnectionLost}
    assert [each.may_have_run for each in lost] == [True, False]
    with pytest.raises(RemoteUnavailable, match="'away' is offline"):
        away.submit(double, 1)
    away.go_online()
    future = away.submit(double, 3)
    clock.run()
    assert future.result(0) == 6


def test_a_cancelled_item_is_not_served():
    clock = VirtualClock()
    ex = ScriptedExecutor(clock, then=Run(1.0))
    futures = [ex.submit(double, n) for n in range(3)]
    assert futures[1].cancel()
    assert clock.run() == 2.0
    assert futures[2].result(0) == 4


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_lets_time_pass_for_what_is_served(cancel):
    clock = VirtualClock()
    ex = ScriptedExecutor(clock, then=Run(3.0))
    first, second = ex.submit(double, 1), ex.submit(double, 2)
    clock.advance(1.0)
    ex.shutdown(cancel_futures=cancel)
    assert first.result(0) == 2
    assert second.cancelled() == cancel
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(double, 1)


# Recorder


def test_a_recorder_finds_events_and_waits_for_those_to_come():
    recorder, go = Recorder(), threading.Event()
    with HybridExecutor(2, observers=[recorder]) as ex:
        future = ex.submit(go.wait)
        assert recorder.wait_for("started", name="Event.wait")[0].executor == "thread"
        go.set()
        future.result()
        ex.options(executor="inline").submit(double, 1)
    first = recorder.events[0].item_id
    assert recorder.kinds(first) == ["submitted", "routed", "started", "succeeded"]
    assert [event.item_id for event in recorder.of("succeeded", executor="inline")] == [first + 1]
    recorder.clear()
    assert recorder.events == ()
    assert repr(recorder) == "<Recorder: 0 events>"


def test_who_waits_is_woken_by_the_event():
    ping, pong = Recorder(), Recorder()

    def answer():
        for n in range(1, 51):
            ping.wait_for(count=n)
            pong(Event(kind="started", item_id=n, name="", executor=None, attempt=1, time=0.0))

    thread = threading.Thread(target=answer)
    thread.start()
    for n in range(1, 51):
        ping(Event(kind="started", item_id=n, name="", executor=None, attempt=1, time=0.0))
        assert len(pong.wait_for(count=n)) == n
    thread.join()


def test_a_recorder_that_waits_in_vain_tells_what_came():
    recorder = Recorder()
    with HybridExecutor(observers=[recorder]) as ex:
        ex.options(executor="inline").submit(double, 1)
    with pytest.raises(TimeoutError, match=r"1 of 2 events came .* succeeded 'double' \(inline\)"):
        recorder.wait_for("succeeded", count=2, timeout=0.01)


# assert_routed


def test_assert_routed_tells_where_the_work_went_instead():
    with HybridExecutor() as ex:
        future = ex.options(executor="inline").submit(double, 1)
        assert_routed(future, "inline")
        with pytest.raises(AssertionError, match="'thread', but it went to inline: "):
            assert_routed(future, "thread")
        with pytest.raises(AssertionError, match="expected a rule with 'because'"):
            assert_routed(future, "inline", rule="because")
        with pytest.raises(AssertionError, match=r"expected that \('away',\) had it before"):
            assert_routed(future, "inline", after=["away"])


def test_assert_routed_waits_for_the_work_but_not_for_ever():
    ex = ManualExecutor()
    with HybridExecutor(executors={"manual": ex}) as fleet:
        future = fleet.options(executor="manual").submit(double, 1)
        with pytest.raises(AssertionError, match=r"not done after 0\.01 s: manual"):
            assert_routed(future, "manual", timeout=0.01)


def test_assert_routed_says_what_it_takes():
    with pytest.raises(TypeError, match="7 is no future of hybrid_compute"):
        assert_routed(7, "inline")


def test_a_crash_may_be_any_error_and_a_pause_between_attempts_is_real():
    clock = VirtualClock()
    odd = ExecutorUnavailable("gone")
    pool = ScriptedExecutor(clock, [Crash(0.0, odd)], name="pool")
    with HybridExecutor(executors={"pool": pool}, policy=Prefer("pool")) as ex:
        future = ex.options(retries=Retry(1)).submit(double, 1)
        clock.run()
        assert future.exception(0) is odd
