"""One fault in the midst of other work, and what must be true of all of it.

        bystander  ============================================== runs all the while
        guilty           |== the fault ==| error
        20 items          ---------------|======|  queued behind it
        later                                       |==| submitted when all is known

It runs in the tests' process, and in a worker process with executors of its own: so it uses
nothing of pytest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import CancelledError, Future, wait

from hybrid_compute import HybridExecutor, ProcessExecutor, task
from hybrid_compute.policy import Always

from . import work
from .cases import BASES, BY_NAME, GRACE
from .processes import STEP, are_gone, is_alive, workers_of

SOON = work.SOON

# Where the work is submitted: to what, and from where.
KINDS = ("process", "options", "policy")
PLACES = ("main", "callback", "nested")


def make(kind, workers, **options):
    """Make an executor with so many worker processes; the options are a ProcessExecutor's."""
    if kind == "process":
        return ProcessExecutor(workers, **options)
    members = {"process": ProcessExecutor(workers, **options)}
    policy = Always("process") if kind == "policy" else None
    return HybridExecutor(2, executors=members, policy=policy)


@contextlib.contextmanager
def making(kind, workers, **options):
    """Make an executor, shut down at the end: soon, even if its work hangs since a test fails."""
    executor = make(kind, workers, **options)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + 5
        while (workers := workers_of()) and time.monotonic() < deadline:
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(STEP)
        raise
    finally:
        executor.shutdown()


def submitter(kind, executor, **options):
    """Return a `submit` that has the work done by a worker process, under these options."""
    if kind == "options":
        return executor.options(executor="process", **options).submit
    if kind == "process" and not options:
        return executor.submit
    return lambda fn, *args: executor.submit(task(**options)(fn), *args)


def outcome_of(future):
    """Return what the future has raised and what it has returned."""
    try:
        error = future.exception(SOON)
    except CancelledError as cancelled:
        return cancelled, None
    return (error, None) if error is not None else (None, future.result())


def run(name, kind, place, folder):
    """Let the fault of this name happen, and check what it costs."""
    if kind == "process" and place == "nested":
        with ProcessExecutor(1) as outer:
            outer.submit(run, name, kind, "main", folder).result(SOON)
        return
    case = BY_NAME[name]
    # A callback is that of an item which has a worker of its own, and ends when it is told to.
    gates = (2 if case.cancels else 1) if place == "callback" else 0
    options = {"kill_grace": GRACE} if case.hangs else {}
    holders = []
    with making(kind, 2 + gates, **options) as executor:
        submit = submitter(kind, executor)
        try:
            for n in range(1 + gates):
                begun, go = folder / f"begun-{n}", folder / f"go-{n}"
                holders.append((submit(work.hold, begun, go, f"held {n}"), go))
            for n in range(1 + gates):
                work.wait_for_file(folder / f"begun-{n}")
            bystander, *callers = holders
            pid = submit(work.my_pid).result(SOON)
            start = time.monotonic()
            waits = place == "nested" and not case.cancels
            guilty, queued = _at(
                place, executor, callers, lambda: _submit(case, kind, executor, folder, waits)
            )
            pids = work.told(folder / "hung") if case.cancels else [pid]
            assert pids[0] == pid
            if case.cancels:
                assert _at(place, executor, callers, guilty.cancel_running) is True
                assert not is_alive(pid)
            error, value = outcome_of(guilty)
            took = time.monotonic() - start
            _check(case, error, value, pid)
            assert is_alive(pid) is not case.dies
            assert [future.result(SOON) for future in queued] == list(range(20))
            if place != "callback":  # else other workers are free too
                assert (submit(os.getpid).result(SOON) == pid) is not case.dies
            if case.timeout is not None:
                assert case.timeout <= took < case.timeout + GRACE + 5
            if case.hangs and (folder / "hung").exists():  # it may not have come so far in time
                assert are_gone(work.told(folder / "hung"))
            assert submit(work.echo, 42).result(SOON) == 42
            assert not bystander[0].done()
        finally:
            for _, go in holders:
                go.touch()
        assert [future.result(SOON) for future, _ in holders] == [
            f"held {n}" for n in range(1 + gates)
        ]
        assert submit(work.echo, 43).result(SOON) == 43


def _submit(case, kind, executor, folder, waits):
    options = {} if case.timeout is None else {"timeout": case.timeout}
    guilty = submitter(kind, executor, **options)(case.fn, *case.args(folder))
    submit = submitter(kind, executor)
    queued = [submit(work.echo, n) for n in range(20)]
    if waits:
        assert not wait([guilty, *queued], SOON).not_done
    return guilty, queued


def _at(place, executor, callers, step):
    """Do the step at the place; return what it returns."""
    if place == "main":
        return step()
    if place == "nested":  # on a thread of the same executor, which waits for what it submits
        return executor.submit(step).result(SOON)
    done: Future = Future()

    def callback(_):
        try:
            done.set_result(step())
        except BaseException as error:
            done.set_exception(error)

    future, go = callers.pop()
    future.add_done_callback(callback)
    go.touch()
    return done.result(SOON)


def _check(case, error, value, pid):
    if case.error is None:
        assert error is None, repr(error)
        return
    assert type(error) is case.error, repr(error)
    assert isinstance(error, BASES.get(case.error, BaseException))
    for words in case.says:
        assert words in str(error), f"{words!r} not in {error}"
    for words in case.cause:
        assert words in str(error.__cause__), f"{words!r} not in {error.__cause__}"
    for name, expected in case.attributes.items():
        found = getattr(error, name)
        same = expected in found if isinstance(expected, str) and expected else found == expected
        assert same, f"{name} is {found!r}, not {expected!r}"
    if case.dies and hasattr(error, "pid"):
        assert error.pid == pid
        assert str(pid) in str(error)
        assert error.item_name in str(error)
