"""What type checkers infer. Never run: `test_types` has mypy and pyright read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from typing import Any, NoReturn, assert_type

from hybrid_compute import (
    HybridExecutor,
    HybridFuture,
    InlineExecutor,
    ProcessExecutor,
    RemoteExecutor,
    Stream,
    Task,
    TaskRegistry,
    ThreadExecutor,
    remote_task,
    task,
)
from hybrid_compute.views import ExecutorView


def plain(text: str, times: int = 1, *, upper: bool = False) -> int:
    return len(text) * times + upper


@task
def declared(text: str, times: int = 1) -> int:
    return len(text) * times


@task(idempotent=True, retries=2, tags=["a"], name="other")
def with_options(number: float) -> str:
    return str(number)


@task
def words(text: str) -> Iterator[str]:
    yield from text.split()


@task(buffersize=8)
def squares(most: int) -> Generator[int, None, str]:
    yield from range(most)
    return "done"


@task
async def ticks(most: int) -> AsyncIterator[float]:
    for each in range(most):
        yield float(each)


@task
def fails() -> NoReturn:
    raise ValueError


async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    @task
    def score(self, row: str, weight: float = 1.0) -> float:
        return len(row) * weight

    @task(retries=1)
    def rows(self, path: str) -> Iterator[bytes]:
        yield path.encode()


registry = TaskRegistry()


@registry.task
def listed(number: int) -> bool:
    return number > 0


@registry.task(timeout=1.5)
def listed_too(number: int) -> list[int]:
    return [number]


class Counter:
    def __call__(self, step: int) -> int:
        return step


def what_a_declaration_is(model: Model) -> None:
    assert_type(declared("a", times=2), int)  # it stays a function
    assert_type(declared.name, str)
    assert_type(with_options(1.5), str)
    assert_type(words("a b"), Iterator[str])
    assert_type(squares(2), Generator[int, None, str])
    assert_type(model.score("row", weight=0.5), float)
    assert_type(listed(1), bool)
    assert_type(listed_too(1), list[int])
    assert_type(registry.add(with_options)(1.0), str)
    assert_type(registry["listed"], Task[..., Any])
    function: Callable[[float], str] = with_options
    function(2.0)
    any_task: Task[..., Any] = declared
    general: Task[..., object] = with_options
    any_task("a")
    general(1)


def what_submit_gives(ex: HybridExecutor, model: Model) -> None:
    assert_type(ex.submit(plain, "a", 2, upper=True), HybridFuture[int])
    assert_type(ex.submit(declared, "a", times=2), HybridFuture[int])
    assert_type(ex.submit(with_options, 1.5).result(timeout=2), str)
    assert_type(ex.submit(model.score, "row", weight=0.5), HybridFuture[float])
    assert_type(ex.submit(Counter(), 2), HybridFuture[int])
    assert_type(ex.submit(lambda: "b"), HybridFuture[str])
    assert_type(ex.submit(dict[str, int]), HybridFuture[dict[str, int]])
    assert_type(ex.submit(pow, 2, 3, mod=None), HybridFuture[int])
    assert_type(ex.submit(remote_task("far", retries=3), 1, x="y"), HybridFuture[Any])
    assert_type(ex.submit(fails), HybridFuture[Any])


def what_a_generator_gives(ex: HybridExecutor, model: Model) -> None:
    assert_type(ex.submit(words, "a b"), HybridFuture[Stream[str]])
    assert_type(ex.submit(squares, 3), HybridFuture[Stream[int]])
    assert_type(ex.submit(ticks, 3), HybridFuture[Stream[float]])
    assert_type(ex.submit(model.rows, "path"), HybridFuture[Stream[bytes]])
    for word in ex.submit(words, "a b"):
        assert_type(word, str)
    with ex.submit(squares, 3).result() as stream:
        assert_type(stream, Stream[int])
        assert_type(next(stream), int)
        assert_type(stream.get(timeout=1), int)
    # A plain one is the stdlib's: its generator, which a loop over the future reads too.
    assert_type(ex.submit(squares.fn, 3), HybridFuture[Generator[int, None, str]])
    for number in ex.submit(squares.fn, 3):
        assert_type(number, int)


def what_stream_gives(ex: HybridExecutor) -> None:
    assert_type(ex.stream(words, "a b"), Stream[str])
    assert_type(ex.stream(squares, most=3), Stream[int])
    assert_type(ex.stream(ticks, 3), Stream[float])
    assert_type(ex.stream(squares.fn, 3), Stream[int])
    assert_type(ex.stream(str.split, "a b"), Stream[str])  # any iterable will do
    assert_type(ex.stream(remote_task("far"), 3), Stream[Any])


async def what_is_awaited(ex: HybridExecutor) -> None:
    assert_type(await asyncio.wrap_future(ex.submit(declared, "a")), int)
    assert_type(await ex.submit(fetch, "url").result(), bytes)  # the result is the coroutine
    async for each in ex.stream(ticks, 3):
        assert_type(each, float)


def what_map_gives(ex: HybridExecutor, model: Model) -> None:
    assert_type(ex.map(plain, ["a"]), Iterator[int])
    assert_type(ex.map(declared, ["a", "b"], [1, 2], chunksize=2), Iterator[int])
    assert_type(ex.map(with_options, [1.5], ordered=False, buffersize=3), Iterator[str])
    assert_type(ex.map(with_options, [1, 2]), Iterator[str])
    assert_type(ex.map(model.score, ["row"], [0.5], timeout=3), Iterator[float])
    assert_type(ex.map(max, [1], [2], [3]), Iterator[int])
    assert_type(ex.map(lambda a, b, c, d: (a, d), "a", [1], [2], b""), Iterator[tuple[str, int]])
    assert_type(ex.map(words, ["a b"]), Iterator[Stream[str]])
    assert_type(ex.map(remote_task("far"), [1], ["b"]), Iterator[Any])
    assert_type(ex.map(declared, ["a"], return_exceptions=True), Iterator[int | BaseException])
    columns = [["a"], ["b"]]
    for number in ex.map(lambda *row: len(row), *columns):
        assert_type(number, int)


def what_views_give(ex: HybridExecutor) -> None:
    view = ex.options(executor="process", retries=2)
    assert_type(view, ExecutorView)
    assert_type(view.options(timeout=2.0, tags="a"), ExecutorView)
    assert_type(view.submit(declared, "a"), HybridFuture[int])
    assert_type(view.submit(words, "a b"), HybridFuture[Stream[str]])
    assert_type(view.stream(squares, 2), Stream[int])
    assert_type(view.map(declared, ["a"], [1]), Iterator[int])
    assert_type(view.map(words, ["a b"]), Iterator[Stream[str]])


def what_single_executors_give(
    inline: InlineExecutor, thread: ThreadExecutor, process: ProcessExecutor, far: RemoteExecutor
) -> None:
    assert_type(inline.submit(declared, "a"), HybridFuture[int])
    assert_type(thread.submit(words, "a"), HybridFuture[Stream[str]])
    assert_type(process.map(with_options, [1.5]), Iterator[str])
    assert_type(far.stream(squares, 2), Stream[int])


def what_others_see(executor: Executor, ex: HybridExecutor) -> None:
    what_others_see(ex, ex)
    assert_type(executor.submit(plain, "a"), Future[int])
    assert_type(ex.as_thread_pool(), ThreadPoolExecutor)
    for future in as_completed([ex.submit(declared, "a")]):
        assert_type(future.result(), int)
    done, _ = wait([ex.submit(declared, "a")])
    assert_type(done, set[Future[int]])
    ex.submit(declared, "a").add_done_callback(print)
    with HybridExecutor(4, policy="least-loaded") as same:
        assert_type(same, HybridExecutor)
