"""Nested work of a worker process: how the work in it submits to its caller's executor.

Loaded by a worker when its work first asks for `hybrid_compute.current()`. Owns the *link*, a
socket to a thread of the caller's (`_agents`), by which the work asks and waits for the answer.
Nothing is sent unasked, and there is no thread here: a future of nested work learns what became
of it when somebody asks it, or waits for it.

    body: current().executor.submit(fn) --("submit", call)--> agent: executor.submit(fn) -> future 7
          future.result()               --("wait", [7])-----> agent: waits, as this thread does
                                        <--[(7, result)]-----

`Link.lock` guards the socket: one thread of the work asks at a time.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from concurrent.futures import Executor, Future
from struct import Struct

import hybrid_compute._failures as _failures  # noqa: PLR0402 - see `_worker`
import hybrid_compute._pickling as _pickling  # noqa: PLR0402

TYPE_CHECKING = False  # as typing's: this runs in a worker
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from socket import socket
    from typing import Any

__all__ = [
    "CANCELLED",
    "ERROR",
    "LENGTH",
    "VALUE",
    "Link",
    "NestedFuture",
    "ParentExecutor",
    "fetch",
    "receive",
]

LENGTH = Struct("<Q")
VALUE, ERROR, CANCELLED = range(3)  # how nested work has ended


def receive(sock: socket) -> bytes | None:
    """Return the next message; None at the end."""
    header = _receive(sock, LENGTH.size)
    return None if header is None else _receive(sock, LENGTH.unpack(header)[0])


def _receive(sock: socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Link:
    """The way to the caller, and what is known of the call that runs.

    Attributes:
        number: that of the call.
    """

    def __init__(self, sock: socket) -> None:
        self.lock = _thread.RLock()
        self.number = 0
        self._sock = sock
        self._pid = os.getpid()
        self._asked = 0
        self._about: tuple[int, Any] = (0, None)

    def about(self, number: int) -> tuple[str, int, float | None]:
        """Return name, attempt and deadline of the call that runs."""
        if self._about[0] != number:
            self._about = number, self.ask("about", number)
        return self._about[1]  # type: ignore[no-any-return]  # as the agent answers

    def executor(self, number: int) -> ParentExecutor:
        """Return what stands here for the executor that a call was submitted to."""
        return ParentExecutor(self, number)

    def ask(self, what: str, number: int, *rest: Any) -> Any:
        """Ask the caller, and block until it answers.

        Raises:
            RuntimeError: the call is over; or this is another process, forked by it.
            ConnectionError: the caller is gone.
            BaseException: whatever asking the caller's executor raised.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this process was forked by the work of a worker process, and has no way to that "
                "work's executor: submit before it forks"
            )
        with self.lock:
            self._asked += 1
            asked = self._asked
            data = _pickling.dumps((asked, what, number, *rest))
            self._sock.sendall(LENGTH.pack(len(data)) + data)
            while True:  # an answer that Ctrl-C has kept from being read comes first
                answer = receive(self._sock)
                if answer is None:
                    raise ConnectionError("the process that this work was submitted in is gone")
                heard, fine, value = _pickling.loads(answer)
                if heard == asked:
                    break
        if fine:
            return value
        raise _failures.decode_error(value)


