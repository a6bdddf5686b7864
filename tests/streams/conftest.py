"""Where the contract is tested: the executors of one fleet, by name."""

from __future__ import annotations

import time

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor
from tests.server.conftest import SECRET, Served

LOCAL = ("inline", "thread", "process")
REMOTE = ("http", "ws")
WAIT = 60  # seconds that nothing takes which works


@pytest.fixture(scope="module")
def server():
    served = Served("tests.streams.work:TASKS")
    yield served
    served.end()


@pytest.fixture(params=LOCAL + REMOTE)
def place(request):
    return request.param


@pytest.fixture
def make(server):
    """Return a function that makes a fleet with all places."""

    def make(*workers, **options):
        remote = [
            RemoteExecutor(f"{scheme}://127.0.0.1:{server.port}/{path}", name=scheme, token=SECRET)
            for scheme, path in (("http", "compute"), ("ws", "ws"))
        ]
        return HybridExecutor(*workers, remote=remote, **options)

    return make


@pytest.fixture
def fleet(make):
    with make(2, max_processes=2) as ex:
        yield ex


@pytest.fixture
def ex(fleet, place):
    """A view of the fleet that runs everything in one place."""
    return fleet.options(executor=place)


def eventually(condition):
    """Wait until a condition holds, or fail."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
