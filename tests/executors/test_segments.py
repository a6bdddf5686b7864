"""Sender and Receiver: which slot a payload gets, and that nobody's view is ever disturbed.

Both stand here in one process, with a bytearray in the place of the journal's flags.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
from collections import deque

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hybrid_compute._pickling import BIG
from hybrid_compute.executors import _segments
from hybrid_compute.executors._segments import (
    FLAG_BYTES,
    FREE,
    ONCE,
    RETIRED,
    SLOTS,
    USED,
    VIEW,
    Receiver,
    Sender,
)

PAGE = os.sysconf("SC_PAGE_SIZE")


class Pair:
    """A sender and a receiver, and what carries frames and descriptors between them."""

    def __init__(self, *, mapped=False):
        self.flags = bytearray(FLAG_BYTES)
        self.sender = Sender(self.flags, mapped=mapped)
        self.receiver = Receiver(self.flags)

    def send(self, *buffers, pickled=b"small"):
        """Do what the sending side does; return the parcel, whose frame has not been read."""
        parcel = self.sender.store(pickled, [memoryview(each) for each in buffers])
        slot = parcel.slot
        if not slot.announced:
            self.receiver.accept(slot.index, os.dup(slot.fd))
            slot.announced = True
        if slot.index != ONCE:
            self.flags[slot.index] = USED
        return parcel

    def pass_on(self, *buffers, pickled=b"small"):
        """Send a payload and open it: index of its slot, pickle, buffers."""
        parcel = self.send(*buffers, pickled=pickled)
        return parcel.slot.index, *self.receiver.open(memoryview(parcel.body))

    def close(self):
        self.sender.close()
        self.receiver.close()


@pytest.fixture(params=[False, True], ids=["written", "mapped"])
def pair(request):
    pair = Pair(mapped=request.param)
    yield pair
    pair.close()


def noise(size):
    return random.randbytes(size)


# -- what goes in comes out ----------------------------------------------------------------------

SIZES = [
    [],
    [0],
    [1],
    [63, 64, 65],
    [0, 100, 0],
    [BIG - 1, BIG, BIG + 1],
    [VIEW - 1],
    [VIEW],
    [VIEW + 1, 0, 7],
    [3, 3 * VIEW, PAGE],
]


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [
        (sizes, inside)
        for sizes in SIZES
        for inside in [0, 1, BIG - 1, BIG, VIEW]
        if sum(sizes) or inside >= BIG  # else there is nothing to be stored
    ],
    ids=str,
)
def test_all_parts_come_out_as_they_went_in(pair, sizes, inside):
    pickled, buffers = noise(inside), [noise(size) for size in sizes]
    _, there, parts = pair.pass_on(*buffers, pickled=pickled)
    assert bytes(there) == pickled
    assert [bytes(each) for each in parts] == buffers


def test_a_slot_that_is_written_again_brings_the_new_payload(pair):
    used = set()
    for size in (VIEW, 2 * VIEW, VIEW + 5, VIEW, BIG, 3 * VIEW, BIG + 1):
        data = noise(size)
        index, _, parts = pair.pass_on(data)
        assert parts == [data]
        used.add(index)
        del parts
    assert len(used) == 1


def test_a_small_pickle_stays_in_the_frame_and_a_large_one_does_not(pair):
    large = b"L" * BIG
    assert b"tiny" in pair.send(noise(BIG), pickled=b"tiny").body
    assert len(pair.send(pickled=large).body) < 100


def test_each_buffer_starts_at_a_cache_line(pair):
    _, _, parts = pair.pass_on(noise(1), noise(VIEW), noise(65), noise(3), pickled=noise(BIG + 1))
    assert {np.frombuffer(each, "B").ctypes.data % 64 for each in parts} == {0}


def test_systems_without_memfds_use_a_file_that_has_no_name(monkeypatch, pair):
    monkeypatch.delattr(os, "memfd_create")
    data = noise(VIEW + 1)
    parcel = pair.send(data)
    assert os.fstat(parcel.slot.fd).st_nlink == 0
    assert pair.receiver.open(memoryview(parcel.body))[1] == [data]


# -- which slot ----------------------------------------------------------------------------------


def free_slots(pair, *sizes):
    """Make slots of these capacities, and free them all."""
    kept = [pair.pass_on(noise(size)) for size in sizes]
    return {index: size for (index, *_), size in zip(kept, sizes, strict=True)}


def test_a_payload_gets_the_smallest_free_slot_that_it_fits_into(pair):
    slots = free_slots(pair, 4 * VIEW, 2 * VIEW, 8 * VIEW)
    index, *_ = pair.pass_on(noise(VIEW + 1))
    assert slots[index] == 2 * VIEW


def test_the_largest_free_slot_grows_when_none_is_large_enough(pair):
    slots = free_slots(pair, 2 * VIEW, 4 * VIEW, VIEW)
    index, *_ = pair.pass_on(noise(5 * VIEW))
    assert slots[index] == 4 * VIEW


def test_a_slot_whose_payload_was_copied_is_free_at_once(pair):
    kept = [pair.pass_on(noise(VIEW - 1)) for _ in range(3)]
    assert [index for index, *_ in kept] == [kept[0][0]] * 3


def test_a_slot_is_free_when_the_last_view_of_it_is_gone_and_not_before(pair):
    index, _, (first, second) = pair.pass_on(noise(VIEW), noise(VIEW))
    part_of_it = second[100:200]
    del first, second
    assert pair.flags[index] == USED
    del part_of_it
    assert pair.flags[index] == FREE


def test_a_slot_that_was_sent_is_not_written_before_it_is_read(pair):
    first, second = noise(VIEW), noise(VIEW)
    one, two = pair.send(first), pair.send(second)
    assert pair.receiver.open(memoryview(one.body))[1] == [first]
    assert pair.receiver.open(memoryview(two.body))[1] == [second]


def test_a_payload_gets_a_segment_for_itself_when_all_slots_are_taken(pair):
    data = [noise(VIEW + n) for n in range(SLOTS + 2)]
    kept = [pair.pass_on(each) for each in data]
    assert sorted(index for index, *_ in kept) == [*range(SLOTS), ONCE, ONCE]
    assert [parts for *_, parts in kept] == [[each] for each in data]


def test_a_segment_of_its_own_leaves_no_descriptor(pair):
    kept = [pair.pass_on(noise(VIEW)) for _ in range(SLOTS)]
    before = os.listdir("/proc/self/fd")
    index, _, parts = pair.pass_on(noise(VIEW))
    assert index == ONCE
    assert len(os.listdir("/proc/self/fd")) == len(before)
    del kept, parts


def test_a_segment_of_its_own_is_needed_no_more_once_a_slot_is_free(pair):
    kept = [pair.pass_on(noise(VIEW)) for _ in range(SLOTS)]
    freed = kept.pop(7)[0]
    assert pair.pass_on(noise(VIEW))[0] == freed


# -- privacy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [BIG, VIEW])
def test_what_is_written_into_a_buffer_is_in_no_other(pair, size):
    data = noise(size)
    parcel = pair.send(data)
    (mine,) = pair.receiver.open(memoryview(parcel.body))[1]
    mine[:] = bytes(size)
    pair.flags[parcel.slot.index] = USED
    assert pair.receiver.open(memoryview(parcel.body))[1] == [data]


# -- forks ---------------------------------------------------------------------------------------


def test_what_is_mapped_at_a_fork_is_never_written_again(pair):
    data = noise(VIEW)
    index, _, (part,) = pair.pass_on(data)
    copy = os.dup(pair.receiver._fds[index])  # what a child would see
    pair.receiver.retire()
    del part
    for _ in range(2 * SLOTS):
        pair.pass_on(noise(VIEW))
    assert os.pread(copy, VIEW, 0) == data
    os.close(copy)


def test_the_place_of_a_retired_slot_is_used_again(pair):
    index, _, parts = pair.pass_on(noise(VIEW))
    pair.receiver.retire()
    assert pair.flags[index] == RETIRED
    kept = [pair.pass_on(noise(VIEW)) for _ in range(SLOTS)]
    assert ONCE not in {each[0] for each in kept}
    del parts


def test_a_fork_does_not_retire_what_is_not_mapped(pair):
    index = pair.pass_on(noise(VIEW - 1))[0]
    pair.receiver.retire()
    assert pair.flags[index] == FREE


def test_a_view_that_dies_in_a_forked_child_frees_nothing(pair):
    index, _, parts = pair.pass_on(noise(VIEW))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        parts.clear()
        gc.collect()
        os.write(write, bytes([pair.flags[index], len(pair.receiver._live)]))
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 2) == bytes([USED, 1])
    os.close(read)
    os.close(write)


def test_views_that_die_on_many_threads_free_each_slot_once(pair):
    for _ in range(10):
        kept = deque(pair.pass_on(noise(VIEW))[2] for _ in range(SLOTS))
        threads = [threading.Thread(target=kept.clear), threading.Thread(target=kept.clear)]
        threads.append(threading.Thread(target=pair.receiver.retire))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(pair.flags) <= {FREE, RETIRED}
        assert not pair.receiver._live


# -- giving back ---------------------------------------------------------------------------------


def test_trimming_gives_back_the_memory_of_free_slots(pair):
    index = pair.pass_on(noise(VIEW))[0]
    theirs = pair.receiver._fds[index]
    assert os.fstat(theirs).st_blocks
    pair.sender.trim()
    assert os.fstat(theirs).st_blocks == 0
    assert not pair.sender.has_some


def test_trimming_leaves_what_is_in_use_alone(pair):
    data = noise(VIEW)
    index, _, (part,) = pair.pass_on(data)
    pair.sender.trim()
    assert part == data
    assert pair.flags[index] == USED
    assert pair.sender.has_some


def test_trimming_leaves_a_retired_slot_to_those_who_have_it(pair):
    data = noise(VIEW)
    _, _, (part,) = pair.pass_on(data)
    pair.receiver.retire()
    pair.sender.trim()
    assert part == data


def test_trimming_leaves_no_descriptor_with_the_sender(pair):
    before = len(os.listdir("/proc/self/fd"))
    index = pair.pass_on(noise(VIEW))[0]
    pair.sender.trim()
    os.close(pair.receiver._fds.pop(index))
    assert len(os.listdir("/proc/self/fd")) == before


def test_after_trimming_payloads_arrive_as_before(pair):
    pair.pass_on(noise(VIEW))
    pair.sender.trim()
    data = noise(VIEW)
    assert pair.pass_on(data)[2] == [data]


def test_a_sender_and_a_receiver_that_are_closed_hold_no_descriptor(pair):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        kept = [pair.pass_on(noise(VIEW)) for _ in range(SLOTS)]
    del kept
    pair.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_views_outlive_their_receiver(pair):
    data = noise(VIEW)
    _, _, (part,) = pair.pass_on(data)
    pair.close()
    assert part == data
    del part


# -- what goes wrong -----------------------------------------------------------------------------


def refuse(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")


def test_without_a_descriptor_for_it_a_payload_is_not_stored(monkeypatch, pair):
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert pair.sender.store(b"", [memoryview(noise(VIEW))]) is None


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_without_memory_for_it_a_payload_is_not_stored_and_the_slot_is_good(
    monkeypatch, pair, call
):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        assert pair.sender.store(b"", [memoryview(noise(VIEW))]) is None
    data = noise(VIEW)
    assert pair.pass_on(data)[2] == [data]


def test_a_slot_that_could_not_be_written_is_the_next_payloads(monkeypatch, pair):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        for _ in range(2 * SLOTS):
            pair.sender.store(b"", [memoryview(noise(VIEW))])
    assert pair.pass_on(noise(VIEW))[0] != ONCE


def test_a_descriptor_that_the_kernel_could_not_pass_on_is_one_clear_error(pair):
    parcel = pair.sender.store(b"", [memoryview(noise(VIEW))])
    pair.receiver.accept(parcel.slot.index, -1)
    with pytest.raises(OSError, match="no file descriptor left"):
        pair.receiver.open(memoryview(parcel.body))


def test_after_a_segment_of_its_own_was_lost_the_next_one_arrives(pair):
    kept = [pair.pass_on(noise(VIEW)) for _ in range(SLOTS)]
    parcel = pair.sender.store(b"", [memoryview(noise(VIEW))])
    pair.receiver.accept(ONCE, -1)
    with pytest.raises(OSError, match="no file descriptor left"):
        pair.receiver.open(memoryview(parcel.body))
    data = noise(VIEW)
    index, _, parts = pair.pass_on(data)
    assert (index, parts) == (ONCE, [data])
    del kept


def test_a_payload_that_cannot_be_mapped_frees_its_slot(monkeypatch, pair):
    parcel = pair.send(noise(VIEW))
    with monkeypatch.context() as patch:
        patch.setattr(_segments.mmap, "mmap", refuse)
        with pytest.raises(OSError, match="Too many"):
            pair.receiver.open(memoryview(parcel.body))
    assert pair.flags[parcel.slot.index] == FREE


def test_a_segment_that_is_too_short_is_an_error_and_no_hang(pair):
    parcel = pair.send(noise(BIG))
    os.ftruncate(parcel.slot.fd, 100)
    with pytest.raises(OSError, match="shorter"):
        pair.receiver.open(memoryview(parcel.body))


# -- in any order --------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Frames are read in order and later than sent; views live as long as they like.

    The sizes above which a payload is viewed are made small, so that much happens in little time.
    """

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_segments, "VIEW", 512)
        self.patch.setattr(_segments, "BIG", 256)
        self.pair = Pair(mapped=bool(random.getrandbits(1)))
        self.sent = deque()  # frames on their way
        self.live = []  # (buffer, what it must contain)
        self.others = []  # the same, in "children": descriptors of what was mapped at a fork

    @rule(sizes=st.lists(st.sampled_from([0, 1, 100, 511, 512, 5000]), max_size=3))
    def send(self, sizes):
        inside = not any(sizes) or bool(len(sizes) % 2)
        buffers, pickled = [noise(size) for size in sizes], noise(300 if inside else 20)
        parcel = self.pair.sender.store(pickled, [memoryview(each) for each in buffers])
        slot = parcel.slot
        fd = -1 if slot.announced else os.dup(slot.fd)
        slot.announced = True
        if slot.index != ONCE:
            assert self.pair.flags[slot.index] == FREE
            self.pair.flags[slot.index] = USED
        self.sent.append((slot.index, fd, parcel.body, pickled, buffers))

    @precondition(lambda self: self.sent)
    @rule()
    def read(self):
        index, fd, body, pickled, buffers = self.sent.popleft()
        if fd >= 0:
            self.pair.receiver.accept(index, fd)
        there, parts = self.pair.receiver.open(memoryview(body))
        assert bytes(there) == pickled
        self.live += [[part, data] for part, data in zip(parts, buffers, strict=True)]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def drop(self, data):
        del self.live[data.draw(st.integers(0, len(self.live) - 1))]

    @rule()
    def drop_all(self):
        self.live.clear()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def write(self, data):
        entry = self.live[data.draw(st.integers(0, len(self.live) - 1))]
        entry[1] = noise(len(entry[1]))
        entry[0][:] = entry[1]

    @rule()
    def fork(self):
        receiver = self.pair.receiver
        for index, _ in receiver._live.values():
            copy = os.dup(receiver._fds[index])
            self.others.append((copy, os.pread(copy, 1 << 20, 0)))
        receiver.retire()

    @rule()
    def trim(self):
        self.pair.sender.trim()

    @invariant()
    def all_is_as_it_was(self):
        for part, data in self.live:
            assert part == data
        for fd, data in self.others:
            assert os.pread(fd, len(data) + 1, 0)[: len(data)] == data

    @invariant()
    def a_slot_with_a_view_is_not_free(self):
        for index, mapping in self.pair.receiver._live.values():
            assert mapping() is None or self.pair.flags[index] == USED

    def teardown(self):
        for index, fd, *_ in self.sent:
            if fd >= 0:
                self.pair.receiver.accept(index, fd)
        for fd, _ in self.others:
            os.close(fd)
        self.live.clear()
        self.pair.close()
        self.patch.undo()


def test_no_order_of_events_disturbs_a_view():
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=60,
            stateful_step_count=60,
            suppress_health_check=list(HealthCheck),
        ),
    )
