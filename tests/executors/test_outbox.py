"""OutboxExecutor with a service that is in the same process: futures, ends, outcomes."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, wait
from contextvars import Context, ContextVar

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, OutboxExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    NotDelivered,
    OutboxError,
    OutboxFull,
    OutcomeUnknown,
    PayloadTooLarge,
    PlacementError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskEncodeError,
    TaskTimeout,
)
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.protocol.signing import SigningKey

from .outbox_fakes import Service, outbox, rows

pytestmark = pytest.mark.timeout(60)

echo = remote_task("echo")
KEY = SigningKey("0123456789abcdef" * 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls"


def lost(_):
    raise RemoteConnectionLost("it is gone", may_have_run=True)


def away():
    service = Service()
    service.away = True
    return service


# -- in ----------------------------------------------------------------------------------------


def test_calls_go_to_the_service_and_their_results_come_back(path):
    with outbox(path) as ex:
        futures = [ex.submit(echo, each) for each in range(100)]
        assert [each.result(30) for each in futures] == list(range(100))
    assert rows(path) == []


def test_values_that_json_lacks_come_back_as_they_were(path):
    value = {1: b"\0", "t": (1, {2}), "n": float("inf")}
    with outbox(path) as ex:
        assert ex.submit(echo, value).result(30) == value
        assert ex.submit(echo, key=1, value=2).exception(30)  # the names are the task's


def test_a_call_is_on_the_disk_when_submit_returns(path):
    with outbox(path, away()) as ex:
        levels, transact = {}, ex._file.transact

        def look(do, *, sync, room=1.25):
            def looking(connection):
                levels[sync, room] = connection.execute("PRAGMA synchronous").fetchone()[0]
                return do(connection)

            return transact(looking, sync=sync, room=room)

        ex._file.transact = look
        ex.submit(echo, 1)
        assert [each[0] for each in rows(path)] == [1]
        assert levels[True, 1.0] == 2  # the commit waits for the disk
        assert ex._file.read("PRAGMA journal_mode") == [("wal",)]


def test_callers_that_come_together_share_a_commit(path):
    with outbox(path, away()) as ex:
        file = ex._file
        queued, commits = threading.Semaphore(0), []

        class Queue(deque):
            def extend(self, drafts):
                super().extend(drafts)
                queued.release()

        insert = file._insert
        file._queue = Queue()
        file._insert = lambda batch: (commits.append(len(batch)), insert(batch))
        threads = [threading.Thread(target=ex.submit, args=(echo, each)) for each in range(16)]
        with file._lock:
            for each in threads:
                each.start()
            for _ in threads:
                assert queued.acquire(timeout=30)
        for each in threads:
            each.join(30)
        assert commits == [16]
        assert len(rows(path)) == 16


def test_a_map_is_written_many_rows_at_once_and_keeps_its_order(path):
    with outbox(path) as ex:
        commits = []
        add = ex._file.add
        ex._file.add = lambda drafts: (commits.append(len(drafts)), add(drafts))
        assert list(ex.map(echo, range(1200))) == list(range(1200))
        assert commits == [500, 500, 200]
        assert list(ex.map(echo, range(10), buffersize=2)) == list(range(10))


@pytest.mark.parametrize(
    "fn", [print, task(local_only=True, name="echo")(print)], ids=["plain", "local_only"]
)
def test_only_what_may_be_kept_goes_into_the_file(path, fn):
    with outbox(path) as ex, pytest.raises(PlacementError):
        ex.submit(fn, 1)
    assert rows(path) == []


def test_what_is_sensitive_is_neither_sent_nor_written_down(path):
    from hybrid_compute import Sensitive

    service = away()
    with outbox(path, service) as ex:
        with pytest.raises(PlacementError):
            ex.submit(echo, Sensitive("a secret"))
        with pytest.raises(PlacementError):
            ex.map(echo, [1, Sensitive("a secret")])
        hashed = remote_task("echo", before_remote=lambda value: (len(value),))
        ex.submit(hashed, "another secret")
        ex.map(hashed, ["another secret"])
        found = [entry.arguments() for entry in ex.pending()]
    assert len(found) == 2
    assert "secret" not in str(found)
    assert b"secret" not in b"".join(each.read_bytes() for each in path.parent.iterdir())


def test_a_generator_is_refused(path):
    @task
    def numbers():
        yield 1

    with outbox(path) as ex:
        with pytest.raises(PlacementError, match="streams"):
            ex.submit(numbers)


def test_what_cannot_be_written_fails_its_own_future(path):
    with outbox(path) as ex:
        with pytest.raises(TaskEncodeError, match=r"\$\.args\[0\]"):
            ex.submit(echo, object()).result(30)
        with pytest.raises(PayloadTooLarge):
            ex.submit(echo, "x" * 2**25).result(30)
        assert ex.submit(echo, 1).result(30) == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_bytes": 1}, "max_bytes=1"),
        ({"max_attempts": 0}, "max_attempts=0"),
        ({"linger": -1}, "linger=-1"),
        ({"keep_results": "x"}, "keep_results='x'"),
        ({"lease": 0}, "lease=0"),
        ({"allow_pickle": True}, "signing_key"),
    ],
)
def test_a_wrong_setting_is_named(path, options, word):
    with pytest.raises(ConfigurationError, match=word):
        OutboxExecutor(Service(), path, **options)
    with pytest.raises(ConfigurationError, match="neither a URL"):
        OutboxExecutor(InlineExecutor(), path)
    with pytest.raises(ConfigurationError, match="path=None"):
        OutboxExecutor(Service(), None)


# -- futures -----------------------------------------------------------------------------------


def test_a_pending_call_can_be_cancelled_and_is_never_delivered(path):
    service = away()
    with outbox(path, service) as ex:
        first = ex.submit(echo, 0)  # with it the service is looked for
        future = ex.submit(echo, 1)
        assert not future.running()
        assert future.cancel()
        assert future.cancelled()
        assert wait([future], 30).done
        with pytest.raises(CancelledError):
            future.result()
        assert len(rows(path)) == 1
        service.away = False
        assert first.result(30) == 0
    assert [each[1] for each in service.came] == [(0,)]


def test_a_call_that_the_service_has_cannot_be_cancelled(path):
    service = Service(lambda _: Service.HOLD)
    with outbox(path, service) as ex:
        future = ex.submit(echo, 1)
        assert service.arrived.acquire(timeout=30)
        assert future.running()
        assert not future.cancel()
        assert ex.counts() == (0, 1)
        assert ex.load() == 1 / 8
        service.held[0].succeed("done")
        assert future.result(30) == "done"


def test_a_deadline_takes_a_call_that_was_not_sent_out_of_the_file(path):
    service = away()
    with outbox(path, service) as ex:
        ex.submit(echo, 0)
        with pytest.raises(TaskTimeout):
            ex.submit(remote_task("echo", timeout=0.2), 1).result(30)
        gone = threading.Event()
        # The alarm fails the future first, and takes the row back then.
        while len(rows(path)) > 1 and not gone.wait(0.01):
            pass


def test_callbacks_may_submit_and_shut_down(path):
    ended = threading.Event()
    more = []
    with outbox(path) as ex:

        def again(_):
            more.append(ex.submit(echo, 2))
            ex.shutdown()
            ended.set()

        ex.submit(echo, 1).add_done_callback(again)
        assert ended.wait(30)
        assert more[0].result(30) == 2


def test_after_shutdown_nothing_is_taken(path):
    with outbox(path) as ex:
        pass
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        ex.submit(echo, 1)
    with pytest.raises(RuntimeError, match="is shut down"):
        list(ex.pending())
    ex.shutdown()


def test_an_executor_that_is_dropped_delivers_and_ends(path):
    service = Service()
    ex = OutboxExecutor(service, path)
    future = ex.submit(echo, 1)
    thread = ex._courier.thread
    del ex
    gc.collect()
    assert future.result(30) == 1
    thread.join(30)
    assert not thread.is_alive()
    assert service.closed


def test_cancel_futures_removes_what_was_not_sent(path):
    service = away()
    ex = OutboxExecutor(service, path, linger=0)
    futures = [ex.submit(echo, each) for each in range(20)]
    ex.shutdown(cancel_futures=True)
    assert all(each.done() for each in futures)
    assert sum(each.cancelled() for each in futures) >= 19  # one may have been tried
    assert len(rows(path)) <= 1


def test_it_is_a_member_of_a_fleet(path):
    service = Service()
    with HybridExecutor(executors={"outbox": OutboxExecutor(service, path, linger=0)}) as ex:
        assert ex.submit(echo, 1).result(30) == 1  # nobody else has it
        assert ex.options(executor="outbox").submit(echo, 2).result(30) == 2
        assert list(ex.options(executor="outbox").map(echo, range(5))) == list(range(5))
        with pytest.raises(PlacementError):
            ex.options(executor="outbox").submit(print).result(30)
    assert service.closed
    assert len(service.came) == 7


PLACE = ContextVar("place")
SECRET = ContextVar("secret")


def listing(service, path, **options):
    box = OutboxExecutor(service, path, linger=0, **options)
    return HybridExecutor(executors={"outbox": box}, carry=[PLACE, SECRET])


def submit_from_a_context(ex, fn, *args):
    def submit():
        PLACE.set(("here", b"1"))
        SECRET.set(object())  # JSON has no form for it
        return ex.options(executor="outbox").submit(fn, *args)

    return Context().run(submit)


def test_context_variables_that_are_listed_go_along_with_a_call(path):
    service = Service(lambda item: item.variables)
    with listing(service, path) as ex:
        future = submit_from_a_context(ex, echo, 1)
        assert future.result(30) == {"place": ("here", b"1")}
        assert Context().run(ex.options(executor="outbox").submit, echo, 1).result(30) is None


def test_they_go_along_whoever_delivers_the_call(path):
    with listing(away(), path) as ex:
        future = submit_from_a_context(ex, echo, 1)
    assert isinstance(future.exception(30), NotDelivered)
    service = Service(lambda item: item.variables)
    with outbox(path, service) as ex:
        assert service.arrived.acquire(timeout=30)
        ex.submit(echo, "after it").result(30)
        (entry,) = ex.results()
        assert entry.result() == {"place": ("here", b"1")}
        assert entry.arguments() == ((1,), {})


def test_a_function_that_is_kept_signed_leaves_them_behind(path):
    service = Signing(lambda item: item.variables)
    with listing(service, path, allow_pickle=True) as ex:
        future = submit_from_a_context(ex, len, "abc")
        assert future.result(30) is None


@pytest.mark.parametrize("options", [{"retries": 3}, {}], ids=["with retries", "plain"])
def test_the_end_of_a_fleet_is_bounded_though_the_service_is_away(path, options):
    with HybridExecutor(executors={"outbox": OutboxExecutor(away(), path, linger=0.05)}) as ex:
        futures = [ex.options(executor="outbox", **options).submit(echo, n) for n in range(3)]
    assert all(isinstance(each.exception(0), NotDelivered) for each in futures)
    assert [each[1] for each in rows(path)] == ["pending"] * 3  # a retry has not made more of them
    service = Service()
    with outbox(path, service) as ex:
        for _ in futures:
            assert service.arrived.acquire(timeout=30)


def test_a_fleet_that_ends_still_delivers_what_it_can(path):
    with HybridExecutor(executors={"outbox": OutboxExecutor(Service(), path)}) as ex:
        futures = [
            ex.options(executor="outbox", retries=1).submit(echo, each) for each in range(100)
        ]
    assert [each.result(0) for each in futures] == list(range(100))


def test_a_policy_puts_nothing_there_that_the_service_may_not_have(path):
    @task
    def here(value):
        return value

    from hybrid_compute import RemoteExecutor
    from hybrid_compute.items import WorkItem
    from hybrid_compute.tasks import TaskOptions

    pinned = TaskOptions(executor="outbox")
    for tasks, plain, named in ((None, False, True), (["here"], True, True), ([], False, False)):
        remote = RemoteExecutor("http://127.0.0.1:1/compute", tasks=tasks)
        with OutboxExecutor(remote, path, linger=0) as ex:
            assert ex.can_run(WorkItem(here, (1,))) is plain
            assert ex.can_run(WorkItem(here, (1,), options=pinned)) is named
            assert ex.can_run(WorkItem(remote_task("there"))) is (tasks is None)
            assert not ex.can_run(WorkItem(print))


def test_a_forked_child_says_what_to_do_and_harms_nothing(path):
    with outbox(path, away()) as ex:
        ex.submit(echo, 1)
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                ex.submit(echo, 2)
            except BaseException as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert b"before a fork" in os.read(read, 1000)
        os.close(read)
        os.close(write)
        ex.submit(echo, 3)
        assert len(rows(path)) == 2


# -- the service goes and comes ----------------------------------------------------------------


def test_calls_wait_for_a_service_that_is_away_and_that_is_no_attempt(path):
    service = away()
    with outbox(path, service) as ex:
        futures = [ex.submit(echo, each) for each in range(50)]
        for _ in range(2):
            assert service.arrived.acquire(timeout=30)
        assert not any(each.done() for each in futures)
        assert {each[2] for each in rows(path)} == {0}
        assert len(list(ex.pending())) == 50
        service.away = False
        assert [each.result(30) for each in futures] == list(range(50))


def test_a_service_that_is_away_is_asked_with_one_call_at_a_time(path):
    service = away()
    asked = []
    real = service.execute
    service.execute = lambda item: (asked.append(item.args), real(item))
    with outbox(path, service) as ex:
        for each in range(30):
            ex.submit(echo, each)
        for _ in range(3):
            assert service.arrived.acquire(timeout=30)
        assert set(asked) == {(0,)}


def test_a_first_call_that_takes_long_does_not_keep_the_others_waiting(path):
    service = Service(lambda item: Service.HOLD if item.args == ("long",) else item.args[0])
    with outbox(path, service) as ex:
        long = ex.submit(echo, "long")
        assert service.arrived.acquire(timeout=30)
        assert ex.submit(echo, 1).result(30) == 1
        assert not long.done()
        service.held[0].succeed("at last")
        assert long.result(30) == "at last"


def test_shutdown_leaves_the_calls_to_the_next_run_whose_outcomes_are_collected(path):
    ex = OutboxExecutor(away(), path, linger=0.05)
    futures = [ex.submit(echo, each) for each in range(40)]
    begun = time.monotonic()
    ex.shutdown()
    assert time.monotonic() - begun < 20
    for each in futures:
        error = each.exception(0)
        assert isinstance(error, NotDelivered)
        assert error.path == str(path)
    service = Service()
    with outbox(path, service) as ex:
        for _ in range(40):
            assert service.arrived.acquire(timeout=30)
        ex.submit(echo, "after them").result(30)
        found = list(ex.results())
        assert [each.result() for each in found] == list(range(40))
        assert [each.key for each in found] == [each.exception().key for each in futures]
        assert found[3].arguments() == ((3,), {})
        assert list(ex.results()) == []
    assert rows(path) == []
    # What is known of a call is the same in both runs.
    assert {key for key, _ in service.came[:40]} == {each.exception().key for each in futures}


def test_an_outcome_whose_handling_failed_is_kept(path):
    ex = OutboxExecutor(away(), path, linger=0)
    for each in range(3):
        ex.submit(echo, each)
    ex.shutdown()
    service = Service()
    with outbox(path, service) as ex:
        ex.submit(echo, "last").result(30)
        got = []
        with pytest.raises(ZeroDivisionError):
            for entry in ex.results():
                got.append(entry.result())
                if len(got) == 2:
                    raise ZeroDivisionError
        assert [each.result() for each in ex.results(keep=True)] == [1, 2]
        assert [each.result() for each in ex.results()] == [1, 2]


def test_results_are_kept_for_later_if_asked_for(path):
    with outbox(path, keep_results=True) as ex:
        assert ex.submit(echo, 1).result(30) == 1
        assert [each.result() for each in ex.results(keep=True)] == [1]
    with outbox(path) as ex:
        (entry,) = ex.results()
        assert (entry.state, entry.result(), entry.exception()) == ("delivered", 1, None)


def test_an_error_of_the_task_is_an_outcome(path):
    def fail(_):
        raise RemoteTaskError("why", status=500, type_name="ValueError")

    with outbox(path, Service(fail), keep_results=True) as ex:
        with pytest.raises(RemoteTaskError, match="why"):
            ex.submit(echo, 1).result(30)
        (entry,) = ex.results()
        assert entry.state == "failed"
        assert entry.trouble == "RemoteTaskError: why"
        error = entry.exception()
        assert type(error) is RemoteTaskError
        assert (error.status, error.type_name, str(error)) == (500, "ValueError", "why")


def test_a_row_that_never_gets_through_becomes_a_dead_letter_and_blocks_nobody(path):
    service = Service(lambda item: lost(item) if item.args[0] == "poison" else item.args[0])
    with outbox(path, service, max_attempts=3) as ex:
        poison = ex.submit(echo, "poison")
        others = [ex.submit(echo, each) for each in range(30)]
        assert [each.result(30) for each in others] == list(range(30))
        error = poison.exception(30)
        assert isinstance(error, RemoteConnectionLost)
        assert "dead letters" in error.__notes__[0]
        (entry,) = ex.dead()
        assert (entry.state, entry.attempts, entry.task) == ("dead", 3, "echo")
        assert "it is gone" in entry.trouble
        assert list(ex.results()) == []
        keys = {key for key, args in service.came if args == ("poison",)}
        assert len(keys) == 1  # the same call, however often
        service.answer = lambda item: item.args[0]
        assert ex.retry(entry.id) == 1
        ex.submit(echo, "after it").result(30)
        while not (found := list(ex.results())):
            assert service.arrived.acquire(timeout=30)
        assert found[0].result() == "poison"
        assert {key for key, args in service.came if args == ("poison",)} == keys


def test_rows_that_were_lost_are_sent_one_at_a_time_so_that_one_is_to_blame(path, monkeypatch):
    monkeypatch.setattr("hybrid_compute.executors._outbox_hands.pause_before", lambda attempts: 0)

    def answer(item):
        return None if item.args == ("first",) else Service.HOLD

    service = Service(answer)
    with outbox(path, service, max_attempts=8) as ex:
        ex.submit(echo, "first").result(30)
        assert service.arrived.acquire(timeout=30)
        futures = [ex.submit(echo, each) for each in range(5)]
        for _ in futures:
            assert service.arrived.acquire(timeout=30)
        for item in service.held:
            item.fail(RemoteConnectionLost("all at once", may_have_run=True))
        service.held.clear()
        for _ in futures:
            assert service.arrived.acquire(timeout=30)
            assert len(service.held) == 1
            item = service.held.pop()
            item.succeed(item.args[0])
        assert [each.result(30) for each in futures] == list(range(5))


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (RemoteBusy("full", retry_after=0.01), 0),
        (RemoteUnavailable("away"), 0),
        (RemoteConnectionLost("not sent", may_have_run=False), 0),
        (RemoteConnectionLost("sent", may_have_run=True), 1),
        (AuthError("who are you?", status=401), 1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_only_what_may_be_the_row_s_fault_is_counted(path, error, attempts):
    seen = []

    def answer(item):
        if not seen:
            seen.append(item)
            raise error
        return Service.HOLD

    service = Service(answer)
    with outbox(path, service, keep_results=True) as ex:
        future = ex.submit(echo, 1)
        for _ in range(2):
            assert service.arrived.acquire(timeout=30)
        assert rows(path) == [(1, "claimed", attempts)]
        service.held[0].succeed(None)
        future.result(30)
        assert [each.attempts for each in ex.results()] == [attempts]


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_call_whose_end_nobody_knows_runs_again_only_if_it_may(path, idempotent):
    def answer(item):
        if len(service.came) == 1:
            raise OutcomeUnknown("it may have run", status=409)
        return "done"

    service = Service(answer)
    with outbox(path, service) as ex:
        future = ex.submit(remote_task("echo", idempotent=idempotent), 1)
        if idempotent:
            assert future.result(30) == "done"
        else:
            assert isinstance(future.exception(30), OutcomeUnknown)
            (entry,) = ex.dead()
            assert ex.retry() == 1
            assert service.arrived.acquire(timeout=30)
            assert service.arrived.acquire(timeout=30)
            assert [each.id for each in ex.pending()] in ([], [entry.id])
    first, second = (key for key, _ in service.came)
    assert second == f"{first}.1"  # another call, for the service


def test_a_remote_executor_that_somebody_shuts_down_is_a_service_that_is_away(path):
    service = Service()
    with outbox(path, service) as ex:
        assert ex.submit(echo, 1).result(30) == 1
        service.closed = True
        future = ex.submit(echo, 2)
        ex.shutdown()
        assert isinstance(future.exception(), NotDelivered)
    assert [each[1] for each in rows(path)] == ["pending"]


# -- the disk ----------------------------------------------------------------------------------


def test_a_full_outbox_says_so_at_submit_and_goes_on_once_there_is_room(path):
    service = away()
    with outbox(path, service, max_bytes=2**17) as ex:
        futures = []
        with pytest.raises(OutboxFull, match="max_bytes") as caught:
            for each in range(1000):
                futures.append(ex.submit(echo, f"{each}" + "x" * 2000))
        assert isinstance(caught.value, OSError)
        assert caught.value.path == str(path)
        assert 20 < len(futures) < 100
        assert len(rows(path)) == len(futures)
        assert futures[-1].cancel()
        futures.pop()
        futures.append(ex.submit(echo, "it fits"))
        service.away = False
        assert [each.result(30)[:3] for each in futures][-1] == "it "
        assert ex.submit(echo, "y" * 2000).result(30) == "y" * 2000


def test_a_batch_that_does_not_fit_is_taken_as_far_as_it_does(path):
    with outbox(path, away(), max_bytes=2**17) as ex:
        with pytest.raises(OutboxFull):
            ex.map(echo, ["x" * 2000] * 200)
        assert 20 < len(rows(path)) < 100


def test_in_a_fleet_a_full_outbox_is_passed_over(path):
    @task(name="echo", idempotent=True)
    def here(value):
        return value

    from hybrid_compute.policy import Prefer

    with HybridExecutor(
        executors={"outbox": OutboxExecutor(away(), path, linger=0, max_bytes=2**16)},
        policy=Prefer("outbox", "inline"),
    ) as ex:
        assert ex.submit(here, "x" * 200_000).result(30) == "x" * 200_000


def test_a_future_gets_its_outcome_though_the_disk_takes_nothing(path, caplog):
    with outbox(path) as ex:
        ex.submit(echo, 0).result(30)
        settle, failing = ex._file.settle, [True]

        def refuse(verdicts):
            if failing:
                raise OutboxFull("no room", path=str(path))
            return settle(verdicts)

        ex._file.settle = refuse
        assert ex.submit(echo, 1).result(30) == 1
        failing.clear()
    assert rows(path) == []
    assert "no room" in caplog.text


def test_an_outcome_that_nobody_waits_for_is_written_when_the_disk_takes_it(path, caplog):
    ex = OutboxExecutor(away(), path, linger=0)
    ex.submit(echo, "old")
    ex.shutdown()
    tries = []
    real = OutboxFile.settle

    def refuse_twice(self, verdicts):
        tries.append(len(verdicts))
        if len(tries) <= 2:
            raise OutboxError("no room", path=str(path))
        return real(self, verdicts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OutboxFile, "settle", refuse_twice)
        service = Service()
        with outbox(path, service, linger=30) as ex:
            assert service.arrived.acquire(timeout=30)
            ex.submit(echo, 1).result(30)
    assert [each[1] for each in rows(path)] == ["delivered"]
    assert [args for _, args in service.came].count(("old",)) == 1


def test_a_signal_handler_that_lands_in_a_commit_gets_an_error_and_no_deadlock(path):
    with outbox(path, away()) as ex:
        caught = []

        def interrupted(_):
            try:
                ex.submit(echo, 2)
            except RuntimeError as error:
                caught.append(str(error))

        ex._file.transact(interrupted, sync=True)
        assert "signal handler" in caught[0]
        assert ex.submit(echo, 3)
        assert len(rows(path)) == 1


# -- pickles -----------------------------------------------------------------------------------


class Signing(Service):
    class _signer:  # as a RemoteExecutor has it
        key = KEY


def test_any_callable_is_kept_pickled_and_signed_if_both_sides_opted_in(path):
    service = Signing(lambda item: item.packed)
    with outbox(path, service, allow_pickle=True, keep_results=True) as ex:
        body = ex.submit(lambda: 42).result(30)
        from hybrid_compute._pickling import decode_call

        assert decode_call(body)[0]() == 42
        assert ex.submit(echo, object).exception(30) is not None  # a task goes as JSON
        (entry,) = ex.results(keep=True)
        assert entry.result() == body
        with pytest.raises(OutboxError, match="pickled"):
            entry.arguments()


def test_a_result_that_json_lacks_is_kept_signed_and_read_only_with_the_key(path):
    class Thing:
        pass

    answers = [Thing, ZeroDivisionError("there")]

    def answer(_):
        value = answers.pop(0)
        if isinstance(value, Exception):
            raise value
        return value()

    with outbox(path, Signing(answer), allow_pickle=True, keep_results=True) as ex:
        assert type(ex.submit(echo, 1).result(30)) is Thing
        with pytest.raises(ZeroDivisionError):
            ex.submit(echo, 2).result(30)
        first, second = ex.results(keep=True)
        assert type(first.result()).__name__ == "Thing"
        with pytest.raises(ZeroDivisionError, match="there"):
            second.result()
    with outbox(path) as ex:
        first, second = ex.results(keep=True)
        with pytest.raises(OutboxError, match="nothing of it was read"):
            first.result()


def test_without_a_key_such_a_result_is_described(path):
    with outbox(path, Service(lambda _: {1, object}), keep_results=True) as ex:
        assert ex.submit(echo, 1).result(30) == {1, object}
        with pytest.raises(Exception, match="cannot be kept"):
            next(iter(ex.results(keep=True))).result()


def test_nothing_is_unpickled_that_somebody_has_changed(path, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    service = Signing()
    service.away = True
    ex = OutboxExecutor(service, path, linger=0, allow_pickle=True)
    ex.submit(print, 1)
    ex.shutdown()
    import pickle
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("UPDATE rows SET body = ?", (b"\1R" + b"x" * 40 + pickle.dumps(Evil()),))
    connection.commit()
    connection.close()
    service = Signing()
    with outbox(path, service, allow_pickle=True) as ex:
        ex.submit(echo, 1).result(30)  # after it
        (entry,) = ex.dead()
        assert "not what was put there" in entry.trouble
    assert not canary.exists()
    assert len(service.came) == 1


def test_a_session_beats_as_long_as_it_has_rows_in_hand(path):
    service = Service()
    with outbox(path, service) as ex:
        hands = ex._courier._hands
        assert not hands.has_rows()
        service.away = True
        future = ex.submit(echo, 1)
        assert service.arrived.acquire(timeout=30)
        assert hands.has_rows()
        service.away = False
        future.result(30)
    assert not hands.has_rows()


def test_a_call_that_was_cancelled_never_runs_whenever_that_was(path):
    service = Service()
    with outbox(path, service) as ex:
        for number in range(150):
            future = ex.submit(echo, number)
            if number % 3:
                threading.Event().wait(0.0005 * (number % 5))  # at another step each time
            future.cancel()
            if future.cancelled():
                assert wait([future], 30).done
            else:
                assert future.result(30) == number
                future = None
            if future is not None:
                assert (number,) not in [args for _, args in service.came]
        ex.submit(echo, "end").result(30)
    assert rows(path) == []


def test_a_call_that_is_cancelled_as_it_is_claimed_does_not_run(path):
    service = Service()
    with outbox(path, service) as ex:
        claim, futures = ex._file.claim, []

        def claim_and_cancel(count, *, orphans):
            found = claim(count, orphans=orphans)
            for each in futures if found[1] else ():
                assert each.cancel()
            return found

        ex._file.claim = claim_and_cancel
        with ex._courier._changed:  # nothing is claimed before the future is known
            futures.append(ex.submit(echo, "cancelled"))
        assert wait(futures, 30).done
        futures.clear()
        assert ex.submit(echo, "other").result(30) == "other"
    assert [args for _, args in service.came] == [("other",)]
    assert rows(path) == []
