"""Scene: one executor under test, and all that a rule needs to look at it.

Owns the executor, which it shuts down at the end whatever happened, the gates and the files of its
work. Whatever is called on the executor is called on a thread of its own, for a bounded time, so
that one that hangs is told of. `Probe` is an item that keeps a record of what is done to it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.testing._checks import ContractBroken, Rule, call, left_of
from hybrid_compute.testing.work import Gate, mark

__all__ = ["CancelledAtStart", "Probe", "Scene"]

T = TypeVar("T")


class Probe(WorkItem):
    """An item that notes the steps of its life, and lets nobody take one twice.

    Attributes:
        steps: "start", "refused start", "succeed", "fail", "end", in the order in which they came.
    """

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], **named: Any) -> None:
        self.steps: list[str] = []
        super().__init__(fn, args, named)

    def start(self) -> bool:
        """Note it."""
        if self.steps:
            self.steps.append("start")
            return True
        started = super().start()
        self.steps.append("start" if started else "refused start")
        return started

    def succeed(self, value: Any) -> None:
        """Note it; deliver the first outcome only."""
        if self._notes("succeed"):
            super().succeed(value)

    def fail(self, error: BaseException) -> None:
        """Note it; deliver the first outcome only."""
        if self._notes("fail"):
            super().fail(error)

    def give_up(self, error: BaseException) -> None:
        """Note it; deliver the first outcome only."""
        if self._notes("fail"):
            super().give_up(error)

    def end(self) -> None:
        """Note it; deliver the first outcome only."""
        if self._notes("end"):
            super().end()

    def _notes(self, step: str) -> bool:
        self.steps.append(step)  # atomic: whoever comes second sees both
        return not self.future.done()


class CancelledAtStart(Probe):
    """An item that is cancelled at the very last moment.

    Attributes:
        cancelled: what `cancel` returned.
    """

    cancelled = False

    def start(self) -> bool:
        """Cancel, then start."""
        if not self.steps:
            self.cancelled = self.future.cancel()
        return super().start()


class Scene:
    """One executor under test.

    Attributes:
        executor: made for this scene.
        timeout: seconds that nothing may take which is to happen at some time.
    """

    def __init__(self, rule: Rule[Scene], make: Callable[[], SubExecutor], timeout: float) -> None:
        self._rule = rule
        self._make = make
        self.timeout = timeout
        self._gates: list[Gate] = []
        self._files = 0
        self._closed = False

    def __enter__(self) -> Self:
        self._before = set(threading.enumerate())
        self._folder = tempfile.TemporaryDirectory(prefix="hybrid-compute-")
        self.executor = self._make()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for gate in self._gates:
            gate.open()
        try:
            if not self._closed:
                returned, _tell = call(self.executor.shutdown, self.timeout)
                if not returned and error is None:
                    self.broken(f"shutdown() had not returned after {self.timeout:g} s")
        finally:
            left_of(self._before, self.timeout if error is None else 0)
            self._folder.cleanup()

    # What there is to be used.

    @property
    def capabilities(self) -> Capabilities:
        """What the executor says of itself."""
        return self.executor.capabilities

    def gate(self) -> Gate:
        """Return a new gate, which is opened at the end."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def path(self) -> str:
        """Return the path of a file that there is not yet."""
        self._files += 1
        return str(Path(self._folder.name) / str(self._files))

    def marks(self, path: str) -> int:
        """Return how often a file was marked."""
        try:
            return Path(path).stat().st_size
        except OSError:
            return 0

    def marker(self) -> tuple[Probe, str]:
        """Return an item that marks a file when it runs, and the file."""
        path = self.path()
        return Probe(mark, (path,)), path

    # What is done to the executor.

    def execute(self, item: WorkItem) -> None:
        """Have the executor accept an item; wait for that."""
        self.bounded(f"execute() of {item.name!r}", lambda: self.executor.execute(item))

    def begin(self, item: WorkItem) -> None:
        """Have it accept an item which is held up; do not wait where that takes so long."""
        if self.capabilities.blocks:
            threading.Thread(target=self.executor.execute, args=(item,), daemon=True).start()
        else:
            self.execute(item)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Submit a call to the executor."""
        name = getattr(fn, "name", fn)
        return self.bounded(
            f"submit() of {name!r}", lambda: self.executor.submit(fn, *args, **named)
        )

    def shutdown(self, **how: bool) -> None:
        """Shut the executor down."""
        self._closed = how.get("wait", True)
        told = ", ".join(f"{name}={value}" for name, value in how.items())
        self.bounded(f"shutdown({told})", lambda: self.executor.shutdown(**how))

    def hold(self, item: Probe) -> None:
        """Have it accept an item which is held up, and wait until its work has begun."""
        gate = next(each for each in self._gates if each.port == item.args[0])
        self.begin(item)
        self.demand(gate.arrived(self.timeout), f"nothing ran within {self.timeout:g} s")

    # What is seen.

    def holds(self, rule: Rule[Any]) -> bool:
        """Say whether the rule says anything of an executor with these capabilities."""
        if rule.needs is None:
            return True
        return bool(getattr(self.capabilities, rule.needs.removeprefix("not "))) != (
            rule.needs.startswith("not ")
        )

    def broken(self, seen: str) -> NoReturn:
        """Raise ContractBroken."""
        executor = getattr(self, "executor", None)
        name = getattr(executor, "name", "?")
        subject = f"{type(executor).__name__} {name!r}"
        raise ContractBroken(self._rule.name, self._rule.text, subject, seen)

    def demand(self, condition: object, seen: str) -> None:
        """Raise ContractBroken unless the condition holds."""
        if not condition:
            self.broken(seen)

    def bounded(self, what: str, do: Callable[[], T]) -> T:
        """Return what a function returns; it is broken if that takes too long."""
        returned, tell = call(do, self.timeout)
        if not returned:
            self.broken(f"{what} had not returned after {self.timeout:g} s")
        return tell()

    def settle(self, *futures: Future[Any]) -> None:
        """Wait until futures are done."""
        open_still = wait(futures, self.timeout).not_done
        if open_still:
            states = ", ".join(sorted({each._state.lower() for each in open_still}))
            self.broken(
                f"{len(open_still)} of {len(futures)} futures had no outcome after "
                f"{self.timeout:g} s ({states})"
            )

    def value(self, future: Future[Any]) -> Any:
        """Return the result of a future, which must have one."""
        self.settle(future)
        self.demand(not future.cancelled(), "the future was cancelled, which nobody had asked for")
        error = future.exception()
        self.demand(error is None, f"the future failed with {error!r}")
        return future.result()

    def error(self, future: Future[Any]) -> BaseException:
        """Return what a future failed with, which it must have."""
        self.settle(future)
        self.demand(not future.cancelled(), "the future was cancelled, which nobody had asked for")
        error = future.exception()
        if error is None:
            self.broken(f"the future has the result {future.result()!r}")
        return error

    def threads_left(self) -> list[str]:
        """Return the names of threads that were not there before; they have had their time."""
        return left_of(self._before, self.timeout)
