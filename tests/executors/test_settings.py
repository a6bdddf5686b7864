"""What a ProcessExecutor can be told about its workers: errors that help, and native threads."""

from __future__ import annotations

import importlib.util
import math
import os

import pytest

from hybrid_compute.errors import ConfigurationError, PayloadTooLarge
from hybrid_compute.executors._settings import Settings
from hybrid_compute.executors.process import ProcessExecutor

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test

VARIABLES = """
    OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS BLIS_NUM_THREADS VECLIB_MAXIMUM_THREADS
    NUMEXPR_NUM_THREADS
""".split()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# -- wrong values --------------------------------------------------------------------------------

COUNTS = ["max_tasks_per_child", "max_memory_per_child", "max_payload", "native_threads"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_one_is_named_with_its_value_and_the_remedy(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name}={value} must be greater than 0"):
        ProcessExecutor(1, **{name: value})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [1.5, "2", True])
def test_what_is_no_whole_number_is_named_with_its_value_and_the_remedy(name, value):
    with pytest.raises(TypeError, match=rf"{name} must be a whole number or None, not {value!r}"):
        ProcessExecutor(1, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("idle_timeout", 0),
        ("idle_timeout", -1.5),
        ("idle_timeout", math.inf),
        ("idle_timeout", math.nan),
        ("kill_grace", -1),
        ("kill_grace", math.inf),
        ("kill_grace", math.nan),
    ],
)
def test_seconds_that_cannot_be_waited_are_named_with_their_value(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name}={value!r} is no number of seconds"):
        ProcessExecutor(1, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("idle_timeout", "1"), ("idle_timeout", True), ("kill_grace", None), ("kill_grace", "1")],
)
def test_what_are_no_seconds_is_named_with_its_value(name, value):
    with pytest.raises(TypeError, match=rf"{name} must be a number of seconds, not {value!r}"):
        ProcessExecutor(1, **{name: value})


def test_without_psutil_a_bound_on_memory_is_refused_and_the_extra_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'hybrid-compute\[process\]'"):
        ProcessExecutor(1, max_memory_per_child=1 << 30)


def test_without_psutil_all_else_works(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ProcessExecutor(1, max_tasks_per_child=1, idle_timeout=1).shutdown()


def test_a_very_long_idle_timeout_does_no_harm():
    with ProcessExecutor(1, idle_timeout=1e12) as ex:
        for _ in range(2):
            assert ex.submit(abs, -1).result(SOON) == 1
            ex._pool.wake()


# -- native threads ------------------------------------------------------------------------------


def in_worker(**settings):
    """Return the variables as a worker has them."""
    with ProcessExecutor(2, **settings) as ex:
        return ex.submit(lambda names: [os.environ.get(each) for each in names], VARIABLES).result(
            SOON
        )


def of_settings(cores, workers, **more):
    environ = Settings(workers=workers, cores=cores, **more).environ()
    return [environ.get(name.encode()) for name in VARIABLES]


@pytest.mark.parametrize(
    ("cores", "workers", "share"), [(8, 2, b"4"), (8, 3, b"2"), (2, 8, b"1"), (1, 1, b"1")]
)
def test_each_worker_gets_its_share_of_the_cores_for_native_threads(cores, workers, share):
    assert of_settings(cores, workers) == [share] * len(VARIABLES)


def test_a_worker_has_its_share_in_its_environment():
    cores = len(os.sched_getaffinity(0))
    assert in_worker() == [str(max(1, cores // 2))] * len(VARIABLES)


def test_the_users_omp_num_threads_stands_for_all_libraries(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert in_worker() == ["7"] + [None] * (len(VARIABLES) - 1)


def test_a_librarys_own_variable_stands_and_the_others_get_the_share(monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    assert of_settings(8, 2) == [b"4", b"4", b"7", b"4", b"4", b"4"]


def test_a_number_that_was_given_wins_over_the_users_variables(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MKL_NUM_THREADS", "8")
    assert in_worker(native_threads=3) == ["3"] * len(VARIABLES)


def test_the_callers_own_environment_stays_as_it_is():
    before = dict(os.environ)
    in_worker(native_threads=3)
    in_worker()
    assert dict(os.environ) == before


# -- limits of payloads --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2000, 3_000_000])
def test_a_call_that_is_too_large_is_not_sent_and_says_so(size):
    with ProcessExecutor(1, max_payload=1000) as ex:
        with pytest.raises(PayloadTooLarge, match="raise max_payload") as caught:
            ex.submit(len, bytes(size)).result(SOON)
        assert size <= caught.value.size < size + 200
        assert caught.value.limit == 1000
        assert ex.submit(len, bytes(800)).result(SOON) == 800


@pytest.mark.parametrize("size", [2000, 3_000_000])
def test_a_result_that_is_too_large_costs_its_item_only(size):
    with ProcessExecutor(1, max_payload=1000) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        with pytest.raises(PayloadTooLarge, match="raise max_payload") as caught:
            ex.submit(bytes, size).result(SOON)
        assert size <= caught.value.size < size + 200
        assert caught.value.limit == 1000
        assert ex.submit(os.getpid).result(SOON) == pid
