"""A state machine over the rows of one file, with sessions that come, go, die and stand still.

It holds a model of each row beside the file, and compares the two after each step. What it looks
for are the invariants that `_outbox_file` states.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from hybrid_compute.executors._outbox_desk import Desk

from .test_outbox_file import Clock, Session


class Rows(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    @initialize(target=sessions)
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "calls"
        self.clock = Clock()
        self.alive: set[Session] = set()
        self.asleep: set[Session] = set()  # overtaken, and not awake again
        # state, owner and attempts by id, and keys
        self.model: dict[int, list] = {}
        self.keys: dict[int, str] = {}
        self.claims: dict[Session, dict[int, object]] = {}
        self.looker = self._open()
        return self._open()

    def _open(self) -> Session:
        made = Session(self.path, clock=self.clock, lease=10)
        self.alive.add(made)
        self.claims[made] = {}
        return made

    @precondition(lambda self: len(self.alive) < 4)
    @rule(target=sessions)
    def another(self):
        return self._open()

    def _freed(self, session: Session) -> None:
        for row in self.model.values():
            if row[1] is session:
                row[1] = None
                if row[0] == "claimed":
                    row[0] = "pending"

    @rule(session=sessions, count=st.integers(1, 4))
    def add(self, session, count):
        if session in self.asleep:
            return
        for draft in session.add(count):
            assert draft.id not in self.model
            self.model[draft.id] = ["pending", session, 0]
            self.keys[draft.id] = draft.key

    @rule(session=sessions, count=st.integers(1, 5), orphans=st.integers(0, 3))
    def claim(self, session, count, orphans):
        if session in self.asleep:
            return
        found = session.file.claim(count, orphans=orphans)
        assert len(found[0]) <= orphans
        assert len(found[0]) + len(found[1]) <= count
        for rows, of in zip(found, (None, session), strict=True):
            assert rows == sorted(rows)
            for row in rows:
                assert self.model[row.id] == ["pending", of, row.attempts]
                self.model[row.id][:2] = "claimed", session
                self.claims[session][row.id] = row

    @rule(
        session=sessions,
        which=st.integers(0, 3),
        state=st.sampled_from(["delivered", "failed", "dead", "claimed"]),
        owned=st.booleans(),
    )
    def settle(self, session, which, state, owned):
        held = list(self.claims[session].values())
        if which >= len(held) or session not in self.alive:
            return
        row = held[which]
        owned = owned or state == "claimed"
        had_it = self.model.get(row.id, [None, None])[:2] == ["claimed", session]
        had_it = had_it and self.keys[row.id] == row.key
        row = row._replace(attempts=row.attempts + (state == "claimed"))
        assert session.settle(row, state, owned=owned) == had_it
        if had_it:
            self.model[row.id] = [state, session if owned else None, row.attempts]
        if state == "claimed" and had_it:
            self.claims[session][row.id] = row
        else:
            del self.claims[session][row.id]

    @rule(session=sessions, which=st.integers(0, 5))
    def remove(self, session, which):
        if which >= len(self.model) or session not in self.alive:
            return
        identity = sorted(self.model)[which]
        mine = self.model[identity][1] is session
        assert session.file.remove([(identity, self.keys[identity])], sync=True) == mine
        if mine:
            del self.model[identity]

    @rule(session=consumes(sessions))
    def kill(self, session):
        session.die()
        self.alive.discard(session)
        self.asleep.discard(session)

    @rule(session=consumes(sessions))
    def close(self, session):
        session.end()
        self.alive.discard(session)
        self.asleep.discard(session)
        self._freed(session)

    @rule()
    def look_around(self):
        dead = set(self.claims) - self.alive
        self.looker.lives.bury()
        for each in dead:
            self._freed(each)

    @rule(session=sessions)
    def stand_still(self, session):
        """All others beat throughout a lease."""
        if session in self.asleep:
            return
        self.look_around()
        self.clock.now += 10
        for each in self.alive - {session, self.looker} - self.asleep:
            assert each.file.beat()
        busy = any(row[1] is session for row in self.model.values())
        self.look_around()
        if busy:
            self._freed(session)
            self.asleep.add(session)

    @rule(session=sessions)
    def wake_up(self, session):
        if session in self.asleep:
            assert not session.file.beat()
            session.lives.renew()
            self.asleep.discard(session)

    @rule(which=st.integers(0, 5), drop=st.booleans())
    def desk(self, which, drop):
        if which >= len(self.model):
            return
        identity = sorted(self.model)[which]
        state, owner, _ = self.model[identity]
        desk = Desk(self.looker.file)
        if drop:
            assert desk.drop([identity]) == (owner is None)
            if owner is None:
                del self.model[identity]
        else:
            can = owner is None and state in ("dead", "failed")
            assert desk.retry([identity]) == can
            if can:
                self.model[identity] = ["pending", None, 0]

    @invariant()
    def the_file_has_what_was_acknowledged(self):
        if not hasattr(self, "model"):
            return
        found = {each.id: (each.state, each.attempts) for each in Desk(self.looker.file).rows()}
        assert found == {key: (each[0], each[2]) for key, each in self.model.items()}
        assert {each.id: each.key for each in Desk(self.looker.file).rows()} == {
            each: self.keys[each] for each in self.model
        }
        assert self.looker.file.read("PRAGMA integrity_check") == [("ok",)]

    def teardown(self):
        if hasattr(self, "folder"):
            for each in self.alive:
                each.die()
            self.folder.cleanup()


Rows.TestCase.settings = hypothesis.settings(
    max_examples=25, stateful_step_count=30, derandomize=False
)
TestRows = Rows.TestCase
