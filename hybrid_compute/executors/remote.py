"""RemoteExecutor: sends declared tasks, by name, to a service.

Owns the public face: arguments, defaults, what may go there at all. The calls are in `_remote_http`
(a pool of threads) or `_remote_line` (one WebSocket), which have the locks; nothing is connected,
started or imported for it before the first item. Any thread may call any method.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from hybrid_compute._contexts import Carried
from hybrid_compute._plugins import TRANSPORTS, find_plugin
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.breaker import Breaker, State
from hybrid_compute.errors import ConfigurationError, PlacementError, TaskEncodeError
from hybrid_compute.executors._remote_circuit import Circuit
from hybrid_compute.executors._remote_http import Posts
from hybrid_compute.executors._remote_http_streams import Forms, Pieces
from hybrid_compute.executors._remote_line import Line
from hybrid_compute.executors._remote_names import Names
from hybrid_compute.executors._remote_signed import Key, SignedCall, Signer
from hybrid_compute.executors.thread import check_max_workers
from hybrid_compute.items import WorkItem
from hybrid_compute.privacy import is_bare, refuse_to_send, why_here
from hybrid_compute.protocol.codec import MAX_BYTES
from hybrid_compute.protocol.decoders import DECODERS
from hybrid_compute.retry import RetryBudget
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task, TaskOptions, has_body
from hybrid_compute.transports import Address, MakeTransport
from hybrid_compute.transports._access import Access, Token, check_number, is_foreign
from hybrid_compute.transports._adapted import Adapted, Connection
from hybrid_compute.transports._round_trips import RoundTrips
from hybrid_compute.transports.websocket import WebSocketTransport

__all__ = ["RemoteExecutor", "as_remotes"]

_CLOSED = "cannot schedule new futures after shutdown"


class RemoteExecutor(SubExecutor):
    """Runs declared tasks on a service, which knows them by their names.

    `http(s)://` makes a request of each call, on a few connections that are kept; `ws(s)://` has
    one connection for any number of calls. It connects when the first item comes. What a function
    does is not sent: a plain callable cannot go there, unless both sides have a `signing_key`; what
    is `local_only` never can.

    Args:
        url: of the service, such as "wss://host/ws" or "https://host/compute"; or of another
            scheme, for which an installed package has a transport.
        tasks: names of its tasks. None: it is asked, once (`GET /tasks`); over another package's
            transport it cannot be, so that only a `remote_task` goes there unasked.
        token: sent as `Authorization: Bearer`: the text, "env:NAME", a path of a file
            (`pathlib.Path`), or a callable that is asked for each connection or request.
        signing_key: lets any callable go there, pickled and signed, if the service was started with
            --allow-pickle and the same key (and tells so). Tasks that it knows still go by name.
            Given in the ways of `token`, whose file must be closed to others, and never the same
            secret.
        timeout: seconds for a call, from its submission to all of its answer; None: no bound but
            the item's own.
        headers: further headers of each request or handshake.
        name: its name in a fleet.
        max_workers: requests at once; for WebSocket, only what `load` is measured by.
        connect_timeout: seconds for a connection, handshakes included.
        reconnect_for: seconds for which calls under way when their connection is lost, that may
            be sent again, wait for another one; over WebSocket, so do those that come meanwhile.
            Without any such, a call that finds nobody there fails at once.
        retry_after_cap: most seconds to wait because the service is busy and asks for it.
        ping_interval: seconds between pings of a WebSocket.
        ping_timeout: seconds to wait for the answer to one.
        max_bytes: the largest message to take, or to send.
        tls_ca: file of the authorities to trust instead of the system's.
        tls_cert: the client's own certificate: a file, or a pair of files with its key.
        proxy: URL of an HTTP proxy. Never used for this machine.
        trust_env: take the proxy from the environment.
        allow_plaintext: let a token travel unencrypted to another machine.
        request: for HTTP services that are not of our kind: makes the body of a request, which is
            sent as JSON, from the task's name and its arguments.
        decoder: for the streams of such: "ndjson", "sse" (server-sent events), "chat" (tokens of a
            chat-completions service), "text", "bytes", or a function that takes an iterator over
            the pieces of an answer and returns one over its items. None: as the content type says.
        breaker: when to stop asking a service that does not answer, and for how long; None: a
            `Breaker()`. Meanwhile calls fail at once with `RemoteUnavailable`, or go elsewhere.

    Attributes:
        breaker: that breaker; its `state` can be read at any time.
        retry_budget: a `RetryBudget()`, which bounds how many calls may repeat others; may be set.

    Raises:
        ConfigurationError: an argument has a wrong value, or a token would travel in the clear; or
            pickles would, whatever `allow_plaintext` says.
    """

    capabilities: Capabilities = Capabilities(isolates=True, remote=True, streams=True)

    def __init__(  # noqa: PLR0913 - one setting each, all but the first by name
        self,
        url: str,
        *,
        tasks: Iterable[str] | None = None,
        token: Token | None = None,
        signing_key: Key | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        name: str = "remote",
        max_workers: int = 8,
        connect_timeout: float = 10.0,
        reconnect_for: float = 30.0,
        retry_after_cap: float = 30.0,
        ping_interval: float = 20.0,
        ping_timeout: float = 20.0,
        max_bytes: int = MAX_BYTES,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | tuple[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        allow_plaintext: bool = False,
        request: Callable[..., Any] | None = None,
        decoder: str | Pieces | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        TaskOptions(timeout=timeout)  # checks it
        check_number("reconnect_for", reconnect_for, zero=True)
        check_number("retry_after_cap", retry_after_cap, zero=True)
        check_number("ping_interval", ping_interval)
        check_number("ping_timeout", ping_timeout)
        given: Any = name
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"name={name!r} is no name for an executor: give a text")
        self.name = name
        self.workers: int = check_max_workers(max_workers)
        maker = _transport_maker(url)
        self._access = Access(
            url,
            token=token,
            headers=headers,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            proxy=proxy,
            trust_env=trust_env,
            allow_plaintext=allow_plaintext,
            max_bytes=max_bytes,
            connect_timeout=connect_timeout,
            foreign=maker is not None,
            encrypted=bool(getattr(maker, "encrypted", False)),
        )
        if maker is not None and signing_key is not None:
            raise ConfigurationError(
                f"signing_key= is for http(s):// and ws(s)://, and {self._access} is another's "
                "transport: leave it out, and send declared tasks"
            )
        self._signer = (
            None if signing_key is None else Signer(signing_key, self._access, token=token)
        )
        self._names = Names(self._access, tasks)
        if isinstance(decoder, str) and decoder not in DECODERS:
            raise ConfigurationError(
                f"decoder={decoder!r}: those that have a name are {sorted(DECODERS)}; give a "
                "function for any other"
            )
        circuit = self._circuit = Circuit(breaker, str(self._access))
        self.breaker: Breaker = circuit.breaker
        self._retry_budget: RetryBudget | None = RetryBudget()
        self._half: Posts | Line
        if self._access.scheme in ("http", "https"):
            self._half = Posts(
                self._access,
                self._names,
                name=f"{name} {self._access.host}",
                workers=self.workers,
                timeout=timeout,
                reconnect_for=reconnect_for,
                retry_after_cap=retry_after_cap,
                forms=Forms(request, decoder),
                circuit=circuit,
            )
            self._round_trips = self._half.round_trips
        elif request is not None or decoder is not None:
            raise ConfigurationError("request= and decoder= are for http:// and https:// only")
        else:
            # Not `self`: an executor that is dropped is freed.
            access, trips = self._access, RoundTrips()
            address = Address(
                url=url,
                headers=access.headers_now,
                max_bytes=max_bytes,
                connect_timeout=connect_timeout,
            )
            self._round_trips = trips

            def connect() -> Connection:
                if maker is not None:
                    return Adapted(maker(address))
                return WebSocketTransport(
                    access,
                    ping_interval=ping_interval,
                    ping_timeout=ping_timeout,
                    round_trips=trips,
                )

            self._keeps_time = True
            self._half = Line(
                connect,
                name=f"{name} {access.host}",
                max_bytes=max_bytes,
                timeout=timeout,
                reconnect_for=reconnect_for,
                retry_after_cap=retry_after_cap,
                circuit=circuit,
            )

    @property
    def retry_budget(self) -> RetryBudget | None:
        """Bounds how many calls may repeat others; may be set. None: no bound but theirs."""
        return self._retry_budget

    @retry_budget.setter
    def retry_budget(self, budget: RetryBudget | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # not to be read only
        given: Any = budget
        if given is not None and not isinstance(given, RetryBudget):
            raise ConfigurationError(
                f"retry_budget={budget!r} of {self!r}: give a RetryBudget(...), or None"
            )
        self._retry_budget = budget

    @property
    def carried(self) -> Carried | None:
        """The context variables whose values go along to a service of ours."""
        return self._half.carried

    @carried.setter
    def carried(  # pyright: ignore[reportIncompatibleVariableOverride]  # not to be read only
        self, carried: Carried | None
    ) -> None:
        self._half.carried = carried

    def is_available(self) -> bool:
        """Say whether it would take an item now: the circuit is closed, or may be tried."""
        return not self._circuit.is_open()

    def can_run(self, item: WorkItem) -> bool:
        """Say whether the item may go there, by the name of a task of the service, or signed.

        The first time, the service may have to be asked: that takes two seconds at most.
        """
        fn = item.target if item.streams else item.fn
        if why_here(item) is not None:
            return False
        if not isinstance(fn, Task):
            return self._takes_signed(item)
        has = self._names.has(fn.name)
        # If that cannot be known, only what can run nowhere else is sent.
        return (not has_body(fn) if has is None else has) or self._takes_signed(item)

    def execute(self, item: WorkItem) -> None:
        """Queue the item. Does not wait for the service."""
        fn: Any = item.fn
        if type(fn) is not Task:
            fn = item.target if item.streams else fn
        # By hand, as below, what would be said as long as all is well: this is most of the time.
        if not (type(fn) is Task and item.options is fn.options and is_bare(fn)):
            refuse_to_send(item, self._access)
        if self.breaker.state is not State.CLOSED:
            refusal = self._circuit.refusal()
            if refusal is not None:
                if isinstance(item, RoutedItem):
                    raise refusal  # it may have somewhere else to go
                item.reject(refusal)
                return
        try:
            if self._signer is None and isinstance(fn, Task):
                self._half.push(item)
            else:
                self._send(item, fn)
        except BaseException:
            self._circuit.forget()  # nobody will tell its outcome
            raise

    def _send(self, item: WorkItem, fn: Any) -> None:
        if self._signer is not None and (item.packed is not None or self._is_signed(item)):
            try:
                signed = SignedCall(self._signer, item)
            except TaskEncodeError as error:
                self._circuit.forget()
                item.reject(error)
            else:
                self._half.push(item, signed)
            return
        if not isinstance(fn, Task):
            raise PlacementError(
                f"{item.name!r} is no declared task, and only those are sent to "
                f"{self._access}: declare it with @task on both sides, or use remote_task(name), "
                "or let both sides have a signing_key"
            )
        self._half.push(item)

    def _is_signed(self, item: WorkItem) -> bool:
        """Say whether an item that may go there is to be pickled: no name stands for it there."""
        fn = item.fn
        if getattr(fn, "carries_function", False) or not has_body(fn):
            return False  # a part of a map does not tell what may be done with its function
        return not isinstance(fn, Task) or self._names.has(fn.name) is False

    def _takes_signed(self, item: WorkItem) -> bool:
        if self._signer is None or not self._is_signed(item):
            return False
        self._names.ask()
        return bool(self._names.boot)

    def load(self) -> float:
        """Return the number of items queued and sent per worker."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many items wait here, and how many were sent and have no answer yet."""
        return self._half.counts()

    def latency(self) -> float | None:
        """Return the shortest of the last round trips in seconds; None: there was none yet.

        Over WebSocket they are those of the handshakes and pings; over HTTP, of the last 64 calls,
        with the time that the service took for them.
        """
        return self._round_trips.shortest()

    def runs_here(self) -> bool:
        """Say whether the current thread delivers this executor's outcomes."""
        return self._half.runs_here()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more items; finish what was accepted, then close all connections.

        Args:
            wait: block until that is done; from a done-callback it does not block.
            cancel_futures: cancel what has not been sent.
        """
        half = self._half
        if isinstance(half, Posts):
            half.shutdown(wait=wait, cancel_futures=cancel_futures)
            return
        half.refuse(RuntimeError(_CLOSED))
        half.end_streams()
        if cancel_futures:
            half.cancel_all()
        if wait and not half.runs_here():
            half.join()
        else:
            half.close(RuntimeError(_CLOSED))

    def __repr__(self) -> str:
        return f"<RemoteExecutor {self.name} {self._access}>"

    def __del__(self) -> None:
        half: Any = getattr(self, "_half", None)  # the constructor may have raised
        if isinstance(half, Line):
            half.close(RuntimeError(_CLOSED))


def _transport_maker(url: object) -> MakeTransport | None:
    """Return what makes the transports of a URL; None: it is one of ours, or no package has any."""
    if not is_foreign(url):
        return None
    found: MakeTransport | None = find_plugin(TRANSPORTS, str(url).partition("://")[0].lower())
    return found


def as_remotes(remote: object) -> dict[str, RemoteExecutor]:
    """Return the executors of `HybridExecutor(remote=...)` by their names.

    One that stands alone is "remote"; several have the names they were given, or their hosts'.
    """
    if isinstance(remote, str):
        return {"remote": RemoteExecutor(remote)}
    if isinstance(remote, RemoteExecutor):
        return {remote.name: remote}
    if not isinstance(remote, Iterable):
        raise ConfigurationError(
            f"remote={remote!r} is neither a URL, nor a RemoteExecutor, nor several of them"
        )
    found: dict[str, RemoteExecutor] = {}
    for each in remote:
        if isinstance(each, str):
            host = "" if is_foreign(each) else Access(each).host
            made = RemoteExecutor(each, name=host or urlsplit(each).hostname or each)
        elif isinstance(each, RemoteExecutor):
            made = each
        else:
            raise ConfigurationError(f"remote: {each!r} is neither a URL nor a RemoteExecutor")
        if made.name in found:
            raise ConfigurationError(
                f"remote: two of them are called {made.name!r}; give "
                f"RemoteExecutor(url, name=...) another name each"
            )
        found[made.name] = made
    return found
