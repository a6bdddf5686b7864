"""What the workers' answers mean: futures to settle, items to take back, times to learn from.

Owns nothing but the rules; part of the reader thread (see `_reader`), and under the same lock.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from hybrid_compute import _failures, _pickling
from hybrid_compute._keys import key_of
from hybrid_compute.errors import ResultDecodeError, TaskDecodeError, WorkerCrashed
from hybrid_compute.executors._crew import Worker
from hybrid_compute.executors._delivery import settle
from hybrid_compute.executors._dispatch import Pool
from hybrid_compute.executors._frames import (
    BEGUN,
    END,
    ERROR,
    LIMIT,
    LOG,
    NEST,
    NO_LIMIT,
    READY,
    RETURNED,
    SEGMENT,
    STARTED,
    TIMES,
    UNDECODABLE,
    UNFIT,
    VALUE,
    VALUE_APART,
)
from hybrid_compute.executors._logs import handle
from hybrid_compute.executors._memory import OomCounter
from hybrid_compute.executors._upkeep import Upkeep
from hybrid_compute.executors._worker_source import receive
from hybrid_compute.items import WorkItem
from hybrid_compute.streamed import StreamItem

if TYPE_CHECKING:
    from hybrid_compute.executors._stops import Stops

__all__ = ["LATE", "Answers", "crash", "why"]

LATE = 0.005  # a message should have been ended by then: its calls were expected to take 2 ms
_TICK = 0.001  # see `overdue`


class Answers:
    """The answers to one pool. All methods run on the reader thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._upkeep = Upkeep(pool)
        self.stops: Stops | None = None  # which items were told to end; set once

    def deliver(self, worker: Worker) -> bool:
        """Deliver all answers that are here; return whether a message has ended."""
        items, loads, ended = worker.items, _pickling.loads, False
        self._pool.heard = worker.pid
        item: Any
        for kind, number, body in worker.inbox:
            if kind == VALUE:
                worker.number += 1
                item = items.popleft()
                try:
                    value = loads(body)
                except BaseException as error:
                    settle(item.fail, _undecodable(item, error))
                else:
                    settle(item.succeed, value)
                item = value = None  # they are the future's now, and we may wait for long
            elif kind == VALUE_APART:
                worker.number += 1
                self._on_value_apart(worker, items.popleft(), body)
            elif kind == END:
                self._on_end(worker, number, body)
                ended = True
            elif kind == ERROR:
                worker.number += 1
                item = items.popleft()
                if self.stops is not None and self.stops.take(item):
                    worker.kill()  # what SIGTERM has raised in it is not to go further
                else:
                    settle(item.raised, _failures.decode_error(bytes(body)))
                item = None
            else:
                self._on_news(worker, kind, number, body)
        return ended

    def _on_news(self, worker: Worker, kind: int, number: int, body: memoryview) -> None:
        if kind == READY:
            worker.ready = True
            self._pool.failures = 0.0
            worker.oom = OomCounter(number)
            if worker.pid is None:  # it was quicker than its spawner
                worker.pid = self._pool.heard = number
        elif kind == UNFIT:
            worker.unfit = _failures.decode_error(bytes(body))
        elif kind == UNDECODABLE:
            self._on_undecodable(worker, bytes(body))
        elif kind == RETURNED:
            self._on_returned(worker)
        elif kind == LOG:
            settle(handle, bytes(body))
        elif kind == SEGMENT:
            worker.receiver.accept(number, worker.inbox.fds.pop(0))
        elif kind == NEST:
            self._on_nest(worker, number)
        else:
            item = worker.items[0]
            assert isinstance(item, StreamItem)  # noqa: S101 - nothing else sends such frames
            settle(lambda _: receive(worker, item, kind, number, body), None)
            if kind == BEGUN:
                self._pool.streaming = True
                if item.deadline is not None:
                    with self._pool.lock:  # that of the future, which is done, does not count
                        self._pool.watch(item)

    def _on_nest(self, worker: Worker, number: int) -> None:
        """Let the work that runs ask by an agent of its own."""
        agent = worker.agent
        if agent is None:
            fd = worker.inbox.fds.pop(0)
            if fd < 0:  # this process has too many, and the work finds its link closed
                return
            from hybrid_compute.executors._agents import Agent  # noqa: PLC0415 - on first need

            agent = worker.agent = Agent(self._pool, worker, fd)
            with self._pool.lock:
                self._pool.agents.append(agent)
            agent.start()
        agent.expect(number, worker.items[0])

    def _on_value_apart(self, worker: Worker, item: WorkItem, body: memoryview) -> None:
        try:
            value = _pickling.loads(*worker.receiver.open(body))
        except BaseException as error:
            settle(item.fail, _undecodable(item, error))
        else:
            settle(item.succeed, value)

    def _on_end(self, worker: Worker, nanoseconds: int, body: memoryview) -> None:
        pool, seconds = self._pool, nanoseconds * 1e-9
        with pool.lock:
            message = worker.messages.popleft()
            if message.key is not None and nanoseconds:
                pool.estimates.learn(message.key, seconds / message.count)
            if worker.revoked and not worker.messages:
                worker.words[LIMIT] = NO_LIMIT  # it waits for a message, and looks at none
                worker.revoked = False
                worker.watched = worker.withheld = None
        if message.metered is not None and message.key is not None and body:
            meter, belief, calls = message.metered
            wall, cpu = TIMES.unpack(body)
            settle(lambda own: meter.ran(belief, calls, own, cpu * 1e-9), wall * 1e-9)
        self._upkeep.after_message(worker)

    def _on_undecodable(self, worker: Worker, body: bytes) -> None:
        first = self._rest_of_message(worker)
        worker.messages[0].key = None  # its time says nothing
        if len(first) > 1:
            with self._pool.lock:
                self._pool.alone.extend(first)
            return
        for item in first:
            cause = _failures.decode_error(body)
            error = TaskDecodeError(
                f"a worker process cannot unpickle task {item.name!r} or its arguments: "
                f"{type(cause).__name__}: {_failures.text_of(cause)}. Is all that they need "
                "importable there?"
            )
            error.__cause__ = cause
            settle(item.fail, error)

    def _on_returned(self, worker: Worker) -> None:
        worker.messages[0].key = None
        with self._pool.lock:
            self._pool.again.extendleft(reversed(self._rest_of_message(worker)))

    def _rest_of_message(self, worker: Worker) -> list[WorkItem]:
        count = min(worker.messages[0].end - worker.number, len(worker.items))
        worker.number += count
        return [worker.items.popleft() for _ in range(count)]

    def overdue(self, worker: Worker, now: float) -> float | None:
        """Help the items that sit in a worker which takes long; return when to look again.

        Two steps, a tick apart. First: note the call that runs, and forbid (LIMIT) all behind
        it. Then: if the same call still runs, those behind it are ours again, and the answers
        before it are read from the journal.

        It is safe because each side writes before it reads: the worker STARTED, then LIMIT; we
        LIMIT, then STARTED. If at our second look the worker has not begun the next call, it
        will see LIMIT before it does. That holds only if the writes are visible by then; a
        processor delays its own for nanoseconds, and the tick is a millisecond. The same goes
        for the answers: they were complete before the call began. If the worker has moved on
        instead, it has either seen LIMIT, and says RETURNED, or is one call further, and we
        begin anew.
        """
        pool, words = self._pool, worker.words
        started = words[STARTED]
        if started < worker.number:
            worker.watched = None
            return now + 2 * LATE  # it unpickles, or what it has answered is on its way
        if worker.watched != started:
            worker.watched = started
            if pool.size > 1 or worker.waits:
                with pool.lock:
                    worker.revoked = True
                # Never raised: what is behind it may have been taken back already.
                words[LIMIT] = min(words[LIMIT], started + 1)
            return now + _TICK
        answers = worker.journal.unsent(worker.inbox.received)
        if words[STARTED] != started:
            return now + LATE
        worker.inbox.inject(answers)
        self.deliver(worker)  # callbacks may have ended what runs, or found the worker dead
        if worker.dead or not worker.items:
            return None
        if worker.number != started:
            return now + _TICK  # some are still in the socket: first things first
        if worker.revoked:
            with pool.lock:
                late = [worker.items.pop() for _ in range(len(worker.items) - 1)]
                pool.again.extendleft(late)
                pool.estimates.learn(key_of(worker.items[0].fn), LATE)
                pool.wake()
        return None


