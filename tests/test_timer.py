"""Timer: what is put off is called at its time, or withdrawn, however many there are."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from hybrid_compute import _timer
from hybrid_compute._timer import Timer

SOON = 60.0  # seconds; nothing here takes that long, and a hang shall be a failure of its test
LONG = 1000.0


class Call:
    """Something to be called, which notes that it was."""

    def __init__(self, called: list[Any] | None = None, name: Any = None) -> None:
        self._called = [] if called is None else called
        self._name = name

    def __call__(self) -> None:
        self._called.append(self._name)


def test_each_is_called_at_its_time() -> None:
    timer, called, done = Timer(), [], threading.Event()
    begun = time.monotonic()
    timer.after(0.06, done.set)
    for name in (0.04, 0.0, 0.02):
        timer.after(name, Call(called, name))
    assert done.wait(SOON)
    assert time.monotonic() - begun >= 0.06
    assert called == [0.0, 0.02, 0.04]
    timer.join()


def test_what_is_withdrawn_is_not_called_and_not_kept() -> None:
    timer, called, done = Timer(), [], threading.Event()
    call = Call(called)
    timer.after(0.01, call)
    timer.after(0.02, done.set)
    assert timer.withdraw(call)
    assert not timer.withdraw(call)
    alive = weakref.ref(call)
    del call
    gc.collect()
    assert alive() is None
    assert done.wait(SOON)
    assert called == []
    timer.join()


def test_what_was_called_is_not_there_to_be_withdrawn() -> None:
    timer, call = Timer(), Call()
    timer.after(0.0, call)
    timer.join()
    assert not timer.withdraw(call)
    assert timer._waiting == {}


def test_one_that_was_withdrawn_may_come_again() -> None:
    timer, called = Timer(), []
    call = Call(called, "again")
    timer.after(LONG, call)
    assert timer.withdraw(call)
    timer.after(0.0, call)
    timer.join()
    assert called == ["again"]


def test_its_thread_ends_when_the_last_one_is_withdrawn() -> None:
    timer = Timer()
    calls = [Call() for _ in range(3)]
    for call in calls:
        timer.after(LONG, call)
    for call in calls:
        assert timer.withdraw(call)
    timer.join()  # else it would wait for the time of a blank
    assert timer._thread is None


def test_many_can_be_withdrawn_and_leave_little_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts: list[int] = []
    heapify = _timer.heapq.heapify
    monkeypatch.setattr(_timer.heapq, "heapify", lambda heap: [sorts.append(1), heapify(heap)])
    timer = Timer()
    calls = [Call() for _ in range(20_000)]
    for call in calls:
        timer.after(LONG, call)
    for call in calls[1:]:
        assert timer.withdraw(call)
        assert len(timer._heap) <= 2 * len(timer._waiting) + _timer._SPARE
    assert len(sorts) < 40  # not each time
    assert timer.withdraw_all() == [calls[0]]
    timer.join()


@pytest.mark.parametrize("more", [False, True], ids=["the only one", "one of two"])
def test_one_that_is_withdrawn_as_its_time_comes_does_no_harm(
    more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finalizer withdraws it, between the thread's look at its time and its call."""

    class Clock:
        def monotonic(self) -> float:
            now = time.monotonic()
            if threading.current_thread().name == "the timer":
                withdrawn.append(timer.withdraw(first))
            return now

    timer, called, withdrawn = Timer("the timer"), [], []
    first = Call(called)
    monkeypatch.setattr(_timer, "time", Clock())
    with timer._lock:  # it has both before it looks, or only the first
        timer.after(0.0, first)
        if more:
            timer.after(0.02, Call())
    timer.join()
    assert called == []
    assert withdrawn[0] is True


def test_at_the_end_all_that_was_not_withdrawn_is_called() -> None:
    timer, called = Timer(), []
    calls = [Call(called, each) for each in range(4)]
    for call in calls:
        timer.after(LONG, call)
    assert timer.withdraw(calls[1])
    timer.flush()
    assert sorted(called) == [0, 2, 3]
    timer.after(LONG, Call(called, "late"))
    timer.join()
    assert called[-1] == "late"


def test_a_forked_child_calls_nothing_of_its_parent() -> None:
    timer, call = Timer(), Call()
    timer.after(LONG, call)
    thread, bell = timer._thread, timer._bell
    timer.after_fork()  # what a child calls, where the thread is not
    assert not timer.withdraw(call)
    assert timer._heap == []
    while thread is not None and thread.is_alive():  # here it is there, with nothing to do any more
        bell.ring()
        thread.join(0.01)


def test_what_is_put_off_while_the_blanks_are_removed_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a signal handler, or a finalizer, on that very thread."""
    timer, called = Timer(), []
    others, near = [Call() for _ in range(200)], Call(called, "near")
    heapify = _timer.heapq.heapify

    class Heap(list[Any]):
        def __iter__(self) -> Any:
            for place in range(len(self)):
                if place == 50 and near not in put:
                    put.append(near)
                    timer.after(0.0, near)
                yield self[place]

    put: list[Call] = []
    for call in others:
        timer.after(LONG, call)
    with timer._lock:
        timer._heap = Heap(timer._heap)
        heapify(timer._heap)
    for call in others:
        assert timer.withdraw(call)
    assert put == [near]
    timer.join()
    assert called == ["near"]
