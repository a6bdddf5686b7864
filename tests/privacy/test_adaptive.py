"""A policy that learns, with its short ways, sends nothing sensitive either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest

from hybrid_compute import HybridExecutor, Sensitive, TaskOptions, task
from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.policy import Prefer
from hybrid_compute.privacy import OpenedGuard
from hybrid_compute.routed import RoutedItem
from hybrid_compute.router import Router

from .fakes import SECRET, Fake


class Tempting(Fake):
    """A remote that takes chunks, has no load and endless workers."""

    def __init__(self) -> None:
        super().__init__("away")
        self.capabilities = Capabilities(remote=True, chunks=True, streams=True)
        self.workers = 1000


@task
def kind(x: object) -> str:
    return type(x).__name__


@task
def annotated(x: Annotated[str, Sensitive]) -> str:
    return type(x).__name__


@task(before_remote=lambda x: (len(x.reveal()),))
def shortened(x: Annotated[str, Sensitive]) -> str:
    return type(x).__name__


def wrapped_list(ex: Any) -> list[str]:
    return list(ex.map(kind, [Sensitive(SECRET)] * 50))


def wrapped_generator(ex: Any) -> list[str]:
    return list(ex.map(kind, (Sensitive(SECRET) for _ in range(50))))


def by_annotation(ex: Any) -> list[str]:
    return list(ex.map(annotated, [SECRET] * 50))


def transformed(ex: Any) -> list[str]:
    return list(ex.map(shortened, [SECRET] * 50))


def submitted(ex: Any) -> list[str]:
    return [
        future.result()
        for _ in range(100)
        for future in (ex.submit(kind, Sensitive(SECRET)), ex.submit(annotated, SECRET))
    ]


@pytest.mark.parametrize(
    "work", [wrapped_list, wrapped_generator, by_annotation, transformed, submitted]
)
@pytest.mark.parametrize("observers", [(), (repr,)], ids=["alone", "observed"])
def test_nothing_sensitive_goes_out_while_it_learns(
    work: Callable[[Any], list[str]], observers: Any
) -> None:
    away = Tempting()
    with HybridExecutor(
        2, executors={"away": away}, max_processes=1, observers=observers
    ) as executor:
        for _ in range(3):
            assert set(work(executor)) <= {"str", "int"}
        if work is not transformed:
            assert not away.seen
        assert SECRET not in repr(away.seen)


def test_a_task_that_its_submitter_runs_gets_the_bare_value_too() -> None:
    with HybridExecutor(1, max_processes=1) as executor:
        for _ in range(2000):
            assert executor.submit(kind, "x").result() == "str"
        assert executor._quick  # it is run by its submitter now
        assert executor.submit(kind, Sensitive(SECRET)).result() == "str"


def test_an_item_that_is_moved_once_more_gets_what_its_new_place_may_have() -> None:
    class Here(SubExecutor):
        name = "here"
        capabilities = Capabilities()
        workers = 1

        def execute(self, item: WorkItem) -> None:
            self.item = item

        def load(self) -> float:
            return 0.0

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...

    here, away = Here(), Fake("away")
    with HybridExecutor(executors={"here": here, "away": away}) as executor:
        future = executor.options(executor="here").submit(shortened, SECRET)
        item: Any = here.item
        assert item.args == (SECRET,)
        item.launch(("away",), {"away": away}, late=True)
        assert future.result() == "int"
    assert away.seen == [((len(SECRET),), {})]


def test_a_part_of_a_map_that_may_hold_something_is_routed_to_this_machine() -> None:
    members = {"away": Fake("away"), "inline": Fake("inline", remote=False)}
    router = Router(members, Prefer("away", "inline"))
    item = RoutedItem(run_batch, (kind, [SECRET], False), None, TaskOptions())
    assert router.route(item)[0] == ("away", "inline")
    item.guard = OpenedGuard()
    assert router.route(item)[0] == ("inline",)
