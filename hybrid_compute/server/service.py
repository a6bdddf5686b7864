"""Service: calls that run. Owns their number, their limits, their ends and the audit log.

    admit -> Call --start--> executor ... future ends, on any thread --Mail--> deliver, on the loop
               `-------------------------- release, once --------------------------'

Threads: all on the event loop, but for `_ended`, which runs where futures end and only appends to a
deque (one append, atomic) and wakes the loop; and `cancel_running`, which blocks, on two threads.
(A few lines over 400: a call and what counts it are better seen in one place.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

from attrs import asdict

from hybrid_compute._contexts import Carried
from hybrid_compute._failures import short, type_name_of
from hybrid_compute.channels import BUFFER_BYTES, BUFFER_ITEMS
from hybrid_compute.hybrid import HybridExecutor
from hybrid_compute.protocol.messages import Failed, Request
from hybrid_compute.protocol.signing import SIGNED_TASK
from hybrid_compute.server import audit
from hybrid_compute.server.catalog import Catalog, Entry
from hybrid_compute.server.failures import failure_of, failure_of_call
from hybrid_compute.server.feeds import Collector, Feed, Sink
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.journal import Journal
from hybrid_compute.server.memory import Memory, mark_of
from hybrid_compute.server.pickles import Pickles, SignedEntry
from hybrid_compute.server.settings import Limits
from hybrid_compute.server.tally import Tally
from hybrid_compute.server.tokens import Token
from hybrid_compute.streams import Stream

__all__ = ["Call", "Service"]

_LOG = logging.getLogger("hybrid_compute.server")
_STOPPING = 5.0  # seconds; ending a process takes one, unless its executor says otherwise
# Set where callers may set variables: a context that is not empty is the call's own, so that no
# call finds what another one has set.
_a_call: ContextVar[bool] = ContextVar("_a_call")
_CLOSING = "the server is closing; call again later, or elsewhere"


class Call:
    """A place among the calls that may run, and then the call in it."""

    def __init__(self, service: Service, token: Token) -> None:
        self.token = token
        self.future: Future[Any] | None = None
        self.abandoned: bool = False  # nobody waits for its answer
        self.stopped: bool = False  # it may have begun, and was told to end
        self.left: bool = False  # it could not be ended
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._held = True
        self._begun = time.monotonic()
        self._about: tuple[str, object] = ("", "")  # the task and the call's id, for the log
        self._deliver: Callable[[Call], None] | None = None
        self.feed: Feed | None = None  # if it streams, and has begun
        self._make_sink: Callable[[], Sink | None] = lambda: None
        self._collector: Collector | None = None
        self._value: Any = None
        self.error: BaseException | None = None
        self._signed: SignedEntry | None = None
        self._keyed = False  # its end is remembered, whether somebody waits for it or not

    def start(
        self,
        request: Request,
        deliver: Callable[[Call], None],
        *,
        own: bool,
        label: object,
        private: bool = False,
        sink: Callable[[], Sink | None] | None = None,
        done: Future[Any] | None = None,
    ) -> None:
        """Check a call and hand it to the executor.

        Args:
            request: the call.
            deliver: called once on the loop when it has ended, unless it was abandoned.
            own: it came from a peer of ours.
            label: its id, for the log.
            private: nobody between can read the connection.
            sink: makes what takes the items when a stream has begun; None, or if that is what it
                returns: they become one result.
            done: its future, if it has been checked and has run.

        Raises:
            Refusal: it does not run; its place is free again.
        """
        self._about = request.task, label
        try:
            self._deliver = deliver
            if sink is not None:
                self._make_sink = sink
            self._keyed = request.key is not None
            future = self.future = done or self._submit(request, own=own, private=private)
        except Refusal as refusal:
            self.release(f"refused {refusal.status}")
            raise
        except BaseException as error:
            self.release("refused 503")
            if isinstance(error, RuntimeError):  # the executor is shut down
                raise Refusal(503, _CLOSING, retry_after=1) from error
            raise
        if future.done():  # it ran inline, right here
            self.settle()
        else:
            future.add_done_callback(self._ended)

    def _submit(self, request: Request, *, own: bool, private: bool) -> Future[Any]:
        entry = self._service.find(self.token, request.task, private=private)
        args, kwargs = entry.check(request, own=own)
        if isinstance(entry, SignedEntry):
            self._signed = entry
        return self._service.begin(self.token, entry, args, kwargs, request)

    def _ended(self, _: Future[Any]) -> None:
        service = self._service
        service.ended.append(self)
        if service.told is not self._loop:  # see there
            service.told = self._loop
            with suppress(RuntimeError):  # the loop is closed: nobody is there any more
                self._loop.call_soon_threadsafe(service.settle)

    def result(self) -> Any:
        """Return what to answer, when the future has a result."""
        assert self.future is not None  # noqa: S101 - it has ended
        if self.feed is not None:
            return self._value
        value = self.future.result()
        return value if self._signed is None else self._signed.seal(value)

    def settle(self) -> None:
        """Give the place back and tell who waits. On the loop, when the future has ended."""
        assert self.future is not None  # noqa: S101 - it has ended
        if self.future.cancelled():
            self._settle("cancelled")
            return
        self.error = self.future.exception()
        if self.error is None and isinstance(self.future.result(), Stream):
            self._follow(self.future.result())
        else:
            self._settle("ok" if self.error is None else type_name_of(type(self.error)))

    def _follow(self, stream: Stream[Any]) -> None:
        """Send the items of a stream as they come."""
        if self.abandoned or self.stopped:
            stream.close()
            self.error = CancelledError()
            self._settle("stopped")
            return
        sink = self._make_sink()
        if sink is None:
            sink = self._collector = Collector(self._service.limits.body_bytes)
        self.feed = Feed(stream, sink, self._on_end)
        self.feed.pump()

    def _on_end(self, value: Any, error: BaseException | None) -> None:
        self._value, self.error = value, error
        if self._collector is not None:
            self._value = self._collector.items
        self._settle("ok" if error is None else type_name_of(type(error)))

    def _settle(self, outcome: str) -> None:
        self.release(outcome)
        if not self.abandoned and self._deliver is not None:
            self._deliver(self)

    @property
    def task(self) -> str:
        """The name of what it calls; "": that is not read yet."""
        return self._about[0]

    @property
    def over(self) -> bool:
        """Whether it has its outcome, or never got as far."""
        return not self._held

    def describe(self, now: float) -> str:
        """Return what a log line says of it, at some monotonic time."""
        return audit.described(self.token, self._label(), self._begun, now)

    def _label(self) -> str:
        signed = "" if self._signed is None else f" call={self._signed.call_id}"
        return f"{audit.label(*self._about)}{signed}"

    def abandon(self) -> None:
        """End the call, if that can be; nobody wants its answer. Its place is taken till then.

        One with a key goes on: whoever has lost his connection will come back for its answer.
        """
        self.abandoned = True
        if not self._keyed:
            self.stop()

    def stop(self) -> None:
        """End the call, if that can be; it has an answer then."""
        if self.over:
            return
        if self.feed is not None:
            self.feed.close()
            self.stopped, self.error = True, CancelledError()
            self._settle("stopped")
        elif self.future is not None and not self.future.cancel():
            self.stopped = True
            if not self.future.done():  # else a stream is about to begin, and sees it
                self._service.stop(self.future)

    def leave(self) -> None:
        """Tell who waits that nobody will see the end of it."""
        self.left = True
        if self.future is not None and not self.abandoned and self._deliver is not None:
            self.abandoned = True
            self._deliver(self)

    def release(self, outcome: str) -> None:
        """Give the place back; more than once does no harm."""
        if self._held:
            self._held = False
            self._service.release(self)
            if self.future is None:
                self._service.tally.refused += 1
            else:
                seconds = time.monotonic() - self._begun
                self._service.tally.ended(self._about[0], seconds, ok=outcome == "ok")
            if audit.is_on():
                audit.log(self.token, self._label(), self._begun, outcome)


class Service:
    """The calls of all connections."""

    def __init__(  # noqa: PLR0913 - what the application was given
        self,
        catalog: Catalog,
        executor: HybridExecutor,
        limits: Limits,
        *,
        debug: bool,
        open_: bool,
        pickles: Pickles | None = None,
        journal: Journal | None = None,
        inline: Mapping[str, Entry] | None = None,
        takes: Carried | None = None,
    ) -> None:
        self.catalog = catalog
        self.limits = limits
        self.debug = debug
        self.pickles: Pickles = pickles or Pickles(None)
        self.memory: Memory = Memory(
            partial(failure_of, debug=debug),
            seconds=limits.remember_seconds,
            max_bytes=limits.remember_bytes,
            journal=journal,
        )
        self.draining: bool = False
        self.ended: deque[Call] = deque()
        # The loop that has been told to look into `ended` and has not begun to. Who ends a call
        # puts it there first and then looks here; `settle` the other way round.
        self.told: asyncio.AbstractEventLoop | None = None
        self.takes = takes
        self._open = open_  # one token stands for everybody: its calls are bounded by the queue
        self.executor = executor
        self._calls: set[Call] = set()
        self._of_token: dict[str, int] = {}
        self._stopper: ThreadPoolExecutor | None = None
        self.tally: Tally = Tally(each.name for each in catalog)
        self._began = time.monotonic()
        self._idle = asyncio.Event()
        self._drained = False
        self.inline: Mapping[str, Entry] = inline or {}  # the tasks whose calls `Quick` makes
        self.here: tuple[Token, Request, float] | None = None  # such a call that runs, since when

    def is_full(self, token: Token) -> bool:
        """Say whether `admit` would refuse a call."""
        return (
            self.draining
            or self.executor._closed
            or len(self._calls) >= self.limits.queue
            or (self._of_token.get(token.name, 0) >= self.limits.in_flight and not self._open)
        )

    def admit(self, token: Token) -> Call:
        """Take a place for a call, before its body is read.

        Raises:
            Refusal: 503 while closing; 429 when the queue or the token's share is full.
        """
        if self.draining:
            raise Refusal(503, _CLOSING, retry_after=1)
        if len(self._calls) >= self.limits.queue:
            raise Refusal(429, f"{len(self._calls)} calls run or wait already", retry_after=1)
        mine = self._of_token.get(token.name, 0)
        if mine >= self.limits.in_flight and not self._open:
            raise Refusal(429, f"{mine} calls of this token run already", retry_after=1)
        self._of_token[token.name] = mine + 1
        call = Call(self, token)
        self._calls.add(call)
        return call

    def find(self, token: Token, name: str, *, private: bool = False) -> Entry | SignedEntry:
        """Look a task up for a caller; raise Refusal 403, 404, or 415 for pickled calls."""
        if not token.allows(name):
            raise Refusal(403, f"this token may not call {short(name)}")
        if name == SIGNED_TASK:
            return self.pickles.entry(private=private)
        entry = self.catalog.find(name)
        if entry is None:
            raise Refusal(404, f"there is no task {short(name)}; GET /tasks lists them")
        return entry

    def begin(
        self, token: Token, entry: Entry | SignedEntry, args: Any, kwargs: Any, request: Request
    ) -> Future[Any]:
        """Run a call; if it has a key, only once, and answer it however often it comes.

        Raises:
            Refusal: 422 if the key is another call's, 400 if the call streams.
        """
        if request.key is None:
            return self.submit(entry, args, kwargs, request)
        # The envelope of a signed call is another one each time.
        said = (args[:1], {}) if isinstance(entry, SignedEntry) else (request.args, request.kwargs)
        return self.memory.run(
            token.name,
            request.key,
            mark_of(entry.task, request.task, *said),
            lambda: self.submit(entry, args, kwargs, request),
            idempotent=bool(entry.task.options.idempotent),
        )

    def submit(
        self, entry: Entry | SignedEntry, args: Any, kwargs: Any, request: Request
    ) -> Future[Any]:
        """Hand a call to the executor, in a context with those variables that are taken."""
        if self.takes is None:
            return self._submit(entry, args, kwargs, request)
        context = Context()
        context.run(_a_call.set, True)
        context.run(self.takes.put, request.context or {})
        return context.run(self._submit, entry, args, kwargs, request)

    def _submit(
        self, entry: Entry | SignedEntry, args: Any, kwargs: Any, request: Request
    ) -> Future[Any]:
        """Hand a call to the executor with the shortest of the three time limits."""
        timeout = request.timeout
        options = entry.task.options
        if timeout is None and options.executor == "inline" and not options.supervised:
            # It is over before anybody could end it: a limit would only cost.
            return self.executor.submit(entry.task, *args, **kwargs)
        said = (self.limits.task_seconds, options.timeout, timeout)
        least = min(each for each in said if each is not None)
        if least <= 0:
            raise Refusal(408, "the caller's time was up before the call began")
        view = self.executor.options(timeout=least)
        if entry.task.streams and request.credit is not None:
            # Its generator goes no further ahead than its caller has room.
            items, size = request.credit
            most, most_bytes = options.buffersize, options.buffer_bytes
            view = view.options(
                buffersize=max(1, min(items, most or BUFFER_ITEMS)),
                buffer_bytes=max(1, min(size, most_bytes or BUFFER_BYTES)),
            )
        return view.submit(entry.task, *args, **kwargs)

    def settle(self) -> None:
        """Settle what has ended. On the loop; several wake-ups may find it done already."""
        self.told = None
        while self.ended:
            try:
                self.ended.popleft().settle()
            except Exception:  # the others have ended too, and nobody would look for them again
                _LOG.exception("exception answering a call")

    def release(self, call: Call) -> None:
        """Note that a place is free."""
        self._calls.discard(call)
        self._of_token[call.token.name] -= 1
        if not self._calls:
            self._idle.set()

    def stop(self, future: Future[Any]) -> None:
        """End work that runs, without waiting for that here."""
        cancel = getattr(future, "cancel_running", None)
        if cancel is not None:
            if self._stopper is None:
                self._stopper = ThreadPoolExecutor(2, "hybrid-compute-stop")
            self._stopper.submit(cancel)

    def failure(self, call: Call) -> Failed | None:
        """Return what to tell of a call that has ended, or was left; None if it has a result."""
        return failure_of_call(call, debug=self.debug)

    def failed(self, error: BaseException) -> Failed:
        """Return what to tell of a call that raised an error itself."""
        return failure_of(error, debug=self.debug)

    async def drain(self) -> None:
        """Admit nothing more; wait for what runs, for the grace; then end it, if that can be."""
        self.draining = True
        if self._drained:
            return  # what is left then cannot be ended
        await self._until_idle(self.limits.grace)
        for call in tuple(self._calls):
            call.stop()
        await self._until_idle(_STOPPING)
        for call in tuple(self._calls):
            call.leave()
        self._drained = True

    async def _until_idle(self, seconds: float) -> None:
        if self._calls:
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    def left(self) -> list[str]:
        """Describe the calls that run or wait. From any thread."""
        now = time.monotonic()
        here = self.here  # read once: the event loop may go on
        while True:
            try:
                left = [each.describe(now) for each in tuple(self._calls)]
            except RuntimeError:  # the event loop has added one meanwhile
                continue
            if here is not None:
                token, request, begun = here
                left.append(audit.described(token, audit.of(request), begun, now))
            return left

    def stats(self, token: Token) -> dict[str, Any]:
        """Return what the server does at the moment, and has done, as JSON takes it."""
        under_way = Counter(each.task for each in self._calls if each.task)
        stats = self.executor.stats()
        return {
            "uptime": round(time.monotonic() - self._began, 3),
            "draining": self.draining,
            "under_way": len(self._calls),
            "queue": self.limits.queue,
            "refused": self.tally.refused,
            "executors": {name: asdict(each) for name, each in stats.executors.items()},
            "tasks": self.tally.as_data(under_way, token),
        }

    def log(self, token: Token, request: Request, begun: float, outcome: str) -> None:
        """Write the line of the audit log about a call that no `Call` stands for."""
        audit.log(token, audit.of(request), begun, outcome)

    def close(self) -> None:
        """Let go of the threads that end work."""
        if self._stopper is not None:
            self._stopper.shutdown()
            self._stopper = None
