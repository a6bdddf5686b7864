"""Calls with an idempotency key: what the server remembers of them, and for how long."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid_compute import RemoteExecutor, remote_task, task
from hybrid_compute.errors import ExecutorUnavailable, OutboxError, OutcomeUnknown, WorkerCrashed
from hybrid_compute.items import WorkItem
from hybrid_compute.protocol.messages import Failed
from hybrid_compute.server import Tokens, create_app
from hybrid_compute.server.failures import Remembered, failure_of
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.journal import Journal
from hybrid_compute.server.memory import Memory, mark_of

from .conftest import SECRET, Served
from .raw import POST, Raw
from .test_served import post
from .work import append

pytestmark = pytest.mark.timeout(60)


def describe(error):
    return failure_of(error, debug=False)


class Work:
    """Futures that a test ends."""

    def __init__(self):
        self.futures = []

    def __call__(self):
        self.futures.append(Future())
        return self.futures[-1]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def remember(work, memory, key="k", mark=b"m", *, token="t", idempotent=False):
    return memory.run(token, key, mark, work, idempotent=idempotent)


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def memory():
    return Memory(describe, seconds=60, max_bytes=10_000)


def status_of(future):
    error = future.exception(0)
    return failure_of(error, debug=False).status


def test_a_call_that_comes_again_joins_the_one_that_runs_and_gets_its_answer(memory, work):
    one, two = remember(work, memory), remember(work, memory)
    assert not one.done()
    work.futures[0].set_result((1, {2}))
    three = remember(work, memory)
    assert [each.result(0) for each in (one, two, three)] == [(1, {2})] * 3
    assert len(work.futures) == 1


def test_a_failure_is_remembered_as_it_was_told(memory, work):
    one = remember(work, memory)
    work.futures[0].set_exception(ValueError("why \udc80"))
    for each in (one, remember(work, memory)):
        error = each.exception(0)
        assert isinstance(error, Remembered)
        assert failure_of(error, debug=False) == Failed(0, "why \\udc80", 500, "ValueError")
    assert len(work.futures) == 1


def test_a_result_that_cannot_be_sent_does_not_make_the_call_run_again(memory, work):
    one = remember(work, memory)
    work.futures[0].set_result(object())
    assert "cannot be sent" in str(one.exception(0))
    assert "cannot be sent" in str(remember(work, memory).exception(0))
    assert len(work.futures) == 1


def test_a_key_belongs_to_a_token_and_to_one_call(memory, work):
    remember(work, memory)
    remember(work, memory, token="other")
    assert len(work.futures) == 2
    with pytest.raises(Refusal, match="another call"):
        remember(work, memory, mark=b"n")
    assert mark_of(task(int), "a", (1,), {}) != mark_of(task(int), "a", (2,), {})
    assert mark_of(task(int), "a", (1,), {}) == mark_of(task(int), "a", [1], {})


@pytest.mark.parametrize(
    "error", [ExecutorUnavailable("full"), Refusal(408, "late"), RuntimeError("shut down")]
)
def test_what_never_ran_is_not_remembered(memory, work, error):
    if isinstance(error, ExecutorUnavailable):
        one = remember(work, memory)
        work.futures[0].set_exception(error)
    else:

        def refuse():
            raise error

        one = remember(refuse, memory)
    assert one.exception(0) is error
    assert len(memory) == 0
    remember(work, memory)
    assert work.futures[-1].set_result(1) is None


def test_work_that_crashed_may_have_had_effects_and_is_not_run_again(memory, work):
    one = remember(work, memory)
    crash = WorkerCrashed("it died", item_name="t", pid=1, exitcode=None, signal=9)
    work.futures[0].set_exception(crash)
    assert status_of(one) == status_of(remember(work, memory)) == 500
    assert len(work.futures) == 1


def test_a_call_that_was_cancelled_before_it_began_is_forgotten(memory, work):
    one, two = remember(work, memory), remember(work, memory)
    assert one.cancel_running()
    assert status_of(one) == status_of(two)
    assert len(memory) == 0


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_call_that_was_stopped_in_its_midst_runs_again_only_if_it_may(memory, work, idempotent):
    class Stoppable(Future):
        def cancel_running(self):
            self._state = "CANCELLED"
            self.set_running_or_notify_cancel()
            self._invoke_callbacks()
            return True

    def start():
        work.futures.append(Stoppable())
        work.futures[-1].set_running_or_notify_cancel()
        return work.futures[-1]

    one = remember(start, memory)
    assert one.cancel_running()
    assert status_of(one) == 409
    two = remember(start, memory, idempotent=idempotent)
    assert len(work.futures) == 1 + idempotent
    if not idempotent:
        assert describe(two.exception(0)).type_name == "OutcomeUnknown"


def test_what_is_remembered_is_bounded_in_time_and_bytes(work):
    clock = Clock()
    memory = Memory(describe, seconds=60, max_bytes=5000, clock=clock)
    for number in range(20):
        remember(work, memory, str(number))
        work.futures[-1].set_result("x" * 500)
        clock.now += 1
    assert 2 <= len(memory) <= 5
    remember(work, memory, "19")
    assert len(work.futures) == 20
    remember(work, memory, "0")  # it was forgotten
    assert len(work.futures) == 21
    clock.now += 60
    remember(work, memory, "19")
    assert len(work.futures) == 22


def test_what_runs_is_not_forgotten_however_long_it_takes(work):
    clock = Clock()
    memory = Memory(describe, seconds=60, max_bytes=1, clock=clock)
    one = remember(work, memory)
    clock.now += 1e6
    two = remember(work, memory)
    work.futures[0].set_result(1)
    assert one.result(0) == two.result(0) == 1


# -- the journal -------------------------------------------------------------------------------


@contextmanager
def journaled(path, clock=None, **options):
    clock = clock or Clock()
    journal = Journal(path, max_bytes=2**20, clock=clock)
    options = {"seconds": 60, "max_bytes": 10_000, **options}
    memory = Memory(describe, journal=journal, clock=clock, **options)
    try:
        yield memory
    finally:
        memory.close()


def in_loop(function):
    """Call a function on an event loop, and go on until the futures that it returns are done."""

    async def main():
        return [await asyncio.wrap_future(each) for each in function()]

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_an_answer_outlives_the_server(tmp_path, work):
    def start():
        future = Future()
        work.futures.append(future)
        future.set_result({1: "one"})
        return future

    with journaled(tmp_path / "j") as memory:
        assert in_loop(lambda: [remember(start, memory)]) == [{1: "one"}]
    with journaled(tmp_path / "j") as memory:
        assert remember(start, memory).result(0) == {1: "one"}
    assert len(work.futures) == 1


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_call_that_was_begun_when_the_server_died_may_have_run(tmp_path, work, idempotent):
    async def main(memory):
        begun = asyncio.Event()

        def start():
            begun.set()
            return work()

        remember(start, memory)
        await begun.wait()

    with journaled(tmp_path / "j") as memory:
        asyncio.run(asyncio.wait_for(main(memory), 30))
        copy = sqlite3.connect(tmp_path / "j")  # it was on disk before it began
        assert copy.execute("SELECT key, outcome FROM calls").fetchall() == [("k", None)]
        copy.close()
    with journaled(tmp_path / "j") as memory:
        if idempotent:

            def done():
                future = Future()
                future.set_result(5)
                return future

            assert in_loop(lambda: [remember(done, memory, idempotent=True)]) == [5]
        else:
            assert status_of(remember(work, memory)) == 409
    assert len(work.futures) == 1


def test_what_is_forgotten_goes_out_of_the_journal(tmp_path, work):
    clock = Clock()

    def start():
        future = Future()
        future.set_result("x" * 1000)
        return future

    with journaled(tmp_path / "j", clock, max_bytes=5000) as memory:
        for number in range(10):
            in_loop(lambda number=number: [remember(start, memory, str(number))])
            clock.now += 1
    connection = sqlite3.connect(tmp_path / "j")
    keys = [each for (each,) in connection.execute("SELECT key FROM calls ORDER BY at")]
    connection.close()
    assert keys == [str(each) for each in range(10)][-len(keys) :]
    assert 2 <= len(keys) <= 5


def test_ages_go_on_where_the_last_server_stopped_whatever_the_clocks_say(tmp_path):
    def start():
        future = Future()
        future.set_result(1)
        return future

    early, late = Clock(), Clock()
    with journaled(tmp_path / "j", early) as memory:
        in_loop(lambda: [remember(start, memory, "old")])
        early.now += 50
        in_loop(lambda: [remember(start, memory, "new")])
    late.now = -1e9  # another boot
    with journaled(tmp_path / "j", late) as memory:
        assert len(memory) == 2
        late.now += 20
        remember(Work(), memory, "new").result(0)
        assert len(memory) == 1  # 70 and 20 seconds


def test_a_call_does_not_run_if_it_cannot_be_written_down(tmp_path, work, caplog):
    with journaled(tmp_path / "j") as memory:
        memory._journal._connection.execute("PRAGMA query_only=1")

        async def main():
            shared = remember(work, memory)
            with pytest.raises(Refusal) as caught:
                await asyncio.wrap_future(shared)
            return caught.value

        refusal = asyncio.run(asyncio.wait_for(main(), 30))
        assert (refusal.status, refusal.retry_after) == (503, 5)
        assert work.futures == []
        assert len(memory) == 0
    assert "cannot be written" in caplog.text


def test_one_journal_is_of_one_server(tmp_path):
    with journaled(tmp_path / "j"):
        with pytest.raises(OutboxError, match="another server"):
            Journal(tmp_path / "j", max_bytes=1000)
    Journal(tmp_path / "j", max_bytes=1000).close()


def test_the_serve_command_names_a_file_that_it_cannot_use(tmp_path):
    import subprocess
    import sys

    path = tmp_path / "j"
    path.write_text("something")
    path.chmod(0o600)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hybrid_compute.cli", "serve"),
            *("tests.server.work:KEYED", "--remember", str(path)),
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=50,
    )
    assert done.returncode == 2
    assert "is damaged" in done.stderr


# -- over the wire -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    served = Served(
        "tests.server.work:KEYED", "--remember", str(tmp_path_factory.mktemp("journal") / "j")
    )
    yield served
    served.end()


def test_a_request_with_a_key_takes_effect_once(shared, tmp_path):
    body = {"task": "note", "input": str(tmp_path / "effects")}
    for _ in range(3):
        got = post(shared, body, **{"Idempotency-Key": "a-key"})
        assert (got.status_code, got.json()) == (200, {"result": 1})
    assert post(shared, body).json() == {"result": 2}
    other = post(shared, {**body, "input": str(tmp_path)}, **{"Idempotency-Key": "a-key"})
    assert (other.status_code, "another call" in other.json()["error"]) == (422, True)
    fails = {"task": "note", "input": str(tmp_path / "no" / "such")}
    first = post(shared, fails, **{"Idempotency-Key": "fails"})
    (tmp_path / "no").mkdir()
    second = post(shared, fails, **{"Idempotency-Key": "fails"})
    assert first.status_code == second.status_code == 500
    assert first.json() == second.json()


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "\u00e9"])
def test_a_key_that_is_none_is_refused(shared, key):
    got = post(shared, {"task": "note", "input": "/"}, **{"Idempotency-Key": key.encode("latin-1")})
    assert (got.status_code, "Key" in got.json()["error"] or "key" in got.json()["error"]) == (
        400,
        True,
    )


def test_a_stream_and_two_keys_are_refused(shared):
    got = post(shared, {"task": "numbers"}, **{"Idempotency-Key": "k"})
    assert (got.status_code, "streams" in got.json()["error"]) == (400, True)
    body = b'{"task": "note", "input": "/"}'
    head = f"{POST}Idempotency-Key: a\r\nIdempotency-Key: b\r\nContent-Length: {len(body)}\r\n\r\n"
    with Raw(shared.port, head, body) as raw:
        assert raw.status() == 400


async def asgi(app, body, key, *, stays):
    """Make a request, and return the body of the answer; or hang up as soon as it was sent."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
    if not stays:
        messages.append({"type": "http.disconnect"})
    sent = []

    async def receive():
        if messages:
            return messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    headers.append((b"idempotency-key", key))
    scope = {"type": "http", "path": "/compute", "method": "POST", "headers": headers}
    await asyncio.wait_for(app({**scope, "client": ("127.0.0.1", 1)}, receive, send), 30)
    return json.loads(sent[-1]["body"]) if sent else None


