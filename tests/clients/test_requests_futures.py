"""requests-futures, against a server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, as_completed
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from requests_futures import sessions

pytestmark = pytest.mark.timeout(60)


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status = 404 if self.path == "/missing" else 200
        body = self.path.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    """Serve on the loopback; return the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def session(executor: Executor) -> Iterator[Any]:
    """Give a FuturesSession that does not look for proxies."""
    with sessions.FuturesSession(executor=executor) as made:
        made.trust_env = False
        yield made


def test_requests_futures_gets_every_answer(session: Any, url: str) -> None:
    futures = {session.get(f"{url}/{n}"): f"/{n}" for n in range(40)}
    found = {future.result().text for future in as_completed(futures, 20)}
    assert found == set(futures.values())
    assert all(future.result().text == path for future, path in futures.items())


def test_requests_futures_runs_its_hooks(session: Any, url: str) -> None:
    def hook(response: Any, *_: Any, **__: Any) -> None:
        response.mine = (response.status_code, threading.current_thread().name)

    status, name = session.get(f"{url}/missing", hooks={"response": hook}).result(20).mine
    assert status == 404
    assert name.startswith("client_")
