"""Derives test cases from CPython's, in which other classes stand in the place of the stdlib's.

CPython's modules are not changed: what a test finds in the globals of its module is swapped
while it runs. Four kinds of things are adapted besides:

- `_threads` of a thread pool, which some tests read only to join or to name its threads, is
  answered by a subclass from `threading.enumerate()`.
- The argument `mp_context` is dropped: a ProcessExecutor has one way to start its workers.
- The multiprocessing.Queue that collects log records from workers, and that can only be
  inherited, is replaced by a file.
- Work that sleeps, and that a test leaves behind unfinished, sleeps no longer than the test: else
  half of the time of these tests would be that of their tearDown, which waits for it.

Also imported by the scripts that the tests run, so it imports no pytest.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import functools
import os
import pickle
import queue
import select
import tempfile
import threading
import time
import types
import unittest
import unittest.mock
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor
from typing import Any

from . import exclusions, suite

# Tests that set an alarm of their own, and so end the timer that pytest-timeout would set.
ALARMED = ("test_hang_gh94440", "test_gh105829_should_not_deadlock_if_wakeup_pipe_full")

# Where tests leave work behind that sleeps.
SLEEPY = ("test_wait", "test_as_completed")


def thread_pool(base: type[Executor]) -> type[Executor]:
    """Return `base` as it has to be for the tests of ThreadPoolExecutor."""

    class ThreadPoolExecutor(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._older = set(threading.enumerate())
            super().__init__(*args, **kwargs)

        @property
        def _threads(self) -> set[threading.Thread]:
            return set(threading.enumerate()) - self._older

    return ThreadPoolExecutor


def process_pool(base: type[Executor]) -> type[Executor]:
    """Return `base` as it has to be for the tests of ProcessPoolExecutor."""

    class ProcessPoolExecutor(base):
        def __init__(self, *args: Any, mp_context: Any = None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    return ProcessPoolExecutor


def target(name: str) -> type[Executor]:
    """Return the class that stands in, by the name it has in hybrid_compute."""
    import hybrid_compute

    base = getattr(hybrid_compute, name)
    return process_pool(base) if name == "ProcessExecutor" else thread_pool(base)


def enter_script(name: str) -> None:
    """Swap the class in `concurrent.futures` itself, in the interpreter of a script."""
    stand_in = target(name)
    setattr(concurrent.futures, stand_in.__name__, stand_in)


class _Module:
    """A module in which some names have other values."""

    def __init__(self, original: types.ModuleType, **names: Any) -> None:
        self._original = original
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _Context:
    """A multiprocessing context whose queue is a file."""

    def __init__(self, test: unittest.TestCase, original: Any) -> None:
        self._test = test
        self._original = original

    def Queue(self) -> LogFile:
        log = LogFile()
        self._test.addCleanup(log.remove)
        return log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class LogFile:
    """What a logging.handlers.QueueHandler and the tests need of a queue, across processes."""

    def __init__(self) -> None:
        handle, self.path = tempfile.mkstemp(prefix="log-records-")
        os.close(handle)
        self.read = 0

    def put_nowait(self, record: Any) -> None:
        # One write to a file opened for appending: records of several workers do not mix.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(handle, pickle.dumps(record))
        os.close(handle)

    def get_nowait(self) -> Any:
        with open(self.path, "rb") as file:
            file.seek(self.read)
            try:
                record = pickle.load(file)
            except EOFError:
                raise queue.Empty from None
            self.read = file.tell()
        return record

    def remove(self) -> None:
        os.unlink(self.path)


class Night:
    """What `rest` lasts for at most: until the test is over. A pipe by a name, to reach workers."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rest-")
        self._path = os.path.join(self._folder.name, "pipe")
        os.mkfifo(self._path)
        self._writer: int | None = os.open(self._path, os.O_RDWR)  # which waits for no reader

    def sleep(self) -> Callable[[float], None]:
        """Return what stands in for `time.sleep`, which can be pickled as that can."""
        return functools.partial(rest, self._path)

    def end(self) -> None:
        """Wake all that sleep; idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            os.unlink(self._path)  # before: who opens it without a writer is not told
            os.close(writer)

    def remove(self) -> None:
        self.end()
        self._folder.cleanup()


def rest(path: str, seconds: float) -> None:
    """Sleep, until the other end of this pipe is closed at the latest."""
    try:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        poll = select.poll()
        poll.register(reader, 0)  # that the other end was closed is told unasked
        poll.poll(seconds * 1000)
    finally:
        os.close(reader)


def _run_script(original: Callable[..., Any], name: str, *args: str, **env: str) -> Any:
    """`assert_python_ok` of a script that finds our class in the stdlib's place."""
    paths = [suite.ROOT, suite.path_entry()]
    prelude = (
        f"import sys, multiprocessing; sys.path[:0] = {paths!r}; "
        f"from tests.cpython import adapt; adapt.enter_script({name!r}); "
        # Scripts that name a start method: there is none to set.
        "multiprocessing.set_start_method = lambda method: None\n"
    )
    option, script = args
    assert option == "-c"
    return original(option, prelude + script, **env)


