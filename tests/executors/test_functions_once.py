"""Functions by value: each worker gets the bytes once, and never a stale or a lost function."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from hybrid_compute import _functions
from hybrid_compute.errors import PayloadTooLarge, TaskEncodeError
from hybrid_compute.executors import _crew
from hybrid_compute.executors._frames import FUNCTION
from hybrid_compute.executors._segments import Sender
from hybrid_compute.executors.process import ProcessExecutor

SOON = 60  # seconds; nothing here takes that long, and a hang shall be a failure of its test
STEP = threading.Event()  # never set: waiting for it is a pause


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        STEP.wait(0.002)


@pytest.fixture
def sent(monkeypatch):
    """The functions that were sent, by number; 0 for each that a worker shall forget."""
    numbers = []
    make = _crew._frame

    def recording(kind, number, body):
        if kind == FUNCTION:
            numbers.append(number if body else 0)
        return make(kind, number, body)

    monkeypatch.setattr(_crew, "_frame", recording)
    return numbers


@pytest.fixture
def one():
    with ProcessExecutor(1) as executor:
        executor.submit(abs, -1).result(SOON)
        yield executor


def received():
    """Run by a worker: how many functions it has, and how many bytes of them."""
    known = sys.modules["hybrid_compute._pickling"].received
    return len(known), sum(map(len, known.values()))


def make_adder(n):
    return lambda x: x + n


def wait_for(executor):
    """Wait until the one worker is idle, so that the next item goes out on this thread."""
    until(lambda: executor._pool.idle)


def replace_worker(executor):
    (pid,) = executor._pids()
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in executor._pids())


def test_a_function_is_sent_once_to_a_worker(one, sent):
    add = make_adder(3)
    assert [one.submit(add, i).result(SOON) for i in range(20)] == [*range(3, 23)]
    assert len(sent) == 1


def test_a_burst_of_calls_needs_the_function_once(one, sent):
    add = make_adder(3)
    futures = [one.submit(add, i) for i in range(3000)]
    assert [f.result(SOON) for f in futures] == [*range(3, 3003)]
    assert len(sent) == 1


def test_a_function_that_can_be_imported_is_not_sent(one, sent):
    assert one.submit(os.getpid).result(SOON)
    assert list(one.map(abs, range(50))) == [*range(50)]
    assert not sent


def test_a_map_needs_the_function_once_for_each_worker(sent):
    add = make_adder(3)
    with ProcessExecutor(2) as ex:
        for _ in range(3):
            assert list(ex.map(add, range(500), chunksize=10)) == [*range(3, 503)]
        assert 1 <= len(sent) <= len(ex._pids())
    assert len(set(sent)) == 1


def test_each_worker_gets_the_function_for_itself(sent, tmp_path):
    def touch_and_wait(mine, other):
        (tmp_path / mine).touch()
        while not (tmp_path / other).exists():
            time.sleep(0.002)

    with ProcessExecutor(2) as ex:
        futures = [ex.submit(touch_and_wait, "a", "b"), ex.submit(touch_and_wait, "b", "a")]
        for future in futures:
            future.result(SOON)
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_a_new_worker_gets_the_function_anew(one, sent):
    add = make_adder(3)
    assert one.submit(add, 1).result(SOON) == 4
    replace_worker(one)
    assert one.submit(add, 2).result(SOON) == 5
    assert len(sent) == 2


def test_a_function_that_has_changed_is_sent_anew(one, sent):
    n = 1

    def add(x):
        return x + n

    for n in (1, 2, 3):
        assert [one.submit(add, 10).result(SOON) for _ in range(3)] == [10 + n] * 3
    assert len(sent) == 3


def test_a_function_keeps_what_it_counts_from_call_to_call(one):
    names = {"__name__": "__main__"}
    exec("def count():\n global n\n n = globals().get('n', 0) + 1\n return n", names)
    count = names["count"]
    assert [one.submit(count).result(SOON) for _ in range(4)] == [1, 2, 3, 4]


def test_hundreds_of_functions_are_all_right(one):
    adders = [make_adder(n) for n in range(600)]
    for _ in range(2):
        futures = [one.submit(add, 1) for add in adders]
        assert [f.result(SOON) for f in futures] == [*range(1, 601)]


def test_a_worker_keeps_a_bounded_number_of_functions(one):
    for n in range(_functions._LIBRARY_MOST + 50):
        one.submit(make_adder(n), 1)
    count, _ = one.submit(received).result(SOON)
    assert count <= _functions._LIBRARY_MOST


def test_a_worker_keeps_a_bounded_number_of_bytes_of_functions(one, sent):
    bodies = [f"lambda: len({chr(97 + n) * 900_000!r})" for n in range(24)]
    functions = [eval(each, {"__name__": "__main__"}) for each in bodies]
    assert [one.submit(each).result(SOON) for each in functions] == [900_000] * 24
    _, size = one.submit(received).result(SOON)
    assert _functions._LIBRARY_BYTES - 2_000_000 < size <= _functions._LIBRARY_BYTES
    assert 0 in sent


def test_a_function_that_was_forgotten_is_sent_again(one, sent):
    first, *others = [make_adder(n) for n in range(_functions._LIBRARY_MOST + 1)]
    assert one.submit(first, 1).result(SOON) == 1
    for each in others:
        one.submit(each, 1).result(SOON)
    number = sent[0]
    assert sent.count(number) == 1
    assert one.submit(first, 2).result(SOON) == 2
    assert sent.count(number) == 2


def test_more_functions_than_a_worker_keeps_may_be_in_one_message(one):
    most = _functions._LIBRARY_MOST
    one.submit(int).result(SOON)
    worker = one._pool.workers[0]
    # What `put_calls` is given when a batch has that many.
    for n in range(most + 100):
        worker.library.reference(one._pool.encoder._in_place_of(kept := make_adder(n)))
    known, gone = worker.library.with_new()
    assert (len(known), len(gone)) == (most, 100)
    assert one.submit(kept, 1).result(SOON) == most + 100
    assert one.submit(received).result(SOON)[0] == most


def test_a_message_that_was_lost_in_a_crash_loses_no_function(one, sent):
    add = make_adder(3)
    (pid,) = one._pids()
    wait_for(one)
    os.kill(pid, signal.SIGSTOP)
    futures = [one.submit(add, i) for i in range(5)]
    until(lambda: sent)  # it is on its way to who will never read it
    os.kill(pid, signal.SIGKILL)
    assert [f.result(SOON) for f in futures] == [*range(3, 8)]
    assert len(sent) == 2


def test_a_call_that_kills_its_worker_loses_no_function(one):
    def die_or_add(x):
        return x + 1 if x else os._exit(3)

    crashed = one.submit(die_or_add, 0)
    assert crashed.exception(SOON) is not None
    assert one.submit(die_or_add, 1).result(SOON) == 2


def test_a_function_whose_first_call_cannot_be_pickled_is_not_taken_as_sent(one):
    add = make_adder(3)
    with pytest.raises(TaskEncodeError):
        one.submit(add, threading.Lock()).result(SOON)
    assert one.submit(add, 1).result(SOON) == 4


def test_a_function_whose_first_call_is_too_large_is_not_taken_as_sent():
    add = make_adder(b"")
    with ProcessExecutor(1, max_payload=10_000) as ex:
        with pytest.raises(PayloadTooLarge):
            ex.submit(add, bytes(20_000)).result(SOON)
        assert ex.submit(add, b"x").result(SOON) == b"x"


def test_a_function_that_cannot_be_loaded_there_fails_its_calls_only(one):
    class Fails:
        def __reduce__(self):
            return __import__, ("there_is_no_such_module",)

    def fails(default=Fails()):  # noqa: B008
        return default

    assert one.submit(fails).exception(SOON) is not None
    assert one.submit(make_adder(1), 1).result(SOON) == 2


# -- Ctrl-C --------------------------------------------------------------------------------------

BETWEEN = {
    "as it is encoded": (_functions.Library, "reference"),
    "before it is stored": (Sender, "store"),
    "before it is put": (_crew.Worker, "put_calls"),
    "before it is sent": (_crew.Worker, "flush"),
}


@pytest.mark.parametrize(("cls", "method"), BETWEEN.values(), ids=BETWEEN)
def test_ctrl_c_on_the_way_leaves_functions_and_payloads_right(one, monkeypatch, cls, method):
    add, more = make_adder(b"!"), make_adder(b"?")
    original, calls = getattr(cls, method), []

    def interrupted(self, *args, **kwargs):
        if threading.current_thread() is threading.main_thread() and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    large = os.urandom(2_000_000)
    wait_for(one)
    monkeypatch.setattr(cls, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.submit(add, large)
    assert calls
    for _ in range(3):
        assert one.submit(add, b"a").result(SOON) == b"a!"
        assert one.submit(more, large).result(SOON) == large + b"?"


@pytest.mark.parametrize("place", range(12))
def test_ctrl_c_at_any_call_of_putting_a_message_leaves_functions_right(one, place):
    adders = [make_adder(n) for n in range(3)]
    count = 0

    def on_event(frame, event, _):
        nonlocal count
        if event in ("return", "c_return") and frame.f_code in codes:
            count += 1
            if count == place:
                raise KeyboardInterrupt

    codes = {
        _crew.Worker.put_calls.__code__,
        _crew.Worker.flush.__code__,
        _functions.Library.with_new.__code__,
        _functions.Library.reference.__code__,
    }
    wait_for(one)
    sys.setprofile(on_event)
    try:
        one.submit(adders[0], 1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    for _ in range(2):
        assert [one.submit(add, 1).result(SOON) for add in adders] == [1, 2, 3]
