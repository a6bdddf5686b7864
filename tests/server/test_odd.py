"""Tasks and arguments whose own code does odd things: they cost one call, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import RemoteTaskError, TaskInputError
from hybrid_compute.server import Tokens, create_app
from hybrid_compute.server.service import Call

from .conftest import SECRET, Served

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def odd():
    server = Served("tests.server.work:ODD")
    yield server
    server.end()


@pytest.fixture(params=["ws", "http"])
def ex(odd, request):
    path = {"ws": "/ws", "http": "/compute"}[request.param]
    with RemoteExecutor(f"{request.param}://127.0.0.1:{odd.port}{path}", token=SECRET) as ex:
        yield ex


def test_an_argument_whose_check_raises_anything_is_refused(ex):
    with pytest.raises(TaskInputError, match=r"'pick'.* KeyError.* at \$\.input"):
        ex.submit(remote_task("pick"), {"x": 1}).result(20)


def test_it_ends_no_other_call_of_its_connection(odd):
    with RemoteExecutor(f"ws://127.0.0.1:{odd.port}/ws", token=SECRET) as ex:
        other = ex.submit(remote_task("wait"))
        assert ex.submit(remote_task("pick"), {"x": 1}).exception(20) is not None
        assert ex.submit(remote_task("echo"), 1).result(20) == 1
        assert other.cancel_running()


def test_a_result_that_cannot_be_read_is_the_error_of_its_call(ex):
    with pytest.raises(RemoteTaskError, match=r"\$\.result.* KeyError"):
        ex.submit(remote_task("unreadable")).result(20)


def test_a_task_that_raises_what_a_cancelled_future_does_has_run_and_runs_once(ex):
    before = ex.submit(remote_task("runs")).result(20)
    with pytest.raises(RemoteTaskError) as info:
        ex.submit(remote_task("cancels")).result(20)
    assert info.value.type_name.endswith("CancelledError")
    assert ex.submit(remote_task("runs")).result(20) == before + 1


def test_an_answer_that_cannot_be_given_keeps_nobody_from_theirs(monkeypatch, caplog):
    async def main(app) -> str:
        loop = asyncio.get_running_loop()
        token = app._gate.authenticate([])
        calls = [app.service.admit(token) for _ in range(2)]
        settle, done = Call.settle, loop.create_future()

        def odd(call: Call) -> None:
            if call is calls[0]:
                raise KeyError("odd")
            settle(call)

        monkeypatch.setattr(Call, "settle", odd)
        for call in calls:
            call.future = asyncio.Future()
            call.future.set_result(1)
            call._deliver = lambda _: done.set_result("told")
            app.service.ended.append(call)
        app.service.settle()
        return await asyncio.wait_for(done, 20)

    with HybridExecutor(executors={}) as ex:
        app = create_app([task(len)], executor=ex, tokens=Tokens.anyone())
        assert asyncio.run(main(app)) == "told"
        app.close()
    assert "exception answering a call" in caplog.text
