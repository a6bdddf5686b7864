"""Items that tell observers of each step; imported, and made, only when there are observers.

The one lock, of `Observers`, guards the replacing of its list; no observer is called under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures._base import LOGGER
from threading import current_thread, get_ident, main_thread
from typing import TYPE_CHECKING, Any, Literal

from hybrid_compute._legs import HedgedLeg, options_of
from hybrid_compute.abc import Observer
from hybrid_compute.channels import large_size_of
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.events import Event, Kind
from hybrid_compute.executors._batch import Outcome
from hybrid_compute.items import WorkItem
from hybrid_compute.policy._sizes import measure
from hybrid_compute.prices import bytes_of
from hybrid_compute.routed import RoutedItem
from hybrid_compute.streamed import StreamItem
from hybrid_compute.tasks import TaskOptions

if TYPE_CHECKING:
    from contextvars import Context

    from hybrid_compute.prices import Price

__all__ = ["ObservedItem", "ObservedLeg", "ObservedStreamItem", "Observers"]


class Observers:
    """Those who are told of every event. One that raises is logged, and told no more."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        # Guards the replacing of _all, which is never changed; re-entrant for signal handlers.
        self._lock = threading.RLock()
        self._all: tuple[Observer, ...] = ()
        for each in observers:
            self.add(each)

    def add(self, observer: Observer) -> None:
        """Tell one more.

        Raises:
            ConfigurationError: it cannot be called.
        """
        if not callable(observer):
            raise ConfigurationError(
                f"observer {observer!r} cannot be called; give a function of an event"
            )
        with self._lock:
            self._all = (*self._all, observer)

    def __bool__(self) -> bool:
        return bool(self._all)

    def tell(self, event: Event) -> None:
        """Tell all. What an observer raises goes no further, but for the program's Ctrl-C."""
        for observer in self._all:
            try:
                observer(event)
            except BaseException as error:  # a SystemExit would cost the item its outcome
                if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
                    raise
                LOGGER.exception("observer %r raised, and is told no more", observer)
                with self._lock:
                    self._all = tuple(each for each in self._all if each is not observer)


