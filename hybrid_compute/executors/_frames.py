"""What a caller and its worker processes say to each other, and the memory that they share.

Owns the layout of frames and of the journal; knows no queue and no process. Both sides import
it, a worker before anything else, so it imports only what is built in. No threads, no locks:
each object here belongs to one thread at a time.

A frame is a header (length of the body, a number, a kind) and the body, which is left alone
until somebody unpickles it inside a `try`. Calls are numbered from 1 for each worker, in the
order in which they were sent, and answered in that order.

    caller to worker                        worker to caller
    SETUP    body: a marshalled tuple,      READY        the initializer has run
             see `_worker`                  UNFIT        body: why it has not; the worker ends
    FUNCTION body: a pickled function,      VALUE, ERROR body: how call `number` ended
             for which `number` stands      UNDECODABLE  body: why; none of the message was run
             from now on; b"": no longer    RETURNED     `number` and what is behind were not run
    CALLS    number: of the first call      END          `number`: nanoseconds that the calls took
             body: a pickle of one call,                 body: see TIMES; b"": none ran
             or of a list of calls

    LEVELS   body: see `_logs`              LOG          body: a record, see `_worker_logs`

                                            BEGUN, ITEMS, PICKLES, ITEM_APART  see `_production`
                                            NEST         call `number` is about to ask something
                                                         by the link, whose end came along with
                                                         the first one; see `_agents`

    both: SEGMENT  a file descriptor comes along, for slot `number`
          CALLS_APART, VALUE_APART  the same as CALLS and VALUE, with a payload in a slot;
                   see `_segments`

The journal is one piece of memory for each worker, which outlives the worker's death: words,
each written by one side only, and an area that holds the worker's answers until they are sent
through the socket. Answers are a stream of bytes: BASE says how many have left the area for
good, WRITTEN how many wait in it. Whoever has received R bytes of the stream finds byte R at
`area[R - BASE]`, be the writer alive, asleep in a long call, or dead.
"""

from __future__ import annotations

import _socket
import mmap
from struct import Struct

from hybrid_compute.executors._segments import FLAG_BYTES

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator

__all__ = [
    "AREA_BYTES",
    "ATTENTION",
    "BASE",
    "BEGUN",
    "CALLS",
    "CALLS_APART",
    "CLOSING",
    "CONSUMED",
    "CONSUMED_BYTES",
    "CONSUMING",
    "DECODING",
    "END",
    "ENDING",
    "ERROR",
    "FUNCTION",
    "HEADER",
    "ITEMS",
    "ITEM_APART",
    "JOURNAL_BYTES",
    "LENGTH",
    "LEVELS",
    "LIMIT",
    "LOG",
    "NEST",
    "NO_LIMIT",
    "NO_STATUS",
    "PARKED",
    "PICKLES",
    "READY",
    "REPORT",
    "REQUEST",
    "RETURNED",
    "SEGMENT",
    "SETUP",
    "STARTED",
    "TIMES",
    "TRACE",
    "UNDECODABLE",
    "UNFIT",
    "VALUE",
    "VALUE_APART",
    "WRITTEN",
    "Inbox",
    "Journal",
]

HEADER = Struct("<QQB")  # length of the body, number, kind

SETUP, CALLS, CALLS_APART, FUNCTION = 1, 2, 3, 4
READY, UNFIT, VALUE, VALUE_APART, ERROR, UNDECODABLE, RETURNED, END = range(11, 19)
SEGMENT, BEGUN, ITEMS, PICKLES, ITEM_APART, NEST = range(21, 27)
LEVELS, LOG = 31, 32

LENGTH = Struct("<Q")  # of one of several pickles in a frame
# Of the calls of a message, behind END: nanoseconds without those in which others had the core,
# and how many of them were CPU.
TIMES = Struct("<QQ")

# What the caller and the spawner say to each other.
REQUEST = Struct("<Q")  # serial of the worker; its socket and journal come along
REPORT = Struct("<Qqq")  # serial, pid or -1, wait status, NO_STATUS or errno of a failed fork
NO_STATUS = -1

# Words of the journal. The caller writes LIMIT, the worker the others.
STARTED = 0  # number of the call that runs or ran last; written before it runs
DECODING = 1  # number of the first call of the message that was read last
BASE = 2  # bytes of answers that have left the area
WRITTEN = 3  # bytes of answers in the area, complete ones
LIMIT = 4  # calls from this number on must not start
NO_LIMIT = (1 << 64) - 1
# Of a stream; the caller writes them, and the worker some as well: see `_production`.
CONSUMED, CONSUMED_BYTES, CONSUMING, ATTENTION, CLOSING, ENDING, PARKED = range(5, 12)

_WORDS_BYTES = 128
_FLAGS_BYTES = 64  # those of the slots of both directions, and some to spare
AREA_BYTES = 1 << 16  # answers are sent at the latest when they fill it
_TRACE_BYTES = 1 << 13  # what faulthandler writes when the worker crashes
_AREA = _WORDS_BYTES + _FLAGS_BYTES
TRACE = _AREA + AREA_BYTES  # where that is
JOURNAL_BYTES = TRACE + _TRACE_BYTES

