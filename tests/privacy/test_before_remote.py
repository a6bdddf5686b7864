"""What leaves this machine in place of the arguments."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import cloudpickle
import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, Sensitive, TaskOptions, remote_task, task
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    RemoteConnectionLost,
)
from hybrid_compute.policy import Prefer
from tests.remote.servers import Peer, serving

from .fakes import SECRET, Fake


def first_letter(customer: Any, *rest: Any, **more: Any) -> Any:
    return (customer.reveal()[:1], *rest), more


@task(before_remote=first_letter)
def score(customer: Annotated[str, Sensitive], amount: int = 0, *, unit: str = "") -> list[Any]:
    return [customer, amount, unit]


@task(before_remote=first_letter)
def letters(customer: Annotated[str, Sensitive]) -> Iterator[str]:
    yield from customer


def fleet(*members: Fake, **options: Any) -> HybridExecutor:
    policy = Prefer(*(each.name for each in members), "thread")
    return HybridExecutor(1, executors={each.name: each for each in members}, policy=policy)


def test_a_remote_gets_what_it_returns_and_others_the_original() -> None:
    away = Fake("away")
    with fleet(away) as ex:
        assert ex.submit(score, SECRET, 2, unit="EUR").result() == ["a", 2, "EUR"]
        assert list(ex.map(score, [SECRET, "bob"], [1, 2])) == [["a", 1, ""], ["b", 2, ""]]
        assert list(ex.stream(letters, SECRET)) == ["a"]
        assert list(ex.submit(letters, SECRET)) == ["a"]
        assert [list(each) for each in ex.map(letters, [SECRET])] == [["a"]]
        assert ex.options(executor="thread").submit(score, SECRET).result() == [SECRET, 0, ""]
        here = ex.options(executor="inline")
        assert list(here.map(score, [SECRET])) == [[SECRET, 0, ""]]
        assert list(here.stream(letters, "xy")) == ["x", "y"]
    assert away.seen[:2] == [(("a", 2), {"unit": "EUR"}), (("a", 1), {})]
    assert SECRET not in str(away.seen)


def test_so_it_does_where_a_remote_stands_alone() -> None:
    away = Fake("away")
    assert away.submit(score, SECRET, 2).result() == ["a", 2, ""]
    assert list(away.map(score, [SECRET])) == [["a", 0, ""]]
    assert list(away.stream(letters, SECRET)) == ["a"]


def test_a_tuple_is_arguments_and_a_pair_has_keywords_too() -> None:
    away = Fake("away")
    with fleet(away) as ex:
        for said in ((1,), (1, 2), ((1, 2), {"c": 3}), ((1,), {2: 3}), ()):
            ex.options(before_remote=lambda *_, said=said: said).submit(task(collect), 0).result()
    assert away.seen == [
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2), {"c": 3}),
        (((1,), {2: 3}), {}),  # no keywords: two arguments
        ((), {}),
    ]


def collect(*args: Any, **kwargs: Any) -> None: ...


def test_a_callers_transform_goes_before_the_tasks() -> None:
    away = Fake("away")
    with fleet(away) as ex:
        ex.options(before_remote=lambda _: ("of the caller",)).submit(score, SECRET).result()
    assert away.seen == [(("of the caller",), {})]


def test_it_is_asked_on_the_thread_that_hands_over_and_once_for_all_attempts() -> None:
    threads: list[Any] = []

    def transform(customer: Any) -> Any:
        threads.append(threading.current_thread())
        return (len(threads),)

    def fails() -> Exception:
        return RemoteConnectionLost("lost", may_have_run=True)

    one = Fake("one", fails=fails)
    view_options = {"before_remote": transform, "retries": 2, "idempotent": True}
    with fleet(one) as ex, pytest.raises(RemoteConnectionLost):
        ex.options(**view_options).submit(score, SECRET).result()
    assert one.seen == [((1,), {})] * 3
    assert threads == [threading.current_thread()]


def test_it_is_not_asked_when_nothing_goes_out() -> None:
    asked: list[Any] = []
    with fleet(Fake("away")) as ex:
        view = ex.options(before_remote=lambda *a: asked.append(a), executor="thread")
        assert view.submit(score, SECRET).result()[0] == SECRET
    assert not asked


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (lambda customer: 1 / 0, "raised ZeroDivisionError"),
        (lambda customer: sys.exit(3), "raised SystemExit"),
        (lambda: (), "raised TypeError"),
        (lambda customer: [1], "returned a list, and not a tuple"),
        (lambda customer: None, "returned a NoneType"),
        (lambda customer: (1, customer), "left a Sensitive in argument 2"),
        (lambda customer: ((), {"c": customer}), "left a Sensitive in keyword 'c'"),
        (lambda customer: (1, {"a": [{1: (customer,)}]}), "left a Sensitive in argument 2"),
        (lambda customer: ({customer: 1},), "left a Sensitive in argument 1"),
    ],
)
def test_what_goes_wrong_sends_nothing_and_the_next_is_tried(transform: Any, why: str) -> None:
    away, other = Fake("away"), Fake("other")
    with fleet(away, other) as ex:
        view = ex.options(before_remote=transform)
        assert view.submit(score, SECRET).result() == [SECRET, 0, ""]
        with pytest.raises(PlacementError) as caught:
            view.options(executor="away").submit(score, SECRET).result()
        with pytest.raises(PlacementError):
            list(view.options(executor="away").map(score, [SECRET]))
        with pytest.raises(PlacementError):
            list(view.options(executor="away").stream(letters, SECRET))
    assert not away.seen
    assert not other.seen
    assert why in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_error_has_its_cause_and_where_that_was_but_no_frames() -> None:
    def transform(customer: Any) -> Any:
        raise KeyError("nobody")

    with fleet(Fake("away")) as ex, pytest.raises(PlacementError) as caught:
        ex.options(executor="away", before_remote=transform).submit(score, SECRET).result()
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert cause.__traceback__ is None
    assert "in transform" in cause.__notes__[0]


def test_a_cycle_in_what_it_returns_is_looked_through_once() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    away = Fake("away")
    with fleet(away) as ex:
        ex.options(before_remote=lambda _: (cycle,)).submit(task(collect), 0).result()
    assert away.seen


def test_a_local_fallback_after_a_remote_gets_the_original() -> None:
    away = Fake("away", fails=lambda: ExecutorUnavailable("not today"))
    with fleet(away) as ex:
        assert ex.submit(score, SECRET).result() == [SECRET, 0, ""]
        assert list(ex.stream(letters, "xy")) == ["x", "y"]
    assert away.seen[0] == (("a",), {})


def test_a_remote_fallback_after_a_local_one_gets_the_transformed() -> None:
    here = Fake("here", remote=False, fails=lambda: ExecutorUnavailable("not today"))
    away = Fake("away")
    with fleet(here, away) as ex:
        assert ex.submit(score, SECRET).result() == ["a", 0, ""]
    assert here.seen == [((SECRET,), {})]
    assert away.seen == [(("a",), {})]


def test_local_only_is_stronger() -> None:
    away = Fake("away")
    with fleet(away) as ex:
        view = ex.options(local_only=True)
        assert view.submit(score, SECRET).result() == [SECRET, 0, ""]
        assert list(view.map(score, [SECRET])) == [[SECRET, 0, ""]]
    with pytest.raises(PlacementError, match="local_only"):
        away.submit(task(local_only=True, before_remote=first_letter)(abs), 1)
    assert not away.seen


def test_it_stays_here_when_its_task_is_pickled_and_the_data_too() -> None:
    # It may hold a key; and whoever has the task there can send it on.
    key = "the key"
    secret = task(before_remote=lambda customer: (hash((key, customer)),))(lambda customer: 0)
    data = cloudpickle.dumps(secret)
    assert key.encode() not in data
    assert pickle.loads(data).options == TaskOptions(local_only=True)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="before_remote=3 cannot be called"):
        task(before_remote=3)


# -- on the wire ------------------------------------------------------------------------------


SCORE = remote_task("score", before_remote=first_letter)


def over_http(bodies: list[bytes]) -> Any:
    def handle(peer: Peer) -> None:
        while (body := peer.request()) is not None:
            bodies.append(body)
            found = json.loads(body)["input"]
            if "x-ndjson" in peer.headers.get("accept", ""):
                peer.answer(json.dumps(found).encode() + b"\n", kind="application/x-ndjson")
            else:
                peer.answer(json.dumps({"result": found}).encode())

    return handle


def over_websocket(bodies: list[bytes]) -> Any:
    def handle(peer: Peer) -> None:
        peer.shake_hands()
        while (raw := peer.message()) is not None:
            bodies.append(raw)
            call = json.loads(raw)
            peer.write(json.dumps({"id": call["id"], "result": call["input"]}).encode())

    return handle


@pytest.mark.parametrize(("scheme", "handler"), [("http", over_http), ("ws", over_websocket)])
def test_only_what_it_returns_is_on_the_wire(scheme: str, handler: Any) -> None:
    bodies: list[bytes] = []
    with (
        serving(handler(bodies)) as port,
        RemoteExecutor(f"{scheme}://127.0.0.1:{port}/ws", tasks=["score"]) as remote,
        HybridExecutor(remote=remote) as ex,
    ):
        for each in (ex, remote):
            assert each.submit(SCORE, Sensitive(SECRET)).result(10) == "a"
            assert list(each.map(SCORE, [Sensitive(SECRET), Sensitive("bob")])) == ["a", "b"]
            assert list(each.stream(SCORE, Sensitive(SECRET))) == ["a"]
    calls = [body for body in bodies if body]
    assert len(calls) >= 8
    assert SECRET.encode() not in b"".join(bodies)
