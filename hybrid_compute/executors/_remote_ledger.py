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
from concurrent.futures import InvalidStateError
from concurrent.futures._base import LOGGER
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from hybrid_compute.executors import _delivery
from hybrid_compute.executors._remote_calls import Call
from hybrid_compute.executors._remote_streams import Portion, feed, finish
from hybrid_compute.items import PLAIN, WorkItem
from hybrid_compute.supervised import is_quiet

if TYPE_CHECKING:
    from hybrid_compute.executors._remote_circuit import Circuit

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
        self._waiting = False  # somebody waits until there is none, or did
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
        item = call.item
        self._let_go(call, item)
        return item

    def _let_go(self, call: Call, item: WorkItem | None) -> None:
        call.item = None
        if item is not None and item.keeper is call:
            item.keeper = None
        if call.awaited:
            call.line.ring()
        if not self._live:
            self._look()

    def _look(self) -> None:
        if not self._live:
            if self._waiting:  # he says so first, and then looks whether there is one left
                with self._idle:
                    self._idle.notify_all()
            self._on_empty()

    def drop(self, call: Call) -> None:
        """Forget a call whose future is done, and tell those who wait() for that."""
        call.begin()
        self.withdraw(call)

    def withdraw(self, call: Call) -> WorkItem | None:
        """Take the item of a call whose outcome tells nothing of the service."""
        item = self.take(call)
        if item is not None:
            self._circuit.forget()
        return item

    def deliver(self, outcomes: list[Outcome]) -> None:  # noqa: PLR0912 - one way, in its order
        """Deliver what is not delivered yet. Callbacks run: hold no lock."""
        me = threading.get_ident()
        outer = me not in self._delivering
        self._delivering.add(me)
        noticed: list[tuple[WorkItem, Any]] = []
        try:
            for call, value, error in outcomes:
                if type(value) is Portion:
                    feed(call, value)
                    continue
                running = call.running or call.begin()
                item = self.take(call)
                if item is None:
                    continue
                if not running:
                    self._circuit.forget()
                    continue
                self._circuit.tell(item, error)
                if error is None and type(item) in PLAIN and call.signed is None:  # most are
                    future = item.future
                    if future._made_condition is None and future._callbacks is None:
                        _delivery.settle(future.set_result, value)  # as `succeed` does
                    else:
                        # Somebody waits: he would want the GIL while we go on.
                        noticed.append((item, value))
                    continue
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
            for item, value in noticed:
                _delivery.settle(item.succeed, value)
            if outer:
                self._delivering.discard(me)

    def deliver_quietly(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Deliver those that run nobody's code; return the others.

        For a thread that is about to wait for one of them: callbacks might want what it holds.
        """
        others: list[Outcome] = []
        live = self._live
        call, value, item = None, None, None
        told = quiet = 0
        try:
            for outcome in outcomes:
                call, value, error = outcome
                item = call.item
                if (
                    error is None
                    and item is not None
                    and call.running
                    and call.signed is None
                    and item.future._callbacks is None
                    and (type(item) in PLAIN or is_quiet(item))
                ):
                    try:
                        live.remove(call)
                    except KeyError:
                        pass  # somebody else delivers it
                    else:
                        self._let_go(call, item)
                        quiet += 1
                        if not told:  # before anybody sees a result; of the rest, all at once
                            self._circuit.answered(1)
                            told = 1
                        try:  # as `_delivery.settle(item.succeed, value)` does it
                            if type(item) in PLAIN:
                                item.future.set_result(value)
                            else:
                                item.succeed(value)
                        except Exception:
                            LOGGER.exception("exception delivering the outcome of a work item")
                else:
                    call.passed_on = True
                    others.append(outcome)
            if quiet > told:
                self._circuit.answered(quiet - told)
        except BaseException:  # Ctrl-C: who has taken an item delivers it all the same
            if item is not None and call not in self._live:
                with suppress(InvalidStateError):
                    item.succeed(value)
                    item.future.set_result(value)  # it was cut short behind its `_settles`
                self._look()
            raise
        return others

    def delivers_here(self) -> bool:
        """Say whether this thread is in the middle of `deliver`: there, wait for nothing."""
        return threading.get_ident() in self._delivering

    def wait(self) -> None:
        """Block until no call is left."""
        with self._idle:
            self._waiting = True
            while self._live:
                self._idle.wait()
