"""Errors name what is wrong with sensitive arguments, and never what is in them."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from hybrid_compute import HybridExecutor, Sensitive, task
from hybrid_compute.errors import HybridComputeError, PayloadTooLarge, TaskEncodeError, TaskTimeout
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.policy import Always

from .fakes import SECRET


class Loud:
    """Cannot be pickled, and says why at length."""

    def __reduce__(self) -> Any:
        raise ValueError(f"cannot pickle {SECRET}")

    def __repr__(self) -> str:
        return SECRET


def anything(*args: Any) -> None: ...


def annotated(x: Annotated[Any, Sensitive]) -> None: ...


@pytest.fixture
def hybrid() -> Iterator[HybridExecutor]:
    process = ProcessExecutor(1, max_payload=10_000)
    with HybridExecutor(1, executors={"process": process}, policy=Always("process")) as ex:
        yield ex


def text_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


BAD = [Loud(), {SECRET: threading.Lock()}, [{SECRET: [Loud()]}]]


@pytest.mark.parametrize("value", BAD, ids=["loud", "key", "deep"])
def test_a_value_that_cannot_be_pickled_is_named_by_its_type(
    hybrid: HybridExecutor, value: Any
) -> None:
    wrapped = Sensitive(value)
    for future in (
        hybrid.submit(task(anything), 1, wrapped),
        hybrid.submit(task(annotated), value),
    ):
        with pytest.raises(TaskEncodeError, match=r"argument [12] \(of type .*\)") as caught:
            future.result(60)
        assert SECRET not in text_of(caught.value)
    for calls in (
        lambda: hybrid.map(task(anything), [1, wrapped]),
        lambda: hybrid.map(task(anything), [1, wrapped], chunksize=2),
        lambda: hybrid.map(task(annotated), [value]),
    ):
        with pytest.raises(TaskEncodeError) as caught:
            list(calls())
        assert SECRET not in text_of(caught.value)


def test_others_are_told_all(hybrid: HybridExecutor) -> None:
    with pytest.raises(TaskEncodeError, match=SECRET):
        hybrid.submit(task(anything), BAD[1]).result(60)


def test_neither_a_size_nor_a_timeout_shows_it(hybrid: HybridExecutor) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        hybrid.submit(task(anything), Sensitive(SECRET * 1000)).result(60)
    assert SECRET not in text_of(caught.value)
    end = threading.Event()
    waits = task(executor="thread", timeout=0.01)(lambda *_: end.wait(60))
    with pytest.raises(TaskTimeout) as late:
        hybrid.submit(waits, Sensitive(SECRET)).result(60)
    end.set()
    assert SECRET not in text_of(late.value)


def test_no_part_of_the_library_prints_it(hybrid: HybridExecutor) -> None:
    view = hybrid.options(before_remote=lambda x: (x,))
    future = view.submit(task(annotated), Sensitive(SECRET))
    assert SECRET not in repr([future, view, future._item])
    future.result(60)
    assert not issubclass(Sensitive, HybridComputeError)
