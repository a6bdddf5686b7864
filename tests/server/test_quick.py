"""Calls that are made in the turn that has read them: as those that go the long way."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    TaskRegistry,
    ThreadExecutor,
    current,
    remote_task,
    task,
)
from hybrid_compute._seats import here
from hybrid_compute.protocol import JSON_SUBPROTOCOL
from hybrid_compute.protocol.messages import Request
from hybrid_compute.server import App, Limits, Token, Tokens, create_app
from hybrid_compute.server.catalog import Catalog
from hybrid_compute.server.quick import Quick, quick_ones

pytestmark = pytest.mark.timeout(30)

SCOPE = {
    "type": "websocket",
    "path": "/ws",
    "headers": [(b"host", b"localhost")],
    "subprotocols": [JSON_SUBPROTOCOL],
    "extensions": {},
}
UNKNOWN = object()
HELLO = {"hello": {"version": 1, "max_bytes": 10_000, "in_flight": 64}}


@task(executor="inline")
def echo(value: Any = None) -> Any:
    return value


@task(executor="inline")
def double(number: int, *, by: int = 2) -> int:
    return number * by


@task(executor="inline")
def fail(text: str) -> None:
    raise ValueError(text)


@task(executor="inline")
def leave() -> None:
    raise SystemExit(3)


@task(executor="inline")
def cancels() -> None:
    raise CancelledError


@task(executor="inline")
def nothing_to_send() -> object:
    return UNKNOWN


@task(executor="inline")
def long_text(size: int) -> str:
    return "\x01" * size


@task(executor="inline")
def stream() -> Any:
    return HybridExecutor().stream(iter, [1, 2, 3])


@task
def elsewhere(value: int) -> int:
    return value


@task(executor="inline")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(executor="inline")
def fail_late() -> None:
    time.sleep(0.02)
    raise ValueError


@task(executor="inline")
def has_a_deadline() -> list[bool]:
    return [current().deadline is not None, here.limit.deadline is not None]


TASKS = [echo, double, fail, leave, cancels, nothing_to_send, long_text, stream, nap]
TASKS += [fail_late, has_a_deadline]


@pytest.fixture
def run() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Send frames to an application, and return the answers to so many calls, by their ids."""
    executors = []

    def go(
        frames: list[Any], calls: int, *, observed: bool = False, tasks: Any = TASKS, **more: Any
    ) -> list[dict[str, Any]]:
        executor = HybridExecutor(observers=[lambda event: None] if observed else [])
        executors.append(executor)
        more.setdefault("tokens", Tokens.anyone())
        app = create_app(tasks, executor=executor, **more)
        return asyncio.run(talk(app, frames, calls))

    yield go
    for each in executors:
        each.shutdown()


async def talk(app: App, frames: list[Any], calls: int) -> list[dict[str, Any]]:
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: list[dict[str, Any]] = []
    frames_got = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal frames_got
        if message["type"] != "websocket.send":
            return
        found = json.loads(message["text"])
        frames_got += 1
        coming.put_nowait({"type": "websocket.receive", "text": json.dumps({"ack": frames_got})})
        for each in found if isinstance(found, list) else [found]:
            if "id" in each and "chunk" not in each and "chunks" not in each:
                answers.append(each)
        if len(answers) == calls:
            coming.put_nowait({"type": "websocket.disconnect", "code": 1000})

    coming.put_nowait({"type": "websocket.connect"})
    for frame in [HELLO, *frames]:
        coming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})
    await app(SCOPE, coming.get, send)
    return sorted(answers, key=lambda each: str(each["id"]))


def call(identity: Any, name: str, value: Any = ..., **more: Any) -> dict[str, Any]:
    given = {} if value is ... else {"input": value}
    return {"id": identity, "task": name, **given, **more}


CALLS = [
    call(1, "echo", 5),
    call(2, "echo", None),
    call(3, "echo"),
    call(4, "echo", "text"),
    call(5, "echo", [1, {"a": 2.5}]),
    call(6, "echo", 2**70),
    call(7, "echo", "\u00e9\u20ac"),
    call("text", "echo", True),
    call(2**70, "echo", 1),
    call(8, "double", 4),
    call(9, "double", "4"),
    call(10, "double", True),
    call(11, "double", args=[1], kwargs={"by": 3}),
    call(12, "double", args=[1, 2, 3]),
    call(13, "double"),
    call(14, "fail", "why"),
    call(15, "leave"),
    call(16, "nothing_to_send"),
    call(17, "long_text", 2000),
    call(18, "long_text", 200),
    call(19, "stream"),
    call(20, "unknown", 1),
    call(21, "echo", 1, timeout=5.0),
    call(22, "echo", 1, timeout=0),
    call(23, "cancels"),
    call(24, "echo", 1, key="a-key"),
    call(25, "nap", 0.02, timeout=0.01),
    call(26, "fail_late", timeout=0.01),
    call(27, "has_a_deadline", timeout=5.0),
    call(28, "has_a_deadline"),
    call(29, "fail", "why", timeout=5.0),
]


@pytest.mark.parametrize("together", [False, True])
def test_a_quick_call_has_the_answer_of_the_long_way(run, together):
    frames = [CALLS] if together else CALLS
    quick = run(frames, len(CALLS))
    assert quick == run(frames, len(CALLS), observed=True)
    assert quick[0] == {"id": 1, "result": 5}
    assert len({json.dumps(each["id"]) for each in quick}) == len(CALLS)


