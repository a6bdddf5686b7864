"""The process part of CPython's tests, its deadlock tests among them, against ProcessExecutor."""

from __future__ import annotations

import unittest.mock
from multiprocessing import resource_tracker

import pytest

from hybrid_compute._failures import RemoteTraceback

from . import adapt, suite

if suite.path_entry() is None:
    pytest.skip(suite.MISSING, allow_module_level=True)

CASES = (
    ("test_process_pool", "ProcessPoolSpawnProcessPoolExecutorTest"),
    ("test_deadlock", "ProcessPoolSpawnExecutorDeadlockTest"),
    ("test_init", "ProcessPoolSpawnInitializerTest"),
    ("test_init", "ProcessPoolSpawnFailingInitializerTest"),
    ("test_wait", "ProcessPoolSpawnWaitTest"),
    ("test_as_completed", "ProcessPoolSpawnAsCompletedTest"),
    ("test_shutdown", "ProcessPoolSpawnProcessPoolShutdownTest"),
)


def _prepare(test):
    if test._testMethodName == "test_cancel_futures":
        # It asserts that of 50 quick submits at least one started before all are cancelled. The
        # stdlib counts as started what is in its queue, though its workers are not there yet;
        # here a call starts when a worker gets it, and so the workers have to be there.
        test.executor.submit(int).result()
    if test._testMethodName == "test_traceback":
        # The stdlib's private class has the text as an attribute as well.
        text = unittest.mock.patch.object(RemoteTraceback, "tb", property(str), create=True)
        text.start()
        test.addCleanup(text.stop)


for _module, _case in CASES:
    globals()[f"ProcessExecutor_{_case}"] = adapt.derive(
        _module, _case, "ProcessExecutor", after=_prepare
    )


def _with_tracker(self):
    # The tests stop multiprocessing's tracker and read its exit code, and a ProcessExecutor,
    # unlike the stdlib's pool, does not start one.
    resource_tracker.ensure_running()


# Runs one of the test cases above, and then looks whether it has left resources behind.
ProcessExecutor_FailingInitializerResourcesTest = adapt.swap(
    "test_init",
    "FailingInitializerResourcesTest",
    {
        "ProcessPoolSpawnFailingInitializerTest": globals()[
            "ProcessExecutor_ProcessPoolSpawnFailingInitializerTest"
        ]
    },
    before=_with_tracker,
)
