"""How a courier ends: who is refused, cancelled, waited for. The other half of `_outbox_courier`.

Has no state of its own; `Courier` says which thread may touch what, and why nothing can hang.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from hybrid_compute import _exit
from hybrid_compute.errors import OutboxError
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._outbox_hands import Hands
from hybrid_compute.executors._outbox_settling import Decided, not_delivered

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.executors._outbox_file import OutboxFile
    from hybrid_compute.executors._outbox_lives import Lives
    from hybrid_compute.items import WorkItem

__all__ = ["CourierEnds"]

_CLOSED = "cannot schedule new futures after shutdown"


class CourierEnds(_exit.Member):
    """What a courier does when its outbox is shut down, or dropped."""

    _file: OutboxFile
    _lives: Lives
    _remote: SubExecutor
    _changed: threading.Condition
    _hands: Hands
    _closing: bool
    _flushed: bool
    _winding_down: bool
    _unwritten: list[Decided]
    _refusal: str | None
    thread: threading.Thread | None

    def _clean(self) -> None:
        raise NotImplementedError

    def _refused(self, error: BaseException) -> None:
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """Return how many rows with futures wait, and how many rows are with the service."""
        sent = len(self._hands.sent)
        return max(0, len(self._hands.mine) - sent), sent

    def runs_here(self) -> bool:
        """Say whether the current thread delivers outcomes."""
        return threading.current_thread() is self.thread or self._remote.runs_here()

    def refuse(self, refusal: str = _CLOSED) -> None:
        """Take no more rows."""
        with self._changed:
            self._refusal = self._refusal or refusal

    def close(self, refusal: str = _CLOSED) -> None:
        """Refuse new rows, and end when those with futures are over. Waits for nobody."""
        self.refuse(refusal)
        with self._changed:
            if not self._closing:
                self._closing = True
                if not self._flushed:
                    self._hands.news = time.monotonic()
            self._changed.notify_all()

    def cancel_all(self) -> None:
        """Cancel what was not sent."""
        for entry in list(self._hands.mine.values()):
            item = entry.item
            if item is not None and not entry.running:
                _delivery.settle(_cancel, item)

    def wind_down(self) -> None:
        """Give up what cannot be delivered within `linger`, from now on; more may come."""
        with self._changed:
            if not self._winding_down:
                self._winding_down, self._hands.news = True, time.monotonic()
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until the rows with futures are over, or there is no hope for them."""
        hands = self._hands
        with self._changed:
            hands.news = time.monotonic()
            while hands.mine and self.thread is not None and self.thread.is_alive():
                left = hands.patience(time.monotonic())
                if left is not None and left <= 0:
                    self._flushed = True  # in vain: no end needs to wait any more
                    return
                self._changed.wait(left)

    def close_at_exit(self) -> None:
        """Refuse new rows."""
        self.close("cannot schedule new futures after interpreter shutdown")

    def join(self) -> None:
        """Block until the thread has ended, unless this is one that it waits for."""
        thread = self.thread
        if thread is not None and not self.runs_here():
            thread.join()

    def after_fork(self) -> None:
        """Forget everything: the file, the rows and the thread are the parent's."""
        self._changed = threading.Condition(threading.RLock())
        self._refusal = "this outbox was opened before a fork: open it again in the child"
        self._closing = True
        # Kept, since closing it would let go of the parent's locks.
        self._inherited = self._file.abandon()
        self._lives.forget()
        self._hands = Hands(linger=0, now=time.monotonic())
        self.thread = None

    def _ends(self) -> bool:
        return self._closing or self._winding_down

    def _is_over(self, now: float) -> bool:
        if not self._closing or self._hands.came:
            return False
        if not self._hands.mine and not self._hands.sent and not self._unwritten:
            return True
        return self._is_hopeless(now)

    def _is_hopeless(self, now: float) -> bool:
        left = self._hands.patience(now)
        return left is not None and left <= 0

    def _overtaken(self) -> None:
        """Give up what another process has taken: this one stood still for longer than a lease."""
        self._lives.renew()
        self._fail_unsent("another process has taken it over, since this one stood still")

    def _give_up(self) -> None:
        """Leave what cannot be delivered to others: the service is away, and the end is near."""
        self._file.release(self._file.session)
        self._lives.renew()
        self._fail_unsent("the service was away when the executor was shut down")

    def _fail_unsent(self, why: str) -> None:
        with self._changed:
            lost = self._hands.forget_unsent()
        for each in lost:
            each.fail(not_delivered(each, self._file.path, why))

    def _finish(self) -> None:
        """Give back what is left, and close everything."""
        hands = self._hands
        with self._changed:
            waiting = [each.inner for each in hands.sent]
        for inner in waiting:
            if inner is not None:
                inner.future.cancel()  # nothing of it was sent, or it would be waited for
        with self._changed:
            left = list(hands.mine.values())
            for each in [*left, *hands.sent]:
                hands.forget(each)
        try:
            self._clean()
            self._file.release(self._file.session)
        except OutboxError as error:
            self._refused(error)
        finally:
            self._lives.end()
            self._file.close()
        for each in left:
            why = "the service was away when its outbox was shut down"
            each.fail(not_delivered(each, self._file.path, why))
        self._remote.shutdown(wait=True)
        with self._changed:
            self._changed.notify_all()


def _cancel(item: WorkItem) -> None:
    item.future.cancel()
