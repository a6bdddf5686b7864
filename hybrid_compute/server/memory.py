"""Memory: how calls ended that had a key, so that a call which comes twice takes effect once.

Owns what is remembered, for how long and how much of it. Keys belong to a token: nobody else's
calls are ever joined or answered by them. ::

    new --(journal: begun)--> RUNNING --ended--(journal: done)--> DONE --age, size--> forgotten
     ^                          | |
     |   it never ran: declined | `--stopped, or found `begun` by a restart--> UNKNOWN --age-->
     `---- or cancelled before -'                                                  |
      (an idempotent task runs again) <-------------------------------------------'

What holds:

- Of the calls with one key, one runs. The others wait for its outcome, and get the same one.
- A call that has ended is not run again while it is remembered. What is remembered is bounded by
  seconds and bytes, the oldest goes first; what runs is bounded by the limits of the service.
- With a journal (`serve --remember FILE`) that holds across the end of the server, however it
  ends: a call is on disk before it runs, and its outcome before it is answered. One that was begun
  and has no outcome then may have run, and nobody can tell: it is answered so (status 409), and
  does not run again, unless its task is declared idempotent. Without a journal a restart forgets
  everything.
- What was refused, or declined for want of room, never ran and is not remembered.

Threads: `_lock` guards the entries; no future is told and nothing is started with it held. A call's
end comes on any thread.
"""

from __future__ import annotations

import enum
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from hybrid_compute._failures import short
from hybrid_compute.errors import ExecutorUnavailable, PayloadTooLarge
from hybrid_compute.protocol.codec import MAX_BYTES, Codec
from hybrid_compute.protocol.messages import Failed
from hybrid_compute.protocol.values import Refused
from hybrid_compute.server.failures import Remembered
from hybrid_compute.server.gate import Refusal
from hybrid_compute.tasks import Task

if TYPE_CHECKING:
    from hybrid_compute.server.journal import Journal

__all__ = ["Memory", "Shared", "mark_of"]

_OVERHEAD = 500  # bytes that an entry takes beside its outcome
_UNKNOWN = Failed(
    0,
    "the call was begun once, and the server was ended in the midst of it: it may have run, and is "
    "not run again",
    409,
    "OutcomeUnknown",
)

Start = Callable[[], "Future[Any]"]


class _State(enum.Enum):
    RUNNING = 1
    DONE = 2
    UNKNOWN = 3


class Shared(Future[Any]):
    """The outcome of a call with a key, for one of those who wait for it."""

    def __init__(self, entry: _Entry) -> None:
        super().__init__()
        self._entry = entry
        self.set_running_or_notify_cancel()  # to cancel one wish is not to end the call

    def cancel_running(self) -> bool:
        """End the call itself. Blocks; anybody else who waits for it sees that."""
        inner = self._entry.inner
        if inner is None or inner.done():
            return False
        if inner.cancel():
            return True
        self._entry.stopped = True
        cancel = getattr(inner, "cancel_running", None)
        return bool(cancel is not None and cancel())


class _Entry:
    """One key."""

    __slots__ = ("at", "inner", "mark", "outcome", "state", "stopped", "waiting")

    def __init__(self, mark: bytes, state: _State = _State.RUNNING) -> None:
        self.mark: bytes = mark
        self.state: _State = state
        self.inner: Future[Any] | None = None
        self.waiting: list[Shared] = []
        self.outcome: bytes = b""
        self.stopped: bool = False
        self.at: float = 0.0

    @property
    def size(self) -> int:
        return _OVERHEAD + len(self.outcome)


