"""What observers are told of an item: what was said, decided and measured."""

from __future__ import annotations

import itertools
import threading
import time
from contextvars import ContextVar

import pytest

from hybrid_compute import HybridExecutor, TaskOptions, events, observed, task
from hybrid_compute.errors import TaskEncodeError, TaskTimeout
from hybrid_compute.policy import Adaptive, Prefer
from tests.patience import times_to_begin_in


def events_of(work, **settings):
    """Return the events of one item, by their kind; of a kind, the last."""
    events = []
    with HybridExecutor(observers=[events.append], **settings) as ex:
        work(ex)
    return {each.kind: each for each in events}


@task(tags="big")
def burn(data):
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass


@task
def fail():
    raise ValueError("no")


def test_what_was_said_is_told_when_an_item_is_submitted():
    told = events_of(lambda ex: ex.submit(burn, b"12345"), policy=Prefer("inline"))
    assert told["submitted"].options == TaskOptions(tags="big")
    assert (told["submitted"].declared, told["submitted"].size_bytes) == (True, 5)
    assert (told["succeeded"].declared, told["succeeded"].options) == (None, None)


def test_a_plain_callable_is_told_apart():
    assert events_of(lambda ex: ex.submit(len, "abc"))["submitted"].declared is False


def test_a_chunk_of_a_declared_map_counts_as_declared():
    told = events_of(
        lambda ex: list(ex.map(burn, [b""], chunksize=1)), policy=Prefer("process"), max_processes=1
    )
    assert told["submitted"].declared is True
    assert told["submitted"].size_bytes is None


def test_what_a_policy_tells_of_its_choice_is_told_when_an_item_is_routed():
    told = events_of(lambda ex: ex.submit(burn, b""), policy=Adaptive())
    assert "a first call" in told["routed"].choice.rule
    assert told["started"].choice is None
    assert (
        events_of(lambda ex: ex.submit(burn, b""), policy=Prefer("inline"))["routed"].choice is None
    )


@pytest.mark.parametrize("name", ["inline", "thread"])
def test_the_work_itself_is_measured_on_threads_and_inline(name):
    told = events_of(lambda ex: ex.submit(burn, b""), policy=Prefer(name))
    assert 0.002 <= told["succeeded"].cpu <= told["succeeded"].wall


def test_work_that_fails_is_measured_too():
    told = events_of(lambda ex: ex.submit(fail).exception(), policy=Prefer("thread"))
    assert told["failed"].wall >= 0


def test_work_in_a_process_is_not_measured_by_the_thread_that_hears_of_it():
    told = events_of(lambda ex: ex.submit(burn, b""), policy=Prefer("process"), max_processes=1)
    assert (told["succeeded"].wall, told["succeeded"].cpu) == (None, None)


def test_an_item_whose_time_is_up_while_it_runs_has_no_measure():
    for timeout in times_to_begin_in(0.1):
        release = threading.Event()
        slow = task(name="slow", timeout=timeout)(lambda release=release: release.wait(60))

        def work(ex, slow=slow, release=release):
            assert isinstance(ex.submit(slow).exception(60), TaskTimeout)
            release.set()

        told = events_of(work, policy=Prefer("thread"))
        assert (told["failed"].wall, told["failed"].cpu) == (None, None)
        if "started" in told:
            break


class Failing:
    """Raises at one kind of event."""

    def __init__(self, kind, error):
        self.kind, self.error, self.told = kind, error, 0

    def __call__(self, event):
        self.told += 1
        if event.kind == self.kind:
            raise self.error


@pytest.mark.parametrize(
    ("place", "kind", "error"),
    [
        *itertools.product(
            ["thread", "process"],
            ["submitted", "routed", "started", "succeeded"],
            [ValueError, SystemExit, GeneratorExit],
        ),
        # That of the main thread, where the others are told, may be Ctrl-C.
        *itertools.product(["thread", "process"], ["succeeded"], [KeyboardInterrupt]),
        *itertools.product(["thread"], ["retried", "failed"], [ValueError, SystemExit]),
    ],
)
def test_an_observer_that_raises_is_dropped_and_never_the_item(place, kind, error, caplog):
    failing, others, tried = Failing(kind, error("no")), [], []

    @task
    def succeed():
        return 1

    @task(retries=1)
    def fail():
        tried.append(1)
        raise ValueError("no")

    work, end = (fail, "failed") if kind in ("retried", "failed") else (succeed, "succeeded")
    with HybridExecutor(
        observers=[failing, others.append], policy=Prefer(place), max_processes=1
    ) as ex:
        ex.submit(work).exception(30)
        told = failing.told
        ex.submit(work).exception(30)
        assert failing.told == told
    assert "and is told no more" in caplog.text
    assert [each.kind for each in others if each.kind == end] == [end, end]


def test_ctrl_c_in_an_observer_is_the_programs():
    def interrupt(event):
        raise KeyboardInterrupt

    with HybridExecutor(observers=[interrupt]) as ex, pytest.raises(KeyboardInterrupt):
        ex.submit(burn, b"")


def test_no_event_is_built_when_all_observers_were_dropped(monkeypatch):
    with HybridExecutor(observers=[Failing("submitted", ValueError())]) as ex:
        ex.submit(len, "").result()
        monkeypatch.setattr(observed, "Event", None)
        assert ex.submit(len, "abc").result() == 3


def test_no_event_is_built_when_nobody_observes(monkeypatch):
    monkeypatch.setattr(events, "Event", None)
    with HybridExecutor(policy=Prefer("thread")) as ex:
        assert ex.submit(len, "abc").result() == 3
        assert ex.submit(task(len), "abc").result() == 3
        assert "_observers" not in vars(ex)


def test_an_event_cannot_be_changed():
    told = events_of(lambda ex: ex.submit(len, ""))
    with pytest.raises(AttributeError):
        told["submitted"].kind = "failed"


def test_the_pieces_of_a_chunk_that_is_tried_again_are_told_of():
    seen, bad = [], threading.Lock()
    with HybridExecutor(observers=[seen.append], policy=Prefer("process"), max_processes=1) as ex:
        first, second, third = ex.map(burn, [b"", bad, b""], chunksize=3, return_exceptions=True)
    assert (first, type(second), third) == (None, TaskEncodeError, None)
    ends = [each.kind for each in seen if each.kind in ("succeeded", "failed")]
    assert sorted(ends) == ["failed", "failed", "succeeded", "succeeded"]


def test_who_observes_can_set_variables_for_the_work():
    number = ContextVar("number", default=0)

    def count(event):
        if event.kind == "routed":
            event.context.run(number.set, event.attempt)

    @task(retries=2)
    def look():
        if number.get() < 3:
            raise ValueError
        return number.get()

    with HybridExecutor(observers=[count], policy=Prefer("thread")) as ex:
        assert ex.submit(look).result() == 3
    assert number.get() == 0
    assert events_of(lambda ex: ex.submit(len, ""))["routed"].context is None