def test_a_caller_who_hangs_up_does_not_end_a_call_with_a_key(tmp_path):
    effects, gate = tmp_path / "effects", tmp_path / "gate"
    # In a process, where work that nobody waits for is ended.
    body = {"task": "in_a_process", "input": str(effects)}

    @task(name="in_a_process")
    def work(path):
        return append(path, str(gate))

    app = create_app([work], tokens=Tokens.anyone())

    async def main():
        assert await asgi(app, body, b"k", stays=False) is None
        stops = app.service._stopper
        gate.touch()
        return stops, await asgi(app, body, b"k", stays=True)

    try:
        assert asyncio.run(main()) == (None, {"result": 1})  # nobody was told to end it
        assert effects.read_text() == "x"
    finally:
        app.close()


class Keyed(WorkItem):
    __slots__ = ("key",)


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_our_own_client_sends_keys_both_ways(shared, scheme, tmp_path):
    path = "/ws" if scheme == "ws" else "/compute"
    effects = str(tmp_path / "effects")
    with RemoteExecutor(f"{scheme}://127.0.0.1:{shared.port}{path}", token=SECRET) as ex:
        for key, want in (("a", 1), ("a", 1), ("b", 2), (None, 3)):
            item = Keyed(remote_task("note"), (effects,))
            item.key = None if key is None else f"{scheme}-{key}"
            ex.execute(item)
            assert item.future.result(30) == want