_FD = Struct("i")
_FD_SPACE = _socket.CMSG_SPACE(_FD.size)
_TRUNCATED = _socket.MSG_CTRUNC
_CLOEXEC = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)

_BUFFER_BYTES = 1 << 18  # more than a Unix socket holds by default: one system call empties it


class Journal:
    """The shared memory behind a file descriptor, which may be closed afterwards.

    Attributes:
        words: see above.
        call_flags: those of the slots for calls; see `_segments`.
        value_flags: those of the slots for results.
        area: see above.

    A word is written and read in one piece. The order in which a living worker's writes become
    visible is another matter: see `_answers.Answers.overdue`, the only one whom it concerns.
    """

    __slots__ = ("_map", "_view", "area", "call_flags", "value_flags", "words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, JOURNAL_BYTES)
        self._view = memoryview(self._map)
        self.words = self._view[:_WORDS_BYTES].cast("Q")
        flags = self._view[_WORDS_BYTES:_AREA]
        self.call_flags = flags[:FLAG_BYTES]
        self.value_flags = flags[FLAG_BYTES : 2 * FLAG_BYTES]
        self.area = self._view[_AREA : _AREA + AREA_BYTES]

    def unsent(self, received: int) -> bytes:
        """Return the answers behind the first `received` bytes; b"" if they are not here."""
        base = self.words[BASE]
        place = received - base
        answers = bytes(self.area[place : self.words[WRITTEN]]) if place >= 0 else b""
        return answers if self.words[BASE] == base else b""  # the worker was sending them

    def stack(self) -> str:
        """Return what faulthandler wrote when the worker crashed; "" if nothing."""
        written = bytes(self._view[TRACE:]).partition(b"\0")[0]
        return written.decode(errors="replace").strip()

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self.call_flags.release()
        self.value_flags.release()
        self.area.release()
        self._view.release()
        self._map.close()


class Inbox:
    """Cuts what arrives on a socket into frames.

    Attributes:
        received: how many bytes of the stream are here or were here.
        fds: the descriptors that came with SEGMENT frames, in order; -1 where the kernel had to
            drop one, since this process has too many.
    """

    __slots__ = ("_buffer", "_end", "_skip", "_sock", "_start", "_view", "fds", "received")

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # what is here and not yet taken
        self._skip = 0  # bytes that `inject` was given, and that the socket will bring again
        self.received = 0
        self.fds: list[int] = []

    def fill(self) -> bool:
        """Receive once; False at the end of the stream.

        Raises:
            BlockingIOError: nothing is there, and the socket does not block.
            OSError: the other side is gone; what it had sent before was received before.
        """
        self._make_room()
        count, ancillary, flags, _ = self._sock.recvmsg_into(
            (self._view[self._end :],), _FD_SPACE, _CLOEXEC
        )
        if ancillary or flags & _TRUNCATED:
            self._keep_fds(ancillary)
        if not count:
            return False
        if self._skip:
            known = min(self._skip, count)
            self._skip -= known
            fresh = bytes(self._view[self._end + known : self._end + count])
            count = len(fresh)
            self._view[self._end : self._end + count] = fresh
        self._end += count
        self.received += count
        return True

    def _keep_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        # The kernel never joins what came with one descriptor to what came with another.
        self.fds += [_FD.unpack_from(content)[0] for *_, content in ancillary] or [-1]

    def inject(self, data: bytes) -> None:
        """Take the next bytes of the stream from elsewhere, before the socket brings them."""
        while data:
            self._make_room()
            part = data[: len(self._buffer) - self._end]
            self._view[self._end : self._end + len(part)] = part
            self._end += len(part)
            self._skip += len(part)
            self.received += len(part)
            data = data[len(part) :]
            if data:
                self._grow(self._end - self._start + len(data))

    def __iter__(self) -> Iterator[tuple[int, int, memoryview]]:
        """Take all complete frames: kind, number, body. A body is gone with the next `fill`."""
        unpack, size = HEADER.unpack_from, HEADER.size
        while self._end - self._start >= size:
            length, number, kind = unpack(self._buffer, self._start)
            body = self._start + size
            if self._end - body < length:
                break
            self._start = body + length
            yield kind, number, self._view[body : self._start]

    def _make_room(self) -> None:
        """See that the next receive has somewhere to go; up to all of a frame that is large."""
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            if len(self._buffer) > _BUFFER_BYTES:
                self._grow(_BUFFER_BYTES)  # back to normal after a large frame
            return
        waiting = end - start
        needed = HEADER.size
        if waiting >= needed:
            needed += HEADER.unpack_from(self._buffer, start)[0]
        if start + needed > len(self._buffer):
            self._grow(max(needed, _BUFFER_BYTES))

    def _grow(self, size: int) -> None:
        # A new buffer rather than a move within the old one: nobody may look at that any more,
        # but bodies that were handed out may still be there.
        waiting = self._view[self._start : self._end]
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._view[: len(waiting)] = waiting
        self._start, self._end = 0, len(waiting)
