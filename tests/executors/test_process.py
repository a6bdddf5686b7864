"""ProcessExecutor: what its users rely on. What happens when workers die is in tests/faults."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future, as_completed, wait
from pathlib import Path

import pytest

import hybrid_compute
from hybrid_compute import errors
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.tasks import task

ROOT = str(Path(hybrid_compute.__file__).parents[1])
SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test


@pytest.fixture(scope="module", autouse=True)
def _imports():
    # The first use imports modules, which may open descriptors for good.
    with ProcessExecutor(1) as ex:
        ex.submit(abs, -1).result(SOON)


@pytest.fixture
def ex():
    with ProcessExecutor(2) as executor:
        yield executor


def wait_for_file(path, seconds=SOON):
    """Run by workers: there is nothing but the file system that both sides can wait on."""
    deadline = time.monotonic() + seconds
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return os.getpid()


def touch_and_wait(mine, other):
    Path(mine).touch()
    return wait_for_file(other)


def raise_it(error):
    raise error


def both(a, b=0, *, c=0):
    return a, b, c


@task
def declared(x):
    return x + 1


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class NoPickle:
    def __reduce__(self):
        raise ZeroDivisionError("no pickle of mine")


class ExitsInReduce:
    def __reduce__(self):
        raise SystemExit("bye")


class NoUnpickle:
    def __reduce__(self):
        return raise_it, (LookupError("no unpickling of mine"),)


def run_script(*args, stdin=None, timeout=SOON, **env):
    return subprocess.run(
        [sys.executable, *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": ROOT, **env},
        check=False,
    )


# -- calls and results -----------------------------------------------------------------------


def test_a_call_runs_in_another_process(ex):
    assert ex.submit(os.getpid).result(SOON) != os.getpid()


def test_arguments_of_all_kinds_arrive(ex):
    assert ex.submit(both, 1, b=2, c=3).result(SOON) == (1, 2, 3)


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 300_000, 20_000_000])
def test_values_of_all_sizes_go_there_and_back(ex, size):
    data = bytes(size)
    assert ex.submit(both, data).result(SOON) == (data, 0, 0)


def test_large_arguments_of_many_items_do_not_block_submit(ex, tmp_path):
    go = tmp_path / "go"
    ex.submit(wait_for_file, go)
    ex.submit(wait_for_file, go)
    futures = [ex.submit(both, bytes(3_000_000)) for _ in range(20)]
    go.touch()
    assert all(len(f.result(SOON)[0]) == 3_000_000 for f in futures)


def test_lambdas_and_closures_travel(ex):
    n = 41
    assert ex.submit(lambda: n + 1).result(SOON) == 42


def test_a_declared_task_and_a_partial_run(ex):
    assert ex.submit(declared, 1).result(SOON) == 2
    assert ex.submit(functools.partial(both, 1, c=5)).result(SOON) == (1, 0, 5)


def test_many_results_are_each_their_own(ex):
    futures = [ex.submit(both, i) for i in range(5000)]
    assert [f.result(SOON)[0] for f in futures] == list(range(5000))


def test_map_gives_results_in_order(ex):
    assert list(ex.map(pow, range(3000), [2] * 3000)) == [i * i for i in range(3000)]


def test_wait_and_as_completed_work(ex):
    futures = {ex.submit(abs, -i) for i in range(10)}
    assert wait(futures, SOON).done == futures
    assert {f.result() for f in as_completed(futures, SOON)} == set(range(10))


def test_one_worker_serves_who_waits_for_each_result():
    with ProcessExecutor(4) as ex:
        assert len({ex.submit(os.getpid).result(SOON) for _ in range(30)}) == 1


def test_workers_run_side_by_side(ex, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    first = ex.submit(touch_and_wait, a, b)
    second = ex.submit(touch_and_wait, b, a)
    assert first.result(SOON) != second.result(SOON)


def test_any_thread_may_submit(ex):
    results = []

    def submit_some():
        results.extend([ex.submit(abs, -i) for i in range(200)])

    threads = [threading.Thread(target=submit_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(f.result(SOON) for f in results) == sorted(list(range(200)) * 8)


def test_an_item_holds_its_arguments_no_longer_than_it_takes(ex):
    class Marker:
        def __reduce__(self):
            return object, ()

    marker = Marker()
    gone = weakref.ref(marker)
    future = ex.submit(both, marker)
    future.result(SOON)
    del marker
    ex.submit(abs, 1).result(SOON)  # the reader is past it
    assert gone() is None


# -- what goes wrong with one item ---------------------------------------------------------------


def test_an_exception_arrives_with_the_traceback_of_the_worker(ex):
    with pytest.raises(ZeroDivisionError) as caught:
        ex.submit(divmod, 1, 0).result(SOON)
    assert "Traceback" in str(caught.value.__cause__)


def test_an_exception_with_a_constructor_of_its_own_costs_nothing_else(ex):
    with pytest.raises(errors.RemoteError, match="1 and 2"):
        ex.submit(lambda: raise_it(TwoArguments(1, 2))).result(SOON)
    assert ex.submit(abs, -1).result(SOON) == 1


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), RecursionError()]
)
def test_whatever_the_work_raises_is_the_callers_and_the_worker_lives(error):
    with ProcessExecutor(1) as ex:
        before = ex.submit(os.getpid).result(SOON)
        with pytest.raises(type(error)):
            ex.submit(raise_it, error).result(SOON)
        assert ex.submit(os.getpid).result(SOON) == before


@pytest.mark.parametrize("culprit", [NoPickle, ExitsInReduce, threading.Lock])
def test_an_argument_that_cannot_be_pickled_fails_its_item_only(ex, culprit):
    ahead = [ex.submit(abs, -i) for i in range(100)]
    future = ex.submit(abs, {"key": [culprit()]})
    behind = [ex.submit(abs, -i) for i in range(100)]
    with pytest.raises(errors.TaskEncodeError, match=r"args\[0\]"):
        future.result(SOON)
    assert [f.result(SOON) for f in ahead + behind] == [*range(100), *range(100)]


def test_an_argument_that_cannot_be_unpickled_fails_its_item_only(ex):
    ahead = [ex.submit(both, -i) for i in range(100)]
    future = ex.submit(both, NoUnpickle())
    behind = [ex.submit(both, -i) for i in range(100)]
    with pytest.raises(errors.TaskDecodeError, match="no unpickling of mine") as caught:
        future.result(SOON)
    assert "Traceback" in str(caught.value.__cause__.__cause__)
    assert all(f.result(SOON) for f in ahead + behind)


@pytest.mark.parametrize("culprit", [NoPickle, ExitsInReduce, threading.Lock])
def test_a_result_that_cannot_be_pickled_is_named_and_the_worker_lives(culprit):
    with ProcessExecutor(1) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        with pytest.raises(errors.ResultEncodeError, match=r"of type \S*(?i:pickle|reduce|lock)"):
            ex.submit(culprit).result(SOON)
        assert ex.submit(os.getpid).result(SOON) == pid


def test_a_result_that_cannot_be_unpickled_fails_its_item_only(ex):
    futures = [ex.submit(both, i) for i in range(50)]
    with pytest.raises(errors.ResultDecodeError, match="no unpickling of mine"):
        ex.submit(NoUnpickle).result(SOON)
    assert [f.result(SOON)[0] for f in futures] == list(range(50))


def test_sigint_in_a_worker_interrupts_the_call_only():
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SOON)

    with ProcessExecutor(1) as ex:
        pid = ex.submit(os.getpid).result(SOON)
        with pytest.raises(KeyboardInterrupt):
            ex.submit(interrupt).result(SOON)
        os.kill(pid, signal.SIGINT)  # while it is idle
        assert ex.submit(os.getpid).result(SOON) == pid


# -- batches -------------------------------------------------------------------------------------


def maybe_wait(path):
    if path is not None:
        wait_for_file(path)


def test_items_behind_a_long_one_move_to_another_worker(ex, tmp_path):
    go = tmp_path / "go"
    for _ in range(5):  # it is known to be short
        [f.result(SOON) for f in [ex.submit(maybe_wait, None) for _ in range(200)]]
    blocked = [ex.submit(maybe_wait, None) for _ in range(300)]
    long = ex.submit(maybe_wait, go)
    behind = [ex.submit(maybe_wait, None) for _ in range(300)]
    for future in blocked + behind:
        future.result(SOON)
    assert not long.done()
    go.touch()
    long.result(SOON)


def test_with_one_worker_finished_results_do_not_wait_for_a_long_item(tmp_path):
    go = tmp_path / "go"
    with ProcessExecutor(1) as ex:
        for _ in range(5):
            [f.result(SOON) for f in [ex.submit(maybe_wait, None) for _ in range(200)]]
        ahead = [ex.submit(maybe_wait, None) for _ in range(300)]
        long = ex.submit(maybe_wait, go)
        behind = [ex.submit(maybe_wait, None) for _ in range(300)]
        for future in ahead:
            future.result(SOON)
        assert not long.done()
        assert not behind[-1].done()
        go.touch()
        behind[-1].result(SOON)


# -- cancelling and ending -----------------------------------------------------------------------


def test_a_queued_item_can_be_cancelled_and_a_sent_one_not(tmp_path):
    go, done = tmp_path / "go", tmp_path / "done"
    with ProcessExecutor(1) as ex:
        running = ex.submit(touch_and_wait, tmp_path / "begun", go)
        queued = [ex.submit(Path.touch, done) for _ in range(3)]
        wait_for_file(tmp_path / "begun")
        assert not running.cancel()
        assert all(f.cancel() for f in queued)
        go.touch()
        running.result(SOON)
        with pytest.raises(CancelledError):
            queued[0].result(SOON)
    assert not done.exists()


def test_shutdown_finishes_the_queue():
    ex = ProcessExecutor(2)
    futures = [ex.submit(abs, -i) for i in range(500)]
    ex.shutdown()
    assert all(f.done() for f in futures)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        ex.submit(abs, 1)
    ex.shutdown()


def test_shutdown_without_waiting_finishes_the_queue():
    ex = ProcessExecutor(2)
    futures = [ex.submit(abs, -i) for i in range(500)]
    ex.shutdown(wait=False)
    assert [f.result(SOON) for f in futures] == list(range(500))


def test_shutdown_can_cancel_what_is_queued(tmp_path):
    go = tmp_path / "go"
    ex = ProcessExecutor(1)
    running = ex.submit(touch_and_wait, tmp_path / "begun", go)
    queued = [ex.submit(abs, 1) for _ in range(10)]
    wait_for_file(tmp_path / "begun")
    ex.shutdown(wait=False, cancel_futures=True)
    assert all(f.cancelled() for f in queued)
    go.touch()
    assert running.result(SOON)


def test_shutdown_of_an_unused_executor_starts_nothing():
    ex = ProcessExecutor(2)
    ex.shutdown()
    assert ex._pool.thread is None


def test_a_dropped_executor_is_freed_at_once_and_finishes_its_work():
    ex = ProcessExecutor(2)
    futures = [ex.submit(abs, -i) for i in range(500)]
    gone = weakref.ref(ex)
    gc.disable()
    try:
        del ex
        assert gone() is None
    finally:
        gc.enable()
    assert [f.result(SOON) for f in futures] == list(range(500))


def test_callbacks_may_raise_submit_and_shut_down():
    ex = ProcessExecutor(2)
    inner: Future = Future()

    def callback(future):
        inner.set_result(ex.submit(abs, -2))
        ex.shutdown(wait=True)
        raise SystemExit("from a callback")

    ex.submit(time.sleep, 0.05).add_done_callback(callback)
    assert inner.result(SOON).result(SOON) == 2
    ex._pool.join()


def test_submit_racing_shutdown_forgets_no_future():
    for _ in range(5):
        ex = ProcessExecutor(2)
        ex.submit(abs, 1).result(SOON)
        futures, refusals, barrier = [], [], threading.Barrier(9)

        def submit_until_closed(ex=ex, futures=futures, barrier=barrier, refusals=refusals):
            barrier.wait()
            try:
                for i in range(300):
                    futures.append(ex.submit(abs, -i))
            except RuntimeError as error:
                refusals.append(str(error))

        threads = [threading.Thread(target=submit_until_closed) for _ in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait()
        ex.shutdown(wait=False)
        for thread in threads:
            thread.join()
        for future in futures:
            future.result(SOON)
        ex.shutdown()
        assert set(refusals) <= {"cannot schedule new futures after shutdown"}


def test_a_forked_child_gets_one_clear_error_and_disturbs_nobody(ex):
    ex.submit(abs, 1).result(SOON)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            try:
                ex.submit(abs, 1)
            except RuntimeError as error:
                code = 0 if "forked child" in str(error) else 2
            ex.shutdown()
            del ex
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ex.submit(abs, -3).result(SOON) == 3


def test_interpreter_exit_finishes_queued_work():
    done = run_script(
        "-c",
        "from hybrid_compute import ProcessExecutor\n"
        "ex = ProcessExecutor(2)\n"
        "import os\n"
        "for i in range(5): ex.submit(os.write, 1, b'%d\\n' % i)\n",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == list("01234")
    assert done.stderr == ""


# -- where it runs -------------------------------------------------------------------------------

SCRIPT = """
import os, sys
from hybrid_compute import ProcessExecutor

