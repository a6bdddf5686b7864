"""Rows 55 to 59 of the matrix: an outbox whose programs, disk and service fail."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid_compute import OutboxExecutor, RemoteExecutor, remote_task
from hybrid_compute.errors import OutboxFull, OutcomeUnknown
from hybrid_compute.executors._outbox_desk import Desk
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.executors._outbox_forms import Forms, OutboxEntry
from tests.executors.outbox_fakes import Service, outbox, rows
from tests.server.conftest import ROOT, SECRET, Served

pytestmark = pytest.mark.timeout(120)

echo, note = remote_task("echo"), remote_task("note")
PAUSE = threading.Event()  # never set


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls"


@contextmanager
def program(*args):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.outbox_programs", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TOKEN": SECRET},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process, line=""):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def arguments(path):
    file = OutboxFile(path, None)
    try:
        assert file.read("PRAGMA integrity_check") == [("ok",)]
        return [OutboxEntry.of(each, Forms()).arguments()[0][0] for each in Desk(file).rows()]
    finally:
        file.close()


@contextmanager
def served(*options, **more):
    made = Served("tests.server.work:KEYED", *options, **more)
    try:
        yield made
    finally:
        made.end()


def remote(port):
    return RemoteExecutor(f"http://127.0.0.1:{port}/compute", token=SECRET)


def left(path, count):
    """Leave calls in a file, as a program does that ends while the service is away."""
    service = Service()
    service.away = True
    ex = OutboxExecutor(service, path, linger=0)
    ex.map(echo, range(count))
    ex.shutdown()


def test_row_55_what_was_acknowledged_survives_fifteen_kills_in_the_midst_of_commits(path):
    acknowledged = []
    with program("submit_until_killed", path) as process:
        for number in range(15):
            tell(process, number)
            said = [process.stdout.readline().strip() for _ in range(2)]
            pid = int(next(each for each in said if each != "begun"))
            for _ in range(random.randrange(1, 30)):
                acknowledged.append(process.stdout.readline().strip())
            PAUSE.wait(random.uniform(0, 0.002))  # not always at the same step
            os.kill(pid, signal.SIGKILL)
            while (line := process.stdout.readline().strip()) != "dead":
                acknowledged.append(line)
    found = arguments(path)
    assert len(acknowledged) >= 15
    assert set(acknowledged) - set(found) == set()
    assert len(found) == len(set(found))
    assert len(found) <= len(acknowledged) + 15  # one that was not told yet, for each kill


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of half a megabyte; that takes root, which this machine and CI have."""
    where = tmp_path / "disk"
    where.mkdir()
    options = ("-o", "size=512k,mode=0700")
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_row_56_a_full_disk_is_told_at_submit_and_costs_no_row(tiny_disk, caplog):
    path = tiny_disk / "calls"
    service = Service()
    service.away = True
    futures = []
    with outbox(path, service) as ex:
        with pytest.raises(OutboxFull):
            for number in range(1000):
                futures.append(ex.submit(echo, f"{number} {'x' * 2000}"))
        assert len(futures) > 20
    assert not [each for each in futures if not each.done()]
    # The disk is full still. What is there can be read, and all of it was acknowledged.
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM rows").fetchone() == (len(futures),)
    connection.close()
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    service = Service()
    with outbox(path, service) as ex:
        for _ in futures:
            assert service.arrived.acquire(timeout=30)
        ex.submit(echo, 1).result(30)
    assert {args for _, args in service.came} == {
        *((f"{number} {'x' * 2000}",) for number in range(len(futures))),
        (1,),
    }


def test_row_57_two_processes_deliver_each_row_once_and_share_them(path):
    left(path, 2000)
    with program("drain", path) as one, program("drain", path) as two:
        for each in (one, two):
            assert each.stdout.readline() == "ready\n"
        for each in (one, two):
            tell(each)
        file = OutboxFile(path, None)
        while Desk(file).counts() != {"delivered": 2000}:
            PAUSE.wait(0.01)
        file.close()
        for each in (one, two):
            tell(each)
        done = [[int(line) for line in each.stdout] for each in (one, two)]
    # Each once. How much each of them got is left to chance: on a busy machine one may get all.
    assert sorted(done[0] + done[1]) == list(range(2000))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_row_57_what_a_dead_or_stopped_process_had_claimed_is_taken_over(path, how):
    left(path, 3)
    with program("hold", path) as process:
        assert process.stdout.readline() == "holds\n"
        service = Service()
        with outbox(path, service, lease=1.0):
            os.kill(process.pid, how)
            for _ in range(3):
                assert service.arrived.acquire(timeout=60)
    assert sorted(args[0] for _, args in service.came) == [0, 1, 2]


