"""DecisionLog: a line for each item that ended, and no harm to the work."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.decision_log import DecisionLog
from hybrid_compute.decisions import Choice
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.events import Event
from hybrid_compute.policy import Adaptive, Prefer
from hybrid_compute.prices import Price
from hybrid_compute.simulate import read_log

ROOT = Path(__file__).parents[1]


@task(tags=("small", "round"), local_only=True)
def double(x):
    return 2 * x


@task
def compute(data):
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass


@task
def fail():
    raise ValueError("no")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


@pytest.fixture
def log(path):
    with DecisionLog(path) as log:
        yield log


def events(log, number, *kinds, at=0.0):
    for step, kind in enumerate(kinds):
        log(
            Event(kind=kind, item_id=number, name="f", executor="thread", attempt=1, time=at + step)
        )


def run(path, work, **settings):
    with DecisionLog(path) as log, HybridExecutor(observers=[log], **settings) as ex:
        work(ex)
    return read_log(path)


def test_the_header_says_what_the_fleet_is(path):
    header = run(path, lambda ex: None, max_workers=3, max_processes=5).header
    assert header.cores == len(os.sched_getaffinity(0))
    fleet = {name: (each.workers, each.blocks) for name, each in header.fleet.items()}
    assert fleet.pop("lane")[1] is False
    assert fleet == {"inline": (1, True), "thread": (3, False), "process": (5, False)}
    assert header.fleet["process"].isolates
    assert header.fleet["thread"].shares_memory


def test_each_item_that_ended_has_a_line(path):
    def work(ex):
        ex.submit(double, 1).result()
        ex.submit(fail).exception()
        ex.submit(len, "abc").result()
        ex.options(executor="inline").submit(len, "abc").result()

    items = run(path, work, policy=Prefer("thread")).items
    assert [(each.task, each.executor, each.ok) for each in items] == [
        ("double", "thread", True),
        ("fail", "thread", False),
        ("len", "thread", True),
        ("len", "inline", True),
    ]
    for each in items:
        assert 0 <= each.submitted <= each.started <= each.ended


def test_a_line_says_what_was_said_about_the_item(path):
    def work(ex):
        ex.submit(double, 1).result()
        ex.submit(len, "abc").result()
        ex.options(executor="inline", movable=True).submit(len, "abc").result()

    items = run(path, work, policy=Prefer("thread")).items
    assert [(each.declared, each.tags, each.local_only) for each in items] == [
        (True, ("round", "small"), True),
        (False, (), False),
        (False, (), False),
    ]
    assert [(each.pinned, each.movable) for each in items] == [
        (None, None),
        (None, None),
        ("inline", True),
    ]


def test_a_map_in_processes_has_a_line_for_each_chunk(path):
    items = run(
        path,
        lambda ex: list(ex.map(double, range(4), chunksize=2)),
        max_processes=1,
        policy=Prefer("process"),
    ).items
    assert [(each.task, each.executor, each.declared) for each in items] == [
        ("double", "process", True)
    ] * 2


def test_an_item_that_was_cancelled_never_started(path):
    def work(ex):
        with_lock = threading.Lock()
        with with_lock:
            first = ex.submit(with_lock.acquire)
            second = ex.submit(len, "")
            assert second.cancel()
        first.result()

    cancelled = run(path, work, max_workers=1).items[1]
    assert (cancelled.ok, cancelled.started) == (False, None)


def test_what_was_decided_and_measured_is_noted(path):
    def work(ex):
        ex.submit(double, 1).result()
        ex.submit(compute, b"12345").result()

    first, second = run(path, work, policy=Adaptive()).items
    assert "a first call" in first.rule
    assert 0 < second.cpu <= second.wall <= second.ended - second.submitted
    assert second.bytes == 5


def test_predictions_are_noted(log, path):
    choice = Choice(rule="waits", candidates=(("thread", 0.5), ("process", 0.75)))
    with HybridExecutor() as ex:
        log.attach(ex)
    told = {"item_id": 1, "name": "f", "executor": "thread", "attempt": 1, "time": log._begun}
    log(Event(kind="submitted", **told))
    log(Event(kind="routed", choice=choice, **told))
    log(Event(kind="cancelled", **told))
    log.close()
    (item,) = read_log(path).items
    assert (item.rule, item.predicted) == ("waits", {"thread": 0.5, "process": 0.75})


def test_what_privacy_keeps_here_is_local_only_in_a_replay_too(log, path):
    with HybridExecutor() as ex:
        log.attach(ex)
    told = {"item_id": 1, "name": "f", "attempt": 1, "time": log._begun}
    for kind in ("submitted", "withheld", "redacted", "routed", "started", "succeeded"):
        log(Event(kind=kind, executor="thread", **told))
    log.close()
    (item,) = read_log(path).items
    assert (item.local_only, item.ok) == (True, True)


def test_the_header_has_the_prices(path):
    price = Price(per_call=1, per_second=2, per_megabyte=3)
    thread = run(path, lambda ex: None, prices={"thread": price}).header.fleet["thread"]
    assert (thread.per_call, thread.per_second, thread.per_megabyte) == (1, 2, 3)


@pytest.mark.parametrize(
    ("second", "started", "ended"),
    [(("started", "succeeded"), 5.0, 6.0), (("failed",), None, 5.0)],
)
def test_a_second_attempt_begins_anew(log, path, second, started, ended):
    with HybridExecutor() as ex:
        log.attach(ex)
    log._begun = 0.0
    events(log, 1, "submitted", "routed", "started", "retried", "routed", *second)
    log.close()
    (item,) = read_log(path).items
    assert (item.submitted, item.started, item.ended) == (0.0, started, ended)


def test_a_log_that_no_executor_knows_says_so(log):
    with pytest.raises(ConfigurationError, match=r"observers=\[\.\.\.\]"):
        events(log, 1, "submitted")


def test_a_log_is_for_one_executor(log):
    with HybridExecutor(observers=[log]):
        with pytest.raises(ConfigurationError, match=r"run\.jsonl.*a log of its own"):
            HybridExecutor(observers=[log])


def test_a_file_that_cannot_be_made_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        DecisionLog(tmp_path / "nowhere" / "run.jsonl")


def test_items_that_end_after_the_log_are_left_out(log, path):
    with HybridExecutor(observers=[log]) as ex:
        ex.submit(len, "").result()
        log.close()
        ex.submit(len, "").result()
        log.close()
    assert len(read_log(path).items) == 1


def test_a_full_disk_is_told_of_once_and_the_work_goes_on(caplog):
    with DecisionLog("/dev/full") as log, HybridExecutor(observers=[log]) as ex:
        assert sum(each.result() for each in [ex.submit(len, "ab") for _ in range(700)]) == 1400
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("concurrent.futures", logging.WARNING)
    assert os.strerror(errno.ENOSPC) in record.getMessage()
    assert "DecisionLog('/dev/full') was ended" in record.getMessage()


def test_a_disk_that_is_full_at_the_end_is_told_of_too(caplog):
    with DecisionLog("/dev/full") as log, HybridExecutor(observers=[log]):
        pass
    assert ["was ended" in each.getMessage() for each in caplog.records] == [True]


def test_many_threads_write_whole_lines(path):
    def work(ex):
        start = threading.Barrier(4)

        def submit():
            start.wait()
            for each in [ex.submit(len, "ab") for _ in range(300)]:
                each.result()

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    assert sorted(each.id for each in run(path, work).items) == [*range(1, 1201)]


def test_an_item_that_ends_while_its_thread_writes_gets_its_line(log, path, monkeypatch):
    monkeypatch.setattr("hybrid_compute.decision_log._BUFFER_BYTES", 1)  # each line is written
    with HybridExecutor() as ex:
        log.attach(ex)

    class Interrupted:
        """A file; in the middle of its first line, a signal handler ends an item."""

        def __init__(self, file):
            self.file = file
            self.times = 0

        def write(self, data):
            self.times += 1
            if self.times == 2:
                events(log, 2, "submitted", "routed", "started", "succeeded", at=log._begun)
            return self.file.write(data[:100])  # a file may take a part of it

        def close(self):
            self.file.close()

    log._file = Interrupted(log._file)
    events(log, 1, "submitted", "routed", "started", "succeeded", at=log._begun)
    log.close()
    assert [each.id for each in read_log(path).items] == [1, 2]


def test_what_is_not_closed_is_written_at_exit_and_a_forked_child_writes_nothing(path):
    code = (
        "import os, sys\n"
        "from hybrid_compute import HybridExecutor\n"
        "from hybrid_compute.decision_log import DecisionLog\n"
        "log = DecisionLog(sys.argv[1])\n"
        "with HybridExecutor(observers=[log]) as ex:\n"
        "    ex.submit(len, 'a').result()\n"
        "if os.fork() == 0:\n"
        "    log.close()\n"
        "    sys.exit()\n"  # with all that an interpreter does at its end
        "os.wait()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, path], env=env, check=True, timeout=60)
    assert len(read_log(path).items) == 1
