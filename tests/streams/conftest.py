"""Where the contract is tested: the executors of one fleet, by name."""

from __future__ import annotations

import time

import pytest

from hybrid_compute import HybridExecutor

PLACES = ("inline", "thread", "process")
WAIT = 60  # seconds that nothing takes which works


@pytest.fixture(params=PLACES)
def place(request):
    return request.param


@pytest.fixture
def fleet():
    with HybridExecutor(2, max_processes=2) as ex:
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
