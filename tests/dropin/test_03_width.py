"""Point 3: `max_workers` calls that wait for each other all run, and never more at once."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, wait

import pytest

from .makers import TIMEOUT, Make, block, new_event, nothing

pytestmark = pytest.mark.timeout(60)


class Meter:
    """Counts how many calls run at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the figures
        self.running = self.peak = self.calls = 0

    def __call__(self, *_: object) -> None:
        with self._lock:
            self.running += 1
            self.calls += 1
            self.peak = max(self.peak, self.running)
        threading.Event().wait(0.0005)  # long enough for others to overlap, if they may
        with self._lock:
            self.running -= 1


def test_forty_calls_that_wait_for_each_other_all_run(make: Make) -> None:
    executor = make(max_workers=40)
    barrier = threading.Barrier(40)
    futures = [executor.submit(barrier.wait, TIMEOUT) for _ in range(40)]
    assert sorted(future.result(TIMEOUT) for future in futures) == list(range(40))


def test_forty_calls_of_a_map_that_wait_for_each_other_all_run(make: Make) -> None:
    executor = make(max_workers=40)
    barrier = threading.Barrier(40)
    results = executor.map(lambda _: barrier.wait(TIMEOUT), range(40))
    assert sorted(results) == list(range(40))


def test_calls_that_wait_for_each_other_run_again_and_again(make: Make) -> None:
    executor = make(4)
    barrier = threading.Barrier(4)
    for _ in range(50):
        done, _ = wait([executor.submit(barrier.wait, TIMEOUT) for _ in range(4)], TIMEOUT)
        assert sorted(future.result() for future in done) == [0, 1, 2, 3]


def test_each_call_of_a_chain_may_wait_for_the_one_submitted_after_it(make: Make) -> None:
    executor = make(20)
    events = [new_event() for _ in range(21)]

    def work(index: int) -> None:
        assert events[index + 1].wait(TIMEOUT)
        events[index].set()

    futures = [executor.submit(work, index) for index in range(20)]
    events[20].set()
    for future in futures:
        future.result(TIMEOUT)


def test_a_call_may_submit_another_and_wait_for_it_while_a_worker_is_left(make: Make) -> None:
    executor = make(10)

    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + executor.submit(nested, depth - 1).result(TIMEOUT)

    for _ in range(20):
        assert executor.submit(nested, 9).result(TIMEOUT) == 9


def test_a_call_may_map_and_wait_for_it_while_a_worker_is_left(make: Make) -> None:
    executor = make(3)

    def outer(_: int) -> int:
        return sum(executor.map(abs, range(5)))

    assert list(executor.map(outer, range(2))) == [10, 10]


def test_a_call_that_blocks_holds_back_no_other(make: Make) -> None:
    executor = make(2)
    release = block(executor)
    for _ in range(20):
        for future in [executor.submit(nothing) for _ in range(10)]:
            future.result(TIMEOUT)
        assert list(executor.map(abs, range(10))) == list(range(10))
    release.set()


def test_a_call_of_a_map_that_blocks_holds_back_no_other(make: Make) -> None:
    executor = make(2)
    release = new_event()
    last = new_event()

    def work(index: int) -> int:
        if index == 0:
            release.wait()
        if index == 99:
            last.set()
        return index

    results = executor.map(work, range(100))
    assert last.wait(TIMEOUT)
    release.set()
    assert list(results) == list(range(100))


def test_never_more_calls_run_at_once_than_there_are_workers(make: Make) -> None:
    executor, meter = make(5), Meter()
    for future in [executor.submit(meter) for _ in range(100)]:
        future.result(TIMEOUT)
    assert meter.calls == 100
    assert meter.peak <= 5


def test_never_more_calls_of_several_maps_run_at_once_than_there_are_workers(make: Make) -> None:
    executor, meter = make(3), Meter()
    maps = [executor.map(meter, range(30)) for _ in range(3)]
    futures = [executor.submit(meter) for _ in range(30)]
    for results in maps:
        assert len(list(results)) == 30
    for future in futures:
        future.result(TIMEOUT)
    assert meter.calls == 120
    assert meter.peak <= 3


def test_never_more_calls_run_at_once_when_many_threads_submit(make: Make) -> None:
    executor, meter = make(3), Meter()

    def submit(pool: Executor) -> None:
        for future in [pool.submit(meter) for _ in range(20)]:
            future.result(TIMEOUT)

    threads = [threading.Thread(target=submit, args=(executor,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert meter.calls == 100
    assert meter.peak <= 3


def test_calls_start_in_the_order_in_which_they_were_submitted(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    order: list[int] = []
    futures = [executor.submit(order.append, n) for n in range(500)]
    release.set()
    for future in futures:
        future.result(TIMEOUT)
    assert order == list(range(500))


def test_calls_of_a_map_start_in_their_turn_among_the_others(make: Make) -> None:
    executor = make(1)
    release = block(executor)
    order: list[int] = []
    executor.submit(order.append, 0)
    first = executor.map(order.append, range(1, 50))
    executor.submit(order.append, 50)
    second = executor.map(order.append, range(51, 100))
    last = executor.submit(order.append, 100)
    release.set()
    last.result(TIMEOUT)
    assert order == list(range(101))
    assert len([*first, *second]) == 98
