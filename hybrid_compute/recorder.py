"""The recorder: what a HybridExecutor has in front of its short ways while it is recorded.

Owns who is asked instead of `WorkItem` and `run_quick`, and puts them back. No threads, no locks:
an item that is made while a recording begins or ends is recorded or is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hybrid_compute._notes import error_in_words, foreseen
from hybrid_compute.direct import DirectItem
from hybrid_compute.items import PLAIN, ContextItem, WorkItem, name_of
from hybrid_compute.quick import run_quick
from hybrid_compute.recorded import (
    KINDS,
    RecordedCall,
    RecordedContextItem,
    RecordedDirectItem,
    RecordedItem,
)
from hybrid_compute.recording import Recording
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task

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

    call: Callable[..., WorkItem]
    context_call: Callable[..., WorkItem]

    def __init__(self, executor: HybridExecutor, recording: Recording) -> None:
        self.recording = recording
        # In the place of WorkItem and of run_quick, so that nobody who does not record need ask.
        self.call = executor._make_call = partial(RecordedCall, recording)
        self.context_call = executor._make_context_call = partial(RecordedContextItem, recording)
        executor._make_direct = partial(RecordedDirectItem, recording)
        executor._run_quick = self.run_quick

    def restore(self, executor: HybridExecutor) -> None:
        """Leave the executor."""
        executor._make_call, executor._make_direct = WorkItem, DirectItem
        executor._make_context_call = ContextItem
        executor._run_quick = run_quick

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
        recording = self.recording
        number = recording.new_number()
        choice = belief.quick_choice
        begun = perf_counter_ns()
        future = run_quick(fn, args, kwargs, belief, learning, reports=reports)
        self._note(
            (number, fn.name, "inline", begun, begun),
            future._exception,
            foreseen(choice, "inline"),
        )
        if recording.closing:
            recording.close_if_over()
        return future

    def _note(
        self,
        what: tuple[int, str, str, int, int],
        error: BaseException | None,
        seen: int | None = None,
    ) -> None:
        """Note a call that was made here."""
        ended, recording = perf_counter_ns(), self.recording
        number, name, at, submitted, begun = what
        zero, texts = recording.began, recording.texts
        times = (submitted - zero, begun - submitted, ended - begun)
        if error is None:
            names = (number, texts[name], texts[at], recording.lane_here())
            recording.add_done((*names, *times), seen)
            return
        row = {
            "id": number,
            "task": name,
            "executor": at,
            "lane": json.loads(recording.lane_here()),
            "submitted_ns": times[0],
            "waited_ns": times[1],
            "took_ns": times[2],
            "outcome": "failed",
            "error": error_in_words(error, guarded=False),
        }
        recording.add(row if seen is None else row | {"predicted_ns": seen})

    # For the items that are routed.

    def piece(self, piece: WorkItem) -> WorkItem:
        """Return a piece of a chunk, to be sent again, such that it is recorded."""
        if type(piece) not in PLAIN or piece.fn is None:
            return piece
        item = self.context_call(piece.fn, piece.args, piece.kwargs, piece.options, piece.context)
        item.future = piece.future
        item.future._item = item
        return item

    def maker(self, kind: type[RoutedItem]) -> Callable[..., Any]:
        """Return what is called like this kind of item, and makes one that is recorded."""
        return partial(self._make, KINDS[kind])

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
        note, number = self._note, self.recording.new_number

        def noted(*args: Any) -> Any:
            begun = perf_counter_ns()
            try:
                value = fn(*args)
            except BaseException as error:
                note((number(), name, at, submitted, begun), error)
                raise
            note((number(), name, at, submitted, begun), None)
            return value

        return noted
