"""Large payloads: they travel through memory that caller and worker both map, not the socket.

Owns the segments (anonymous shared memory behind file descriptors: nothing has a name, so the
kernel frees all of it with the last descriptor and mapping, however a process dies), when one may
be written again, and what a receiver makes of one. Both sides import it, a worker before anything
else. No threads, no locks: a `Sender` belongs to who feeds the worker, a `Receiver` to who reads.

    sender                                   receiver
    store(parts) -> a slot that is free
    SEGMENT frame with the descriptor, once  accept(): keeps it
    flag = USED, then the frame that needs   open(): maps it privately, or copies what is small
    it                                       ... the last view is gone: flag = FREE

Each direction of each worker has 16 slots, with one byte of flags each in the journal. A slot is
written only while its flag says FREE, which the receiver alone sets, after its last view of it
died; so neither side can disturb the other, and a worker that keeps an argument for ever costs a
slot and nothing else. When all slots are taken the payload gets a segment for itself (ONCE), which
the receiver copies.

A view is a private mapping: writing into it copies pages and changes nobody else's data, so an
argument or a result is as much the receiver's own as if it had been copied. That includes its
forks: a child inherits the mapping, and would see the next payload in it if the slot were written
again. Hence a fork retires what is mapped at that moment (`retire`): such slots are never reused.

Fresh memory is dear (the kernel clears it, page by page) and written slots stay warm, which makes
the second payload three times as fast as the first. `trim` gives back what is not in use.
"""

from __future__ import annotations

import mmap
import os
from _weakref import ref
from struct import Struct

from hybrid_compute._pickling import BIG

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = [
    "FLAG_BYTES",
    "ONCE",
    "SLOTS",
    "USED",
    "Parcel",
    "Receiver",
    "Sender",
    "Slot",
    "shared_memory",
]

VIEW = 1 << 20  # bytes; below that, copying is quicker than mapping and unmapping

SLOTS = 16
FLAG_BYTES = SLOTS  # one byte for each slot
ONCE = 0xFFFF  # in place of a slot
FREE, USED, RETIRED = 0, 1, 2

_ALIGN = 64  # bytes: whatever lies in a segment starts where a cache line does
_HEAD = Struct("<QQQ")  # slot, bytes of the pickle that are in the segment, number of buffers
_SIZE = Struct("<Q")
_MOST = 1 << 30  # bytes that one system call is asked to move


