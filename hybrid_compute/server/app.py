"""App: the ASGI application. Owns the way from a path to an answer, and the executor if it made it.

On the event loop; see the package for the threads behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hybrid_compute._contexts import Carried
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.hybrid import HybridExecutor
from hybrid_compute.protocol.signing import SigningKey
from hybrid_compute.server.catalog import Catalog
from hybrid_compute.server.gate import LOOPBACK_HOSTS, Gate, Refusal
from hybrid_compute.server.http import compute, refuse, send_json, send_response
from hybrid_compute.server.journal import Journal
from hybrid_compute.server.openapi import document
from hybrid_compute.server.pickles import Pickles
from hybrid_compute.server.quick import quick_ones
from hybrid_compute.server.service import Service
from hybrid_compute.server.settings import Limits
from hybrid_compute.server.tokens import VARIABLE, Token, Tokens
from hybrid_compute.server.websocket import Connection
from hybrid_compute.server.workers import harden

if TYPE_CHECKING:
    from hybrid_compute.telemetry.prometheus import Metrics

__all__ = ["App", "create_app"]

_LOG = logging.getLogger("hybrid_compute.server")
_METHODS = {
    "/compute": "POST",
    **dict.fromkeys(("/tasks", "/openapi.json", "/stats", "/healthz"), "GET"),
}
_SCRAPE = "/metrics"  # if there are some
_LAST_WORDS = 1.0  # seconds for that


class App:
    """An ASGI application; made by `create_app`."""

    def __init__(
        self,
        service: Service,
        gate: Gate,
        executor: HybridExecutor,
        *,
        owns: bool,
        metrics: Metrics | None = None,
        open_metrics: bool = False,
    ) -> None:
        self.service = service
        self._gate = gate
        self._executor = executor
        self._owns = owns
        self._metrics = metrics
        self._open = {"/healthz", _SCRAPE} if open_metrics else {"/healthz"}
        self._methods = _METHODS | ({} if metrics is None else {_SCRAPE: "GET"})
        self._connections: set[Connection] = set()
        self._closer: threading.Thread | None = None
        self._refused, self._told, self._last = 0, 0.0, ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, or the application's life, as ASGI says.

        Args:
            scope: what came: "http", "websocket" or "lifespan".
            receive: awaited for its next message.
            send: awaited with each message of the answer.
        """
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        socket = scope["type"] == "websocket"
        if socket:
            await receive()  # websocket.connect
        elif path in self._open and scope["method"] == "GET":
            await self._tell_anybody(path, scope, send)
            return
        try:
            token = self._admit(scope)
            if socket:
                await self._connect(path, token, scope, receive, send)
                return
            if path not in self._methods:
                raise Refusal(
                    404,
                    "there is POST /compute, GET /tasks, /openapi.json and /stats, and the "
                    "WebSocket /ws",
                )
            if scope["method"] != self._methods[path]:
                raise Refusal(405, f"{path} takes {self._methods[path]} only")
        except Refusal as refusal:
            if socket:
                await refuse(_denial(scope, send), refusal)
            else:
                await refuse(send, refusal, receive=receive)
            return
        if path == _SCRAPE:
            await self._tell_metrics(send)
        elif path == "/compute":
            await compute(self.service, token, scope, receive, send)
        else:
            await self._tell(path, token, scope, send)

    def _admit(self, scope: Any) -> Token:
        try:
            self._gate.check_host(scope["headers"])
            return self._gate.authenticate(scope["headers"])
        except Refusal as refusal:
            self._refused += 1
            self.service.tally.refused += 1
            self._last = f"{refusal.status}, of {(scope.get('client') or ('nobody known',))[0]}"
            if time.monotonic() - self._told >= 1:  # a flood of them must not fill the disk
                self._tell_refused()
            raise

    def _tell_refused(self) -> None:
        if self._refused:
            _LOG.warning("%d refused, the last with %s", self._refused, self._last)
            self._refused, self._told = 0, time.monotonic()

    async def _connect(self, path: str, token: Token, scope: Any, receive: Any, send: Any) -> None:
        if path != "/ws":
            raise Refusal(404, "the WebSocket is at /ws")
        if self.service.draining:
            raise Refusal(503, "the server is closing", retry_after=1)
        connection = Connection(self.service, token, scope, receive, send)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _tell(self, path: str, token: Token, scope: Any, send: Any) -> None:
        """Answer a question about the server."""
        service, catalog = self.service, self.service.catalog
        if path == "/stats":
            await send_json(send, service.stats(token), asked=scope["headers"])
            return
        found = [(each, catalog.describe(each)) for each in catalog if token.allows(each.name)]
        if path == "/openapi.json":
            described = document(found, open_=self._gate.open)
            await send_json(send, described, asked=scope["headers"])
            return
        told = {"tasks": [described for _, described in found]}
        await send_json(send, told, *service.pickles.headers, asked=scope["headers"])

    async def _tell_anybody(self, path: str, scope: Any, send: Any) -> None:
        if path == "/healthz":
            # While it drains it is alive, but whoever balances loads is to look elsewhere.
            await send_response(send, 503 if self.service.draining else 200, b"{}")
            return
        try:
            self._gate.check_host(scope["headers"])
        except Refusal as refusal:
            await refuse(send, refusal)
        else:
            await self._tell_metrics(send)

    async def _tell_metrics(self, send: Any) -> None:
        from hybrid_compute.telemetry.prometheus import CONTENT_TYPE  # noqa: PLC0415 - an extra

        assert self._metrics is not None  # noqa: S101 - or there is no such path
        await send_response(send, 200, self._metrics.text(), kind=CONTENT_TYPE)

    async def _live(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.drain()
                await asyncio.to_thread(self.close, self.service.limits.grace)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def drain(self) -> None:
        """Answer new calls with 503 and let those that run end, for the grace of the limits."""
        self.service.draining = True
        for each in tuple(self._connections):
            each.drain()
        await self.service.drain()
        # The last answers have to go out before anybody ends their connections.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                for each in tuple(self._connections):
                    await each.ended.wait()

    def close(self, timeout: float | None = None) -> bool:
        """End the executor, if this application made it. Blocks until its work has ended.

        Args:
            timeout: seconds; None: as long as that takes. Work on threads cannot be ended.

        Returns:
            Whether it has.
        """
        self._tell_refused()
        if self._closer is None:
            self._closer = threading.Thread(
                target=self._end, name="hybrid-compute-close", daemon=True
            )
            self._closer.start()
        # A call that `drain` could not end will not end now.
        self._closer.join(0 if timeout is not None and self.service.left() else timeout)
        return not self._closer.is_alive()

    def adopt(self) -> None:
        """Take the executor over: `close` ends it."""
        self._owns = True

    def _end(self) -> None:
        self.service.close()
        if self._owns:
            self._executor.shutdown(cancel_futures=True)
        self.service.memory.close()  # the last calls have ended

    def report_left(self) -> None:
        """Log which calls, or what else, could not be ended. From any thread."""
        calls = self.service.left()
        for each in calls[:100]:
            _LOG.warning("left behind: %s", each)
        if len(calls) != 1:
            _LOG.warning("%d calls are left behind, and work that was given up before", len(calls))


def _denial(scope: Any, send: Any) -> Any:
    """Return a `send` that answers a WebSocket's handshake as HTTP does."""
    if "websocket.http.response" not in scope.get("extensions", {}):

        async def close(message: Any) -> None:
            if message["type"] == "http.response.start":
                await send({"type": "websocket.close", "code": 1008})

        return close

    async def respond(message: Any) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return respond


def create_app(  # noqa: PLR0913 - one setting each, by name
    registry: Mapping[str, Any] | Iterable[Any],
    *,
    executor: HybridExecutor | None = None,
    tokens: Tokens | None = None,
    hosts: Iterable[str] = LOOPBACK_HOSTS,
    origins: Iterable[str] = (),
    limits: Limits | None = None,
    debug: bool = False,
    pickle_keys: Iterable[SigningKey | str] | None = None,
    remember: str | os.PathLike[str] | None = None,
    context: Iterable[ContextVar[Any] | Any] = (),
    metrics: Metrics | bool = False,
    open_metrics: bool = False,
) -> App:
    """Return an ASGI application that serves tasks.

    Args:
        registry: a TaskRegistry, a mapping of names to functions, or a list of tasks. Functions
            that are no tasks become some: they run in worker processes.
        executor: runs them, and stays the caller's. None: one of its own, whose worker processes
            see no token or key in their environment, and dump no core.
        tokens: who may call. None: as the environment says; if it says nothing, a token is made
            and printed to stderr. `Tokens.anyone()` lets everybody in.
        hosts: names by which the server may be called.
        origins: web origins whose pages may call.
        limits: see `Limits`.
        debug: show callers the tracebacks of what they called.
        pickle_keys: callers who sign with one of them may run any callable, in worker processes:
            all that the server's user can do, they can do. Only over TLS or from this machine, and
            only if one process serves. None: nobody may.
        remember: file in which to keep how calls with an idempotency key ended, so that one which
            is sent again takes effect once although the server was ended meanwhile. It belongs to
            one server. None: that is kept in memory only.
        context: context variables that callers may set for their calls, who have listed variables
            of the same names (`HybridExecutor(carry=...)`). Any caller may give them any value, so
            they are no proof of anything. The application's own executor carries them to its
            worker processes; one that is given does if it lists them too.
        metrics: True: `GET /metrics` tells Prometheus what the application's own executor does
            (extra `prometheus`). For one that is given, the `Metrics` that observes it.
        open_metrics: who asks for them needs no token.

    A task with `executor="inline"` runs on the event loop: it must be one of microseconds. Log
    lines are made there too: a handler that may block (stderr may) belongs into a `BoundedHandler`.

    Raises:
        ConfigurationError: a value cannot be taken, or a task cannot be served.
        OutboxError: the file `remember` cannot be used.
    """
    catalog = Catalog(registry)
    hosts = tuple(hosts) if not isinstance(hosts, str) else hosts
    if tokens is None:
        tokens = Tokens.from_environ()  # and out of it, before any worker starts
    if tokens is None:
        tokens, secret = Tokens.generate()
        print(  # noqa: T201 - once, and never to a log
            "hybrid-compute: no token was given, so this one was made; callers need it:\n"
            f"export {VARIABLE}={secret}",
            file=sys.stderr,
            flush=True,
        )
    if not isinstance(tokens, Tokens):
        raise ConfigurationError(
            f"tokens is of type {type(tokens).__name__}; give Tokens([Token.of(secret)]), or "
            "Tokens.anyone()"
        )
    gate = Gate(tokens, hosts=hosts, origins=origins)
    pickles = Pickles(pickle_keys, tokens=tokens, hosts=hosts)
    limits = limits or Limits()
    journal = None
    if remember is not None:
        journal = Journal(remember, max_bytes=limits.remember_bytes)
    mine = executor is None
    observer = _observer(metrics, mine=mine, open_metrics=open_metrics)
    taken = tuple(context)
    if executor is None:
        executor = HybridExecutor(
            executors={"process": ProcessExecutor(initializer=harden)},
            carry=taken,
            observers=() if observer is None else [observer],
        )
    service = Service(
        catalog,
        executor,
        limits,
        debug=debug,
        open_=tokens.open,
        pickles=pickles,
        journal=journal,
        inline=None if taken else quick_ones(catalog, executor),  # a context costs, too
        takes=Carried(taken) if taken else None,
    )
    return App(service, gate, executor, owns=mine, metrics=observer, open_metrics=open_metrics)


def _observer(metrics: Metrics | bool, *, mine: bool, open_metrics: bool) -> Metrics | None:
    """Return what observes the executor; None: nothing does."""
    if metrics is False:
        if open_metrics:
            raise ConfigurationError("open_metrics=True opens nothing without metrics=True")
        return None
    from hybrid_compute.telemetry.prometheus import Metrics  # noqa: PLC0415 - an extra

    if isinstance(metrics, Metrics) and not mine:
        return metrics
    if metrics is not True or not mine:
        raise ConfigurationError(
            f"metrics={metrics!r}: give True for the application's own executor; or, if one is "
            "given, the Metrics() that observes it"
        )
    return Metrics()
