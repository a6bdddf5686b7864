"""PumpLock: a lock that nobody lets go of without a look at what came meanwhile.

Owns the one lock of a line, and the flag that says that there is something to do. A caller who has
put something where `pump` finds it calls `look`, which never waits: a finalizer may submit in the
middle of anything, with another lock held. If somebody else has the lock, he does the work.

Why nothing is forgotten: the lock can be had in two ways, and no other. `hold` looks when it has
let go, come what may; `look` itself goes on until the flag is down when it has let go. The flag
goes up before the lock is tried. So whoever tries in vain has raised the flag while somebody had
the lock, who then finds it; and so on for who keeps him from it. Inside of `hold` or `pump`, on the
same thread, `look` does nothing: the outermost one looks. `pump` puts the flag down first, then
reads what there is to do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["PumpLock"]

P = ParamSpec("P")
T = TypeVar("T")


class PumpLock:
    """A re-entrant lock, and the work that has to be done under it.

    Args:
        pump: does the work, with the lock held; puts what is to be delivered into a list.
        deliver: is given that list if there is something in it. The lock is not held.
    """

    def __init__(
        self, pump: Callable[[list[Any]], object], deliver: Callable[[list[Any]], object]
    ) -> None:
        self._pump = pump
        self._deliver = deliver
        self._lock: Any = threading.RLock()
        self._due = False

    def hold(self, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the lock held; then do what is due, and deliver."""
        try:
            with self._lock:
                return do(*args, **kwargs)
        finally:
            self.look()

    def held_here(self) -> bool:
        """Say whether this thread is in the middle of something: a finalizer may be."""
        return self._lock._is_owned()  # type: ignore[no-any-return]  # as threading.Condition does

    def mark(self) -> None:
        """Note that there is something to do. Who holds the lock needs no more than that."""
        self._due = True

    def wake(self) -> None:
        """Note that there is something to do, and do it, unless somebody else will."""
        self._due = True
        self.look()

    def look(self) -> None:
        """Do what is due, unless somebody else will."""
        while self._due:
            if self.held_here():
                return
            outcomes: list[Any] = []
            try:
                if not self._lock.acquire(blocking=False):
                    return
                try:
                    self._due = False
                    self._pump(outcomes)
                finally:
                    self._lock.release()
            except BaseException:
                # Ctrl-C comes between two steps of Python, so perhaps just when the lock was had.
                if self.held_here():
                    self._lock.release()
                self._due = True  # for whoever comes next
                raise
            finally:
                if outcomes:
                    self._deliver(outcomes)
