"""Sandbox: runs one exported function of a WebAssembly module, and bounds what it takes.

Owns the compiled module, in as many cells as run at once, and the clock. Each call gets a store and
an instance of its own, so that it finds nothing of another one's, and leaves nothing. The module
gets no imports: no files, no network, no clock, no chance. ::

    idle cells -> call: a new store (fuel, memory, epoch) -> instance -> function -> idle cells
                          `-- interrupt: the epoch of this cell's own engine goes on by one

Threads and locks: a call runs on its caller's thread, without the GIL. One thread watches the time
limits, while there are any to watch and at most one `timeout` longer. `_changed` guards the cells,
who is in which, and the watcher; nothing is run with it held. Why nothing can hang: WebAssembly
looks at the epoch at each loop and each call, and can wait for nothing.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hybrid_compute.errors import ConfigurationError, SandboxError, TaskTimeout

__all__ = ["Ended", "Run", "Sandbox"]

_FLOATS = frozenset({"f32", "f64"})
_BITS = MappingProxyType({"i32": 2**31, "i64": 2**63})


class Ended(Exception):
    """A call was ended because somebody asked for it."""


class _Cell:
    """An engine of its own, for each call that runs at the same time: its epoch ends that call."""

    __slots__ = ("engine", "module")

    def __init__(self, engine: Any, module: Any) -> None:
        self.engine, self.module = engine, module


class Run:
    """One call, from before it begins until after it has ended."""

    __slots__ = ("cell", "deadline", "over", "why")

    def __init__(self) -> None:
        self.cell: _Cell | None = None
        self.deadline = math.inf
        self.over = False
        self.why = ""  # it was interrupted: "time", or "asked"


class Sandbox:
    """One module, and the bounds of each call. Pickles as its source.

    Args:
        module: path of a file, or its bytes: WebAssembly, binary or text.
        fuel: about how many instructions a call may take; None: no bound.
        max_memory_bytes: of its linear memory; None: what WebAssembly allows, which is 4 GiB.
        timeout: seconds of a call; None: no bound.

    Attributes:
        exports: the types of the arguments of each exported function, by name.

    Raises:
        ConfigurationError: it is no module, or it imports something, or a bound is none.
        ModuleNotFoundError: the extra is not installed.
    """

    def __init__(
        self,
        module: str | os.PathLike[str] | bytes,
        *,
        fuel: int | None = None,
        max_memory_bytes: int | None = 64 * 2**20,
        timeout: float | None = 10.0,
    ) -> None:
        try:
            import wasmtime  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "hybrid_compute.engines.wasm needs wasmtime: pip install 'hybrid-compute[wasm]'",
                name=error.name,
            ) from error
        self._wasmtime = wasmtime
        self._fuel = _count("fuel", fuel)
        self._max_memory_bytes = _count("max_memory_bytes", max_memory_bytes)
        self._timeout = _seconds("timeout", timeout)
        self._source, self._name = _read(module)
        cell, self.exports = self._compile()
        self._compiled = bytes(cell.module.serialize())
        self._start_anew(cell)

    def _start_anew(self, *cells: _Cell) -> None:
        # See above; re-entrant: a finalizer or a signal handler may land in the middle.
        self._changed = threading.Condition(threading.RLock())
        self._idle = list(cells)
        self._busy: set[Run] = set()
        self._watcher: threading.Thread | None = None
        self._wakes_at = math.inf
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._source, self._fuel, self._max_memory_bytes, self._timeout)

    def __repr__(self) -> str:
        return f"<Sandbox {self._name} {sorted(self.exports)}>"

    def _engine(self) -> Any:
        config = self._wasmtime.Config()
        config.epoch_interruption = True
        config.consume_fuel = self._fuel is not None
        # What a module may not do is found by checks that it is compiled with, not by a signal: its
        # handler belongs to the process, and is gone once faulthandler or Ray has set another one.
        config.signals_based_traps = False
        config.parallel_compilation = False  # no threads of its own: they do not survive a fork
        return self._wasmtime.Engine(config)

    def _compile(self) -> tuple[_Cell, Mapping[str, tuple[str, ...]]]:
        wasmtime, engine = self._wasmtime, self._engine()
        try:
            module = wasmtime.Module(engine, self._source)
        except wasmtime.WasmtimeError as error:
            raise ConfigurationError(
                f"{self._name} is no WebAssembly, neither binary nor text: {error}"
            ) from error
        wanted = [f"{each.module}.{each.name}" for each in module.imports]
        if wanted:
            raise ConfigurationError(
                f"{self._name} imports {wanted}, and here a module gets nothing to call (no WASI, "
                "no files, no network): build it without"
            )
        exports = {
            each.name: tuple(map(str, each.type.params))
            for each in module.exports
            if isinstance(each.type, wasmtime.FuncType)
        }
        if not exports:
            raise ConfigurationError(f"{self._name} exports no function: there is nothing to call")
        return _Cell(engine, module), MappingProxyType(exports)

    def _take(self) -> _Cell:
        with self._changed:
            if self._idle:
                return self._idle.pop()
        engine = self._engine()
        return _Cell(engine, self._wasmtime.Module.deserialize(engine, self._compiled))

    # -- calls -------------------------------------------------------------------------------

    def call(self, name: str, args: tuple[Any, ...], run: Run | None = None) -> Any:
        """Call an exported function, and return what it returns: a tuple, if that is several.

        Blocks until it is over, or was ended.

        Args:
            name: of the function.
            args: whole numbers (with a sign, as WebAssembly returns them) and floats.
            run: by which others can interrupt it.

        Raises:
            SandboxError: it did what it may not, or used up its fuel, or got too little memory.
            TaskTimeout: its time was up.
            Ended: it was interrupted.
            TypeError: an argument is no number, or there are too many or too few.
            OverflowError: a whole number has more bits than the parameter.
        """
        args = _fit(name, args, self.exports[name])
        run = Run() if run is None else run
        cell, wasmtime = self._take(), self._wasmtime
        value, failure = None, None
        try:
            store = wasmtime.Store(cell.engine)
            store.set_epoch_deadline(1)  # before anybody can interrupt it
            if self._max_memory_bytes is not None:
                store.set_limits(
                    memory_size=self._max_memory_bytes,
                    table_elements=self._max_memory_bytes // 8,
                )
            if self._fuel is not None:
                store.set_fuel(self._fuel)
            self._enter(run, cell)
            instance = wasmtime.Instance(store, cell.module, [])
            value = instance.exports(store)[name](store, *args)
        except wasmtime.Trap as trap:
            failure = self._meaning(name, run, trap)
        except wasmtime.WasmtimeError as error:
            memory = "memory" in str(error)
            failure = SandboxError(
                f"{name}: {error}"
                + (f" (max_memory_bytes={self._max_memory_bytes})" if memory else ""),
                reason="memory" if memory else "error",
            )
        finally:
            self._leave(run, cell)
        if failure is not None:
            raise failure  # here: wasmtime's own would be its context, and cannot be pickled
        return tuple(value) if isinstance(value, list) else value

    def _meaning(self, name: str, run: Run, trap: Any) -> Exception:
        """Return what it means that a call has trapped."""
        code = trap.trap_code
        reason = "error" if code is None else code.name.lower()
        if reason == "interrupt" and run.why == "time":
            return TaskTimeout(
                f"{name} was not done within {self._timeout:g} s, and was ended",
                item_name=name,
                timeout=self._timeout or 0.0,
            )
        if reason == "interrupt":
            return Ended(name)
        if reason == "out_of_fuel":
            return SandboxError(f"{name} has used up its fuel of {self._fuel}", reason=reason)
        what = str(trap).rpartition("wasm trap: ")[2].strip() or reason
        return SandboxError(f"{name}: {what}", reason=reason)

    def _enter(self, run: Run, cell: _Cell) -> None:
        begun = time.monotonic()
        with self._changed:
            run.cell = cell
            if run.why:
                cell.engine.increment_epoch()
            if self._timeout is None:
                return
            run.deadline = begun + self._timeout
            self._busy.add(run)
            if self._watcher is None:
                self._wakes_at = run.deadline
                watcher = threading.Thread(target=self._watch, name="wasm watch", daemon=True)
                watcher.start()  # it may not be possible; it waits for our lock
                self._watcher = watcher
            elif run.deadline < self._wakes_at:
                self._changed.notify_all()

    def _leave(self, run: Run, cell: _Cell) -> None:
        with self._changed:
            run.over, run.cell = True, None
            self._busy.discard(run)
            self._idle.append(cell)
            if self._closed and not self._busy:
                self._changed.notify_all()

    def interrupt(self, run: Run, why: str = "asked") -> bool:
        """End a call, which may not have begun; False: it is over. Does not wait; any thread."""
        with self._changed:
            if run.over:
                return False
            run.why = run.why or why
            if run.cell is not None:
                run.cell.engine.increment_epoch()
            return True

    # -- the clock ---------------------------------------------------------------------------

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                for run in self._busy:
                    if run.deadline <= now and not run.why:
                        self.interrupt(run, "time")
                left = [run.deadline for run in self._busy if not run.why]
                if not left and (self._closed or now >= self._wakes_at):
                    self._watcher = None
                    return
                if left:
                    self._wakes_at = min(left)
                self._changed.wait(max(0.0, self._wakes_at - now))

    def close(self) -> None:
        """Let the watcher end as soon as nothing runs. Calls may still come; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Block until the watcher has ended, after `close` and the last call."""
        watcher = self._watcher
        if watcher is not None:
            watcher.join()

    def after_fork(self) -> None:
        """Forget the parent's calls, and its engines."""
        self._start_anew()


