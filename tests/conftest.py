"""What holds for every test: it must leave nothing behind.

The fixture `nothing_leaks` compares threads, child processes, file descriptors and shared-memory
segments before and after each test. Its two looks cost well under a millisecond; only when
something is left does it wait, for a bounded time, since a thread that was told to end needs a
moment.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import attrs
import hypothesis
import pytest

GRACE = 10.0  # seconds; only a leak, or a very busy machine, ever takes that long
STEP = threading.Event()  # never set: waiting for it is a pause

# A shell has what it runs in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes by the clock says how busy the machine is; a hang is pytest's affair.
hypothesis.settings.register_profile("without a deadline", deadline=None)
hypothesis.settings.load_profile("without a deadline")

_FDS = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")
_SHM = Path("/dev/shm")


@attrs.frozen
class Holdings:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    files: frozenset[tuple[int, str]]
    segments: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(frozenset(threading.enumerate()), _children(), _files(), frozenset(_segments()))

    def beyond(self, before: Holdings) -> list[str]:
        """Describe all that is here and was not there before."""
        return [
            *(f"thread {each.name!r}" for each in self.threads - before.threads),
            *(f"process {each}: {_command(each)}" for each in self.children - before.children),
            *(f"descriptor {fd}: {target}" for fd, target in self.files - before.files),
            *(f"shared memory {each}" for each in self.segments - before.segments),
        ]


def _children() -> frozenset[int]:
    pids: set[int] = set()
    for task in os.listdir(_TASKS):
        with suppress(OSError):  # the thread has ended
            pids.update(map(int, (_TASKS / task / "children").read_bytes().split()))
    return frozenset(pids - _trackers()[0])


def _files() -> frozenset[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    trackers = _trackers()[1]
    for name in os.listdir(_FDS):
        with suppress(OSError):  # the descriptor of this very listing
            target = os.readlink(_FDS / name)
            if int(name) not in trackers and not target.startswith("/proc/"):
                found.add((int(name), target))
    return frozenset(found)


def _segments() -> list[str]:
    # Others work on this machine too, with names of their own: only what carries our process id.
    mine = str(os.getpid())
    return [name for name in os.listdir(_SHM) if mine in name.replace("_", "-").split("-")]


def _trackers() -> tuple[set[int], set[int]]:
    """Return pid and descriptor of the resource trackers, one per process by the stdlib's design.

    The first semaphore or shared memory of multiprocessing starts one, and it stays.
    """
    pids, fds = set(), set()
    for name in (
        "multiprocessing.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
    ):
        tracker = getattr(sys.modules.get(name), "_resource_tracker", None)
        if tracker is not None and tracker._pid is not None:
            pids.add(tracker._pid)
            fds.add(tracker._fd)
    return pids, fds


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        return "ended"
    return words.decode(errors="replace")[:200] or "zombie: nobody waited for it"


def _leaks(before: Holdings) -> list[str]:
    """Return what is left once everything has had the time to end."""
    leaks = Holdings.now().beyond(before)
    if not leaks:
        return leaks
    gc.collect()  # what hangs in a cycle is freed late, not leaked
    deadline = time.monotonic() + GRACE
    for thread in threading.enumerate():
        if thread not in before.threads:
            thread.join(max(0, deadline - time.monotonic()))
    while (leaks := Holdings.now().beyond(before)) and time.monotonic() < deadline:
        STEP.wait(0.01)  # no condition tells of a closed descriptor or a reaped child
    return leaks


@pytest.fixture(autouse=True, scope="module")
def nothing_old_is_collected():
    """Take what is there out of the collector's sight: modules, which stay anyway, most of all.

    Otherwise each collection walks half a million objects, of libraries that a few tests use, for
    some tenths of a second; and one collection is what every thread costs that ends a moment after
    its test (`_leaks`), and what each test of what is freed asks for.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest):
    """Fail the test that leaves a thread, a process, a descriptor or a segment behind."""
    if "caplog" in request.fixturenames:
        gc.collect()  # failures that nobody saw, of other tests, are told of before, not meanwhile
    before = Holdings.now()
    yield
    if request.node.get_closest_marker("leaks"):
        return
    leaks = _leaks(before)
    if leaks:
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)
