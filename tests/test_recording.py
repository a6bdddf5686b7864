"""`HybridExecutor.record`: a line for each attempt, and no harm to the work."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    RemoteExecutor,
    Sensitive,
    ThreadExecutor,
    remote_task,
    task,
)
from hybrid_compute.decisions import Choice
from hybrid_compute.errors import ConfigurationError, ExecutorUnavailable, WorkerCrashed
from hybrid_compute.items import WorkItem
from hybrid_compute.policy import Always, Prefer
from hybrid_compute.quick import run_quick
from tests.remote.servers import serving

ROOT = Path(__file__).parents[1]


@task
def double(x):
    return 2 * x


@task
def wait(seconds):
    threading.Event().wait(0.003)
    if seconds < 0:
        raise ValueError(seconds)


@task
def place(_):
    return os.getpid()


@task
def fail(text):
    raise ValueError(text)


@task(retries=2)
def fail_twice(left):
    if left:
        left.pop()
        raise ValueError("not yet")


@task(idempotent=True)
def die_of_seven(x):
    if x == 7:
        os._exit(3)
    return x


@task
def count(n):
    yield from range(n)


class Belief:
    """What is known of a task that has one place to go."""

    choice = Choice(rule="so it is")
    route = ("lane",)


class Meter:
    """Is told, and does not listen."""

    def begin(self, item):
        return None

    def end(self, item, begun, cpu, value):
        return False

    def handed(self, item, name):
        pass

    def left(self, item, *, done=False):
        pass


class Prophet:
    """Foresees half a second, for everything."""

    def route(self, item, fleet):
        item.choice = Choice(rule="so it is", candidates=(("inline", 0.1), ("thread", 0.5)))
        return ("thread",)


class Away(InlineExecutor):
    """Takes nothing."""

    def execute(self, item):
        raise ExecutorUnavailable("not today")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.jsonl"


def rows(path):
    """Return the rows of a recording that is complete."""
    header, *found = map(json.loads, path.read_text().splitlines())
    assert header["recording"] == 1
    return sorted(found, key=lambda row: (row["id"], row.get("attempt", 1)))


def places(path):
    return [(row["task"], row["executor"], row["outcome"]) for row in rows(path)]


def test_a_plain_callable_is_recorded_with_its_thread_and_its_times(path):
    with HybridExecutor(1, "crew") as ex, ex.record(path) as recording:
        assert ex.submit(abs, -3).result() == 3
    assert recording.closed
    (row,) = rows(path)
    times = [row.pop(key) for key in ("submitted_ns", "waited_ns", "took_ns")]
    assert all(type(each) is int and each >= 0 for each in times)
    assert row == {"id": 1, "task": "abs", "executor": "thread", "lane": "crew_0", "outcome": "ok"}


def test_the_header_tells_the_fleet(path):
    with HybridExecutor(3, max_processes=2) as ex, ex.record(path):
        pass
    header = json.loads(path.read_text())
    assert header["executors"]["thread"]["workers"] == 3
    assert header["executors"]["process"] == {
        "workers": 2,
        "remote": False,
        "isolates": True,
        "shares_memory": False,
    }


@pytest.mark.parametrize("where", ["inline", "thread", "process", "lane"])
def test_a_task_is_recorded_where_it_ran(path, where):
    with HybridExecutor(1, max_processes=1, policy=Always(where)) as ex, ex.record(path):
        pid = ex.submit(place, 0).result()
    (row,) = rows(path)
    assert (row["task"], row["executor"]) == (place.name, where)
    if where == "process":
        assert row["lane"] == str(pid)
    elif where == "inline":
        assert row["lane"] == threading.current_thread().name


def test_what_the_policy_has_foreseen_is_recorded(path):
    with HybridExecutor(1, policy=Prophet()) as ex, ex.record(path):
        ex.options(retries=1).submit(double, 1).result()
    assert rows(path)[0]["predicted_ns"] == 500_000_000


def test_a_tiny_task_that_its_submitter_runs_is_recorded(path):
    with HybridExecutor(1, max_processes=1) as ex:
        for _ in range(400):
            ex.submit(double, 1).result()
        assert double.key in ex._quick
        with ex.record(path):
            assert ex.submit(double, 1).result() == 2
    (row,) = rows(path)
    here = threading.current_thread().name
    assert (row["task"], row["executor"], row["lane"]) == (double.name, "inline", here)


def test_a_task_that_goes_to_its_only_place_without_a_question_is_recorded(path):
    with HybridExecutor(1, max_processes=1) as ex:
        for _ in range(30):
            ex.submit(wait, 0.003).result()
            if wait.key in (ex._direct or ()):
                break
        assert ex._direct[wait.key]
        with ex.record(path):
            ex.submit(wait, 0.003).result()
            assert isinstance(ex.submit(wait, -1.0).exception(), ValueError)
    good, bad = rows(path)
    assert (good["task"], good["executor"], good["outcome"]) == (wait.name, "lane", "ok")
    assert good["lane"].startswith("hybrid-lane_")
    assert good["predicted_ns"] > 0
    assert bad["outcome"] == "failed"


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_direct_item_that_is_cancelled_or_taken_back_is_recorded_once(path, taken_back):
    belief = Belief()
    with HybridExecutor(1) as ex, ex.record(path):
        item = ex._make_direct(double, (1,), {}, belief, Meter())
        future = item.future
        if taken_back:
            item = item.routed()
            item.launch(("inline",), ex._fleet)
            assert future.result() == 2
        else:
            assert future.cancel()
    assert places(path) == [
        (double.name, *(("inline", "ok") if taken_back else ("lane", "cancelled")))
    ]


def test_a_plain_callable_that_takes_its_context_along_is_recorded(path):
    variable = contextvars.ContextVar("variable", default="none")
    with HybridExecutor(1, inherit_context=True) as ex, ex.record(path):
        variable.set("mine")
        assert ex.submit(variable.get).result() == "mine"
        assert list(ex.map(lambda _: variable.get(), [1])) == ["mine"]
        assert ex.submit(fail.fn, "no").exception() is not None
    assert [row["outcome"] for row in rows(path)] == ["ok", "ok", "failed"]
    assert rows(path)[0]["lane"].endswith("_0")


def test_both_attempts_at_a_hedged_call_are_recorded(path):
    gates = [threading.Event(), threading.Event()]

    @task(idempotent=True, hedge=0.01)
    def ask():
        gate = gates.pop()
        if gates:
            gate.wait(30)  # the first one
        return "answer"

    first = gates[-1]
    fleet = {"other": ThreadExecutor(1, name="other")}
    with HybridExecutor(1, executors=fleet, policy=Prefer("thread", "other")) as ex:
        with ex.record(path) as recording:
            assert ex.submit(ask).result() == "answer"
            first.set()
    assert recording.closed
    found = sorted((row["executor"], row["outcome"]) for row in rows(path))
    assert found[0] == ("other", "ok")
    assert found[1][0] == "thread"
    assert found[1][1] in ("ok", "cancelled")


def test_each_attempt_is_recorded(path):
    with HybridExecutor(1, policy=Always("thread")) as ex, ex.record(path):
        ex.submit(fail_twice, [1, 2]).result()
    first, second, third = rows(path)
    assert [first["outcome"], second["outcome"], third["outcome"]] == ["retried", "retried", "ok"]
    assert [second["attempt"], third["attempt"]] == [2, 3]
    assert first["error"] == "ValueError: not yet"
    assert first["id"] == third["id"] == 1
    ended = first["submitted_ns"] + first["waited_ns"] + first["took_ns"]
    assert second["submitted_ns"] == ended


@pytest.mark.parametrize("work", [fail, fail.fn], ids=["task", "plain"])
def test_a_failure_is_recorded_with_its_error(path, work):
    with HybridExecutor(1, policy=Always("thread")) as ex, ex.record(path):
        assert isinstance(ex.submit(work, "no luck").exception(), ValueError)
    (row,) = rows(path)
    assert (row["outcome"], row["error"]) == ("failed", "ValueError: no luck")


def test_of_a_failure_with_something_to_hide_only_the_type_is_written(path):
    with HybridExecutor(1, policy=Always("thread")) as ex, ex.record(path):
        ex.submit(fail, Sensitive("4711")).exception()
    assert rows(path)[0]["error"] == "ValueError"
    assert "4711" not in path.read_text()


def test_no_argument_and_no_result_is_written(path):
    with HybridExecutor(1) as ex, ex.record(path):
        ex.submit("{}".format, "sesame").result()
    assert "sesame" not in path.read_text()


def test_what_is_cancelled_is_recorded_as_such(path):
    gate = threading.Event()
    with HybridExecutor(1) as ex, ex.record(path):
        first = ex.submit(gate.wait)
        assert ex.submit(abs, 1).cancel()
        gate.set()
        first.result()
    assert [row["outcome"] for row in rows(path)] == ["ok", "cancelled"]
    assert rows(path)[1]["waited_ns"] is None


def test_a_crash_is_recorded_in_the_lane_of_its_worker(path):
    with HybridExecutor(1, max_processes=1, policy=Always("process")) as ex, ex.record(path):
        pid = ex.submit(place, 0).result()
        assert isinstance(ex.submit(die_of_seven, 7).exception(), WorkerCrashed)
    before, crash = rows(path)
    assert before["lane"] == crash["lane"] == str(pid)
    assert (crash["outcome"], crash["error"][:13]) == ("failed", "WorkerCrashed")


def test_each_call_of_a_map_on_threads_is_recorded(path):
    with HybridExecutor(2) as ex, ex.record(path):
        assert list(ex.map(abs, range(-20, 0))) == list(range(20, 0, -1))
        with pytest.raises(TypeError):
            list(ex.map(abs, [None]))
    assert places(path) == [("abs", "thread", "ok")] * 20 + [("abs", "thread", "failed")]


def test_each_chunk_of_a_map_is_recorded_with_its_calls(path):
    with HybridExecutor(1, max_processes=1, policy=Always("process")) as ex, ex.record(path):
        assert list(ex.map(double, range(100), chunksize=30)) == list(range(0, 200, 2))
    found = rows(path)
    assert [row.get("calls", 1) for row in found] == [30, 30, 30, 10]
    assert all(row["work_ns"] >= 0 for row in found)


def test_the_pieces_of_a_chunk_whose_worker_crashed_are_recorded(path):
    with HybridExecutor(1, max_processes=1, policy=Always("process")) as ex, ex.record(path):
        found = list(ex.map(die_of_seven, [6, 7, 8], chunksize=3, return_exceptions=True))
    assert [type(each) for each in found] == [int, WorkerCrashed, int]
    assert sorted(row["outcome"] for row in rows(path)) == ["failed", "failed", "ok", "ok"]


def test_a_piece_of_a_chunk_is_recorded_where_it_was_sent_again(path):
    with HybridExecutor(1, max_processes=1, policy=Always("process")) as ex, ex.record(path):
        list(ex.map(die_of_seven, [6, 7, 8], chunksize=3, return_exceptions=True))
    assert {row["executor"] for row in rows(path)} == {"process"}
    assert threading.current_thread().name not in {row["lane"] for row in rows(path)}


def test_a_stream_is_recorded_once_it_has_ended(path):
    with HybridExecutor(1, policy=Always("thread")) as ex, ex.record(path):
        assert list(ex.submit(count, 3).result()) == [0, 1, 2]
    assert places(path) == [(count.name, "thread", "ok")]


def test_a_call_of_a_service_is_recorded_in_the_lane_of_its_executor(path):
    def answer(peer):
        while peer.request() is not None:
            peer.answer(b'{"result": 4}')

    with serving(answer) as port:
        remote = RemoteExecutor(f"http://127.0.0.1:{port}/compute", tasks=["double"])
        with HybridExecutor(1, remote=remote) as ex, ex.record(path):
            assert ex.submit(remote_task("double"), 2).result() == 4
    assert places(path) == [("double", "remote", "ok")]
    assert rows(path)[0]["lane"] is None


def test_an_item_that_falls_back_is_recorded(path):
    away = {"away": Away(name="away")}
    policy = Prefer("away", "inline")
    with HybridExecutor(1, executors=away, policy=policy) as ex, ex.record(path):
        ex.submit(double, 1).result()
    assert places(path) == [(double.name, "away", "retried"), (double.name, "inline", "ok")]
    assert rows(path)[0]["waited_ns"] is None


def test_observers_are_told_all_the_same(path):
    events = []
    with HybridExecutor(1, observers=[events.append]) as ex, ex.record(path):
        ex.submit(abs, 1).result()
    assert [each.kind for each in events] == ["submitted", "routed", "started", "succeeded"]
    assert places(path) == [("abs", "thread", "ok")]


def test_what_is_under_way_at_the_end_is_written_when_it_ends(path):
    gate = threading.Event()
    with HybridExecutor(1) as ex:
        with ex.record(path) as recording:
            future = ex.submit(gate.wait)
        assert not recording.closed
        late = ex.submit(abs, 1)  # too late
        gate.set()
        assert (future.result(), late.result()) == (True, 1)
    assert recording.closed
    assert [row["task"] for row in rows(path)] == ["Event.wait"]


def test_a_map_that_goes_on_after_the_end_keeps_no_line_of_an_item_out(path):
    gate = threading.Event()
    with HybridExecutor(1) as ex:
        with ex.record(path) as recording:
            ex.submit(gate.wait)
            noted = ex._recorder.mapped(abs, abs, ex._thread)
            noted(-1)
        assert noted(-2) == 2
        with pytest.raises(TypeError):
            noted(None)
        recording.flush()
        assert not recording.closed
        gate.set()
    assert recording.closed
    assert sorted(row["task"] for row in rows(path)) == ["Event.wait", "abs"]


def test_an_item_that_slips_in_at_the_end_keeps_no_line_of_another_out(path):
    gate = threading.Event()
    with HybridExecutor(1) as ex:
        with ex.record(path) as recording:
            ex.submit(gate.wait)
            make = ex._make_call  # as a thread has it that submits at this moment
        make(abs, (-1,), {}).run()
        assert not recording.closed
        gate.set()
    assert recording.closed
    assert "Event.wait" in [row["task"] for row in rows(path)]


def test_ctrl_c_in_a_task_that_its_submitter_runs_is_a_failure_and_not_under_way(path):
    @task
    def interrupt(x):
        if x < 0:
            raise KeyboardInterrupt
        return x

    with HybridExecutor(1, max_processes=1) as ex:
        for _ in range(400):
            ex.submit(interrupt, 1).result()
        assert interrupt.key in ex._quick
        with ex.record(path) as recording, pytest.raises(KeyboardInterrupt):
            ex.submit(interrupt, -1)
        assert recording.closed
    assert [(row["outcome"], row["error"]) for row in rows(path)] == [
        ("failed", "KeyboardInterrupt")
    ]


def test_a_callable_that_fails_when_it_is_asked_for_its_name_is_recorded(path):
    class Odd:
        def __getattr__(self, name):
            raise ValueError(name)

        def __call__(self, x):
            if x < 0:
                raise RuntimeError("negative")
            return x

    with HybridExecutor(1) as ex, ex.record(path):
        assert ex.submit(Odd(), 3).result(timeout=30) == 3
        assert isinstance(ex.submit(Odd(), -3).exception(timeout=30), RuntimeError)
    assert [(row["task"], row["outcome"]) for row in rows(path)] == [
        ("Odd", "ok"),
        ("Odd", "failed"),
    ]


def test_names_that_are_made_up_for_each_call_do_not_pile_up(path):
    with HybridExecutor(1) as ex, ex.record(path) as recording:
        for number in range(10_050):
            recording.lane_here().say("inline", f"work {number}")
        assert len(recording.lane_here().said["inline"]) == 50


def test_recording_loads_nothing_that_only_observers_need(path):
    code = (
        "import sys\n"
        "from hybrid_compute import HybridExecutor\n"
        "with HybridExecutor(1) as ex, ex.record(sys.argv[1]):\n"
        "    ex.submit(abs, 1).result()\n"
        "print([name for name in sys.modules if name in ('attrs', 'hybrid_compute.observed')])\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    found = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_what_never_ended_is_written_as_unfinished_at_exit(path):
    code = (
        "import os, sys, threading, atexit\n"
        "from hybrid_compute import HybridExecutor\n"
        "ex = HybridExecutor(1)\n"
        "ex.record(sys.argv[1])\n"
        "begun = threading.Event()\n"
        "def hang():\n"
        "    begun.set()\n"
        "    threading.Event().wait()\n"
        "ex.submit(hang)\n"
        "ex.submit(abs, 1)\n"
        "begun.wait()\n"
        "atexit._run_exitfuncs()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)
    hung, queued = rows(path)
    assert (hung["outcome"], queued["outcome"]) == ("unfinished", "unfinished")
    assert hung["lane"].endswith("_0")
    assert queued["waited_ns"] is None


def test_one_recording_at_a_time(path, tmp_path):
    with HybridExecutor(1) as ex:
        with ex.record(path):
            with pytest.raises(ConfigurationError, match=r"run\.jsonl'\) is under way; close it"):
                ex.record(tmp_path / "other.jsonl")
            ex.submit(abs, 1).result()
        with ex.record(tmp_path / "next.jsonl"):
            ex.submit(abs, 2).result()
    assert len(rows(path)) == len(rows(tmp_path / "next.jsonl")) == 1


def test_afterwards_items_are_what_they_were(path):
    with HybridExecutor(1) as ex:
        recording = ex.record(path)
        assert ex._make_call is not WorkItem
        recording.close()
        recording.close()
        assert (ex._make_call, ex._run_quick, ex._recorder) == (WorkItem, run_quick, None)


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_recorded(tmp_path):
    with HybridExecutor(1) as ex:
        with pytest.raises(OSError, match="nowhere"):
            ex.record(tmp_path / "nowhere" / "run.jsonl")
        assert ex._recorder is None


def test_a_full_disk_ends_the_recording_and_not_the_work(monkeypatch, path, caplog):
    with HybridExecutor(1) as ex, ex.record(path) as recording:
        full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - the recording closes it
        recording._file.close()
        monkeypatch.setattr(recording, "_file", full)
        with caplog.at_level(logging.WARNING, "concurrent.futures"):
            futures = [ex.submit(abs, number) for number in range(1100)]
            assert [each.result() for each in futures] == list(range(1100))
    assert [each.getMessage()[:9] for each in caplog.records] == ["Recording"]
    assert "cannot be written" in caplog.text
    assert not recording.done


def test_a_forked_child_writes_nothing(path):
    with HybridExecutor(1) as ex, ex.record(path) as recording:
        ex.submit(abs, 1).result()
        pid = os.fork()
        if not pid:
            try:
                recording.close()
                recording._exit()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    assert len(rows(path)) == 1


def test_many_threads_may_submit_and_none_of_their_items_is_lost(path):
    with HybridExecutor(4) as ex, ex.record(path):

        def submit():
            for number in range(700):
                ex.submit(abs, number).result()

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert sorted(row["id"] for row in rows(path)) == list(range(1, 2801))
