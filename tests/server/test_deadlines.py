"""Bytes and seconds: slow, endless and oversized callers are cut off, and others are served."""

from __future__ import annotations

import contextlib
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from click.testing import CliRunner

from hybrid_compute import _serve

from .conftest import SECRET, Served
from .raw import HEAD, POST, Raw, RawSocket, ask, frame, post, rss, shake

pytestmark = pytest.mark.timeout(120)

QUICK = ("--header-seconds", "1", "--body-seconds", "1")
MB = 2**20
LIMIT = 100_000  # of a body
CALL = {"task": "ping", "input": 5}


@contextlib.contextmanager
def serving(*options: str, **env: str):
    served = Served("tests.server.work:ODD", *options, **env)
    try:
        yield served
    finally:
        served.end()


@pytest.fixture(scope="module")
def quick():
    with serving(*QUICK, "--max-body", str(LIMIT)) as served:
        yield served


@pytest.fixture(scope="module")
def usual():
    """With a body limit, and deadlines that nobody waits for."""
    with serving("--max-body", str(LIMIT)) as served:
        yield served
        assert ask(served.port, CALL)[0] == 200


def side_by_side(check, cases):
    """Return {name: what `check` returns for its case}; most of that time is waiting."""
    with ThreadPoolExecutor(len(cases)) as pool:
        return dict(zip(cases, pool.map(lambda case: check(*case), cases.values()), strict=True))


CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n"


def test_who_stops_in_the_middle_is_cut_off(quick):
    def check(*parts):
        with Raw(quick.port, *parts) as raw:
            return raw.status()

    before_the_end_of_the_head = {
        "nothing": [],
        "path": ["POST /comp"],
        "line": [POST],
        "header": [POST, "X: "],
        "handshake": [shake()[:-2]],
    }
    after_it = {
        "no body": [f"{POST}Content-Length: 99\r\n\r\n"],
        "body": [f"{POST}Content-Length: 99\r\n\r\n", '{"task":'],
        "chunk": [CHUNKED, "5\r\n{"],
        "trailer": [CHUNKED, "1\r\n{\r\n0\r\nX: "],
    }
    assert side_by_side(check, before_the_end_of_the_head | after_it) == {
        **dict.fromkeys(before_the_end_of_the_head, 0),
        **dict.fromkeys(after_it, 408),
    }


def test_a_deadline_is_for_the_whole_and_not_for_each_read(quick):
    def check(begin, drop):
        with Raw(quick.port, begin) as raw:
            raw.drip(drop)
            return raw.status()

    cases = {
        "head": ("POST /compute HTTP/1.1\r\n", b"X-A: b\r\n"),
        "chunks": (CHUNKED, b"1\r\n \r\n"),
        "body": (f"{POST}Content-Length: 99999\r\n\r\n", b" "),
    }
    assert side_by_side(check, cases) == {"head": 0, "chunks": 408, "body": 408}


def test_a_message_that_is_not_completed_closes_the_websocket(quick):
    def check(*parts):
        with RawSocket(quick.port) as raw:
            for each in parts:
                raw.send(each)
            return raw.closed()

    cases = {
        "fragment": [frame(b"{", fin=False)],
        "fragments": [frame(b"{", fin=False), frame(b" ", 0, fin=False)],
        "frame": [frame(b"{", says=99)],
        "second": [frame(b'{"id":1,"task":"ping"}'), frame(b"{", says=9)],
    }
    assert side_by_side(check, cases) == dict.fromkeys(cases, 1008)


def test_neither_fragments_nor_pings_prolong_the_time_of_a_message(quick):
    def check(drop):
        with RawSocket(quick.port) as raw:
            raw.send(frame(b"{", fin=False))
            if drop[0] == 0x89:  # its pong is read at once, so these come until something else does
                came = b""
                while not came and raw.send(drop):
                    came = raw.sock.recv(99).replace(b"\x8a\x04ping", b"")
                raw.came = came
            else:
                raw.drip(drop)
            return raw.closed(), raw.came[0]

    cases = {"fragments": [frame(b" ", 0, fin=False)], "pings": [frame(b"ping", 9)]}
    # The close comes first: before the server's first ping, after 20 s.
    assert side_by_side(check, cases) == dict.fromkeys(cases, (1008, 0x88))