class ObservedItem(RoutedItem):
    """A routed item that tells observers of each step; only made when there are some."""

    observed = True
    item_id: int

    __slots__ = (
        "_attempt",
        "_audited",
        "_began",
        "_calls",
        "_clocks",
        "_name",
        "_observers",
        "_on_thread",
        "_price",
        "_size",
        "item_id",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        *,
        observers: Observers,
        item_id: int,
        context: Context | None,
    ) -> None:
        super().__init__(fn, args, kwargs, options)
        # Observers may put something into it, and the items of a map come with the same one.
        self.context: Context | None = None if context is None else context.copy()
        self._observers = observers
        # Never None here.
        self.item_id = item_id  # pyright: ignore[reportIncompatibleVariableOverride]
        self._name = self.name
        self._calls = self.calls
        self._audited: set[str] = set()  # what was told of privacy
        self._attempt = self._size = 0
        self._began: float | None = None  # when this attempt started
        self._price: Price | None = None  # of its executor
        self._on_thread = False  # whether `run` was called, and so measures
        self._clocks: tuple[int, float, float] | None = None  # the thread, and what both said
        self._tell("submitted")

    def _tell(
        self,
        kind: Kind,
        error: BaseException | None = None,
        *,
        executor: str | None = None,
        reason: str | None = None,
    ) -> None:
        if not self._observers:
            return  # all have been dropped: there is nobody to build anything for
        submitted = kind == "submitted"
        wall, cpu = self._measured() if kind in ("succeeded", "failed") else (None, None)
        now = time.monotonic()
        seconds = cost = None
        if kind == "started":
            self._began = now
        elif self._began is not None and kind != "hedged":  # the attempt is over
            seconds, self._began = now - self._began, None
            if self._price is not None:
                cost = self._price.of(seconds, self._size, self._calls)
        self._observers.tell(
            Event(
                kind=kind,
                item_id=self.item_id,
                name=self._name,
                executor=executor or self.executor,
                attempt=self._attempt,
                time=now,
                error=error,
                options=self.options if submitted else None,
                declared=self.declared if submitted else None,
                size_bytes=self._size_bytes() if submitted else None,
                choice=self.choice if kind == "routed" else None,
                wall=wall,
                cpu=cpu,
                reason=reason,
                seconds=seconds,
                cost=cost,
                calls=self._calls,
                context=self.context if submitted or kind == "routed" else None,
            )
        )

    def tell_privacy(self, kind: Literal["withheld", "redacted"], who: str, reason: str) -> None:
        """Tell, once of each kind, that privacy kept the item, or a part of it, from `who`."""
        if kind not in self._audited:
            self._audited.add(kind)
            self._tell(kind, executor=who, reason=reason)

    def handed_over(self) -> None:
        """Tell that an executor gets the item."""
        self._attempt += 1
        assert self.executor is not None  # noqa: S101 - it is about to get the item
        self._price = price = self._fleet[self.executor].price
        if price is not None and price.per_megabyte:  # nobody else pays for the look
            self._size = bytes_of(self)
        self._on_thread = False
        self._clocks = None
        self._tell("routed")

    def run(self) -> None:
        """Run the call on this thread, and measure it."""
        self._on_thread = True
        super().run()

    def start(self) -> bool:
        """Mark the item as running, and tell."""
        started = super().start()
        if started:
            self._tell("started")
            if self._on_thread:
                self._clocks = get_ident(), time.perf_counter(), time.thread_time()
        return started

    def _measured(self) -> tuple[float | None, float | None]:
        """Return what the work took: by this thread's clocks, or else as the policy's meter knows.

        The clocks are no measure where the outcome is delivered by another thread: the work was
        done elsewhere, or its time is up.
        """
        clocks, decision = self._clocks, self.decision
        if clocks is not None and clocks[0] == get_ident():
            cpu = time.thread_time() - clocks[2]  # inside the wall time at both ends
            return time.perf_counter() - clocks[1], cpu
        return (None, None) if decision is None else (decision.wall, decision.cpu)

    def _size_bytes(self) -> int | None:
        if self.target is not self.fn:
            return None  # a chunk of a map, whose calls are an argument
        kwargs = self.kwargs
        return measure((*self.args, *kwargs.values()) if kwargs else self.args)[1]

    def _deliver(self, value: Any) -> None:
        if self._price is not None and self._price.per_megabyte:
            values = value.values if type(value) is Outcome else (value,)
            self._size += sum(map(large_size_of, values))
        # Tell first: who has the result can rely on the event.
        self._tell("succeeded")
        super()._deliver(value)

    def _goes_on(self, error: BaseException) -> bool:
        goes_on = super()._goes_on(error)
        if goes_on:
            self._tell("retried", error)
        return goes_on

    def _deliver_failure(self, error: BaseException) -> None:
        self._tell("failed", error)
        super()._deliver_failure(error)

    def end(self) -> None:
        """Tell, then deliver that the work was ended."""
        self._tell("cancelled")
        super().end()

    def release(self) -> None:
        """Tell that the item was cancelled: nothing else releases one."""
        super().release()
        self._tell("cancelled")


class ObservedLeg(HedgedLeg, ObservedItem):
    """One of two attempts at a call: they have one number, and one of them has the last word."""

    def __init__(
        self,
        race: Any,
        head: WorkItem,
        before: HedgedLeg | None,
        *,
        observers: Observers,
        item_id: int,
    ) -> None:
        assert head.fn is not None  # noqa: S101 - nobody has released it
        self._second = before is not None
        options = options_of(head, before)
        ObservedItem.__init__(
            self,
            head.fn,
            head.args,
            head.kwargs,
            options,
            observers=observers,
            item_id=item_id,
            context=head.context,
        )
        self._enter(race, before)
        self._attempt = getattr(before, "_attempt", 0)  # so that its own come after

    def _tell(
        self,
        kind: Kind,
        error: BaseException | None = None,
        *,
        executor: str | None = None,
        reason: str | None = None,
    ) -> None:
        if not (self._second and kind == "submitted"):  # the first one has told that
            super()._tell(kind, error, executor=executor, reason=reason)

    def tell_hedged(self, name: str, why: str) -> None:
        """Tell of a second attempt beside this one."""
        self._tell("hedged", executor=name, reason=why)

    def tell_dropped(self) -> None:
        """Tell that this attempt was not the one that counts."""
        self._tell("dropped")


class ObservedStreamItem(StreamItem, ObservedItem):
    """The same for one that streams: it has succeeded when its generator has."""
