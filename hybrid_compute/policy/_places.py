"""Places: what is known of the executors of a fleet: what they have to do, what a hand-over costs.

Pure; guarded by whoever owns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid_compute.policy._belief import COMPUTES

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.policy._belief import Belief

__all__ = ["Cores", "Place"]

# Before anything was measured; from benchmarks/README.rst, on the slow side.
_THREAD_SECONDS = 30e-6
_PROCESS_SECONDS = 100e-6
_START_SECONDS = 40e-3  # of the first worker process
_REMOTE_SECONDS = 2e-3
_LOCAL_BYTE = 2e-9  # seconds to pickle, move and unpickle one: both ways are counted
_REMOTE_BYTE = 20e-9  # 50 MB/s: measured on loopback for JSON; a network is slower
_STEP = 0.1


class Cores:
    """The cores of this machine, and what has to be done there.

    Attributes:
        number: of them.
        count: items that compute.
        seconds: of CPU that these will take.
        held: of CPU that items on threads of this process will take while they hold the GIL.
    """

    __slots__ = ("count", "held", "number", "seconds")

    held: float
    seconds: float

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.count: int = 0
        self.seconds = self.held = 0.0

    def are_taken(self, belief: Belief) -> bool:
        """Say whether a task wants a core, and none is free."""
        return self.count >= self.number and belief.kind in ("holds", "works")

    def queue(self) -> float:
        """Return the seconds until a core is free."""
        return self.seconds / self.number if self.count >= self.number else 0.0

    def add(self, sign: int, seconds: float, held: float) -> None:
        """Count an item in (+1), or out (-1)."""
        self.count = max(0, self.count + sign)
        if self.count:
            self.seconds = max(0.0, self.seconds + sign * seconds)
            self.held = max(0.0, self.held + sign * held)
        else:
            self.seconds = self.held = 0.0  # sums of fractions never come out even


class Place:
    """One executor, as the policy sees it.

    Attributes:
        name: in the fleet.
        workers: most items that run there at once.
        shares: it runs on this process's threads.
        remote: on another machine.
        count: items that are there.
        seconds: predicted seconds of work that is there.
        delay: seconds that an item loses on its way there and back, if nobody is before it.
        byte: seconds for each byte.
        used: whether anything went there; the first item of some has to wait for their start.
    """

    __slots__ = (
        *("byte", "count", "delay", "name", "remote", "seconds", "shares", "used"),
        "workers",
    )

    def __init__(self, name: str, executor: SubExecutor) -> None:
        capabilities = executor.capabilities
        self.name = name
        self.workers: int = max(1, executor.workers)
        self.shares: bool = capabilities.shares_memory
        self.remote: bool = capabilities.remote
        self.count = 0
        self.seconds: float = 0.0
        self.used: bool = capabilities.remote or capabilities.shares_memory
        self.delay: float = _PROCESS_SECONDS
        self.byte: float = _LOCAL_BYTE
        if self.shares:
            self.delay, self.byte = _THREAD_SECONDS, 0.0
        elif self.remote:
            self.delay, self.byte = _REMOTE_SECONDS, _REMOTE_BYTE

    def has_room(self) -> bool:
        """Whether an item that comes now need not wait for another one."""
        return self.count < self.workers

    def predict(
        self, belief: Belief, *, size: float, calls: int, behind: int, cores: Cores
    ) -> float:
        """Return the seconds from now to the end of an item that goes there.

        Args:
            belief: what is known of its task.
            size: bytes that go there and come back.
            calls: how many calls it is.
            behind: how many more will come, which would go the same way.
            cores: what this machine has to do.
        """
        run = belief.took.get(self.name, belief.length) * calls
        queue = 0.0 if self.has_room() else self.seconds / self.workers
        if not self.remote and belief.cpu * (calls + behind) >= COMPUTES:
            if belief.kind != "waits":
                # Wherever it is queued on this machine, it waits for a core like all others.
                queue = max(queue, cores.queue())
            if self.shares:
                # Who holds the GIL waits for the other holders, and keeps the submitter from it.
                before = cores.held + belief.probing * belief.holds
                run += (calls + behind) * belief.holds + before * belief.held
        # Of what is still in its first call the length is not known, but that it computes: on a
        # thread it would keep the GIL from those that start the processes.
        start = _START_SECONDS if not self.used and belief.runs else 0.0
        byte = self.byte
        if belief.byte is not None and not (self.shares or self.remote):
            byte = belief.byte
        return self.delay + start + queue + size * byte + run

    def moved(self, size: float, seconds: float) -> None:
        """Take note of how long so many bytes have taken to another machine, and from there."""
        self.byte += 0.2 * (max(0.0, seconds) / size - self.byte)

    def took(self, seconds: float) -> None:
        """Take note of what a hand-over has cost an item that found nobody before it."""
        self.delay += _STEP * (max(0.0, min(seconds, 10 * self.delay)) - self.delay)