def test_a_websocket_between_messages_has_no_deadline(quick):
    with RawSocket(quick.port) as idle, Raw(quick.port) as other:
        other.rest()  # the deadline has passed
        idle.send(frame(b'{"id":1,"task":"ping"}'))
        assert idle.until(b"result")


def test_200_slow_callers_are_cut_off_and_keep_nobody_from_being_served(tmp_path):
    path = tmp_path / "tokens.toml"
    good = "another-secret-of-the-tests-0123"
    path.write_text(f'[slow]\nsecret = "{SECRET}"\n[good]\nsecret = "{good}"\n')
    path.chmod(0o600)
    begun = [[], ["POST /co"], [f"{POST}Content-Length: 9\r\n\r\n{{"], [f"{POST}X: "]]
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(
            serving(*QUICK, token=None, HYBRID_COMPUTE_TOKEN_FILE=str(path))
        )
        slow = [stack.enter_context(Raw(served.port, *begun[n % 4])) for n in range(200)]
        request = post('{"task":"ping","input":5}').replace(SECRET.encode(), good.encode())
        for _ in range(20):
            with Raw(served.port, request) as raw:
                assert raw.status() == 200
        assert {each.status() for each in slow} <= {0, 408, 429}
        with Raw(served.port, request) as raw:
            assert raw.status() == 200


def test_who_does_not_finish_the_handshake_of_tls_is_cut_off(tmp_path):
    authority = trustme.CA()
    own = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(each.bytes() for each in own.cert_chain_pems))
    own.private_key_pem.write_to_path(str(key))
    with serving(*QUICK, "--tls-cert", str(cert), "--tls-key", str(key)) as served:
        with Raw(served.port) as silent, Raw(served.port, b"\x16\x03\x01") as stopped:
            assert silent.rest() == b""
            assert stopped.rest() == b""
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with Raw(served.port) as raw:
            raw.sock = context.wrap_socket(raw.sock, server_hostname="localhost")
            raw.send(post('{"task":"ping"}'))
            assert raw.status() == 200


def test_who_does_not_read_his_answer_is_cut_off():
    call = f'{{"task":"big","input":{12 * MB}}}'

    def check(kind, request):
        with kind(served.port) as raw:
            raw.send(request)
            raw.wait_until_cut()

    with serving(*QUICK) as served:
        cases = {
            "http": (Raw, post(call)),
            "ws": (RawSocket, frame(b'{"id":1,' + call[1:].encode())),
        }
        side_by_side(check, cases)


# -- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        POST + "X: y\r\n" * 10_000 + "\r\n",
        POST + "X: y\r\n" * 250 + "\r\n",
        POST + "X: " + "y" * 70_000 + "\r\n\r\n",
        POST + "X: " + "y" * 70_000,
        "POST /" + "y" * 70_000,
        f"{POST}{'y' * 70_000}: x\r\n\r\n",
        f"{CHUNKED}1\r\n \r\n0\r\n" + "X: y\r\n" * 10_000,
        f"{CHUNKED}1\r\n \r\n0\r\nX: " + "y" * 300_000,
        f"{CHUNKED}1\r\n \r\n1;" + "y" * 300_000,
        shake("X: y\r\n" * 10_000),
    ],
    ids="many more large endless url name trailers trailer extension upgrade".split(),
)
def test_the_head_of_a_request_is_bounded(usual, head):
    with Raw(usual.port, head) as raw:
        assert raw.status() == 431


@pytest.mark.parametrize("more", ["X: y\r\n" * 150, f"X: {'y' * 20_000}\r\n"])
def test_a_handshake_that_only_websockets_finds_too_large_is_refused(usual, more):
    with Raw(usual.port, shake(more)) as raw:
        assert raw.status() == 400


def chunked(size):
    piece = b"%x\r\n%b\r\n" % (10_000, b"x" * 10_000)
    return CHUNKED.encode() + piece * (size // 10_000) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"x" * (LIMIT + 1)),
        post(b"x" * 4 * MB),
        chunked(LIMIT + 10_000),
        chunked(4 * MB),
        f"{POST}Content-Length: {2**63}\r\n\r\n".encode(),
    ],
    ids=["one more", "many more", "chunked", "many chunks", "said"],
)
def test_an_oversized_body_is_413_which_its_sender_can_read(usual, request_):
    for _ in range(5):
        with Raw(usual.port) as raw:
            assert raw.send(request_)
            raw.sock.shutdown(1)
            assert raw.status() == 413


