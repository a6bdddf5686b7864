"""The one table of CPython's tests that are not run against our executors, each with its reason.

An id is `module.TestCase.test`. `test_exclusions.py` asserts that each exists.
"""

from __future__ import annotations

import sys

import attrs

from hybrid_compute import errors

POOL = "test_process_pool.ProcessPoolSpawnProcessPoolExecutorTest"
DOWN = "test_shutdown.ProcessPoolSpawnProcessPoolShutdownTest"
DEAD = "test_deadlock.ProcessPoolSpawnExecutorDeadlockTest"

_PROCESSES = "reads executor._processes, the private table of the stdlib's workers"
_MANAGER = "reads executor._executor_manager_thread and executor._call_queue, which are private"

EXCLUDED = {
    f"{POOL}.test_killed_child": (
        _PROCESSES + "; and asserts that one crash breaks the whole pool, which it does not here"
    ),
    f"{POOL}.test_saturation": _PROCESSES,
    f"{POOL}.test_idle_process_reuse_one": _PROCESSES,
    f"{POOL}.test_idle_process_reuse_multiple": _PROCESSES,
    f"{POOL}.test_max_tasks_per_child": _PROCESSES,
    f"{POOL}.test_max_tasks_per_child_defaults_to_spawn_context": (
        "reads executor._mp_context, which is private"
    ),
    f"{POOL}.test_max_workers_too_large": "tests a limit of Windows, and only there",
    f"{POOL}.test_python_finalization_error": (
        "asserts that the pool breaks when a thread private to the stdlib's pool, its queue "
        "feeder, cannot start; there is none here"
    ),
    f"{DOWN}.test_processes_terminate": _PROCESSES,
    f"{DOWN}.test_context_manager_shutdown": _PROCESSES,
    f"{DOWN}.test_del_shutdown": _MANAGER,
    f"{DOWN}.test_shutdown_no_wait": _MANAGER,
    f"{DEAD}.test_shutdown_deadlock_pickle": "reads executor._executor_manager_thread",
    "test_init.FailingInitializerResourcesTest.test_forkserver": (
        "repeats test_spawn for another start method, and a ProcessExecutor has but one"
    ),
}

# By the version that runs the tests, which may be older than the one they are from.
if sys.version_info < (3, 12):
    EXCLUDED["test_init.FailingInitializerResourcesTest.test_spawn"] = (
        "reads multiprocessing.resource_tracker._resource_tracker._exitcode, which 3.11 lacks"
    )

# Each test of the process part exists once for each start method. A ProcessExecutor has one way
# to start its workers, so the classes for `spawn` run and these do not.
OTHER_START_METHODS = ("ProcessPoolFork", "ProcessPoolForkserver")


@attrs.frozen
class Instead:
    """What a ProcessExecutor raises where the stdlib's pool breaks or lets the worker exit."""

    there: str
    here: type[BaseException]
    reason: str


_ONE_ITEM = "only the item that cannot be pickled or unpickled fails, and with the reason"

# These run, but the one error that each of them expects has another type here: by id, the name
# that the test has for it and the type that takes its place.
OTHER_ERRORS = {
    f"{DEAD}.test_error_at_task_unpickle": Instead(
        "BrokenProcessPool", errors.TaskDecodeError, _ONE_ITEM
    ),
    f"{DEAD}.test_exit_at_task_unpickle": Instead(
        "BrokenProcessPool", errors.TaskDecodeError, _ONE_ITEM
    ),
    f"{DEAD}.test_error_during_result_unpickle_in_result_handler": Instead(
        "BrokenProcessPool", errors.ResultDecodeError, _ONE_ITEM
    ),
    f"{DEAD}.test_exit_during_result_unpickle_in_result_handler": Instead(
        "BrokenProcessPool", errors.ResultDecodeError, _ONE_ITEM
    ),
    f"{DEAD}.test_exit_during_result_pickle_on_worker": Instead(
        "SystemExit", errors.ResultEncodeError, _ONE_ITEM
    ),
}