def _again(
    source: bytes, fuel: int | None, max_memory_bytes: int | None, timeout: float | None
) -> Sandbox:
    return Sandbox(source, fuel=fuel, max_memory_bytes=max_memory_bytes, timeout=timeout)


def _read(module: Any) -> tuple[bytes, str]:
    if isinstance(module, (bytes, bytearray, memoryview)):
        return bytes(module), "the module"
    if not isinstance(module, (str, os.PathLike)):
        raise ConfigurationError(
            f"module={module!r} is neither the path of a file nor the bytes of one"
        )
    try:
        return Path(module).read_bytes(), os.fspath(module)
    except OSError as error:
        raise ConfigurationError(
            f"module={os.fspath(module)!r} cannot be read ({error.strerror}): give the path of a "
            ".wasm or .wat file, or its bytes"
        ) from error


def _fit(name: str, args: tuple[Any, ...], kinds: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the arguments as a function takes them; raise if bits would be lost on the way."""
    if len(args) != len(kinds):
        raise TypeError(f"{name}() takes {len(kinds)} arguments, and got {len(args)}")
    found = []
    for value, kind in zip(args, kinds, strict=True):
        fitting = value
        if isinstance(value, int) and kind in _BITS:
            if not -_BITS[kind] <= value < _BITS[kind]:
                raise OverflowError(f"{name}(): {value} has too many bits for {kind}")
        elif isinstance(value, int) and kind in _FLOATS:
            fitting = float(value)
            if fitting != value:
                raise OverflowError(f"{name}(): {value} has too many digits for {kind}")
        found.append(fitting)
    return tuple(found)


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ConfigurationError(f"{name}={value!r}: give seconds greater than 0, or None")


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ConfigurationError(f"{name}={value!r}: give a whole number of at least 1, or None")
