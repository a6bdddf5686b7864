"""Point 16: for those who insist on `isinstance(executor, ThreadPoolExecutor)`.

Not run on the stdlib's executor, which needs no adapter.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hybrid_compute import HybridExecutor

from .makers import TIMEOUT

pytestmark = pytest.mark.timeout(60)


def test_the_adapter_is_a_thread_pool_executor() -> None:
    with HybridExecutor(3) as executor:
        pool = executor.as_thread_pool()
        assert isinstance(pool, ThreadPoolExecutor)
        assert pool._max_workers == 3
        assert not callable(pool)


def test_the_adapter_s_calls_run_in_the_executor_itself() -> None:
    with HybridExecutor(1, "mine") as executor:
        pool = executor.as_thread_pool()
        name = pool.submit(lambda: threading.current_thread().name).result(TIMEOUT)
        assert name == "mine_0"
        assert list(pool.map(lambda _: threading.current_thread().name, range(2))) == [name] * 2


def test_the_adapter_starts_no_thread_of_its_own() -> None:
    before = set(threading.enumerate())
    with HybridExecutor(1) as executor:
        pool = executor.as_thread_pool()
        pool.submit(abs, -1).result(TIMEOUT)
        assert len(set(threading.enumerate()) - before) == 1


def test_the_adapter_passes_arguments_and_errors_on() -> None:
    with HybridExecutor(1) as executor:
        pool: Any = executor.as_thread_pool()
        assert pool.submit(dict, self=1, fn=2, timeout=3).result(TIMEOUT) == {
            "self": 1,
            "fn": 2,
            "timeout": 3,
        }
        assert isinstance(pool.submit(int, "x").exception(TIMEOUT), ValueError)


def test_the_adapter_refuses_work_when_the_executor_is_shut_down() -> None:
    executor = HybridExecutor(1)
    pool = executor.as_thread_pool()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(abs, -1)


def test_an_event_loop_takes_the_adapter_as_its_default_executor() -> None:
    executor = HybridExecutor(1, "default")

    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(executor.as_thread_pool())
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    with executor:
        assert asyncio.run(main()) == "default_0"
