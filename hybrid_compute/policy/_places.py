"""Place: what is known of one executor of a fleet: what it has to do, and what a hand-over costs.

Pure; guarded by whoever owns it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.policy._belief import Belief

__all__ = ["Place"]

# Before anything was measured; from benchmarks/README.rst, on the slow side.
_THREAD_SECONDS = 30e-6
_PROCESS_SECONDS = 100e-6
_START_SECONDS = 40e-3  # of the first worker process
_REMOTE_SECONDS = 2e-3
_LOCAL_BYTE = 2e-9  # seconds to pickle, move and unpickle one: both ways are counted
_REMOTE_BYTE = 20e-9  # 50 MB/s: measured on loopback for JSON; a network is slower
_STEP = 0.1


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
        served: items that went there so far.
        used: whether anything went there; the first item of some has to wait for their start.
    """

    __slots__ = (
        *("byte", "count", "delay", "name", "remote", "seconds", "served", "shares", "used"),
        "workers",
    )

    def __init__(self, name: str, executor: SubExecutor) -> None:
        capabilities = executor.capabilities
        self.name = name
        self.workers = max(1, executor.workers)
        self.shares = capabilities.shares_memory
        self.remote = capabilities.remote
        self.count = self.served = 0
        self.seconds = 0.0
        self.used = capabilities.remote or capabilities.shares_memory
        self.delay = _PROCESS_SECONDS
        self.byte = _LOCAL_BYTE
        if self.shares:
            self.delay, self.byte = _THREAD_SECONDS, 0.0
        elif self.remote:
            self.delay, self.byte = _REMOTE_SECONDS, _REMOTE_BYTE

    def queue(self, workers: int) -> float:
        """Return the seconds that an item waits there before it runs."""
        return self.seconds / workers if self.count >= workers else 0.0

    def predict(
        self, belief: Belief, *, size: float, calls: int, behind: int, cores: int, held: float
    ) -> float:
        """Return the seconds from now to the end of an item that goes there.

        Args:
            belief: what is known of its task.
            size: bytes that go there and come back.
            calls: how many calls it is.
            behind: how many more will come, which would go the same way.
            cores: of this machine.
            held: seconds of work on threads that holds the GIL.
        """
        # Many threads may wait at once, but no more than there are cores can work.
        workers = self.workers
        run = belief.took.get(self.name, belief.run) * calls
        if self.shares:
            if belief.kind != "waits":
                workers = min(workers, cores)
            # Who holds the GIL waits for the other holders, and keeps the submitter from it.
            run += (calls + behind) * belief.holds + held * belief.held
        start = 0.0 if self.used else _START_SECONDS
        return self.delay + start + self.queue(workers) + size * self.byte + run

    def took(self, seconds: float) -> None:
        """Take note of what a hand-over has cost an item that found nobody before it."""
        self.delay += _STEP * (max(0.0, min(seconds, 10 * self.delay)) - self.delay)
