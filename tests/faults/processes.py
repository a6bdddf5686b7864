"""What /proc says about processes, and scripts in an interpreter of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import hybrid_compute

ROOT = str(Path(hybrid_compute.__file__).parents[1])
MARK = "HYBRID_COMPUTE_FAULT_TEST"
STEP = 0.005  # seconds; nothing but a look tells that a stranger's process has ended


def is_alive(pid):
    """Say whether there is such a process; one that only waits to be buried is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def are_gone(pids, seconds=3.0):
    """Wait until none of them lives; return those that still do when the time is up."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(STEP)
    return not left


def wait_until(condition, seconds=60.0):
    """Wait until the condition is true; fail if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(STEP)


def children_of(pid):
    """Return the process ids of the living children of a process."""
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                listed = Path(f"/proc/{pid}/task/{thread}/children").read_text()
                found.update(map(int, listed.split()))
    return sorted(pid for pid in found if is_alive(pid))


def spawners_of(pid=None):
    """Return the processes that fork workers for executors of a process: of this one if None."""
    found = []
    for child in children_of(pid or os.getpid()):
        with contextlib.suppress(OSError):
            if b"hybrid_compute/executors/" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def workers_of(pid=None):
    """Return the worker processes of the executors of a process."""
    return [worker for spawner in spawners_of(pid) for worker in children_of(spawner)]


def marked(mark):
    """Return all living processes that have inherited a mark, wherever they hang in the tree."""
    words = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                if words in Path(f"/proc/{name}/environ").read_bytes() and is_alive(name):
                    found.append(int(name))
    return found


def start_script(source, *args, mark=None, **env):
    """Start Python on this source, in a session of its own; all its processes have the mark."""
    return subprocess.Popen(
        # From Python 3.12 on, a fork with threads warns; what comes of it is what is tested.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", source, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT, MARK: mark or new_mark(), **env},
        start_new_session=True,
    )


def run_script(source, *args, timeout=60.0, **env):
    """Run Python on this source until it ends; return its exit code, stdout and stderr."""
    with start_script(source, *args, **env) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return process.returncode, out, err


def new_mark():
    return uuid.uuid4().hex
