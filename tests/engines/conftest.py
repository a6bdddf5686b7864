"""One small cluster of each engine for all tests that need one; they take seconds to start."""

from __future__ import annotations

import threading

import pytest

from tests.engines.cluster import Cluster


@pytest.fixture(scope="package")
def cluster():
    with Cluster(2) as made:
        yield made


@pytest.fixture(scope="package")
def client(cluster):
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as made:
        called = threading.Event()
        made.submit(bytes, 1 << 20).add_done_callback(lambda _: called.set())  # starts its threads
        called.wait()
        yield made


@pytest.fixture(scope="package")
def started_ray():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # Ray warns of what it will do in times to come, unless it is told.
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
