"""What items note for a `Recording`: when they waited, when they began, how they ended.

Owns the steps that all of the items in `recorded` share. An item is in one pair of hands at a time,
so there is no lock; what two would note, its future settles once.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from hybrid_compute._failures import text_of
from hybrid_compute.decisions import Choice
from hybrid_compute.executors._batch import Outcome
from hybrid_compute.recording import Lane, Recording

__all__ = ["Notes", "error_in_words", "foreseen"]

_LONGEST = 300  # characters of an error's text


def error_in_words(error: BaseException, *, guarded: bool) -> str:
    """Return what is written of an error; of one with something to hide, its type."""
    name = type(error).__name__
    text = "" if guarded else text_of(error)
    return f"{name}: {text[:_LONGEST]}" if text else name


def foreseen(choice: Choice | None, executor: str | None) -> int | None:
    """Return the nanoseconds that a choice has predicted for an executor."""
    if choice is not None:
        for name, seconds in choice.candidates:
            if name == executor:
                return int(seconds * 1e9)
    return None


class Notes:
    """What all recorded items share. The concrete ones have the slots.

    Attributes:
        recording: whom to tell; None once the item has ended.
        number: the item's.
        tries: how many attempts have ended.
        waits_ns: since when this attempt waits.
        began_ns: when its work began; None: not yet.
        lane: who does the work; None: who has done it is asked at the end.
    """

    if not TYPE_CHECKING:  # the concrete ones have them
        __slots__ = ()

    tries: int = 0

    if TYPE_CHECKING:  # else they would be no slots
        recording: Recording | None
        number: int
        waits_ns: int
        began_ns: int | None
        lane: Lane | None

    def follow(self, recording: Recording, number: int | None = None) -> None:
        """Begin: the item was just made, in the place of another one if that had a number."""
        self.recording = recording
        self.number = number or next(recording.numbers)
        self.waits_ns = perf_counter_ns()
        self.began_ns = self.lane = None

    def _at(self) -> str | None:
        """Return the name of the executor that has the item."""
        raise NotImplementedError

    def _chosen(self) -> Choice | None:
        return None

    def _note_start(self) -> None:
        recording = self.recording
        if recording is not None and self._at() in recording.here:
            self.lane = recording.lane_here()
        self.began_ns = perf_counter_ns()

    def _note_end(self, value: Any) -> None:
        ended, recording = perf_counter_ns(), self.recording
        if recording is None:
            return  # the interpreter exits, and it was written as unfinished
        if self.tries or type(value) is Outcome:
            recording.add(self._row_of(recording, value, ended))
        else:
            item: Any = self
            at, lane, began = self._at(), self.lane, self.began_ns or ended
            if lane is None:
                lane = recording.lane_of(at)
            times = (self.waits_ns, began, ended)
            seen = foreseen(self._chosen(), at)
            recording.add_done(self.number, lane.say(at, item.name), times, seen)
        self.recording = None

    def _row_of(self, recording: Recording, value: Any, ended: int) -> dict[str, Any]:
        """Return what is written of a success, where there is more to say."""
        item: Any = self
        failures = value.failures if type(value) is Outcome else {}
        row = self._row(recording, "failed" if failures else "ok", ended)
        if type(value) is Outcome:
            row["calls"] = len(value.values)
            row["work_ns"] = int(value.seconds * 1e9)
        if failures:
            first = next(iter(failures.values()))
            row["error"] = error_in_words(first, guarded=item.guard is not None)
        return row

    def _note_failure(self, outcome: str, error: BaseException | None) -> None:
        recording = self.recording
        if recording is not None:
            self.recording = None
            recording.add(self._row(recording, outcome, perf_counter_ns(), error))

    def _note_retry(self, error: BaseException, at: str | None) -> None:
        ended, recording = perf_counter_ns(), self.recording
        if recording is not None:
            recording.add(self._row(recording, "retried", ended, error, at=at))
        self.tries += 1
        self.waits_ns = ended
        self.began_ns = self.lane = None

    def note_unfinished(self) -> None:
        """Note that the interpreter exits, and the item has not ended."""
        recording, self.recording = self.recording, None
        if recording is not None:
            recording.add(self._row(recording, "unfinished", perf_counter_ns()))

    def _row(
        self,
        recording: Recording,
        outcome: str,
        ended: int,
        error: BaseException | None = None,
        *,
        at: str | None = None,
    ) -> dict[str, Any]:
        item: Any = self
        at, zero = at or self._at(), recording.began
        lane = self.lane
        if lane is None and self.began_ns is not None and outcome != "unfinished":
            lane = recording.lane_of(at)
        row = {
            "id": self.number,
            "task": item.name,
            "executor": at,
            "lane": None if lane is None else lane.name,
            "submitted_ns": self.waits_ns - zero,
            "waited_ns": None if self.began_ns is None else self.began_ns - self.waits_ns,
            "took_ns": ended - (self.began_ns or self.waits_ns),
            "outcome": outcome,
        }
        if self.tries:
            row["attempt"] = self.tries + 1
        seen = None if self.tries else foreseen(self._chosen(), at)
        if seen is not None:
            row["predicted_ns"] = seen
        if error is not None:
            row["error"] = error_in_words(error, guarded=item.guard is not None)
        return row
