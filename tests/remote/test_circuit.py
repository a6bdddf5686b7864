"""The circuit of a service that does not answer, over real sockets."""

from __future__ import annotations

import json
import threading

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.breaker import Breaker, State
from hybrid_compute.errors import ConfigurationError, RemoteTaskError, RemoteUnavailable
from hybrid_compute.policy import Always, Prefer
from hybrid_compute.retry import RetryBudget
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

WAIT = 20.0
echo = remote_task("echo")


@task(name="echo")
def local(value: int) -> int:
    return -value


class Service:
    """Answers as long as it is well; counts what it is asked, and lets a test hold one call up."""

    def __init__(self) -> None:
        self.well = True
        self.asked = 0
        self.arrived = threading.Event()
        self.hold: threading.Event | None = None

    def http(self, peer: Peer) -> None:
        while (body := peer.request()) is not None:
            self.asked += 1
            if not self.well:
                peer.reset()
                return
            self.wait()
            peer.answer(self.reply(body))

    def ws(self, peer: Peer) -> None:
        peer.shake_hands()
        while (body := peer.message()) is not None:
            self.asked += 1
            if not self.well:
                peer.reset()
                return
            self.wait()
            peer.write(self.reply(body))

    def wait(self) -> None:
        if self.hold is not None:
            self.arrived.set()
            self.hold.wait(WAIT)

    def reply(self, body: bytes) -> bytes:
        call = json.loads(body)
        answer = {"id": call["id"]} if "id" in call else {}
        if call.get("input") == "bad":
            return json.dumps({**answer, "error": "no"}).encode()
        return json.dumps({**answer, "result": call.get("input")}).encode()


@pytest.fixture(params=["http", "ws"])
def service(request):
    service = Service()
    with serving(getattr(service, request.param)) as port:
        service.url = f"{request.param}://127.0.0.1:{port}/x"
        yield service


def to(service: Service, **settings: object) -> RemoteExecutor:
    breaker = Breaker(most=3, **settings)
    return RemoteExecutor(service.url, tasks=["echo"], breaker=breaker, reconnect_for=0.0)


def fail(remote: RemoteExecutor, times: int) -> None:
    for _ in range(times):
        assert remote.submit(echo, 1).exception(WAIT) is not None


def test_after_some_failures_a_service_is_not_asked_any_more(service):
    with to(service, pause=60, longest=60) as remote:
        assert remote.submit(echo, 1).result(WAIT) == 1
        service.well = False
        fail(remote, 3)
        assert remote.breaker.state is State.OPEN
        asked = service.asked
        error = remote.submit(echo, 1).exception(WAIT)
        assert isinstance(error, RemoteUnavailable)
        assert "is not asked for another" in str(error)
        assert service.asked == asked


def test_what_a_task_raises_is_an_answer(service):
    with to(service) as remote:
        for _ in range(5):
            assert isinstance(remote.submit(echo, "bad").exception(WAIT), RemoteTaskError)
        assert remote.breaker.state is State.CLOSED


def test_one_call_tries_whether_it_is_back(service):
    with to(service, pause=0.01) as remote:
        service.well = False
        fail(remote, 3)
        service.well = True
        service.hold = threading.Event()
        while remote._circuit.is_open():
            threading.Event().wait(0.01)
        trial = remote.submit(echo, 7)
        assert service.arrived.wait(WAIT)
        others = [remote.submit(echo, 7).exception(WAIT) for _ in range(3)]
        assert {type(each) for each in others} == {RemoteUnavailable}
        assert all("one call is finding out whether it is back" in str(each) for each in others)
        service.hold.set()
        assert trial.result(WAIT) == 7
        assert remote.breaker.state is State.CLOSED
        assert remote.submit(echo, 8).result(WAIT) == 8


def test_a_trial_that_is_cancelled_lets_another_one_try(service):
    with to(service, pause=0.01) as remote:
        service.well = False
        fail(remote, 3)
        service.well = True
        while remote._circuit.is_open():
            threading.Event().wait(0.01)
        assert remote._circuit.refusal() is None  # the trial, as if it were on its way
        assert remote._circuit.refusal() is not None
        remote._circuit.forget()
        assert remote.submit(echo, 9).result(WAIT) == 9


def test_a_fleet_leaves_it_out_and_takes_it_in_again(service):
    remote = to(service, pause=0.05)
    with HybridExecutor(remote=remote, policy=Prefer("remote", "thread")) as executor:
        assert executor.submit(local, 1).result(WAIT) == 1
        service.well = False
        for _ in range(3):  # lost, with the call sent: nobody knows whether it has run
            assert executor.submit(local, 1).exception(WAIT) is not None
        asked = service.asked
        future = executor.submit(local, 1)
        assert future.result(WAIT) == -1
        assert [each.executor for each in future.explain().attempts] == ["thread"]
        assert service.asked == asked
        service.well = True
        while not remote.is_available():
            threading.Event().wait(0.01)
        assert executor.submit(local, 1).result(WAIT) == 1


def test_who_can_go_nowhere_else_is_told_why(service):
    remote = to(service, pause=60, longest=60)
    with HybridExecutor(remote=remote, policy=Always("remote")) as executor:
        service.well = False
        for _ in range(3):
            executor.submit(local, 1).exception(WAIT)
        for submit in (executor.submit, executor.options(executor="remote").submit):
            assert "is not asked for another" in str(submit(local, 1).exception(WAIT))


def test_a_retry_budget_that_is_none_is_refused_when_it_is_set():
    remote = RemoteExecutor("http://127.0.0.1:1/compute", name="far")
    budget = remote.retry_budget
    with pytest.raises(ConfigurationError, match=r"retry_budget=5 of <RemoteExecutor far .*: give"):
        remote.retry_budget = 5
    assert remote.retry_budget is budget
    for good in (RetryBudget(share=1), None):
        remote.retry_budget = good
        assert remote.retry_budget is good


def test_a_breaker_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="breaker=5 is none"):
        RemoteExecutor("http://127.0.0.1:1/x", breaker=5)  # type: ignore[arg-type]
