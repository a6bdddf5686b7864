"""Items that note their steps for a `Recording`; imported, and made, only while there is one.

Owns which steps are noted; how, `_notes` knows. An item is in one pair of hands at a time, so it
has no lock.

What it costs is in benchmarks/observe.py: hence the times as plain integers, rows that are tuples,
and `RecordedCall`, which does by hand what `WorkItem` does by methods.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import current_thread
from time import perf_counter_ns
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from hybrid_compute._legs import Leg
from hybrid_compute._notes import Notes
from hybrid_compute.decisions import Choice
from hybrid_compute.direct import DirectItem
from hybrid_compute.executors._batch import Outcome
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import ContextItem, WorkItem
from hybrid_compute.observed import ObservedItem, ObservedLeg, ObservedStreamItem
from hybrid_compute.recording import ROWS, Recording
from hybrid_compute.routed import RoutedItem
from hybrid_compute.streamed import StreamItem
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

__all__ = ["KINDS", "RecordedCall", "RecordedContextItem", "RecordedDirectItem", "RecordedItem"]

_NOTED = ("began_ns", "lane", "number", "recording", "waits_ns")
_SLOTS = ("began_ns", "lane", "number", "recording", "tries", "waits_ns")


# What `_OneWay` stands beside, as a base.
if TYPE_CHECKING:
    from hybrid_compute.items import Keeper

    _AnItem = WorkItem
else:
    _AnItem = object


class _OneWay(Notes, _AnItem):
    """The notes of a call that goes to one place once, by hand: most of all items are such."""

    began_ns: int | None
    lane: str | None
    recording: Recording | None

    if not TYPE_CHECKING:  # the concrete ones have them
        __slots__ = ()

    tries = 0

    def _at(self) -> str | None:
        at = self.future._decision
        return at if isinstance(at, str) else "thread"  # a plain callable's says nothing

    def start(self) -> bool:
        """Mark the item as running, and note it."""
        future = self.future
        if not future.set_running_or_notify_cancel():
            return False
        recording, at = self.recording, future._decision
        if recording is not None and (at is None or at in recording.here):
            self.lane = recording.lane_here()
        self.began_ns = perf_counter_ns()
        return True

    def succeed(self, value: Any) -> None:
        """Note it, then deliver the result: who has it can rely on the record."""
        ended, recording = perf_counter_ns(), self.recording
        # By hand: _note_end(value), whatever is not needed here left out.
        if type(value) is Outcome:
            self._note_end(value)
        elif recording is not None:
            fn: Any
            at, fn = self.future._decision, self.fn
            name = fn.name if type(fn) is Task else getattr(fn, "__qualname__", None)
            if type(name) is not str:
                name = self.name
            texts, waits, rows, lane = recording.texts, self.waits_ns, recording.rows, self.lane
            began = self.began_ns or ended
            if type(at) is not str:
                at = "thread"
            if lane is None:
                lane = texts[recording.lanes[at]()]
            rows.append(
                (
                    self.number,
                    texts[name],
                    texts[at],
                    lane,
                    waits - recording.began,
                    began - waits,
                    ended - began,
                )
            )
            if len(rows) >= ROWS:
                recording.flush()
            self.recording = None
            if recording.closing:
                recording.close_if_over()
        self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Note it, then deliver the failure."""
        self._note_failure("failed", error)
        self.future.set_exception(error)

    def give_up(self, error: BaseException) -> None:
        """Note it, then deliver the failure."""
        self._note_failure("failed", error)
        self.future.set_exception(error)

    def end(self) -> None:
        """Note it, then deliver that the work was ended."""
        self._note_failure("cancelled", None)
        super().end()

    def release(self) -> None:
        """Note that the item was cancelled: nothing else releases one."""
        self._note_failure("cancelled", None)
        super().release()


class RecordedCall(_OneWay, WorkItem):
    """A plain callable; or a task with one place to go, whose context is nobody's."""

    __slots__ = _NOTED

    keeper: Keeper | None

    def __init__(  # by hand, with what `follow` does
        self,
        recording: Recording,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions = NO_OPTIONS,
    ) -> None:
        self.fn: Callable[..., Any] | None = fn
        self.args = args
        self.kwargs: dict[str, Any] | None = kwargs or None
        self.options = options
        self.keeper = self.began_ns = self.lane = None
        self.future: HybridFuture[Any] = HybridFuture(self)
        self.recording: Recording | None = recording
        self.number: int = recording.new_number()
        self.waits_ns: int = perf_counter_ns()

    def run(self) -> None:
        """Run the call on this thread, and note it; all by hand, as `WorkItem.run` says."""
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        recording = self.recording
        if recording is not None:
            try:
                self.lane = recording.local.name
            except AttributeError:
                self.lane = recording.lane_here()
        self.began_ns = perf_counter_ns()
        try:
            kwargs = self.kwargs
            value = self.fn(*self.args, **kwargs) if kwargs else self.fn(*self.args)  # type: ignore[misc]
        except BaseException as error:
            self.raised(error)
            self = kwargs = future = None  # type: ignore[assignment]
            return
        if type(value) is GeneratorType:
            future._pool = current_thread().__dict__.get("hybrid_pool")
        self.succeed(value)


