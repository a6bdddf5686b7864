"""Who reads a connection: its thread, or a caller who waits again and again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, as_completed, wait

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.breaker import State
from hybrid_compute.errors import PayloadTooLarge, RemoteConnectionLost, TaskTimeout
from hybrid_compute.executors._remote_calls import Call
from hybrid_compute.executors._remote_line import Line
from hybrid_compute.items import WorkItem
from hybrid_compute.transports._turns import Turns, Watch
from tests.remote.servers import Peer, serving
from tests.remote.test_websocket import client, plain

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")
hold = remote_task("hold")  # it has no answer before "free" comes
free = remote_task("free")
say = remote_task("say")  # what the server does then is the test's

MANY = 8  # waits, after which who waits reads


class Server:
    """Answers `echo` at once, and `hold` when `free` has come, before the answer to that."""

    def __init__(self, do: Callable[[Peer, dict], None] | None = None) -> None:
        self.do = do
        self.connections = 0
        self.held = threading.Semaphore(0)  # released for each call that is held

    def __call__(self, peer: Peer) -> None:
        peer.shake_hands()
        self.connections += 1
        held = []
        while (raw := peer.message()) is not None:
            call = json.loads(raw)
            answers = [{"id": call["id"], "result": call.get("input")}]
            if call["task"] == "hold":
                held += answers
                self.held.release()
                continue
            if call["task"] == "say":
                self.do(peer, call)
                continue
            if call["task"] == "free":
                answers, held = held + answers, []
            for each in answers:
                peer.write(json.dumps(each).encode())


@contextlib.contextmanager
def warm(do: Callable[[Peer, dict], None] | None = None, **options) -> Iterator:
    """An executor whose connection this thread reads by now."""
    server = Server(do)
    options.setdefault("tasks", ["echo", "hold", "free", "say"])
    with serving(server) as port, client(port, **options) as ex:
        warm_up(ex)
        yield ex, server


def warm_up(ex: RemoteExecutor) -> None:
    for number in range(MANY):
        assert ex.submit(echo, number).result() == number


@pytest.fixture(autouse=True)
def long_lease(monkeypatch) -> None:
    """Have nothing hang on how soon a thread comes back; and nothing be saved by the lease."""
    monkeypatch.setattr(Turns, "lease", 60.0)


@pytest.fixture
def takers(monkeypatch) -> list[int]:
    """The threads that took frames, in their order."""
    found: list[int] = []
    received = Line.received

    def noting(self, *args):
        found.append(threading.get_ident())
        received(self, *args)

    monkeypatch.setattr(Line, "received", noting)
    return found


@pytest.fixture
def asleep(monkeypatch) -> threading.Event:
    """Is set when the main thread reads, and goes to sleep for that."""
    event = threading.Event()
    wait_ = Watch.wait

    def noting(self, *args):
        if threading.current_thread() is threading.main_thread():
            event.set()
        return wait_(self, *args)

    monkeypatch.setattr(Watch, "wait", noting)
    return event


def test_who_waits_again_and_again_reads_for_himself(takers):
    with warm() as (ex, _):
        assert ex.submit(echo, 1).result() == 1
    me = threading.get_ident()
    assert takers[-1] == me
    assert takers[0] != me  # but who waits once does not


def test_who_is_told_by_a_callback_never_reads(takers):
    with serving(plain) as port, client(port) as ex:
        for number in range(2 * MANY):
            told = threading.Event()
            future = ex.submit(echo, number)
            future.add_done_callback(lambda _, told=told: told.set())
            assert future.result() == number
            assert told.wait(10)
    assert threading.get_ident() not in takers


@pytest.mark.parametrize("how", ["callback", "wait", "as_completed", "thread", "shutdown"])
def test_what_nobody_waits_for_as_before_is_read_by_the_thread(how, takers):
    with warm() as (ex, _):
        takers.clear()
        future = ex.submit(echo, "x")
        if how == "callback":
            told = threading.Event()
            future.add_done_callback(lambda _: told.set())
            assert told.wait(10)
        elif how == "wait":
            assert wait([future], 10, FIRST_COMPLETED).done
        elif how == "as_completed":
            assert list(as_completed([future], 10)) == [future]
        elif how == "thread":
            waiting = threading.Thread(target=future.result)
            waiting.start()
            waiting.join(10)
        else:
            ex.shutdown()
        assert future.done()
        assert future.result() == "x"
    assert threading.get_ident() not in takers


def test_a_callback_runs_on_the_connections_thread_though_a_caller_reads():
    with warm() as (ex, server):
        ran: list[int] = []
        told = threading.Event()

        def callback(_):
            ran.append(threading.get_ident())
            told.set()

        def add_and_free():
            server.held.acquire()  # the caller is in, or about to be
            first.add_done_callback(callback)
            ex.submit(free)

        first, second = ex.submit(hold, 1), ex.submit(hold, 2)
        other = threading.Thread(target=add_and_free)
        other.start()
        assert second.result() == 2
        other.join()
        assert told.wait(10)
        assert ran == [ex._half._transport.thread.ident]


def test_a_callback_that_wants_what_the_waiting_caller_holds_gets_it_later():
    with warm() as (ex, _):
        mine = threading.Lock()  # not re-entrant
        told = threading.Event()

        def callback(_):
            with mine:
                told.set()

        with mine:
            first, second = ex.submit(hold, 1), ex.submit(hold, 2)
            first.add_done_callback(callback)
            warm_up(ex)
            ex.submit(free)
            assert second.result() == 2
            assert not told.is_set()
        assert told.wait(10)


def test_who_reads_brings_what_others_wait_for():
    with warm() as (ex, server):
        first, second = ex.submit(hold, 1), ex.submit(hold, 2)
        got = []
        other = threading.Thread(target=lambda: got.append(second.result()))

        def later():
            server.held.acquire()
            other.start()
            ex.submit(free)

        threading.Thread(target=later).start()
        assert first.result() == 1
        other.join(10)
        assert got == [2]


def test_a_caller_who_reads_waits_no_longer_than_he_wanted():
    with warm() as (ex, _):
        future = ex.submit(hold, 1)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        ex.submit(free)
        assert future.result(10) == 1


def test_a_caller_who_reads_learns_that_the_calls_time_is_up():
    with warm() as (ex, _), pytest.raises(TaskTimeout):
        ex.submit(remote_task("hold", timeout=0.2), 1).result()


def test_a_caller_who_reads_learns_that_the_call_was_cancelled_elsewhere():
    with warm() as (ex, server):
        future = ex.submit(hold, 1)

        def drop():
            server.held.acquire()
            future._item.keeper.line.abandon(future._item.keeper)

        threading.Thread(target=drop).start()
        with pytest.raises(BaseException, match=r"^$"):
            future.result()
        assert future.cancelled()


def test_a_caller_who_reads_learns_that_the_connection_is_lost():
    def hang_up(peer, call):
        peer.reset()

    with warm(hang_up) as (ex, server):
        with pytest.raises(RemoteConnectionLost):
            ex.submit(say).result()
        warm_up(ex)  # over another connection
        assert server.connections == 2


def test_a_caller_who_reads_a_frame_that_is_too_large_gets_the_error():
    def much(peer, call):
        peer.write(json.dumps({"id": call["id"], "result": "x" * 5000}).encode())

    with warm(much, max_bytes=4000) as (ex, _), pytest.raises(PayloadTooLarge):
        ex.submit(say).result()


def test_a_caller_who_reads_answers_pings():
    ponged = []

    def ping(peer, call):
        peer.write(b"are you there", 9)
        ponged.append(peer.frame())
        peer.write(json.dumps({"id": call["id"], "result": 1}).encode())

    with warm(ping) as (ex, _):
        assert ex.submit(say).result() == 1
        assert ponged == [(10, b"are you there")]


def test_a_caller_who_reads_pings_when_the_server_says_nothing():
    pinged = []

    def wait_for_it(peer, call):
        pinged.append(peer.frame())
        peer.write(b"", 10)
        peer.write(json.dumps({"id": call["id"], "result": 1}).encode())

    with warm(wait_for_it, ping_interval=0.3) as (ex, _):
        assert ex.submit(say).result() == 1
        assert pinged == [(9, b"")]


def test_an_answer_in_pieces_is_put_together_by_whoever_reads():
    def slowly(peer, call):
        answer = json.dumps({"id": call["id"], "result": "x" * 1000}).encode()
        frame = b"\x81\x7e" + len(answer).to_bytes(2, "big") + answer
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(frame), 100):
            peer.sock.sendall(frame[at : at + 100])

    with warm(slowly) as (ex, _):
        for _ in range(MANY):
            assert ex.submit(say).result() == "x" * 1000


def test_a_large_call_is_written_by_who_reads():
    with warm() as (ex, _):
        large = "x" * 4_000_000
        assert ex.submit(echo, large).result() == large


def test_a_signals_handler_may_wait_for_another_call_while_the_caller_reads(asleep):
    main = threading.main_thread().ident

    def poke(peer, call):
        asleep.wait(10)
        signal.pthread_kill(main, signal.SIGUSR1)
        raw = peer.message()  # the handler's
        for each in (json.loads(raw), call):
            peer.write(json.dumps({"id": each["id"], "result": each.get("input")}).encode())

    def handler(*_):
        got.append(ex.submit(echo, "inner").result())

    got: list[str] = []
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        # A signal that comes just before the sleep does not end it: the next ping does.
        with warm(poke, ping_interval=0.3) as (ex, _):
            asleep.clear()
            future = ex.submit(say, "outer")
            assert future.result() == "outer"
            assert got == ["inner"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_caller_who_is_interrupted_leaves_the_connection_as_it_is(asleep):
    main = threading.main_thread().ident

    def interrupt(peer, call):
        asleep.wait(10)
        signal.pthread_kill(main, signal.SIGUSR1)

    def handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with warm(interrupt, ping_interval=0.3) as (ex, server):
            asleep.clear()
            future = ex.submit(say)
            with pytest.raises(KeyboardInterrupt):
                future.result()
            warm_up(ex)
            assert server.connections == 1
            ex._half.abandon(future._item.keeper)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_forked_child_makes_its_own_connection():
    with warm() as (ex, _):
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if ex.submit(echo, 1).result(10) == 1 else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ex.submit(echo, 2).result() == 2


def test_threads_that_wait_in_all_ways_get_all_their_answers(monkeypatch):
    monkeypatch.setattr(Turns, "lease", 0.002)
    with warm() as (ex, _):
        wrong: list[object] = []

        def alone(start):
            for number in range(start, start + 60):
                if ex.submit(echo, number).result(20) != number:
                    wrong.append(number)

        def bursts(start):
            for number in range(start, start + 60, 10):
                futures = [ex.submit(echo, each) for each in range(number, number + 10)]
                if [each.result(20) for each in futures] != [*range(number, number + 10)]:
                    wrong.append(number)

        def waits(start):
            for number in range(start, start + 60, 5):
                futures = {ex.submit(echo, each) for each in range(number, number + 5)}
                if wait(futures, 20).not_done:
                    wrong.append(number)

        threads = [
            threading.Thread(target=each, args=(1000 * place,))
            for place, each in enumerate((alone, bursts, waits, alone))
        ]
        for each in threads:
            each.start()
        alone(10_000)
        for each in threads:
            each.join(25)
        assert not wrong
        assert ex._half.counts() == (0, 0)


def test_what_who_reads_gets_is_told_to_the_circuit():
    with warm() as (ex, _):
        breaker = ex.breaker
        breaker.failed(0.0)  # long ago: the next call is the trial
        while breaker.state is State.CLOSED:
            breaker.failed(0.0)
        assert ex.submit(echo, 1).result(20) == 1
        assert breaker.state is State.CLOSED


@pytest.mark.parametrize("key", [None, "a-key"])
def test_only_a_call_with_no_key_goes_in_bulk(key):
    class Keyed(WorkItem):
        pass

    Keyed.key = key
    assert Call(None, Keyed(echo, (1,)), None).plain is (key is None)


# -- the turns themselves ------------------------------------------------------------------------


@pytest.fixture
def lent() -> Iterator[tuple[Turns, threading.Thread]]:
    """Turns that are lent to this thread, for a long time, and the thread that lends them."""
    turns = Turns()
    for _ in range(MANY):
        assert not turns.enter()
    assert turns.asked
    begun = threading.Event()

    def lend():
        turns.begin()
        turns.lend(begun.set, lambda: None)

    thread = threading.Thread(target=lend)
    thread.start()
    assert begun.wait(10)
    assert turns.is_mine()
    yield turns, thread
    thread.join(10)
    turns.close()


def test_turns_are_taken_back_when_the_guest_stays_away(lent):
    turns, thread = lent
    assert turns.enter()
    turns.lease = 0.01
    turns.wake()
    thread.join(0.1)
    assert thread.is_alive()  # a guest is in, for longer than the lease
    turns.leave()
    thread.join(10)
    assert not thread.is_alive()
    assert not turns.enter()


def test_turns_that_are_recalled_end_with_the_guest(lent):
    turns, thread = lent
    assert turns.enter()
    turns.recall()
    thread.join(0.1)
    assert thread.is_alive()
    turns.leave()
    thread.join(10)
    assert not thread.is_alive()


def test_turns_that_are_recalled_let_nobody_else_in(lent):
    turns, thread = lent
    turns.recall()
    assert not turns.enter()
    thread.join(10)
    assert not thread.is_alive()


def test_turns_that_are_recalled_at_the_last_moment_are_not_lent():
    turns = Turns()
    turns.begin()
    while not turns.asked:
        turns.enter()
    turns.recall()
    turns.lend(pytest.fail, pytest.fail)
    assert not turns.is_mine()
    turns.close()
