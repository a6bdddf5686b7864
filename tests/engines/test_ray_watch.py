"""How RayExecutor notices ends: what Ray is asked, and what it has to tell, without a Ray."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from hybrid_compute.engines import _ray_watch
from hybrid_compute.engines._ray_watch import Watch


class Ref:
    """Ray's reference of a call."""

    def __init__(self):
        self.told: Future | None = None

    def future(self):
        self.told = Future()
        return self.told


class FakeRay:
    """Ray, as far as it is asked: `ended` are references."""

    def __init__(self):
        self.ended = set()
        self.asked = []
        self.runs = True
        self.error = None

    def is_initialized(self):
        return self.runs

    def wait(self, refs, *, num_returns, timeout):
        assert timeout == _ray_watch._MOMENT
        self.asked.append((len(refs), num_returns))
        if self.error is not None:
            raise self.error
        ready = [each for each in refs if each in self.ended][:num_returns]
        return ready, [each for each in refs if each not in ready]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    made = FakeRay()
    monkeypatch.setattr(_ray_watch, "ray", made)
    return made


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = SimpleNamespace(now=100.0)
    monkeypatch.setattr(_ray_watch.time, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def told():
    return []


@pytest.fixture
def watch(told):
    return Watch(told.append)


def add(watch, count=1):
    jobs = [SimpleNamespace(ref=Ref()) for _ in range(count)]
    for job in jobs:
        watch.add(job)
    return jobs


def hurry(watch):
    """Have calls end quickly, for as long as it takes to be noticed."""
    watch.note(_ray_watch._SOME)
    watch.note(_ray_watch._SOME)


def test_in_calm_ray_tells_of_each_end(watch, told):
    (job,) = add(watch)
    assert not watch.asks()
    job.ref.told.set_result(b"")
    assert told == [(job, job.ref.told)]


def test_when_ends_come_quickly_ray_is_asked(watch, told, fake):
    hurry(watch)
    jobs = add(watch, 8)
    assert [each.ref.told for each in jobs] == [None] * 8
    assert told == [None]  # once is enough to have it asked
    fake.ended = {jobs[1].ref, jobs[6].ref, jobs[7].ref}
    assert watch.ask() == [jobs[1], jobs[6]]
    assert fake.asked == [(8, 2)]  # a quarter
    assert watch.ask() == [jobs[7]]


def test_when_ends_come_slowly_ray_is_not_asked(watch, clock):
    watch.note(_ray_watch._SOME)
    clock.now += _ray_watch._SOME * _ray_watch._MOMENT
    watch.note(_ray_watch._SOME)
    (job,) = add(watch)
    assert job.ref.told is not None


def test_after_a_moment_without_ends_ray_tells_of_all_that_are_out(watch, told):
    hurry(watch)
    jobs = add(watch, 3)
    assert watch.ask() == []
    watch.note(0)
    assert not watch.asks()
    assert all(each.ref.told for each in [*jobs, *add(watch)])
    jobs[2].ref.told.set_result(b"")
    assert told == [None, (jobs[2], jobs[2].ref.told)]


def test_ends_of_which_ray_told_meanwhile_count_as_well(watch):
    hurry(watch)
    add(watch, 20)
    assert watch.ask() == []
    watch.note(_ray_watch._FEW)
    assert watch.asks()


def test_of_a_single_call_one_end_is_enough(watch, fake):
    hurry(watch)
    (job,) = add(watch)
    fake.ended = {job.ref}
    assert watch.ask() == [job]
    watch.note(1)
    assert not watch.asks()
    add(watch)
    assert watch.asks()


def test_who_adds_when_none_is_asked_for_says_so_each_time(watch, told, fake):
    hurry(watch)
    for _ in range(2):
        (job,) = add(watch)
        fake.ended = {job.ref}
        assert watch.ask() == [job]
    assert told == [None, None]


def test_ray_is_asked_for_the_oldest_of_many(watch, fake):
    hurry(watch)
    jobs = add(watch, 1000)
    fake.ended = {each.ref for each in jobs}
    assert watch.ask() == jobs[: _ray_watch._SOME]


@pytest.mark.parametrize("how", ["shut down before", "shut down meanwhile"])
def test_a_ray_that_was_shut_down_is_not_started_by_being_asked(
    watch, told, fake, how, monkeypatch
):
    hurry(watch)
    (job,) = add(watch)
    fake.runs = how == "shut down meanwhile"
    fake.error = error = RuntimeError("no Ray")

    def future(ref):
        raise error

    monkeypatch.setattr(Ref, "future", future)
    assert watch.ask() == []
    watch.note(0)
    assert told[0] is None
    assert told[1][0] is job
    assert told[1][1].exception() is error
    assert len(fake.asked) == (1 if fake.runs else 0)
