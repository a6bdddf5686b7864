"""Large payloads: bit for bit there and back, private to who has them, and nothing left behind.

How slots are chosen is in test_segments.
"""

from __future__ import annotations

import contextlib
import gc
import operator
import os
import pickle
import random
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hybrid_compute._pickling import BIG
from hybrid_compute.errors import ResultDecodeError, TaskDecodeError
from hybrid_compute.executors import _upkeep
from hybrid_compute.executors._segments import SLOTS, VIEW
from hybrid_compute.executors.process import ProcessExecutor

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test
STEP = threading.Event()  # never set: waiting for it is a pause
SIZES = [BIG - 1, BIG, BIG + 1, VIEW - 1, VIEW, VIEW + 1, 3_000_000]
LARGE = VIEW + 4096  # bytes; a payload of that is mapped, not copied


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        STEP.wait(0.002)


@pytest.fixture
def one():
    with ProcessExecutor(1) as executor:
        executor.submit(abs, -1).result(SOON)
        yield executor


# By value, so that no worker need import this module and all that is imported here.
ECHO = lambda x: x
FILLED = lambda size, seed: bytes([seed % 256]) * size
ARRAY = lambda size, seed: __import__("numpy").full(size, seed % 256, "B")


def noise(size):
    return random.randbytes(size)


def array(size=LARGE, seed=None):
    return np.frombuffer(noise(size), "B").copy() if seed is None else np.full(size, seed, "B")


def payload_files():
    """Return size by descriptor of the segments that this process has open."""
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "hybrid-compute-payload" in os.readlink(fd):
                found[int(fd.name)] = os.stat(fd).st_blocks * 512
    return found