def test_an_oversized_message_is_1009_which_its_sender_can_read(usual):
    def check(*frames):
        with RawSocket(usual.port) as raw:
            return raw.send(b"".join(frames)), raw.closed()

    kinds = {
        "one more": [frame(b"x" * (LIMIT + 1))],
        "many more": [frame(b"x" * 4 * MB)],
        "said": [frame(says=2**62)],
        "fragments": [frame(b"x" * LIMIT, fin=False), frame(b"xx", 0)],
        "many fragments": [frame(b"x", fin=False), *[frame(b"x" * 100, 0, fin=False)] * 2000],
    }
    cases = {(kind, n): frames for kind, frames in kinds.items() for n in range(5)}
    assert side_by_side(check, cases) == dict.fromkeys(cases, (True, 1009))


def test_a_message_of_many_fragments_is_read(usual):
    text = b'{"id":1,"task":"ping","input":"' + b"x" * 90_000 + b'"}'
    parts = [frame(bytes((each,)), 0, fin=False) for each in text[1:]]
    with RawSocket(usual.port) as raw:
        raw.send(b"".join([frame(text[:1], fin=False), *parts, frame(b"", 0)]))
        assert raw.until(b"xxx")


def test_fragments_without_end_close_the_websocket_and_take_no_memory(usual):
    with RawSocket(usual.port) as raw:
        raw.send(frame(b"{", fin=False))
        before = rss(usual.process.pid)
        raw.send(frame(b"", 0, fin=False) * 140_000)
        assert raw.closed() == 1008
    assert rss(usual.process.pid) - before < 50 * MB


def test_pings_whose_pongs_nobody_reads_take_no_memory(usual):
    ping = frame(b"x" * 125, 9)
    with RawSocket(usual.port) as raw:
        before = rss(usual.process.pid)
        for _ in range(100):
            raw.send(ping * 8000)  # 100 MB in all
        # The server reads on: it has taken nearly all of that by now.
        assert rss(usual.process.pid) - before < 50 * MB


def test_nonsense_whose_answers_nobody_reads_takes_no_memory(usual):
    with RawSocket(usual.port) as raw:
        before = rss(usual.process.pid)
        raw.sock.settimeout(2)
        with contextlib.suppress(TimeoutError):
            for _ in range(100):
                raw.send(frame(b"nonsense") * 10_000)
        assert rss(usual.process.pid) - before < 100 * MB


def test_pipelined_requests_are_bounded(usual):
    many = f"POST /compute HTTP/1.1\r\n{HEAD}Content-Length: 0\r\n\r\n" * 1000
    with Raw(usual.port, many) as raw:
        assert b"HTTP/1.1 400" in raw.rest()


def test_open_connections_are_bounded():
    with serving("--connections", "5") as served, contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(RawSocket(served.port))
        with Raw(served.port, shake()) as raw:
            assert raw.status() == 503
        assert ask(served.port, CALL)[0] == 503


@pytest.mark.parametrize(
    "option", ["--queue", "--in-flight", "--max-body", "--grace", "--task-seconds"]
)
def test_a_limit_of_0_is_refused_on_the_command_line(option, monkeypatch):
    monkeypatch.setattr(_serve, "harden", lambda: None)  # not this process
    monkeypatch.setattr(_serve, "_log_to_stderr", lambda: None)
    monkeypatch.setattr(_serve.Server, "run", lambda _: pytest.fail("it serves"))
    environ = {"HYBRID_COMPUTE_TOKEN": SECRET}
    done = CliRunner().invoke(_serve.serve, ["tests.server.work:ODD", option, "0"], env=environ)
    assert done.exit_code != 0
    assert "greater than 0" in done.output


def test_limits_can_be_given_on_the_command_line():
    with serving("--in-flight", "1", "--task-seconds", "0.2") as served:
        with RawSocket(served.port) as raw:
            raw.send(frame(b'{"id":1,"task":"wait"}') + frame(b'{"id":2,"task":"wait"}'))
            assert raw.until(b"1 calls run already")
            assert raw.until(b"timeout of 0.2 s")
    with serving("--queue", "1") as served:
        with RawSocket(served.port) as raw:
            raw.send(frame(b'{"id":1,"task":"wait"}') + frame(b'{"id":2,"task":"wait"}'))
            assert raw.until(b"1 calls run or wait already")
            raw.send(frame(b'{"id":1,"cancel":true}'))
