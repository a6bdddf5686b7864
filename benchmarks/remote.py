"""Calls of a server on this machine, over loopback: ours, bare transports, and other libraries.

Each adapter starts its server in a process of its own, and calls `successor` there, which adds 1.
The bare transports are the least that a program could do without a library for it: one JSON
message a call, over websocket-client to a `websockets` server that sends each frame back unread,
or over a `requests.Session` to an ASGI function.

Calls in flight are a window that slides: as soon as the oldest has its result, another is made.

The figures "CPU" are the CPU time of a call at both ends together. Other programs on the machine
change them less than the walls.
"""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import contextlib
import json
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case
from benchmarks._remote_load import load
from benchmarks._remote_servers import OURS, cpu_seconds, served

__all__ = ["CASES"]

MICRO = 1e6
MEGA = 10**6

# What starts a call and returns what waits for its result.
Start = Callable[[int], Callable[[], int]]
Opener = Callable[[], AbstractContextManager[Start]]


# -- the libraries -------------------------------------------------------------------------------


def _ours(scheme: str, path: str, **environment: str) -> Opener:
    @contextlib.contextmanager
    def opened() -> Iterator[Start]:
        from benchmarks._remote_work import successor
        from hybrid_compute import RemoteExecutor

        with (
            served(OURS, **environment) as (port, _),
            RemoteExecutor(f"{scheme}://127.0.0.1:{port}{path}") as executor,
        ):
            yield lambda number: executor.submit(successor, number).result

    return opened


@contextlib.contextmanager
def _bare_websocket() -> Iterator[Start]:
    import websocket

    with served("websockets") as (port, _):
        client = websocket.create_connection(f"ws://127.0.0.1:{port}")

        def answer() -> int:
            value: int = json.loads(client.recv())["input"] + 1
            return value

        def start(number: int) -> Callable[[], int]:
            client.send(json.dumps({"id": number, "task": "successor", "input": number}))
            return answer  # they come in their order

        yield start
        client.close()


@contextlib.contextmanager
def _requests() -> Iterator[Start]:
    import requests

    with served("uvicorn") as (port, _), requests.Session() as session:
        url = f"http://127.0.0.1:{port}/call"

        def start(number: int) -> Callable[[], int]:
            call = {"task": "successor", "input": number}
            return lambda: session.post(url, json=call).json()["result"]

        yield start


@contextlib.contextmanager
def _rpyc() -> Iterator[Start]:
    import rpyc  # type: ignore[import-untyped]

    with served("rpyc") as (port, _):
        connection = rpyc.connect("127.0.0.1", port)
        call = rpyc.async_(connection.root.successor)

        def start(number: int) -> Callable[[], int]:
            answer = call(number)
            return lambda: answer.value

        yield start
        connection.close()


@contextlib.contextmanager
def _rpyc_waiting() -> Iterator[Start]:
    import rpyc

    with served("rpyc") as (port, _):
        connection = rpyc.connect("127.0.0.1", port)
        call = connection.root.successor
        yield lambda number: lambda: call(number)
        connection.close()


@contextlib.contextmanager
def _pyro5() -> Iterator[Start]:
    import Pyro5.api  # type: ignore[import-untyped]

    with served("pyro5") as (port, _), Pyro5.api.Proxy(f"PYRO:service@127.0.0.1:{port}") as proxy:
        yield lambda number: lambda: proxy.successor(number)


@contextlib.contextmanager
def _dask() -> Iterator[Start]:
    from distributed import Client, LocalCluster

    from benchmarks._work import successor

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield lambda number: client.submit(successor, number, pure=False).result


# -- the measurements ----------------------------------------------------------------------------


