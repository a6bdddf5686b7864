"""Calls that wait at the server for a place: in the application alone, and on real connections."""

from __future__ import annotations

import signal
import time

import pytest

from hybrid_compute import RemoteExecutor, remote_task, task
from hybrid_compute.server import Limits

from .conftest import SECRET, Served
from .raw import RawSocket, frame
from .test_quick import call, echo, elsewhere, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.timeout(60)

MANY = 193
ONE = Limits(in_flight=1, ahead=MANY - 1)


def values(answers):
    return {each["id"]: each.get("result", each.get("error")) for each in answers}


@pytest.mark.parametrize("observed", [False, True])  # the short way, and the long way inline
def test_calls_that_end_at_once_all_get_their_turn(run, observed):  # noqa: F811
    frames = [[call(each, "echo", each) for each in range(MANY)]]
    answers = run(frames, MANY, tasks=[echo], observed=observed, limits=ONE)
    assert values(answers) == {each: each for each in range(MANY)}


def test_calls_that_run_elsewhere_all_get_their_turn(run):  # noqa: F811
    frames = [[call(each, "elsewhere", each) for each in range(MANY)]]
    assert values(run(frames, MANY, tasks=[elsewhere], limits=ONE)) == {
        each: each for each in range(MANY)
    }


@task(executor="thread")
def together(value: int) -> int:
    _RUNNING.append(value)
    time.sleep(0.001)  # for others to begin meanwhile, if they may
    most = len(_RUNNING)
    _RUNNING.remove(value)
    return most


_RUNNING: list[int] = []


def test_no_more_run_at_once_than_may(run):  # noqa: F811
    frames = [[call(each, "together", each) for each in range(60)]]
    answers = run(frames, 60, tasks=[together], limits=Limits(in_flight=3, ahead=57))
    assert 1 <= max(values(answers).values()) <= 3


def test_one_too_many_is_declined_and_the_others_run(run):  # noqa: F811
    frames = [[call(each, "elsewhere", each) for each in range(4)]]
    limits = Limits(in_flight=1, ahead=2)
    assert values(run(frames, 4, tasks=[elsewhere], limits=limits)) == {
        **{each: each for each in range(3)},
        3: "1 calls run already; wait for one to end",
    }


def test_those_that_wait_when_the_server_ends_are_answered_that_it_does():
    served = Served("tests.server.work:TASKS", "--in-flight", "1", "--grace", "0.5")
    try:
        with RawSocket(served.port) as raw:
            hello = b'{"hello":{"version":1,"max_bytes":10000,"in_flight":1}}'
            calls = b",".join(b'{"id":%d,"task":"wait"}' % each for each in (1, 2, 3))
            raw.send(frame(hello) + frame(b"[" + calls + b"]") + frame(b'{"id":4,"cancel":true}'))
            raw.send(frame(b'{"id":5,"task":"none","timeout":1}'))
            raw.until(b"1 calls run already")  # the others wait by now
            # They come before the end, whether this side has told of any frame or not.
            served.process.send_signal(signal.SIGTERM)
            assert raw.closed() == 1012
            assert raw.came.count(b"the server is closing; call again later") == 2
    finally:
        served.end()


def test_answers_are_not_held_up_by_a_client_whose_acks_are_long_in_coming():
    served = Served("tests.server.work:TASKS")
    try:
        with RawSocket(served.port) as raw:
            raw.send(frame(b'{"hello":{"version":1,"max_bytes":10000,"in_flight":1}}'))
            for number in range(20):
                raw.send(frame(b'{"id":%d,"task":"echo","input":"no. %d"}' % (number, number)))
                raw.until(b'"no. %d"' % number)
    finally:
        served.end()


def test_a_client_that_found_a_server_quick_and_then_slow_gets_all_answers():
    served = Served("tests.server.work:ODD", "--in-flight", "4", "--ahead", "60")
    try:
        with RemoteExecutor(served.url.replace("http", "ws") + "/ws", token=SECRET) as executor:
            ping, nap = remote_task("ping"), remote_task("nap")
            for each in (ping, nap, ping):
                futures = [executor.submit(each, number) for number in range(300)]
                assert [future.result(30) for future in futures] == list(range(300))
    finally:
        served.end()
