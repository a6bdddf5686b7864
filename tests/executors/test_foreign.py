"""ForeignExecutor: what can be done over somebody else's future, is."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool

import loky
import pytest

from hybrid_compute import HybridExecutor, Stream, task
from hybrid_compute.abc import Capabilities
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    TaskEncodeError,
    TaskTimeout,
    WorkerCrashed,
    WorkerStartError,
)
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.testing import executor_checks
from hybrid_compute.testing.work import Gate, OddError, echo, fail_oddly
from tests.executors import foreign_work as work

FORKSERVER = multiprocessing.get_context("forkserver")


def processes(workers=1):
    return ProcessPoolExecutor(workers, FORKSERVER)


def loky_pool():
    return loky.ProcessPoolExecutor(1, timeout=30)


def foreign(make, **more):
    return ForeignExecutor(factory=make, name="theirs", **more)


POOLS = {"processes": processes, "loky": loky_pool}
if hasattr(concurrent.futures, "InterpreterPoolExecutor"):  # Python 3.14
    POOLS["interpreters"] = lambda: concurrent.futures.InterpreterPoolExecutor(1)


@pytest.fixture(scope="module", autouse=True)
def helpers():
    """Start what multiprocessing and loky keep for as long as this process lives."""
    for make in (processes, loky_pool):
        with make() as pool:
            pool.submit(int).result()
    yield
    multiprocessing.forkserver._forkserver._stop()


@pytest.fixture(scope="module", params=POOLS)
def pool(helpers, request):
    """One that keeps its workers from test to test."""
    with foreign(POOLS[request.param]) as executor:
        executor.submit(int).result()
        yield executor


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.open()


# Any pool of other interpreters.


def test_a_pool_runs_what_its_own_pickles_cannot_carry(pool):
    captured = [1, 2]
    assert pool.submit(lambda each: [*captured, each], 3).result() == [1, 2, 3]


def test_an_exception_that_cannot_be_unpickled_costs_its_own_item_only(pool):
    error = pool.submit(fail_oddly).exception()
    assert not isinstance(error, OddError)
    assert "OddError" in str(error)
    assert pool.submit(echo, 1).result() == 1


def test_an_argument_that_cannot_be_pickled_fails_the_item_without_the_pool(pool):
    error = pool.submit(echo, threading.Lock()).exception()
    assert isinstance(error, TaskEncodeError)
    assert pool.counts() == (0, 0)


def test_what_the_work_raises_is_its_own_even_if_it_looks_like_a_broken_pool(pool):
    with pytest.raises(BrokenExecutor, match="of its own") as info:
        pool.submit(work.raise_broken).result()
    assert not isinstance(info.value, WorkerCrashed)


def test_a_map_sends_many_calls_as_one(pool, monkeypatch):
    sent = []
    submit = type(pool._pool).submit

    def count(self, fn, *args):
        sent.append(fn)
        return submit(self, fn, *args)

    monkeypatch.setattr(type(pool._pool), "submit", count)
    assert list(pool.map(abs, range(-3000, 0))) == list(range(3000, 0, -1))
    assert len(sent) < 1000


def test_a_pool_of_other_interpreters_refuses_a_stream_and_says_who_can(pool):
    with pytest.raises(PlacementError, match=r"cannot stream 'numbers'.*ProcessExecutor"):
        pool.submit(work.numbers, 3)


def test_a_deadline_fails_the_item_and_the_pool_goes_on(pool, gate):
    with HybridExecutor(
        executors={"theirs": ForeignExecutor(_Kept(pool._pool), name="kept")}
    ) as ex:
        view = ex.options(executor="theirs", timeout=0.05)
        error = view.submit(work.wait_at, gate.port).exception()
        assert isinstance(error, TaskTimeout)
        gate.open()
    assert pool.submit(echo, 1).result() == 1


class _Kept(concurrent.futures.Executor):
    """Somebody's pool, who shuts it down himself."""

    def __init__(self, pool):
        self.pool = pool

    def submit(self, fn, /, *args, **kwargs):
        return self.pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


# Crashes.


@pytest.mark.parametrize("name", ["processes", "loky"])
def test_a_crash_fails_what_the_pool_held_and_the_next_pool_goes_on(name):
    with foreign(POOLS[name]) as executor:
        error = executor.submit(work.die).exception()
        assert isinstance(error, WorkerCrashed)
        assert isinstance(error.__cause__, BrokenExecutor)
        assert error.item_name == "die"
        assert executor.submit(echo, 1).result() == 1


