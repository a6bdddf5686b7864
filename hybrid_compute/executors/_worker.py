"""What a worker process does: read calls, run them, answer. One thread, no locks.

(A few lines over 400: what a worker does with its one socket is better seen in one place.)
Runs in the child, forked by the spawner. Imports `_frames` and `_pickling`; the rest of the
library only when something has gone wrong, or when the work itself imports it.

    SETUP -> environment, sys.path, initializer -> READY
    FUNCTION, SEGMENT -> kept until a call needs them
    CALLS -> unpickle -> [ STARTED = n; LIMIT? -> run -> answer n into the journal ]* -> END

Answers wait in the journal until the message is done, the area is full, or the oldest has
waited for 2 ms and the next call is about to start. There is no thread that would send them in
the middle of a long call: it would make each worker multi-threaded, hence unsafe to fork, and
could not run while the call holds the GIL. The caller, who can see the journal, helps itself
instead when it finds a worker overdue, and takes back the calls that were not started.

Ctrl-C does not get here (see `_spawner`). A SIGINT that somebody sends to a worker raises
KeyboardInterrupt in the call that runs, as in any program, and is ignored between calls.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal without its enums: 2 ms
import _socket
import _thread
import faulthandler
import marshal
import os
import resource
import select
import sys
import time
from struct import Struct

# Not `from hybrid_compute import`: that asks the package for a name, which loads it; see `_boot`.
import hybrid_compute._failures as _failures  # noqa: PLR0402
import hybrid_compute._pickling as _pickling  # noqa: PLR0402
from hybrid_compute._pickling import BIG, flat
from hybrid_compute.executors._frames import (
    AREA_BYTES,
    BASE,
    CALLS,
    CALLS_APART,
    DECODING,
    END,
    ERROR,
    FUNCTION,
    HEADER,
    LEVELS,
    LIMIT,
    NEST,
    READY,
    RETURNED,
    SEGMENT,
    SETUP,
    STARTED,
    TIMES,
    TRACE,
    UNDECODABLE,
    UNFIT,
    VALUE,
    VALUE_APART,
    WRITTEN,
    Inbox,
    Journal,
)
from hybrid_compute.executors._segments import ONCE, USED, Receiver, Sender
from hybrid_compute.executors._worker_logs import Logs

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

__all__ = ["main", "refused"]

_PATIENCE_NS = 2_000_000  # how long an answer may wait before the next call starts
_HEADER_BYTES = HEADER.size
_FD = Struct("i")
_BRISK_NS = 250_000  # measured: a caller that waits for each answer takes 50 to 200 us
_LONGEST_MS = 1 << 30
_PER_THREAD = hasattr(resource, "RUSAGE_THREAD")  # Linux; elsewhere all may have waited
_TRIM_MS = 2000  # how long memory for large results is kept warm, with nothing to do


_let_others = getattr(os, "sched_yield", int)  # int: where there is no such thing


def main(sock_fd: int, journal_fd: int) -> NoReturn:
    """Serve until the caller closes its end of the socket."""
    for fd in (sock_fd, journal_fd):
        os.set_inheritable(fd, False)
    os.lseek(journal_fd, TRACE, os.SEEK_SET)
    faulthandler.enable(journal_fd)
    worker = _Worker(_socket.socket(fileno=sock_fd), Journal(journal_fd))
    _signal.signal(_signal.SIGINT, worker.on_interrupt)
    code = 0
    try:
        worker.serve()
    except OSError:
        code = 1  # the caller is gone, or the work has closed our descriptors
    _leave(code)


class _Worker:
    """The worker's end of the socket, and its journal."""

    def __init__(self, sock: _socket.socket, journal: Journal) -> None:
        self._sock = sock
        self.words = self._words = journal.words
        self._area = journal.area
        self._place = 0  # where the next answer goes in the area
        self._running = False
        self._brisk = False  # the last message came soon after the answer before it
        self._idle_since = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._sender = Sender(journal.value_flags, mapped=True)
        self._receiver = Receiver(journal.call_flags)
        self._apart = _pickling.Buffers()
        self.producer: Any = None
        self._logs = Logs(self)
        _pickling.produce = self._produce
        self._link: Any = None
        self._announced = 0  # the last call that has asked something by it
        self._ident = _thread.get_ident()
        _pickling.nest = self._nest
        os.register_at_fork(before=self._receiver.retire, after_in_parent=self._receiver.retire)

    def on_interrupt(self, signum: int, frame: object) -> None:
        if self._running:
            raise KeyboardInterrupt

    def is_running(self) -> bool:
        """Say whether a call runs."""
        return self._running

    def serve(self) -> None:
        inbox = Inbox(self._sock)
        while self._wait() and inbox.fill():
            self._brisk = time.perf_counter_ns() - self._idle_since < _BRISK_NS
            for kind, number, body in inbox:
                if kind == CALLS:
                    self._run(number, body)
                elif kind == CALLS_APART:
                    self._run_apart(number, body)
                elif kind == FUNCTION:
                    if body:
                        _pickling.received[number] = bytes(body)
                    else:
                        del _pickling.received[number]
                elif kind == SEGMENT:
                    self._receiver.accept(number, inbox.fds.pop(0))
                elif kind == LEVELS:
                    self._logs.follow(body)
                elif kind == SETUP:
                    self._set_up(body)
                # Only what is in `inbox` may stay alive while we wait: no argument, no result.
            self._idle_since = time.perf_counter_ns()

    def _wait(self) -> bool:
        """Wait for a message, as far as that is not left to `fill`; always True.

        While messages follow closely on answers, stay awake for the next: waking a core that sleeps
        takes longer than all the rest of a small call. Anybody else who has work for this core
        comes first. Memory for large results is given back when nothing happens for a while.
        """
        arrived = self._poll.poll
        if self._brisk:
            end = self._idle_since + _BRISK_NS
            while not arrived(0) and time.perf_counter_ns() < end:
                _let_others()
        sender = self._sender
        if sender.has_some:
            patience = _TRIM_MS
            while not arrived(patience) and not sender.trim():
                # The caller still looks at some: so look again, ever more rarely.
                patience = min(2 * patience, _LONGEST_MS)
        return True

    def _set_up(self, body: memoryview) -> None:
        path, environ, cwd, argv, key, initializer, most, levels = marshal.loads(body)  # noqa: S302 - from our caller
        if levels is not None:
            self._logs.follow(levels)
            self._logs.start(self._sock)
        _pickling.max_payload = most
        main_module = sys.modules["__main__"] = type(sys)("__main__")
        main_module.__dict__["__builtins__"] = __builtins__
        error: bytes | None = None
        try:
            if environ != dict(os.environb):
                os.environb.clear()
                os.environb.update(environ)
            if cwd and cwd != os.getcwd():  # noqa: PTH109 - pathlib is not loaded here
                os.chdir(cwd)
            sys.path[:] = path
            sys.argv[:] = argv
            if key:
                from multiprocessing.process import current_process  # noqa: PLC0415 - rare

                current_process().authkey = key
            if initializer:
                self._running = True
                fn, args, kwargs = _pickling.decode_call(initializer)
                fn(*args, **(kwargs or {}))
        except BaseException as failure:
            self._running = False
            error = _failures.encode_error(failure)
            import logging  # noqa: PLC0415 - only when it fails

            # In the worker, where handlers that the initializer has set up are; as the stdlib.
            logging.getLogger("concurrent.futures").critical(
                "Exception in initializer:", exc_info=True
            )
        self._running = False
        if self._logs.records:
            self._logs.send(wait=True)
        if error is None:
            self.answer(READY, os.getpid(), b"")
            self.flush()
        else:
            self.answer(UNFIT, 0, error)
            self.flush()
            _leave(1)

    def _run_apart(self, number: int, body: memoryview) -> None:
        self._words[DECODING] = number
        try:
            calls = _pickling.decode_call(*self._receiver.open(body))
        except BaseException as failure:
            self._refuse(number, failure)
            return
        self._run_all(number, [calls] if type(calls) is tuple else calls)

    def _run(self, number: int, body: memoryview) -> None:
        self._words[DECODING] = number
        try:
            calls = _pickling.decode_call(body)
        except BaseException as failure:
            self._refuse(number, failure)
            return
        self._run_all(number, [calls] if type(calls) is tuple else calls)

    def _refuse(self, number: int, failure: BaseException) -> None:
        self.answer(UNDECODABLE, number, _failures.encode_error(failure))
        self.answer(END, 0, b"")
        self.flush()

    def _run_all(self, number: int, calls: Any) -> None:  # noqa: PLR0915 - a call costs
        words, clock, answer = self._words, time.perf_counter_ns, self.answer
        dumps, apart = _pickling.dumps, self._apart
        large = min(BIG, _pickling.max_payload or BIG)
        records = self._logs.records
        calls.reverse()
        used, waits = time.thread_time_ns(), _times_given_up()
        begun = flushed = clock()
        while calls:
            # First STARTED, then LIMIT. The caller does it the other way round: see `_answers`.
            words[STARTED] = number
            if words[LIMIT] <= number:
                answer(RETURNED, number, b"")
                break
            fn, args, kwargs = calls.pop()  # popped: arguments live no longer than their call
            try:
                self._running = True
                value = fn(*args, **kwargs) if kwargs else fn(*args)
                self._running = False
            except BaseException as failure:  # SystemExit and the like are the caller's too
                self._running = False
                fn = args = kwargs = None
                data = _failures.encode_error(failure)
                if records:
                    self._logs.send(wait=True)
                answer(ERROR, number, data)
                data = b""
            else:
                fn = args = kwargs = None
                try:
                    data = dumps(flat(value) if type(value) is bytes else value, apart)
                    if records:
                        self._logs.send(wait=True)
                    if apart or len(data) >= large:
                        self._answer_large(number, value, data)
                    else:
                        answer(VALUE, number, data)
                except BaseException as failure:
                    answer(ERROR, number, _failures.encode_error(refused(value, failure)))
                    apart.clear()
                value = None
                data = b""
            number += 1
            if calls:
                now = clock()
                if now - flushed > _PATIENCE_NS:
                    self.flush()
                    flushed = now
        took, cpu = clock() - begun, time.thread_time_ns() - used
        # If it has never waited, what is no CPU in it is the time of others on this core.
        own = min(took, cpu) if _times_given_up() == waits else took
        answer(END, took, TIMES.pack(own, min(own, cpu)))
        calls.clear()
        self.flush()

    def _answer_large(self, number: int, value: object, data: bytes) -> None:
        """Answer with a result through shared memory, unless it is too large."""
        size = len(data) + self._apart.size()
        if type(value).__name__ != "Outcome":  # of a batch: it has seen to each of its results
            _pickling.check_size(value, size)
        if size < BIG:
            self.answer(VALUE, number, data)
            return
        if not self.answer_apart(VALUE_APART, number, data, self._apart):
            self.answer(VALUE, number, _pickling.dumps(value) if self._apart else data)
        self._apart.clear()

    def answer_apart(self, kind: int, number: int, data: bytes, apart: _pickling.Buffers) -> bool:
        """Answer through shared memory; False if there is none to be had."""
        parcel = self._sender.store(data, apart)
        if parcel is None:
            return False
        slot = parcel.slot
        if not slot.announced:
            # Past the journal, which cannot hold a descriptor; what is before it goes before it.
            self.flush()
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(slot.fd))
            self._sock.sendmsg((HEADER.pack(0, slot.index, SEGMENT),), (rights,))
            self._words[BASE] += _HEADER_BYTES
            slot.announced = True
        if slot.index != ONCE:
            self._sender.flags[slot.index] = USED
        self.answer(kind, number, parcel.body)
        return True

    def _produce(
        self, iterator: Iterator[Any], most: int, most_bytes: int, *, announced: bool
    ) -> Any:
        if self.producer is None:
            from hybrid_compute.executors._production import Producer  # noqa: PLC0415 - on need

            self.producer = Producer(self)
        return self.producer.run(iterator, most, most_bytes, announced=announced)

    def _nest(self) -> tuple[Any, int] | None:
        """Return the link to the caller and the number of the call that runs; see `_pickling`."""
        number = self._words[STARTED]
        if not (self._running and number) or _thread.get_ident() != self._ident:
            return None
        if self._announced != number:
            self._running = False  # so that no Ctrl-C cuts a frame in two
            try:
                if self.producer is None:
                    self._announce(number)
                else:
                    with self.producer.lock:  # its other thread sends too
                        self._announce(number)
            finally:
                self._running = True
        return self._link, number

    def _announce(self, number: int) -> None:
        """Tell the caller which call is about to ask, before it asks."""
        if self._link is None:
            import socket  # noqa: PLC0415 - few calls ask

            from hybrid_compute.executors._nested import Link  # noqa: PLC0415 - likewise

            ours, theirs = socket.socketpair()
            self.flush()
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FD.pack(theirs.fileno()))
            self._sock.sendmsg((HEADER.pack(0, number, NEST),), (rights,))
            self._words[BASE] += _HEADER_BYTES
            theirs.close()
            self._link = Link(ours)
        else:
            self.answer(NEST, number, b"")
            self.flush()
        self._announced = number

    def answer(self, kind: int, number: int, body: bytes) -> None:
        """Put a frame into the journal."""
        size = _HEADER_BYTES + len(body)
        place = self._place
        if place + size > AREA_BYTES:
            self.flush()
            place = 0
            if size > AREA_BYTES:
                self._sock.sendall(HEADER.pack(len(body), number, kind))
                self._sock.sendall(body)
                self._words[BASE] += size
                return
        HEADER.pack_into(self._area, place, len(body), number, kind)
        if body:
            self._area[place + _HEADER_BYTES : place + size] = body
        # Only now does it count: who dies before has not answered.
        self._place = self._words[WRITTEN] = place + size

    def flush(self) -> None:
        """Send what is in the journal."""
        place = self._place
        if place:
            self._sock.sendall(self._area[:place])
            # In this order: who dies in between has an empty area, and all has been sent.
            self._place = self._words[WRITTEN] = 0
            self._words[BASE] += place


