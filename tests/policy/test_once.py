"""No item ever runs twice without `idempotent`, under any policy, whatever fails: effects counted.

Each item leaves a line in a file when it begins. What comes of it is chosen at random: results,
errors of its own that look like refusals, crashes, arguments and results that cannot be pickled,
cancelling, and executors that refuse.
"""

from __future__ import annotations

import collections
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, HybridFuture, ThreadExecutor, task
from hybrid_compute.abc import Fleet, Policy, WorkItem
from hybrid_compute.errors import (
    ExecutorUnavailable,
    TaskDecodeError,
    TaskEncodeError,
    WorkerCrashed,
    WorkerStartError,
)
from hybrid_compute.policy import Adaptive, Always, Prefer, Rules, tagged, when

TIMEOUT = 60.0  # seconds; only a test that fails ever waits so long
LIKE_REFUSALS = (
    *(ExecutorUnavailable, TaskEncodeError, TaskDecodeError, WorkerStartError),
    *(ConnectionError, TimeoutError, TypeError, SystemExit, ValueError),
)


def _begin(path: str, number: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{number}\n".encode())
    finally:
        os.close(file)


@task
def returns(path: str, number: int, *_: object) -> int:
    _begin(path, number)
    return number


@task
def fails(path: str, number: int, *_: object) -> None:
    _begin(path, number)
    raise LIKE_REFUSALS[number % len(LIKE_REFUSALS)]("of its own")


@task
def sleeps(path: str, number: int, *_: object) -> None:
    _begin(path, number)
    time.sleep(0.002)


@task
def computes(path: str, number: int, *_: object) -> None:
    _begin(path, number)
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass


@task
def crashes(path: str, number: int, *_: object) -> None:
    _begin(path, number)
    if os.path.basename(path) != str(os.getpid()):  # named after the process of the test
        os._exit(1)


@task
def returns_what_cannot_travel(path: str, number: int, *_: object) -> Any:
    _begin(path, number)
    return threading.Lock()


@task
def changes(path: str, number: int, *_: object) -> None:
    """At first it is tiny, then it waits."""
    _begin(path, number)
    if number > 150:
        time.sleep(0.003)


TASKS = (returns, fails, sleeps, computes, returns_what_cannot_travel, changes)


class Refusing(ThreadExecutor):
    """Accepts one item in three."""

    def __init__(self) -> None:
        super().__init__(2, name="picky")
        self._count = 0

    def execute(self, item: WorkItem) -> None:
        self._count += 1
        if self._count % 3:
            raise ExecutorUnavailable("not now")
        super().execute(item)


class Undecided:
    """Says "not yet" now and then, and otherwise anything."""

    def __init__(self) -> None:
        self._chance = random.Random(3)

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        if self._chance.random() < 0.5:
            return None
        return tuple(self._chance.sample(sorted(fleet), k=len(fleet)))


POLICIES: dict[str, Callable[[], Policy]] = {
    "always thread": lambda: Always("thread"),
    "always process": lambda: Always("process"),
    "always lane": lambda: Always("lane"),
    "always inline": lambda: Always("inline"),
    "prefer": lambda: Prefer("picky", "process", "thread", "inline"),
    "prefer the other way": lambda: Prefer("inline", "thread", "process"),
    "rules": lambda: Rules(when(tagged("x"), "picky", "thread"), default=("process", "thread")),
    "adaptive": Adaptive,
    "adaptive, all": lambda: Adaptive(move="all"),
    "undecided": Undecided,
}


def submit(
    executor: HybridExecutor, chance: random.Random, path: str, number: int
) -> HybridFuture[Any]:
    fn: Any = chance.choice(TASKS)
    if chance.random() < 0.1:
        fn = fn.fn
    elif chance.random() < 0.02:  # each costs a worker
        fn = crashes
    arguments = (threading.Lock(),) if chance.random() < 0.2 else ()
    view: Any = executor.options(tags="x") if chance.random() < 0.2 else executor
    if chance.random() < 0.1:
        view = executor.options(timeout=TIMEOUT)
    return view.submit(fn, path, number, *arguments)  # type: ignore[no-any-return]


def counted(path: Path) -> collections.Counter[int]:
    return collections.Counter(map(int, path.read_text().split()))


@pytest.mark.parametrize("name", POLICIES)
def test_no_item_runs_twice_under_any_policy(name: str, tmp_path: Path) -> None:
    path = tmp_path / str(os.getpid())
    path.touch()
    chance = random.Random(name)
    futures: dict[int, HybridFuture[Any]] = {}
    with HybridExecutor(
        3, max_processes=2, executors={"picky": Refusing()}, policy=POLICIES[name]()
    ) as executor:
        for number in range(250):
            futures[number] = submit(executor, chance, str(path), number)
            if chance.random() < 0.1:
                futures[chance.randrange(number + 1)].cancel()
            if number % 50 == 49:
                wait(futures.values(), TIMEOUT)
    assert wait(futures.values(), 0).not_done == set()
    effects = counted(path)
    assert [number for number, count in effects.items() if count > 1] == []
    for number, future in futures.items():
        if future.cancelled():
            assert effects[number] == 0
        elif future.exception() is None:
            assert effects[number] == 1
    ran = sum(effects.values())
    assert ran >= 100  # it is no proof if nearly all were refused


@pytest.mark.parametrize("name", ["adaptive", "undecided", "prefer"])
def test_no_item_runs_twice_when_the_executor_is_shut_down_in_the_middle(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / str(os.getpid())
    path.touch()
    chance = random.Random(name)
    for turn in range(4):
        executor = HybridExecutor(
            3, max_processes=1, executors={"picky": Refusing()}, policy=POLICIES[name]()
        )
        futures = [submit(executor, chance, str(path), 1000 * turn + n) for n in range(40)]
        executor.shutdown(cancel_futures=bool(turn % 2))
        assert wait(futures, 0).not_done == set()
    assert set(counted(path).values()) == {1}


@pytest.mark.parametrize("name", ["adaptive", "always process", "prefer the other way"])
def test_no_call_of_a_map_runs_twice(name: str, tmp_path: Path) -> None:
    path = tmp_path / str(os.getpid())
    path.touch()
    with HybridExecutor(
        2, max_processes=2, executors={"picky": Refusing()}, policy=POLICIES[name]()
    ) as executor:
        for start, fn in ((0, returns), (1000, fails), (2000, sleeps), (3000, changes)):
            locks = [threading.Lock() if n % 50 == 7 else None for n in range(100)]
            numbers = range(start, start + 100)
            list(executor.map(fn, [str(path)] * 100, numbers, locks, return_exceptions=True))
    assert set(counted(path).values()) == {1}


def test_an_idempotent_item_with_retries_may_run_again(tmp_path: Path) -> None:
    path = tmp_path / str(os.getpid())
    path.touch()
    with HybridExecutor(1, max_processes=1, policy=Always("process")) as executor:
        view = executor.options(idempotent=True, retries=1)
        future = view.submit(crashes, str(path), 1)
        assert isinstance(future.exception(TIMEOUT), WorkerCrashed)
    assert counted(path) == {1: 2}
