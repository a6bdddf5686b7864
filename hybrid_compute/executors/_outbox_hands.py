"""Hands: the rows that a courier has, and which of them is sent next, and when.

Owns the collections and the two clocks of a courier: when a service that is away is looked for
again, and how long an end waits for news of it. Pure: time is passed in. ::

    claimed --> ready, suspects --> sent --> came --> over
                     ^                 |       |
                     |                 `away---|--> back to the front
                     `---- paused <----again---'

When the service is away, one row at a time is sent to see whether it is back, after pauses that
grow and are left to chance, as those of a WebSocket's dialer. With the first that gets there, all
go. So also at the beginning: until something was heard of the service it is taken to be away. A
call that takes long must not keep the others waiting: while it has no outcome, more may go, and
twice as many each second.

Threads: none; the courier's lock guards it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from typing import Any

from hybrid_compute.executors._outbox_entries import Entry, Stage
from hybrid_compute.executors._outbox_table import Row
from hybrid_compute.executors._outbox_verdicts import Pauses, pause_before
from hybrid_compute.executors._remote_dialer import FIRST_PAUSE, LONGEST_PAUSE

__all__ = ["WINDOW", "Hands"]

WINDOW = 64  # rows that are with the service at once
_PART = 4  # the part of what is claimed at once that may be nobody's: others want some too,
_COURTESY = 0.02  # and so many seconds to take them
_PATIENCE = 1.0  # seconds until more rows are sent to a service of which nothing was heard
_LONGEST_ASKED = 60.0  # seconds to wait because a busy service asks for it


class Hands:
    """What one session has in hand.

    Attributes:
        mine: the rows whose futures are here, by key.
        sent: those that the remote executor has.
        came: outcomes that are not written down yet.
        gone: rows that can be removed: their futures were told.
        waiting: there may be rows of this session to claim.
        orphans: there may be rows of nobody to claim.
        away: nothing was heard of the service, but that it is away.
        news: when the service was last heard of, or an end began to wait.
    """

    def __init__(self, *, linger: float, now: float) -> None:
        self.mine: dict[str, Entry] = {}
        self.sent: set[Entry] = set()
        self.came: deque[tuple[Entry, Any, BaseException | None]] = deque()
        self.gone: list[tuple[int, str]] = []
        self.waiting = self.orphans = self.away = True
        self.news = now
        self._linger = linger
        self._ready: deque[Entry] = deque()
        self._suspects: deque[Entry] = deque()  # see `_outbox_verdicts`
        self._paused: list[tuple[float, int, Entry]] = []  # a heap
        self._numbers = itertools.count()
        self._pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._due = 0.0  # while it is away: when to look for it again
        self._tries = 1  # and with how many rows
        self._next_share = 0.0  # when to take rows of nobody again

    # -- what is to be sent --------------------------------------------------------------------

    def room(self) -> int:
        """Return how many rows to claim, at least one."""
        return max(1, (self._tries if self.away else WINDOW) - len(self.sent) - len(self._ready))

    def share(self, room: int, now: float) -> int:
        """Return how many rows of nobody to claim among `room`."""
        return max(1, room // _PART) if self.orphans and now >= self._next_share else 0

    def shared(self, now: float, found: int, company: int) -> None:
        """Note how many there were; if there is company, leave the next ones to it for a moment."""
        self.orphans = found > 0
        if found and company:
            self._next_share = now + random.uniform(0, _COURTESY)  # noqa: S311 - no secret

    def claimed(self, entry: Entry, row: Row) -> None:
        """Take a row that was claimed."""
        if entry.stage is Stage.QUEUED:  # else it is being cancelled
            entry.take(row)
            self.put(entry)

    def put(self, entry: Entry) -> None:
        """Have a row sent when its turn comes."""
        entry.stage, entry.inner = Stage.HELD, None
        (self._suspects if entry.attempts else self._ready).append(entry)

    def put_back(self, entry: Entry) -> None:
        """Have a row that was not sent sent first."""
        entry.stage, entry.inner = Stage.HELD, None
        (self._suspects if entry.attempts else self._ready).appendleft(entry)

    def pause(self, entry: Entry, now: float) -> None:
        """Have a row sent again in a while."""
        entry.stage, entry.inner = Stage.HELD, None
        when = now + pause_before(entry.attempts)
        heapq.heappush(self._paused, (when, next(self._numbers), entry))

    def can_send(self, now: float) -> bool:
        """Tell whether the service may get one more row."""
        if not self.away:
            return len(self.sent) < WINDOW
        if now < self._due:
            return False
        if self.sent:  # they have been out for a while
            self._tries = min(2 * self._tries, WINDOW)
            self._due = now + _PATIENCE
        return len(self.sent) < self._tries

    def has_next(self, now: float) -> bool:
        """Tell whether there is a row that may be sent now, if any may."""
        while self._paused and self._paused[0][0] <= now:
            self._suspects.append(heapq.heappop(self._paused)[2])
        for queue in (self._ready, self._suspects):
            while queue and queue[0].stage is not Stage.HELD:
                queue.popleft()  # it was cancelled
        return bool(self._ready) or (
            bool(self._suspects) and not any(each.attempts for each in self.sent)
        )

    def send_next(self, now: float) -> Entry:
        """Take the row to be sent now; `has_next` has said that there is one."""
        entry = (self._ready or self._suspects).popleft()
        entry.stage, entry.started = Stage.SENT, False
        self.sent.add(entry)
        if self.away and len(self.sent) >= self._tries:
            self._due = now + _PATIENCE
        return entry

    # -- what came -----------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Note that the service is there."""
        self.away, self.news = False, now
        self._pauses.reset()

    def not_heard(self, now: float, asked: float) -> None:
        """Note that the service is away, or busy and asks for so many seconds."""
        if not self.away or not self.sent:
            self.away, self._tries = True, 1
            self._due = now + self._pauses.next(min(asked, _LONGEST_ASKED))

    def forget(self, entry: Entry) -> None:
        """Let go of a row, which is over."""
        entry.stage, entry.inner = Stage.OVER, None
        self.mine.pop(entry.key, None)
        self.sent.discard(entry)

    def forget_unsent(self) -> list[Entry]:
        """Let go of all that was not sent, and return those with a future."""
        lost = [
            each
            for each in self.mine.values()
            if each.stage in (Stage.QUEUED, Stage.HELD) and each.id
        ]
        for each in lost:
            self.forget(each)
        self._ready.clear()
        self._suspects.clear()
        self._paused.clear()
        return lost

    def has_rows(self) -> bool:
        """Tell whether there are rows that nobody else may take."""
        own = self.mine or self.sent or self.came
        return bool(own or self._ready or self._suspects or self._paused)

    # -- when ----------------------------------------------------------------------------------

    def can_claim(self, now: float, *, closing: bool) -> bool:
        """Tell whether there may be rows that this session may claim now."""
        if closing:
            return self.waiting and bool(self.mine)
        return self.waiting or self.share(1, now) > 0

    def next_due(self, now: float) -> float | None:
        """Return when there may be something to send or to claim; None: that depends on news."""
        times = [self._paused[0][0]] if self._paused else []
        if self.orphans:
            times.append(self._next_share)
        if self.away and (self._ready or self._suspects or self.waiting or self.orphans):
            times.append(self._due)
        # What is due and was not done waits for something else.
        return min((each for each in times if each > now), default=None)

    def patience(self, now: float) -> float | None:
        """Return how long an end waits for news; None: for as long as what runs takes."""
        if self.came or any(each.started for each in self.sent):
            return None
        return self.news + self._linger - now
