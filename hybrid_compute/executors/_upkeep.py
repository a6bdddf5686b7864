"""When a worker has served its time, and what memory is given back while nothing happens.

Owns the rules about workers' ages. Part of the reader thread (see `_reader`); `_dispatch` tells of
the lock. A worker that retires gets nothing more to do; when it has answered all that it has, its
end of the conversation is closed, and it ends by itself, as at the end of the pool.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hybrid_compute.executors._memory import process_of

if TYPE_CHECKING:
    from hybrid_compute.executors._crew import Worker
    from hybrid_compute.executors._dispatch import Pool

__all__ = ["Upkeep"]

_TRIM_SECONDS = 2.0  # how long memory for large calls is kept warm, with nothing to do
_EXIT_SECONDS = 10.0  # how long a worker that retires may take to exit; then it is killed
_OOM_SECONDS = 5.0  # how old a count of the kernel's kills may become
_MOST_TRIMS = 20  # then it is hopeless
_LOOK_SECONDS = 0.1  # how often a worker's memory is looked at, at the most; it takes 30 us


class Upkeep:
    """The age of one pool's workers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def after_message(self, worker: Worker) -> None:
        """Look at a worker that has ended a message: has it grown too large?"""
        pool, now = self._pool, time.monotonic()
        if worker.oom is not None and now >= worker.oom_since + _OOM_SECONDS:
            worker.oom.refresh()  # what happens to others from now on is not taken for its end
            worker.oom_since = now
        if pool.settings.max_memory_per_child is None or worker.pid is None or worker.retiring:
            return
        if now < worker.next_look:
            return
        worker.next_look = now + _LOOK_SECONDS
        try:
            if worker.process is None:
                worker.process = process_of(worker.pid)
            size = worker.process.memory_info().rss
        except Exception:  # it has died, as its socket will tell
            return
        if size > pool.settings.max_memory_per_child:
            with pool.lock:
                worker.retiring = True

    def turn(self, now: float) -> float | None:
        """See to the idle workers; return when to do so again, None for never."""
        pool = self._pool
        soonest: float | None = None
        with pool.lock:
            idle = [each for each in pool.idle if each.idle_since is not None]
            gone = [each for each in pool.workers if each.leaving] if pool.leaving else []
        for worker in gone:
            end = (worker.leaving or 0.0) + _EXIT_SECONDS
            if end <= now:
                worker.kill()
            elif soonest is None or end < soonest:
                soonest = end
        for worker in idle:
            when = self._look_at(worker, now)
            if when is not None and (soonest is None or when < soonest):
                soonest = when
        return soonest

    def _look_at(self, worker: Worker, now: float) -> float | None:
        pool = self._pool
        since = worker.idle_since
        if since is None:
            return None
        timeout = pool.settings.idle_timeout
        end = None if timeout is None else since + timeout
        trim = None
        if worker.sender.has_some:
            # What the work still looks at can only be given back later: so look again, ever more
            # rarely, as nobody will tell.
            trim = since + _TRIM_SECONDS * 2**worker.trims
        if end is not None and end <= now:
            with pool.lock:
                if worker in pool.idle and worker.ready and not pool.waiting():
                    pool.idle.remove(worker)
                    worker.retiring = True
                    pool.dismiss(worker)
            return None
        if trim is not None and trim <= now:
            with pool.lock:
                if worker not in pool.idle:
                    return None
                pool.idle.remove(worker)
                worker.hand = []  # so it is ours
            worker.sender.trim()
            with pool.lock:
                pool.let_go(worker)
                worker.idle_since = since
                worker.trims = min(worker.trims + 1, _MOST_TRIMS) if worker.sender.has_some else 0
            trim = since + _TRIM_SECONDS * 2**worker.trims if worker.trims else None
        times = [each for each in (end, trim) if each is not None]
        return min(times) if times else None
