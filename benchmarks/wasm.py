"""Calls of an exported function of a WebAssembly module, beside a bare wasmtime call."""

# ruff: noqa: PLC0415 - a library is imported only in the interpreter that measures it

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks._harness import Adapter, Case

__all__ = ["CASES"]

MICRO = 1e6
WAT = b'(module (func (export "f") (param i64) (result i64) local.get 0 i64.const 1 i64.add))'
MEMORY = 64 * 2**20  # as WasmExecutor's own


def _one_by_one(call: Callable[[int], Any], size: int) -> float:
    took = []
    for number in range(size):
        begin = perf_counter()
        assert call(number) == number + 1
        took.append(perf_counter() - begin)
    return statistics.median(took) * MICRO


def _module() -> tuple[Any, Any]:
    import wasmtime

    config = wasmtime.Config()
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module(engine, WAT)


def _live(size: int) -> float:
    import wasmtime

    engine, module = _module()
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    function = wasmtime.Instance(store, module, []).exports(store)["f"]
    return _one_by_one(lambda number: function(store, number), size)


def _fresh_call() -> Callable[[int], Any]:
    import wasmtime

    engine, module = _module()

    def call(number: int) -> Any:
        store = wasmtime.Store(engine)
        store.set_epoch_deadline(1)
        store.set_limits(memory_size=MEMORY)
        return wasmtime.Instance(store, module, []).exports(store)["f"](store, number)

    return call


def _fresh(size: int) -> float:
    return _one_by_one(_fresh_call(), size)


def _sandbox(size: int) -> float:
    from hybrid_compute.engines._sandbox import Sandbox

    box = Sandbox(WAT)
    took = _one_by_one(lambda number: box.call("f", (number,)), size)
    box.close()
    box.join()
    return took


def _executor(size: int) -> float:
    from hybrid_compute.engines.wasm import WasmExecutor

    with WasmExecutor(WAT, max_workers=2) as ex:
        return _one_by_one(lambda number: ex.submit(ex.tasks["f"], number).result(), size)


def _in_fleet(size: int) -> float:
    from hybrid_compute import HybridExecutor
    from hybrid_compute.engines.wasm import WasmExecutor
    from hybrid_compute.policy import Always

    wasm = WasmExecutor(WAT, max_workers=2)
    with HybridExecutor(executors={"wasm": wasm}, policy=Always("wasm")) as ex:
        return _one_by_one(lambda number: ex.submit(wasm.tasks["f"], number).result(), size)


def _a_call(work: Callable[[range], list[Any]], size: int) -> float:
    begin = perf_counter()
    assert sum(work(range(size))) == size * (size + 1) // 2
    return (perf_counter() - begin) / size * MICRO


def _fresh_batch(size: int) -> float:
    call = _fresh_call()
    return _a_call(lambda numbers: [call(each) for each in numbers], size)


def _executor_batch(size: int) -> float:
    from hybrid_compute.engines.wasm import WasmExecutor

    with WasmExecutor(WAT, max_workers=2) as ex:
        return _a_call(lambda numbers: [*ex.map(ex.tasks["f"], numbers)], size)


CASES = (
    Case(
        name="wasm: one call at a time, p50",
        unit="us a call",
        adapters=(
            Adapter("wasmtime, one instance", _live, "wasmtime"),
            Adapter("wasmtime, an instance a call", _fresh, "wasmtime"),
            Adapter("Sandbox", _sandbox, "hybrid_compute"),
            Adapter("WasmExecutor", _executor, "hybrid_compute"),
            Adapter("HybridExecutor", _in_fleet, "hybrid_compute"),
        ),
        size=5_000,
        quick_size=1_000,
        rounds=7,
        quick_rounds=3,
        note=(
            "With one instance a call finds what the last one has left, and nothing bounds its "
            "memory. ``Sandbox`` is what a thread of ``WasmExecutor`` calls."
        ),
    ),
    Case(
        name="wasm: map",
        unit="us a call",
        adapters=(
            Adapter("wasmtime, an instance a call", _fresh_batch, "wasmtime"),
            Adapter("WasmExecutor", _executor_batch, "hybrid_compute"),
        ),
        size=10_000,
        quick_size=2_000,
        rounds=5,
        quick_rounds=3,
        note="",
    ),
)
