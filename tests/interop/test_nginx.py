"""A real nginx before our server: as a reverse proxy with WebSocket upgrade, and with TLS."""

from __future__ import annotations

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.errors import (
    AuthError,
    PayloadTooLarge,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskInputError,
    TLSError,
)
from tests.interop.conftest import PATIENCE, served

pytestmark = pytest.mark.timeout(100)

TOKEN = "secret-of-the-tests-0123456789"
PATHS = {"http": "/compute", "https": "/compute", "ws": "/ws", "wss": "/ws"}
echo = remote_task("echo")


@pytest.fixture(scope="module")
def server():
    with served("tests.interop.work:TASKS", token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(nginx, server):
    with nginx(server.port) as running:
        yield running


def connect(proxy, scheme, authority, **options):
    port = proxy.tls if scheme in ("https", "wss") else proxy.plain
    options = {"token": TOKEN, "tls_ca": authority.ca, **options}
    return RemoteExecutor(f"{scheme}://localhost:{port}{PATHS[scheme]}", **options)


@pytest.fixture(params=["http", "https", "ws", "wss"])
def client(proxy, authority, request):
    with connect(proxy, request.param, authority) as executor:
        yield executor


def test_calls_and_their_names_pass_through(client):
    with pytest.raises(RemoteTaskError, match="boom"):
        client.submit(remote_task("fail"), "boom").result(PATIENCE)
    with pytest.raises(TaskInputError):
        client.submit(remote_task("fail"), 5).result(PATIENCE)
    # With the extensions that only our own peers know.
    assert client.submit(remote_task("add"), 1, b=2).result(PATIENCE) == 3
    value = {"a": {1, 2}, "b": b"\x00", 3: float("inf")}
    assert client.submit(echo, value).result(PATIENCE) == value


def test_many_calls_at_once_pass_through(client):
    assert list(client.map(echo, range(300), timeout=PATIENCE)) == list(range(300))


def test_a_megabyte_passes_through(client):
    text = "ä" * 500_000
    assert client.submit(echo, text).result(PATIENCE) == text


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_its_certificate_is_checked(proxy, authority, scheme):
    with connect(proxy, scheme, authority, tls_ca=None) as client, pytest.raises(TLSError):
        client.submit(echo, 1).result(PATIENCE)


@pytest.mark.parametrize("scheme", ["https", "wss"])
def test_the_token_is_asked_for_behind_it(proxy, authority, scheme):
    with (
        connect(proxy, scheme, authority, token="wrong" * 8) as client,
        pytest.raises(AuthError),
    ):
        client.submit(echo, 1).result(PATIENCE)


def test_what_it_does_not_take_is_too_large(proxy, authority):
    """Its own 413, with a page of its own."""
    with connect(proxy, "http", authority) as client:
        with pytest.raises(PayloadTooLarge):
            client.submit(echo, "x" * 5_000_000).result(PATIENCE)
        assert client.submit(echo, 1).result(PATIENCE) == 1


def test_a_server_that_ended_behind_it(nginx, authority):
    """Nginx answers 502 with a page. Whether an HTTP call has run by then it does not say."""
    with (
        served("tests.interop.work:TASKS", token=TOKEN) as server,
        nginx(server.port) as proxy,
        connect(proxy, "http", authority, tasks=["echo", "wait"]) as http,
        connect(proxy, "ws", authority, tasks=["echo", "wait"], reconnect_for=0.5) as ws,
    ):
        for client in (http, ws):
            assert client.submit(echo, 1).result(PATIENCE) == 1
        pending = ws.submit(remote_task("wait"))
        while ws.counts()[1] == 0:  # until it is sent
            assert ws.submit(echo, 1).result(PATIENCE) == 1
        server.process.kill()
        with pytest.raises(RemoteConnectionLost) as info:
            pending.result(PATIENCE)
        assert info.value.may_have_run
        with pytest.raises(RemoteConnectionLost):
            http.submit(echo, 1).result(PATIENCE)
        with pytest.raises(RemoteUnavailable):
            ws.submit(echo, 1).result(PATIENCE)