def mappings():
    """Return the mappings of segments in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "hybrid-compute-payload" in line]


# -- bit for bit ---------------------------------------------------------------------------------

KINDS = {
    "bytes": noise,
    "bytearray": lambda size: bytearray(noise(size)),
    "text": lambda size: chr(random.randint(97, 122)) * size,
    "list of bytes": lambda size: [noise(size), noise(7), noise(size)],
    "dict of many": lambda size: {str(n): n * 1.5 for n in range(size // 40)},
    "dict of arrays": lambda size: {"a": array(size), "b": [array(5), array(size + 1)]},
    "by keyword": lambda size: {"x": noise(size)},
}


def same(a, b):
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, strict=True)
        return True
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("kind", KINDS)
def test_payloads_of_all_sizes_go_there_and_back_bit_for_bit(one, kind):
    for size in SIZES:
        data = KINDS[kind](size)
        future = one.submit(ECHO, **data) if kind == "by keyword" else one.submit(ECHO, data)
        assert same(future.result(SOON), data["x"] if kind == "by keyword" else data)


ARRAYS = {
    "two dimensions": lambda: array(4 * LARGE).reshape(4, -1),
    "Fortran order": lambda: np.asfortranarray(array(4 * LARGE).reshape(4, -1)),
    "not contiguous": lambda: array(4 * LARGE)[::2],
    "backwards": lambda: array()[::-1],
    "transposed": lambda: array(4 * LARGE).reshape(4, -1, 2).transpose(2, 0, 1),
    "a column": lambda: np.arange(800_000.0).reshape(-1, 4)[:, 1],
    "no items": lambda: np.empty((0, 5)),
    "no dimension": lambda: np.array(3.5),
    "floats": lambda: np.random.default_rng().random(200_000),
    "complex": lambda: np.random.default_rng().random(200_000) * 1j,
    "big-endian": lambda: np.arange(200_000, dtype=">i8"),
    "objects": lambda: np.array(["x", None, 3] * 50_000, dtype=object),
    "strings": lambda: np.array(["abc", "de"] * 100_000),
    "records": lambda: np.zeros(100_000, dtype=[("a", "i8"), ("b", "f4", 3)]),
    "times": lambda: np.arange(200_000).astype("M8[s]"),
    "booleans": lambda: np.arange(2_000_000) % 3 == 0,
    "a memory map's": lambda: np.asarray(np.arange(200_000)),
}


def test_arrays_of_all_kinds_go_there_and_back(one):
    for kind, make in ARRAYS.items():
        data = make()
        there, back = one.submit(lambda x: (x.flags.f_contiguous, x), data).result(SOON)
        assert same(back, data), kind
        plain = pickle.loads(pickle.dumps(data, 5)).flags.f_contiguous
        assert (there, back.flags.f_contiguous) == (plain, plain), kind


@pytest.mark.parametrize("writeable", [True, False])
def test_an_array_is_writeable_there_and_back_just_if_it_was(one, writeable):
    for size in (100, *SIZES):
        data = array(size)
        data.flags.writeable = writeable
        there, back = one.submit(lambda x: (x.flags.writeable, x), data).result(SOON)
        assert (there, back.flags.writeable) == (writeable, writeable), size


def test_several_buffers_of_one_call_each_arrive(one):
    data = [array(size) for size in (VIEW, 0, 1, BIG, 65, VIEW + 1, 3_000_000, BIG - 1)]
    future = one.submit(lambda *args, last: [last, *args], *data[1:], last=data[0])
    assert same(future.result(SOON), data)


@pytest.mark.parametrize("size", [1000, BIG, LARGE])
def test_the_same_array_twice_is_one_array_there_and_back(one, size):
    data = array(size)
    there, a, b = one.submit(lambda x, y: (x is y, x, y), data, data).result(SOON)
    assert there
    assert a is b


@pytest.mark.parametrize("size", [1000, BIG, LARGE])
def test_the_same_bytearray_twice_is_one_object_there(one, size):
    data = bytearray(size)
    assert one.submit(lambda x, y: x is y, data, data).result(SOON)


def test_a_function_that_closes_over_a_large_array_brings_it_along(one):
    data = array(3 * VIEW)
    for place in (0, VIEW, 3 * VIEW - 1):
        assert one.submit(lambda n: int(data[n]), place).result(SOON) == data[place]


def test_large_items_of_a_map_arrive_in_order():
    data = [array(size) for size in [VIEW, 10, BIG, VIEW + 1, BIG - 1] * 6]
    with ProcessExecutor(2) as ex:
        assert same(list(ex.map(ECHO, data, chunksize=4)), data)
        assert same(list(ex.map(ECHO, data)), data)


def test_large_arrays_in_an_exception_arrive(one):
    def fail(data):
        error = ValueError("with data", data)
        error.more = data[::-1].copy()
        raise error

    data = array()
    error = one.submit(fail, data).exception(SOON)
    assert same(error.args[1], data)
    assert same(error.more, data[::-1].copy())


def test_large_and_small_items_of_many_threads_are_all_right():
    sizes = [10, BIG - 1, BIG + 5, VIEW + 3, 2_500_000]
    wrong = []

    def submit_some(seed):
        rng = random.Random(seed)
        futures = []
        for _ in range(25):
            data = rng.randbytes(rng.choice(sizes))
            data = np.frombuffer(data, "B") if rng.random() < 0.5 else data
            futures.append((data, ex.submit(ECHO, data)))
        wrong.extend(n for n, (data, f) in enumerate(futures) if not same(data, f.result(SOON)))

    with ProcessExecutor(2) as ex:
        threads = [threading.Thread(target=submit_some, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# -- private -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, BIG, LARGE])
def test_what_the_work_writes_into_an_argument_the_caller_does_not_see(one, size):
    data = array(size)
    copy = data.copy()
    assert one.submit(lambda x: (x.fill(7), int(x.sum()))[1], data).result(SOON) == 7 * size
    assert same(data, copy)


@pytest.mark.parametrize("size", [1000, BIG, LARGE])
def test_what_the_caller_writes_into_a_result_the_worker_does_not_see(one, size):
    one.submit(lambda n: setattr(sys, "kept", __import__("numpy").ones(n)), size).result(SOON)
    one.submit(lambda: sys.kept).result(SOON).fill(9)
    assert one.submit(lambda: float(sys.kept.sum())).result(SOON) == size


def test_what_the_caller_writes_into_a_result_is_not_in_a_later_one(one):
    data = array()
    for _ in range(3 * SLOTS):
        result = one.submit(ECHO, data).result(SOON)
        assert same(result, data)
        result.fill(9)


def test_what_the_caller_writes_into_an_argument_after_it_was_done_changes_no_result(one):
    data = array()
    copy = data.copy()
    result = one.submit(ECHO, data).result(SOON)
    data.fill(0)
    assert same(result, copy)


# -- lasting -------------------------------------------------------------------------------------


def go_on(executor, count=2 * SLOTS + 4):
    """Send large payloads of other content both ways."""
    for n in range(count):
        assert executor.submit(ARRAY, LARGE, n).result(SOON)[0] == n
        assert executor.submit(len, bytes([n % 256]) * LARGE).result(SOON) == LARGE


def keep(executor):
    """Return a large result, and what must be in it."""
    data = array()
    return executor.submit(ECHO, data).result(SOON), data


def test_a_result_stays_as_it_is_while_others_come(one):
    kept = keep(one)
    go_on(one)
    assert same(*kept)


def test_a_result_outlives_its_worker(one):
    kept = keep(one)
    (pid,) = one._pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in one._pids())
    go_on(one, 5)
    assert same(*kept)


def test_a_result_outlives_its_executor(one):
    kept = keep(one)
    one.shutdown()
    assert same(*kept)
    with ProcessExecutor(1) as another:
        go_on(another, 5)
    assert same(*kept)
    kept[0].fill(1)  # nobody notices


def test_more_results_than_there_are_slots_stay_as_they_are(one):
    results = [one.submit(ARRAY, LARGE, n) for n in range(2 * SLOTS + 5)]
    results = [future.result(SOON) for future in results]
    go_on(one, 5)
    assert [(int(each.min()), int(each.max())) for each in results] == [
        (n, n) for n in range(2 * SLOTS + 5)
    ]


def test_results_that_other_threads_drop_disturb_none(one):
    results = {n: one.submit(ARRAY, LARGE, n).result(SOON) for n in range(SLOTS)}
    stop = threading.Event()

    def drop_and_collect():
        cycle = []
        while not stop.is_set():
            with contextlib.suppress(KeyError):
                cycle = [results.pop(random.randrange(SLOTS))]
            cycle.append(cycle)
            gc.collect(0)

    threads = [threading.Thread(target=drop_and_collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(20):
            result = one.submit(ARRAY, LARGE, n).result(SOON)
            assert (result == n).all()
            results[n % SLOTS] = result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_argument_that_the_work_keeps_stays_as_it_is(one):
    data = array()
    one.submit(lambda x: setattr(sys, "kept", x), data).result(SOON)
    go_on(one)
    assert same(one.submit(lambda: sys.kept).result(SOON), data)


def test_more_arguments_than_there_are_slots_may_be_kept(one):
    data = [array(LARGE, n) for n in range(2 * SLOTS + 5)]
    one.submit(lambda: setattr(sys, "kept", [])).result(SOON)
    for each in data:
        one.submit(lambda x: sys.kept.insert(len(sys.kept), x), each).result(SOON)
    go_on(one, 3)
    found = one.submit(lambda: [(int(x.min()), int(x.max())) for x in sys.kept]).result(SOON)
    assert found == [(n, n) for n in range(len(data))]


def test_a_forked_child_keeps_the_results_that_its_parent_drops(one):
    result, data = keep(one)
    go, answer = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = b"?"
        try:
            os.read(go[0], 1)
            code = b"=" if bytes(result) == bytes(data) else b"!"
        finally:
            os.write(answer[1], code)
            os._exit(0)
    try:
        result = None
        gc.collect()
        go_on(one)
        os.write(go[1], b"x")
        assert os.read(answer[0], 1) == b"="
    finally:
        os.waitpid(pid, 0)
        for fd in (*go, *answer):
            os.close(fd)


def test_the_parent_keeps_the_results_that_its_forked_child_drops(one):
    result, data = keep(one)
    pid = os.fork()
    if pid == 0:
        result.fill(0)
        result = None
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    go_on(one)
    assert same(result, data)


def test_a_process_that_the_work_forks_keeps_the_argument_that_the_work_drops(one, tmp_path):
    go, answer = tmp_path / "go", tmp_path / "answer"
    os.mkfifo(go)
    os.mkfifo(answer)

    def fork(data, copy):
        pid = os.fork()
        if pid == 0:
            code = b"?"
            try:
                go.read_bytes()
                code = b"=" if bytes(data) == bytes(copy[::-1]) else b"!"
            finally:
                answer.write_bytes(code)
                os._exit(0)
        return pid

    data = array()
    pid = one.submit(fork, data, bytes(data)[::-1]).result(SOON)
    go_on(one)
    go.write_bytes(b"x")
    assert answer.read_bytes() == b"="
    one.submit(os.waitpid, pid, 0).result(SOON)


def test_results_come_as_they_are_though_the_work_forks(one):
    def fork(data):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return data

    for _ in range(SLOTS + 4):
        data = array()
        assert same(one.submit(fork, data).result(SOON), data)


# -- nothing is left -----------------------------------------------------------------------------


def test_after_shutdown_no_segment_is_open_or_mapped(one):
    kept = [one.submit(ARRAY, LARGE, n).result(SOON) for n in range(SLOTS + 4)]
    go_on(one, 3)
    assert mappings()
    del kept
    one.shutdown()
    assert not payload_files()
    assert not mappings()


def test_a_result_that_is_dropped_is_not_mapped(one):
    result = one.submit(ARRAY, LARGE, 1).result(SOON)
    assert mappings()
    del result
    assert not mappings()


def test_an_argument_is_not_mapped_in_the_worker_when_its_call_is_done(one):
    one.submit(len, array()).result(SOON)
    found = one.submit(lambda: Path("/proc/self/maps").read_text()).result(SOON)
    assert "hybrid-compute-payload" not in found


def test_a_worker_that_was_killed_leaves_no_segment(one):
    kept = [one.submit(ARRAY, LARGE, n).result(SOON) for n in range(3)]
    del kept
    (pid,) = one._pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in one._pids())
    assert not payload_files()
    assert not mappings()


def test_many_payloads_need_no_more_segments_than_one_at_a_time_does(one):
    for n in range(20):
        one.submit(ARRAY, LARGE, n).result(SOON)
        one.submit(len, array()).result(SOON)
    assert len(payload_files()) <= 4


def test_memory_for_arguments_is_given_back_when_nothing_happens(monkeypatch, one):
    monkeypatch.setattr(_upkeep, "_TRIM_SECONDS", 0.05)
    for n in range(3):
        assert one.submit(len, array(LARGE, n)).result(SOON) == LARGE
    assert sum(payload_files().values()) >= LARGE
    until(lambda: sum(payload_files().values()) == 0)
    assert one.submit(len, array()).result(SOON) == LARGE


def test_the_worker_holds_no_memory_for_arguments_when_nothing_happens(monkeypatch, one):
    monkeypatch.setattr(_upkeep, "_TRIM_SECONDS", 0.05)
    one.submit(len, array()).result(SOON)
    until(lambda: not one._pool.workers[0].sender.has_some)

    def held():
        found = 0
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if "hybrid-compute-payload" in os.readlink(f"/proc/self/fd/{fd}"):
                    found += os.fstat(int(fd)).st_blocks
        return found

    assert one.submit(held).result(SOON) == 0


def shorter():
    """Return an initializer after which a worker gives memory back soon."""

    def shorten():
        sys.modules["hybrid_compute.executors._worker"]._TRIM_MS = 50

    return shorten


def test_memory_for_results_is_given_back_when_nothing_happens():
    with ProcessExecutor(1, shorter()) as ex:
        for n in range(3):
            assert len(ex.submit(ARRAY, LARGE, n).result(SOON)) == LARGE
        until(lambda: sum(payload_files().values()) == 0)
        assert len(ex.submit(ARRAY, LARGE, 7).result(SOON)) == LARGE


def test_giving_memory_back_leaves_what_is_in_use_alone(monkeypatch):
    monkeypatch.setattr(_upkeep, "_TRIM_SECONDS", 0.05)
    with ProcessExecutor(1, shorter()) as ex:
        kept = [ex.submit(ARRAY, LARGE, n).result(SOON) for n in range(3)]
        ex.submit(lambda x: setattr(sys, "kept", x), array(LARGE, 9)).result(SOON)
        del kept[1]
        until(lambda: sum(1 for size in payload_files().values() if not size) >= 1)
        go_on(ex, 5)
        assert [int(each.max()) for each in kept] == [0, 2]
        assert ex.submit(lambda: {*sys.kept.tolist()}).result(SOON) == {9}


def test_memory_of_a_result_that_is_dropped_late_is_given_back():
    with ProcessExecutor(1, shorter()) as ex:
        dropped = ex.submit(ARRAY, LARGE, 1).result(SOON)
        kept = ex.submit(ARRAY, LARGE, 2).result(SOON)
        free = ex.submit(ARRAY, LARGE, 3)
        free.result(SOON)
        del free
        until(lambda: sum(1 for size in payload_files().values() if not size))  # it has looked
        del dropped, kept
        deadline = time.monotonic() + 1
        while sum(payload_files().values()) and time.monotonic() < deadline:
            STEP.wait(0.01)
        assert sum(payload_files().values()) == 0


# -- when there is no shared memory --------------------------------------------------------------


NO_DESCRIPTOR = re.compile("no file descriptor left|Too many open files")


def refuse(*_):
    raise OSError(24, "Too many open files")


@contextlib.contextmanager
def no_descriptor_left():
    """Let this process open nothing."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def can_open_nothing():
    """Return an initializer after which a worker opens nothing more; by value: see ECHO."""

    def open_nothing_more():
        gc.collect()  # what it might close later, it closes now
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))

    return open_nothing_more


