"""The file of an outbox: where it may be, whose it is, who has its rows."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from hybrid_compute import OutboxExecutor, errors
from hybrid_compute._durable import is_on_network
from hybrid_compute.errors import OutboxError
from hybrid_compute.executors._outbox_desk import Desk
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.executors._outbox_lives import Lives, bury_ended
from hybrid_compute.executors._outbox_table import Draft, Verdict, new_key
from hybrid_compute.executors._outbox_verdicts import Pauses

from .outbox_fakes import Service, rows

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Session:
    """One user of a file, as a process of its own would be."""

    def __init__(self, path: Path, clock=None, lease: float = 10.0) -> None:
        self.file = OutboxFile(path, 2**20)
        self.lives = Lives(self.file, lease, clock=clock or Clock())

    def add(self, count: int = 1) -> list[Draft]:
        drafts = [
            Draft(new_key(), "t", b"{}", signed=False, idempotent=False) for _ in range(count)
        ]
        self.file.add(drafts)
        return drafts

    def claim(self, count, orphans=0):
        others, own = self.file.claim(count, orphans=orphans)
        return others + own

    def settle(self, row, state="delivered", *, owned=False):
        outcome = None if state == "claimed" else b"{}"
        verdict = Verdict(row.id, row.key, state, row.attempts, outcome, "", owned, row.turn)
        return self.file.settle([verdict]) == [True]

    def die(self) -> None:
        """As when it is killed: the kernel closes what it had open."""
        self.lives.forget()
        self.file.close()

    def end(self) -> None:
        self.file.release(self.file.session)
        self.lives.end()
        self.file.close()


@pytest.fixture
def session(path):
    made = []

    def make(**options) -> Session:
        made.append(Session(path, **options))
        return made[-1]

    yield make
    for each in made:
        each.die()


# -- the place ---------------------------------------------------------------------------------


def test_the_file_and_its_directory_are_for_this_user_alone(tmp_path):
    path = tmp_path / "new" / "deep" / "calls"
    old = os.umask(0)
    try:
        ex = OutboxExecutor(Service(), path, linger=0)
        modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        ex.shutdown()
    finally:
        os.umask(old)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {"calls", "calls-wal", "calls-shm"} < set(modes)
    assert set(modes.values()) == {0o600}
    assert [each.name for each in path.parent.iterdir()] == ["calls"]


def damaged(path):
    OutboxFile(path, None).close()
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database" * 1000),
        lambda path: path.write_bytes(b""),
        damaged,
    ],
    ids=["no database", "empty", "a page of nonsense"],
)
def test_a_damaged_file_is_moved_aside_once_and_never_deleted(path, spoil):
    spoil(path)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="damaged.*moved to .*corrupt-1"):
        OutboxExecutor(Service(), path)
    assert not path.exists()
    assert Path(f"{path}.corrupt-1").read_bytes() == before
    OutboxExecutor(Service(), path, linger=0).shutdown()
    path.write_bytes(b"once more")
    with pytest.raises(OutboxError, match="corrupt-2"):
        OutboxExecutor(Service(), path)
    assert Path(f"{path}.corrupt-1").read_bytes() == before


def of_another_program(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    path.chmod(0o600)


def of_another_version(path):
    OutboxFile(path, None).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()


def readable_by_others(path):
    OutboxFile(path, None).close()
    path.chmod(0o644)


def read_only(path):
    OutboxFile(path, None).close()
    path.chmod(0o400)


def a_link(path):
    path.symlink_to("/dev/null")


def a_directory(path):
    path.mkdir()


def in_a_public_directory(path):
    path.parent.chmod(0o777)


def of_another_user(path):
    OutboxFile(path, None).close()
    os.chown(path, 12345, -1)


def wal_of_another_user(path):
    OutboxFile(path, None).close()
    wal = Path(f"{path}-wal")
    wal.touch(0o600)
    os.chown(wal, 12345, -1)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_another_program, "is a database, but no outbox"),
        (of_another_version, "version 99.*knows version 1"),
        (readable_by_others, "mode 0644.*chmod 600"),
        (read_only, "is read-only: chmod 600"),
        (a_link, "no regular file"),
        (a_directory, "no regular file"),
        (in_a_public_directory, "mode 0777.*chmod 700"),
        (of_another_user, "belongs to the user 12345"),
        (wal_of_another_user, "calls-wal belongs to the user 12345"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_file_that_is_not_to_be_used_is_left_as_it_is(path, spoil, words):
    spoil(path)
    before = sorted((each.name, each.lstat()) for each in path.parent.iterdir())
    with pytest.raises(OutboxError, match=words) as caught:
        OutboxExecutor(Service(), path)
    assert caught.value.path == str(path)
    after = sorted((each.name, each.lstat()) for each in path.parent.iterdir())
    assert [(name, x.st_mode, x.st_size) for name, x in after] == [
        (name, x.st_mode, x.st_size) for name, x in before
    ]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutboxError, match="no directory"):
        OutboxExecutor(Service(), tmp_path / "file" / "calls")


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/local\\040disk rw - ext4 /dev/vdb rw
32 22 0:42 / /mnt rw - fuse.sshfs me@host: rw
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/var/lib", False),
        ("/home/me", True),
        ("/home/me/local disk/x", False),
        ("/homework", False),
        ("/mnt/x", True),
    ],
)
def test_a_path_on_another_machine_s_disk_is_found_out(path, network):
    assert is_on_network(Path(path), MOUNTS) is network


def test_an_outbox_on_a_network_file_system_is_refused(path, monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 0 0:1 / {tmp_path.resolve()} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr("hybrid_compute._durable._MOUNTS", mounts)
    with pytest.raises(OutboxError, match="network file system"):
        OutboxExecutor(Service(), path)
    assert not path.exists()


def test_the_errors_are_of_the_tree_and_travel():
    import pickle

    full = errors.OutboxFull("no room", path="/x")
    copy = pickle.loads(pickle.dumps(full))
    assert (type(copy), str(copy), copy.path) == (errors.OutboxFull, "no room", "/x")
    assert isinstance(full, (errors.ExecutorUnavailable, OSError))
    left = pickle.loads(pickle.dumps(errors.NotDelivered("later", path="/x", key="k")))
    assert (left.path, left.key) == ("/x", "k")


# -- who has a row -----------------------------------------------------------------------------


def test_rows_of_a_session_that_lives_are_its_own(session):
    one, two = session(), session()
    one.add(3)
    assert two.claim(10, orphans=10) == []
    assert two.lives.bury() == 0
    assert [each.id for each in one.claim(2, orphans=0)] == [1, 2]
    assert [each.id for each in one.claim(2, orphans=0)] == [3]


def test_rows_of_a_session_that_was_killed_are_free_at_once(session):
    one, two = session(), session()
    one.add(3)
    (row,) = one.claim(1, orphans=0)
    one.die()
    assert two.lives.bury() == 3
    assert [each.id for each in two.claim(10, orphans=10)] == [1, 2, 3]
    assert two.settle(row)


def test_the_end_of_a_session_leaves_no_file_behind(session, path):
    one, two = session(), session()
    one.die()
    two.lives.bury()
    two.end()
    file = OutboxFile(path, None)
    bury_ended(file)
    file.close()
    assert [each.name for each in path.parent.iterdir() if "live" in each.name] == []


def test_a_session_that_was_taken_for_dead_is_no_other_one_when_it_wakes_up(session):
    clock = Clock()
    looker, sleeper = session(clock=clock), session(clock=clock)
    sleeper.add()
    looker.lives.bury()
    clock.now += 10
    assert looker.lives.bury() == 1
    other = session(clock=clock)  # which comes when the last one has gone
    (draft,) = other.add()
    assert not sleeper.file.beat()
    assert not sleeper.file.remove([(draft.id, draft.key)], sync=True)
    sleeper.end()
    assert other.file.beat()
    assert other.file.remove([(draft.id, draft.key)], sync=True)


def test_a_session_that_stands_still_for_a_lease_is_taken_for_dead(session):
    clock = Clock()
    one, two = session(), session(clock=clock, lease=10)
    one.add(2)
    (row,) = one.claim(1, orphans=0)
    assert two.lives.bury() == 0
    clock.now += 9
    assert two.lives.bury() == 0
    clock.now += 1
    assert two.lives.bury() == 2
    (again, _) = two.claim(10, orphans=10)
    assert again.key == row.key
    # When it wakes up it finds that out, and can spoil nothing.
    assert not one.file.beat()
    assert not one.settle(row)
    assert one.file.remove([(row.id, row.key)], sync=True) == 0
    one.lives.renew()
    assert one.file.beat()
    assert two.settle(again)


def test_a_session_that_beats_keeps_its_rows_however_long_it_takes(session):
    clock = Clock()
    one, two = session(), session(clock=clock, lease=10)
    one.add()
    for _ in range(10):
        assert two.lives.bury() == 0
        clock.now += 9.9
        assert one.file.beat()


def test_a_session_without_rows_need_not_beat(session):
    clock = Clock()
    one, two = session(), session(clock=clock, lease=10)
    assert two.lives.bury() == 0
    clock.now += 1e6
    assert two.lives.bury() == 0
    one.add()
    assert two.lives.bury() == 0  # from now on it has a lease
    clock.now += 9
    assert two.lives.bury() == 0
    assert one.file.beat()


def test_the_wall_clock_decides_nothing(session, monkeypatch):
    one, two = session(), session()
    for now in (0.0, 4e9, -1e9, 1e12):
        monkeypatch.setattr("time.time", lambda now=now: now)
        (draft,) = one.add()
        assert two.lives.bury() == 0
        (row,) = one.claim(1, orphans=0)
        assert (row.id, row.submitted) == (draft.id, now)
    from hybrid_compute.executors._outbox_forms import Forms, OutboxEntry

    shown = [OutboxEntry.of(each, Forms()).submitted.year for each in Desk(one.file).rows()]
    assert shown == [1970, 2096, 1938, 1970]  # the last is no date


def test_an_outcome_that_its_session_did_not_hand_over_is_anybody_s(session):
    one, two = session(), session()
    one.add()
    (row,) = one.claim(1, orphans=0)
    assert one.settle(row, owned=True)
    desk = Desk(two.file)
    assert list(desk.rows("delivered", unowned=True)) == []
    assert desk.drop([row.id]) == 0
    one.die()
    two.lives.bury()
    assert [each.id for each in desk.rows("delivered", unowned=True)] == [row.id]
    assert desk.collect([(row.id, row.key)]) == 1


def test_two_users_of_one_new_file_both_get_it(path):
    import threading

    barrier = threading.Barrier(8)
    files = []

    def open_it():
        barrier.wait(30)
        files.append(OutboxFile(path, None))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(files) == 8
    for each in files:
        each.close()
    assert rows(path) == []
    assert [each.name for each in path.parent.iterdir()] == ["calls"]


def test_pauses_grow_and_are_left_to_chance():
    pauses = Pauses(0.1, 5.0)
    drawn = [pauses.next() for _ in range(2000)]
    assert max(drawn[:1]) <= 0.1
    assert 4 < max(drawn) <= 5
    assert min(drawn[100:]) < 0.5
    pauses.reset()
    assert pauses.next() <= 0.1
    assert pauses.next(at_least=7) == 7


def test_a_copy_of_a_file_gives_its_calls_the_same_keys_and_new_ones_others(
    session, path, tmp_path
):
    one = session()
    (draft,) = one.add()
    one.end()
    copy = tmp_path / "restored"
    shutil.copy(path, copy)
    two = Session(copy)
    (later,) = two.add()
    assert [each.key for each in Desk(two.file).rows()] == [draft.key, later.key]
    assert later.key != draft.key
    two.end()