def test_row_58_a_row_that_kills_its_service_is_put_aside_and_the_others_arrive(path):
    from hybrid_compute.errors import RemoteConnectionLost

    def answer(item):
        if item.args == ("poison",):
            raise RemoteConnectionLost("the service died of it", may_have_run=True)
        return item.args[0]

    with outbox(path, Service(answer), max_attempts=3) as ex:
        poison = ex.submit(echo, "poison")
        assert [each.result(60) for each in [ex.submit(echo, n) for n in range(100)]] == [
            *range(100)
        ]
        assert poison.exception(60).may_have_run
        assert [each.state for each in ex.dead()] == ["dead"]


def test_a_client_that_was_killed_finds_the_answer_of_the_one_effect(path, tmp_path):
    effects, gate = tmp_path / "effects", tmp_path / "gate"
    with served() as server:
        with program("deliver", path, server.port, effects, gate) as process:
            assert process.stdout.readline() == "submitted\n"
            while not effects.exists():
                PAUSE.wait(0.005)
            process.kill()
        gate.touch()
        with OutboxExecutor(remote(server.port), path) as ex:
            while not (found := list(ex.results(keep=True))):
                PAUSE.wait(0.01)
            assert [each.result() for each in found] == [1]
            assert [each.task for each in ex.results()] == ["note"]
    assert effects.read_text() == "x"
    assert rows(path) == []


def test_a_server_that_was_killed_between_receipt_and_answer_does_not_run_a_call_twice(
    path, tmp_path
):
    effects, gate = tmp_path / "effects", tmp_path / "gate"
    keep = ("--remember", str(tmp_path / "memory"))
    with served(*keep) as server:
        port = server.port
        with OutboxExecutor(remote(port), path) as ex:
            future = ex.submit(note, str(effects), str(gate))
            while not effects.exists():
                PAUSE.wait(0.005)
            os.kill(server.process.pid, signal.SIGKILL)
            server.end()
            with served(*keep, port=port):
                assert isinstance(future.exception(60), OutcomeUnknown)
                (entry,) = ex.dead()
                assert entry.attempts == 2
                other = ex.submit(note, str(tmp_path / "other"))
                assert other.result(60) == 1
    assert effects.read_text() == "x"


def test_effects_are_counted_once_while_the_server_is_killed_again_and_again(path, tmp_path):
    keep = ("--remember", str(tmp_path / "memory"))
    names = [str(tmp_path / f"effect-{number}") for number in range(150)]
    server = Served("tests.server.work:KEYED", *keep)
    port = server.port
    try:
        with OutboxExecutor(remote(port), path, linger=60) as ex:
            futures = [ex.submit(note, each) for each in names[:100]]
            for kill in range(2):
                while sum(map(os.path.exists, names)) < 25 * (kill + 1):
                    PAUSE.wait(0.002)
                os.kill(server.process.pid, signal.SIGKILL)
                server.end()
                futures += [ex.submit(note, each) for each in names[100 + 25 * kill :][:25]]
                server = Served("tests.server.work:KEYED", *keep, port=port)
            errors = [each.exception(60) for each in futures]
    finally:
        server.end()
    assert {type(each) for each in errors} <= {type(None), OutcomeUnknown}
    assert sum(each is None for each in errors) > 50
    for name, error in zip(names, errors, strict=True):
        size = Path(name).stat().st_size if os.path.exists(name) else 0
        assert size == 1 if error is None else size <= 1


def test_what_a_program_has_submitted_is_delivered_before_it_exits(path, tmp_path):
    effects = tmp_path / "effects"
    with served() as server:
        with program("leave", path, server.port, effects) as process:
            assert process.wait(60) == 0
    assert effects.read_text() == "x" * 5
    assert rows(path) == []


def test_a_program_exits_though_the_service_is_away(path):
    with program("leave", path, 1, "/nowhere") as process:
        assert process.wait(60) == 0
    assert [each[1:] for each in rows(path)] == [("pending", 0)] * 5


def test_a_pickled_call_takes_effect_once_too(path, tmp_path):
    effects, key = tmp_path / "effects", "0123456789abcdef" * 4

    def effect():
        with effects.open("a") as file:
            file.write("x")
        return {effects.name}

    with served("--allow-pickle", HYBRID_COMPUTE_SIGNING_KEY=key) as server:
        url = f"http://127.0.0.1:{server.port}/compute"
        signing = RemoteExecutor(url, token=SECRET, signing_key=key)
        with OutboxExecutor(signing, path, allow_pickle=True, keep_results=True) as ex:
            assert ex.submit(effect).result(60) == {"effects"}
            with sqlite3.connect(path) as connection:  # as if the answer had been lost
                connection.execute("UPDATE rows SET state='pending', owner=NULL, outcome=NULL")
            connection.close()
            ex.retry()  # looks for it
            while not (found := list(ex.results())):
                PAUSE.wait(0.01)
            assert found[0].result() == {"effects"}
    assert effects.read_text() == "x"
