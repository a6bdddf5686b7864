"""Memory that is not there, and payloads that are large: rows 7 and 14 of the matrix."""

from __future__ import annotations

import os
import pickle
import signal

import pytest

from hybrid_compute import errors
from hybrid_compute.executors.process import ProcessExecutor

from . import work
from .conftest import alone, not_here
from .processes import wait_until
from .scenario import KINDS, make, making, submitter

SOON = work.SOON


# -- no memory left ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_the_kernel_kills_for_want_of_memory_says_so(kind, memory_group):
    with make(kind, 2, initializer=work.enter, initargs=(memory_group.procs,)) as ex:
        submit = submitter(kind, ex)
        pid = submit(os.getpid).result(SOON)
        guilty = submit(work.eat)
        queued = [submit(work.echo, n) for n in range(20)]
        error = guilty.exception(SOON)
        assert isinstance(error, errors.WorkerCrashed)
        assert (error.signal, error.exitcode, error.oom) == (signal.SIGKILL, None, True)
        assert error.pid == pid
        assert "memory" in str(error)
        assert [f.result(SOON) for f in queued] == list(range(20))
        assert submit(work.echo, 1).result(SOON) == 1


def test_work_that_enters_a_group_by_itself_says_so_too(memory_group):
    with ProcessExecutor(1) as ex:
        error = ex.submit(work.enter_and_eat, memory_group.procs).exception(SOON)
    assert isinstance(error, errors.WorkerCrashed)
    assert error.oom is True


def test_a_kill_by_somebody_is_no_want_of_memory_even_after_one_that_was(memory_group):
    initializer = {"initializer": work.enter, "initargs": (memory_group.procs,)}
    with ProcessExecutor(1, **initializer) as ex:
        for kill, is_oom in (
            (work.kill_myself, False),
            (work.eat, True),
            (work.kill_myself, False),
        ):
            error = ex.submit(kill).exception(SOON)
            assert isinstance(error, errors.WorkerCrashed)
            assert (error.signal, error.oom) == (signal.SIGKILL, is_oom)
            assert ("memory" in str(error)) is is_oom


def test_a_child_that_the_kernel_kills_is_the_works_own_affair(memory_group):
    initializer = {"initializer": work.enter, "initargs": (memory_group.procs,)}
    with ProcessExecutor(1, **initializer) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        assert ex.submit(work.eat_in_child).result(SOON) == -signal.SIGKILL
        assert ex.submit(os.getpid).result(SOON) == pid


# -- large payloads ------------------------------------------------------------------------------

HUGE = 2_200_000_000  # bytes; what 32 bits, signed, cannot count


@pytest.fixture
def much_memory():
    """Fail, or skip outside of CI, if there is too little memory; one such test at a time."""
    with alone("huge-payload"):
        with open("/proc/meminfo") as file:
            (line,) = (line for line in file if line.startswith("MemAvailable"))
        available = int(line.split()[1]) * 1024
        if available < 5 * HUGE:
            not_here(f"needs {5 * HUGE >> 30} GiB of memory, and there are {available >> 30}")
        yield


@pytest.mark.usefixtures("much_memory")
def test_an_argument_of_more_than_2_gib_arrives():
    with ProcessExecutor(1) as ex:
        assert ex.submit(work.measure_and_end, bytearray(HUGE)).result(SOON) == (HUGE, bytes(3))
        assert ex.submit(work.echo, 1).result(SOON) == 1


@pytest.mark.usefixtures("much_memory")
def test_a_result_of_more_than_2_gib_arrives():
    with ProcessExecutor(1) as ex:
        assert work.measure_and_end(ex.submit(work.zeros, HUGE).result(SOON)) == (HUGE, bytes(3))
        assert ex.submit(work.echo, 1).result(SOON) == 1


