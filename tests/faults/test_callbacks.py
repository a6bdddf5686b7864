"""Done-callbacks that raise, submit or shut down, after outcomes of all kinds: row 25."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import Future, wait

import pytest

from . import work
from .cases import GRACE
from .processes import wait_until, workers_of
from .scenario import making, submitter

SOON = work.SOON


# What a future tells when its callbacks run: a submit (of a kind, an executor and a folder), after
# which the outcome comes by itself, or by what is returned.


def value(kind, ex, folder):
    return submitter(kind, ex)(work.hold, folder / "begun", folder / "go"), None


def error(kind, ex, folder):
    return submitter(kind, ex)(work.hold_and, folder / "go", work.raise_it, LookupError()), None


def crash(kind, ex, folder):
    return submitter(kind, ex)(work.hold_and, folder / "go", os._exit, 3), None


def timeout(kind, ex, folder):
    return submitter(kind, ex, timeout=0.5)(work.hang, folder / "pids"), None


def cancelled(kind, ex, folder):
    future = submitter(kind, ex)(work.hang, folder / "pids")
    work.told(folder / "pids")
    return future, future.cancel_running


def cancelled_in_queue(kind, ex, folder):
    for n in range(2):
        submitter(kind, ex)(work.hold, folder / f"{n}", folder / "go")
        work.wait_for_file(folder / f"{n}")
    future = submitter(kind, ex)(work.echo, 1)
    return future, future.cancel


OUTCOMES = (value, error, crash, timeout, cancelled, cancelled_in_queue)


# What a callback does with the executor.


def raises(ex, submit, future):
    raise LookupError("from a callback")


def exits(ex, submit, future):
    raise SystemExit("from a callback")


def submits(ex, submit, future):
    return [submit(work.echo, n) for n in range(10)]


def submits_what_crashes(ex, submit, future):
    return [submit(os._exit, n) for n in range(3)]


def submits_what_cannot_be_pickled(ex, submit, future):
    return [submit(work.echo, work.make_lock()) for _ in range(3)]


def adds_a_callback(ex, submit, future):
    other: Future = Future()
    future.add_done_callback(lambda _: other.set_result(1))
    return [other]


def shuts_down(ex, submit, future):
    ex.shutdown(wait=True)


def cancels_all(ex, submit, future):
    ex.shutdown(wait=False, cancel_futures=True)


ACTIONS = (
    *(raises, exits, submits, submits_what_crashes, submits_what_cannot_be_pickled),
    *(adds_a_callback, shuts_down, cancels_all),
)


@pytest.mark.parametrize(
    ("kind", "action"),
    [("process", action) for action in ACTIONS]
    + [("options", action) for action in (raises, submits, shuts_down)],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.__name__)
def test_a_callback_may_do_anything_and_no_future_is_forgotten(
    kind, outcome, action, tmp_path, caplog
):
    go = tmp_path / "go"
    with making(kind, 2, kill_grace=GRACE) as ex:
        submit = submitter(kind, ex)
        assert submit(work.echo, 1).result(SOON) == 1
        future, end = outcome(kind, ex, tmp_path)
        others = [submit(work.hold_and, go, work.echo, n) for n in range(5)]
        called, made = [], []

        def callback(given):
            called.append(given)
            made.extend(action(ex, submit, given) or ())

        for _ in range(2):  # the second runs whatever the first has done
            future.add_done_callback(callback)
        if end is None:
            go.touch()
        else:  # on a thread: a callback there may wait for what is queued
            ender = threading.Thread(target=end_quietly, args=(end,))
            ender.start()
            wait_until(future.done)
            go.touch()
            ender.join(SOON)
            assert not ender.is_alive()
        assert not wait([future, *others], SOON).not_done
        # A callback that raises SystemExit takes those behind it along, as in the stdlib.
        wait_until(lambda: len(called) == (1 if action is exits else 2))
        assert set(called) == {future}
        wait_until(lambda: action is not submits or len(made) == 20)
        assert not wait(made, SOON).not_done
        if action is raises or (action is exits and end is None):
            wait_until(lambda: "from a callback" in caplog.text)
        for n, other in enumerate(others):
            assert (
                other.cancelled()
                if action is cancels_all and other.cancelled()
                else (other.result(0) == n)
            )
        if action in (shuts_down, cancels_all):
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                submit(work.echo, 1)
        else:
            assert submit(work.echo, 2).result(SOON) == 2
    assert workers_of() == []


def end_quietly(end):
    with contextlib.suppress(SystemExit):  # from the callback
        end()