class RecordedContextItem(_OneWay, ContextItem):
    """The same for one that runs in its submitter's context, as declared tasks do."""

    __slots__ = _NOTED

    began_ns: int | None
    lane: str | None

    def __init__(self, recording: Recording, *given: Any) -> None:
        super().__init__(*given)
        self.began_ns = self.lane = None
        self.recording: Recording | None = recording
        self.number: int = recording.new_number()
        self.waits_ns: int = perf_counter_ns()


class RecordedDirectItem(Notes, DirectItem):
    """A `DirectItem` that is recorded."""

    __slots__ = _SLOTS

    recording: Recording | None

    def __init__(self, recording: Recording, *given: Any) -> None:
        super().__init__(*given)
        self.follow(recording)

    def _at(self) -> str | None:
        return self.place

    def _chosen(self) -> Choice | None:
        return self.decision.choice

    def start(self) -> bool:
        """Mark the item as running, and note it."""
        if not self.future.set_running_or_notify_cancel():
            return False
        self._note_start()
        return True

    def succeed(self, value: Any) -> None:
        """Note it, then deliver the result."""
        self._note_end(value)
        super().succeed(value)

    def fail(self, error: BaseException) -> None:
        """Note it, then deliver the failure."""
        self._note_failure("failed", error)
        super().fail(error)

    def release(self) -> None:
        """Note that the item was cancelled: nothing else releases one."""
        self._note_failure("cancelled", None)
        super().release()

    def _routed(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> RoutedItem:
        recording, self.recording = self.recording, None
        if recording is None:
            return super()._routed(fn, args, kwargs)
        routed = RecordedItem(fn, args, kwargs, self.options)
        routed.follow(recording, self.number)
        routed.waits_ns = self.waits_ns
        return routed


class _RoutedNotes(Notes):
    """The same for items that carry themselves along a route."""

    if not TYPE_CHECKING:  # the concrete ones have them
        __slots__ = ()

    def _at(self) -> str | None:
        return self.executor  # type: ignore[attr-defined,no-any-return]

    def _chosen(self) -> Choice | None:
        return self.choice  # type: ignore[attr-defined,no-any-return]

    def start(self) -> bool:
        """Mark the item as running, and note it."""
        started: bool = super().start()  # type: ignore[misc]
        if started:
            self._note_start()
        return started

    def _deliver(self, value: Any) -> None:
        self._note_end(value)
        super()._deliver(value)  # type: ignore[misc]

    def _goes_on(self, error: BaseException) -> bool:
        at = self._at()
        goes_on: bool = super()._goes_on(error)  # type: ignore[misc]
        if goes_on:
            self._note_retry(error, at)
        return goes_on

    def _deliver_failure(self, error: BaseException) -> None:
        outcome = "cancelled" if isinstance(error, CancelledError) else "failed"
        self._note_failure(outcome, error)
        super()._deliver_failure(error)  # type: ignore[misc]

    def end(self) -> None:
        """Note it, then deliver that the work was ended."""
        self._note_failure("cancelled", None)
        super().end()  # type: ignore[misc]

    def release(self) -> None:
        """Note that the item was cancelled: nothing else releases one."""
        self._note_failure("cancelled", None)
        super().release()  # type: ignore[misc]


class RecordedItem(_RoutedNotes, RoutedItem):
    """A `RoutedItem` that is recorded."""

    __slots__ = _SLOTS


class _RecordedStreamItem(_RoutedNotes, StreamItem):
    pass


class _RecordedObservedItem(_RoutedNotes, ObservedItem):
    __slots__ = _SLOTS


class _RecordedObservedStreamItem(_RoutedNotes, ObservedStreamItem):
    pass


class _LegNotes(_RoutedNotes):
    """The same for one of two attempts: what the other one was quicker with has no outcome."""

    def tell_dropped(self) -> None:
        """Note that it is dropped, unless it had come to its end by itself."""
        self._note_failure("cancelled", None)
        super().tell_dropped()  # type: ignore[misc]


class _RecordedLeg(_LegNotes, Leg):
    pass


class _RecordedObservedLeg(_LegNotes, ObservedLeg):
    pass


# What is recorded, in the place of what is not.
KINDS: dict[type[RoutedItem], type[RoutedItem]] = {
    RoutedItem: RecordedItem,
    StreamItem: _RecordedStreamItem,
    Leg: _RecordedLeg,
    ObservedLeg: _RecordedObservedLeg,
    ObservedItem: _RecordedObservedItem,
    ObservedStreamItem: _RecordedObservedStreamItem,
}
