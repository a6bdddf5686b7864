"""The short way of tiny tasks: who submits one runs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.policy import Adaptive

TIMEOUT = 30.0  # seconds; only a test that fails ever waits so long


@task
def where(error: BaseException | None = None) -> str:
    if error is not None:
        raise error
    return threading.current_thread().name


@task(inline=False)
def elsewhere() -> str:
    return threading.current_thread().name


def tiny(executor: HybridExecutor, fn: Any, *args: Any) -> None:
    """Let the executor learn that a task is tiny, whatever this machine is doing meanwhile."""
    executor.submit(fn, *args).exception(TIMEOUT)
    belief = executor._policy.usual(fn)  # type: ignore[attr-defined]  # an Adaptive has it
    for _ in range(10):
        executor._policy.ran(belief, 50, 50e-6, 50e-6)  # type: ignore[attr-defined]


@pytest.fixture
def executor() -> Iterator[HybridExecutor]:
    with HybridExecutor(2, "pool", max_processes=1) as made:
        tiny(made, where)
        yield made


def me() -> str:
    return threading.current_thread().name


def test_a_task_that_has_long_been_tiny_runs_on_the_thread_that_submits_it(
    executor: HybridExecutor,
) -> None:
    for _ in range(3):  # the first is routed, the others take the short way
        future = executor.submit(where)
        assert future.done()
        assert future.result() == me()
    assert executor.submit(where).explain().executor == "inline"


def test_nothing_is_inline_before_there_were_many_tiny_runs() -> None:
    with HybridExecutor(2, "pool", max_processes=1) as executor:
        names = {executor.submit(where).result(TIMEOUT) for _ in range(16)}
        assert me() not in names


def test_a_task_that_says_so_is_never_inline() -> None:
    with HybridExecutor(2, "pool", max_processes=1) as executor:
        tiny(executor, elsewhere)
        assert me() not in {executor.submit(elsewhere).result(TIMEOUT) for _ in range(50)}


@pytest.mark.parametrize(
    "options", [{"inline": False}, {"retries": 1}, {"timeout": 60.0}, {"movable": False}]
)
def test_options_that_forbid_it_count_for_the_call(
    executor: HybridExecutor, options: dict[str, Any]
) -> None:
    assert executor.submit(where).result() == me()
    future = executor.options(**options).submit(where)
    future.result(TIMEOUT)
    assert future.explain().executor != "inline"
    assert executor.submit(where).result() == me()


def test_a_plain_function_of_the_same_code_stays_on_the_threads(executor: HybridExecutor) -> None:
    executor.submit(where)
    assert executor.submit(where.fn).result(TIMEOUT).startswith("pool_")


def test_what_it_raises_is_on_the_future_and_starts_with_its_own_frame(
    executor: HybridExecutor,
) -> None:
    tiny(executor, where, ValueError("hm"))
    error = KeyError("mine")
    future = executor.submit(where, error)
    assert future.exception(0) is error
    trace = error.__traceback__
    assert trace is not None
    assert trace.tb_frame.f_code is where.fn.__code__
    with pytest.raises(KeyError, match="mine"):
        future.result()


def test_system_exit_goes_to_the_future_and_ctrl_c_to_the_program_too(
    executor: HybridExecutor,
) -> None:
    executor.submit(where)
    assert isinstance(executor.submit(where, SystemExit()).exception(0), SystemExit)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(where, KeyboardInterrupt())
    assert executor.submit(where).result() == me()


def test_ctrl_c_on_another_thread_stays_with_the_future(executor: HybridExecutor) -> None:
    executor.submit(where)
    found: list[BaseException | None] = []

    def other() -> None:
        found.append(executor.submit(where, KeyboardInterrupt()).exception(0))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(TIMEOUT)
    assert isinstance(found[0], KeyboardInterrupt)


def test_its_future_is_like_any_other(executor: HybridExecutor) -> None:
    executor.submit(where)
    futures = [executor.submit(where) for _ in range(3)]
    called: list[object] = []
    futures[0].add_done_callback(called.append)
    assert called == [futures[0]]
    assert wait(futures, 0).done == set(futures)
    assert set(as_completed(futures, 0)) == set(futures)
    assert not futures[0].cancel()
    assert not futures[0].cancel_running()
    assert not futures[0].running()
    assert repr(futures[0]).endswith("state=finished returned str>")


def test_it_may_shut_its_executor_down() -> None:
    policy = Adaptive()
    executor = HybridExecutor(2, max_processes=1, policy=policy)

    @task
    def end(really: bool = False) -> str:
        if really:
            executor.shutdown()
        return "ended"

    tiny(executor, end)
    assert executor.submit(end).explain().executor == "inline"
    assert executor.submit(end, True).result(0) == "ended"
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(end)


def test_it_may_submit_itself(executor: HybridExecutor) -> None:
    @task
    def down(depth: int) -> int:
        return 1 + executor.submit(down, depth - 1).result(TIMEOUT) if depth else 0

    assert executor.submit(down, 0).result(TIMEOUT) == 0
    tiny(executor, down, 0)
    assert executor.submit(down, 3).result(TIMEOUT) == 3


def test_one_that_gets_stuck_is_not_run_inline_again() -> None:
    gate = threading.Event()

    @task
    def waits(long: bool = False) -> str:
        if long:
            gate.wait(0.02)
        return me()

    for _ in range(20):
        with HybridExecutor(2, "pool", max_processes=1) as executor:
            tiny(executor, waits)
            if executor.submit(waits, True).result(TIMEOUT) != me():
                continue  # the machine stood still meanwhile, and it got stuck by that
            assert executor.submit(waits).result(TIMEOUT) != me()
            return
    pytest.fail("it never ran inline")


def test_with_observers_each_call_is_seen(executor: HybridExecutor) -> None:
    kinds: list[str] = []
    with HybridExecutor(
        2, max_processes=1, observers=[lambda event: kinds.append(event.kind)]
    ) as watched:
        tiny(watched, where)
        kinds.clear()
        assert watched.submit(where).result(TIMEOUT) == me()
    assert kinds == ["submitted", "routed", "started", "succeeded"]


def test_an_inline_executor_of_the_users_own_is_asked() -> None:
    class Own(InlineExecutor):
        seen = 0

        def execute(self, item: WorkItem) -> None:
            self.seen += 1
            super().execute(item)

    own = Own()
    with HybridExecutor(2, max_processes=1, executors={"inline": own}) as executor:
        tiny(executor, where)
        for _ in range(3):
            assert executor.submit(where).result() == me()
    assert own.seen == 3


def test_a_policy_may_call_something_else_quick() -> None:
    class Policy:
        quick = True

        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
            return ("thread",)

    with HybridExecutor(1, "pool", policy=Policy()) as executor:
        assert executor.submit(where).result(TIMEOUT) == "pool_0"


def test_a_policy_that_moves_all_runs_tiny_plain_functions_inline_too() -> None:
    with HybridExecutor(2, "pool", max_processes=1, policy=Adaptive(move="all")) as executor:
        tiny(executor, me)
        assert executor.submit(me).result() == me()
    with HybridExecutor(2, "pool", max_processes=1, policy=Adaptive()) as executor:
        assert {executor.submit(me).result(TIMEOUT) for _ in range(200)} <= {"pool_0", "pool_1"}


def test_a_cancelled_error_of_the_work_is_its_own(executor: HybridExecutor) -> None:
    executor.submit(where)
    future = executor.submit(where, CancelledError())
    assert not future.cancelled()
    assert isinstance(future.exception(0), CancelledError)


def test_a_warm_start_needs_no_runs(tmp_path: Path) -> None:
    policy = Adaptive()
    with HybridExecutor(2, max_processes=1, policy=policy) as executor:
        tiny(executor, where)
    policy.save(tmp_path / "estimates")
    with HybridExecutor(2, policy=Adaptive(estimates=tmp_path / "estimates")) as executor:
        assert executor.submit(where).result() == me()
