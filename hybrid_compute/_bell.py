"""Bell: wakes a thread that waits for something to do.

Other than that of a Condition, a call is not lost if nobody waits yet: it is kept until somebody
does. So a thread may look at what there is, and go to wait, with no lock held in between; even if a
finalizer rings on that very thread in between, from which no lock keeps it.
"""

from __future__ import annotations

import _thread

__all__ = ["Bell"]


class Bell:
    """A bell that stays rung until it is heard. Any thread; but one at a time waits."""

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        self._silence = _thread.allocate_lock()  # held for as long as nobody has rung
        self._silence.acquire()

    def ring(self) -> None:
        """Wake who waits, or who waits next. Never blocks."""
        try:  # noqa: SIM105 - this is called from finalizers, and `suppress` runs more code
            self._silence.release()
        except RuntimeError:
            pass  # it has been rung, and not been heard yet

    def wait(self, seconds: float) -> None:
        """Block until it is rung, or so many seconds have passed; 0: only hear it."""
        self._silence.acquire(timeout=seconds)
