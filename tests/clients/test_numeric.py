"""scipy, dask, joblib and adaptive: each with the very result of a serial run."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import adaptive
import dask
import dask.bag
import joblib
import numpy as np
import pytest
from joblib import _parallel_backends as parallel
from scipy import integrate, optimize

from hybrid_compute import HybridExecutor

pytestmark = pytest.mark.timeout(60)


def test_scipy_finds_the_same_minimum_as_alone(executor: Executor) -> None:
    threads = set()

    def rosenbrock(x: Any) -> Any:
        threads.add(threading.current_thread())
        return optimize.rosen(x)

    keywords: dict[str, Any] = {"maxiter": 15, "popsize": 5, "updating": "deferred"}
    bounds = [(-2.0, 2.0)] * 3
    seed = "rng" if "rng" in optimize.differential_evolution.__code__.co_varnames else "seed"
    ours = optimize.differential_evolution(
        rosenbrock, bounds, workers=executor.map, polish=False, **{seed: 42}, **keywords
    )
    assert threading.current_thread() not in threads
    serial = optimize.differential_evolution(
        optimize.rosen, bounds, polish=False, **{seed: 42}, **keywords
    )
    assert np.array_equal(ours.x, serial.x)
    assert ours.fun == serial.fun
    assert ours.nfev == serial.nfev


def test_scipy_integrates_to_the_same_value_as_alone(executor: Executor) -> None:
    ours = integrate.quad_vec(lambda x: np.array([np.sin(x), x]), 0, 3, workers=executor.map)
    serial = integrate.quad_vec(lambda x: np.array([np.sin(x), x]), 0, 3)
    assert np.array_equal(ours[0], serial[0])


def test_dask_computes_in_it(executor: Executor) -> None:
    names: list[str] = []

    @dask.delayed
    def square(n: int) -> int:
        names.append(threading.current_thread().name)
        return n * n

    total = dask.delayed(sum)([square(n) for n in range(50)])
    (found,) = dask.compute(total, pool=executor, scheduler="threads")
    assert found == sum(n * n for n in range(50))
    assert len(names) == 50
    assert all(name.startswith("client_") for name in names)


def test_dask_raises_the_error_of_a_task(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.compute(dask.delayed(lambda: 1 // 0)(), pool=executor, scheduler="threads")


def test_dask_takes_it_for_a_scheduler(executor: Executor) -> None:
    total = dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(50)])
    assert dask.compute(total, scheduler=executor) == (sum(n * n for n in range(50)),)
    with dask.config.set(scheduler=executor):
        assert dask.bag.from_sequence(range(10), npartitions=5).sum().compute() == 45


def test_dask_computes_in_its_processes(executor: Executor) -> None:
    if not isinstance(executor, HybridExecutor):
        return
    processes = executor.options(executor="process")
    pids = dask.compute(*[dask.delayed(os.getpid)() for _ in range(4)], scheduler=processes)
    assert os.getpid() not in pids


def test_dask_takes_it_from_its_configuration(executor: Executor) -> None:
    with dask.config.set(pool=executor, scheduler="threads"):
        found = (
            dask.bag.from_sequence(range(100), npartitions=10).map(lambda n: n + 1).sum().compute()
        )
    assert found == 5050


def test_adaptive_learns_the_same_function_as_alone(thread_pool: ThreadPoolExecutor) -> None:
    def peak(x: float) -> float:
        return x + 0.01 / (0.0001 + x * x)

    ours = adaptive.Learner1D(peak, bounds=(-1, 1))
    # One at a time: else the order in which results come decides which points are asked for.
    adaptive.BlockingRunner(
        ours,
        goal=lambda learner: learner.npoints >= 60,
        executor=thread_pool,
        ntasks=1,
        shutdown_executor=False,
    )
    serial = adaptive.Learner1D(peak, bounds=(-1, 1))
    adaptive.runner.simple(serial, goal=lambda learner: learner.npoints >= 60)
    assert dict(ours.data) == dict(serial.data)


def test_joblib_runs_on_it(executor: Executor) -> None:

    class Backend(parallel.ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
        """The documented way to plug an executor into joblib."""

        supports_retrieve_callback = True
        supports_sharedmem = uses_threads = True

        def effective_n_jobs(self, n_jobs: int) -> int:
            return 4

        def submit(self, func: Any, callback: Any) -> Any:
            future = executor.submit(func)
            future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result()

    with joblib.parallel_config(backend=Backend()):
        found = joblib.Parallel(n_jobs=4)(joblib.delayed(pow)(n, 2) for n in range(200))
    assert found == [n * n for n in range(200)]
