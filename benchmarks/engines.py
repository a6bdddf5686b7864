"""Other people's executors and engines, by themselves and behind ours.

*A foreign pool*: what the wrapper adds to each call of a pool of threads. *Dask* and *Ray*: 2,000
calls that do next to nothing, on two workers of this machine, submitted one by one and collected;
"map" is the same by `map`, with the library's defaults. *Mixed* is the workload of `routing`, with
a Dask cluster of two workers in the fleet of the default policy, which has to find out what it is
good for.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

from benchmarks._harness import Adapter, Case
from benchmarks._work import successor
from benchmarks.routing import TINY, _mixed, _run

__all__ = ["CASES"]


def _nothing() -> None:
    pass


def _threads(wrapped: bool) -> Callable[[int], Mapping[str, float]]:
    def measure(size: int) -> Mapping[str, float]:
        from hybrid_compute.executors.foreign import ForeignExecutor

        pool: Executor = ThreadPoolExecutor(2)
        if wrapped:
            pool = ForeignExecutor(pool, name="theirs")
        with pool as executor:
            executor.submit(_nothing).result()
            begin, cpu = perf_counter(), process_time()
            futures = [executor.submit(_nothing) for _ in range(size)]
            for future in futures:
                future.result()
            cpu = process_time() - cpu
            return {"": (perf_counter() - begin) / size * 1e6, "CPU": cpu / size * 1e6}

    return measure


def _timed(one_by_one: Callable[[], Any], mapped: Callable[[], Any]) -> Mapping[str, float]:
    """Return the milliseconds of both ways, the workers being warm."""
    one_by_one()
    mapped()
    found = {}
    for name, way in (("", one_by_one), ("map", mapped)):
        begin = perf_counter()
        way()
        found[name] = (perf_counter() - begin) * 1e3
    return found


def _of_executor(executor: Executor, size: int) -> Mapping[str, float]:
    def one_by_one() -> None:
        futures = [executor.submit(successor, number) for number in range(size)]
        for future in futures:
            future.result()

    return _timed(one_by_one, lambda: list(executor.map(successor, range(size))))


@contextmanager
def _cluster() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with LocalCluster(  # noqa: SIM117 - the client ends first
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        with Client(cluster) as client:
            yield client


def _distributed(size: int) -> Mapping[str, float]:
    with _cluster() as client:

        def one_by_one() -> None:
            client.gather([client.submit(successor, n, pure=False) for n in range(size)])

        return _timed(
            one_by_one, lambda: client.gather(client.map(successor, range(size), pure=False))
        )


def _dask(size: int) -> Mapping[str, float]:
    from hybrid_compute.engines.dask import DaskExecutor

    with _cluster() as client, DaskExecutor(client) as executor:
        return _of_executor(executor, size)


_RAY = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def _bare_ray(size: int) -> Mapping[str, float]:
    import ray

    ray.init(**_RAY)
    remote = ray.remote(successor)

    def all_at_once() -> None:
        ray.get([remote.remote(number) for number in range(size)])

    try:
        return _timed(all_at_once, all_at_once)  # it has no map
    finally:
        ray.shutdown()


def _our_ray(size: int) -> Mapping[str, float]:
    from hybrid_compute.engines.ray import RayExecutor

    with RayExecutor(init=_RAY) as executor:
        return _of_executor(executor, size)


def _fleet(with_dask: bool) -> Callable[[int], Mapping[str, float]]:
    def measure(size: int) -> Mapping[str, float]:
        from hybrid_compute import HybridExecutor, task

        declared: dict[Any, Any] = {}
        work = [(kind, declared.setdefault(fn, task(fn)), args) for kind, fn, args in _mixed(size)]
        if not with_dask:
            with HybridExecutor(8, max_processes=2) as executor:
                return _run(work, executor.submit, places=True)
        from hybrid_compute.engines.dask import DaskExecutor

        os.environ.setdefault("PYTHONPATH", os.getcwd())  # noqa: PTH109 - for the workers
        with (
            _cluster() as client,
            HybridExecutor(
                8, max_processes=2, executors={"dask": DaskExecutor(client)}
            ) as executor,
        ):
            return _run(work, executor.submit, places=True)

    return measure


CASES = (
    Case(
        name="engines: foreign pool, submit 20k no-ops and collect",
        unit="us a call",
        adapters=(
            Adapter("ThreadPoolExecutor", _threads(False)),
            Adapter("ForeignExecutor", _threads(True), "hybrid_compute"),
        ),
        size=20_000,
        quick_size=10_000,
        rounds=9,
        quick_rounds=5,
    ),
    Case(
        name="engines: Dask, a batch of 2,000",
        unit="ms",
        adapters=(
            Adapter("distributed", _distributed, "distributed"),
            Adapter("DaskExecutor", _dask, "distributed"),
        ),
        size=2_000,
        quick_size=1_000,
        rounds=5,
        quick_rounds=3,
    ),
    Case(
        name="engines: Ray, a batch of 2,000",
        unit="ms",
        adapters=(
            Adapter("ray", _bare_ray, "ray"),
            Adapter("RayExecutor", _our_ray, "ray"),
        ),
        size=2_000,
        quick_size=1_000,
        rounds=5,
        quick_rounds=3,
        limit=120.0,
        note="Ray itself has no ``map``: both figures are of the same.",
    ),
    Case(
        name="engines: mixed, with a Dask cluster in the fleet",
        unit="ms",
        adapters=(
            Adapter("HybridExecutor", _fleet(False), "hybrid_compute"),
            Adapter("HybridExecutor with Dask", _fleet(True), "distributed"),
        ),
        size=TINY,
        quick_size=TINY // 4,
        rounds=3,
        quick_rounds=1,
        note="The workers of Dask are on the same two cores: there is nothing to win.",
    ),
)
