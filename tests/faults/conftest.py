"""What only the fault tests need."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

# Assertions that are made outside of test modules.
pytest.register_assert_rewrite("tests.faults.scenario", "tests.faults.processes")


class MemoryGroup:
    """A control group with a limit of memory, which processes enter by writing their id to it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.procs = folder / "cgroup.procs"
        folder.mkdir()
        try:
            if (folder / "memory.max").exists():  # version 2
                (folder / "memory.max").write_text(str(limit))
                if (folder / "memory.swap.max").exists():
                    (folder / "memory.swap.max").write_text("0")
            else:
                (folder / "memory.limit_in_bytes").write_text(str(limit))
                if (folder / "memory.memsw.limit_in_bytes").exists():
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
        except BaseException:
            folder.rmdir()
            raise

    def end(self) -> None:
        """Remove it, once the last of its processes is buried."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return


def _parent_group() -> Path:
    """Return where groups with a limit of memory can be made.

    Raises:
        OSError: nowhere, with the reason.
    """
    roots = [
        Path(line.split()[1])
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[2] == "cgroup" and "memory" in line.split()[3].split(",")
    ]
    if roots:
        return roots[0]
    for line in Path("/proc/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            root = Path(target)
            if "memory" not in (root / "cgroup.controllers").read_text().split():
                continue
            control = root / "cgroup.subtree_control"
            if "memory" not in control.read_text().split():
                control.write_text("+memory")
            return root
    raise OSError("no control group file system with the memory controller is mounted")


@contextlib.contextmanager
def alone(name):
    """Wait until nobody else does this, in whatever run of these tests on this machine."""
    path = Path(tempfile.gettempdir()) / f"hybrid-compute-{name}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def not_here(why):
    """Skip the test, which this machine cannot run; where all must run, fail it."""
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture
def memory_group():
    """Give a control group of 100 MB; one test at a time, also of other runs of these tests.

    The kernel counts the processes that it kills for want of memory for the whole machine too;
    another test's would be taken for one's own.
    """
    with alone("memory-group"):
        try:
            folder = _parent_group() / f"hybrid-compute-test-{os.getpid()}"
            group = MemoryGroup(folder, 100 << 20)
        except OSError as error:
            not_here(f"needs a control group of its own, as root: {error}")
        try:
            yield group
        finally:
            group.end()
