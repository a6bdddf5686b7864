"""WASM: exported functions as tasks, each call in a sandbox that bounds what it takes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import wasmtime

from hybrid_compute import HybridExecutor, task
from hybrid_compute.engines._sandbox import Sandbox
from hybrid_compute.engines.wasm import WasmExecutor
from hybrid_compute.errors import ConfigurationError, PlacementError, SandboxError, TaskTimeout

WAT = b"""
(module
  (memory (export "memory") 1)
  (global $count (mut i32) (i32.const 0))
  (func (export "add") (param i64 i64) (result i64) local.get 0 local.get 1 i64.add)
  (func (export "half") (param f64) (result f64) local.get 0 f64.const 2 f64.div)
  (func (export "narrow") (param i32) (result i32) local.get 0)
  (func (export "two") (result i32 f64) i32.const 1 f64.const 0.5)
  (func (export "nothing"))
  (func (export "count") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1))) global.get $count)
  (func (export "fib") (param i64) (result i64)
    (if (result i64) (i64.lt_s (local.get 0) (i64.const 2)) (then (local.get 0)) (else
      (i64.add (call 6 (i64.sub (local.get 0) (i64.const 1)))
               (call 6 (i64.sub (local.get 0) (i64.const 2)))))))
  (func (export "spin") (loop br 0))
  (func (export "eat") (result i32)
    (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) memory.size)
  (func (export "eat_for_ever")
    (loop (drop (memory.grow (i32.const 1))) (br 0)))
  (func $deep (export "deep") (result i32) (i32.add (call $deep) (i32.const 1)))
  (func (export "die") unreachable)
  (func (export "zero") (result i32) (i32.div_s (i32.const 1) (i32.const 0)))
  (func (export "beyond") (result i32) (i32.load (i32.const 100000000)))
)
"""
PAGE = 65536
ROOT = Path(__file__).parents[2]


@pytest.fixture
def wasm():
    with WasmExecutor(WAT, timeout=30, max_workers=2) as executor:
        yield executor


def call(executor, name, *args, timeout=60):
    return executor.submit(executor.tasks[name], *args).result(timeout)


def until_running(future):
    while not future.running():
        threading.Event().wait(0.001)  # nothing tells that it has started


# -- what comes back -------------------------------------------------------------------------------


def test_each_exported_function_is_a_task(wasm):
    assert call(wasm, "add", 2, -5) == -3
    assert call(wasm, "half", 3) == 1.5
    assert call(wasm, "two") == (1, 0.5)
    assert call(wasm, "nothing") is None
    assert call(wasm, "fib", 15) == 610
    assert "memory" not in wasm.tasks


def test_the_binary_and_the_path_of_a_file_will_do_as_well(tmp_path):
    binary = wasmtime.wat2wasm(WAT)
    path = tmp_path / "m.wasm"
    path.write_bytes(binary)
    for module in (bytes(binary), path, str(path)):
        with WasmExecutor(module) as ex:
            assert call(ex, "add", 1, 2) == 3


def test_no_call_finds_what_another_one_has_left(wasm):
    assert [call(wasm, "count") for _ in range(3)] == [1, 1, 1]


@task
def add(a, b):
    return a + b


@task
def half(x):
    return x / 2


def program(**where):
    with HybridExecutor(2, **where) as ex:
        futures = [ex.submit(add, n, n) for n in range(5)]
        return [each.result(60) for each in futures], [*ex.map(half, range(5))]


@pytest.mark.parametrize("place", ["inline", "thread", "process", "wasm"])
def test_the_same_program_gives_the_same_results_in_a_sandbox(place):
    executors = {"wasm": WasmExecutor(WAT, max_workers=2)} if place == "wasm" else {}
    from hybrid_compute.policy import Always

    got = program(executors=executors, policy=Always(place))
    assert got == ([0, 2, 4, 6, 8], [0.0, 0.5, 1.0, 1.5, 2.0])


def test_a_task_of_the_module_brings_its_sandbox_along_wherever_it_is_sent():
    with WasmExecutor(WAT, timeout=0.5) as wasm:  # enough for what is not to be ended
        tasks = dict(wasm.tasks)
    with HybridExecutor(2, max_processes=1) as ex:
        for place in ("process", "thread", "inline"):
            view = ex.options(executor=place)
            assert view.submit(tasks["add"], 1, 2).result(60) == 3
            assert isinstance(view.submit(tasks["spin"]).exception(60), TaskTimeout)


# -- what it may take ------------------------------------------------------------------------------


def test_a_loop_without_end_is_ended_when_its_time_is_up():
    # What comes next must be done within that time, too.
    with WasmExecutor(WAT, timeout=0.5, max_workers=1) as ex:
        error = ex.submit(ex.tasks["spin"]).exception(60)
        assert (type(error), error.timeout, error.item_name) == (TaskTimeout, 0.5, "spin")
        assert str(error) == "spin was not done within 0.5 s, and was ended"
        assert call(ex, "add", 1, 2) == 3  # its thread is free again


def test_a_loop_without_end_uses_up_its_fuel():
    with WasmExecutor(WAT, fuel=100_000, timeout=None) as ex:
        error = ex.submit(ex.tasks["spin"]).exception(60)
        assert (type(error), error.reason) == (SandboxError, "out_of_fuel")
        assert str(error) == "spin has used up its fuel of 100000"
        assert call(ex, "fib", 10) == 55


def test_the_same_call_takes_the_same_fuel_each_time():
    def most(fuel):
        with WasmExecutor(WAT, fuel=fuel) as ex:
            return ex.submit(ex.tasks["fib"], 10).exception(60) is None

    enough = min(fuel for fuel in range(1000, 4000, 100) if most(fuel))
    assert not most(enough - 100)
    assert most(enough)


def test_who_asks_for_memory_without_end_gets_what_was_allowed():
    with WasmExecutor(WAT, max_memory_bytes=100 * PAGE) as ex:
        assert 84 < call(ex, "eat") <= 100
    with WasmExecutor(WAT, max_memory_bytes=100 * PAGE, timeout=0.1) as ex:
        assert isinstance(ex.submit(ex.tasks["eat_for_ever"]).exception(60), TaskTimeout)


def test_a_module_that_needs_more_memory_from_the_start_does_not_start():
    wat = b'(module (memory 1000) (func (export "f")))'
    with WasmExecutor(wat, max_memory_bytes=PAGE) as ex:
        error = ex.submit(ex.tasks["f"]).exception(60)
    assert (type(error), error.reason) == (SandboxError, "memory")
    assert "max_memory_bytes=65536" in str(error)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deep", "stack_overflow"),
        ("die", "unreachable"),
        ("zero", "integer_division_by_zero"),
        ("beyond", "memory_out_of_bounds"),
    ],
)
def test_what_it_may_not_do_is_an_error_of_that_call_alone(wasm, name, reason):
    error = wasm.submit(wasm.tasks[name]).exception(60)
    assert (type(error), error.reason) == (SandboxError, reason)
    assert str(error).startswith(f"{name}: ")
    assert error.__context__ is None  # others may pickle what hangs from an error
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason) == (str(error), reason)
    assert call(wasm, "add", 1, 2) == 3


def test_so_it_is_when_the_program_has_a_handler_of_its_own_for_such_signals():
    program = (
        "import faulthandler\n"
        "from tests.engines.test_wasm import WAT, WasmExecutor\n"
        "with WasmExecutor(WAT) as ex:\n"
        "    faulthandler.enable()\n"
        "    for name in ('deep', 'die', 'zero', 'beyond'):\n"
        "        print(type(ex.submit(ex.tasks[name]).exception(60)).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "SandboxError\n" * 4, "")


def test_a_start_function_without_end_is_ended_as_well():
    wat = b'(module (func $s (loop br 0)) (start $s) (func (export "f")))'
    with WasmExecutor(wat, timeout=0.1) as ex:
        assert isinstance(ex.submit(ex.tasks["f"]).exception(60), TaskTimeout)


# -- ending it ---------------------------------------------------------------------------------


def test_a_call_that_runs_can_be_cancelled(wasm):
    future = wasm.submit(wasm.tasks["spin"])
    until_running(future)
    assert not future.cancel()
    assert future.cancel_running()
    with pytest.raises(CancelledError):
        future.result(0)
    assert call(wasm, "add", 1, 2) == 3


def test_a_call_is_ended_at_the_deadline_of_its_item():
    with HybridExecutor(executors={"wasm": WasmExecutor(WAT, timeout=None, max_workers=1)}) as ex:
        late = ex.options(executor="wasm", timeout=0.1).submit(ex._fleet["wasm"].tasks["spin"])
        after = ex.options(executor="wasm").submit(add, 1, 2)
        assert isinstance(late.exception(60), TaskTimeout)
        assert after.result(60) == 3  # the only thread is free


def test_what_waits_can_be_cancelled_and_is_at_shutdown():
    with WasmExecutor(WAT, timeout=None, max_workers=1) as ex:
        runs = ex.submit(ex.tasks["spin"])
        until_running(runs)
        waits, more = (ex.submit(ex.tasks["nothing"]) for _ in range(2))
        assert ex.counts() == (2, 1)
        assert waits.cancel()
        ex.shutdown(wait=False, cancel_futures=True)
        assert more.cancelled()
        assert runs.cancel_running()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.submit(ex.tasks["nothing"])


def test_ending_one_call_ends_no_other(wasm):
    """Each short call would trap if the interruption of a call before it came too late."""
    for _ in range(30):
        spins = wasm.submit(wasm.tasks["spin"])
        others = [wasm.submit(wasm.tasks["fib"], 12) for _ in range(5)]
        until_running(spins)
        assert spins.cancel_running()
        assert [each.result(60) for each in others] == [144] * 5


def test_a_call_that_is_about_to_end_is_ended_or_has_its_result():
    with WasmExecutor(WAT, max_workers=1) as ex:
        for _ in range(100):
            future = ex.submit(ex.tasks["fib"], 5)
            if future.cancel_running():
                assert future.cancelled()
            else:
                assert future.result(60) == 5


def test_time_limits_that_end_at_once_end_the_right_calls():
    with WasmExecutor(WAT, timeout=0.5, max_workers=4) as ex:
        spins = [ex.submit(ex.tasks["spin"]) for _ in range(4)]
        assert {type(each.exception(60)) for each in spins} == {TaskTimeout}
        assert call(ex, "fib", 10) == 55


# -- what cannot go there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("add", (1,), TypeError),
        ("add", (1, 2, 3), TypeError),
        ("add", (1, "2"), TypeError),
        ("add", (1, 2.5), TypeError),
        ("add", (1, 2**63), OverflowError),
        ("narrow", (2**31,), OverflowError),
        ("half", ("x",), TypeError),
        ("half", (2**53 + 1,), OverflowError),
    ],
)
def test_wrong_arguments_are_an_error_and_no_other_number(wasm, name, args, error):
    assert type(wasm.submit(wasm.tasks[name], *args).exception(60)) is error


def test_only_tasks_with_the_name_of_an_export_go_there(wasm):
    @task
    def stranger():
        return 1

    for fn in (stranger, len, print):
        with pytest.raises(PlacementError, match="one of its exports"):
            wasm.submit(fn)
    with pytest.raises(PlacementError, match="by position only"):
        wasm.submit(wasm.tasks["half"], x=1)


def test_a_fleet_sends_it_only_what_it_has():
    @task
    def stranger():
        return 1

    with HybridExecutor(executors={"wasm": WasmExecutor(WAT)}) as ex:
        error = ex.options(executor="wasm").submit(stranger).exception(60)
        assert isinstance(error, PlacementError)


WRONG = [
    ({"module": b"nonsense"}, "the module is no WebAssembly"),
    ({"module": b"(module)"}, "exports no function"),
    (
        {"module": b'(module (import "wasi_snapshot_preview1" "fd_write" (func)))'},
        r"imports \['wasi_snapshot_preview1.fd_write'\].*no WASI",
    ),
    ({"module": "/nowhere/m.wasm"}, "'/nowhere/m.wasm' cannot be read"),
    ({"module": 3}, "module=3 is neither"),
    ({"fuel": 0}, "fuel=0"),
    ({"fuel": 1.5}, "fuel=1.5"),
    ({"max_memory_bytes": -1}, "max_memory_bytes=-1"),
    ({"timeout": 0}, "timeout=0"),
    ({"timeout": float("inf")}, "timeout=inf"),
    ({"name": ""}, "name=''"),
]


@pytest.mark.parametrize(("given", "words"), WRONG, ids=str)
def test_a_mistake_is_told_with_its_argument(given, words):
    with pytest.raises(ConfigurationError, match=words):
        WasmExecutor(**{"module": WAT, **given})


def test_who_has_not_the_extra_is_told_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hybrid-compute\[wasm\]'"):
        WasmExecutor(WAT)


def test_a_sandbox_survives_pickling_with_its_bounds():
    box = pickle.loads(pickle.dumps(Sandbox(WAT, fuel=1000, timeout=None, max_memory_bytes=PAGE)))
    assert box.call("add", (1, 2)) == 3
    with pytest.raises(SandboxError, match="fuel of 1000"):
        box.call("spin", ())
    assert box.call("eat", ()) == 1


def test_it_can_stand_in_a_configuration(tmp_path):
    (tmp_path / "m.wat").write_bytes(WAT)
    said = {"type": "wasm", "module": str(tmp_path / "m.wat"), "fuel": 10_000, "max_workers": 1}
    with HybridExecutor.from_config({"executors": {"box": said}}, environ={}) as ex:
        assert ex.options(executor="box").submit(add, 1, 2).result(60) == 3
        assert ex._fleet["box"].name == "box"
