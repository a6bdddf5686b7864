"""The plugin for pytest: its fixtures, and what it costs those who use none of them."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

USES = """
import socket, threading
from hybrid_compute import task
from hybrid_compute.testing import assert_routed

@task
def double(x):
    return 2 * x

def test_all_together(hybrid_executor, manual_executor, recorder):
    future = hybrid_executor.options(executor="manual").submit(double, 2)
    assert not future.done()
    manual_executor.run_all()
    assert_routed(future, "manual")
    assert recorder.kinds() == ["submitted", "routed", "started", "succeeded"]

def test_what_is_pending_at_the_end_is_cancelled(hybrid_executor, manual_executor):
    global pending
    pending = hybrid_executor.options(executor="manual").submit(double, 2)

def test_it_was():
    assert pending.cancelled()
    assert threading.active_count() == 1

def test_the_manual_executor_alone(manual_executor):
    global pending
    pending = manual_executor.submit(double, 2)

def test_its_work_was_cancelled():
    assert pending.cancelled()

def test_alone(hybrid_executor):
    assert "manual" not in hybrid_executor.stats().executors
    assert hybrid_executor.submit(double, 2).result() == 4

def test_a_proxy_is_closed_at_the_end(fault_proxy):
    global proxy
    with socket.create_server(("127.0.0.1", 0)) as target:
        proxy = fault_proxy(target.getsockname()[1])
        with socket.create_connection((proxy.host, proxy.port)) as near:
            far, _ = target.accept()
            near.sendall(b"x")
            assert far.recv(1) == b"x"
            far.close()

def test_it_is_closed():
    assert threading.active_count() == 1
"""

USES_NOTHING = """
import sys

def test_nothing_of_the_library_is_loaded_but_the_plugin():
    loaded = {name for name in sys.modules if name.partition(".")[0] == "hybrid_compute"}
    assert loaded == {
        "hybrid_compute", "hybrid_compute.testing", "hybrid_compute.testing.plugin"
    }
    assert "requests" not in sys.modules
"""

PLUGINS = ("-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider")
LOADS_MUCH = ("-p", "no:schemathesis")  # requests, too


@pytest.fixture
def run(pytester):
    """Run a test file in a pytest of its own, which finds the plugin by itself."""

    def run(code, *options):
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess(*PLUGINS, *options, timeout=60)

    return run


def test_the_fixtures_work_together_and_clean_up(run):
    run(USES).assert_outcomes(passed=8)


def test_a_run_that_uses_nothing_loads_nothing(run):
    run(USES_NOTHING, *LOADS_MUCH).assert_outcomes(passed=1)


def test_the_fixtures_are_listed_with_what_they_are(run):
    told = run("", "--fixtures").stdout
    told.fnmatch_lines_random(["*hybrid_executor -- *plugin.py:*", "*fault_proxy -- *plugin.py:*"])
    told.fnmatch_lines(["*Give a function that puts a `FaultProxy` before a port*"])