def _swaps(module: types.ModuleType, name: str, stand_in: type[Executor]) -> dict[str, Any]:
    """Return the globals of a test module that need another value."""
    swaps: dict[str, Any] = {}
    names = vars(module)
    if "futures" in names:
        # A subclass: one test asks whether it runs on the stdlib's class, to skip itself.
        direct = type(stand_in.__name__, (stand_in,), {})
        swaps["futures"] = _Module(concurrent.futures, **{stand_in.__name__: direct})
        if module.__name__.endswith(".test_process_pool"):
            # The type of the cause that carries a worker's traceback is private there and here.
            from hybrid_compute._failures import RemoteTraceback

            process = concurrent.futures.process
            swaps["futures"].process = _Module(process, _RemoteTraceback=RemoteTraceback)
    if "BrokenProcessPool" in names:
        swaps["BrokenProcessPool"] = BrokenExecutor
    if "assert_python_ok" in names:
        swaps["assert_python_ok"] = functools.partial(_run_script, names["assert_python_ok"], name)
    if "os" in names and not hasattr(os, "process_cpu_count"):
        swaps["os"] = _Module(os, process_cpu_count=os.cpu_count)  # its name before 3.13
    return swaps


def derive(
    module_name: str,
    class_name: str,
    name: str,
    *,
    after: Callable[[Any], object] = lambda test: None,
) -> type[unittest.TestCase]:
    """Return one of CPython's test cases with the executor class swapped.

    Args:
        module_name: a module of CPython's package.
        class_name: a test case of that module.
        name: the class under test, by its name in hybrid_compute.
        after: called with the test after its own setUp.
    """
    module = suite.module(module_name)
    stand_in = target(name)
    swaps = _swaps(module, name, stand_in)
    members: dict[str, Any] = {"executor_type": stand_in}
    original = getattr(module, class_name)
    if class_name == "ProcessPoolSpawnFailingInitializerTest":
        members["get_context"] = lambda self: _Context(self, original.get_context(self))
    return swap(module_name, class_name, swaps, after=after, **members)


def swap(
    module_name: str,
    class_name: str,
    swaps: Mapping[str, Any],
    *,
    before: Callable[[Any], object] = lambda test: None,
    after: Callable[[Any], object] = lambda test: None,
    **members: Any,
) -> type[unittest.TestCase]:
    """Return one of CPython's test cases without its excluded tests.

    Args:
        module_name: a module of CPython's package.
        class_name: a test case of that module.
        swaps: the globals of the module that have another value while a test runs.
        before: called with the test before its own setUp.
        after: called with the test after its own setUp.
        members: further members of the returned subclass.
    """
    module = suite.module(module_name)
    original = getattr(module, class_name)
    identity = f"{module_name}.{class_name}"

    def set_up(self: Any) -> None:
        instead = exclusions.OTHER_ERRORS.get(f"{identity}.{self._testMethodName}")
        here: dict[str, Any] = {} if instead is None else {instead.there: instead.here}
        if module_name in SLEEPY:
            self.night = Night()
            self.addCleanup(self.night.remove)
            here["time"] = _Module(time, sleep=self.night.sleep())
        for name, value in {**swaps, **here}.items():
            patcher = unittest.mock.patch.object(module, name, value, create=name in here)
            patcher.start()
            self.addCleanup(patcher.stop)
        before(self)
        super(derived, self).setUp()
        after(self)

    def tear_down(self: Any) -> None:
        if module_name in SLEEPY:
            self.night.end()
        super(derived, self).tearDown()

    # A name that is no function is no test.
    left_out = dict.fromkeys(
        each.removeprefix(identity + ".")
        for each in exclusions.EXCLUDED
        if each.startswith(identity + ".")
    )
    if hasattr(original, "_test_traceback"):
        # A class method that is sent to a worker, which can import the original class only.
        members["_test_traceback"] = staticmethod(original._test_traceback)
    derived = type(
        class_name,
        (original,),
        {
            "__module__": __name__,
            "setUp": set_up,
            "tearDown": tear_down,
            **left_out,
            **members,
        },
    )
    return derived