class Memory:
    """What one server remembers."""

    def __init__(
        self,
        describe: Callable[[BaseException], Failed],
        *,
        seconds: float,
        max_bytes: int,
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember nothing yet, or what a journal has.

        Args:
            describe: returns what callers are told of a failure.
            seconds: for which an outcome is remembered.
            max_bytes: of all outcomes.
            journal: keeps them on disk.
            clock: monotonic seconds.
        """
        self._describe = describe
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._journal = journal
        self._clock = clock
        self._codec = Codec(tagged=True, max_bytes=max(max_bytes, 4 * MAX_BYTES))
        self._lock = threading.RLock()  # guards all below
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._over: OrderedDict[tuple[str, str], _Entry] = OrderedDict()  # oldest first
        self._bytes = 0
        for name, mark, outcome, age in () if journal is None else journal.load():
            entry = _Entry(mark, _State.UNKNOWN if outcome is None else _State.DONE)
            entry.outcome = outcome or b""
            entry.at = clock() - age
            self._entries[name] = entry
            self._keep(name, entry)
        self._expire()

    def __len__(self) -> int:
        return len(self._entries)

    def run(self, token: str, key: str, mark: bytes, start: Start, *, idempotent: bool) -> Shared:
        """Run a call, or join the one that runs under its key, or answer as that was answered.

        Args:
            token: name of the caller's token.
            key: the call's.
            mark: tells what is called.
            start: begins the work. On the event loop, at once or later.
            idempotent: it may run again, if nobody can tell how it ended before.

        Raises:
            Refusal: 422 if the key was used for another call.
        """
        name = token, key
        with self._lock:
            self._expire()
            entry = self._entries.get(name)
            if entry is not None and entry.mark != mark:
                raise Refusal(422, "the idempotency key was used for another call")
            mine = entry is None or (entry.state is _State.UNKNOWN and idempotent)
            if entry is None or mine:
                self._drop(name)
                entry = self._entries[name] = _Entry(mark)
            shared = Shared(entry)
            over = entry.state is not _State.RUNNING
            if not over:
                entry.waiting.append(shared)
        if over:
            self._answer([shared], entry)
        elif mine and self._journal is None:
            self._start(name, entry, start)
        elif mine:
            self._journal.begin(  # type: ignore[union-attr]  # there is one
                name, mark, lambda problem: self._begun(name, entry, start, problem)
            )
        return shared

    def _begun(
        self, name: tuple[str, str], entry: _Entry, start: Start, problem: Exception | None
    ) -> None:
        """Go on when a call is on disk, or cannot be."""
        if problem is None:
            self._start(name, entry, start)
        else:
            text = "the server cannot write down that the call begins, so that it does not run"
            self._forget(name, entry, Refusal(503, text, retry_after=5))

    def _start(self, name: tuple[str, str], entry: _Entry, start: Start) -> None:
        try:
            entry.inner = inner = start()
        except BaseException as error:  # the executor is shut down, or time is up
            self._forget(name, entry, error)
            return
        inner.add_done_callback(lambda _: self._ended(name, entry, inner))

    def _ended(self, name: tuple[str, str], entry: _Entry, inner: Future[Any]) -> None:
        """Remember how a call has ended. On any thread."""
        error = CancelledError() if inner.cancelled() else inner.exception()
        if inner.cancelled() and not entry.stopped:  # it never began
            self._forget(name, entry, Refusal(503, "the server ended the call", retry_after=1))
            return
        if isinstance(error, ExecutorUnavailable):
            self._forget(name, entry, error)
            return
        entry.outcome = b""
        if not entry.stopped or not inner.cancelled():
            entry.outcome = self._written(inner, error)
        if self._journal is None or not entry.outcome:
            self._over_with(name, entry)
        else:
            self._journal.done(name, entry.outcome, lambda _: self._over_with(name, entry))

    def _written(self, inner: Future[Any], error: BaseException | None) -> bytes:
        codec = self._codec
        failed: Failed
        if error is None:
            try:
                return b"v" + codec.encode(inner.result(), "$.result")
            except (Refused, PayloadTooLarge) as why:
                status = 413 if isinstance(why, PayloadTooLarge) else 500
                failed = Failed(0, f"the result cannot be sent: {why}", status)
        else:
            failed = self._describe(error)
        texts = [
            each.encode(errors="backslashreplace").decode()[:20_000] if type(each) is str else each
            for each in failed[1:]
        ]
        return b"f" + codec.encode(texts)

    def _over_with(self, name: tuple[str, str], entry: _Entry) -> None:
        with self._lock:
            entry.state = _State.DONE if entry.outcome else _State.UNKNOWN
            entry.inner = None
            entry.at = self._clock()
            waiting, entry.waiting = entry.waiting, []
            self._keep(name, entry)
            self._expire()
        self._answer(waiting, entry)

    def _answer(self, waiting: list[Shared], entry: _Entry) -> None:
        """Tell who waits. Callbacks run."""
        for shared in waiting:
            if entry.state is _State.UNKNOWN:
                shared.set_exception(Remembered(_UNKNOWN))
            elif entry.outcome[:1] == b"v":
                raw = self._codec.decode(entry.outcome[1:])
                shared.set_result(self._codec.value(raw))
            else:
                fields = self._codec.decode(entry.outcome[1:])
                shared.set_exception(Remembered(Failed(0, *fields)))

    def _forget(self, name: tuple[str, str], entry: _Entry, error: BaseException) -> None:
        """Tell who waits that the call did not run; whoever brings it next has it run."""
        with self._lock:
            if self._entries.get(name) is entry:
                del self._entries[name]
            waiting, entry.waiting = entry.waiting, []
        if self._journal is not None:
            self._journal.forget([name])
        for shared in waiting:
            shared.set_exception(error)

    def close(self) -> None:
        """Write down what has ended, and close the journal. Blocks for that."""
        if self._journal is not None:
            self._journal.close()

    # -- bounds. With the lock held ------------------------------------------------------------

    def _keep(self, name: tuple[str, str], entry: _Entry) -> None:
        self._over[name] = entry
        self._bytes += entry.size

    def _drop(self, name: tuple[str, str]) -> None:
        entry = self._over.pop(name, None)
        if entry is not None:
            self._bytes -= entry.size
            del self._entries[name]

    def _expire(self) -> None:
        oldest = self._clock() - self._seconds
        gone = []
        while self._over:
            name, entry = next(iter(self._over.items()))
            if entry.at > oldest and self._bytes <= self._max_bytes:
                break
            self._drop(name)
            gone.append(name)
        if gone and self._journal is not None:
            self._journal.forget(gone)


def mark_of(task: Task[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> bytes:
    """Return what tells one call from another, whatever form it came in.

    Raises:
        Refusal: 400, it streams, or its arguments cannot be written down.
    """
    if task.streams:
        raise Refusal(400, f"{short(name)} streams: no key can stand for its items")
    codec = Codec(tagged=True, max_bytes=8 * MAX_BYTES)
    try:
        data = codec.encode([name, list(args), kwargs])
    except (Refused, PayloadTooLarge) as error:
        raise Refusal(400, f"a call with a key: {error}") from error
    return hashlib.sha256(data).digest()
