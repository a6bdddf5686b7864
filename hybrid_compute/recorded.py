"""Items that note their steps for a `Recording`; imported, and made, only while there is one.

Owns which steps are noted; how, `_notes` knows. An item is in one pair of hands at a time, so it
has no lock.

What it costs is in benchmarks/observe.py: hence the times as plain integers, and what `_OneWay` and
`RecordedCall` do by hand. The kinds of which there are few are made when the first one is asked for
(`recorded`): to import them all takes longer than to record ten thousand items.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from threading import current_thread
from time import perf_counter_ns
from types import FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any

from hybrid_compute._notes import Notes
from hybrid_compute.decisions import Choice
from hybrid_compute.direct import DirectItem
from hybrid_compute.items import ContextItem, WorkItem, name_of
from hybrid_compute.recording import Lane, Recording
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task

__all__ = [
    "RecordedCall",
    "RecordedContextItem",
    "RecordedDirectItem",
    "RecordedItem",
    "RecordedPiece",
    "recorded",
]

_NOTED = ("began_ns", "lane", "number", "recording", "waits_ns")
_TRIED = (*_NOTED, "tries")


# What `_OneWay` stands beside, as a base.
if TYPE_CHECKING:
    _AnItem = WorkItem
else:
    _AnItem = object


class _OneWay(Notes, _AnItem):
    """The notes of a call that goes to one place once, by hand: most of all items are such."""

    recording: Recording | None
    began_ns: int | None
    lane: Lane | None

    if not TYPE_CHECKING:  # the concrete ones have them
        __slots__ = ()

    def _at(self) -> str | None:
        at: Any = self.future._decision or "thread"  # a plain callable's says nothing
        return at  # type: ignore[no-any-return]

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
        if recording is not None:
            # By hand: _note_end(value), whatever is not needed here left out.
            fn: Any = self.fn
            lane = self.lane
            at: Any = self.future._decision or "thread"  # a plain callable's says nothing
            if type(fn) is Task:
                name = fn.name
            else:
                name = fn.__qualname__ if type(fn) is FunctionType else name_of(fn)
            try:
                if lane is None:
                    lane = recording.named[recording.lanes[at]()]
                said = lane.said[at][name]
            except KeyError:  # it is the first one
                said = (lane or recording.lane_of(at)).say(at, name)
            waits, began, done = self.waits_ns, self.began_ns or ended, recording.done
            done += (self.number, said, waits - recording.began, began - waits, ended - began)
            self.recording = None
            if len(done) >= recording.most:
                recording.flush()
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

    began_ns: int | None

    __slots__ = _NOTED

    def run(self) -> None:
        """Run the call on this thread, and note it; all by hand, as `WorkItem.run` says."""
        future, recording = self.future, self.recording
        if not future.set_running_or_notify_cancel():
            return
        if recording is not None:
            try:
                self.lane = recording.local.lane
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


class RecordedPiece(RecordedContextItem):
    """A piece of a chunk of a map, which was sent again."""

    __slots__ = ()

    def succeed(self, value: Any) -> None:
        """Note it, then deliver the result."""
        self._note_end(value)
        self.future.set_result(value)


class RecordedDirectItem(Notes, DirectItem):
    """A `DirectItem` that is recorded."""

    recording: Recording | None

    __slots__ = _NOTED

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

    def follow(self, recording: Recording, number: int | None = None) -> None:
        """Begin."""
        super().follow(recording, number)
        self.tries = 0

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

    def tell_dropped(self) -> None:
        """Note that it was dropped, unless it had come to its end by itself; asked of legs."""
        self._note_failure("cancelled", None)
        super().tell_dropped()  # type: ignore[misc]


class RecordedItem(_RoutedNotes, RoutedItem):
    """A `RoutedItem` that is recorded."""

    __slots__ = _TRIED


# What is recorded, in the place of what is not.
_KINDS: dict[type[RoutedItem], type[RoutedItem]] = {RoutedItem: RecordedItem}


def recorded(kind: type[RoutedItem]) -> type[RoutedItem]:
    """Return this kind of routed item, but one that is recorded."""
    found = _KINDS.get(kind)
    if found is None:  # two threads may make two, which are the same
        found = _KINDS[kind] = type(f"Recorded{kind.__name__}", (_RoutedNotes, kind), {})
    return found
