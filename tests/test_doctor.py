"""`hybrid-compute doctor`: what a machine offers, what is wrong with it, and what helps."""

from __future__ import annotations

import json
import os

import attrs
import pytest

from hybrid_compute import _doctor
from hybrid_compute._doctor import Dispatch, Service, findings_of, measure_dispatch, visit
from hybrid_compute._machine import look_at_machine
from tests.remote.servers import serving
from tests.test_cli import run

pytestmark = pytest.mark.timeout(100)

GB = 1 << 30
GOOD = attrs.evolve(
    look_at_machine(),
    gil=True,
    cores=4,
    usable_cores=4,
    quota_cores=None,
    load=0.5,
    memory_bytes=16 * GB,
    available_bytes=8 * GB,
    memory_limit_bytes=None,
    memory_used_bytes=None,
    open_files=1024,
    shared_memory=None,
)


@pytest.fixture
def root(tmp_path):
    """A machine made of files."""

    def make(cgroup, **files):
        for name, text in {"proc/self/cgroup": cgroup, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return look_at_machine(tmp_path)

    return make


def levels(machine=GOOD, dispatches=(), services=()):
    return [each.level for each in findings_of(machine, dispatches, services)]


# What there is.


def test_the_machine_is_looked_at():
    machine = look_at_machine()
    assert machine.cores >= machine.usable_cores == len(os.sched_getaffinity(0))
    assert machine.shared_memory is None
    assert machine.memory_bytes > machine.available_bytes > 0
    assert "fork" in machine.start_methods


def test_the_limits_of_a_control_group_of_version_2_are_those_of_all_above_it(root):
    machine = root(
        "0::/a/b\n",
        **{
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/memory.max": f"{GB}\n",
            "sys/fs/cgroup/a/memory.current": "1000\n",
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
        },
    )
    assert machine.quota_cores == 1.5
    assert (machine.memory_limit_bytes, machine.memory_used_bytes) == (GB, 1000)
    assert machine.memory_bytes == 16_000_000 * 1024


def test_the_limits_of_control_groups_of_version_1_are_found(root):
    machine = root(
        "4:memory:/job\n2:cpu,cpuacct:/job\n",
        **{
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GB}\n",
        },
    )
    assert (machine.quota_cores, machine.memory_limit_bytes) == (2.0, GB)


def test_without_limits_there_are_none(root):
    machine = root("0::/\n", **{"sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert (machine.quota_cores, machine.memory_limit_bytes, machine.memory_bytes) == (None,) * 3


# What a call costs.


def test_a_call_is_measured_on_each_executor(monkeypatch):
    monkeypatch.setattr(_doctor, "_ONE_BY_ONE", 5)
    monkeypatch.setattr(_doctor, "_AT_ONCE", 20)
    found = measure_dispatch()
    assert [each.executor for each in found] == ["inline", "thread", "process"]
    assert all(each.error is None and each.start > 0 < each.one for each in found)


def test_an_executor_that_does_not_work_is_told_with_its_error(monkeypatch):
    def broken(*_):
        raise OSError("no more processes")

    monkeypatch.setattr(_doctor, "ProcessExecutor", broken)
    monkeypatch.setattr(_doctor, "_AT_ONCE", 20)
    process = measure_dispatch()[-1]
    assert process.error == "OSError: no more processes"
    (finding,) = findings_of(GOOD, [process])
    assert (finding.level, "does not work: OSError" in finding.what) == ("wrong", True)


# Services.


def answers(body, status=200, extra="Hybrid-Compute: 1\r\n"):
    def handle(peer):
        while peer.request() is not None:
            peer.answer(body, status, extra=extra)

    return handle


def test_a_service_is_asked_for_its_tasks_and_how_long_that_takes():
    with serving(answers(b'{"tasks": [{"name": "echo"}]}')) as port:
        found = visit(f"ws://127.0.0.1:{port}/ws")
    assert (found.own, found.tasks, found.status, found.error) == (True, ("echo",), 200, None)
    assert found.connect > 0 < found.round_trip
    assert levels(services=[found]) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"error": "token"}', 401, "it refuses the token (status 401)"),
        (b'{"error": "name"}', 421, "it does not go by that name"),
        (b"busy", 503, "it is in trouble (status 503)"),
        (b'{"tasks": []}', 200, "offers no task to this token"),
    ],
)
def test_what_is_wrong_with_a_service_is_told(body, status, words):
    with serving(answers(body, status)) as port:
        found = visit(f"http://127.0.0.1:{port}")
    (finding,) = findings_of(GOOD, services=[found])
    assert finding.level == "wrong"
    assert words in finding.what
    assert finding.remedy


