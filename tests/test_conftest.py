"""The fixture `nothing_leaks` sees each kind of leak, and only leaks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest

from tests import conftest


@pytest.fixture
def before(monkeypatch):
    monkeypatch.setattr(conftest, "GRACE", 0.0)
    return conftest.Holdings.now()


def test_nothing_is_reported_when_nothing_is_left(before):
    assert conftest._leaks(before) == []


def test_a_thread_that_goes_on_is_reported_by_its_name(before):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    try:
        assert conftest._leaks(before) == ["thread 'forgotten'"]
    finally:
        end.set()
        thread.join()


def test_a_thread_that_is_about_to_end_is_waited_for(before, monkeypatch):
    monkeypatch.setattr(conftest, "GRACE", 60.0)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    # Ends only while the leaks are being looked for, and needs no sleep for that.
    monkeypatch.setattr(conftest.gc, "collect", end.set)
    assert conftest._leaks(before) == []


def test_a_child_process_is_reported_with_its_command(before):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        processes = [each for each in conftest._leaks(before) if each.startswith("process")]
        assert len(processes) == 1
        assert str(child.pid) in processes[0]
    finally:
        child.communicate()


def test_a_zombie_is_reported(before):
    true = shutil.which("true")
    pid = os.posix_spawn(true, [true], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    try:
        assert conftest._leaks(before) == [f"process {pid}: zombie: nobody waited for it"]
    finally:
        os.waitpid(pid, 0)


def test_an_open_descriptor_is_reported_with_what_it_refers_to(before, tmp_path):
    with open(tmp_path / "open", "w") as file:
        assert conftest._leaks(before) == [f"descriptor {file.fileno()}: {tmp_path / 'open'}"]


def test_a_shared_memory_segment_of_this_process_is_reported(before):
    name = f"hybrid-{os.getpid()}-0"
    path = conftest._SHM / name
    path.touch()
    try:
        assert conftest._leaks(before) == [f"shared memory {name}"]
    finally:
        path.unlink()
