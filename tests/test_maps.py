"""`map`, on every kind of executor: one contract, several sources."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, ProcessExecutor, ThreadExecutor, task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.executors._chunks import Feeders, map_in_chunks
from hybrid_compute.executors._map_share import MapShare
from hybrid_compute.maps import MapOptions, Results
from hybrid_compute.policy import Prefer


class Chunked(ThreadExecutor):
    """Sends chunks, as an executor of processes does, but to threads, where tests see them."""

    sizes: list[int]

    def _map(self, fn, iterables, options):  # type: ignore[no-untyped-def]
        self.sizes = []

        def submit(run, fn, calls, star):  # type: ignore[no-untyped-def]
            self.sizes.append(len(calls))
            return self.submit(run, fn, calls, star)

        self.feeders = Feeders()
        return map_in_chunks(
            submit,
            fn,
            iterables,
            options,
            resubmit=submit,
            workers=lambda: self.workers,
            feeders=self.feeders,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if hasattr(self, "feeders"):
            (self.feeders.cancel if cancel_futures else self.feeders.flush)()
        super().shutdown(wait, cancel_futures=cancel_futures)


class BySubmit(ThreadExecutor):
    """Overrides submit, so that map makes one future for each call."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override]
        return super().submit(fn, *args, **kwargs)


MAKERS: dict[str, Callable[[], Executor]] = {
    "thread": lambda: ThreadExecutor(2),
    "submit": lambda: BySubmit(2),
    "chunks": lambda: Chunked(2),
    "inline": InlineExecutor,
    "hybrid": lambda: HybridExecutor(2),
    "view": lambda: HybridExecutor(2).options(executor="thread", retries=1),
    "process": lambda: ProcessExecutor(2),
}
CONCURRENT = ["thread", "submit", "chunks", "hybrid", "view"]


@pytest.fixture(params=MAKERS)
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with MAKERS[request.param]() as executor:
        yield executor


