"""The joblib backend: what is written for joblib runs on a fleet, with the same results."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time

import joblib
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import BACKENDS

from hybrid_compute import HybridExecutor
from hybrid_compute.engines.joblib import HybridBackend, register
from hybrid_compute.errors import ConfigurationError, WorkerCrashed
from hybrid_compute.testing import Recorder


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(joblib.parallel, "BACKENDS", dict(BACKENDS))
    monkeypatch.setattr(joblib.parallel, "DEFAULT_BACKEND", "loky")
    register()
    yield
    gc.collect()  # a backend that owns workers ends them when it goes


@pytest.fixture
def fleet():
    with HybridExecutor(2, max_processes=2) as executor:
        yield executor


@pytest.fixture
def ours(fleet):
    with parallel_config(backend="hybrid", executor=fleet):
        yield fleet


def test_calls_come_back_in_their_order(ours):
    assert Parallel(n_jobs=2)(delayed(pow)(n, 2) for n in range(500)) == [n * n for n in range(500)]
    made = Parallel(n_jobs=2)(delayed(lambda n: n + 1)(n) for n in range(5))
    assert made == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("way", ["generator", "generator_unordered"])
def test_results_can_be_had_as_they_come(ours, way):
    with Parallel(n_jobs=2, return_as=way) as parallel:
        assert sorted(parallel(delayed(pow)(n, 2) for n in range(20))) == [n * n for n in range(20)]


def test_work_runs_in_processes_unless_threads_are_preferred_or_needed(ours):
    def run(**hints):
        return set(Parallel(n_jobs=2, **hints)(delayed(os.getpid)() for _ in range(8)))

    assert os.getpid() not in run()
    assert run(prefer="threads") == run(require="sharedmem") == {os.getpid()}


def test_a_place_in_the_fleet_can_be_named(fleet):
    with parallel_config(backend="hybrid", executor=fleet, place="lane"):
        names = Parallel(n_jobs=2)(
            delayed(lambda: threading.current_thread().name)() for _ in range(4)
        )
    assert {name.rpartition("_")[0] for name in names} == {"hybrid-lane"}


def test_a_place_that_shares_no_memory_is_not_taken_where_that_is_needed(fleet):
    with parallel_config(backend="hybrid", executor=fleet, place="process"):
        found = Parallel(n_jobs=2, require="sharedmem")(delayed(os.getpid)() for _ in range(2))
    assert set(found) == {os.getpid()}


def test_an_error_of_a_call_is_raised_as_it_was_and_the_next_run_is_well(ours):
    def fail(n):
        if n == 3:
            raise KeyError("three")
        return n

    with pytest.raises(KeyError, match="three"):
        Parallel(n_jobs=2)(delayed(fail)(n) for n in range(10))
    assert Parallel(n_jobs=2)(delayed(fail)(n) for n in range(3)) == [0, 1, 2]


def test_a_worker_that_dies_is_an_error_and_the_next_run_is_well(ours):
    with pytest.raises(WorkerCrashed):
        Parallel(n_jobs=2)(delayed(os._exit)(3) for _ in range(2))
    assert Parallel(n_jobs=2)(delayed(pow)(2, n) for n in range(3)) == [1, 2, 4]


def test_an_error_ends_what_still_runs_in_processes(ours, tmp_path):
    def work(n):
        if n:
            (tmp_path / "runs").touch()
            threading.Event().wait(60)
        while not (tmp_path / "runs").exists():
            threading.Event().wait(0.01)  # files are what two processes have in common
        raise ValueError("no more")

    begin = time.monotonic()
    with pytest.raises(ValueError, match="no more"):
        Parallel(n_jobs=2)(delayed(work)(n) for n in range(2))
    assert ours.stats().executors["process"].running == 0
    assert time.monotonic() - begin < 50


def test_a_run_that_takes_too_long_is_ended(ours):
    with pytest.raises(multiprocessing.TimeoutError):  # joblib's
        Parallel(n_jobs=2, timeout=0.3)(delayed(time.sleep)(60) for _ in range(2))
    assert Parallel(n_jobs=2)(delayed(pow)(2, n) for n in range(3)) == [1, 2, 4]


def test_nested_runs_come_to_their_end(ours):
    def inner(n):
        return sum(Parallel(n_jobs=2)(delayed(pow)(n, k) for k in range(3)))

    def outer(n):
        return sum(Parallel(n_jobs=2)(delayed(inner)(n + k) for k in range(2)))

    for hint in (None, "threads"):
        found = Parallel(n_jobs=2, prefer=hint)(delayed(outer)(n) for n in range(4))
        assert found == [sum(1 + m + m * m for m in (n, n + 1)) for n in range(4)]


def test_a_nested_run_that_names_the_same_pool_does_not_wait_for_itself(ours):
    def inner(n):
        with parallel_config(backend="hybrid", executor=ours):
            return sum(Parallel(n_jobs=2, prefer="threads")(delayed(pow)(n, k) for k in range(3)))

    found = Parallel(n_jobs=2, prefer="threads")(delayed(inner)(n) for n in range(6))
    assert found == [1 + n + n * n for n in range(6)]


def test_tiny_calls_go_many_at_a_time():
    recorder = Recorder()
    with HybridExecutor(2, max_processes=2, observers=[recorder]) as fleet:
        with parallel_config(backend="hybrid", executor=fleet):
            Parallel(n_jobs=2)(delayed(pow)(n, 2) for n in range(5000))
    assert recorder.kinds().count("submitted") < 500


def test_without_an_executor_it_has_one_of_its_own_as_large_as_was_asked_for():
    with parallel_config(backend="hybrid"):
        backend = joblib.parallel.get_active_backend()[0]
        first = {*Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(8))}
        own = backend._own[1]
        again = {*Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(8))}
        assert backend._own[1] is own  # kept for the next run
        assert own._fleet["process"].workers == own._fleet["thread"].workers == 2
        assert os.getpid() not in first | again
        assert Parallel(n_jobs=3, prefer="threads")(delayed(pow)(2, n) for n in range(3))
        assert backend._own[1]._fleet["thread"].workers == 3
    with pytest.raises(RuntimeError):
        own.submit(pow, 2, 3)


def test_the_threads_of_native_libraries_in_its_workers_can_be_bounded():
    def native():
        return os.environ["OMP_NUM_THREADS"]  # of the worker: its own environment

    with parallel_config(backend="hybrid", inner_max_num_threads=1):
        found = Parallel(n_jobs=2)(delayed(native)() for _ in range(2))
    assert found == ["1", "1"]


def test_numbers_of_jobs_mean_what_they_mean_in_joblib(fleet):
    backend = HybridBackend(executor=fleet, place="lane")
    most = fleet._fleet["lane"].workers
    assert [backend.effective_n_jobs(n) for n in (None, 1, 3, -1, -2)] == [1, 1, 3, most, most - 1]
    assert backend.effective_n_jobs(-1000) == 1
    assert HybridBackend().effective_n_jobs(-1) == len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match="no meaning"):
        backend.effective_n_jobs(0)


def test_one_job_runs_in_its_caller(ours):
    assert (
        Parallel(n_jobs=1)(delayed(threading.get_ident)() for _ in range(2))
        == [threading.get_ident()] * 2
    )


def test_it_can_be_the_default_and_have_an_executor_of_the_program_s(fleet):
    register(executor=fleet, make_default=True)
    assert joblib.parallel.DEFAULT_BACKEND == "hybrid"
    recorder = fleet.stats().executors["process"].running
    assert recorder == 0
    with parallel_config(backend="hybrid"):
        assert joblib.parallel.get_active_backend()[0]._executor is fleet


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"executor": 3}, "executor=3 is no HybridExecutor"),
        ({"place": "gpu"}, "place='gpu': the fleet has"),
        ({"place": "inline"}, "place='inline' runs work in its caller"),
        ({"inner_max_num_threads": 1}, "native_threads="),
    ],
)
def test_a_mistake_is_told_with_its_argument(fleet, given, words):
    with pytest.raises(ConfigurationError, match=words):
        HybridBackend(**{"executor": fleet, **given})


def test_who_has_not_joblib_is_told_its_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "hybrid_compute.engines.joblib")
    monkeypatch.setitem(sys.modules, "joblib", None)
    monkeypatch.setitem(sys.modules, "joblib.parallel", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hybrid-compute\[joblib\]'"):
        import hybrid_compute.engines.joblib  # noqa: F401


def test_scikit_learn_runs_on_it_with_the_results_of_a_serial_run(ours):
    import numpy as np
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    x, y = make_classification(200, random_state=0)

    def forest(jobs):  # prefers threads, and needs shared memory to predict
        made = RandomForestClassifier(10, random_state=0, n_jobs=jobs).fit(x, y)
        return made.predict_proba(x)

    def search(jobs):  # in processes
        grid = {"max_depth": [1, 3]}
        found = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=2, n_jobs=jobs)
        return found.fit(x, y).cv_results_["mean_test_score"]

    assert np.array_equal(forest(2), forest(1))
    assert np.array_equal(search(2), search(1))