@pytest.mark.parametrize("make", [noise, array, lambda size: "x" * size], ids=["b", "a", "s"])
@pytest.mark.parametrize("size", [BIG, 3_000_000])
def test_without_memfds_calls_go_through_the_socket(monkeypatch, one, make, size):
    one.submit(ECHO, array(1)).result(SOON)  # all is imported there
    monkeypatch.setattr(os, "memfd_create", refuse)
    data = make(size)
    assert same(one.submit(ECHO, data).result(SOON), data)
    assert one._pool.workers[0].sender.has_some is False


def test_without_descriptors_calls_go_through_the_socket(one):
    assert one.submit(operator.length_hint, b"").result(SOON) == 0
    data = [noise(3_000_000), {"x": array(LARGE)}]
    one.submit(ECHO, array(1)).result(SOON)
    with no_descriptor_left():
        futures = [one.submit(len, each) for each in data * 3]
        assert [f.result(SOON) for f in futures] == [3_000_000, 1] * 3


@pytest.mark.parametrize("size", [BIG + 1, 3_000_000])
def test_a_worker_without_descriptors_answers_through_the_socket(size):
    with ProcessExecutor(1, can_open_nothing()) as ex:
        for _ in range(3):
            assert ex.submit(operator.mul, b"abc", size // 3).result(SOON) == b"abc" * (size // 3)
        assert not payload_files()


def test_a_system_without_memfds_uses_files_without_names(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ProcessExecutor(1, lambda: delattr(os, "memfd_create")) as ex:
        for size in SIZES:
            data = array(size)
            assert same(ex.submit(ECHO, data).result(SOON), data)
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("size", [BIG + 1, 3_000_000])
def test_a_result_whose_descriptor_is_lost_costs_one_clear_error(one, size):
    one.submit(FILLED, 10, 1).result(SOON)
    with no_descriptor_left():
        error = one.submit(FILLED, size, 1).exception(SOON)
    assert isinstance(error, ResultDecodeError)
    assert NO_DESCRIPTOR.search(str(error))
    for n in range(SLOTS + 3):
        assert one.submit(FILLED, size, n).result(SOON) == bytes([n]) * size


@pytest.mark.parametrize("size", [BIG + 1, 3_000_000])
def test_a_call_whose_descriptor_is_lost_costs_one_clear_error(size):
    with ProcessExecutor(1, can_open_nothing()) as ex:
        ex.submit(abs, 1).result(SOON)  # else the descriptor might come before the limit
        for _ in range(2):
            error = ex.submit(len, bytes(size)).exception(SOON)
            assert isinstance(error, TaskDecodeError)
            assert NO_DESCRIPTOR.search(str(error))
            assert ex.submit(len, b"abc").result(SOON) == 3


def test_calls_whose_descriptors_are_all_lost_each_fail():
    with ProcessExecutor(1, can_open_nothing()) as ex:
        ex.submit(abs, 1).result(SOON)
        futures = [ex.submit(len, bytes(LARGE)) for _ in range(SLOTS + 5)]
        assert {type(f.exception(SOON)) for f in futures} == {TaskDecodeError}
        assert ex.submit(len, b"abc").result(SOON) == 3