class Point:
    def __init__(self, x):
        self.x = x

def double(p):
    return Point(p.x * 2)

with ProcessExecutor(2) as ex:
    print(ex.submit(double, Point(4)).result().x, type(ex.submit(Point, 3).result()) is Point)
"""


@pytest.mark.parametrize("how", ["stdin", "-c", "file"])
def test_a_script_needs_no_main_guard(how, tmp_path):
    if how == "stdin":
        done = run_script("-", stdin=SCRIPT)
    elif how == "-c":
        done = run_script("-c", SCRIPT)
    else:
        (tmp_path / "script.py").write_text(SCRIPT)
        done = run_script(str(tmp_path / "script.py"))
    assert (done.stdout, done.stderr) == ("8 True\n", "")


def test_workers_have_the_callers_place_of_the_moment(tmp_path, monkeypatch):
    (tmp_path / "module_made_now.py").write_text("def f(): return 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET_BY_THIS_TEST", "yes \udc80")
    monkeypatch.setattr(sys, "argv", ["a program", "--flag"])
    import module_made_now

    with ProcessExecutor(1) as ex:
        assert ex.submit(module_made_now.f).result(SOON) == "found"
        assert ex.submit(os.getcwd).result(SOON) == str(tmp_path)
        assert ex.submit(os.getenv, "SET_BY_THIS_TEST").result(SOON) == "yes \udc80"
        assert ex.submit(lambda: sys.argv).result(SOON) == ["a program", "--flag"]


def test_interpreter_flags_are_carried_over():
    script = (
        "from hybrid_compute import ProcessExecutor\n"
        "import sys\n"
        "with ProcessExecutor(1) as ex:\n"
        "    print(ex.submit(lambda: (sys.flags.optimize, sys.flags.dev_mode)).result())\n"
    )
    assert run_script("-O", "-X", "dev", "-c", script).stdout == "(1, True)\n"


def test_a_worker_imports_the_whole_library_only_when_asked(ex):
    assert ex.submit(lambda: "hybrid_compute.hybrid" in sys.modules).result(SOON) is False

    def use_it():
        import hybrid_compute

        return hybrid_compute.HybridExecutor.__name__, "hybrid_compute.hybrid" in sys.modules

    assert ex.submit(use_it).result(SOON) == ("HybridExecutor", True)


def test_output_of_workers_is_the_callers():
    script = (
        "from hybrid_compute import ProcessExecutor\n"
        "with ProcessExecutor(1) as ex: ex.submit(print, 'seen').result()\n"
    )
    assert run_script("-c", script).stdout == "seen\n"


def open_files():
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.append(fd.readlink())
    return found


def test_descriptors_of_the_caller_do_not_get_into_workers(ex):
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        ex.submit(abs, 1).result(SOON)
        targets = ex.submit(open_files).result(SOON)
        assert Path(f"/proc/self/fd/{write}").readlink() not in targets
    finally:
        os.close(read)
        os.close(write)


# -- arguments -----------------------------------------------------------------------------------


def started(path):
    global _started
    _started = Path(path).read_text()


def what_was_started():
    return _started


def test_the_initializer_runs_first_in_each_worker(tmp_path):
    (tmp_path / "value").write_text("seven")
    with ProcessExecutor(2, initializer=started, initargs=(tmp_path / "value",)) as ex:
        futures = [ex.submit(what_was_started) for _ in range(20)]
        assert {f.result(SOON) for f in futures} == {"seven"}


def test_an_initializer_that_always_fails_gives_one_clear_error(caplog):
    ex = ProcessExecutor(2, raise_it, (ValueError("never works"),))
    futures = [ex.submit(abs, 1) for _ in range(5)]
    for future in futures:
        with pytest.raises(errors.WorkerStartError, match="never works") as caught:
            future.result(SOON)
        assert "Traceback" in str(caught.value.__cause__.__cause__)
    with pytest.raises(errors.WorkerStartError, match="never works"):
        ex.submit(abs, 1)
    ex.shutdown()
    assert "Exception in initializer:" in caplog.text


def test_an_initializer_that_fails_once_does_no_harm(tmp_path):
    tried = tmp_path / "tried"

    def fail_once():
        if not tried.exists():
            tried.touch()
            os._exit(9)

    with ProcessExecutor(1, fail_once) as ex:
        assert ex.submit(abs, -1).result(SOON) == 1


def test_an_initializer_that_cannot_be_pickled_gives_one_clear_error():
    with ProcessExecutor(1, abs, (threading.Lock(),)) as ex:
        with pytest.raises(errors.WorkerStartError, match="initializer"):
            ex.submit(abs, 1).result(SOON)


def test_a_missing_interpreter_gives_one_clear_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with ProcessExecutor(1) as ex:
        with pytest.raises(errors.WorkerStartError, match="/nowhere/python"):
            ex.submit(abs, 1).result(SOON)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), ("4", TypeError)])
def test_a_wrong_max_workers_is_named(value, error):
    with pytest.raises(error, match="max_workers"):
        ProcessExecutor(value)


def test_an_initializer_must_be_callable():
    with pytest.raises(TypeError, match="initializer must be a callable"):
        ProcessExecutor(1, "initializer")


def test_load_and_counts_tell_what_is_out(tmp_path):
    go = tmp_path / "go"
    with ProcessExecutor(1) as ex:
        assert (ex.load(), ex.counts()) == (0, (0, 0))
        futures = [ex.submit(wait_for_file, go) for _ in range(3)]
        assert ex.load() == 3
        go.touch()
        wait(futures)
        assert ex.load() == 0


def test_execute_takes_a_work_item():
    with ProcessExecutor(1) as ex:
        item = WorkItem(both, (1,), {"c": 2})
        ex.execute(item)
        assert item.future.result(SOON) == (1, 0, 2)


# -- faults in other places that must not spread ---------------------------------------------


class PicklesLate:
    """Tells when it is being pickled, and is done when it may be; then it may fail."""

    def __init__(self, error=None):
        self.error = error
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __reduce__(self):
        self.begun.set()
        assert self.go_on.wait(SOON)
        if self.error is not None:
            raise self.error
        return int, (7,)


@contextlib.contextmanager
def pickling_elsewhere(ex, argument):
    """Have another thread submit this to an idle worker, and do something meanwhile."""
    ex.submit(abs, 1).result(SOON)
    while not ex._pool.idle:
        time.sleep(0.001)
    futures = []
    thread = threading.Thread(target=lambda: futures.append(ex.submit(abs, argument)))
    thread.start()
    assert argument.begun.wait(SOON)
    try:
        yield futures
    finally:
        argument.go_on.set()
        thread.join(SOON)


def test_a_callback_of_an_item_that_cannot_be_pickled_may_shut_down():
    ex = ProcessExecutor(1)
    shut = threading.Event()
    with pickling_elsewhere(ex, PicklesLate(ValueError("late"))) as futures:
        second = ex.submit(abs, NoPickle())
        second.add_done_callback(lambda _: (ex.shutdown(), shut.set()))
    assert shut.wait(SOON)
    assert isinstance(second.exception(SOON), errors.TaskEncodeError)
    assert isinstance(futures[0].exception(SOON), errors.TaskEncodeError)
    ex.shutdown()


def test_an_item_waits_for_none_that_takes_long_to_pickle(ex):
    with pickling_elsewhere(ex, PicklesLate()) as futures:
        assert ex.submit(abs, -2).result(SOON) == 2  # by a second worker
    assert futures[0].result(SOON) == 7


def test_the_reader_sleeps_while_an_item_takes_long_to_pickle():
    with ProcessExecutor(1) as ex, pickling_elsewhere(ex, PicklesLate()):
        ex.submit(abs, -2)
        ex._pool.wake()
        reader = ex._pool.thread
        before = time.clock_gettime(time.pthread_getcpuclockid(reader.ident))
        time.sleep(0.2)
        after = time.clock_gettime(time.pthread_getcpuclockid(reader.ident))
        assert after - before < 0.1


def test_an_item_being_pickled_when_the_reader_fails_fails_too(monkeypatch, caplog):
    def bug():
        raise ZeroDivisionError("a bug")

    ex = ProcessExecutor(1)
    with pickling_elsewhere(ex, PicklesLate()) as futures:
        monkeypatch.setattr(ex._pool, "feed_idle", bug)
        ex._pool.wake()
        ex.shutdown()  # until the reader has ended
    assert isinstance(futures[0].exception(SOON), errors.WorkerStartError)
    assert "the reader of process has failed" in caplog.text


def test_an_item_whose_worker_died_while_it_was_pickled_runs_on_another():
    with ProcessExecutor(1) as ex:
        with pickling_elsewhere(ex, PicklesLate()) as futures:
            (pid,) = ex._pids()
            os.kill(pid, signal.SIGKILL)
            ex.shutdown(wait=False)
            while ex._pids():
                time.sleep(0.001)
        assert futures[0].result(SOON) == 7


def test_an_item_whose_submit_has_failed_does_not_run(monkeypatch, tmp_path):
    def refuse():
        raise OSError(24, "Too many open files")

    with ProcessExecutor(1) as ex:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", refuse)
            with pytest.raises(OSError, match="Too many open files"):
                ex.submit(Path(tmp_path / "ran").touch)
        assert ex.counts() == (0, 0)
        assert ex.submit(abs, -1).result(SOON) == 1
    assert not (tmp_path / "ran").exists()


def test_a_submit_that_fails_for_want_of_descriptors_leaves_none_open(monkeypatch):
    def refuse():
        raise OSError(24, "Too many open files")

    with ProcessExecutor(1) as ex:  # the fixture nothing_leaks looks
        monkeypatch.setattr("selectors.DefaultSelector", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            ex.submit(abs, -1)
        monkeypatch.undo()
        assert ex.submit(abs, -1).result(SOON) == 1


def test_one_item_that_cannot_be_cancelled_keeps_none_from_it(tmp_path, caplog):
    ex = ProcessExecutor(1)
    first = ex.submit(wait_for_file, tmp_path / "go")
    while not ex.counts()[1]:
        time.sleep(0.001)
    futures = [ex.submit(abs, n) for n in range(9)]
    futures[3].add_done_callback(lambda _: raise_it(SystemExit("a callback's")))
    futures[6].set_result("the program's")
    ex.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    assert [each.cancelled() for each in futures] == [n != 6 for n in range(9)]
    assert not wait(futures, SOON).not_done
    assert "a callback's" in caplog.text
    assert first.result(SOON)
    ex.shutdown()


def test_shutdown_while_an_item_that_cannot_be_pickled_is_pickled_ends():
    ex = ProcessExecutor(1)
    with pickling_elsewhere(ex, PicklesLate(ValueError("late"))) as futures:
        ex.shutdown(wait=False)
    ex.shutdown()
    assert isinstance(futures[0].exception(SOON), errors.TaskEncodeError)


def test_shutdown_while_workers_do_not_start_ends(monkeypatch):
    ex = ProcessExecutor(1)
    monkeypatch.setattr(sys, "executable", "")
    future = ex.submit(abs, 1)
    ex.shutdown()
    assert isinstance(future.exception(SOON), errors.WorkerStartError)


def test_a_worker_that_has_started_for_nothing_is_idle_once(ex):
    pool = ex._pool
    with pool.lock:
        assert ex.submit(abs, 1).cancel()
    while True:
        with pool.lock:
            if pool.idle and not pool.idle[0].outbox and pool.idle[0].hand is None:
                break
        time.sleep(0.001)
    assert len(pool.idle) == len(pool.workers) == 1


# -- what a fleet asks of it -----------------------------------------------------------------


def test_it_says_whether_callbacks_run_here(ex):
    assert not ex.runs_here()
    future = ex.submit(time.sleep, 0.05)
    here = Future()
    future.add_done_callback(lambda _: here.set_result(ex.runs_here()))
    assert here.result(SOON)
    assert not ex.runs_here()


def test_a_late_item_is_accepted_while_the_one_that_it_replaces_ends(tmp_path):
    ex = ProcessExecutor(1)
    late = WorkItem(abs, (-3,))
    refused = Future()

    def replace(_):
        try:
            ex.submit(abs, -2)
        except RuntimeError as error:
            refused.set_result(error)
        ex.execute_late(late)

    first = ex.submit(wait_for_file, tmp_path / "go")
    first.add_done_callback(replace)
    ex.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert late.future.result(SOON) == 3
    assert "after shutdown" in str(refused.result(SOON))
    ex.shutdown()


def test_a_late_item_is_refused_once_all_is_over(ex):
    ex.submit(abs, 1).result(SOON)
    ex.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.execute_late(WorkItem(abs, (-3,)))
