"""Tasks, their options, and the registry."""

from __future__ import annotations

import inspect
import pickle
import threading
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, Task, TaskOptions, TaskRegistry, task
from hybrid_compute.errors import ConfigurationError, DuplicateTaskError
from hybrid_compute.tasks import NO_OPTIONS


def double(x: int) -> int:
    """Return twice x."""
    return 2 * x


@task
def declared(x: int) -> int:
    """Return x and one."""
    return x + 1


class Shop:
    factor = 3

    @task(tags="shop")
    def price(self, x: int) -> int:
        return self.factor * x


def test_a_task_still_is_the_function_when_it_is_called() -> None:
    assert declared(1) == 2
    assert declared.__name__ == "declared"
    assert declared.__doc__ == "Return x and one."


def test_a_task_has_all_that_its_function_has() -> None:
    def work(x: int) -> int:
        return x

    work.marked = "so"
    declared = task(work)
    assert declared.marked == "so"
    assert declared.__wrapped__ is work
    assert declared.__module__ == __name__
    assert declared.__qualname__ == work.__qualname__
    assert inspect.signature(declared) == inspect.signature(work)
    assert declared.fn is work


@pytest.mark.parametrize("kind", [Shop, object, dict, ValueError])
def test_a_class_can_be_a_task(kind: type) -> None:
    assert type(task(kind)()) is kind
    assert task(kind).name == kind.__name__


def test_a_callable_without_a_name_can_be_a_task() -> None:
    class Callable:
        def __call__(self) -> int:
            return 1

    assert task(Callable())() == 1


def test_a_task_takes_the_name_of_its_function_or_the_one_it_is_given() -> None:
    assert task(double).name == "double"
    assert task(name="twice")(double).name == "twice"


def test_a_task_bound_to_an_instance_keeps_its_declaration() -> None:
    bound = Shop().price
    assert isinstance(bound, Task)
    assert bound(2) == 6
    assert bound.options.tags == {"shop"}
    assert bound.name == "price"


def test_a_module_level_task_pickles_as_a_global() -> None:
    assert pickle.loads(pickle.dumps(declared)) is declared


@pytest.mark.parametrize("wrong", [3, "double", None.__class__()])
def test_a_task_of_something_that_cannot_be_called_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="needs a function"):
        Task(wrong)  # type: ignore[arg-type]


def test_a_task_of_a_task_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="only once"):
        task(task(double))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retries", -1),
        ("retries", "2"),
        ("retries", True),
        ("idempotent", 1),
        ("movable", "yes"),
        ("local_only", 0),
        ("executor", ""),
        ("executor", 3),
    ],
)
def test_a_wrong_option_is_refused_with_its_name_and_value(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}={value!r}"):
        TaskOptions(**{option: value})  # type: ignore[arg-type]


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        task(colour="red")(double)  # type: ignore[call-overload]


def test_a_single_tag_may_be_given_as_a_string() -> None:
    assert TaskOptions(tags="gpu").tags == {"gpu"}


def test_the_nearer_word_goes_before_the_farther() -> None:
    near, far = TaskOptions(retries=2), TaskOptions(retries=1, executor="process")
    assert near.over(far) == TaskOptions(retries=2, executor="process")
    assert NO_OPTIONS.over(far) is far
    assert near.over(NO_OPTIONS) is near


def test_local_only_cannot_be_taken_back() -> None:
    assert TaskOptions(local_only=False).over(TaskOptions(local_only=True)).local_only is True


def test_tags_add_up() -> None:
    assert TaskOptions(tags="a").over(TaskOptions(tags="b")).tags == {"a", "b"}


def test_a_registry_is_a_mapping_of_its_tasks() -> None:
    registry = TaskRegistry([declared])
    registry.task(double)
    assert list(registry) == ["declared", "double"]
    assert len(registry) == 2
    assert registry["double"](4) == 8
    assert "os:system" not in registry


def test_a_registry_declares_with_options() -> None:
    registry = TaskRegistry()

    @registry.task(name="twice", idempotent=True)
    def local(x: int) -> int:
        return 2 * x

    assert registry["twice"] is local
    assert local.options.idempotent is True


def test_a_name_that_is_taken_is_refused_and_the_first_task_stays() -> None:
    registry = TaskRegistry([declared])
    with pytest.raises(DuplicateTaskError, match="'declared' is taken"):
        registry.task(name="declared")(double)
    assert registry["declared"] is declared


def test_a_registry_refuses_what_is_no_task() -> None:
    with pytest.raises(ConfigurationError, match="is not a task"):
        TaskRegistry([double])  # type: ignore[list-item]


def test_of_threads_that_register_one_name_exactly_one_succeeds() -> None:
    registry, refused, start = TaskRegistry(), [], threading.Barrier(8)

    def register() -> None:
        start.wait()
        try:
            registry.task(name="same")(lambda: None)
        except DuplicateTaskError as error:
            refused.append(error)

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry) == 1
    assert len(refused) == 7


def test_a_key_is_text_and_the_newer_word_counts() -> None:
    assert task(key="ann")(len).options.key == "ann"
    assert TaskOptions(key="bob").over(TaskOptions(key="ann")).key == "bob"
    assert TaskOptions(retries=1).over(TaskOptions(key="ann")).key == "ann"


@pytest.mark.parametrize("option", ["buffersize", "buffer_bytes"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "x"])
def test_a_size_that_is_none_is_refused(option: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TaskOptions(**{option: wrong})
    assert str(caught.value) == f"{option}={wrong!r} is not a whole number of at least 1"


@pytest.mark.parametrize("key", ["", 7])
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(ConfigurationError, match=f"key={key!r} is not a non-empty string"):
        TaskOptions(key=key)  # type: ignore[arg-type]


def test_a_task_may_have_an_argument_of_any_name() -> None:
    @task
    def names(**named: int) -> dict[str, int]:
        return named

    assert names(self=1, fn=2, args=3) == {"self": 1, "fn": 2, "args": 3}
    with HybridExecutor(1) as ex:
        assert ex.options(executor="inline").submit(names, self=1).result() == {"self": 1}