def test_a_pool_of_the_stdlib_is_made_anew_without_a_factory():
    with HybridExecutor(executors={"theirs": processes()}) as executor:
        view = executor.options(executor="theirs")
        assert isinstance(view.submit(work.die).exception(), WorkerCrashed)
        assert view.submit(echo, 1).result() == 1


def test_an_idempotent_item_that_a_crash_took_runs_again(tmp_path):
    with HybridExecutor(executors={"theirs": processes()}) as executor:
        view = executor.options(executor="theirs", retries=1, idempotent=True)
        assert view.submit(work.die_once, str(tmp_path / "file")).result() == 2


def test_an_item_that_may_have_had_effects_does_not_run_again(tmp_path):
    path = tmp_path / "file"
    with HybridExecutor(executors={"theirs": processes()}) as executor:
        future = executor.options(executor="theirs", retries=1).submit(work.die_once, str(path))
        assert isinstance(future.exception(), WorkerCrashed)
    assert path.stat().st_size == 1


class Breaks(concurrent.futures.Executor):
    """Accepts nothing: it is broken from the start."""

    def submit(self, fn, /, *args, **kwargs):
        raise BrokenExecutor("from the start")

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


def test_a_pool_that_is_broken_for_good_refuses_and_says_how_it_would_go_on():
    executor = ForeignExecutor(Breaks(), name="theirs")
    for _ in range(2):
        with pytest.raises(ExecutorUnavailable):
            executor.submit(echo, 1)
    with pytest.raises(ExecutorUnavailable, match="factory="):
        executor.submit(echo, 1)
    assert not executor.is_available()
    assert executor.counts() == (0, 0)


def test_a_factory_of_broken_pools_is_not_asked_for_ever():
    made = []

    def make():
        made.append(Breaks())
        return made[-1]

    with pytest.raises(ExecutorUnavailable):
        foreign(make).submit(echo, 1)
    assert len(made) == 2


def test_threads_that_do_not_start_have_run_nothing_and_the_item_goes_elsewhere(caplog):
    def initializer():
        raise OSError("no thread")

    with ForeignExecutor(ThreadPoolExecutor(1, initializer=initializer), name="bad") as bad:
        future = bad.submit(echo, 1)
        error = future.exception()
        assert isinstance(error, WorkerStartError)
        assert isinstance(error.__cause__, BrokenThreadPool)


def test_a_pool_that_broke_is_waited_for_by_shutdown():
    executor = foreign(processes)
    executor.submit(work.die).exception()
    broken = executor._retired
    executor.submit(echo, 1).result()
    threads = [each._executor_manager_thread for each in broken]
    executor.shutdown()
    assert [each.is_alive() for each in threads] == [False]


def test_a_fleet_that_is_shut_down_waits_for_the_processes_of_others():
    theirs = processes()
    with HybridExecutor(executors={"theirs": theirs}) as executor:
        executor.options(executor="theirs").submit(echo, 1).result()
        manager = theirs._executor_manager_thread
    assert not manager.is_alive()


# Threads, which share memory.


def test_an_item_on_a_thread_has_started_when_it_runs():
    with ForeignExecutor(ThreadPoolExecutor(1), name="theirs") as executor:
        entered, leave = threading.Event(), threading.Event()

        def stay():
            entered.set()
            leave.wait()

        future = executor.submit(stay)
        waiting = executor.submit(int)
        entered.wait()
        assert future.running()
        assert not waiting.running()
        assert executor.counts() == (1, 1)
        assert waiting.cancel()
        leave.set()


def test_a_generator_streams_from_a_foreign_thread_ahead_of_its_consumer():
    names = []
    ahead = threading.Event()

    @task(buffersize=4)
    def produce():
        for each in range(100):
            names.append(threading.current_thread().name)
            if each == 3:
                ahead.set()
            yield each
        return "end"

    with ForeignExecutor(ThreadPoolExecutor(1, "foreign"), name="theirs") as executor:
        stream = executor.submit(produce).result()
        assert isinstance(stream, Stream)
        assert ahead.wait(60)  # nobody has read yet
        assert list(stream) == list(range(100))
        assert stream.value == "end"
    assert set(names) == {"foreign_0"}


