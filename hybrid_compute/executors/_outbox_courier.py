"""Courier: the thread that takes the rows of an outbox to the service, and their outcomes back.

Owns the order of things between the file, the remote executor and the futures::

    accept --> file --claim--> hands --send--> remote --came--> settle --> file, then future

Threads: its own, which alone claims, sends and settles, and on which futures get their outcomes;
callers, who come by `accept`, `withdraw` and the ends; and the remote executor's, which come by
`came` and leave the outcome there. `_changed` guards `_hands` and what is below it in the
constructor. The file has its own lock. No two locks are held at once, and none while a future is
told, the remote executor is called, or the disk is waited for.

Why nothing hangs: the thread waits for what `_changed` tells, or until something is due; a row is
in the file, in one of the collections in hand, with the remote executor, which delivers an outcome
of each item, or over. An end waits for what the service runs; for a service that is away, or busy
with others, it waits `linger` seconds. What is left in the file then is anybody's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any

from hybrid_compute import _exit
from hybrid_compute._failures import type_name_of
from hybrid_compute.errors import HybridComputeError, OutboxError, RemoteBusy
from hybrid_compute.executors import _delivery
from hybrid_compute.executors._outbox_ends import CourierEnds
from hybrid_compute.executors._outbox_entries import Delivery, Entry, Stage
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.executors._outbox_hands import Hands
from hybrid_compute.executors._outbox_settling import (
    Decided,
    decide,
    tell,
    verdict_of,
)
from hybrid_compute.executors._outbox_table import Draft
from hybrid_compute.executors._outbox_verdicts import Fate, Pauses
from hybrid_compute.executors._remote_dialer import FIRST_PAUSE, LONGEST_PAUSE

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.executors._outbox_forms import Forms
    from hybrid_compute.executors._outbox_lives import Lives

__all__ = ["Courier"]


class Courier(CourierEnds):
    """Delivers the rows of one file through one remote executor."""

    def __init__(  # noqa: PLR0913 - one setting each, by name
        self,
        file: OutboxFile,
        lives: Lives,
        remote: SubExecutor,
        forms: Forms,
        *,
        name: str,
        max_attempts: int,
        keep_results: bool,
        linger: float,
        lease: float,
    ) -> None:
        self._file = file
        self._lives = lives
        self._remote = remote
        self._forms = forms
        self._name = name
        self._max_attempts = max_attempts
        self._keep_results = keep_results
        self._beat_every = lease / 3
        self._disk_pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._changed = threading.Condition(threading.RLock())  # guards all below
        self._hands = Hands(linger=linger, now=time.monotonic())
        self._unwritten: list[Decided] = []  # outcomes that the disk has refused
        self._disk_due = 0.0  # when to try again what the disk has refused
        self._next_beat = 0.0
        self._closing = self._flushed = self._winding_down = False
        self._refusal: str | None = None
        self._trouble = ""
        self.thread: threading.Thread | None = None
        _exit.register(self)

    def start(self) -> None:
        """Begin to deliver what is in the file."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self.thread = thread

    # -- callers -----------------------------------------------------------------------------

    def accept(self, entries: Sequence[Entry], drafts: Sequence[Draft]) -> None:
        """Put rows into the file. Blocks until they are there for good.

        Raises:
            OutboxFull, OutboxError: not all are; those that are will be delivered.
            RuntimeError: it is shut down.
        """
        hands = self._hands
        with self._changed:
            if self._refusal is not None:
                raise RuntimeError(self._refusal)
            for each in entries:  # before they can be claimed
                hands.mine[each.key] = each
                assert each.item is not None  # noqa: S101 - a caller's
                each.item.keeper = each
        try:
            self._file.add(drafts)
        finally:
            with self._changed:
                for entry, draft in zip(entries, drafts, strict=True):
                    if draft.id:
                        entry.id = draft.id
                    else:
                        hands.mine.pop(entry.key, None)
                        if entry.item is not None:
                            entry.item.keeper = None
                was, hands.waiting = hands.waiting, True
                if not was or hands.can_send(time.monotonic()):
                    self._changed.notify_all()

    def withdraw(self, entry: Entry) -> bool:
        """Remove the row of a future that is about to be cancelled, unless it may be sent."""
        hands = self._hands
        while True:
            with self._changed:
                stage, inner = entry.stage, entry.inner
                if stage in (Stage.QUEUED, Stage.HELD) and entry.id:
                    entry.stage = Stage.WITHDRAWN
                    break
                if stage is not Stage.SENT or inner is None or entry.started:
                    return False
            if not inner.future.cancel():
                return False
            with self._changed:
                if entry.inner is inner:  # else it came back meanwhile
                    entry.stage, entry.inner = Stage.HELD, None
                    hands.sent.discard(entry)
        removed = 0
        try:
            removed = self._file.remove([(entry.id, entry.key)], sync=True)
        except (OutboxError, RuntimeError):
            LOGGER.exception("a row of the outbox could not be cancelled")
        with self._changed:
            if removed:
                hands.forget(entry)
            elif entry.row is None:
                entry.stage = Stage.QUEUED
                hands.waiting = True
            else:
                hands.put(entry)
            self._changed.notify_all()  # who waits for the end looks at what is left
        return bool(removed)

    def wake(self) -> None:
        """Look for rows that somebody has put into the file."""
        with self._changed:
            self._hands.orphans = True
            self._changed.notify_all()

    # -- the remote executor -------------------------------------------------------------------

    def came(self, entry: Entry, inner: Delivery, value: Any, error: BaseException | None) -> None:
        """Take the outcome of an attempt. Any thread; waits for nobody."""
        with self._changed:
            if entry.inner is inner and entry.stage is Stage.SENT:
                entry.stage = Stage.CAME
                self._hands.came.append((entry, value, error))
                self._changed.notify_all()

    def stopped(self, entry: Entry, inner: Delivery) -> None:
        """End the future of a call that the service was told to stop. Callbacks run."""
        with self._changed:
            if entry.inner is not inner or entry.stage is not Stage.SENT:
                return
            self._hands.forget(entry)
            self._hands.gone.append((entry.id, entry.key))
            item, entry.item = entry.item, None
            self._changed.notify_all()
        if item is not None:
            _delivery.settle(lambda _: item.end(), None)

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while (step := self._next_step(now := time.monotonic())) is None:
                    if self._is_over(now):
                        break
                    self._changed.wait(max(0.0, self._next_time(now) - now))
            if step is None:
                break
            self._try(step)
        self._try(self._finish)

    def _try(self, step: Callable[[], object]) -> None:
        try:
            step()
        except BaseException as error:  # the thread has others to serve
            self._refused(error)
        else:
            if self._trouble and not self._unwritten and step != self._beat:
                self._trouble = ""
                self._disk_pauses.reset()

    def _refused(self, error: BaseException) -> None:
        """Wait a while before the next step, and tell why, once."""
        self._disk_due = time.monotonic() + self._disk_pauses.next()
        if (text := f"{type_name_of(type(error))}: {error}") != self._trouble:
            self._trouble = text
            LOGGER.warning("the outbox %s: %s", self._file.path, error, exc_info=error)

    def _next_step(self, now: float) -> Callable[[], object] | None:
        """Return what is to be done now. With the lock held."""
        if now < self._disk_due:
            return None
        hands, ends = self._hands, self._ends()
        can_send = hands.can_send(now)
        in_vain = self._winding_down and not self._closing and bool(hands.mine)
        steps = (
            (now >= self._next_beat, self._beat),
            (can_send and hands.has_next(now), self._send),
            # All that has come while rows were sent, with one sync.
            (bool(hands.came or self._unwritten), self._settle),
            (can_send and hands.can_claim(now, closing=ends), self._claim),
            (in_vain and self._is_hopeless(now), self._give_up),
            (bool(hands.gone), self._clean),
        )
        return next((step for due, step in steps if due), None)

    def _next_time(self, now: float) -> float:
        """Return when there will be something to do. With the lock held."""
        if now < self._disk_due:
            times: list[float | None] = [self._disk_due]
        else:
            times = [self._next_beat, self._hands.next_due(now)]
        if self._ends() and (left := self._hands.patience(now)) is not None and left > 0:
            times.append(now + left)
        return min(each for each in times if each is not None)

    def _beat(self) -> None:
        """Tell the other sessions that this one lives, and look whether they do."""
        self._next_beat = time.monotonic() + self._beat_every
        hands = self._hands
        if hands.has_rows() and not self._file.beat():
            self._overtaken()
        if self._lives.bury() or self._file.has_orphans():
            hands.orphans = True

    def _claim(self) -> None:
        hands = self._hands
        with self._changed:
            gone, hands.gone = hands.gone, []
            room, now = hands.room(), time.monotonic()
            orphans = 0 if self._ends() else hands.share(room, now)
            hands.waiting = False  # before the look: who adds a row says so afterwards
        try:
            if gone:
                self._file.remove(gone, sync=False)
                gone = []
            others, own = self._file.claim(room, orphans=orphans)
            company = self._file.company() if others else 0
        except BaseException:
            with self._changed:
                hands.gone += gone
                hands.waiting = True
            raise
        with self._changed:
            hands.waiting = hands.waiting or bool(own)  # there may be more
            if orphans:
                hands.shared(now, len(others), company)
            for row in others:
                hands.claimed(Entry(self, row.key, None), row)
            for row in own:
                # One without an entry has been cancelled, and its row is being removed.
                if (entry := hands.mine.get(row.key)) is not None:
                    hands.claimed(entry, row)

    def _clean(self) -> None:
        """Remove the rows whose futures were told."""
        with self._changed:
            gone, self._hands.gone = self._hands.gone, []
        try:
            self._file.remove(gone, sync=False)
        except BaseException:
            with self._changed:
                self._hands.gone += gone
            raise

    def _send(self) -> None:
        """Give the next row to the remote executor."""
        with self._changed:
            if not self._hands.has_next(now := time.monotonic()):
                return  # it has just been cancelled
            entry = self._hands.send_next(now)
        row = entry.row
        assert row is not None  # noqa: S101 - it was claimed
        try:
            inner = Delivery(self, entry, row._replace(turn=entry.turn), self._forms)
        except Exception as error:  # the file is damaged, or was written by somebody else
            self._conclude([Decided(entry, None, error, Fate.DEAD)])
            return
        with self._changed:
            entry.inner = inner
        try:
            self._remote.execute(inner)
        except BaseException as error:
            why = error
            if isinstance(error, RuntimeError) and not isinstance(error, HybridComputeError):
                why = RemoteBusy(f"the remote executor takes nothing: {error}")  # it is shut down
            self.came(entry, inner, None, why)

    def _settle(self) -> None:
        """Write down what came, and then tell the futures."""
        hands, now = self._hands, time.monotonic()
        away: list[BaseException] = []
        with self._changed:
            done, self._unwritten = self._unwritten, []
            before = len(done)
            while hands.came:
                entry, value, error = hands.came.popleft()
                hands.sent.discard(entry)
                if entry.unwanted():
                    hands.forget(entry)
                    hands.gone.append((entry.id, entry.key))
                    continue
                decided = decide(entry, value, error, self._max_attempts)
                if decided.fate is Fate.AWAY:
                    away.append(decided.error)  # type: ignore[arg-type]  # it has a fate
                    hands.put_back(entry)
                else:
                    done.append(decided)
            if len(done) > before:
                hands.heard(now)
            elif away:
                hands.not_heard(now, max(getattr(x, "retry_after", None) or 0.0 for x in away))
        if done:
            self._conclude(done)
        with self._changed:
            self._changed.notify_all()  # who waits for the end

    def _conclude(self, done: list[Decided]) -> None:
        """Write outcomes down, and tell the futures.

        If the disk takes nothing, futures are told all the same; their rows are removed later, or
        delivered again with the same key. Outcomes that nobody waits for are kept, and tried again.
        """
        verdicts = [verdict_of(each, self._forms, keep_results=self._keep_results) for each in done]
        written = True
        try:
            self._file.settle(verdicts)
        except OutboxError as error:
            self._refused(error)
            written = False
        for each, verdict in zip(done, verdicts, strict=True):
            entry = each.entry
            if each.again:
                with self._changed:
                    self._hands.pause(entry, time.monotonic())
            elif written or entry.item is not None:
                if entry.item is not None:
                    tell(each, self._file.path)
                with self._changed:
                    self._hands.forget(entry)
                    if verdict.owned or not written:
                        self._hands.gone.append((entry.id, entry.key))
            else:
                with self._changed:
                    self._unwritten.append(each)
