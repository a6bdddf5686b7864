"""What a task's annotations say of its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional

import pytest

from hybrid_compute import HybridExecutor, Sensitive, Task, task
from hybrid_compute._secrets import secrets_of
from hybrid_compute.errors import PlacementError
from hybrid_compute.policy import Prefer

from .fakes import Fake

if TYPE_CHECKING:
    from nowhere import Unknown

Private = Annotated[str, Sensitive]
PrivateId = NewType("PrivateId", Sensitive[int])


@task
def score(customer: Private, amount: int) -> str:
    return f"{customer} {amount}"


def went_out(work: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    away = Fake("away")
    with HybridExecutor(executors={"away": away}, policy=Prefer("away", "inline")) as executor:
        executor.submit(work, *args, **kwargs).result()
    return bool(away.seen)


def test_a_task_with_a_sensitive_parameter_stays_here() -> None:
    assert not went_out(score, "alice", 3)
    assert went_out(task(lambda customer, amount: 0), "alice", 3)


def by_annotated(x: Annotated[str, Sensitive]) -> None: ...
def by_class(x: Sensitive[str]) -> None: ...
def by_bare_class(x: Sensitive) -> None: ...
def in_a_list(x: list[Sensitive[str]]) -> None: ...
def as_text_in_a_list(x: list["Sensitive[str]"]) -> None: ...  # noqa: UP037 - is what is tested
def in_a_union(x: int | Annotated[str, Sensitive]) -> None: ...
def in_an_optional(x: Optional[Private]) -> None: ...  # noqa: UP045 - is what is tested
def in_a_callable(x: Callable[[Private], int]) -> None: ...
def by_new_type(x: PrivateId) -> None: ...
def of_the_rest(*x: Private) -> None: ...
def within_another(x: Annotated[list[Sensitive[str]], "a word"]) -> None: ...
def with_other_metadata(x: Annotated[str, "a word", Sensitive]) -> None: ...


@pytest.mark.parametrize(
    "fn",
    [
        by_annotated,
        by_class,
        by_bare_class,
        in_a_list,
        as_text_in_a_list,
        in_a_union,
        in_an_optional,
        in_a_callable,
        by_new_type,
        of_the_rest,
        with_other_metadata,
        within_another,
    ],
)
def test_each_way_to_say_so_is_understood(fn: Callable[..., None]) -> None:
    secrets = secrets_of(task(fn))
    assert secrets is not None
    assert secrets.has_position(0)
    assert secrets.why == "its parameter 'x' is annotated as Sensitive"
    assert not went_out(task(fn), "alice")


def harmless(a: int, b: Literal["Sensitive"], c: Annotated[int, "Sensitive"]) -> Private: ...


@pytest.mark.parametrize("fn", [harmless, len, print, functools.partial(harmless, 1), int])
def test_others_say_nothing(fn: Callable[..., Any]) -> None:
    assert secrets_of(task(fn)) is None


def test_it_is_known_which_arguments_are_meant() -> None:
    def fn(a, b: Private, /, c: Private, d, *rest: Private, e: Private, f, **others: Private): ...

    secrets = secrets_of(task(fn))
    assert [secrets.has_position(i) for i in range(6)] == [False, True, True, False, True, True]
    assert [secrets.has_name(n) for n in "bcdefg"] == [True, True, False, True, False, True]


class Model:
    @task
    def fit(self, customer: Private) -> str:
        return customer


def test_methods_are_read_once_where_they_were_declared() -> None:
    model = Model()
    assert secrets_of(model.fit).has_position(0)
    assert not secrets_of(model.fit).has_position(1)
    assert Model.fit._secrets is not ...
    assert not went_out(model.fit, "alice")


def test_annotations_are_read_late_and_once() -> None:
    declared = task(later)
    assert declared._secrets is ...
    assert secrets_of(declared) is secrets_of(declared) is not None


def later(x: Later) -> None: ...


Later = Annotated[str, Sensitive]


def unresolved(customer: Unknown) -> None: ...


def test_an_annotation_that_cannot_be_resolved_keeps_the_task_here() -> None:
    assert not went_out(task(unresolved), "alice")
    with (
        HybridExecutor(executors={"away": Fake("away")}) as executor,
        pytest.raises(PlacementError, match=r"'customer' cannot be resolved \(NameError\)"),
    ):
        executor.options(executor="away").submit(task(unresolved), "alice").result()


def test_unless_its_author_says_that_it_may_leave() -> None:
    assert went_out(task(local_only=False)(unresolved), "alice")
    away = Fake("away")
    with HybridExecutor(executors={"away": away}, policy=Prefer("away", "inline")) as executor:
        executor.options(local_only=False).submit(task(unresolved), "alice").result()
    assert not away.seen  # a caller cannot know


def test_what_is_said_to_be_sensitive_stays_whatever_else_is_said() -> None:
    assert not went_out(task(local_only=False)(by_annotated), "alice")


def test_a_wrapper_of_a_task_is_read_anew() -> None:
    secrets_of(score)

    @functools.wraps(score)
    def other(amount: int) -> int:
        return amount

    del other.__wrapped__
    other.__annotations__ = {"amount": "int"}
    assert secrets_of(Task(other)) is None