@pytest.fixture(params=CONCURRENT)
def threads(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Two workers that share the test's memory."""
    with MAKERS[request.param]() as executor:
        yield executor


def half(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x // 2


def test_results_come_in_the_order_of_the_input(pool: Executor) -> None:
    assert list(pool.map(pow, range(200), [2] * 200)) == [n * n for n in range(200)]


def test_the_shortest_input_ends_it(pool: Executor) -> None:
    assert list(pool.map(pow, [2, 3], [2, 2, 2])) == [4, 9]


def test_no_input_gives_no_results(pool: Executor) -> None:
    assert list(pool.map(str, [])) == []


def test_an_error_is_raised_in_its_turn(pool: Executor) -> None:
    results = pool.map(half, [0, 2, 3, 4])
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ValueError, match="3"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exceptions_can_be_results(pool: Executor) -> None:
    results = list(pool.map(half, range(5), return_exceptions=True))  # type: ignore[call-arg]
    assert results[::2] == [0, 1, 2]
    assert [type(each) for each in results[1::2]] == [ValueError, ValueError]


def test_unordered_results_are_all_there(pool: Executor) -> None:
    assert sorted(pool.map(abs, range(100), ordered=False)) == list(range(100))  # type: ignore[call-arg]


@pytest.mark.parametrize("maker", ["thread", "submit", "hybrid", "view"])
def test_unordered_results_come_as_they_finish(maker: str) -> None:
    release = threading.Event()

    def work(n: int) -> int:
        if n == 0:
            release.wait()
        return n

    with MAKERS[maker]() as executor:
        results = executor.map(work, range(3), ordered=False)  # type: ignore[call-arg]
        assert {next(results), next(results)} == {1, 2}
        release.set()
        assert next(results) == 0


def test_a_bounded_buffer_reads_no_further_ahead(pool: Executor) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for n in range(50):
            taken.append(n)
            yield n

    results = pool.map(abs, numbers(), buffersize=4)  # type: ignore[call-arg]
    assert len(taken) <= 4
    for n, result in enumerate(results):
        assert result == n
        assert len(taken) <= n + 1 + 4 + 1
    assert len(taken) == 50


def test_a_bounded_buffer_goes_with_any_order(pool: Executor) -> None:
    results = pool.map(abs, range(50), buffersize=3, ordered=False)  # type: ignore[call-arg]
    assert sorted(results) == list(range(50))


def test_an_endless_input_can_be_mapped_with_a_buffer(pool: Executor) -> None:
    import itertools

    results = pool.map(abs, itertools.count(), buffersize=5)  # type: ignore[call-arg]
    assert [next(results) for _ in range(20)] == list(range(20))
    results.close()  # type: ignore[attr-defined]


class Bar:
    def __init__(self) -> None:
        self.steps = 0
        self.closed = False

    def update(self, n: int) -> None:
        self.steps += n

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("ordered", [True, False])
def test_progress_is_told_of_every_call_on_the_consumers_thread(
    pool: Executor, ordered: bool
) -> None:
    class MyBar(Bar):
        def update(self, n: int) -> None:
            assert threading.current_thread() is threading.main_thread()
            super().update(n)

    bar = MyBar()
    results = pool.map(half, range(60), progress=bar, ordered=ordered, return_exceptions=True)  # type: ignore[call-arg]
    assert len(list(results)) == 60
    assert bar.steps == 60
    assert bar.closed


@pytest.mark.leaks("tqdm keeps a monitor thread and a lock for the life of the process")
def test_progress_true_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadExecutor(1) as pool:
        assert list(pool.map(str, range(3), progress=True)) == ["0", "1", "2"]
    assert "3/3" in capsys.readouterr().err


def test_what_cannot_show_progress_is_refused(pool: Executor) -> None:
    with pytest.raises(ConfigurationError, match="progress='loud'"):
        pool.map(str, [1], progress="loud")  # type: ignore[call-arg]


def test_the_time_out_counts_from_the_call(threads: Executor) -> None:
    release = threading.Event()
    results = threads.map(lambda _: release.wait(), range(4), timeout=0.05)
    try:
        with pytest.raises(TimeoutError):
            next(results)
    finally:
        release.set()


def test_a_result_that_is_there_is_given_out_after_the_time_out(threads: Executor) -> None:
    results = threads.map(str, [1], timeout=0.0)
    threads.shutdown()
    assert next(results) == "1"


def test_closing_cancels_what_has_not_started(threads: Executor) -> None:
    started, release, ran = threading.Semaphore(0), threading.Event(), []

    def work(n: int) -> None:
        ran.append(n)
        started.release()
        release.wait()

    results = threads.map(work, range(10), timeout=60)
    thread = threading.Thread(target=lambda: next(results, None))
    thread.start()
    started.acquire()
    started.acquire()
    release.set()
    thread.join()
    results.close()  # type: ignore[attr-defined]
    threads.shutdown()
    assert len(ran) <= 10


def test_an_iterator_that_is_dropped_unread_lets_the_calls_run(threads: Executor) -> None:
    ran: list[int] = []
    threads.map(ran.append, range(10))
    gc.collect()
    threads.shutdown()
    assert sorted(ran) == list(range(10))


def test_cancelling_the_executors_futures_ends_the_map(threads: Executor) -> None:
    started, release = threading.Semaphore(0), threading.Event()

    def work(n: int) -> int:
        started.release()
        release.wait()
        return n

    results = threads.map(work, range(6))
    started.acquire()
    started.acquire()
    threads.shutdown(wait=False, cancel_futures=True)
    release.set()
    seen = []
    with pytest.raises(CancelledError):
        seen.extend(results)


def test_results_are_let_go_once_they_are_yielded(threads: Executor) -> None:
    class Thing:
        pass

    results = threads.map(lambda _: Thing(), range(3))
    first = weakref.ref(next(results))
    next(results)
    gc.collect()
    assert first() is None
    list(results)


def test_an_error_keeps_neither_arguments_nor_other_results_alive(threads: Executor) -> None:
    class Thing:
        pass

    def work(thing: Thing) -> Thing:
        if thing.bad:  # type: ignore[attr-defined]
            raise ValueError("bad")
        return thing

    things = [Thing() for _ in range(4)]
    for n, thing in enumerate(things):
        thing.bad = n == 3  # type: ignore[attr-defined]
    good = [weakref.ref(thing) for thing in things[:3]]
    results = threads.map(work, things)
    del things, thing
    try:
        list(results)
    except ValueError as error:
        caught = error
    del results
    threads.shutdown()
    gc.collect()
    assert [ref() for ref in good] == [None] * 3
    del caught


def test_many_calls_from_several_consumers_lose_nothing(threads: Executor) -> None:
    sums: list[int] = []

    def consume() -> None:
        sums.append(sum(threads.map(abs, range(2000))))

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for each in consumers:
        each.start()
    for each in consumers:
        each.join()
    assert sums == [sum(range(2000))] * 4


def test_the_size_of_chunks_grows_for_quick_calls_and_never_more_than_eightfold() -> None:
    with Chunked(2) as pool:
        assert sum(pool.map(abs, range(20_000))) == sum(range(20_000))
        assert pool.sizes[0] == 1
        assert max(pool.sizes) > 100
        biggest = 1
        for size in pool.sizes:
            assert size <= 8 * biggest
            biggest = max(biggest, size)
        assert sum(pool.sizes) == 20_000


def test_slow_calls_travel_alone() -> None:
    pause = threading.Event()
    with Chunked(2) as pool:
        list(pool.map(lambda _: pause.wait(0.006), range(12)))
        assert set(pool.sizes) == {1}


def test_a_given_chunksize_is_kept_and_a_wrong_one_refused() -> None:
    with Chunked(2) as pool:
        assert list(pool.map(abs, range(10), chunksize=4)) == list(range(10))
        assert pool.sizes == [4, 4, 2]
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            pool.map(abs, range(10), chunksize=0)


def test_threads_tolerate_any_chunksize() -> None:
    with ThreadExecutor(1) as pool:
        assert list(pool.map(abs, [1, -2], chunksize=-5)) == [1, 2]


def test_one_result_that_cannot_travel_costs_the_one_call() -> None:
    from hybrid_compute.errors import ResultEncodeError

    with ProcessExecutor(1) as pool:
        results = list(
            pool.map(
                lambda n: threading.Lock() if n == 3 else n,
                range(6),
                chunksize=6,
                return_exceptions=True,
            )
        )
    assert [results[n] for n in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]
    assert isinstance(results[3], ResultEncodeError)


def test_one_argument_that_cannot_travel_costs_the_one_call() -> None:
    from hybrid_compute.errors import TaskEncodeError

    with ProcessExecutor(1) as pool:
        calls = [0, 1, threading.Lock(), 3]
        results = list(pool.map(str, calls, chunksize=4, return_exceptions=True))
    assert [results[n] for n in (0, 1, 3)] == ["0", "1", "3"]
    assert isinstance(results[2], TaskEncodeError)


def test_a_declared_task_is_mapped_where_the_policy_says() -> None:
    import os

    with HybridExecutor(max_processes=2, policy=Prefer("process")) as pool:
        pids = set(pool.map(task(lambda _: os.getpid()), range(50)))
    assert os.getpid() not in pids


def test_a_map_that_times_out_leaves_the_executor_usable() -> None:
    release = threading.Event()
    with HybridExecutor(2) as pool:
        with pytest.raises(TimeoutError):
            list(pool.map(lambda _: release.wait(), range(8), timeout=0.02))
        release.set()
        assert list(pool.map(str, [1])) == ["1"]


def test_the_consumer_is_woken_however_the_threads_race() -> None:
    with ThreadPoolExecutor(1) as hog, ThreadExecutor(4) as pool:
        stop = threading.Event()

        def burn() -> None:
            while not stop.is_set():
                pass

        hog.submit(burn)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert list(pool.map(abs, range(20))) == list(range(20))
            assert sorted(pool.map(abs, range(20), ordered=False)) == list(range(20))
        stop.set()


def test_options_are_checked_before_anything_is_submitted() -> None:
    with pytest.raises(ValueError, match="buffersize"):
        MapOptions(buffersize=0)


def test_pieces_of_a_chunk_that_failed_still_run_during_shutdown() -> None:
    calls: list[object] = list(range(40))
    calls[15] = threading.Lock()
    with ProcessExecutor(1) as pool:
        results = pool.map(type, calls, chunksize=10, return_exceptions=True)
    found = list(results)
    assert [n for n, each in enumerate(found) if each is not int] == [15]


def test_a_share_of_a_map_that_is_picked_up_while_all_is_cancelled_makes_no_call() -> None:
    # A thread has taken it from the queue, and has not said so yet, when `shutdown` looks.
    ran: list[int] = []
    executor = ThreadExecutor(1)
    executor.shutdown(cancel_futures=True)
    results = Results(MapOptions())
    share = MapShare(executor._pool, ran.append, results, inert=True)
    share._calls.append((0, (1,)))
    share.run()
    assert ran == []
    assert isinstance(results.failures[0], CancelledError)
