"""Items that tell observers of each step; imported, and made, only when there are observers.

The one lock, of `Observers`, guards the replacing of its list; no observer is called under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any, Literal

from hybrid_compute.abc import Observer
from hybrid_compute.channels import large_size_of
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.events import Event, Kind
from hybrid_compute.executors._batch import Outcome
from hybrid_compute.prices import bytes_of
from hybrid_compute.routed import RoutedItem
from hybrid_compute.streamed import StreamItem
from hybrid_compute.tasks import TaskOptions

if TYPE_CHECKING:
    from hybrid_compute.prices import Price

__all__ = ["ObservedItem", "ObservedStreamItem", "Observers"]


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
        """Tell all; never raises what an observer raises."""
        for observer in self._all:
            try:
                observer(event)
            except Exception:
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
        "_name",
        "_observers",
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
    ) -> None:
        super().__init__(fn, args, kwargs, options)
        self._observers = observers
        self.item_id = item_id
        self._name = self.name
        self._calls = self.calls
        self._audited: set[str] = set()  # what was told of privacy
        self._attempt = self._size = 0
        self._began: float | None = None  # when this attempt started
        self._price: Price | None = None  # of its executor
        self._tell("submitted")

    def _tell(
        self,
        kind: Kind,
        error: BaseException | None = None,
        *,
        executor: str | None = None,
        reason: str | None = None,
    ) -> None:
        decision = self.decision if kind in ("succeeded", "failed") else None
        now = time.monotonic()
        seconds = cost = None
        if kind == "started":
            self._began = now
        elif self._began is not None:  # the attempt is over
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
                choice=self.choice if kind == "routed" else None,
                wall=None if decision is None else decision.wall,
                cpu=None if decision is None else decision.cpu,
                reason=reason,
                seconds=seconds,
                cost=cost,
                calls=self._calls,
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
        self._tell("routed")

    def start(self) -> bool:
        """Mark the item as running, and tell."""
        started = super().start()
        if started:
            self._tell("started")
        return started

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


class ObservedStreamItem(StreamItem, ObservedItem):
    """The same for one that streams: it has succeeded when its generator has."""