LIMIT = 1_000_000
LARGE = {
    "bytes": bytes(LIMIT),
    "a buffer": bytearray(LIMIT),
    "buffers that are large together": [bytearray(LIMIT // 4)] * 2
    + [bytearray(LIMIT // 4 + n) for n in range(4)],
    "much that is small": list(range(LIMIT)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", LARGE)
def test_an_argument_above_the_limit_is_not_sent(kind, what, tmp_path):
    with making(kind, 1, max_payload=LIMIT) as ex:
        submit = submitter(kind, ex)
        pid = submit(os.getpid).result(SOON)
        guilty = submit(work.note_length, tmp_path / "ran", LARGE[what])
        queued = [submit(work.echo, n) for n in range(20)]
        with pytest.raises(errors.PayloadTooLarge, match=f"note_length.*{LIMIT}") as caught:
            guilty.result(SOON)
        assert caught.value.limit == LIMIT
        assert caught.value.size > LIMIT
        assert [f.result(SOON) for f in queued] == list(range(20))
        assert submit(os.getpid).result(SOON) == pid
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fn", [work.zeros, work.zeros_in_buffer])
def test_a_result_above_the_limit_is_not_sent(kind, fn):
    with making(kind, 1, max_payload=LIMIT) as ex:
        submit = submitter(kind, ex)
        pid = submit(os.getpid).result(SOON)
        guilty = submit(fn, LIMIT)
        queued = [submit(work.echo, n) for n in range(20)]
        with pytest.raises(errors.PayloadTooLarge, match=f"{LIMIT}") as caught:
            guilty.result(SOON)
        assert caught.value.limit == LIMIT
        assert caught.value.size > LIMIT
        assert [f.result(SOON) for f in queued] == list(range(20))
        assert submit(os.getpid).result(SOON) == pid


def test_what_is_below_the_limit_passes():
    with making("process", 1, max_payload=LIMIT) as ex:
        for size in (0, 1000, 300_000, LIMIT - 1000):
            assert len(ex.submit(work.echo, bytes(size)).result(SOON)) == size
            assert len(ex.submit(work.echo, bytearray(size)).result(SOON)) == size


def test_calls_that_are_large_only_together_pass():
    size = LIMIT // 3
    with making("process", 1, max_payload=LIMIT) as ex:
        assert list(ex.map(len, [bytes(size)] * 20, chunksize=10)) == [size] * 20
        assert [len(r) for r in ex.map(work.echo, [bytes(size)] * 20, chunksize=10)] == [size] * 20
        futures = [ex.submit(len, bytes(size)) for _ in range(20)]
        assert [f.result(SOON) for f in futures] == [size] * 20


def test_one_call_of_a_map_that_is_too_large_costs_no_other():
    sizes = [10, 10, LIMIT, 10]
    with making("process", 1, max_payload=LIMIT) as ex:
        for chunksize in (1, 4, None):
            arguments = [bytes(size) for size in sizes]
            found = [
                *ex.map(len, arguments, chunksize=chunksize, return_exceptions=True),
                *ex.map(work.zeros, sizes, chunksize=chunksize, return_exceptions=True),
            ]
            for n in (2, 6):
                assert isinstance(found[n], errors.PayloadTooLarge)
                assert found[n].limit == LIMIT
            assert found[:2] + found[3:6] + found[7:] == [10] * 3 + [bytes(10)] * 3


def test_the_error_survives_pickling_with_its_attributes():
    with making("process", 1, max_payload=LIMIT) as ex:
        error = ex.submit(len, bytes(LIMIT)).exception(SOON)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.PayloadTooLarge
    assert (again.size, again.limit, str(again)) == (error.size, error.limit, str(error))


# -- nothing is left -----------------------------------------------------------------------------


def named_memory(pid):
    """Return what a process has open or mapped in the folder of named shared memory."""
    with open(f"/proc/{pid}/maps") as file:
        found = [line.split()[-1] for line in file if "/dev/shm" in line]
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:  # that of the listing
            continue
        if target.startswith("/dev/shm"):
            found.append(target)
    return found


def test_large_payloads_have_no_name_that_could_be_left_behind(tmp_path):
    before = named_memory(os.getpid())  # what other tests have left in this process
    with ProcessExecutor(1) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        future = ex.submit(
            work.hold_large, tmp_path / "begun", tmp_path / "go", bytearray(5_000_000)
        )
        work.wait_for_file(tmp_path / "begun")
        try:
            assert named_memory(pid) == []
            assert named_memory(os.getpid()) == before
        finally:
            (tmp_path / "go").touch()
        assert len(future.result(SOON)) == 5_000_000
        assert named_memory(pid) == []
        assert named_memory(os.getpid()) == before


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size", [0, 300_000, 3_000_000])
def test_crashes_with_large_payloads_leave_no_descriptor_open(size):
    with ProcessExecutor(1) as ex:
        ex.submit(os._exit, 1).exception(SOON)
        ex.submit(work.length, bytearray(size)).result(SOON)
        before = descriptors()
        for _ in range(10):
            futures = [
                ex.submit(work.die_with, bytearray(size)),
                ex.submit(work.return_large_and, os._exit, 1),
                ex.submit(work.echo, [bytearray(size), work.WhenUnpickled(os._exit, 1)]),
            ]
            assert all(isinstance(f.exception(SOON), errors.WorkerCrashed) for f in futures)
            assert ex.submit(work.length, bytearray(size)).result(SOON) == size
        wait_until(lambda: descriptors() <= before + 4, 10)  # some may be kept for the next ones


def test_large_results_that_nobody_keeps_leave_no_descriptor_open():
    with ProcessExecutor(1) as ex:
        for _ in range(3):
            ex.submit(work.zeros_in_buffer, 3_000_000).result(SOON)
        before = descriptors()
        for _ in range(50):
            ex.submit(work.zeros_in_buffer, 3_000_000).result(SOON)
        wait_until(lambda: descriptors() <= before + 4, 10)
