"""What the kernel tells of memory: who was killed for it, and how much a process has.

Reads files of /proc and of the control groups; on a system without them, it knows nothing, and
says so. No threads, no state.
"""

from __future__ import annotations

from typing import Any

__all__ = ["OomCounter", "process_of", "read"]


class OomCounter:
    """How often the kernel has killed for want of memory where a process lives.

    That is its memory control group, be it of version 1 or 2; and the whole machine, since a
    process may have moved to another group.
    """

    def __init__(self, pid: int) -> None:
        self._files = [file for file in (_counter_of(pid), "/proc/vmstat") if file]
        self.refresh()

    def refresh(self) -> None:
        """Count from now on. Takes some 100 us."""
        self._before = [_count(file) for file in self._files]

    def rose(self) -> bool:
        """Say whether it has happened since."""
        after = [_count(file) for file in self._files]
        pairs = zip(self._before, after, strict=True)
        return any(a is not None and b is not None and b > a for a, b in pairs)


def _counter_of(pid: int) -> str | None:
    try:
        lines = read(f"/proc/{pid}/cgroup").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "memory":
            candidates = [f"/sys/fs/cgroup/memory/{below}/memory.oom_control"]
        elif not controllers:
            candidates = [
                f"{root}/{below}/memory.events"
                for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
            ]
        else:
            continue
        for file in candidates:
            if _count(file) is not None:
                return file
    return None


def _count(file: str) -> int | None:
    try:
        for line in read(file).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return None


def read(file: str) -> str:
    """Return a file's text, without pathlib: it takes longer to import than a worker to start."""
    with open(file, errors="replace") as opened:  # noqa: PTH123 - see above
        return opened.read()


def process_of(pid: int) -> Any:
    """Return psutil's handle of a process; needs the extra `process`.

    Raises:
        ImportError: psutil is not installed.
        psutil.Error: the process is gone.
    """
    import psutil  # noqa: PLC0415 - an extra

    return psutil.Process(pid)
