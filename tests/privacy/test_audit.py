"""What observers are told of privacy."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from hybrid_compute import HybridExecutor, Sensitive, task
from hybrid_compute.errors import ExecutorUnavailable, PlacementError
from hybrid_compute.events import Event
from hybrid_compute.policy import Prefer

from .fakes import SECRET, Canary, Fake


def annotated(customer: Annotated[Any, Sensitive]) -> None: ...


def anything(*args: Any) -> None: ...


def audited(*members: Fake, events: list[Event], **options: Any) -> HybridExecutor:
    return HybridExecutor(
        1,
        executors={each.name: each for each in members},
        policy=Prefer(*(each.name for each in members), "inline"),
        observers=[events.append],
    )


def told(events: list[Event]) -> list[tuple[str, int, str, str | None, str | None]]:
    return [
        (each.kind, each.item_id, each.name, each.executor, each.reason)
        for each in events
        if each.kind in ("withheld", "redacted")
    ]


@pytest.mark.parametrize(
    ("work", "argument", "reason"),
    [
        (task(anything), Sensitive(SECRET), "an argument is Sensitive"),
        (task(annotated), SECRET, "its parameter 'customer' is annotated as Sensitive"),
        (task(local_only=True)(anything), SECRET, "it is local_only"),
    ],
)
def test_that_a_remote_was_kept_out_is_told_once_for_each_item(
    work: Any, argument: Any, reason: str
) -> None:
    events: list[Event] = []
    name = work.name
    with audited(Fake("away"), events=events) as ex:
        ex.submit(work, argument).result()
        list(ex.map(work, [argument]))
    assert told(events) == [("withheld", number, name, "away", reason) for number in (1, 2)]
    assert [each.kind for each in events[:3]] == ["submitted", "withheld", "routed"]
    assert SECRET not in repr(events)


def test_it_is_told_when_nobody_may_run_it() -> None:
    events: list[Event] = []
    with audited(Fake("away"), events=events) as ex, pytest.raises(PlacementError):
        ex.options(executor="away").submit(task(anything), Sensitive(SECRET)).result()
    assert [each.kind for each in events] == ["submitted", "withheld", "failed"]
    assert SECRET not in repr(events)


def test_of_several_the_first_stands_for_all() -> None:
    events: list[Event] = []
    with audited(Fake("one"), Fake("two"), events=events) as ex:
        ex.submit(task(anything), Sensitive(SECRET)).result()
    reason = "an argument is Sensitive; kept out are ['one', 'two']"
    assert told(events) == [("withheld", 1, "anything", "one", reason)]


def test_it_is_not_told_of_what_would_not_have_gone_there() -> None:
    events: list[Event] = []
    with audited(Fake("away"), events=events) as ex:
        ex.options(executor="inline").submit(task(anything), Sensitive(SECRET)).result()
        ex.options(local_only=True).submit(anything, SECRET).result()
        ex.submit(task(anything), SECRET).result()
        list(ex.map(task(anything), [SECRET]))
    with audited(Fake("here", remote=False), events=events) as ex:
        ex.submit(task(anything), Sensitive(SECRET)).result()
    assert told(events) == []


def test_that_the_arguments_were_transformed_is_told_once() -> None:
    events: list[Event] = []

    def fails() -> Exception:
        return ExecutorUnavailable("not today")

    with audited(Fake("one", fails=fails), Fake("two"), events=events) as ex:
        ex.options(before_remote=redact).submit(task(annotated), SECRET).result()
    reason = "before_remote=redact has made its arguments"
    assert told(events) == [("redacted", 1, "annotated", "one", reason)]


def redact(customer: Any) -> Any:
    return ("xxx",)


def leave(customer: Any) -> Any:
    return (customer,)


def test_a_transform_that_fails_is_told_with_the_one_kept_out() -> None:
    events: list[Event] = []
    with audited(Fake("one"), Fake("two"), events=events) as ex:
        ex.options(before_remote=leave).submit(task(annotated), Canary()).result()
    reason = (
        "before_remote=leave left a Sensitive in argument 1: reveal() it, and return what may leave"
    )
    assert told(events) == [("withheld", 1, "annotated", "one", reason)]
    assert SECRET not in repr(events)


def test_a_part_of_a_map_that_falls_back_is_told() -> None:
    events: list[Event] = []
    here = Fake("here", remote=False, fails=lambda: ExecutorUnavailable("not today"))
    with audited(here, Fake("away"), events=events) as ex:
        list(ex.map(task(anything), iter([Sensitive(SECRET)])))
    reason = "it is a part of a map, and its arguments may have been Sensitive"
    assert told(events) == [("withheld", 1, "anything", "away", reason)]