def refused(value: object, failure: BaseException) -> BaseException:
    """Return the error of a result that cannot be pickled."""
    from hybrid_compute.errors import (  # noqa: PLC0415 - only when it fails
        PayloadTooLarge,
        ResultEncodeError,
    )

    if isinstance(failure, PayloadTooLarge):
        return failure
    error = ResultEncodeError(
        f"the work was done, but its result, of type {type(value).__module__}."
        f"{type(value).__qualname__}, cannot be pickled: {type(failure).__name__}: "
        f"{_failures.text_of(failure)}. Return plain data"
    )
    error.__cause__ = failure
    return error


def _times_given_up() -> object:
    """Return how often this thread has given up its core by itself, to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if _PER_THREAD else object()


def _leave(code: int) -> NoReturn:
    """End this process as Python does, but for freeing the memory of what ends anyhow."""
    steps: list[Callable[[], object]] = []
    if "threading" in sys.modules:
        steps.append(sys.modules["threading"]._shutdown)  # waits for the work's own threads
    if "atexit" in sys.modules:
        steps.append(sys.modules["atexit"]._run_exitfuncs)
    steps += [each.flush for each in (sys.stdout, sys.stderr) if each is not None]
    for step in steps:
        try:
            step()
        except BaseException:
            code = code or 1
    os._exit(code)
