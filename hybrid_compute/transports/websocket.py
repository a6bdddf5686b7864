"""WebSocket: frames both ways over one connection, by way of websocket-client.

Owns the socket, the thread that listens on it, its pings, and the bytes that wait to be written.
Of websocket-client it uses the handshake. Not its loop, which takes frames of any size, joins
fragments in quadratic time, and tells nothing of why a connection ended; not its connect, which
follows redirects with the token in hand; and not its frames, whose objects take longer to make than
all else that sends a small one.

    send -> _out -> the socket, as far as it takes them; who reads writes the rest
    who reads: poll -> read -> whole messages -> on_frame ...
    the thread: ... -> on_lost, once, last

Threads and locks: one thread, from `open` to `on_lost`. It reads, but for the time that it lends
that to callers who wait (`attend`; `_turns` has the rules, and what wakes whom). `_lock` guards
`_out` and the writing; for TLS also the reading, since an SSL object is for one thread at a time.
The socket does not block, so neither does who holds the lock.

Why nothing can hang: who reads waits in `poll` alone, at most until the next ping is due. A peer
that sends no pong in time is lost, whatever else it sends; so is one that reads nothing, for it
reads no ping. (A few lines over 400: who reads and who writes share what they have to know.)
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import (
    HybridComputeError,
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
)
from hybrid_compute.transports._frames import (
    Masks,
    error_of_close,
    frame_of,
    head_of,
    is_sound,
)
from hybrid_compute.transports._handshake import shake_hands
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports._timed import Budget, TimedSocket, dial
from hybrid_compute.transports._turns import Turns, Watch

if TYPE_CHECKING:
    from hybrid_compute.transports import OnFrame, OnLost
    from hybrid_compute.transports._access import Access

__all__ = ["WebSocketTransport"]

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_SOON = 20e-6  # seconds; who is asleep takes longer to wake
_READ = 64 * 1024
_MAX_HANDSHAKE = 128 * 1024  # bytes of headers and, of a refusal, of its page
_MAX_PONGS = 64


class WebSocketTransport:
    """One connection; see `Transport` for the contract.

    Attributes:
        own: whether the server is known as ours.
        binary: whether it takes the binary sub-protocol.
        answer: the headers of its handshake, by names in lower case.
    """

    binary: bool
    own: bool

    def __init__(
        self,
        access: Access,
        *,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        round_trips: RoundTrips | None = None,
    ) -> None:
        self._access = access
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._round_trips = round_trips or RoundTrips()
        self.own = self.binary = False
        self.answer: Mapping[str, str] = {}
        self._lock = threading.RLock()  # see above; re-entrant: finalizers may send
        self._out: deque[memoryview] = deque()
        self._masks = Masks()
        self._behind = False  # the socket did not take all that there was, when last looked
        self._sock: Any = None
        self._closing: Exception | None = None
        self._turns: Turns | None = None
        self._nudged: Callable[[], object] | None = None
        # What follows is his who reads.
        self._in = bytearray()
        self._pongs = 0  # since all was written that there was
        self._parts: list[bytes] = []  # of a message that comes in fragments
        self._size = 0  # of these
        self._plenty = False  # when he last looked, something had come already
        self._polling = False  # he sleeps: a signal's handler may read as well
        self._pinged: float | None = None  # since when a pong is due
        self._next_ping = 0.0
        self._tls = access.tls
        self.thread: threading.Thread | None = None

    # -- opening -----------------------------------------------------------------------------

    def open(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        """Connect, shake hands, and start to listen."""
        access = self._access
        headers = access.headers_now()
        budget = Budget(time.monotonic() + access.connect_timeout, _MAX_HANDSHAKE)
        sock = dial(access, budget)
        try:
            self.own, self.binary, self.answer = shake_hands(
                access, TimedSocket(sock, budget), headers, self._round_trips
            )
            sock.settimeout(0)
            self._turns = turns = Turns()
        except BaseException:
            sock.close()
            raise
        self._sock, self._on_frame = sock, on_frame
        self._next_ping = time.monotonic() + self._ping_interval
        self._guests_watch = Watch(sock, turns.alarm(guest=True))
        self.thread = threading.Thread(
            target=self._run, args=(turns, on_lost), name=f"websocket {access.host}", daemon=True
        )
        try:
            self.thread.start()
        except BaseException:
            sock.close()
            turns.close()
            raise

    # -- writing -----------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a message: a binary one if the binary sub-protocol was agreed upon, else text."""
        self._write(frame, _BINARY if self.binary else _TEXT)

    def _write(self, data: bytes, opcode: int) -> None:
        message = memoryview(frame_of(data, opcode, self._masks.next()))
        with self._lock:
            if self._closing is not None:
                return
            self._out.append(message)
            if len(self._out) == 1:
                self._flush()
            behind = self._behind = bool(self._out)
        if behind:
            self._wake_up()

    def _flush(self) -> None:
        """Write what the socket takes. With the lock held."""
        try:
            while self._out:
                head = self._out[0]
                done = self._sock.send(head)
                if self._closing is not None:  # by a finalizer, just now
                    return
                if done < len(head):
                    self._out[0] = head[done:]
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            import ssl  # noqa: PLC0415 - a part of `socket`'s own errors for TLS

            if not isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                self._end(self._lost(error))

    def _end(self, why: Exception) -> None:
        with self._lock:
            if self._closing is None:
                self._closing = why
                self._out.clear()

    def nudge(self, do: Callable[[], object], *, patient: bool = False) -> bool:
        """Have the thread call a function soon, once for all nudges till then.

        Args:
            do: the function; it is the same for all nudges.
            patient: who calls will most likely `attend` in a moment, and do as much.

        Returns:
            False: this is the thread, or it has ended. If it ends later, `on_lost` is yet to come.
        """
        turns = self._turns  # read once: it goes when the thread ends
        if turns is None or (self._nudged is None and self.reads_here()):
            return False
        idle, self._nudged = self._nudged is None, do
        # What was said patiently before may have woken nobody.
        if not patient or (idle and not turns.is_mine()):
            turns.wake()
        return True

    def _wake_up(self) -> None:
        """Have who reads look up, and the thread."""
        turns = self._turns
        if turns is not None:
            turns.ring()
            turns.wake()

    def close(self) -> None:
        """Say good-bye, as far as the socket takes it at once, and end."""
        self._write(struct.pack("!H", 1000), _CLOSE)
        self._end(RemoteConnectionLost("the connection was closed here", may_have_run=True))
        self._wake_up()

    def _lost(self, error: BaseException) -> RemoteConnectionLost:
        return RemoteConnectionLost(
            f"the connection to {self._access} was lost: {str(error) or type(error).__name__}",
            may_have_run=True,
        )

    # -- reading -----------------------------------------------------------------------------

    def _run(self, turns: Turns, on_lost: OnLost) -> None:
        turns.begin()
        watch = self._threads_watch = Watch(self._sock, turns.alarm(guest=False))
        try:
            while True:
                if self._step(watch) and turns.asked:
                    turns.lend(self._needs_thread, self._turn)
        except Exception as error:
            self._fail(error)
        with self._lock:
            self._turns = None
            self._sock.close()
            self._out.clear()
        turns.close()
        why = self._closing or self._lost(EOFError("its end"))
        on_lost(why)

    def _fail(self, error: BaseException) -> None:
        # Whatever it is, the calls must be told.
        self._end(error if isinstance(error, HybridComputeError) else self._lost(error))

    def _needs_thread(self) -> bool:
        return self._closing is not None or self._behind

    def _turn(self) -> None:
        nudged, self._nudged = self._nudged, None  # before it is called
        if nudged is not None:
            nudged()

    def attend(self, over: Callable[[], object], timeout: float | None) -> None:
        """Read, in the place of the thread, until something is over: if that is to be.

        For who is about to wait for it; see `Turns`. It may return at any time. What changes
        `over` on another thread calls `ring` after that.

        Args:
            over: says whether it is.
            timeout: seconds after which to return; None: never mind.
        """
        turns = self._turns
        if turns is None:
            return
        inner = turns.reads_here()
        if inner and not self._polling:
            return  # a signal's handler, in the middle of a frame
        try:
            if inner:
                self._read_until(over, timeout, Watch(self._sock, turns.alarm(guest=True)))
            elif turns.enter():
                self._read_until(over, timeout, self._guests_watch)
        except Exception as error:
            self._fail(error)
        except BaseException as error:
            if turns.reads_here() and not self._polling:  # in the middle of a frame, perhaps
                self._in.clear()
                self._fail(error)
            raise
        finally:
            try:
                self._leave(turns, inner)
            except BaseException:  # Ctrl-C, just now
                self._leave(turns, inner)
                turns.wake()
                raise

    def _read_until(self, over: Callable[[], object], timeout: float | None, watch: Watch) -> None:
        end, left = None if timeout is None else time.monotonic() + timeout, timeout
        while self._closing is None and not over():
            if end is not None and (left := end - time.monotonic()) <= 0:
                break
            self._step(watch, left)

    def _leave(self, turns: Turns, inner: bool) -> None:
        if inner:
            self._polling = True
            turns.ring_here()  # who was interrupted may have what he sleeps for
        elif turns.reads_here():
            self._polling = False
            turns.leave()
        if self._closing is not None:
            turns.wake()

    def reads_here(self) -> bool:
        """Say whether this is the connection's own thread."""
        return threading.current_thread() is self.thread

    def join(self) -> None:
        """Block until the thread has ended."""
        if self.thread is not None:
            self.thread.join()

    def ring(self) -> None:
        """Have who attends on another thread look whether it is over."""
        turns = self._turns
        if turns is not None:
            turns.ring()

    def recall(self) -> None:
        """Have the thread read: who wants an answer does not come to `attend`."""
        turns = self._turns
        if turns is not None:
            turns.recall()

    def _step(self, watch: Watch, timeout: float | None = None) -> bool:
        """Read what there is, or act on a frame that was read; say whether it was data."""
        frame = self._frame(self._access.max_bytes - self._size)
        if frame is None:
            self._fill(watch, timeout)
            return False
        fin, opcode, data = frame
        if opcode == _CLOSE:
            # Not a code that may not be sent: 1002 says that the frame broke the rules.
            self._write(data[:2] if is_sound(data) else struct.pack("!H", 1002), _CLOSE)
            raise error_of_close(data, self._access)
        if opcode == _PING:
            self._pongs = self._pongs + 1 if self._out else 0
            if self._pongs < _MAX_PONGS:  # to who reads none: they would pile up
                self._write(data, _PONG)
        elif opcode == _PONG:
            if self._pinged is not None:
                self._round_trips.add(time.monotonic() - self._pinged)
            self._pinged = None
        elif opcode in ((0,) if self._parts else (_TEXT, _BINARY)):
            if fin and not self._parts:
                self._on_frame(data)
                return True
            self._parts.append(data)
            self._size += len(data) + 64  # an empty fragment takes memory too
            if fin:
                parts, self._parts, self._size = self._parts, [], 0
                self._on_frame(b"".join(parts))
        else:
            raise ProtocolError(f"{self._access} sent a frame of opcode {opcode} out of turn")
        return False

    def _frame(self, limit: int) -> tuple[int, int, bytes] | None:
        """Return the next frame; None if it has not come in full."""
        buffer = self._in
        found = head_of(buffer)
        if found is None:
            return None
        head, first, length = found
        fin, opcode = first & 0x80, first & 0x0F
        if length < 0:
            raise ProtocolError(f"{self._access} sent a frame that is masked or has reserved bits")
        if opcode >= _CLOSE and (length > 125 or not fin):
            raise ProtocolError(f"{self._access} sent a control frame that is too long")
        if length > limit:
            self._write(struct.pack("!H", 1009), _CLOSE)
            raise PayloadTooLarge(
                f"{self._access} sends a message of more than {self._access.max_bytes} bytes; send "
                "less, or give max_bytes=",
                limit=self._access.max_bytes,
            )
        end = head + length
        if len(buffer) < end:
            return None
        data = bytes(memoryview(buffer)[head:end])
        del buffer[:end]
        return fin, opcode, data

    def _fill(self, watch: Watch, timeout: float | None) -> None:
        """Read some bytes, if there are some in time; meanwhile write, and see to the pings."""
        with self._lock:
            if self._closing is not None:
                raise self._closing
            if self._out:
                self._flush()
            write = self._behind = bool(self._out)
            data = self._read_tls() if self._tls else None
        pause = self._keep_alive()
        if data is None and self._plenty and watch is not self._threads_watch:
            # The thread has its turns to take, and does that when it was woken; a guest has not.
            data = self._read_now()
            self._plenty = data is not None
        if data is None:
            begun = time.monotonic()
            self._polling = True
            readable, alarm = watch.wait(pause if timeout is None else min(pause, timeout), write)
            self._polling = False
            if alarm:
                watch.quiet()
                if watch is self._threads_watch:
                    self._turn()
            if self._tls or not readable:
                return
            data = self._read_now()
            if data is None:
                return
            self._plenty = time.monotonic() - begun < _SOON
        if not data:
            raise self._lost(EOFError("the other end hung up without a word"))
        self._in += data

    def _read_now(self) -> bytes | None:
        """Read what there is; None if there is nothing. Not with TLS, which writes as well."""
        try:
            data: bytes = self._sock.recv(_READ)
        except BlockingIOError:
            return None
        return data

    def _read_tls(self) -> bytes | None:
        """Read what there is; None if nothing can be read yet. With the lock held."""
        import ssl  # noqa: PLC0415 - see `_flush`

        try:
            data: bytes = self._sock.recv(_READ)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        return data

    def _keep_alive(self) -> float:
        """Ping if it is time to; return the seconds until there is something to do again."""
        now = time.monotonic()
        if self._pinged is not None:
            if now >= self._pinged + self._ping_timeout:
                raise self._lost(
                    TimeoutError(f"no pong came within {self._ping_timeout:g} s of a ping")
                )
            return self._pinged + self._ping_timeout - now
        if now >= self._next_ping:
            self._pinged, self._next_ping = now, now + self._ping_interval
            self._write(b"", _PING)
            return self._ping_timeout
        return self._next_ping - now
