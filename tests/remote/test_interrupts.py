"""What a signal handler that raises costs: the `submit` that it cuts short, and nothing else.

As in `tests/faults/test_interrupts.py`, a profile function that raises stands in for a signal
handler, at one place after the other.
"""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

import hybrid_compute
from hybrid_compute import remote_task
from hybrid_compute.executors import _remote_dialer
from tests.faults import test_interrupts
from tests.faults.test_interrupts import interrupted
from tests.remote.servers import serving
from tests.remote.test_websocket import client, ours, plain

pytestmark = pytest.mark.timeout(60)

FOLDER = str(Path(hybrid_compute.__file__).parent)
OURS = tuple(f"{FOLDER}/{name}" for name in ("executors/_remote", "protocol/", "transports/"))

echo = remote_task("echo", idempotent=True)  # the connection may be given up: it goes again


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setattr(test_interrupts, "OURS", OURS)
    monkeypatch.setattr(_remote_dialer.random, "uniform", lambda *_: 0.0)


@pytest.mark.parametrize("server", [plain, ours])
def test_it_ends_no_other_call_over_a_connection_that_stands(server):
    with serving(server) as port, client(port) as ex:
        for place in itertools.count():
            before = [ex.submit(echo, i) for i in range(3)]
            ex.submit(echo, 0).result(20)
            reached = interrupted(place, lambda: ex.submit(echo, 1))
            for each in (*before, ex.submit(echo, 1)):
                each.result(20)
            if not reached:
                break
    assert place > 30


def test_it_ends_no_other_call_when_it_comes_before_there_is_a_connection():
    with serving(plain) as port:
        for place in itertools.count():
            with client(port) as ex:
                reached = interrupted(place, lambda ex=ex: ex.submit(echo, 1))
                assert ex.submit(echo, 1).result(20) == 1
            if not reached:
                break
    assert place > 10


def test_a_shutdown_that_comes_next_ends():
    with serving(plain) as port:
        for place in itertools.count():
            ex = client(port)
            reached = interrupted(place, lambda ex=ex: ex.submit(echo, 1))
            thread = threading.Thread(target=ex.shutdown, daemon=True)
            thread.start()
            thread.join(20)
            assert not thread.is_alive(), place
            if not reached:
                break


@pytest.mark.parametrize("server", [plain, ours])
def test_a_wait_that_reads_the_connection_and_is_cut_short_costs_no_call(server):
    last = 0
    with serving(server) as port, client(port) as ex:
        for place in itertools.count():
            for i in range(6):  # from then on this thread reads
                ex.submit(echo, i).result(20)
            futures = [ex.submit(echo, i) for i in range(3)]
            if interrupted(place, futures[0].result):
                last = place
            for each in (*futures, ex.submit(echo, 1)):
                each.result(20)
            if place > last + 10:  # one may be missed since its answer came before the wait
                break
    assert last > 30