def test_streams_that_nobody_reads_keep_no_foreign_thread():
    @task(buffersize=1)
    def produce():
        yield from range(100)

    with ForeignExecutor(ThreadPoolExecutor(1), name="theirs") as executor:
        streams = [executor.submit(produce).result() for _ in range(5)]
        assert executor.submit(echo, 1).result() == 1
        assert [list(each) for each in streams] == [list(range(100))] * 5


def test_a_shutdown_ends_streams_that_wait_for_their_consumer():
    closed = threading.Event()

    @task(buffersize=1)
    def produce():
        try:
            yield from range(100)
        finally:
            closed.set()

    executor = ForeignExecutor(ThreadPoolExecutor(1), name="theirs")
    stream = executor.submit(produce).result()
    next(stream)
    executor.shutdown()
    assert closed.is_set()
    with pytest.raises(RuntimeError, match="shut down"):
        list(stream)


def test_a_foreign_thread_knows_that_it_is_one():
    with ForeignExecutor(ThreadPoolExecutor(1), name="theirs") as executor:
        assert executor.submit(executor.runs_here).result()
        assert not executor.runs_here()


# What is known of a pool.


@pytest.mark.parametrize(
    ("make", "capabilities"),
    [
        (lambda: ThreadPoolExecutor(2), Capabilities(shares_memory=True, streams=True)),
        (lambda: ProcessPoolExecutor(2), Capabilities(isolates=True, chunks=True)),
        (lambda: loky.ProcessPoolExecutor(2), Capabilities(isolates=True, chunks=True)),
        (Breaks, Capabilities()),
    ],
)
def test_a_pool_is_known_by_its_class(make, capabilities):
    with foreign(make) as executor:
        assert executor.capabilities == capabilities
        assert executor.workers == (1 if make is Breaks else 2)


def test_who_knows_better_says_so():
    remote = Capabilities(remote=True)
    with foreign(lambda: ThreadPoolExecutor(1), capabilities=remote, workers=7) as executor:
        assert executor.capabilities is remote
        assert executor.workers == 7
        assert executor.submit(echo, 1).result() == 1


@pytest.mark.parametrize("factory", ["pool", 3])
def test_a_factory_that_cannot_be_called_is_refused(factory):
    with pytest.raises(ConfigurationError, match=r"factory=.* cannot be called"):
        ForeignExecutor(name="theirs", factory=factory)


@pytest.mark.parametrize("made", [None, object()])
def test_a_factory_that_makes_no_pool_is_refused(made):
    with pytest.raises(ConfigurationError, match=r"no concurrent\.futures\.Executor"):
        ForeignExecutor(name="theirs", factory=lambda: made)


KEPT = (
    *("delivers_a_result_once", "delivers_a_failure_once", "runs_each_item_once"),
    *("passes_keywords_of_any_name", "survives_work_that_exits", "counts_what_it_holds"),
    *("cancels_what_is_queued", "lets_callbacks_submit", "may_be_shut_down_in_a_callback"),
    *("survives_errors_that_cannot_travel", "leaves_no_thread"),
)


@pytest.mark.parametrize(
    "check", [each for each in executor_checks() if each.name in KEPT], ids=str
)
def test_a_pool_of_processes_keeps_the_contract(check):
    check(lambda: foreign(processes), timeout=60)


# MPI.

MPI_PROGRAM = """
from mpi4py.futures import MPIPoolExecutor
from hybrid_compute import HybridExecutor, task
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.policy import Always

@task
def rank(_=None):
    from mpi4py import MPI
    return MPI.COMM_WORLD.rank

if __name__ == "__main__":
    pool = ForeignExecutor(MPIPoolExecutor(), name="mpi")
    with HybridExecutor(executors={"mpi": pool}, policy=Always("mpi")) as executor:
        ranks = {executor.submit(rank).result() for _ in range(20)}
        squares = list(executor.map(task(lambda each: each * each), range(1000)))
        error = executor.submit(task(lambda: 1 / 0)).exception()
        local = executor.options(local_only=True).submit(rank).exception()
    print(pool.workers, 0 in ranks, sum(squares), type(error).__name__, type(local).__name__)
"""


def test_a_program_runs_on_the_ranks_of_mpi(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(MPI_PROGRAM)
    mpiexec = ["mpiexec", "--allow-run-as-root", "--oversubscribe", "-n", "3"]
    done = subprocess.run(
        [*mpiexec, sys.executable, "-W", "error", "-m", "mpi4py.futures", str(script)],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.split() == ["2", "False", "332833500", "ZeroDivisionError", "PlacementError"]
