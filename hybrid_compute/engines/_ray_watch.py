"""Watch: how it is noticed that calls have ended which Ray has.

Ray can tell of an end. It does so on the thread that also sends its tasks, for which it needs the
interpreter's lock, and makes a future: a fifth of what a small call costs. When calls end quickly
one after another, Ray is asked instead, for many ends at once:

    calm    Ray tells of the end of each call that is sent
       |  ends come quickly
    brisk   Ray does not tell of those sent from now on. The thread of outcomes waits until some of
       |    them have ended, or a moment is over
       |  hardly one has ended in that moment
    calm    Ray is to tell of all that are out

So no end is noticed later than a moment after it, and who has nothing to expect waits for no clock.

Threads and locks: any thread may `add`; all else is done by the thread of outcomes. `_lock` guards
`_untold` and `_brisk`, which change together; nothing is asked of Ray under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from typing import Any

import ray

__all__ = ["Watch"]

_MOMENT = 0.01  # seconds: what an end may be late by. A core does 10 to 20 calls in it, at the most
_SOME = 32  # ends that are worth waking up for before the moment is over
_PART = 4  # or a quarter of the calls that are out: Ray is to have enough to do meanwhile
_FEW = 2  # ends in a moment; for less it is not worth while to wait


class Watch:
    """The calls that Ray has.

    Args:
        tell: called with `(job, Ray's future)` when a call has ended, on a thread of Ray's; and
            with None when the thread of outcomes is to `ask`, by who adds. It must not block.
    """

    def __init__(self, tell: Callable[[Any], object]) -> None:
        self._tell = tell
        self._lock = threading.Lock()  # see above
        self._untold: dict[Any, Any] = {}  # jobs that Ray does not tell of, by its references
        self._brisk = False
        self._least = 0  # ends that there must be, of what was asked for, to ask again
        self._ended = 0  # calls, since the time below
        self._since = 0.0

    def add(self, job: Any) -> None:
        """Have it noticed when a call ends that Ray was given. Any thread.

        Args:
            job: with Ray's reference as its `ref`.
        """
        ref = job.ref
        with self._lock:
            brisk, first = self._brisk, not self._untold
            if brisk:
                self._untold[ref] = job
        if not brisk:
            self._have_told(ref, job)
        elif first:
            self._tell(None)

    def _have_told(self, ref: Any, job: Any) -> None:
        try:
            future = ref.future()
        except Exception as error:  # Ray was shut down
            future = Future()
            future.set_exception(error)
        future.add_done_callback(lambda future: self._tell((job, future)))

    def asks(self) -> bool:
        """Say whether there are calls to `ask` for: Ray tells of nothing then."""
        return bool(self._untold)

    def ask(self) -> list[Any]:
        """Return jobs that have ended; wait for them for a moment. `note` is called next."""
        with self._lock:
            some = min(_SOME, -(-len(self._untold) // _PART))
            asked = dict(islice(self._untold.items(), 2 * _SOME))  # each of them costs a little
        self._least = min(_FEW, some)
        try:
            if not ray.is_initialized():  # else it would be started by being asked
                return []
            ready, _ = ray.wait(list(asked), num_returns=some, timeout=_MOMENT)
        except Exception:  # it was shut down meanwhile: `note` has it tell of that, if it can
            return []
        with self._lock:
            for ref in ready:
                del self._untold[ref]
        return [asked[ref] for ref in ready]

    def note(self, ended: int) -> None:
        """Note that so many calls have ended, whoever said so; called after every wait."""
        least, self._least = self._least, 0
        if ended < least:
            self.calm()
        self._ended += ended
        if self._ended < _SOME:
            return
        now = time.monotonic()
        if self._ended * _MOMENT >= _FEW * (now - self._since):
            with self._lock:
                self._brisk = True
        self._ended, self._since = 0, now

    def calm(self) -> None:
        """Have Ray tell of all calls that are out, and of those to come."""
        with self._lock:
            self._brisk = False
            untold, self._untold = self._untold, {}
        for ref, job in untold.items():
            self._have_told(ref, job)
