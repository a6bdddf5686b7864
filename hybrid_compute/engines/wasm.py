"""WASM: functions of a WebAssembly module as tasks, with bounds: a place for code nobody trusts.

Owns the way of an item through the threads of a `WasmExecutor`; what a call may do is `_sandbox`'s.
Threads: those of a `ThreadExecutor` of its own; while WebAssembly runs, it holds no GIL. No locks.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType
from typing import Any

from hybrid_compute import _exit
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.engines._sandbox import Ended, Run, Sandbox
from hybrid_compute.errors import ConfigurationError, PlacementError
from hybrid_compute.executors.thread import ThreadExecutor, check_max_workers
from hybrid_compute.items import Keeper, WorkItem
from hybrid_compute.tasks import Task, task

__all__ = ["WasmExecutor"]


class WasmExecutor(SubExecutor):
    """Runs the functions that a WebAssembly module exports, each call in a sandbox of its own.

    A call sees no file, no network, no clock and no other call: the module may import nothing. It
    takes and returns numbers. What goes there is a task with the name of an export: one of `tasks`,
    or a `@task` of that name, whose own body then runs wherever else it is sent.

    Args:
        module: path of a file, or its bytes: WebAssembly, binary (.wasm) or text (.wat).
        fuel: about how many instructions a call may take; None: no bound. The same call takes the
            same on every machine.
        max_memory_bytes: of the module's memory; None: what WebAssembly allows, which is 4 GiB. A
            module that asks for more does not get it, and is told so.
        timeout: seconds that a call may run; None: no bound but the item's own.
        max_workers: calls that run at once; None: usable cores.
        name: its name in a fleet.

    Attributes:
        tasks: by the names of the exports. Each can be sent anywhere: it brings its sandbox along.

    All methods may be called from any thread. The module is compiled here and now, and nothing
    bounds how long that takes: bound the size of what strangers send.

    Raises:
        ConfigurationError: it is no module, or imports something, or a bound is none.
        ModuleNotFoundError: the extra `wasm` is not installed.
    """

    capabilities: Capabilities = Capabilities(isolates=True)

    def __init__(
        self,
        module: str | os.PathLike[str] | bytes,
        *,
        fuel: int | None = None,
        max_memory_bytes: int | None = 64 * 2**20,
        timeout: float | None = 10.0,
        max_workers: int | None = None,
        name: str = "wasm",
    ) -> None:
        given: Any = name
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"name={name!r} is no name for an executor: give a text")
        self.name = name
        self.workers: int = check_max_workers(max_workers or len(os.sched_getaffinity(0)))
        self._sandbox = sandbox = Sandbox(
            module, fuel=fuel, max_memory_bytes=max_memory_bytes, timeout=timeout
        )
        self.tasks: Mapping[str, Task[..., Any]] = MappingProxyType(
            {each: task(name=each)(partial(_call, sandbox, each)) for each in sandbox.exports}
        )
        self._threads = ThreadExecutor(self.workers, name)
        self._closer = _Closer(sandbox)
        _exit.register(self._closer)

    def can_run(self, item: WorkItem) -> bool:
        """Say whether the item is a task with the name of an export, and has no keywords."""
        fn = item.fn
        return isinstance(fn, Task) and fn.name in self._sandbox.exports and not item.kwargs

    def execute(self, item: WorkItem) -> None:
        """Queue the item."""
        if not self.can_run(item):
            raise PlacementError(
                f"{item.name!r} cannot go to {self!r}: that takes tasks with the name of one of "
                "its exports, and arguments by position only"
            )
        try:
            queued = self._threads.submit(_work, self._sandbox, item)
        except RuntimeError:
            raise RuntimeError("cannot schedule new futures after shutdown") from None
        queued.add_done_callback(partial(_dropped, item))

    def load(self) -> float:
        """Return how many calls wait and run per thread."""
        return self._threads.load()

    def counts(self) -> tuple[int, int]:
        """Return how many calls wait, and how many run."""
        return self._threads.counts()

    def runs_here(self) -> bool:
        """Say whether the current thread is one of this executor's."""
        return self._threads.runs_here()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more; finish or cancel what waits.

        Args:
            wait: block until all threads have ended. What runs does so within `timeout`.
            cancel_futures: cancel what has not started.
        """
        try:
            self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        finally:
            self._sandbox.close()
        if wait:
            self._sandbox.join()

    def __repr__(self) -> str:
        return f"<WasmExecutor {self.name} {self._sandbox!r}>"


class _Closer(_exit.Member):
    """Tells a sandbox of a fork."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def after_fork(self) -> None:
        """Forget the parent's engines."""
        self._sandbox.after_fork()


class _Running(Keeper):
    """The call of an item that runs, for those who want it ended."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.run = Run()
        self.ended = threading.Event()  # its outcome is delivered
        self.stopped = False

    def withdraw(self, item: WorkItem) -> bool:
        """End the call if nobody waits for it any more: its time is up. It has not started else."""
        if item.future.done():
            self._sandbox.interrupt(self.run)
        return True

    def stop(self, item: WorkItem) -> bool | None:
        """End the call, and wait until that is certain, which is a moment."""
        if not self._sandbox.interrupt(self.run):
            return None
        self.ended.wait()
        return self.stopped


def _work(sandbox: Sandbox, item: WorkItem) -> None:
    """Run an item, on one of the executor's threads."""
    fn, args = item.fn, item.args
    keeper = _Running(sandbox)
    item.keeper = keeper  # first: whoever sees that it runs may want it ended
    try:
        if not item.start():
            return
        assert isinstance(fn, Task)  # noqa: S101 - `can_run` has looked
        value = sandbox.call(fn.name, args, keeper.run)
    except BaseException as error:
        item.keeper = None
        if isinstance(error, Ended):
            keeper.stopped = True
            item.end()
        else:
            item.raised(error)
        item = None  # type: ignore[assignment]  # the traceback must not hold it
    else:
        item.keeper = None
        item.succeed(value)
    finally:
        keeper.ended.set()


def _dropped(item: WorkItem, queued: Future[Any]) -> None:
    if queued.cancelled():
        item.cancel()


def _call(sandbox: Sandbox, name: str, /, *args: Any) -> Any:
    """The body of a task that runs somewhere else."""
    return sandbox.call(name, args)
