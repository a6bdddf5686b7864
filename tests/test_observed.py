"""What observers are told of an item: what was said, decided and measured."""

from __future__ import annotations

import threading
import time

import pytest

from hybrid_compute import HybridExecutor, TaskOptions, task
from hybrid_compute.errors import TaskTimeout
from hybrid_compute.policy import Adaptive, Prefer


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
    release = threading.Event()
    slow = task(name="slow", timeout=0.25)(lambda: release.wait(30))

    def work(ex):
        future = ex.submit(slow)
        assert isinstance(future.exception(10), TaskTimeout)
        release.set()

    told = events_of(work, policy=Prefer("thread"))
    assert "started" in told
    assert (told["failed"].wall, told["failed"].cpu) == (None, None)
