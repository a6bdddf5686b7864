"""How a service is reached: tokens from all their places, and proxies."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.errors import AuthError, ConfigurationError, RemoteUnavailable
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")
both = pytest.mark.parametrize("scheme", ["http", "ws"])


class Echo:
    """A plain service of both kinds.

    Attributes:
        seen: the headers of what came.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def __call__(self, peer: Peer) -> None:
        body = peer.request()
        self.seen.append(peer.headers)
        if "upgrade" in peer.headers:
            peer.request = lambda: None  # it has been read
            peer.shake_hands()
            while (raw := peer.message()) is not None:
                call = json.loads(raw)
                peer.write(json.dumps({"id": call["id"], "result": call["input"]}).encode())
        while body is not None:
            peer.answer(json.dumps({"result": json.loads(body)["input"]}).encode())
            body = peer.request()
            self.seen.append(peer.headers)


@both
def test_a_token_comes_from_a_text_a_file_the_environment_or_a_function(
    scheme, tmp_path, monkeypatch
):
    file = tmp_path / "token"
    file.write_text("of-a-file\n")
    monkeypatch.setenv("SOME_TOKEN", "of-the-environment")
    given = {
        "of-a-text": "of-a-text",
        "of-a-file": file,
        "of-the-environment": "env:SOME_TOKEN",
        "of-a-function": lambda: "of-a-function",
    }
    for secret, token in given.items():
        service = Echo()
        with serving(service) as port:
            url = f"{scheme}://127.0.0.1:{port}"
            with RemoteExecutor(url, tasks=["echo"], token=token, headers={"X-More": "1"}) as ex:
                assert ex.submit(echo, 5).result(20) == 5
        assert service.seen[0]["authorization"] == f"Bearer {secret}"
        assert service.seen[0]["x-more"] == "1"


@both
def test_a_token_that_is_not_where_it_should_be_is_told(scheme, tmp_path):
    missing = tmp_path / "missing"
    with serving(Echo()) as port:
        url = f"{scheme}://127.0.0.1:{port}"
        with RemoteExecutor(url, tasks=["echo"], token=missing) as ex:
            with pytest.raises(AuthError, match=str(missing)):
                ex.submit(echo, 5).result(20)


@both
def test_a_service_is_reached_by_a_proxy_which_is_told_its_address_alone(scheme):
    service, asked = Echo(), []

    def proxy(peer: Peer) -> None:
        peer.request()
        asked.append((peer.start.split()[:2], peer.headers))
        peer.sock.sendall(b"HTTP/1.1 200 Go\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=copy, args=(there, peer.sock))
            back.start()
            copy(peer.sock, there)
            back.join()

    def copy(here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever hangs up first
            while data := here.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)

    with serving(service) as port, serving(proxy) as door:
        url = f"{scheme}://service.invalid:{port}"
        way = f"http://me:p%40ss@127.0.0.1:{door}"
        with RemoteExecutor(url, tasks=["echo"], headers={"X-More": "1"}, proxy=way) as ex:
            assert ex.submit(echo, 5).result(20) == 5
    assert all(each == asked[0] for each in asked)  # over HTTP it is asked for its tasks as well
    line, headers = asked[0]
    assert line == ["CONNECT", f"service.invalid:{port}"]
    login = base64.b64encode(b"me:p@ss").decode()
    assert headers == {
        "host": f"service.invalid:{port}",
        "proxy-authorization": f"Basic {login}",
    }
    assert service.seen[0]["host"] == f"service.invalid:{port}"
    assert "proxy-authorization" not in service.seen[0]


@both
def test_a_proxy_that_refuses_is_no_connection(scheme):
    def proxy(peer: Peer) -> None:
        peer.request()
        peer.answer(b"no", 407)

    with serving(proxy) as door:
        way = f"http://127.0.0.1:{door}"
        with RemoteExecutor(f"{scheme}://service.invalid", tasks=["echo"], proxy=way) as ex:
            with pytest.raises(RemoteUnavailable, match="by its proxy.*407"):
                ex.submit(echo, 5).result(20)


@pytest.mark.parametrize("proxy", [5, b"http://proxy:1"])
def test_a_proxy_that_is_no_text_is_refused(proxy):
    with pytest.raises(ConfigurationError, match=f"proxy= is of type {type(proxy).__name__}: give"):
        RemoteExecutor("https://example.com/compute", proxy=proxy)


@pytest.mark.parametrize(
    "proxy", ["", "secret", "socks5://u:secret@host", "http://", "http://u:secret@host:99999"]
)
def test_a_proxy_that_is_none_is_refused_without_telling_its_password(proxy):
    with pytest.raises(ConfigurationError, match=r"proxy= is no URL of an HTTP proxy") as caught:
        RemoteExecutor("https://example.com/compute", proxy=proxy)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("tasks", ["echo", b"echo", 5, [1], ["echo", None]])
def test_tasks_that_are_no_collection_of_names_are_refused(tasks):
    with pytest.raises(ConfigurationError, match=r"tasks=.* is no list of names: give \['echo'\]"):
        RemoteExecutor("https://example.com/compute", tasks=tasks)


@pytest.mark.parametrize("of", [list, tuple, set, iter, dict.fromkeys])
def test_tasks_may_be_any_collection_of_names(of):
    remote = RemoteExecutor("https://example.com/compute", tasks=of(["echo", "other"]))
    assert [remote._names.has(each) for each in ("echo", "other", "none")] == [True, True, False]
