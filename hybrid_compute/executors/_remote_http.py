"""Posts: calls over HTTP, one a thread at a time.

Owns a pool of threads, each of which keeps its own connection alive, and the retries of calls that
a service was too busy for. The pool is a ThreadExecutor, which has the locks, the queue and the
ending; what is queued there is a WorkItem that carries ours. No future but the outer one is ever
waited for. Each exchange ends at its deadline, or with its connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hybrid_compute._contexts import Carried
from hybrid_compute.errors import (
    AuthError,
    HybridComputeError,
    RemoteBusy,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskEncodeError,
)
from hybrid_compute.executors._remote_calls import (
    arguments_of,
    deadline_of,
    name_on_the_wire,
    time_is_up,
)
from hybrid_compute.executors._remote_circuit import Circuit
from hybrid_compute.executors._remote_http_streams import Forms, Opening, open_stream, read
from hybrid_compute.executors._remote_names import Names
from hybrid_compute.executors._remote_signed import Message, SignedCall
from hybrid_compute.executors._remote_tries import Pauses, Tries
from hybrid_compute.executors.thread import ThreadExecutor
from hybrid_compute.items import WorkItem
from hybrid_compute.protocol.codec import Codec, has_msgspec
from hybrid_compute.protocol.http import (
    HEADER,
    KEY_HEADER,
    content_type,
    is_content_type_of,
    judge,
    request_body,
)
from hybrid_compute.protocol.values import Refused
from hybrid_compute.streamed import StreamItem
from hybrid_compute.transports._access import Access
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports.http import HttpTransport

__all__ = ["Posts"]


class Posts:
    """The HTTP half of a RemoteExecutor."""

    def __init__(  # noqa: PLR0913 - what the executor was given
        self,
        access: Access,
        names: Names,
        *,
        name: str,
        workers: int,
        timeout: float | None,
        reconnect_for: float,
        retry_after_cap: float,
        forms: Forms,
        circuit: Circuit,
    ) -> None:
        self.carried: Carried | None = None  # see SubExecutor
        self._forms = forms
        self._circuit = circuit
        self._reconnect_for = reconnect_for
        self._access = access
        self._names = names
        self._timeout = timeout
        self._cap = retry_after_cap
        self._threads = ThreadExecutor(workers, name)
        self._local = threading.local()  # each thread's transport
        self._pauses = Pauses()
        self.round_trips = RoundTrips(64)  # calls that are short enough are among so many
        self._plain = Codec(max_bytes=access.max_bytes)
        self._own = Codec(tagged=True, max_bytes=access.max_bytes)
        self._binary = Codec(binary=has_msgspec(), tagged=True, max_bytes=access.max_bytes)

    def push(self, item: WorkItem, signed: SignedCall | None = None) -> None:
        """Queue an item."""
        deadline, timeout = deadline_of(item, self._timeout)
        self._threads.execute(_Post(self, item, deadline, timeout, signed))

    def perform(
        self, item: WorkItem, deadline: float | None, timeout: float, signed: SignedCall | None
    ) -> None:
        """Make the call and deliver its outcome. On a thread of the pool."""
        if not item.start():
            self._circuit.forget()
            return
        fail = item.fail
        try:
            if isinstance(item, StreamItem):
                self._stream(item, deadline, timeout)
                return
            if signed is None:
                value = self._call(item, deadline, timeout)
            else:
                answer = self._call_signed(item, deadline, timeout, signed)
                fail = item.raised
                value = signed.open(answer)
        except BaseException as error:
            if _is_unwanted(item):
                self._circuit.forget()
                item.end()
            else:
                self._circuit.tell(item, error)
                fail(error)
        else:
            self._circuit.tell(item, None)
            item.succeed(value)

    def _call_signed(
        self, item: WorkItem, deadline: float | None, timeout: float, signed: SignedCall
    ) -> Any:
        boot = self._names.boot_after(None)
        try:
            answer = self._call(item, deadline, timeout, lambda: signed.message(boot))
        except AuthError:  # perhaps it was signed for a run of the server that is over
            now = self._names.boot_after(boot)
            if now in (None, boot):
                raise
            answer = self._call(item, deadline, timeout, lambda: signed.message(now))
        return answer

    def _call(
        self,
        item: WorkItem,
        deadline: float | None,
        timeout: float,
        message: Callable[[], Message] | None = None,
        *,
        exchange: Callable[..., Any] | None = None,
        seq: int = 0,
        tries: Tries | None = None,
    ) -> Any:
        tries = tries or self._tries(item)
        unwanted = partial(_is_unwanted, item)
        more = {} if self.carried is None else self.carried.headers(self._variables(item))
        exchange_once = (
            partial(self._exchange, key=item.key, more=more)
            if exchange is None
            else partial(exchange, more=more)
        )
        self._names.ask(None if deadline is None else deadline - time.monotonic())
        own = self._names.own
        binary = self._names.binary and exchange is None  # lines are of text
        codec = self._plain if not own else self._binary if binary else self._own
        task = name_on_the_wire(item) if message is None else item.name
        path = self._access.path or "/"
        if self._access.query:
            path += f"?{self._access.query}"
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise time_is_up(task, timeout)
            try:
                call = message() if message else (task, arguments_of(item), item.kwargs or {})
                body = self._body(item, codec, call, left, seq)
            except Refused as refusal:
                raise TaskEncodeError(f"{task}: {refusal}") from refusal
            try:
                return exchange_once(codec, path, body, left, own)
            except TimeoutError as error:
                raise time_is_up(task, timeout) from error
            except AuthError as error:
                if error.status is None:
                    raise  # there is no token: it tells why
                hint = "; give a valid token=" if error.status == 401 else ""
                text = f"{self._access} refused the call: {error}{hint}"
                raise AuthError(text, status=error.status) from error
            except (RemoteBusy, RemoteConnectionLost, RemoteUnavailable) as error:
                pause = tries.pause_after(error)
                if (left is not None and pause >= left) or self._pauses.wait(pause, unwanted):
                    raise

    def _tries(self, item: WorkItem) -> Tries:
        return Tries(
            idempotent=item.options.idempotent,
            patience=self._reconnect_for,
            retry_after_cap=self._cap,
        )

    def _variables(self, item: WorkItem) -> dict[str, Any]:
        """Return the context variables that go along with an item."""
        if item.variables is not None:
            return item.variables
        carried, context = self.carried, item.context
        return {} if carried is None or context is None else carried.named(context)

    def _body(
        self, item: WorkItem, codec: Codec, call: Message, left: float | None, seq: int
    ) -> bytes:
        name, args, kwargs = call
        if self._forms.request is None:
            credit = None
            if isinstance(item, StreamItem):
                credit = item.channel.most, item.channel.most_bytes
            return request_body(
                codec,
                name,
                args,
                kwargs,
                timeout=left,
                credit=credit,
                seq=seq,
                variables=self._variables(item),
            )
        return codec.encode(self._forms.request(name, *args, **kwargs))

    def _stream(self, item: StreamItem, deadline: float | None, timeout: float) -> None:
        """Open the answer of a call that streams, and read it as far as there is room."""
        transport = HttpTransport(self._access)  # its own: it may be read for long

        tries = self._tries(item)
        exchange = partial(open_stream, transport, self._forms, self._plain)
        open_at = partial(self._call, item, deadline, timeout, exchange=exchange, tries=tries)
        late = partial(time_is_up, name_on_the_wire(item), timeout)

        def rest_after(lost: RemoteConnectionLost, came: int) -> Iterator[Any]:
            if came and not (self._names.own and self._forms.request is None):
                raise lost  # only a service of ours counts items, if it is told of them
            if self._pauses.wait(tries.pause_after(lost, came), partial(_is_unwanted, item)):
                raise lost
            return open_at(seq=came)  # type: ignore[no-any-return]

        opening = Opening(transport, self._pauses)
        item.expect(opening)
        try:
            reading = read(open_at(seq=0), rest_after, late, transport.close)
        except BaseException:
            transport.close()
            raise
        self._threads._pool.pump(item, reading, interrupt=opening.close)

    def _exchange(
        self,
        codec: Codec,
        path: str,
        body: bytes,
        left: float | None,
        own: bool,
        *,
        key: str | None,
        more: dict[str, str],
    ) -> Any:
        transport: HttpTransport | None = getattr(self._local, "transport", None)
        if transport is None:
            transport = self._local.transport = HttpTransport(self._access)
        kind = content_type(codec)
        headers = {"Content-Type": kind, "Accept": kind, **more}
        if own:
            headers[HEADER] = "1"
        began = time.monotonic()
        if key is not None:
            headers[KEY_HEADER] = key
        try:
            answer = transport.exchange("POST", path, body=body, headers=headers, timeout=left)
        except HybridComputeError:
            transport.close()
            raise
        self.round_trips.add(time.monotonic() - began)
        after = answer.headers.get("Retry-After", "")
        theirs = HEADER in answer.headers and is_content_type_of(codec, answer.content_type)
        return judge(
            codec if theirs else self._plain,
            answer.status,
            answer.content_type,
            answer.body,
            retry_after=float(after) if after.isdigit() and len(after) < 10 else None,
        )

    def counts(self) -> tuple[int, int]:
        """Return how many calls wait, and how many run."""
        return self._threads.counts()

    def runs_here(self) -> bool:
        """Say whether the current thread is one of the pool's."""
        return self._threads.runs_here()

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Refuse new items, and finish or cancel what is queued."""
        if cancel_futures:
            self._pauses.end()
        self._threads.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait and not self.runs_here():
            self._threads.shutdown(wait=True)


def _is_unwanted(item: WorkItem) -> bool:
    return isinstance(item, StreamItem) and item.channel.closed


class _Post(WorkItem):
    """An item of the pool that carries one of ours."""

    __slots__ = ("_deadline", "_posts", "_signed", "_theirs", "_timeout")

    def __init__(
        self,
        posts: Posts,
        item: WorkItem,
        deadline: float | None,
        timeout: float,
        signed: SignedCall | None,
    ) -> None:
        super().__init__(item.fn or int)
        self._posts, self._theirs = posts, item
        self._deadline, self._timeout, self._signed = deadline, timeout, signed

    def run(self) -> None:
        self._posts.perform(self._theirs, self._deadline, self._timeout, self._signed)
        del self._theirs

    def cancel(self) -> None:
        self._theirs.cancel()

    def reject(self, error: BaseException) -> None:
        self._theirs.reject(error)