def test_a_quick_call_has_the_log_line_of_the_long_way(run, caplog):
    caplog.set_level(logging.INFO, "hybrid_compute.audit")
    said = []
    for observed in (False, True):
        caplog.clear()
        run([CALLS], len(CALLS), observed=observed)
        lines = [re.sub(r"ms=\d+\.\d", "ms=", each.getMessage()) for each in caplog.records]
        said.append(sorted(lines))
    assert said[0] == said[1]
    assert len(said[0]) == len(CALLS)


def test_an_array_of_a_foreign_peer_is_answered_by_an_array(run):
    scope_of_strangers = {**SCOPE, "subprotocols": []}
    sent: list[Any] = []

    async def main(app: App) -> None:
        coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                sent.append(json.loads(message["text"]))
                coming.put_nowait({"type": "websocket.disconnect", "code": 1000})

        coming.put_nowait({"type": "websocket.connect"})
        text = json.dumps([call(1, "echo", 5), call(2, "fail", "why")])
        coming.put_nowait({"type": "websocket.receive", "text": text})
        await app(scope_of_strangers, coming.get, send)

    with HybridExecutor() as executor:
        asyncio.run(main(create_app(TASKS, executor=executor, tokens=Tokens.anyone())))
    assert sent == [[{"id": 2, "error": "why"}, {"id": 1, "result": 5}]]


class Own(HybridExecutor):
    def submit(self, fn, /, *args, **kwargs):
        return super().submit(fn, *args, **kwargs)


class OwnInline(InlineExecutor):
    pass


@pytest.mark.parametrize(
    "make",
    [
        Own,
        lambda: HybridExecutor(observers=[lambda event: None]),
        lambda: HybridExecutor(executors={"inline": OwnInline()}),
        lambda: HybridExecutor(executors={"inline": ThreadExecutor(1)}),
    ],
)
def test_no_call_is_quick_if_somebody_has_made_an_executor_his_own(make):
    with make() as executor:
        assert not quick_ones(Catalog([echo]), executor)


def test_a_task_is_quick_only_if_its_author_wants_it_inline_and_nothing_else():
    registry = TaskRegistry()
    registry.task(name="quick", executor="inline")(lambda: 1)
    registry.task(name="where it fits")(lambda: 1)
    registry.task(name="in a process", executor="process")(lambda: 1)
    registry.task(name="in time", executor="inline", timeout=1)(lambda: 1)
    registry.task(name="again", executor="inline", retries=1)(lambda: 1)

    @registry.task(name="stream", executor="inline")
    def stream_():
        yield 1

    with HybridExecutor() as executor:
        catalog = Catalog([*registry.values(), remote_task("far")])
        assert list(quick_ones(catalog, executor)) == ["quick"]


def make_quick(executor: HybridExecutor, token: Token, **limits: int) -> tuple[Quick, Any]:
    app = create_app([echo], executor=executor, tokens=Tokens([token]), limits=Limits(**limits))
    service = app.service
    return Quick(service, token, fail=pytest.fail, follow=pytest.fail), service


def test_a_quick_call_beyond_a_limit_goes_the_long_way_and_is_refused_there():
    token = Token.of("a secret of thirty-two characters")
    one = Request(1, "echo", (1,), {})

    async def main() -> None:
        with HybridExecutor() as executor:
            quick, service = make_quick(executor, token, in_flight=1)
            assert quick.run([one], own=True) == ([(1, 1)], [])
            taken = service.admit(token)
            assert quick.run([one], own=True) == ([], [one])
            taken.release("ok")
            assert quick.run([one], own=True) == ([(1, 1)], [])
            service.draining = True
            assert quick.run([one], own=True) == ([], [one])
        service.draining = False
        assert quick.run([one], own=True) == ([], [one])  # the executor is shut down

    asyncio.run(main())


def test_a_call_with_a_key_is_never_quick():
    token = Token.of("a secret of thirty-two characters")
    keyed = Request(1, "echo", (1,), {}, key="a-key")

    async def main() -> None:
        with HybridExecutor() as executor:
            quick, _ = make_quick(executor, token)
            assert quick.run([keyed], own=True) == ([], [keyed])

    asyncio.run(main())


def test_a_token_may_call_only_its_tasks_quickly():
    token = Token.of("a secret of thirty-two characters", tasks=["other"])
    one = Request(1, "echo", (1,), {})
    with HybridExecutor() as executor:
        quick, _ = make_quick(executor, token)
        assert quick.run([one], own=True) == ([], [one])


def test_a_quick_call_that_does_not_end_is_among_those_that_are_left():
    seen = []
    looking = task(executor="inline", name="looking")(lambda: seen.extend(app.service.left()))

    async def main() -> None:
        await talk(app, [call(7, "looking")], 1)

    with HybridExecutor() as executor:
        app = create_app([looking], executor=executor, tokens=Tokens.anyone())
        asyncio.run(main())
        assert len(seen) == 1
        assert re.fullmatch(r"token=\S+ task='looking' id=7 ms=\d+\.\d", seen[0])
        assert not app.service.left()


def test_a_quick_call_makes_no_future_and_takes_no_place(monkeypatch, run):
    monkeypatch.setattr("hybrid_compute.server.service.Call.start", pytest.fail)
    assert run([call(1, "echo", 5)], 1) == [{"id": 1, "result": 5}]
