"""Many threads that submit while another one shuts down: row 26 of the matrix."""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError

import pytest

from hybrid_compute import errors

from . import work
from .processes import spawners_of
from .scenario import KINDS, make, submitter

SOON = work.SOON
THREADS = 100
EACH = 20

WAYS = {
    "waits": {},
    "does not wait": {"wait": False},
    "cancels": {"cancel_futures": True},
    "cancels and does not wait": {"wait": False, "cancel_futures": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_of_what_100_threads_submit_during_a_shutdown_nothing_is_forgotten(kind, way, used):
    ex = make(kind, 2)
    submit = submitter(kind, ex)
    if used:
        assert submit(work.echo, 1).result(SOON) == 1
    barrier = threading.Barrier(THREADS + 1)
    accepted, refused, accepted_some = [], [], threading.Event()

    def submit_some(thread):
        barrier.wait(SOON)
        for n in range(EACH):
            x = thread * EACH + n
            try:
                future = submit(os._exit, 3) if x % 500 == 499 else submit(work.echo, x)
            except RuntimeError as error:
                refused.append(str(error))
                break
            accepted.append((x, future))
            if len(accepted) > THREADS * EACH // 4:
                accepted_some.set()

    threads = [threading.Thread(target=submit_some, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait(SOON)
    assert accepted_some.wait(SOON)
    ex.shutdown(**WAYS[way])
    for thread in threads:
        thread.join(SOON)
    for x, future in accepted:
        try:
            error = future.exception(SOON)
        except CancelledError:
            assert "cancel_futures" in WAYS[way]
            continue
        if x % 500 == 499:
            assert isinstance(error, errors.WorkerCrashed)
        else:
            assert error is None
            assert future.result(0) == x
    assert set(refused) <= {"cannot schedule new futures after shutdown"}
    ex.shutdown()
    assert spawners_of() == []


@pytest.mark.parametrize("kind", KINDS)
def test_100_threads_may_shut_down_at_once(kind):
    ex = make(kind, 2)
    submit = submitter(kind, ex)
    futures = [submit(work.echo, n) for n in range(200)]
    barrier = threading.Barrier(THREADS)
    ended = []

    def shut_down():
        barrier.wait(SOON)
        ex.shutdown()
        ended.append(all(future.done() for future in futures))

    threads = [threading.Thread(target=shut_down) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert ended == [True] * THREADS
    assert [future.result(0) for future in futures] == list(range(200))
    assert spawners_of() == []


@pytest.mark.parametrize("kind", KINDS)
def test_retries_of_what_crashes_during_a_shutdown_still_take_place(kind, tmp_path):
    ex = make(kind, 2)
    submit = submitter(kind, ex, idempotent=True, retries=2)
    held = submitter(kind, ex)(work.hold, tmp_path / "begun", tmp_path / "go", 1)
    futures = [submit(work.die_at_first, tmp_path / f"runs {n}", 1) for n in range(3)]
    work.wait_for_file(tmp_path / "begun")
    ex.shutdown(wait=False)
    (tmp_path / "go").touch()
    assert [future.result(SOON) for future in futures] == [2] * 3
    assert held.result(SOON) == 1
    ex.shutdown()
