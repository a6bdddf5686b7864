"""progress: futures as they are done, and a bar."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hybrid_compute import HybridExecutor, progress, task
from hybrid_compute.errors import ConfigurationError

pytestmark = pytest.mark.timeout(30)


class Bar:
    total = None

    def __init__(self):
        self.steps = []
        self.closed = 0

    def update(self, count):
        self.steps.append((count, threading.get_ident()))

    def close(self):
        self.closed += 1


def test_futures_come_as_they_are_done_and_the_bar_is_moved_by_the_consumer():
    first, second, bar = Future(), Future(), Bar()
    done = progress([first, second], bar=bar)
    assert bar.total == 2
    second.set_result(2)
    assert next(done) is second
    first.set_exception(ValueError())
    assert list(done) == [first]
    assert bar.steps == [(1, threading.get_ident())] * 2
    assert bar.closed == 1


def test_any_executor_s_futures_will_do_and_each_comes_once():
    with HybridExecutor() as ours, ThreadPoolExecutor(1) as theirs:
        futures = [ours.submit(int), ours.submit(task(int)), theirs.submit(int)]
        assert set(progress(futures * 2, bar=Bar())) == set(futures)


@pytest.mark.leaks("tqdm keeps a monitor thread and a lock for the life of the process")
def test_a_bar_is_shown(capsys):
    with HybridExecutor() as ex:
        assert len(list(progress([ex.submit(int) for _ in range(3)]))) == 3
    assert "3/3" in capsys.readouterr().err


def test_no_bar_is_shown_if_none_is_wanted(capsys):
    with HybridExecutor() as ex:
        assert len(list(progress([ex.submit(int)], bar=None))) == 1
    assert capsys.readouterr().err == ""


def test_the_time_out_counts_from_the_call_and_closes_the_bar():
    bar = Bar()
    done = progress([Future()], timeout=0, bar=bar)
    with pytest.raises(TimeoutError):
        next(done)
    assert bar.closed == 1


def test_who_leaves_early_closes_the_bar():
    bar, future = Bar(), Future()
    future.set_result(1)
    done = progress([future, Future()], bar=bar)
    next(done)
    done.close()
    assert bar.closed == 1


def test_nothing_is_kept_of_what_was_taken():
    first, second = Future(), Future()
    first.set_result(1)
    gone = weakref.ref(first)
    done = progress([first, second], bar=Bar())
    del first
    next(done)
    gc.collect()
    assert gone() is None
    done.close()


@pytest.mark.parametrize("wrong", [[1], [lambda: 1]])
def test_what_is_no_future_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="is no future"):
        progress(wrong)


def test_what_is_no_bar_is_refused():
    with pytest.raises(ConfigurationError, match="bar='loud'"):
        progress([], bar="loud")


def test_without_tqdm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"bar=True needs tqdm: pip install 'hybrid-compute\[p"):
        progress([])
