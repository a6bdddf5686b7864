"""What a stream promises, wherever its generator runs; rows 60 to 64 of the fault matrix."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time

import pytest

from hybrid_compute import HybridFuture, Stream, task
from hybrid_compute.errors import RemoteTaskError, StreamError, TaskTimeout
from tests.streams import work
from tests.streams.conftest import LOCAL, REMOTE, WAIT, eventually

pytestmark = pytest.mark.timeout(120)

LOCALLY = pytest.mark.parametrize("place", LOCAL, indirect=True)
BUT_INLINE = ("thread", "process", *REMOTE)


def test_items_come_in_order_and_the_value_behind_them(ex):
    stream = ex.stream(work.count, 10, start=5)
    assert isinstance(stream, Stream)
    with pytest.raises(StreamError, match="not read to its end"):
        _ = stream.value
    assert list(stream) == list(range(5, 15))
    assert stream.value == 10
    assert "ended" in repr(stream)


def test_a_future_gives_a_stream_once_the_generator_has_started(ex):
    future = ex.submit(work.count, 3)
    assert isinstance(future, HybridFuture)
    stream = future.result(WAIT)
    assert future.done()
    assert not future.cancel()
    assert list(stream) == [0, 1, 2]
    assert stream.value == 3


def test_a_future_can_be_iterated_over(ex):
    assert list(ex.submit(work.count, 2000)) == list(range(2000))


def test_yield_from_a_stream_gives_its_value(ex):
    def outer():
        return (yield from ex.stream(work.count, 3))

    reading = outer()
    assert [next(reading) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(reading)
    assert end.value.value == 3


def test_an_empty_stream(ex):
    stream = ex.stream(work.count, 0)
    assert list(stream) == []
    assert stream.value == 0


def test_100_000_items(ex):
    assert sum(ex.stream(work.count, 100_000)) == sum(range(100_000))


def test_large_items(ex):
    for number, block in enumerate(ex.stream(work.blocks, 40, 1 << 20)):
        assert len(block) == 1 << 20
        assert block[0] == block[-1] == number


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, (1 << 17) - 1, 1 << 17, 3 << 17])
def test_items_of_all_sizes(ex, size):
    assert list(ex.stream(work.blocks, 5, size)) == [bytes([number]) * size for number in range(5)]


def test_items_of_all_kinds(ex):
    items = [
        "ä€😀",
        "",
        b"\0\xff",
        None,
        True,
        1,
        2**80,
        0.5,
        [1, "é"],
        {"k": [None]},
        (1, 2),
        "x" * 5000,
    ]
    assert list(ex.stream(work.each, items)) == items


@pytest.mark.parametrize("n", [0, 1, 3, 5000])
def test_an_exception_comes_behind_the_items_before_it(ex, n):  # row 61
    stream = ex.stream(work.failing, n)
    got = []
    with pytest.raises((KeyError, RemoteTaskError), match="midway"):
        got.extend(iter(stream.__next__, None))
    assert got == list(range(n))
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(RuntimeError, match="read to its end"):
        iter(stream)


def test_close_reaches_the_generator(ex, tmp_path):  # row 60
    stream = ex.stream(work.endless, str(tmp_path / "n"))
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    eventually((tmp_path / "n.closed").exists)
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()
    assert "closed" in repr(stream)


def test_what_a_generator_raises_as_it_is_closed_is_no_error_of_its_consumer(ex, caplog):
    stream = ex.stream(work.defiant)
    assert next(stream) == 0
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert list(ex.stream(work.count, 3)) == [0, 1, 2]


def test_a_with_block_closes(ex, tmp_path):
    with ex.stream(work.endless, str(tmp_path / "n")) as stream:
        next(stream)
    eventually((tmp_path / "n.closed").exists)


def test_close_reaches_a_generator_that_is_slow(ex, tmp_path):
    stream = ex.stream(work.slow_endless, str(tmp_path / "n"))
    next(stream)
    stream.close()
    eventually((tmp_path / "n.closed").exists)


def test_close_reaches_a_generator_that_waits_for_its_consumer(fleet, place, tmp_path):  # row 60
    path = tmp_path / "n"
    stream = fleet.options(executor=place, buffersize=1).stream(work.endless, str(path))
    assert next(stream) == 0
    for _ in range(20):  # until it has made no other for a while; over HTTP it may well go on
        before = path.read_text()
        time.sleep(0.02)
        if path.read_text() == before:
            break
    stream.close()
    eventually((tmp_path / "n.closed").exists)


def test_a_loop_over_a_future_that_is_left_closes(ex, tmp_path):
    future = ex.submit(work.endless, str(tmp_path / "n"))
    for item in future:
        if item == 5:
            break
    eventually((tmp_path / "n.closed").exists)
    assert future.done()


def test_a_loop_that_raises_closes(ex, tmp_path):
    with pytest.raises(ZeroDivisionError):
        for item in ex.stream(work.endless, str(tmp_path / "n")):
            assert item < 1000
            1 // (3 - item)
    gc.collect()
    eventually((tmp_path / "n.closed").exists)


def test_a_stream_that_is_dropped_closes(ex, tmp_path):
    stream = ex.stream(work.endless, str(tmp_path / "n"))
    next(stream)
    del stream
    eventually((tmp_path / "n.closed").exists)


def test_a_future_that_is_dropped_closes(ex, tmp_path):
    future = ex.submit(work.endless, str(tmp_path / "n"))
    future.result(WAIT)
    next(future.result())
    del future
    eventually((tmp_path / "n.closed").exists)


def test_a_loop_goes_on_where_another_was_left(ex):
    stream = ex.stream(work.count, 100)
    for item in stream:
        if item == 9:
            break
    assert next(stream) == 10
    assert list(stream) == list(range(11, 100))


@pytest.mark.parametrize("most", [1, 2, 8])
def test_the_producer_waits_for_a_slow_consumer(fleet, place, tmp_path, most):  # row 62
    path = tmp_path / "n"
    # Far away it is ahead of what goes out to us, which is ahead of us; and over HTTP the network
    # has its buffers, which are for bytes.
    ahead = {"ws": 2 * most + 1, "http": 100_000}.get(place, most) + 1
    stream = fleet.options(executor=place, buffersize=most).stream(work.endless, str(path))
    for taken in range(1, 20):
        assert next(stream) == taken - 1
        time.sleep(0.005)
        assert int(path.read_text()) <= taken + ahead
    stream.close()


def test_a_slow_consumer_over_http_bounds_the_bytes(fleet, tmp_path):  # row 62
    path = tmp_path / "n"
    stream = fleet.options(executor="http", buffersize=2).stream(
        work.endless_blocks, str(path), 1 << 20
    )
    for taken in range(1, 6):
        assert len(next(stream)) == 1 << 20
        time.sleep(0.1)
        assert int(path.read_text()) <= taken + 2 + 2 + 24  # and some megabytes under way
        assert len(stream._channel.ready) <= 2
    stream.close()


def test_the_bytes_are_bounded_too(fleet, place):
    view = fleet.options(executor=place, buffer_bytes=1 << 20)
    assert sum(len(block) for block in view.stream(work.blocks, 50, 1 << 19)) == 50 << 19
    one = fleet.options(executor=place, buffer_bytes=1)
    assert [len(block) for block in one.stream(work.blocks, 5, 1 << 20)] == [1 << 20] * 5


def test_items_leave_though_the_generator_stalls(ex, tmp_path):
    path = tmp_path / "go"
    stream = ex.stream(work.stalls, str(path))
    assert [stream.get(WAIT) for _ in range(3)] == [1, 2, 3]
    path.touch()
    assert list(stream) == [4]


def test_there_is_one_consumer(ex):  # row 64
    stream = ex.stream(work.count, 100)
    reading = iter(stream)
    next(reading)
    with pytest.raises(RuntimeError, match="being read already"):
        iter(stream)
    raised = []

    def read():
        try:
            next(stream)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert "another thread" in raised[0]
    assert next(stream) == 1  # in the loop's own thread
    assert list(reading) == list(range(2, 100))
    with pytest.raises(RuntimeError, match="read to its end"):
        list(stream)


def test_a_stream_is_not_pickled_or_copied(ex):
    with ex.stream(work.count, 1) as stream:
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                copying(stream)


@pytest.mark.parametrize("name", BUT_INLINE)
def test_waiting_for_an_item_can_be_bounded(fleet, tmp_path, name):  # row 63
    path = tmp_path / "go"
    stream = fleet.options(executor=name).stream(work.stalls, str(path))
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(TimeoutError, match="it goes on"):
        stream.get(timeout=0.01)
    path.touch()
    assert stream.get(timeout=WAIT) == 4
    with pytest.raises(StopIteration):
        stream.get(timeout=WAIT)


@pytest.mark.parametrize("name", BUT_INLINE)
def test_all_of_it_has_a_deadline(fleet, tmp_path, name):  # row 63
    path = tmp_path / "go"
    got = []
    for timeout in (0.5, 4.0, 30.0):  # time counts from the start, and a busy machine takes its own
        stream = fleet.options(executor=name, timeout=timeout).stream(work.stalls, str(path))
        with pytest.raises(TaskTimeout, match="stalls"):
            got.extend(iter(stream.__next__, None))
        if got:
            break
    assert got == [1, 2, 3]
    path.touch()


def test_async_for(ex):
    async def main():
        return [item async for item in ex.stream(work.count, 3000)]

    assert asyncio.run(main()) == list(range(3000))


def test_async_for_lets_the_loop_run(fleet, tmp_path):
    path = tmp_path / "go"

    async def main():
        stream = fleet.options(executor="process").stream(work.stalls, str(path))
        asyncio.get_running_loop().call_later(0.05, path.touch)
        return [item async for item in stream]

    assert asyncio.run(main()) == [1, 2, 3, 4]


def test_asynchronous_generators(ex):
    assert list(ex.stream(work.counts_async, 50)) == list(range(50))
    assert list(ex.submit(work.counts_async, 5)) == list(range(5))


@LOCALLY
def test_a_function_that_returns_an_iterator_or_a_list(ex):
    assert list(ex.stream(work.each.fn, iter([1, 2]).__reduce__()[1][0])) == [1, 2]
    assert list(ex.stream(sorted, [3, 1, 2])) == [1, 2, 3]


@LOCALLY
@pytest.mark.parametrize("fn", [lambda: 5, lambda: "text", lambda: None])
def test_what_is_no_stream_says_so(ex, fn):
    stream = ex.stream(fn)
    with pytest.raises(TypeError, match="needs a generator function"):
        next(stream)


@LOCALLY
def test_wrong_arguments_are_raised_by_the_stream(ex):
    with pytest.raises(TypeError, match="missing"):
        next(ex.stream(work.count))


def test_streams_side_by_side(ex):
    # More than there are threads or processes to run them, if each of them kept one.
    streams = [ex.stream(work.count, 50, start=number) for number in range(6)]
    assert [list(each) for each in streams] == [list(range(n, n + 50)) for n in range(6)]


def test_a_map_of_a_generator_gives_streams(ex):
    assert [list(each) for each in ex.map(work.count, [1, 2, 3])] == [[0], [0, 1], [0, 1, 2]]


def test_a_stream_is_input_for_a_map(fleet, place, tmp_path):
    source = fleet.options(executor=place, buffersize=4).stream(work.endless, str(tmp_path / "n"))
    doubled = fleet.options(executor="process").map(work.double, source, buffersize=4)
    assert [next(doubled) for _ in range(50)] == list(range(0, 100, 2))
    # At each of the two ends, here in the map, and one in hand; the network's own buffers apart.
    assert int((tmp_path / "n").read_text()) < (100_000 if place == "http" else 50 + 4 + 4 + 4 + 4)
    doubled.close()
    source.close()


@LOCALLY
def test_shutdown_ends_a_stream_that_waits_to_be_read(make, place):
    with make(1, max_processes=1) as fleet:
        stream = fleet.options(executor=place, buffersize=4).stream(work.count, 100)
        if place != "inline":
            assert next(stream) == 0
    got = []
    if place == "inline":
        assert list(stream) == list(range(100))  # it runs in its consumer
        return
    with pytest.raises(StreamError, match="shut down"):
        got.extend(iter(stream.__next__, None))
    assert got == list(range(1, 1 + len(got)))
    assert len(got) < 10


def test_shutdown_lets_what_fits_arrive(make, place):
    with make(1, max_processes=1) as fleet:
        future = fleet.options(executor=place).submit(work.count, 100)
    assert list(future) == list(range(100))


def test_options_of_the_task_bound_it(fleet, place):
    small = task(buffersize=2, executor=place, name="count")(work.count.fn)
    assert list(fleet.submit(small, 10)) == list(range(10))


def test_observers_hear_of_its_end(make, place):
    events = []
    with make(observers=[events.append]) as fleet:
        assert list(fleet.options(executor=place).stream(work.count, 5)) == [0, 1, 2, 3, 4]
        with pytest.raises((KeyError, RemoteTaskError)):
            list(fleet.options(executor=place).stream(work.failing, 1))
    assert [each.kind for each in events] == [
        *("submitted", "routed", "started", "succeeded"),
        *("submitted", "routed", "started", "failed"),
    ]
