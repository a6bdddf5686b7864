"""The executors under test: the stdlib's, and everything of ours that takes its place.

A maker is a piece of source that defines `make(*args, **kwargs)`, so that the same one serves
inside of the test run and in a script that the test runs in an interpreter of its own.
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import attrs

TIMEOUT = 20.0  # seconds; only a test that fails ever waits so long

Make = Callable[..., Executor]


@attrs.frozen
class Maker:
    """A way to get an executor.

    Attributes:
        name: the id in the names of tests.
        source: Python that defines `make` (and `cls`, the class, if it is one to inherit from).
    """

    name: str
    source: str

    def load(self) -> dict[str, Any]:
        """Run the source and return what it defined."""
        namespace: dict[str, Any] = {"__name__": f"maker_{self.name}"}
        exec(self.source, namespace)
        return namespace


def _class(module: str, cls: str) -> str:
    return f"from {module} import {cls} as cls\nmake = cls\n"


def _policy(expression: str) -> str:
    return textwrap.dedent(
        f"""
        from hybrid_compute import HybridExecutor
        from hybrid_compute.policy import Adaptive, Always, Prefer, Rules, tagged, when

        class cls(HybridExecutor):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, policy={expression}, **kwargs)

        make = cls
        """
    )


_VIEW = """
from hybrid_compute import HybridExecutor

def make(*args, **kwargs):
    return HybridExecutor(*args, **kwargs).options()
"""

# An executor with a past: a learned route must not change what a program means. It starts
# threads, so tests of a first start use the other makers.
_SEASONED = """
from hybrid_compute import HybridExecutor

def quick(*args):
    return args

def make(*args, **kwargs):
    executor = HybridExecutor(*args, **kwargs)
    for _ in range(3):
        for future in [executor.submit(quick, n) for n in range(1000)]:
            future.result()
    assert sum(1 for _ in executor.map(quick, range(3000))) == 3000
    return executor
"""

STDLIB = Maker("stdlib", _class("concurrent.futures", "ThreadPoolExecutor"))
THREAD = Maker("thread", _class("hybrid_compute", "ThreadExecutor"))
DEFAULT = Maker("hybrid", _class("hybrid_compute", "HybridExecutor"))
POLICIES = (
    Maker("always-thread", _policy('Always("thread")')),
    Maker("always-inline", _policy('Always("inline")')),
    Maker("always-process", _policy('Always("process")')),
    Maker("prefer", _policy('Prefer("process", "inline")')),
    Maker("rules", _policy('Rules(when(tagged("gpu"), "inline"), default="process")')),
    Maker("adaptive", _policy("Adaptive()")),
)
VIEW = Maker("view", _VIEW)
SEASONED = Maker("seasoned", _SEASONED)

WHOLE = (STDLIB, THREAD, DEFAULT, *POLICIES)
FRESH = (*WHOLE, VIEW)
ALL = (*FRESH, SEASONED)
# For tables of many cases: one of each kind of way that a call can take.
NARROW = (STDLIB, THREAD, DEFAULT, POLICIES[2], SEASONED)
# For scripts, each of which takes an interpreter: a plain call has one way for all policies that
# leave it on threads, so that one of them will do. All of them are in tests that run right here.
SCRIPTED = (STDLIB, THREAD, DEFAULT, POLICIES[2], VIEW)
OURS = tuple(maker for maker in FRESH if maker is not STDLIB)

# Events that work may be blocked on: set when the test is over, however it ended, so that the
# executors can be shut down.
_events: list[threading.Event] = []


def new_event() -> threading.Event:
    """Return an event that is set at the latest when the test is over."""
    event = threading.Event()
    _events.append(event)
    return event


def release_all() -> None:
    """Set every event that `new_event` made."""
    while _events:
        _events.pop().set()


def nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def settle(executor: Executor) -> None:
    """Return when a pool of one worker has let go of all that was submitted before.

    A worker delivers a result a moment before it drops its own references; once it runs
    another call, it has.
    """
    executor.submit(nothing).result(TIMEOUT)


def block(executor: Executor, workers: int = 1) -> threading.Event:
    """Occupy so many workers until the event that is returned is set."""
    release = new_event()
    started = threading.Barrier(workers + 1)

    def wait() -> None:
        started.wait(TIMEOUT)
        release.wait()

    for _ in range(workers):
        executor.submit(wait)
    started.wait(TIMEOUT)
    return release