class ParentExecutor(Executor):
    """The executor, in the process that submitted it, of the work that runs in this one.

    What is submitted travels there, and goes on as if it had been submitted there. Arguments and
    results are pickled. It can be used until the work is over, by one thread at a time.
    """

    def __init__(self, link: Link, number: int, options: dict[str, Any] | None = None) -> None:
        self._link = link
        self._number = number
        self._options = options

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> NestedFuture:
        """Schedule `fn(*args, **kwargs)` and return its future.

        Raises:
            RuntimeError: the executor is shut down, or the work that submits is over.
        """
        future = NestedFuture(self._link, self._number)
        name = getattr(fn, "__qualname__", type(fn).__name__)
        try:
            call = _pickling.encode_call(fn, args, kwargs or None, name=str(name))
        except Exception as error:
            future.set_exception(error)
            return future
        future.serial = self._link.ask("submit", self._number, call, self._options)
        return future

    def options(self, **options: Any) -> ParentExecutor:
        """Return this executor with options, as `HybridExecutor.options` does."""
        return ParentExecutor(self._link, self._number, {**(self._options or {}), **options})

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work.

        Raises:
            RuntimeError: with `wait`: this work cannot wait for its own end. The executor is
                closed all the same.
        """
        self._link.ask("shutdown", self._number, cancel_futures)
        if wait:
            raise RuntimeError("cannot wait for the end of the executor that runs this work")


class NestedFuture(Future):  # type: ignore[type-arg]  # of whatever was submitted
    """The outcome of work that was submitted to the caller's executor.

    It looks for news when it is asked, or waited for: so callbacks run then, on that thread.
    """

    def __init__(self, link: Link, number: int) -> None:
        super().__init__()
        self._link = link
        self._number = number
        self.serial: int | None = None  # the agent's number of it; None: it was never sent
        self._waiters: list[Any] = _Waiters(self)

    def _look(self, timeout: float | None) -> None:
        if not super().done():
            fetch(self._link, self._number, [self], timeout)

    def done(self) -> bool:
        """Return True if the work is finished or cancelled."""
        self._look(0)
        return super().done()

    def running(self) -> bool:
        """Return True if the work runs."""
        return not self.done() and self._link.ask("running", self._number, self.serial) is True

    def cancelled(self) -> bool:
        """Return True if the work was cancelled."""
        self._look(0)
        return super().cancelled()

    def cancel(self) -> bool:
        """Cancel the work if it has not started; return whether it is cancelled."""
        if not super().done() and self._link.ask("cancel", self._number, self.serial):
            self.settle(CANCELLED, None)
        return super().cancelled()

    def result(self, timeout: float | None = None) -> Any:
        """Return the result of the work; block until there is one. As the stdlib's."""
        self._look(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the work raised, or None; block and raise as `result` does."""
        self._look(timeout)
        return super().exception(0)

    def settle(self, how: int, body: Any) -> None:
        """Take note of how it has ended."""
        if super().done():
            return
        if how == CANCELLED:
            super().cancel()
            self.set_running_or_notify_cancel()
        elif how == ERROR:
            self.set_exception(_failures.decode_error(body))
        else:
            try:
                value = _pickling.decode_call(body)
            except BaseException as error:
                self.set_exception(error)
            else:
                self.set_result(value)


def fetch(
    link: Link,
    number: int,
    futures: Iterable[NestedFuture],
    timeout: float | None,
    *,
    everything: bool = False,
) -> None:
    """Wait for one of some futures, or for all, and settle those that are done."""
    by_serial = {each.serial: each for each in futures}
    # Until it is known, a name for it would keep a result alive here.
    for serial, how, body in link.ask("wait", number, list(by_serial), timeout, everything):
        by_serial[serial].settle(how, body)


class _Waiters(list[object]):
    """Those that wait for a future: `wait` and `as_completed` add theirs, and then sleep."""

    def __init__(self, future: NestedFuture) -> None:
        super().__init__()
        self._future = future

    def append(self, waiter: Any) -> None:
        """Add a waiter; it will ask the caller instead of sleeping."""
        if type(waiter.event) is threading.Event:
            everything = getattr(waiter, "stop_on_exception", None) is False
            waiter.event = _AskingEvent(everything=everything)
        if type(waiter.event) is _AskingEvent:
            waiter.event.futures.append(self._future)
        super().append(waiter)


class _AskingEvent(threading.Event):
    """An event that is set by what its waiter finds out."""

    def __init__(self, *, everything: bool) -> None:
        super().__init__()
        self.futures: list[NestedFuture] = []
        self._everything = everything

    def wait(self, timeout: float | None = None) -> bool:
        """Ask, and block, until it is set; as `threading.Event`."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = None if end is None else max(0.0, end - time.monotonic())
            pending = [each for each in self.futures if not Future.done(each)]
            if not pending:
                return super().wait(left)  # for futures that are not ours
            fetch(
                pending[0]._link,
                pending[0]._number,
                pending,
                left,
                everything=self._everything,
            )
            if end is not None and time.monotonic() >= end:
                break
        return self.is_set()
