"""asyncio: `run_in_executor`, `wrap_future`, `to_thread`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.timeout(60)


def test_run_in_executor_gives_the_result(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(executor, pow, n, 2) for n in range(200))
        )

    assert asyncio.run(main()) == [n * n for n in range(200)]


def test_run_in_executor_raises_the_error(executor: Executor) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_run_in_executor_leaves_the_loop_free(executor: Executor) -> None:
    async def main() -> str:
        event = threading.Event()
        waiting = asyncio.get_running_loop().run_in_executor(executor, event.wait, 20)
        await asyncio.sleep(0)
        event.set()
        assert await waiting
        return "free"

    assert asyncio.run(main()) == "free"


def test_wrap_future_gives_the_result_and_the_error(executor: Executor) -> None:
    async def main() -> tuple[int, BaseException | None]:
        good = asyncio.wrap_future(executor.submit(abs, -1))
        bad = asyncio.wrap_future(executor.submit(int, "x"))
        await asyncio.wait([good, bad])
        return good.result(), bad.exception()

    value, error = asyncio.run(main())
    assert value == 1
    assert isinstance(error, ValueError)


def test_cancelling_a_wrapped_future_cancels_the_call_that_is_queued(executor: Executor) -> None:
    async def main() -> list[int]:
        release, calls = threading.Event(), []
        busy = [executor.submit(release.wait, 20) for _ in range(4)]
        queued = executor.submit(calls.append, 1)
        try:
            wrapped = asyncio.wrap_future(queued)
            wrapped.cancel()
            await asyncio.sleep(0)  # the loop passes it on in its next round
            assert wrapped.cancelled()
            assert queued.cancelled()
        finally:
            release.set()
        await asyncio.gather(*map(asyncio.wrap_future, busy))
        return calls

    assert asyncio.run(main()) == []


def test_wait_for_gives_up_in_time(executor: Executor) -> None:
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(executor, release.wait, 20), 0.01)
        release.set()

    asyncio.run(main())


def test_the_default_executor_of_a_loop_may_be_replaced(thread_pool: ThreadPoolExecutor) -> None:
    async def main() -> list[str]:
        asyncio.get_running_loop().set_default_executor(thread_pool)
        names = [asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(50)]
        return await asyncio.gather(*names)

    names = asyncio.run(main())
    assert len(names) == 50
    assert set(names) <= {f"client_{n}" for n in range(4)}