def _one_outstanding(opened: Opener) -> Callable[[int], dict[str, float]]:
    def measure(size: int) -> dict[str, float]:
        took = []
        with opened() as start:
            for number in range(size // 10 + 1):
                start(number)()
            used = cpu_seconds()
            for number in range(size):
                begin = perf_counter()
                result = start(number)()
                took.append(perf_counter() - begin)
                if result != number + 1:
                    raise RuntimeError(f"a wrong result: {result}")
            used = cpu_seconds() - used
        return {"": statistics.median(took) * MICRO, "CPU": used / size * MICRO}

    return measure


def _in_flight(window: int) -> Callable[[Opener], Callable[[int], dict[str, float]]]:
    def slide(start: Start, size: int) -> None:
        waiting = deque(start(number) for number in range(window))
        for number in range(size):
            result = waiting.popleft()()
            if result != number + 1:
                raise RuntimeError(f"a wrong result: {result}")
            if number + window < size:
                waiting.append(start(number + window))

    def of_library(opened: Opener) -> Callable[[int], dict[str, float]]:
        def measure(size: int) -> dict[str, float]:
            size = max(size, window)
            with opened() as start:
                slide(start, max(size // 10, window))
                begin, used = perf_counter(), cpu_seconds()
                slide(start, size)
                took, used = perf_counter() - begin, cpu_seconds() - used
            return {"": took / size * MICRO, "CPU": used / size * MICRO}

        return measure

    return of_library


def _body(send: Callable[[], AbstractContextManager[Callable[[bytes], Any]]]) -> Any:
    def measure(size: int) -> dict[str, float]:
        payload = bytes(range(256)) * (size // 256)
        took = []
        rounds = 10
        with send() as exchange:
            for _ in range(2):
                exchange(payload)
            used = cpu_seconds()
            for _ in range(rounds):
                begin = perf_counter()
                back = exchange(payload)
                took.append(perf_counter() - begin)
                if back != payload:
                    raise RuntimeError("another payload came back")
            used = cpu_seconds() - used
        return {"": statistics.median(took) * 1e3, "CPU": used / rounds * 1e3}

    return measure


def _our_body(scheme: str, path: str) -> Any:
    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[bytes], Any]]:
        from benchmarks._remote_work import echo
        from hybrid_compute import RemoteExecutor

        with (
            served(OURS) as (port, _),
            RemoteExecutor(f"{scheme}://127.0.0.1:{port}{path}") as executor,
        ):
            yield lambda payload: executor.submit(echo, payload).result()

    return opened


@contextlib.contextmanager
def _bare_body() -> Iterator[Callable[[bytes], Any]]:
    import requests

    with served("uvicorn") as (port, _), requests.Session() as session:
        yield lambda payload: session.post(f"http://127.0.0.1:{port}/echo", data=payload).content


_WS = _ours("ws", "/ws")
_WS_AUDIT = _ours("ws", "/ws", BENCHMARK_AUDIT="1")
_HTTP = _ours("http", "/compute")

CASES = (
    Case(
        name="remote: WebSocket, one outstanding, p50",
        unit="us a call",
        adapters=(
            Adapter("websocket-client, bare echo", _one_outstanding(_bare_websocket), "websockets"),
            Adapter("RemoteExecutor", _one_outstanding(_WS), "uvicorn"),
            Adapter("rpyc", _one_outstanding(_rpyc_waiting), "rpyc"),
            Adapter("Pyro5", _one_outstanding(_pyro5), "Pyro5"),
            Adapter("dask.distributed", _one_outstanding(_dask), "distributed", share=0.05),
        ),
        size=5_000,
        quick_size=2_000,
        rounds=7,
        quick_rounds=3,
        note="Four threads take part in a call of ours, two in a bare echo. Waking a core that"
        " sleeps costs several times a wake-up of one that is awake: look at the spread.",
    ),
    *(
        Case(
            name=f"remote: WebSocket, {window} in flight",
            unit="us a call",
            adapters=(
                Adapter(
                    "websocket-client, bare echo", _in_flight(window)(_bare_websocket), "websockets"
                ),
                Adapter("RemoteExecutor", _in_flight(window)(_WS), "uvicorn"),
                Adapter("RemoteExecutor with audit log", _in_flight(window)(_WS_AUDIT), "uvicorn"),
                Adapter("rpyc", _in_flight(window)(_rpyc), "rpyc"),
                Adapter("dask.distributed", _in_flight(window)(_dask), "distributed", share=0.02),
            ),
            size=size,
            quick_size=size // 4,
            rounds=5,
            quick_rounds=3,
            note="Pyro5 has one call at a time on a connection.",
        )
        for window, size in ((32, 40_000), (256, 80_000))
    ),
    Case(
        name="remote: HTTP, one outstanding, p50",
        unit="us a call",
        adapters=(
            Adapter("requests.Session.post", _one_outstanding(_requests), "uvicorn"),
            Adapter("RemoteExecutor", _one_outstanding(_HTTP), "uvicorn"),
        ),
        size=2_000,
        quick_size=500,
        rounds=7,
        quick_rounds=3,
    ),
    Case(
        name="remote: HTTP, 10 MB of bytes there and back",
        unit="ms",
        adapters=(
            Adapter("requests, bare bodies", _body(_bare_body), "uvicorn"),
            Adapter("RemoteExecutor", _body(_our_body("http", "/compute")), "uvicorn"),
            Adapter("RemoteExecutor over WebSocket", _body(_our_body("ws", "/ws")), "uvicorn"),
        ),
        size=10 * MEGA,
        quick_size=10 * MEGA,
        rounds=5,
        quick_rounds=2,
        note="The median of ten. Bare: the body is the payload, which nobody looks into.",
    ),
    Case(
        name="remote: 200 clients",
        unit="as named",
        adapters=(Adapter("server", load, "uvicorn"),),
        size=10_000,
        quick_size=200,
        rounds=1,
        quick_rounds=1,
        limit=900.0,
        note="200 WebSocket clients at once that are not ours (one JSON message a frame), each"
        " with 10,000 calls (200 with ``--quick``), one outstanding each, from one process.",
    ),
)
