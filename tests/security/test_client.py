"""Default 7 where no server is needed, or a small one that is written for the occasion."""

from __future__ import annotations

import json
import ssl

import pytest

from hybrid_compute import RemoteExecutor, remote_task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.transports._access import Access
from tests.remote.servers import Peer, serving

pytestmark = pytest.mark.timeout(30)

echo = remote_task("echo")


def test_tls_is_at_least_of_version_1_2_and_checks_the_host():
    context = Access("wss://host").tls_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "HTTP_PROXY"])
def test_a_service_on_this_machine_is_never_asked_by_a_proxy(name, monkeypatch):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        access = Access(f"ws://{host}", proxy="http://127.0.0.1:1", trust_env=True)
        assert access.proxy_now() is None


def test_a_proxy_of_the_environment_is_used_only_if_it_is_trusted(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert Access("wss://host").proxy_now() is None
    assert Access("wss://host", trust_env=True).proxy_now() == "http://proxy.example:3128"


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_a_service_sets_no_cookie(scheme):
    """Not for itself, and not for another service, whose name it may give."""
    cookies = []

    def handle(peer: Peer) -> None:
        setting = "Set-Cookie: a=b; Domain=localhost\r\nSet-Cookie: c=d\r\n"
        if scheme == "http":
            while peer.request() is not None:
                cookies.append(peer.headers.get("cookie"))
                peer.answer(b'{"result":1}', extra=setting)
            return
        peer.shake_hands(setting)
        cookies.append(peer.headers.get("cookie"))
        while (raw := peer.message()) is not None:
            peer.write(json.dumps({"id": json.loads(raw)["id"], "result": 1}).encode())

    with serving(handle) as port:
        for _ in range(2):
            with RemoteExecutor(f"{scheme}://localhost:{port}", tasks=["echo"]) as ex:
                assert ex.submit(echo).result(20) == 1
    assert set(cookies) == {None}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("connect_timeout", value) for value in (0, -1, "5", None, True, float("inf"))),
        *(("ping_interval", value) for value in (0, -1, "5", None, float("nan"))),
        *(("ping_timeout", value) for value in (0, "5")),
        *(("reconnect_for", value) for value in (-1, "5", None)),
        *(("retry_after_cap", value) for value in (-1, "5", None)),
        *(("max_bytes", value) for value in (0, "5")),
        *(("name", value) for value in ("", 5)),
        *(("token", value) for value in (5, b"bytes", ["a"])),
        ("headers", ["a: b"]),
    ],
)
def test_a_setting_of_a_wrong_kind_is_refused_at_once_and_named(setting, value):
    with pytest.raises(ConfigurationError, match=setting):
        RemoteExecutor("ws://127.0.0.1:1", **{setting: value})
