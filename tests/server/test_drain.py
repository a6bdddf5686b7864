"""SIGTERM: what runs may end, what is new is told to go elsewhere."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.protocol import outbox
from hybrid_compute.server import Token, Tokens, create_app

from .test_quick import HELLO, SCOPE

SECRET = "secret-of-the-tests-0123456789"


async def ask(app, body, headers=()):
    """Call an ASGI application once; return its status and what it answered."""
    sent = []
    parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if parts:
            return parts.pop()
        return await asyncio.get_running_loop().create_future()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "path": "/compute", "method": "POST",
        "headers": [
            (b"host", b"localhost"), (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + SECRET.encode()), *headers,
        ],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.timeout(60)
def test_a_running_call_ends_well_while_new_ones_are_declined():
    go, started = threading.Event(), threading.Event()

    def slow():
        started.set()
        go.wait()
        return "done"

    async def main(app):
        running = asyncio.ensure_future(ask(app, {"task": "slow"}))
        await asyncio.to_thread(started.wait)
        draining = asyncio.ensure_future(app.drain())
        await asyncio.sleep(0)
        declined = await ask(app, {"task": "slow"})
        go.set()
        await draining
        return declined[0], await running

    with HybridExecutor(executors={}) as ex:
        tasks = [task(executor="thread")(slow)]
        app = create_app(tasks, executor=ex, tokens=Tokens([Token.of(SECRET)]))
        assert asyncio.run(main(app)) == (503, (200, {"result": "done"}))
        app.close()


@pytest.mark.timeout(60)
def test_answers_are_sent_before_the_end_whether_the_client_tells_of_frames_or_not(monkeypatch):
    monkeypatch.setattr(outbox, "PACE", 1e9)  # no frame goes for the time that has passed
    go = [threading.Event() for _ in range(4)]
    coming, sent = asyncio.Queue(), []

    def slow(number):
        go[number].wait()
        return f"no. {number}"

    async def send(message):
        sent.append(message)

    async def main(app):
        coming.put_nowait({"type": "websocket.connect"})
        for frame in [HELLO, *({"id": n, "task": "slow", "input": n} for n in range(4))]:
            coming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})
        serving = asyncio.ensure_future(app(SCOPE, coming.get, send))
        for number, each in enumerate(go):
            if number == 3:
                draining = asyncio.ensure_future(app.drain())
                await asyncio.sleep(0)
            each.set()
            await asyncio.sleep(0.01)
        await draining
        await serving

    with HybridExecutor(8) as ex:
        app = create_app([task(executor="thread")(slow)], executor=ex, tokens=Tokens.anyone())
        asyncio.run(main(app))
        app.close()
    answered = "".join(each.get("text", "") for each in sent)
    assert [number for number in range(4) if f"no. {number}" in answered] == [0, 1, 2, 3]
    assert sent[-1]["code"] == 1012


@pytest.mark.timeout(60)
def test_who_balances_loads_is_told_to_look_elsewhere_while_it_drains():
    async def health(app):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/healthz", "method": "GET", "headers": []}
        await app(scope, None, send)
        return sent[0]["status"]

    async def main(app):
        before = await health(app)
        await app.drain()
        return before, await health(app)

    with HybridExecutor() as executor:
        app = create_app({"len": len}, executor=executor, tokens=Tokens([Token.of(SECRET)]))
        assert asyncio.run(main(app)) == (200, 503)
        app.close()
