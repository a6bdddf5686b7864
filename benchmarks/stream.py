"""Streams: small items from a generator elsewhere, the first item, and a large stream's memory.

All in microseconds an item, but for memory. Ray's streaming generators are not measured: Ray does
not install on every machine that runs this.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import hybrid_compute
from benchmarks._harness import Adapter, Case, rss_bytes
from hybrid_compute import ProcessExecutor, RemoteExecutor, ThreadExecutor, remote_task

__all__ = ["CASES"]

BLOCK = 1 << 20


def numbers(n: int) -> Iterator[int]:
    """Yield small items."""
    yield from range(n)


def blocks(n: int) -> Iterator[bytes]:
    """Yield items of 1 MiB, each with memory of its own."""
    for number in range(n):
        yield bytes([number % 256]) * BLOCK


def _per_item(n: int, items: Callable[[int], Iterator[Any]]) -> float:
    for _ in items(1000):  # whoever has to be started is there now
        pass
    begin = perf_counter()
    count = sum(1 for _ in items(n))
    seconds = perf_counter() - begin
    if count != n:
        raise RuntimeError(f"{count} items of {n} came")
    return seconds / n * 1e6


def _queue_of_a_thread(n: int) -> Iterator[int]:
    items: queue.Queue[int | None] = queue.Queue(1024)

    def produce() -> None:
        for item in numbers(n):
            items.put(item)
        items.put(None)

    thread = threading.Thread(target=produce)
    thread.start()
    while (item := items.get()) is not None:
        yield item
    thread.join()


def _put_all(items: Any, n: int) -> None:
    for item in numbers(n):
        items.put(item)
    items.put(None)


def _queue_of_a_process(n: int) -> Iterator[int]:
    context = multiprocessing.get_context("fork")
    items: Any = context.Queue(1024)
    process = context.Process(target=_put_all, args=(items, n))
    process.start()
    while (item := items.get()) is not None:
        yield item
    process.join()


def _thread_queue(n: int) -> float:
    return _per_item(n, _queue_of_a_thread)


def _process_queue(n: int) -> float:
    return _per_item(n, _queue_of_a_process)


def _threads(n: int) -> float:
    with ThreadExecutor(1) as ex:
        return _per_item(n, lambda n: ex.stream(numbers, n))


def _processes(n: int) -> float:
    with ProcessExecutor(1) as ex:
        return _per_item(n, lambda n: ex.stream(numbers, n))


def _first_item(n: int) -> dict[str, float]:
    with ProcessExecutor(1) as ex:
        first, whole = [], []
        for _ in range(n):
            begin = perf_counter()
            stream = ex.stream(numbers, 3)
            next(stream)
            first.append(perf_counter() - begin)
            stream.close()
            begin = perf_counter()
            ex.submit(len, "abc").result()
            whole.append(perf_counter() - begin)
    return {
        "": statistics.median(first[n // 10 :]) * 1e6,
        "one outstanding call": statistics.median(whole[n // 10 :]) * 1e6,
    }


def _served(url: str) -> Callable[[int], float]:
    def measure(n: int) -> float:
        token = "a-token-of-the-benchmarks-0123456789"
        process = subprocess.Popen(
            [sys.executable, "-m", "hybrid_compute.cli", "serve", f"{__name__}:SERVED", "--port=0"],
            env={**os.environ, "HYBRID_COMPUTE_TOKEN": token},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "serving at" in line)
            threading.Thread(target=lambda: [*process.stderr], daemon=True).start()
            port = line.rstrip().rpartition(":")[2].rstrip("/")
            task = remote_task("numbers")
            with RemoteExecutor(url.format(port), token=token) as ex:
                return _per_item(n, lambda n: ex.stream(task, n))
        finally:
            process.terminate()
            process.wait()

    return measure


def _memory(make: str) -> Callable[[int], float]:
    def measure(n: int) -> float:
        with getattr(hybrid_compute, make)(1) as ex:
            small = hybrid_compute.task(buffersize=8)(blocks)
            for block in ex.submit(small, 20):
                del block
            before = peak = rss_bytes()
            for number, block in enumerate(ex.submit(small, n)):
                if block[0] != number % 256:
                    raise RuntimeError(f"block {number} is another one")
                if number % 16 == 0:
                    peak = max(peak, rss_bytes())
                del block
        return (peak - before) / (1 << 20)

    return measure


SERVED = {"numbers": numbers}

CASES = (
    Case(
        name="stream from a thread",
        unit="us",
        adapters=(
            Adapter("ThreadExecutor", _threads),
            Adapter("queue.Queue(1024)", _thread_queue, share=0.2),
        ),
        size=1_000_000,
        quick_size=200_000,
    ),
    Case(
        name="stream from a process",
        unit="us",
        adapters=(
            Adapter("ProcessExecutor", _processes),
            Adapter("multiprocessing.Queue(1024)", _process_queue, share=0.2),
        ),
        size=1_000_000,
        quick_size=200_000,
    ),
    Case(
        name="stream from a process, first item",
        unit="us",
        adapters=(Adapter("ProcessExecutor", _first_item),),
        size=2_000,
        quick_size=500,
        note="From `stream()` to the first item, beside a call of `len` on the same worker.",
    ),
    Case(
        name="stream from a service",
        unit="us",
        adapters=(
            Adapter("RemoteExecutor, WebSocket", _served("ws://127.0.0.1:{}/ws"), "msgspec"),
            Adapter("RemoteExecutor, NDJSON", _served("http://127.0.0.1:{}/compute"), "msgspec"),
        ),
        size=500_000,
        quick_size=100_000,
        note="Our own server, on this machine, whose generator runs in a process.",
    ),
    Case(
        name="stream of 1 GiB, 8 items under way, memory of the consumer",
        unit="MiB",
        adapters=(
            Adapter("ThreadExecutor", _memory("ThreadExecutor")),
            Adapter("ProcessExecutor", _memory("ProcessExecutor")),
        ),
        size=1024,
        quick_size=256,
        rounds=3,
        note="Items of 1 MiB. How much more the consumer's process has than after 20 of them.",
    ),
)
