"""Row 52, default 6: a web page that reaches for a server on its reader's machine."""

from __future__ import annotations

import pytest

from tests.server.conftest import SECRET, Served
from tests.server.raw import HEAD, POST, Raw, RawSocket, ask, post, shake

pytestmark = pytest.mark.timeout(120)

CALL = '{"task":"echo"}'
BEARER = f"Authorization: Bearer {SECRET}\r\n"
JSON = "Content-Type: application/json\r\n"
END = f"Connection: close\r\nContent-Length: {len(CALL)}\r\n\r\n{CALL}"

HOSTS = [  # DNS rebinding: the page's own name, which leads to this machine for the moment
    "evil.example", "evil.example:8760", "localhost.evil.example", "evil.example#localhost",
    "localhost@evil.example", "127.0.0.1.evil.example", "127.0.0.2", "0.0.0.0", "[::]",
    "2130706433", "0x7f.1", "localhost,evil.example", "localhost:x", "[::1", "", "\u2139localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_who_calls_the_server_by_another_name_is_refused(target, host):
    head = f"POST /compute HTTP/1.1\r\nHost: {host}\r\n{BEARER}{JSON}{END}"
    with Raw(target.port, head) as raw:
        assert raw.status() == 421
    with Raw(target.port, shake(head=f"Host: {host}\r\n{BEARER}")) as raw:
        assert raw.status() == 421


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n"])
def test_a_request_has_just_one_host(target, hosts):
    with Raw(target.port, f"POST /compute HTTP/1.1\r\n{hosts}{BEARER}{JSON}{END}") as raw:
        assert raw.status() == 400


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8760", "[::1]:9"]
)
def test_its_own_names_are_taken(target, host):
    with Raw(target.port, f"POST /compute HTTP/1.1\r\nHost: {host}\r\n{BEARER}{JSON}{END}") as raw:
        assert raw.status() == 200


ORIGINS = [
    "https://evil.example",
    "http://localhost",
    "http://127.0.0.1:8760",
    "null",
    "",
    "file://",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_another_origin_is_refused_though_it_has_a_token(target, origin):
    assert target.over_http(CALL, f"Origin: {origin}")[0] == 403
    with Raw(target.port, shake(f"Origin: {origin}\r\n")) as raw:
        assert raw.status() == 403


def test_a_listed_origin_is_taken_and_no_other():
    served = Served("tests.security.work:TASKS", "--allow-origin", "https://good.example")
    try:
        assert ask(served.port, CALL, "Origin: https://good.example")[0] == 200
        with RawSocket(served.port, "Origin: https://good.example\r\n"):
            pass
        for other in (
            "https://good.example.evil",
            "https://good.example:444",
            "http://good.example",
        ):
            assert ask(served.port, CALL, f"Origin: {other}")[0] == 403
        both = ("Origin: https://good.example", "Origin: https://evil.example")
        assert ask(served.port, CALL, *both)[0] == 403
    finally:
        served.end()


SIMPLE = [  # what a form, or a script without a preflight, can send
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "",
    "text/plain; application/json", "application/json, text/plain", "application/jsonp",
]  # fmt: skip


@pytest.mark.parametrize("kind", [*SIMPLE, None])
def test_the_post_of_a_form_is_415(target, kind):
    line = "" if kind is None else f"Content-Type: {kind}\r\n"
    for body in (CALL, '{"task":"echo","x":"=1"}', "task=echo"):
        head = f"{HEAD}{line}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        with Raw(target.port, f"POST /compute HTTP/1.1\r\n{head}{body}") as raw:
            assert raw.status() == 415


def test_a_server_without_tokens_refuses_pages_all_the_same():
    served = Served("tests.security.work:TASKS", "--no-token")
    try:
        plain = f"POST /compute HTTP/1.1\r\nHost: localhost\r\n{JSON}"
        for line, status in (
            ("", 200),
            ("Origin: https://evil.example\r\n", 403),
            ("Origin: null\r\n", 403),
        ):
            with Raw(served.port, f"{plain}{line}{END}") as raw:
                assert raw.status() == status
            with Raw(served.port, shake(line, head="Host: localhost\r\n")) as raw:
                if status != 200:
                    assert raw.status() == status
        with Raw(served.port, plain.replace("localhost", "evil.example") + END) as raw:
            assert raw.status() == 421
        with Raw(served.port, plain.replace("application/json", "text/plain") + END) as raw:
            assert raw.status() == 415
    finally:
        served.end()


ANSWERS = {
    "a result": post(CALL),
    "an error": post('{"task":"nothing"}'),
    "no token": "GET /tasks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "the list": f"GET /tasks HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n",
    "health": "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "preflight": (
        f"OPTIONS /compute HTTP/1.1\r\n{HEAD}Access-Control-Request-Method: POST\r\n"
        "Connection: close\r\n\r\n"
    ),
    "no path": f"GET / HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n",
    "a wrong handshake": shake(head="Host: localhost\r\n"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_answer_is_stored_or_shared_with_pages_or_tells_what_serves(target, kind):
    with Raw(target.port, ANSWERS[kind]) as raw:
        head = raw.rest().partition(b"\r\n\r\n")[0].lower()
    assert b"\r\ncache-control: no-store" in head
    assert b"\r\nx-content-type-options: nosniff" in head
    for never in (b"access-control-", b"set-cookie", b"\r\nserver:", b"x-powered-by", b"uvicorn"):
        assert never not in head


@pytest.mark.parametrize("agent", ["", "Mozilla/5.0", "curl/8", "python-requests/2", "x" * 5000])
def test_the_user_agent_makes_no_difference(target, agent):
    assert target.over_http(CALL, f"User-Agent: {agent}")[0] == 200
    assert target.over_http('{"task":"nothing"}', f"User-Agent: {agent}")[0] == 404


def test_no_message_is_compressed_and_no_compressed_body_is_read(target):
    extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    with Raw(target.port, shake(extension)) as raw:
        assert b"permessage-deflate" not in raw.until(b"\r\n\r\n").lower()
    for coding in ("gzip", "deflate", "br", "identity", "x"):
        assert target.over_http(CALL, f"Content-Encoding: {coding}")[0] == 415
    with Raw(
        target.port, f"{POST}Transfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n"
    ) as raw:
        raw.send(b"5\r\n\x1f\x8b\0\0\0\r\n0\r\n\r\n")
        assert raw.status() in (400, 415, 501)


SMUGGLED = [
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 0x5\r\n",
    "Content-Length : 5\r\n",
    " X: 5\r\n",
    "X\0: 5\r\n",
]


@pytest.mark.parametrize("lines", SMUGGLED)
def test_a_request_of_two_readings_is_400_and_the_connection_ends(target, lines):
    second = f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n"
    with Raw(target.port, f"{POST}{lines}\r\n0\r\n\r\n{second}") as raw:
        assert raw.rest().count(b"HTTP/1.1 ") == 1
        assert raw.came.startswith(b"HTTP/1.1 400")
