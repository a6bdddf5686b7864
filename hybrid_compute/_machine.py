"""What this machine offers to a program: cores, memory, limits, ways to start processes.

Owns where each figure is found. Reads files and asks the system; measures nothing, changes nothing.
Linux tells the most; what another system does not tell is None. No threads, no state.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from hybrid_compute.executors._segments import shared_memory

__all__ = ["Machine", "look_at_machine"]


@attrs.frozen(kw_only=True)
class Machine:
    """What there is.

    Attributes:
        python: implementation and version.
        system: operating system and processor.
        gil: whether threads share one GIL, so that one of them at a time runs Python.
        cores: that the machine has.
        usable_cores: that this process may run on, by its affinity.
        quota_cores: how many cores' worth of time its cgroup may use; None: any.
        load: programs that wanted a core in the last minute, on average; None: not told.
        memory_bytes: of the machine; None: not told.
        available_bytes: of these, what could be had; None likewise.
        memory_limit_bytes: what its cgroup may use; None: any.
        memory_used_bytes: what its cgroup uses; None: there is no limit.
        open_files: how many it may have open.
        start_methods: of multiprocessing, the default first.
        shared_memory: what goes wrong with shared memory; None: nothing does.
        shm_free_bytes: room in /dev/shm; None: there is no such.
    """

    python: str
    system: str
    gil: bool
    cores: int
    usable_cores: int
    quota_cores: float | None
    load: float | None
    memory_bytes: int | None
    available_bytes: int | None
    memory_limit_bytes: int | None
    memory_used_bytes: int | None
    open_files: int | None
    start_methods: tuple[str, ...]
    shared_memory: str | None
    shm_free_bytes: int | None


def look_at_machine(root: Path = Path("/")) -> Machine:
    """Return what this machine offers.

    Args:
        root: where `proc`, `sys` and `dev` are.
    """
    limit, used = _memory_limit(root)
    memory, available = _memory(root)
    cores = os.cpu_count() or 1
    return Machine(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        gil=getattr(sys, "_is_gil_enabled", lambda: True)(),
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        quota_cores=_quota(root),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory_bytes=memory,
        available_bytes=available,
        memory_limit_bytes=limit if limit is not None and limit < (memory or limit + 1) else None,
        memory_used_bytes=used if limit is not None and limit < (memory or limit + 1) else None,
        open_files=_open_files(),
        start_methods=tuple(multiprocessing.get_all_start_methods()),
        shared_memory=_try_shared_memory(),
        shm_free_bytes=_free(root / "dev/shm"),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Give the folders of this process's cgroup and of all above it, for version 2, then 1."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if names not in ("", controller) and controller not in names.split(","):
            continue
        mount = root / "sys/fs/cgroup"
        if names:
            mount /= controller
        folder = mount / path.lstrip("/")
        # In a container its own group may be mounted at the top, under the path of the outside.
        yield from [each for each in (folder, *folder.parents) if each.is_relative_to(mount)]


def _quota(root: Path) -> float | None:
    found = []
    for folder in _cgroups(root, "cpu"):
        words = (_read(folder / "cpu.max") or "").split()
        if not words:
            words = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        numbers = [_number(each) for each in words]
        if len(numbers) == 2 and numbers[0] and numbers[1]:
            found.append(numbers[0] / numbers[1])
    return min(found, default=None)


def _memory_limit(root: Path) -> tuple[int | None, int | None]:
    found = []
    for folder in _cgroups(root, "memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most = _number(_read(folder / limit))
            if most:
                found.append((most, _number(_read(folder / used))))
    return min(found, default=(None, None), key=lambda each: each[0] or 0)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _memory(root: Path) -> tuple[int | None, int | None]:
    found: dict[str, int] = {}
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found.get("MemTotal"), found.get("MemAvailable")


def _open_files() -> int | None:
    try:
        import resource  # noqa: PLC0415 - not everywhere
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _try_shared_memory() -> str | None:
    try:
        os.close(shared_memory(1 << 20, "doctor"))
    except Exception as error:  # whatever keeps it from working
        return f"{type(error).__name__}: {error}"
    return None


def _free(path: Path) -> int | None:
    try:
        found: Any = os.statvfs(path)
    except (OSError, AttributeError):
        return None
    return int(found.f_bavail * found.f_frsize)
