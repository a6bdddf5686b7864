"""The recorder: what a HybridExecutor has in front of its short ways while it is recorded.

Owns who is asked instead of `WorkItem` and `run_quick`, and puts them back. No threads, no locks:
an item that is made while a recording begins or ends is recorded or is not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hybrid_compute._notes import error_in_words, foreseen
from hybrid_compute.direct import DirectItem
from hybrid_compute.items import PLAIN, ContextItem, WorkItem, name_of
from hybrid_compute.quick import run_quick
from hybrid_compute.recorded import (
    RecordedCall,
    RecordedContextItem,
    RecordedDirectItem,
    RecordedItem,
    RecordedPiece,
    recorded,
)
from hybrid_compute.recording import Recording
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import NO_OPTIONS, Task, TaskOptions

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.futures import HybridFuture
    from hybrid_compute.hybrid import HybridExecutor
    from hybrid_compute.learning import Learning

__all__ = ["Recorder"]


class Recorder:
    """What a HybridExecutor has while it is recorded: makes its items, and knows its short ways.

    Args:
        executor: whose it is.
        recording: who writes.
    """

    def __init__(self, executor: HybridExecutor, recording: Recording) -> None:
        self.recording = recording
        # In the place of WorkItem and of run_quick, so that nobody who does not record need ask.
        executor._make_call = self.call
        executor._make_context_call = self.context_call
        executor._make_direct = self.direct
        executor._run_quick = self.run_quick

    def restore(self, executor: HybridExecutor) -> None:
        """Leave the executor."""
        executor._make_call, executor._make_direct = WorkItem, DirectItem
        executor._make_context_call = ContextItem
        executor._run_quick = run_quick

    def call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions = NO_OPTIONS,
    ) -> WorkItem:
        """Return a recorded item in the place of a WorkItem."""
        recording, item = self.recording, RecordedCall(fn, args, kwargs, options)
        # By hand: item.follow(recording).
        item.recording = recording
        item.number = next(recording.numbers)
        item.began_ns = item.lane = None
        item.waits_ns = perf_counter_ns()
        return item

    def context_call(self, *given: Any) -> WorkItem:
        """Return a recorded item in the place of a ContextItem."""
        item = RecordedContextItem(*given)
        item.follow(self.recording)
        return item

    def direct(self, *given: Any) -> DirectItem:
        """Return a recorded item in the place of a DirectItem."""
        item = RecordedDirectItem(*given)
        item.follow(self.recording)
        return item

    def run_quick(
        self,
        fn: Task[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        belief: Any,
        learning: Learning,
        *,
        reports: bool | None,
    ) -> HybridFuture[Any]:
        """Do what `run_quick` does, and note it."""
        recording, choice = self.recording, belief.quick_choice
        number, begun = next(recording.numbers), perf_counter_ns()
        try:
            future = run_quick(fn, args, kwargs, belief, learning, reports=reports)
            ended = perf_counter_ns()
            error, seen = future._exception, foreseen(choice, "inline")
        except KeyboardInterrupt as interrupt:  # the program's as much as the item's
            self._note((number, fn.name, "inline", begun, begun), interrupt)
            raise
        if error is None:
            said = recording.lane_here().say("inline", fn.name)
            recording.add_done(number, said, (begun, begun, ended), seen)
        else:
            self._note((number, fn.name, "inline", begun, begun), error, seen)
        return future

    def _note(
        self,
        what: tuple[int, str, str, int, int],
        error: BaseException,
        seen: int | None = None,
    ) -> None:
        """Note that a call which was made here has failed."""
        ended, recording = perf_counter_ns(), self.recording
        number, name, at, submitted, begun = what
        row = {
            "id": number,
            "task": name,
            "executor": at,
            "lane": recording.lane_here().name,
            "submitted_ns": submitted - recording.began,
            "waited_ns": begun - submitted,
            "took_ns": ended - begun,
            "outcome": "failed",
            "error": error_in_words(error, guarded=False),
        }
        recording.add(row if seen is None else row | {"predicted_ns": seen})

    # For the items that are routed.

    def piece(self, piece: WorkItem, executor: str) -> WorkItem:
        """Return a piece of a chunk, to be sent to an executor again, such that it is recorded."""
        if type(piece) not in PLAIN or piece.fn is None:
            return piece
        item = RecordedPiece(piece.fn, piece.args, piece.kwargs, piece.options, piece.context)
        item.follow(self.recording)
        item.future = piece.future
        item.future._item, item.future._decision = item, executor
        return item

    def maker(self, kind: type[RoutedItem]) -> Callable[..., Any]:
        """Return what is called like this kind of item, and makes one that is recorded."""
        return partial(self._make, recorded(kind))

    def _make(self, kind: Any, *given: Any, **more: Any) -> Any:
        item = kind(*given, **more)
        item.follow(self.recording)
        return item

    def routed(self, item: WorkItem) -> RoutedItem:
        """Return a recorded item that carries itself along, in the place of one that does not."""
        made: Any = RecordedItem.in_place_of(item)
        if isinstance(item, (RecordedCall, RecordedContextItem)) and item.recording is not None:
            made.follow(item.recording, item.number)
            made.waits_ns, item.recording = item.waits_ns, None
        else:
            made.follow(self.recording)
        return made  # type: ignore[no-any-return]

    def mapped(
        self, fn: Callable[..., Any], named: Callable[..., Any], executor: SubExecutor
    ) -> Callable[..., Any]:
        """Return a function that notes each call, which a map makes here without an item.

        Args:
            fn: the function.
            named: whose name it has in the recording.
            executor: where it is mapped.
        """
        name, at, submitted = name_of(named), executor.name, perf_counter_ns()
        recording, note = self.recording, self._note
        numbers, done, local = recording.numbers, recording.done, recording.local
        since = submitted - recording.began

        def noted(*args: Any) -> Any:
            begun = perf_counter_ns()
            try:
                value = fn(*args)
            except BaseException as error:
                if not recording.closing:
                    note((next(numbers), name, at, submitted, begun), error)
                raise
            if not recording.closing:
                ended, extend = perf_counter_ns(), done.extend
                # By hand: recording.add_done(next(numbers), ...).
                try:
                    said = local.lane.said[at][name]
                except (AttributeError, KeyError):  # it is the first one here
                    said = recording.lane_here().say(at, name)
                extend((next(numbers), said, since, begun - submitted, ended - begun))
                if len(done) >= recording.most:
                    recording.flush()
            return value

        return noted