def shared_memory(size: int, name: str) -> int:
    """Return the descriptor of `size` bytes of zeros that have no name in any file system.

    Raises:
        OSError: there is no memory or no descriptor left.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"hybrid-compute-{name}")
    else:
        import tempfile  # noqa: PLC0415 - only where there is no memfd

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    try:
        if size:
            os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Slot:
    """A segment of the sender's. Its descriptor is closed with it.

    Attributes:
        fd: the descriptor.
        index: its place among the sender's slots, or ONCE.
        capacity: bytes that have been written to it, and are there.
        announced: the receiver has the descriptor, or will have it before it needs it.
    """

    __slots__ = ("_map", "announced", "capacity", "fd", "index")

    def __init__(self, index: int) -> None:
        self._map: mmap.mmap | None = None
        self.fd = -1
        self.fd = shared_memory(0, "payload")
        self.index = index
        self.capacity = 0
        self.announced = False

    def write(self, parts: Sequence[memoryview], size: int, *, mapped: bool) -> None:
        """Write the parts, each at the next multiple of 64 bytes.

        Args:
            parts: contiguous bytes.
            size: where the last one ends.
            mapped: keep what was written before mapped, which halves the time of writing it
                again, and counts as memory of this process.

        Raises:
            OSError: there is no memory left.
        """
        if mapped and size <= self.capacity:
            if self._map is None:
                self._map = mmap.mmap(self.fd, self.capacity)
            place = 0
            for part in parts:
                self._map[place : place + part.nbytes] = part
                place += _aligned(part.nbytes)
            return
        if self._map is not None:
            self._map.close()
            self._map = None
        place = 0
        for part in parts:
            _write(self.fd, part, place)
            place += _aligned(part.nbytes)
        if size > self.capacity:
            os.ftruncate(self.fd, size)  # it may end in a part of no bytes
            self.capacity = size

    def give_back(self) -> None:
        """Free the memory, though the receiver keeps its descriptor."""
        if self._map is not None:
            self._map.close()
        os.ftruncate(self.fd, 0)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Parcel:
    """A payload in a slot, and the body of the frame that tells of it."""

    __slots__ = ("body", "slot")

    def __init__(self, slot: Slot, body: bytes) -> None:
        self.slot = slot
        self.body = body


class Sender:
    """Puts payloads into segments.

    Attributes:
        flags: those of the slots, shared with the receiver.
        has_some: there is memory that `trim` might free.
    """

    __slots__ = ("_mapped", "_slots", "flags", "has_some")

    def __init__(self, flags: Any, *, mapped: bool) -> None:
        self.flags = flags
        self._slots: list[Slot | None] = [None] * SLOTS
        self._mapped = mapped
        self.has_some = False

    def store(self, pickled: bytes, buffers: list[memoryview]) -> Parcel | None:
        """Write a payload into a segment; the caller sets the flag when it sends the frame.

        Args:
            pickled: the pickle; left in the frame if it is small.
            buffers: what was kept out of it.

        Returns:
            None if no shared memory is to be had; then the socket must do.
        """
        inside = len(pickled) if len(pickled) >= BIG else 0
        parts = [memoryview(pickled), *buffers] if inside else buffers
        size = 0
        for part in parts:
            size = _aligned(size) + part.nbytes
        try:
            slot = self._free_slot(size)
            slot.write(parts, size, mapped=self._mapped)
        except OSError:
            return None
        body = b"".join(
            (
                _HEAD.pack(slot.index, inside, len(buffers)),
                *(_SIZE.pack(each.nbytes) for each in buffers),
                b"" if inside else pickled,
            )
        )
        return Parcel(slot, body)

    def _free_slot(self, size: int) -> Slot:
        """Return the free slot that fits best, else the largest, else a new one."""
        best: Slot | None = None
        empty = -1
        for index, slot in enumerate(self._slots):
            flag = self.flags[index]
            if slot is None or flag == RETIRED:
                empty = index
            elif flag == FREE and (best is None or _fits_better(slot, best, size)):
                best = slot
        if best is not None:
            return best
        if empty < 0:
            return Slot(ONCE)
        slot = self._slots[empty] = Slot(empty)
        self.has_some = True
        self.flags[empty] = FREE
        return slot

    def trim(self) -> bool:
        """Free the memory of all slots that are not in use; return whether that was all."""
        for index, slot in enumerate(self._slots):
            if slot is not None and self.flags[index] != USED:
                if self.flags[index] == FREE:
                    slot.give_back()
                self._slots[index] = None
        self.has_some = any(self._slots)
        return not self.has_some

    def close(self) -> None:
        """Close all descriptors."""
        self._slots = [None] * SLOTS


class Receiver:
    """Gets payloads out of segments.

    Attributes:
        flags: those of the slots, shared with the sender.
    """

    __slots__ = ("__weakref__", "_fds", "_live", "_mapped", "_pid", "flags")

    def __init__(self, flags: Any) -> None:
        self.flags = flags
        self._fds: dict[int, int] = {}
        # Mappings, each under a number of its own, with its slot.
        self._live: dict[int, tuple[int, ref[mmap.mmap]]] = {}
        self._mapped = 0
        self._pid = os.getpid()

    def accept(self, index: int, fd: int) -> None:
        """Take over the descriptor of a slot; -1 if the kernel could not pass it on."""
        old = self._fds.pop(index, -1)
        if old >= 0:
            os.close(old)
        self._fds[index] = fd

    def open(self, body: memoryview) -> tuple[memoryview, list[memoryview]]:
        """Return the pickle and the buffers of a payload.

        Args:
            body: that of the frame which tells of it.

        Raises:
            OSError: there is no descriptor or no memory left for it.
        """
        index, inside, count = _HEAD.unpack_from(body)
        place = _HEAD.size
        sizes = [inside] if inside else []
        for _ in range(count):
            sizes += _SIZE.unpack_from(body, place)
            place += _SIZE.size
        total = 0
        for size in sizes:
            total = _aligned(total) + size
        whole = memoryview(self._take(index, total))
        parts, at = [], 0
        for size in sizes:
            parts.append(whole[at : at + size])
            at += _aligned(size)
        return (parts[0], parts[1:]) if inside else (body[place:], parts)

    def _take(self, index: int, size: int) -> Any:
        fd = self._fds.get(index, -1)
        if fd < 0:
            raise OSError("a payload is lost: this process has no file descriptor left for it")
        if index == ONCE:
            try:
                return _read(fd, size)
            finally:
                os.close(self._fds.pop(ONCE))
        if size < VIEW:
            try:
                return _read(fd, size)
            finally:
                self.flags[index] = FREE
        try:
            view = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
        except BaseException:
            self.flags[index] = FREE
            raise
        myself = ref(self)
        self._mapped = number = self._mapped + 1

        def freed(_: object) -> None:
            receiver = myself()
            if receiver is not None:
                receiver._freed(number)

        self._live[number] = (index, ref(view, freed))
        return view

    def _freed(self, number: int) -> None:
        # In a forked child this is the parent's business. Whoever gets the entry decides.
        if os.getpid() != self._pid:
            return
        entry = self._live.pop(number, None)
        if entry is not None:
            try:  # noqa: SIM105 - contextlib is not loaded in a worker
                self.flags[entry[0]] = FREE
            except ValueError:  # closed meanwhile
                pass

    def retire(self) -> None:
        """Keep what is mapped from being written again. Called before and after a fork."""
        for number in list(self._live):
            # It may be freed at any time, by any thread; once it is out of here, it never is.
            entry = self._live.pop(number, None)
            if entry is not None:
                self.flags[entry[0]] = RETIRED

    def close(self) -> None:
        """Close all descriptors; views that are alive stay valid."""
        for fd in self._fds.values():
            if fd >= 0:
                os.close(fd)
        self._fds.clear()
        self._live.clear()


def _fits_better(slot: Slot, best: Slot, size: int) -> bool:
    if best.capacity >= size:
        return size <= slot.capacity < best.capacity
    return slot.capacity > best.capacity


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _write(fd: int, part: memoryview, place: int) -> None:
    while part.nbytes:
        count = os.pwrite(fd, part[:_MOST], place)
        part = part[count:]
        place += count


def _read(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view, place = memoryview(data), 0
    while place < size:
        count = os.preadv(fd, [view[place : place + _MOST]], place)
        if not count:
            raise OSError("a payload is shorter than it should be")
        place += count
    return data