def _undecodable(item: WorkItem, cause: BaseException) -> ResultDecodeError:
    error = ResultDecodeError(
        f"task {item.name!r} was done, but its result cannot be unpickled here: "
        f"{type(cause).__name__}: {_failures.text_of(cause)}"
    )
    error.__cause__ = cause
    return error


def crash(worker: Worker, item: WorkItem, kills: int) -> WorkerCrashed:
    """Return the error of an item whose worker has died of it, the so many-th one."""
    exitcode = number = None
    oom = False
    if worker.status is None:
        number, how = signal.SIGKILL.value, "was killed, since its spawner has died,"
    elif os.WIFSIGNALED(worker.status):
        number = os.WTERMSIG(worker.status)
        how = f"died of {_signal_name(number)}"
        if number == signal.SIGKILL and worker.oom is not None and worker.oom.rose():
            oom = True
            how += " (the kernel killed it: memory had run out)"
    else:
        exitcode = os.waitstatus_to_exitcode(worker.status)
        how = f"exited with code {exitcode}"
    times = "" if kills == 1 else f" It is the {kills}. worker that this item has cost: given up."
    return WorkerCrashed(
        f"worker process {worker.pid} {how} while it ran {item.name!r}, which may have had "
        f"effects.{times} No other item is affected; one that may run twice can say so with "
        "idempotent=True and retries" + (f"\n{worker.stack}" if worker.stack else ""),
        item_name=item.name,
        pid=worker.pid or -1,
        exitcode=exitcode,
        signal=number,
        oom=oom,
        stack=worker.stack,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def why(cause: BaseException | None) -> str:
    """Say why a worker did not start."""
    if cause is None:
        return "they end before they are ready; what they print to stderr may tell why"
    return f"{type(cause).__name__}: {_failures.text_of(cause)}"
