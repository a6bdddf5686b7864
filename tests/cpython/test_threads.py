"""The thread part of CPython's tests, against HybridExecutor and against ThreadExecutor."""

from __future__ import annotations

import pytest

from . import adapt, suite

if suite.path_entry() is None:
    pytest.skip(suite.MISSING, allow_module_level=True)

# One of the tests forks while threads run, which it is about.
pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

CASES = (
    ("test_thread_pool", "ThreadPoolExecutorTest"),
    ("test_init", "ThreadPoolInitializerTest"),
    ("test_init", "ThreadPoolFailingInitializerTest"),
    ("test_wait", "ThreadPoolWaitTests"),
    ("test_as_completed", "ThreadPoolAsCompletedTest"),
    ("test_shutdown", "ThreadPoolShutdownTest"),
)

for _name in ("HybridExecutor", "ThreadExecutor"):
    for _module, _case in CASES:
        globals()[f"{_name}_{_case}"] = adapt.derive(_module, _case, _name)
