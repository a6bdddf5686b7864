"""The command `hybrid-compute serve`, and the uvicorn server that it runs.

Owns what may be served where: without TLS and a token, on loopback only. `Server` drains before
uvicorn closes its connections, and ends in bounded time:

    first signal --> drain: grace --> calls are ended: 5 s --> close: grace --> 0, or LEFT
         `---------> 2 x grace + 15 s, whatever the event loop does -----------> LEFT
    second signal ------------------------------------------------------------> 128 + its number

Threads: the event loop is the main thread's; one writes the log (`server.logs`); one waits for the
first signal, and ends the process if the event loop does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import ipaddress
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import click
import uvicorn

from hybrid_compute._config_option import config_of, with_config
from hybrid_compute._failures import text_of, type_name_of
from hybrid_compute.config import Config, build
from hybrid_compute.errors import ConfigurationError, OutboxError
from hybrid_compute.hybrid import HybridExecutor
from hybrid_compute.server import App, BoundedHandler, Limits, Tokens, create_app
from hybrid_compute.server.gate import LOOPBACK_HOSTS
from hybrid_compute.server.guards import http_guard, ws_guard
from hybrid_compute.server.logs import Seldom, Stderr
from hybrid_compute.server.pickles import FILE_VARIABLE, VARIABLE, keys_from_environ
from hybrid_compute.server.workers import harden

if TYPE_CHECKING:
    from hybrid_compute.telemetry.prometheus import Metrics

__all__ = ["LEFT", "Server", "serve"]

LEFT = 4  # exit code: there was work that could not be ended (3 is uvicorn's: it did not start)
_MARGIN = 15.0  # seconds, for all that takes time at the end beside the grace


class Server(uvicorn.Server):
    """Uvicorn, but what runs may end before connections are closed, and the end is bounded."""

    def __init__(self, config: uvicorn.Config, app: App, log: BoundedHandler, **given: Any) -> None:
        super().__init__(config)
        self._app = app
        self._log = log
        self._limits: Limits = given["limits"]
        self._scheme: str = given["scheme"]
        self._told = 0  # signals
        self._asked = threading.Lock()  # held until the first signal
        self._asked.acquire()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where. As uvicorn's, with a deadline for the handshake of TLS."""
        config = self.config
        await self.lifespan.startup()

        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        made = {
            "config": config,
            "server_state": self.server_state,
            "app_state": self.lifespan.state,
        }

        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: protocol(**made),
                config.host,
                config.port,
                ssl=config.ssl,
                ssl_handshake_timeout=self._limits.header_seconds if config.ssl else None,
                backlog=config.backlog,
            )
        except OSError as error:
            hint = "; give another --port" if error.errno == errno.EADDRINUSE else ""
            raise click.ClickException(f"cannot listen: {error}{hint}") from error
        self.servers = [server]
        self.started = True
        host, port = server.sockets[0].getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        click.echo(f"hybrid-compute: serving at {self._scheme}://{name}:{port}", err=True)

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain, still listening so that new callers learn why; then close.

        Ends the process if there is work which cannot be ended.
        """
        await self._app.drain()
        await super().shutdown(sockets)
        if not await asyncio.to_thread(self._app.close, self._limits.grace):
            self._app.report_left()
            self._leave(LEFT)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to end well, with exit code 0."""
        threading.Thread(target=self._see_to_it, name="hybrid-compute-end", daemon=True).start()
        before = {
            each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to end; at the second signal, end. A signal handler: it interrupts anything."""
        self._told += 1
        if self._told == 1:
            self.should_exit = True
            self._asked.release()
        else:
            self._leave(128 + sig)

    def _see_to_it(self) -> None:
        """End the process even if the event loop is stuck in a task. On a thread of its own."""
        self._asked.acquire()
        # Twice the grace, for callers and for the executor, and what `drain` takes beyond it.
        threading.Event().wait(2 * self._limits.grace + _MARGIN)
        self._app.report_left()
        self._leave(LEFT)

    def _leave(self, code: int) -> NoReturn:
        # Worker processes end with us: the kernel sees to it. Threads that run tasks would keep
        # the interpreter from exiting.
        self._log.flush()
        os._exit(code)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _load(target: str) -> Any:
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise click.UsageError(f"{target!r} is not MODULE:NAME, as in examples.tasks:TASKS")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise click.UsageError(
            f"{target} cannot be loaded: {type_name_of(type(error))}: {text_of(error)}; "
            f"python -c 'import {module}' shows where"
        ) from error
    try:
        return getattr(found, name)
    except AttributeError as error:
        raise click.UsageError(f"{target} cannot be loaded: {error}") from error


# Option, field of Limits, help.
_LIMITS = (
    ("--max-body", "body_bytes", "Bytes of a body, of a WebSocket message, of an answer."),
    ("--max-header", "header_bytes", "Bytes of a request's line and headers."),
    ("--header-seconds", "header_seconds", "Time in which these must have come."),
    ("--body-seconds", "body_seconds", "Time in which a body, or a message, must have come."),
    ("--in-flight", "in_flight", "Calls that run or wait, of one token."),
    ("--ahead", "ahead", "Small calls beyond them that a WebSocket of our client keeps."),
    ("--queue", "queue", "Calls that run or wait in all; beyond, callers get 429."),
    ("--connections", "connections", "Connections that are open at once; beyond, 503."),
    ("--task-seconds", "task_seconds", "Time that a call may wait and run."),
    ("--remember-seconds", "remember_seconds", "Time for which ends of calls are remembered."),
    ("--remember-bytes", "remember_bytes", "Bytes of the ends that are remembered."),
    ("--grace", "grace", "Time that running calls have when the server is told to end."),
)


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    fields = attrs.fields_dict(Limits)
    for option, name, text in reversed(_LIMITS):
        default = fields[name].default
        kind = click.INT if isinstance(default, int) else click.FLOAT
        add = click.option(option, name, type=kind, default=default, show_default=True, help=text)
        command = add(command)
    return command


def _log_to_stderr() -> BoundedHandler:
    """Have all log lines written by a thread: stderr may be a pipe that nobody reads."""
    stderr = Stderr()
    stderr.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    handler = BoundedHandler(stderr)
    handler.addFilter(Seldom("uvicorn"))
    # Of each handshake that was refused, though with an answer.
    needless = "ASGI callable returned without completing handshake."
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg != needless)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("hybrid_compute").setLevel(logging.INFO)
    return handler


def _executor(
    config: Config, carried: list[Any], observer: Metrics | None
) -> HybridExecutor | None:
    """Return the executor that a configuration describes; None: it says nothing of one."""
    if not config:
        return None
    observers = [] if observer is None else [observer]
    given = {"carry": carried, "observers": observers}
    return build(HybridExecutor, config, given, initializer=harden)


def _metrics() -> Metrics:
    from hybrid_compute.telemetry.prometheus import Metrics  # noqa: PLC0415 - an extra

    return Metrics()


@click.command()
@click.argument("target", metavar="MODULE:NAME")
@with_config("serve", {"target": "tasks"})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8760, show_default=True)
@click.option("--no-token", is_flag=True, help="Let everybody in; on loopback only.")
@click.option("--allow-host", "hosts", multiple=True, help="A name the server may be called by.")
@click.option("--allow-origin", "origins", multiple=True, help="A web origin that may call.")
@click.option("--tls-cert", type=click.Path(exists=True), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(exists=True), help="Its private key, PEM.")
@click.option("--tls-client-ca", type=click.Path(exists=True), help="Ask for certificates of it.")
@click.option("--debug", is_flag=True, help="Show callers tracebacks.")
@click.option("--allow-pickle", is_flag=True, help="Run whatever a key's holder sends.")
@click.option("--remember", type=click.Path(), help="A file for what has to outlive a restart.")
@click.option("--context", metavar="MODULE:NAME", multiple=True, help="A ContextVar callers set.")
@click.option("--metrics", is_flag=True, help="Tell Prometheus at /metrics what is done.")
@click.option("--open-metrics", is_flag=True, help="The same, to anybody, without a token.")
@click.option("--insecure", count=True, help="Given twice: listen publicly without TLS or token.")
@_limit_options
@click.pass_context
def serve(  # noqa: PLR0913, PLR0917 - click passes them by keyword
    ctx: click.Context,
    /,
    target: str,
    host: str,
    port: int,
    no_token: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    debug: bool,
    allow_pickle: bool,
    remember: str | None,
    context: tuple[str, ...],
    metrics: bool,
    open_metrics: bool,
    insecure: int,
    **limits_: float,
) -> None:
    """Serve the tasks of NAME in MODULE over HTTP and WebSocket.

    The token comes from HYBRID_COMPUTE_TOKEN, or from the file that HYBRID_COMPUTE_TOKEN_FILE
    names; without either one is made and printed. --allow-pickle needs a signing key, another
    secret than the token, from HYBRID_COMPUTE_SIGNING_KEY or the file that
    HYBRID_COMPUTE_SIGNING_KEY_FILE names.

    How calls with an idempotency key ended is remembered, so that one which is sent twice takes
    effect once; with --remember FILE also when the server is ended between the two.

    With --config FILE, options have the values of the table [serve] as their defaults (tasks =
    "MODULE:NAME"), and the other tables say what runs the tasks.

    SIGTERM and SIGINT end it: what runs has --grace seconds. Exit code 0: all calls have ended; 4:
    some could not be ended (those on threads), the log names them; 2: an option is wrong; 128 + n
    at once: a second signal, n, came.
    """
    public = not _is_loopback(host)
    for option, value in (("--tls-client-ca", tls_client_ca), ("--tls-key", tls_key)):
        if value and not tls_cert:
            raise click.UsageError(f"{option} needs --tls-cert")
    if public and allow_pickle and not tls_cert:  # however often --insecure is given
        raise click.UsageError(
            f"--allow-pickle at --host {host}, which can be reached by others, needs --tls-cert"
        )
    if public and (no_token or not tls_cert):
        if insecure < 2:
            raise click.UsageError(
                f"--host {host} can be reached by others: that needs --tls-cert and a token "
                "(or --insecure, twice)"
            )
        click.echo(f"hybrid-compute: WARNING: {host} is served without TLS or token", err=True)
    wild = host in ("0.0.0.0", "::")  # noqa: S104 - it is refused without names
    if wild and not hosts:
        raise click.UsageError(f"--host {host} needs --allow-host, with the names callers use")
    own_name = () if wild else (f"[{host}]" if ":" in host else host,)
    log = _log_to_stderr()
    try:
        limits = Limits(**limits_)  # type: ignore[arg-type]  # click has seen to whole numbers
        tokens = Tokens.from_environ()
        keys = keys_from_environ()
        if allow_pickle and keys is None:
            raise click.UsageError(f"--allow-pickle needs a key in {VARIABLE} or {FILE_VARIABLE}")
        harden()  # workers inherit it; and before the tasks' modules can see a secret
        taken = [_load(each) for each in context]
        observer = _metrics() if metrics or open_metrics else None
        executor = _executor(config_of(ctx), taken, observer)
        app = create_app(
            _load(target),
            executor=executor,
            tokens=Tokens.anyone() if no_token else tokens,
            hosts=(*LOOPBACK_HOSTS, *own_name, *hosts),
            origins=origins,
            limits=limits,
            debug=debug,
            pickle_keys=keys if allow_pickle else None,
            remember=remember,
            context=taken,
            metrics=observer if executor is not None and observer else observer is not None,
            open_metrics=open_metrics,
        )
        if executor is not None:
            app.adopt()
    except (ConfigurationError, OutboxError, ImportError) as error:
        raise click.UsageError(str(error)) from error
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=http_guard(limits),
        ws=ws_guard(limits),
        ws_max_size=limits.body_bytes,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        ws_per_message_deflate=False,
        log_config=None,
        log_level="warning",  # its lines have query strings
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=1,  # on top of our own grace
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        ssl_ca_certs=tls_client_ca,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls_client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except ssl.SSLError as error:
        raise click.UsageError(
            f"--tls-cert {tls_cert}, --tls-key {tls_key}, --tls-client-ca {tls_client_ca}: "
            f"these are no PEM files that fit together: {error}"
        ) from error
    Server(config, app, log, limits=limits, scheme="https" if tls_cert else "http").run()
