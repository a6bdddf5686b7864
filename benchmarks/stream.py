"""Streams: small items from a generator elsewhere, the first item, and a large stream's memory.

All in microseconds an item, but for memory.
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
from contextlib import contextmanager
from pathlib import Path
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


def _ray(n: int) -> float:
    import ray  # noqa: PLC0415 - only who measures it has it

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:

        @ray.remote(num_returns="streaming")  # type: ignore[misc]  # ray's own, if it is there
        def produce(n: int) -> Iterator[int]:
            # Ray sends values into it, which `yield from` would hand to the range.
            for number in range(n):  # noqa: UP028
                yield number

        def items(n: int) -> Iterator[int]:
            for each in produce.remote(n):
                yield ray.get(each)

        return _per_item(n, items)
    finally:
        ray.shutdown()


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


@contextmanager
def _service(url: str) -> Iterator[tuple[RemoteExecutor, int]]:
    """Serve SERVED; give an executor for it, and the server's process id."""
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
        with RemoteExecutor(url.format(port), token=token) as ex:
            yield ex, process.pid
    finally:
        process.terminate()
        process.wait()


def _served(url: str) -> Callable[[int], float]:
    def measure(n: int) -> float:
        with _service(url) as (ex, _):
            return _per_item(n, lambda n: ex.stream(remote_task("numbers"), n))

    return measure


def _rise(stream: Callable[[int], Iterator[bytes]], n: int, *sizes: Callable[[], int]) -> list[int]:
    """Read n blocks, and return by how many bytes each of the sizes rose at most."""
    for block in stream(20):
        del block
    before = [size() for size in sizes]
    peaks = before
    for number, block in enumerate(stream(n)):
        if len(block) != BLOCK or block[0] != number % 256:
            raise RuntimeError(f"block {number} is another one")
        if number % 16 == 0:
            peaks = [max(peak, size()) for peak, size in zip(peaks, sizes, strict=True)]
        del block
    return [peak - start for peak, start in zip(peaks, before, strict=True)]


def _memory(make: str) -> Callable[[int], float]:
    def measure(n: int) -> float:
        with getattr(hybrid_compute, make)(1) as ex:
            (rise,) = _rise(lambda n: ex.submit(small_blocks, n), n, rss_bytes)
        return rise / (1 << 20)

    return measure


def _memory_of_both(url: str) -> Callable[[int], dict[str, float]]:
    def measure(n: int) -> dict[str, float]:
        task = remote_task("blocks", buffersize=8)
        with _service(url) as (ex, pid):
            ours, theirs = _rise(
                lambda n: ex.stream(task, n), n, rss_bytes, lambda: _family_bytes(pid)
            )
        return {"": ours / (1 << 20), "server": theirs / (1 << 20)}

    return measure


def _family_bytes(pid: int) -> int:
    """Return the resident memory of a process and all that it has started."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    below = sum(_family_bytes(int(each)) for file in children for each in file.read_text().split())
    return rss_bytes(pid) + below


small_blocks = hybrid_compute.task(buffersize=8)(blocks)
SERVED = {"numbers": numbers, "blocks": small_blocks}

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
            Adapter("ray, streaming generator", _ray, "ray", share=0.005),
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
    Case(
        name="stream of 1 GiB over a network, 8 items under way, memory of both ends",
        unit="MiB",
        adapters=(
            Adapter(
                "RemoteExecutor, WebSocket", _memory_of_both("ws://127.0.0.1:{}/ws"), "msgspec"
            ),
            Adapter(
                "RemoteExecutor, NDJSON", _memory_of_both("http://127.0.0.1:{}/compute"), "msgspec"
            ),
        ),
        size=1024,
        quick_size=256,
        rounds=3,
        note="The same of our own server on this machine, with all its processes.",
    ),
)
