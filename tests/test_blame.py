"""The error for a call that cannot be pickled names the guilty part."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from hybrid_compute import _pickling
from hybrid_compute._functions import CallEncoder
from hybrid_compute.errors import TaskEncodeError
from hybrid_compute.tasks import Task

LOCK = threading.Lock()


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value

    def method(self) -> None: ...


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


def uses_a_lock() -> Callable[[], object]:
    lock = LOCK
    return lambda: lock


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


GUILTY: dict[str, tuple[tuple[Any, ...], dict[str, Any] | None, str]] = {
    "an argument": ((len, 1, LOCK), None, "argument 2 (of type _thread.lock)"),
    "in a dict in a list": ((len, 1, [{"lock": LOCK}]), None, "args[1][0]['lock'] (of type"),
    "a keyword": ((len,), {"key": LOCK}, "keyword 'key' (of type"),
    "in a keyword": ((len,), {"key": (1, LOCK)}, "kwargs['key'][1] (of type"),
    "an attribute": ((len, Holder([LOCK])), None, "args[0].value[0] (of type"),
    "the function": ((LOCK.acquire,), None, "the function itself (of type builtin"),
    "a closure": ((uses_a_lock(),), None, "the function itself, in its variable 'lock' (of type"),
    "a task": ((Task(uses_a_lock()),), None, "the function itself, in its variable 'lock' (of"),
    "a method": ((Holder(LOCK).method,), None, "the function itself, in its.__self__.value (of"),
    "a partial": ((functools.partial(len, LOCK),), None, "in its.args[0] (of type _thread.lock)"),
    "in a set": ((len, {Raises(ValueError())}), None, "args[0] element <"),
}


@pytest.mark.parametrize(("call", "kwargs", "where"), GUILTY.values(), ids=GUILTY)
def test_the_error_names(call: tuple[Any, ...], kwargs: dict[str, Any] | None, where: str) -> None:
    for encode in (_pickling.encode_call, CallEncoder().encode_call):
        with pytest.raises(TaskEncodeError) as caught:
            encode(call[0], call[1:], kwargs, name="my_task")
        text = str(caught.value)
        assert where in text
        assert "task 'my_task'" in text
        assert f"{type(caught.value.__cause__).__name__}: {caught.value.__cause__}" in text
        assert "Pass plain data" in text


@pytest.mark.parametrize("error", [ValueError("v"), SystemExit(3), GeneratorExit(), TypeError("t")])
def test_what_a_reduce_raises_is_the_cause(error: BaseException) -> None:
    for encode in (_pickling.encode_call, CallEncoder().encode_call):
        with pytest.raises(TaskEncodeError, match="argument 1") as caught:
            encode(len, (Raises(error),), None, name="it")
        assert caught.value.__cause__ is error


def test_too_deep_an_argument_has_a_recursion_error_as_its_cause() -> None:
    argument = deep()
    with pytest.raises(TaskEncodeError, match="argument 1") as caught:
        _pickling.encode_call(len, (argument,), None, name="it")
    assert isinstance(caught.value.__cause__, RecursionError)


def test_a_list_that_contains_itself_is_searched_once() -> None:
    circle: list[Any] = [LOCK]
    circle.insert(0, circle)
    with pytest.raises(TaskEncodeError, match=r"args\[0\]\[1\] \(of type _thread.lock"):
        _pickling.encode_call(len, (circle,), None, name="it")


def test_a_batch_raises_what_pickling_raises() -> None:
    with pytest.raises(SystemExit):
        CallEncoder().encode_calls([(len, (Raises(SystemExit(3)),), None)])
    with pytest.raises(TypeError, match="lock"):
        _pickling.encode_calls([(len, (LOCK,), None)])