def test_a_service_of_somebody_else_is_no_fault():
    with serving(answers(b"<html>", 404, extra="")) as port:
        found = visit(f"http://127.0.0.1:{port}")
    (finding,) = findings_of(GOOD, services=[found])
    assert (finding.level, "no server of this library" in finding.what) == ("note", True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ftp://x"])
def test_a_service_that_is_not_there_is_wrong(url):
    found = visit(url)
    assert found.error
    assert levels(services=[found]) == ["wrong"]


# The judgement.


def test_nothing_is_wrong_with_a_good_machine():
    good = Dispatch(executor="thread", start=1e-3, one=2e-5, many=2e-6)
    assert levels(dispatches=[good], services=[Service(url="u", own=True, tasks=("a",))]) == []


@pytest.mark.parametrize(
    ("change", "level", "what", "remedy"),
    [
        ({"quota_cores": 1.5}, "wrong", "may use 1.5 cores' worth", "max_processes=1)"),
        ({"quota_cores": 2.0}, "wrong", "pools see 4 cores", "max_processes=2)"),
        ({"available_bytes": GB // 2}, "wrong", "the machine has 537 MB", "max_processes=2)"),
        (
            {"memory_limit_bytes": GB, "memory_used_bytes": GB // 2},
            "wrong",
            "the container may use 537 MB more",
            "max_memory_per_child",
        ),
        ({"open_files": 64}, "wrong", "may have 64 files open", "ulimit -n"),
        ({"shared_memory": "OSError: no"}, "wrong", "no shared memory (OSError: no)", "memfd"),
        ({"load": 9.0}, "note", "9.0 wanted a core", "quiet"),
        ({"cores": 8}, "note", "4 of 8 cores", "taskset"),
        ({"gil": False}, "note", "has no GIL", "need no process"),
        ({"cores": 1, "usable_cores": 1}, "note", "there is one core", "threads for what waits"),
    ],
)
def test_each_fault_is_told_with_its_remedy(change, level, what, remedy):
    (finding,) = findings_of(attrs.evolve(GOOD, **change))
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy


def test_a_quota_of_as_many_cores_as_there_are_is_no_fault():
    assert levels(attrs.evolve(GOOD, quota_cores=4.0, memory_limit_bytes=8 * GB)) == []


def test_what_is_wrong_comes_first():
    found = levels(attrs.evolve(GOOD, load=9.0, open_files=64))
    assert found == ["wrong", "note"]


def test_a_slow_executor_is_noted():
    (finding,) = findings_of(GOOD, [Dispatch(executor="process", one=0.02)])
    assert finding.what == "a call on 'process' takes 20 ms, a hundred times what is usual"


# The command.


def test_the_command_says_what_is_wrong_and_its_status_is_1():
    done = run("doctor", "http://127.0.0.1:1/compute")
    assert (done.returncode, done.stderr) == (1, "")
    for words in ("usable of", "one at a time", "process", "no answer", "wrong", "-> start it"):
        assert words in done.stdout


def test_the_command_prints_json():
    with serving(answers(b'{"tasks": [{"name": "echo"}]}')) as port:
        done = run("doctor", "--json", f"http://127.0.0.1:{port}/compute")
    data = json.loads(done.stdout)
    assert set(data) == {"machine", "dispatch", "services", "findings"}
    assert data["services"][0]["tasks"] == ["echo"]
    wrong = [each for each in data["findings"] if each["level"] == "wrong"]
    assert done.returncode == bool(wrong)
