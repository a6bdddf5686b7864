"""The plugin for pytest, which loads it by the entry point `pytest11`: a few fixtures.

Owns their lives. It is loaded by every run of pytest where this library is installed, so it imports
pytest alone; the rest is imported by the fixture that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hybrid_compute import HybridExecutor
    from hybrid_compute.testing import FaultProxy, ManualExecutor, Recorder

__all__ = ["fault_proxy", "hybrid_executor", "manual_executor", "recorder"]


@pytest.fixture
def recorder() -> Recorder:
    """Give a `Recorder`, which `hybrid_executor` tells of all its events if that is used too."""
    from hybrid_compute.testing.recorder import Recorder  # noqa: PLC0415

    return Recorder()


@pytest.fixture
def manual_executor() -> Iterator[ManualExecutor]:
    """Give a `ManualExecutor`, a member "manual" of `hybrid_executor` if that is used too.

    What is pending when the test ends is cancelled.
    """
    from hybrid_compute.testing.manual import ManualExecutor  # noqa: PLC0415

    executor = ManualExecutor()
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def hybrid_executor(request: pytest.FixtureRequest) -> Iterator[HybridExecutor]:
    """Give a `HybridExecutor` with two threads and at most two processes; shut it down afterwards.

    What has not started when the test ends is cancelled. See `recorder` and `manual_executor`.
    """
    from hybrid_compute import HybridExecutor  # noqa: PLC0415

    used = request.fixturenames
    observers = [request.getfixturevalue("recorder")] if "recorder" in used else []
    members = (
        {"manual": request.getfixturevalue("manual_executor")} if "manual_executor" in used else {}
    )
    executor = HybridExecutor(2, max_processes=2, executors=members, observers=observers)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def fault_proxy() -> Iterator[Callable[..., FaultProxy]]:
    """Give a function that puts a `FaultProxy` before a port: `fault_proxy(port)`.

    It takes the host as `host=`, by default this machine; all proxies are closed afterwards.
    """
    from hybrid_compute.testing.proxy import FaultProxy  # noqa: PLC0415

    with ExitStack() as stack:
        yield lambda port, host="127.0.0.1": stack.enter_context(FaultProxy(host, port))
