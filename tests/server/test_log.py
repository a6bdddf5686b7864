"""The log: nobody waits for it, no caller can fill the disk with it, and no secret is in it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
from contextlib import closing

import pytest
import websocket

from hybrid_compute import task
from hybrid_compute.server import BoundedHandler, Token, Tokens, create_app
from hybrid_compute.server import app as app_module
from hybrid_compute.server import logs as logs_module
from hybrid_compute.server.logs import Seldom

from .conftest import SECRET, Served
from .test_drain import ask

pytestmark = pytest.mark.timeout(120)
CALLS, BATCH = 12_000, 50  # more lines than wait in a pipe (some 700) and in the log (8192)


@task(executor="inline")
def echo(value: object = None) -> object:
    return value


class Gated(logging.Handler):
    """Writes to a list, when it may."""

    def __init__(self):
        super().__init__()
        self.lines, self.may, self.began = [], threading.Event(), threading.Event()

    def emit(self, record):
        self.began.set()
        self.may.wait()
        self.lines.append(record.getMessage())


def record(text):
    return logging.LogRecord("some", logging.INFO, "file", 1, text, (), None)


def test_12_000_calls_are_answered_while_nobody_reads_stderr():
    served = Served("tests.server.work:ODD")
    try:
        url = f"ws://127.0.0.1:{served.port}/ws"
        header = {"Authorization": f"Bearer {SECRET}"}
        with closing(
            websocket.create_connection(url, header=header, suppress_origin=True, timeout=60)
        ) as sock:
            answered = 0
            for start in range(0, CALLS, BATCH):
                numbers = range(start + 1, start + BATCH + 1)
                for each in numbers:
                    sock.send(json.dumps({"id": each, "task": "ping", "input": each}))
                for _ in numbers:
                    answer = json.loads(sock.recv())
                    assert answer["result"] == answer["id"]
                    answered += 1
        assert answered == CALLS
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0  # and still nobody reads
    finally:
        served.end()
    assert "task='ping'" in served.said
    assert SECRET not in served.said


def test_what_does_not_fit_is_dropped_and_counted_and_the_count_is_logged_later():
    target = Gated()
    handler = BoundedHandler(target, capacity=4)
    handler.handle(record("first"))
    assert target.began.wait(30)
    for number in range(10):
        handler.handle(record(str(number)))
    assert handler.dropped == 6
    target.may.set()
    handler.flush(30)
    told = [each for each in target.lines if "dropped" in each]
    assert [each for each in target.lines if each not in told] == ["first", "0", "1", "2", "3"]
    assert told == ["6 log lines were dropped: what reads them is too slow"]
    handler.close()


def test_a_writer_that_never_ends_keeps_nobody():
    target = Gated()
    handler = BoundedHandler(target, capacity=4)
    handler.handle(record("first"))
    assert target.began.wait(30)
    handler.flush(0.1)
    handler.close()
    assert handler._thread.is_alive()
    target.may.set()
    handler._thread.join(30)
    assert target.lines == ["first"]


def test_lines_that_any_caller_can_cause_come_once_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(logs_module.time, "monotonic", lambda: now)
    seldom = Seldom("some")
    assert [seldom.filter(record("flood")) for _ in range(5)] == [True, *[False] * 4]
    assert seldom.filter(record("another"))
    other = logging.LogRecord("other", logging.INFO, "file", 1, "flood", (), None)
    assert all(seldom.filter(other) for _ in range(5))
    now += 1
    last = record("flood")
    assert seldom.filter(last)
    assert last.getMessage() == "flood (and 4 more of these before)"


def test_a_flood_of_wrong_tokens_is_one_line_a_second_without_the_token(monkeypatch, caplog):
    now = 100.0
    monkeypatch.setattr(app_module.time, "monotonic", lambda: now)
    app = create_app([echo], tokens=Tokens([Token.of(SECRET)]))
    wrong = "a-wrong-secret-0123456789"

    async def send(app, scope, receive, respond):
        scope["headers"] = [
            (key, b"Bearer " + wrong.encode() if key == b"authorization" else value)
            for key, value in scope["headers"]
        ]
        await app({**scope, "client": ("192.0.2.7", 1)}, receive, respond)

    def flood():
        async def all_of_them():
            async def once(scope, receive, respond):
                await send(app, scope, receive, respond)

            return {(await ask(once, {"task": "echo"}))[0] for _ in range(100)}

        assert asyncio.run(all_of_them()) == {401}

    monkeypatch.setattr("hybrid_compute.server.http._LINGER", 0)
    with caplog.at_level(logging.INFO):
        flood()
        now += 1
        flood()
        app.close()
    said = [each.getMessage() for each in caplog.records if each.name == "hybrid_compute.server"]
    assert said == [f"{number} refused, the last with 401, of 192.0.2.7" for number in (1, 100, 99)]
    assert wrong not in caplog.text
    assert SECRET not in caplog.text
