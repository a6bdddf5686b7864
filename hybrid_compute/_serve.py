"""The command `hybrid-compute serve`, and the uvicorn server that it runs.

Owns what may be served where: without TLS and a token, on loopback only. `Server` drains before
uvicorn closes its connections; `head_guard` bounds the head of a request, in bytes and in time,
which uvicorn leaves to whoever stands before it. Threads: the event loop is the main thread's.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import signal
import ssl
import sys
from collections.abc import Iterator
from typing import Any

import click
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.server import App, Limits, Tokens, create_app
from hybrid_compute.server.gate import LOOPBACK_HOSTS
from hybrid_compute.server.pickles import FILE_VARIABLE, VARIABLE, keys_from_environ

__all__ = ["Server", "head_guard", "serve"]


def head_guard(limits: Limits) -> type[HttpToolsProtocol]:  # noqa: C901 - one small class
    """Return uvicorn's protocol with bounds on the head of a request."""

    class Guarded(HttpToolsProtocol):
        _head_bytes = 0
        _body = False  # the head is complete
        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._body:
                if self._timer is None:  # the next request of a connection that was kept
                    self._start()
                self._head_bytes += len(data)
            super().data_received(data)
            if not self._body and self._head_bytes > limits.header_bytes:
                self._refuse()

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            if sum(len(n) + len(v) + 4 for n, v in self.headers[-1:]) > limits.header_bytes:
                raise ValueError("a header is too large")

        def on_headers_complete(self) -> None:
            self._stop()
            self._body, self._head_bytes = True, 0
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.header_bytes:
                raise ValueError("the headers are too large")  # uvicorn answers 400 and closes
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._body = False

        def _start(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                    b"content-length: 0\r\nconnection: close\r\n\r\n"
                )
                self.transport.close()

    return Guarded


class Server(uvicorn.Server):
    """Uvicorn, but what runs may end before connections are closed."""

    def __init__(self, config: uvicorn.Config, app: App, *, scheme: str) -> None:
        super().__init__(config)
        self._app = app
        self._scheme = scheme

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            click.echo(f"hybrid-compute: serving at {self._scheme}://{name}:{port}", err=True)

    async def shutdown(self, sockets: Any = None) -> None:
        """Drain, still listening so that new callers learn why; then close."""
        await self._app.drain()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to end well, with exit code 0."""
        before = {
            each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


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
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"{target} cannot be loaded: {error}") from error


@click.command()
@click.argument("target", metavar="MODULE:NAME")
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
@click.option("--insecure", count=True, help="Given twice: listen publicly without TLS or token.")
def serve(  # noqa: PLR0913, PLR0917 - click passes them by keyword
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
    insecure: int,
) -> None:
    """Serve the tasks of NAME in MODULE over HTTP and WebSocket.

    The token comes from HYBRID_COMPUTE_TOKEN, or from the file that HYBRID_COMPUTE_TOKEN_FILE
    names; without either one is made and printed. --allow-pickle needs a signing key, another
    secret than the token, from HYBRID_COMPUTE_SIGNING_KEY or the file that
    HYBRID_COMPUTE_SIGNING_KEY_FILE names.
    """
    public = not _is_loopback(host)
    if tls_client_ca and not tls_cert:
        raise click.UsageError("--tls-client-ca needs --tls-cert")
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
    limits = Limits()
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("hybrid_compute").setLevel(logging.INFO)
    try:
        tokens = Tokens.from_environ()  # before the tasks' modules can see it
        keys = keys_from_environ()
        if allow_pickle and keys is None:
            raise click.UsageError(f"--allow-pickle needs a key in {VARIABLE} or {FILE_VARIABLE}")
        app = create_app(
            _load(target),
            tokens=Tokens.anyone() if no_token else tokens,
            hosts=(*LOOPBACK_HOSTS, *own_name, *hosts),
            origins=origins,
            limits=limits,
            debug=debug,
            pickle_keys=keys if allow_pickle else None,
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=head_guard(limits),
        ws="websockets-sansio",
        ws_max_size=limits.body_bytes,
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
    Server(config, app, scheme="https" if tls_cert else "http").run()
