"""First calls, seen from outside while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from hybrid_compute import HybridExecutor, _first_calls, task
from hybrid_compute._first_calls import FirstCalls
from hybrid_compute.policy import Adaptive

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

WAIT = 30.0


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Runner:
    """Threads that each make a first call, and end when they are told."""

    def __init__(
        self, calls: FirstCalls, belief: object, works: list[Callable[[], object]]
    ) -> None:
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(calls, belief, w)) for w in works]
        self.ready = threading.Barrier(len(works) + 1)

    def run(self, calls: FirstCalls, belief: object, work: Callable[[], object]) -> None:
        calls.begin(belief)
        work()
        self.ready.wait(WAIT)
        self.done.wait(WAIT)
        calls.end()

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        self.ready.wait(WAIT)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()


def test_a_call_that_computes_is_seen_to_be_busy() -> None:
    calls, belief = FirstCalls(), object()
    with Runner(calls, belief, [lambda: burn(0.02)]):
        seen = calls.look(belief)
        assert seen is not None
        assert seen[1] + seen[2] >= 0.02
        assert calls.look(object()) is None


def test_a_call_that_waits_is_not() -> None:
    calls, belief, never = FirstCalls(), object(), threading.Event()
    with Runner(calls, belief, [lambda: never.wait(0.1)]):
        seen = calls.look(belief)
        assert seen is not None
        assert seen[0] >= 0.1
        assert seen[1] + seen[2] < seen[0] / 2  # it may be kept from a core when it wakes


def test_of_two_that_share_the_gil_what_both_have_used_is_told() -> None:
    calls, belief = FirstCalls(), object()
    with Runner(calls, belief, [lambda: burn(0.02), lambda: burn(0.02)]):
        seen = calls.look(belief)
        assert seen is not None
        assert seen[1] + seen[2] >= 0.03


def test_the_time_that_others_had_the_core_counts_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, belief, kept = FirstCalls(), object(), iter([1.0, 1.25, 1.5])
    monkeypatch.setattr(_first_calls, "_kept_waiting", lambda _: next(kept))
    calls.begin(belief)
    time.thread_time()
    threading.Event().wait(0.3)
    seen = calls.look(belief)
    assert seen is not None
    assert seen[2] == 0.25
    assert seen[1] + seen[2] <= seen[0]
    assert calls.end() == 0.5
    assert calls.look(belief) is None


def test_where_it_cannot_be_told_nobody_was_kept_waiting() -> None:
    assert _first_calls._kept_waiting(-1) == 0.0


def test_who_has_begun_nothing_was_kept_from_nothing() -> None:
    assert FirstCalls().end() == 0.0


def test_who_was_kept_waiting_longer_than_he_ran_did_not_run_less_than_no_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(FirstCalls, "end", lambda _: 5.0)  # two clocks need not agree
    policy = Adaptive()
    work = task(lambda: burn(0.001))
    with HybridExecutor(policy=policy) as executor:
        executor.submit(work).result(WAIT)
    belief = policy.usual(work)
    assert belief is not None
    assert belief.run >= 0.001
    policy.save(tmp_path / "estimates.json")
    Adaptive(estimates=tmp_path / "estimates.json")