@pytest.mark.parametrize(("name", "scheme"), [("note", "http"), ("again", "ws")])
def test_a_server_that_was_killed_in_the_midst_of_a_call_says_so(tmp_path, name, scheme):
    effects, gate = tmp_path / "effects", tmp_path / "gate"
    options = ("tests.server.work:KEYED", "--remember", str(tmp_path / "j"))
    path = "/ws" if scheme == "ws" else "/compute"
    pause = threading.Event()

    def send(ex):
        item = Keyed(remote_task(name), (str(effects), str(gate)))
        item.key = "the-key"
        ex.execute(item)
        return item.future

    served = Served(*options)
    try:
        url = f"{scheme}://127.0.0.1:{served.port}{path}"
        with RemoteExecutor(url, token=SECRET, reconnect_for=0.1) as ex:
            future = send(ex)
            while not effects.exists() or not effects.read_text():
                pause.wait(0.005)
            os.kill(served.process.pid, signal.SIGKILL)
            assert future.exception(30).may_have_run
        served.end()
        served = Served(*options, port=served.port)
        gate.touch()
        with RemoteExecutor(url, token=SECRET) as ex:
            future = send(ex)
            if name == "again":  # its author said that it may
                assert future.result(30) == 2
            else:
                error = future.exception(30)
                assert isinstance(error, OutcomeUnknown)
                assert error.status == 409
                assert effects.read_text() == "x"
    finally:
        served.end()


def test_an_answer_that_nobody_got_is_there_after_the_server_was_killed(tmp_path):
    effects = tmp_path / "effects"
    options = ("tests.server.work:KEYED", "--remember", str(tmp_path / "j"))
    body = json.dumps({"task": "note", "input": str(effects)}).encode()
    head = f"{POST}Idempotency-Key: lost-answer\r\nContent-Length: {len(body)}\r\n\r\n"
    served = Served(*options)
    try:
        with Raw(served.port, head, body) as raw:
            raw.until(b'{"result":1}')
        os.kill(served.process.pid, signal.SIGKILL)
        served.end()
        served = Served(*options, port=served.port)
        with Raw(served.port, head, body) as raw:
            raw.until(b'{"result":1}')
        assert effects.read_text() == "x"
    finally:
        served.end()
