"""Points 6 and 7: a result is what the function returned; keywords belong to the function."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from .makers import TIMEOUT, Make

pytestmark = pytest.mark.timeout(60)


def test_a_coroutine_function_gives_its_coroutine_not_awaited(make: Make) -> None:
    async def answer() -> int:
        return 42

    coroutine = make(1).submit(answer).result(TIMEOUT)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    assert asyncio.run(coroutine) == 42


def test_a_generator_function_gives_its_generator_not_started(make: Make) -> None:
    def count() -> Iterator[int]:
        yield from range(3)

    generator = make(1).submit(count).result(TIMEOUT)
    assert inspect.getgeneratorstate(generator) == inspect.GEN_CREATED
    assert list(generator) == [0, 1, 2]


def test_an_asynchronous_generator_function_gives_its_generator(make: Make) -> None:
    async def count() -> AsyncIterator[int]:
        yield 1

    async def collect() -> list[int]:
        return [item async for item in make(1).submit(count).result(TIMEOUT)]

    assert asyncio.run(collect()) == [1]


def test_a_function_that_returns_a_future_gives_that_future(make: Make) -> None:
    executor = make(2)
    inner: Future[int] = Future()
    assert executor.submit(lambda: inner).result(TIMEOUT) is inner
    assert not inner.done()
    own = executor.submit(lambda: executor.submit(abs, -1)).result(TIMEOUT)
    assert own.result(TIMEOUT) == 1


@pytest.mark.parametrize(
    "value", [None, NotImplemented, ..., ValueError("returned"), ValueError, StopIteration()]
)
def test_whatever_a_function_returns_is_the_result(make: Make, value: object) -> None:
    executor = make(1)
    future = executor.submit(lambda: value)
    assert future.result(TIMEOUT) is value
    assert future.exception() is None
    assert next(executor.map(lambda _: value, [0])) is value


KEYWORDS = (
    "self fn timeout key priority executor args kwargs func function item name future options "
    "retries idempotent movable local_only tags policy route wait chunksize buffersize ordered "
    "return_exceptions progress cancel_futures max_workers hedge cls task"
).split()


def test_every_keyword_belongs_to_the_function(make: Make) -> None:
    executor = make(1)
    for keyword in KEYWORDS:
        assert executor.submit(dict, **{keyword: 1}).result(TIMEOUT) == {keyword: 1}


def test_all_keywords_at_once_belong_to_the_function(make: Make) -> None:
    keywords = {keyword: keyword for keyword in KEYWORDS}
    future = make(1).submit(lambda *args, **kwargs: (args, kwargs), 1, 2, **keywords)
    assert future.result(TIMEOUT) == ((1, 2), keywords)


def test_the_function_itself_is_positional_only(make: Make) -> None:
    executor: Any = make(1)
    with pytest.raises(TypeError):
        executor.submit(fn=abs)
    with pytest.raises(TypeError):
        executor.submit()


def test_something_that_is_no_function_fails_in_the_future(make: Make) -> None:
    nonsense: Any = None
    error = make(1).submit(nonsense, 1).exception(TIMEOUT)
    assert isinstance(error, TypeError)
    assert str(error) == "'NoneType' object is not callable"


def test_arguments_that_do_not_fit_fail_in_the_future(make: Make) -> None:
    error = make(1).submit(abs, 1, 2).exception(TIMEOUT)
    assert isinstance(error, TypeError)


def test_a_function_may_change_its_keywords(make: Make) -> None:
    def change(**kwargs: int) -> dict[str, int]:
        kwargs["b"] = 2
        return kwargs

    mine = {"a": 1}
    assert make(1).submit(change, **mine).result(TIMEOUT) == {"a": 1, "b": 2}
    assert mine == {"a": 1}


class Methods:
    """Callables of all kinds."""

    def bound(self, x: int) -> int:
        return x + 1

    @classmethod
    def of_class(cls, x: int) -> int:
        return x + 1

    @staticmethod
    def static(x: int) -> int:
        return x + 1

    def __call__(self, x: int) -> int:
        return x + 1


@pytest.mark.parametrize(
    "fn",
    [
        Methods().bound,
        Methods.of_class,
        Methods.static,
        Methods(),
        (1).__add__,
        functools.partial(lambda a, b: a + b, 1),
        functools.lru_cache(lambda x: x + 1),
        lambda x: x + 1,
    ],
    ids="bound class static object builtin partial cached lambda".split(),
)
def test_anything_that_can_be_called_is_called(make: Make, fn: Callable[[int], int]) -> None:
    executor = make(2)
    assert executor.submit(fn, 1).result(TIMEOUT) == 2
    assert list(executor.map(fn, [1, 2])) == [2, 3]


def test_a_class_is_called(make: Make) -> None:
    assert isinstance(make(1).submit(Methods).result(TIMEOUT), Methods)


def test_many_arguments_arrive_in_order(make: Make) -> None:
    args = tuple(range(300))
    assert make(1).submit(lambda *a: a, *args).result(TIMEOUT) == args
