"""Ledger: the calls of a line that are not over, and the delivery of their outcomes.

Owns `_live`, a set. Who takes a call out of it delivers its outcome, and a set lets just one do
that, without a lock: so a call may be added by a finalizer in the middle of anything. `_idle` has a
lock of its own, which is held for nothing but to wait until the set is empty, and to tell.

Who ends the line refuses first and then looks whether calls are left; who submits adds his call
first and then looks whether it is refused. So one of them sees the other, and no call comes in
behind the back of who ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from hybrid_compute.executors import _delivery
from hybrid_compute.executors._remote_calls import Call
from hybrid_compute.executors._remote_streams import Portion, feed, finish

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_circuit import Circuit
    from hybrid_compute.items import WorkItem

__all__ = ["Ledger", "Outcome"]

Outcome = tuple[Call, Any, Exception | None]


class Ledger:
    """The calls of one line.

    Args:
        on_empty: called whenever the last call is over; perhaps with the line's lock held.
        circuit: is told of outcomes.
    """

    def __init__(self, on_empty: Callable[[], object], circuit: Circuit) -> None:
        self._on_empty = on_empty
        self._circuit = circuit
        self._live: set[Call] = set()
        self._refusal: Exception | None = None
        self._idle = threading.Condition(threading.RLock())
        self._delivering: set[int] = set()  # threads that are in `deliver`

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Call]:
        while True:
            try:
                return iter(list(self._live))
            except RuntimeError:  # somebody has added one meanwhile
                continue

    def add(self, call: Call) -> None:
        """Take a call in, or raise what `refuse` was given."""
        self._live.add(call)
        refusal = self._refusal
        if refusal is not None:
            self.take(call)
            raise type(refusal)(*refusal.args)

    def refuse(self, refusal: Exception) -> None:
        """Take no more calls in."""
        if self._refusal is None:
            self._refusal = refusal

    def take(self, call: Call) -> WorkItem | None:
        """Take the item of a call, to deliver its outcome. None: somebody else does."""
        try:
            self._live.remove(call)
        except KeyError:
            return None
        item, call.item = call.item, None
        if item is not None and item.keeper is call:
            item.keeper = None
        if not self._live:
            with self._idle:
                self._idle.notify_all()
            self._on_empty()
        return item

    def drop(self, call: Call) -> None:
        """Forget a call whose future is done, and tell those who wait() for that."""
        call.begin()
        if self.take(call) is not None:
            self._circuit.forget()

    def deliver(self, outcomes: list[Outcome]) -> None:
        """Deliver what is not delivered yet. Callbacks run: hold no lock."""
        me = threading.get_ident()
        outer = me not in self._delivering
        self._delivering.add(me)
        try:
            for call, value, error in outcomes:
                if type(value) is Portion:
                    feed(call, value)
                    continue
                running = call.begin()
                item = self.take(call)
                if item is None:
                    continue
                if not running:
                    self._circuit.forget()
                    continue
                self._circuit.tell(item, error)
                result: Any = value
                problem: BaseException | None = error
                fail = item.fail
                if problem is None and call.signed is not None:
                    result, problem = call.signed.settle(result)
                    fail = item.raised
                if problem is None:
                    _delivery.settle(partial(finish, item), result)
                else:
                    _delivery.settle(fail, problem)
        finally:
            if outer:
                self._delivering.discard(me)

    def delivers_here(self) -> bool:
        """Say whether this thread is in the middle of `deliver`: there, wait for nothing."""
        return threading.get_ident() in self._delivering

    def wait(self) -> None:
        """Block until no call is left."""
        with self._idle:
            while self._live:
                self._idle.wait()
