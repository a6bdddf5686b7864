"""Shadow: the second policy is counted, and never felt."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import ConfigurationError, UnknownExecutorError
from hybrid_compute.events import Event
from hybrid_compute.policy import (
    Adaptive,
    Agreement,
    Always,
    Budget,
    Policy,
    Prefer,
    Shadow,
    ShadowReport,
)
from tests.policy.places import Guarded, Place, make_item

FLEET = {name: Place(name) for name in ("inline", "thread", "process")}


class Answers:
    """A policy that answers what it was told to."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@task
def negative(number: int) -> int:
    return -number


@task
def numbers() -> Iterator[int]:
    yield from range(2)


class Learns(Answers):
    def __init__(self, answer: object, error: Exception | None = None) -> None:
        super().__init__(answer)
        self.seen: list[Event] = []
        self.error = error

    def observe(self, event: Event) -> None:
        self.seen.append(event)
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (("process",), Agreement(agreed=1)),
        (("process", "thread"), Agreement(agreed=1)),
        (("thread", "process"), Agreement(differed=1)),
        ((), Agreement(undecided=1)),
        (None, Agreement(undecided=1)),
        ("process", Agreement(failed=1)),
        (ValueError("hm"), Agreement(failed=1)),
    ],
)
def test_the_first_decides_and_the_second_is_counted(
    predicted: object, expected: Agreement
) -> None:
    shadow = Shadow(Always("process"), Answers(predicted))
    assert shadow.route(make_item(), FLEET) == ("process",)
    report = shadow.report()
    assert (report.tasks, report.total) == ({"work": expected}, expected)


@pytest.mark.parametrize("answer", [None, (), "nonsense"])
def test_the_second_is_not_asked_where_the_first_decides_nothing(answer: object) -> None:
    second = Answers(("thread",))
    shadow = Shadow(Answers(answer), second)
    assert shadow.route(make_item(), FLEET) == answer
    assert second.asked == 0
    assert shadow.report() == ShadowReport(tasks={}, total=Agreement(), last_failure="")


def test_what_the_first_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Shadow(Answers(ZeroDivisionError()), Always("thread")).route(make_item(), FLEET)


def test_counts_are_by_task_and_a_report_is_a_snapshot() -> None:
    shadow = Shadow(Always("process"), Prefer("thread", "process"))
    shadow.route(make_item(len), FLEET)
    before = shadow.report()
    shadow.route(make_item(len), FLEET)
    shadow.route(make_item(abs), {"process": FLEET["process"]})
    assert before.tasks == {"len": Agreement(differed=1)}
    now = shadow.report()
    assert now.tasks == {"len": Agreement(differed=2), "abs": Agreement(agreed=1)}
    assert now.total == Agreement(agreed=1, differed=2)
    with pytest.raises(TypeError):
        now.tasks["len"] = Agreement()  # type: ignore[index]
    with pytest.raises(AttributeError):
        now.total = Agreement()
    assert {before: 1}[before] == 1


def test_the_last_failure_is_told() -> None:
    shadow = Shadow(Always("process"), Answers(ValueError("hm")))
    shadow.route(make_item(), FLEET)
    assert shadow.report().last_failure == "ValueError: hm"
    shadow = Shadow(Always("process"), Answers(["thread"]))
    shadow.route(make_item(), FLEET)
    assert shadow.report().last_failure == "answered ['thread'], which is no route"


def test_differences_are_reported_as_they_happen() -> None:
    told: list[object] = []
    second = Answers(("thread",))
    shadow = Shadow(Always("process"), second, report=lambda *all_: told.append(all_))
    shadow.route(make_item(), FLEET)
    second.answer = ("process",)
    shadow.route(make_item(), FLEET)
    assert told == [("work", ("process",), ("thread",))]


def test_a_report_that_raises_is_logged_and_called_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[object] = []

    def report(*all_: object) -> None:
        calls.append(all_)
        raise OSError("disk full")

    shadow = Shadow(Always("process"), Always("thread"), report=report)
    for _ in range(2):
        assert shadow.route(make_item(), FLEET) == ("process",)
    assert len(calls) == 1
    assert "disk full" in caplog.text
    assert shadow.report().total.differed == 2


def test_both_learn_and_a_second_that_cannot_is_told_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = Learns(("thread",)), Learns(("thread",), OSError("hm"))
    shadow = Shadow(first, second)
    with HybridExecutor(1, policy=shadow) as executor:
        assert executor.submit(task(abs), -1).result() == 1
    assert [each.kind for each in first.seen] == ["submitted", "routed", "started", "succeeded"]
    assert len(second.seen) == 1
    assert "told no more" in caplog.text
    assert shadow.report().last_failure == "observe: OSError: hm"


def test_nobody_makes_events_for_two_that_do_not_learn() -> None:
    assert not hasattr(Shadow(Always("thread"), Always("process")), "observe")


def test_a_first_that_learns_is_measured_and_a_second_leaves_no_notes_on_its_items() -> None:
    first, second = Adaptive(), Adaptive()
    with HybridExecutor(1, policy=Shadow(first, second)) as executor:
        for _ in range(5):
            assert executor.submit(negative, 1).result() == -1
        told = executor.explain(negative)
    assert "nothing is known yet" not in told
    assert told == first.explain(negative)
    assert second.usual(negative).runs == 0
    assert second.usual(negative).probing == 0


def test_a_second_that_learns_does_not_explain_what_the_first_decided() -> None:
    with HybridExecutor(1, policy=Shadow(Prefer("thread"), Adaptive())) as executor:
        future = executor.options(retries=1).submit(negative, 1)
        assert future.result() == -1
        assert future.explain().rule == "as the policy, or the options, said"
        stream = executor.submit(numbers)
        assert list(stream) == [0, 1]
        assert stream.explain().rule == "as the policy, or the options, said"


def test_what_the_first_has_spent_is_seen_through_it() -> None:
    with HybridExecutor(1, policy=Shadow(Budget(Adaptive(), 3), Always("thread"))) as executor:
        spending = executor.stats().spending
    assert spending is not None
    assert spending.limit == 3


def test_two_threads_lose_no_count() -> None:
    shadow = Shadow(Always("process"), Always("thread"))

    def ask() -> None:
        for _ in range(500):
            shadow.route(make_item(), FLEET)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert shadow.report().total == Agreement(differed=1000)


def test_counts_are_written_under_the_lock() -> None:
    shadow = Shadow(Always("process"), Always("thread"))
    shadow._counts = counts = Guarded(shadow._lock)
    shadow.route(make_item(), FLEET)
    assert counts.changes == 1


def test_it_is_checked_as_its_first_policy_is() -> None:
    shadow = Shadow(Prefer("gpu", move="all"), Always("nowhere"))
    assert isinstance(shadow, Policy)
    assert (shadow.names, shadow.moves_plain) == ({"gpu"}, True)
    assert repr(shadow) == "Shadow(Prefer('gpu'), Always('nowhere'))"
    with pytest.raises(UnknownExecutorError, match="gpu"):
        HybridExecutor(policy=shadow)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Shadow(3, Always("thread")), r"Shadow\(policy_a, \.\.\.\): 3 is no policy"),
        (lambda: Shadow(Always("thread"), Always), "policy_b.*is no policy.*give an object"),
        (
            lambda: Shadow(Always("thread"), Always("thread"), report=3),
            r"Shadow\(report=3\): give a function",
        ),
    ],
)
def test_a_wrong_argument_is_refused(make: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()  # type: ignore[operator]
