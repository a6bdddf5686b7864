"""The executors that clients are given: the stdlib's as the reference, then ours."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from hybrid_compute import HybridExecutor, ThreadExecutor
from hybrid_compute.policy import Always

_MAKERS = {
    "stdlib": lambda: ThreadPoolExecutor(4, "client"),
    "thread": lambda: ThreadExecutor(4, "client"),
    "hybrid": lambda: HybridExecutor(4, "client"),
    "always-inline": lambda: HybridExecutor(4, "client", policy=Always("inline")),
    "always-process": lambda: HybridExecutor(4, "client", policy=Always("process")),
}


@pytest.fixture(params=_MAKERS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Give an executor with four threads whose names start with "client_"."""
    with _MAKERS[request.param]() as made:
        yield made


@pytest.fixture(params=[name for name in _MAKERS if name != "thread"])
def thread_pool(request: pytest.FixtureRequest) -> Iterator[ThreadPoolExecutor]:
    """Give the same in the shape of a ThreadPoolExecutor; ThreadExecutor has no such shape."""
    with _MAKERS[request.param]() as made:
        yield made.as_thread_pool() if isinstance(made, HybridExecutor) else made
