"""Pickles from the wire: only with --allow-pickle, a key, and TLS or loopback; rows 49 and 50."""

from __future__ import annotations

import ast
import asyncio
import base64
import os
import pickle
import sys
import time
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute._signed_work import pack, perform
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    PlacementError,
    ResultDecodeError,
    ResultEncodeError,
    TaskDecodeError,
    TaskEncodeError,
)
from hybrid_compute.executors._remote_signed import Signer
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.protocol.signing import (
    BOOT_HEADER,
    SIGNED_TASK,
    SigningKey,
    mac_of,
    sign_answer,
    sign_call,
)
from hybrid_compute.server import Token, Tokens, create_app
from hybrid_compute.server.pickles import keys_from_environ
from hybrid_compute.transports._access import Access
from tests.remote.servers import Peer, serving
from tests.security.test_defaults import serve
from tests.server.conftest import SECRET, Served
from tests.server.test_drain import ask

pytestmark = pytest.mark.timeout(120)

TEXT = "k3yOfTheTests-0123456789abcdefghijklmnopqrstuv"
KEY = SigningKey(TEXT)
OTHER = SigningKey(TEXT[::-1])
OWN = (HEADER.lower().encode(), b"1")


@task(executor="inline")
def add(x: int, y: int = 1) -> int:
    return x + y


class Canary:
    """Sings when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return write_pid, (self.path,)


def write_pid(path):
    Path(path).write_text(str(os.getpid()))
    return pid_of_the_process


def pid_of_the_process(*_):
    return os.getpid()


# -- the server, from inside -----------------------------------------------------------------


@pytest.fixture(scope="module")
def executor():
    with HybridExecutor(max_processes=1) as ex:
        # Its process is there before the first test, which would else seem to leave it behind.
        ex.options(executor="process").submit(int).result(60)
        yield ex


class Inside:
    """An application, and calls to it as its ASGI server would make them."""

    def __init__(self, executor, *, keys=(KEY,), scope=None, **token):
        self.app = create_app(
            [add], executor=executor, tokens=Tokens([Token.of(SECRET, **token)]), pickle_keys=keys
        )
        headers = dict(self.app.service.pickles.headers)
        self.boot = bytes.fromhex(headers.get(BOOT_HEADER.lower().encode(), b"00" * 16).decode())
        self.scope = {"client": ("127.0.0.1", 5)} if scope is None else scope

    def sign(self, body, *, key=KEY, audience="localhost", boot=None, ago=0.0, nonce=None):
        return sign_call(
            key,
            body,
            audience=audience,
            boot=boot or self.boot,
            call_id=b"i" * 16,
            nonce=nonce or os.urandom(16),
            now=time.time() - ago,
        )

    def send(self, envelope, headers=(OWN,)):
        value = {"$bytes": base64.b64encode(envelope).decode()}
        if type(envelope) is bytes:
            import json

            value = json.loads(Codec(tagged=True).encode(envelope))

        async def app(scope, receive, send):
            await self.app({**scope, **self.scope}, receive, send)

        return asyncio.run(ask(app, {"task": SIGNED_TASK, "input": value}, headers))


def test_without_opt_in_it_is_415_and_the_bytes_never_reach_pickle(executor, tmp_path, monkeypatch):
    def loads(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "loads", loads)
    song = tmp_path / "song"
    body = pack(Canary(song), (), None, name="canary")
    server = Inside(executor, keys=None)
    assert server.send(server.sign(body))[0] == 415
    assert server.send(body)[0] == 415
    assert not song.exists()


def tampered(server, body):
    envelope = server.sign(body)
    return envelope[:-1] + bytes((envelope[-1] ^ 1,))


BAD = {
    "unsigned": lambda server, body: body,
    "tampered": tampered,
    "truncated": lambda server, body: server.sign(body)[:-1],
    "extended": lambda server, body: server.sign(body) + b".",
    "another key": lambda server, body: server.sign(body, key=OTHER),
    "another audience": lambda server, body: server.sign(body, audience="other.example"),
    "another run": lambda server, body: server.sign(body, boot=b"x" * 16),
    "old": lambda server, body: server.sign(body, ago=61),
    "from the future": lambda server, body: server.sign(body, ago=-70),
    "an answer": lambda server, body: sign_answer(KEY, body, failed=False, call_mac=b"m" * 32),
    "empty": lambda server, body: b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_signed_well_is_403_and_never_unpickled(kind, executor, tmp_path):
    song = tmp_path / "song"
    server = Inside(executor)
    bad = BAD[kind](server, pack(Canary(song), (), None, name="canary"))
    status, answer = server.send(bad)
    assert status == 403, answer
    # The worker does what comes after in its queue: had it got the canary, it would have sung.
    executor.submit(task(executor="process")(os.getpid)).result(60)
    assert not song.exists()


def test_a_good_call_runs_once_in_a_worker_process(executor, tmp_path):
    song = tmp_path / "song"
    server = Inside(executor)
    envelope = server.sign(pack(Canary(song), (), None, name="canary"))
    status, answer = server.send(envelope)
    assert status == 200, answer
    assert song.read_text() != str(os.getpid())
    song.unlink()
    status, answer = server.send(envelope)  # replayed
    assert (status, "before" in answer["error"]) == (403, True)
    assert not song.exists()


@pytest.mark.parametrize("ago", [55, -55])
def test_clocks_may_differ_by_nearly_a_minute(ago, executor):
    server = Inside(executor)
    assert server.send(server.sign(pack(int, (), None, name="int"), ago=ago))[0] == 200


def test_after_a_restart_nothing_that_was_recorded_is_good(executor):
    server = Inside(executor)
    envelope = server.sign(pack(int, (), None, name="int"))
    assert Inside(executor).send(envelope)[0] == 403


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ({"client": ("192.0.2.1", 5)}, 403),
        ({"client": None}, 403),
        ({}, 403),
        ({"client": ("192.0.2.1", 5), "scheme": "http"}, 403),
        ({"client": ("192.0.2.1", 5), "scheme": "https"}, 200),
        ({"client": ("::1", 5), "scheme": "http"}, 200),
    ],
)
def test_it_is_taken_over_tls_or_from_this_machine_only(scope, status, executor):
    server = Inside(executor, scope=scope)
    assert server.send(server.sign(pack(int, (), None, name="int")))[0] == status


def test_plain_peers_and_tokens_for_some_tasks_may_not(executor):
    server = Inside(executor)
    assert server.send(server.sign(pack(int, (), None, name="int")), headers=())[0] == 415
    server = Inside(executor, tasks=["add*"])
    assert server.send(server.sign(pack(int, (), None, name="int")))[0] == 403


def test_the_process_of_a_server_unpickles_nothing(tmp_path):
    song = tmp_path / "song"
    with pytest.raises(PlacementError, match="worker processes only"):
        perform(pack(Canary(song), (), None, name="canary"), os.getpid())
    assert not song.exists()


def test_no_task_can_have_the_reserved_name():
    with pytest.raises(ConfigurationError, match="taken by pickled calls"):
        create_app({SIGNED_TASK: len}, tokens=Tokens.anyone())


@pytest.mark.parametrize("keys", [[], TEXT, [TEXT[:42]], [SECRET]])
def test_keys_that_are_none_are_refused(keys):
    with pytest.raises(ConfigurationError):
        create_app([add], tokens=Tokens.anyone(), pickle_keys=keys)


def test_a_key_that_is_a_token_is_refused():
    with pytest.raises(ConfigurationError, match="also a token"):
        create_app([add], tokens=Tokens([Token.of(TEXT)]), pickle_keys=[TEXT])


# -- the package -----------------------------------------------------------------------------

PACKAGE = Path(__file__).parents[2] / "hybrid_compute"
DECODERS = {"loads", "load", "Unpickler", "decode_call", "decode_error", "load_function"}
# Between processes of this machine, over socket pairs of our own.
LOCAL = {
    *("_pickling.py", "_failures.py", "_functions.py", "_contexts.py"),
    *(
        f"executors/{name}.py"
        for name in (
            "_worker",
            "_answers",
            "_messages",
            "_boot",
            "_spawner",
            "_batch",
            "_worker_source",
            "_agents",
            "_nested",
            "_logs",
            "_worker_logs",
        )
    ),
}
# Between a caller and a cluster that moves pickles by itself: who uses one trusts it, as
# SECURITY.md says. Imported by nothing but these engines and the executors of pools.
ENGINES = {"_packed.py", "engines/_dask_jobs.py", "engines/ray.py"}


def unpickles(path):
    """Return the functions that use something which unpickles."""
    found = set()
    tree = ast.parse(path.read_text())
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in (
            *("pickle", "marshal", "shelve", "cloudpickle", "dill"),
            *("hybrid_compute._pickling", "hybrid_compute._failures"),
        ):
            names |= {each.asname or each.name: each.name for each in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        for inner in ast.walk(node):
            name = ""
            if isinstance(inner, ast.Name):
                name = names.get(inner.id, "")
            elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                module = inner.value.id.strip("_")
                name = inner.attr if module in MODULES else ""
            if name in DECODERS:
                found.add(node.name)
    return found


MODULES = {"pickle", "marshal", "shelve", "cloudpickle", "dill", "pickling", "failures"}


def test_one_function_unpickles_what_comes_from_a_network():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in LOCAL | ENGINES and (functions := unpickles(path)):
            found[name] = functions
    assert found == {"_signed_work.py": {"_load"}}
    assert unpickles(PACKAGE / "_pickling.py")  # it is able to find some


# -- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        ([], {}, "needs a key in HYBRID_COMPUTE_SIGNING_KEY"),
        ([], {"HYBRID_COMPUTE_SIGNING_KEY": "weak"}, "256 bits"),
        ([], {"HYBRID_COMPUTE_SIGNING_KEY": TEXT, "HYBRID_COMPUTE_TOKEN": TEXT}, "also a token"),
        ([], {"HYBRID_COMPUTE_SIGNING_KEY_FILE": "/nonexistent"}, "cannot be read"),
        (
            ["--host", "0.0.0.0", "--allow-host", "h", "--insecure", "--insecure"],
            {"HYBRID_COMPUTE_SIGNING_KEY": TEXT},
            "needs --tls-cert",
        ),
        (["--signing-key", TEXT], {}, "No such option"),
    ],
)
def test_the_command_refuses_to_start(options, env, said):
    done = serve("--allow-pickle", *options, **env)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert TEXT not in done.stderr or options[:1] == ["--signing-key"]


def test_keys_come_from_the_environment_and_leave_it(tmp_path):
    assert keys_from_environ({}) is None
    environ = {"HYBRID_COMPUTE_SIGNING_KEY": f"{TEXT}\n{TEXT[::-1]}", "OTHER": "x"}
    assert [each.id for each in keys_from_environ(environ)] == [KEY.id, OTHER.id]
    assert environ == {"OTHER": "x"}
    path = tmp_path / "key"
    path.write_text(TEXT + "\n")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        keys_from_environ({"HYBRID_COMPUTE_SIGNING_KEY_FILE": str(path)})
    path.chmod(0o600)
    assert keys_from_environ({"HYBRID_COMPUTE_SIGNING_KEY_FILE": str(path)})[0].id == KEY.id


# -- both sides ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_COMPUTE_SIGNING_KEY", TEXT)
        server = Served("tests.server.work:TASKS", "--allow-pickle")
    yield server
    assert server.end() == 0
    assert TEXT not in server.said
    assert SECRET not in server.said
    assert f"task='{SIGNED_TASK}'" in server.said


@pytest.fixture(params=["http", "ws"])
def url(request, served):
    end = "compute" if request.param == "http" else "ws"
    return f"{request.param}://127.0.0.1:{served.port}/{end}"


def remote(url, **options):
    options.setdefault("signing_key", TEXT)
    return RemoteExecutor(url, token=SECRET, timeout=60, **options)


class Mine(Exception):
    pass


def raise_mine():
    raise Mine("why", 5)


class Stubborn:
    def __reduce__(self):
        return int, ("no number",)


def test_any_callable_runs_on_the_server(url, served):
    four = 4
    with remote(url) as ex:
        assert ex.submit(lambda x, *, y: x + y + four, 1, y=2).result(60) == 7
        assert ex.submit(os.getpid).result(60) not in (os.getpid(), served.process.pid)
        assert list(ex.map(lambda x: {x, "a"}, range(5))) == [{x, "a"} for x in range(5)]
        assert ex.submit(remote_task("echo"), {"by": "name"}).result(60) == {"by": "name"}
        assert ex.submit(task(lambda: "unknown there")).result(60) == "unknown there"
        assert ex.submit(lambda: [e for e in os.environ if "SIGNING" in e]).result(60) == []


def test_exceptions_come_as_they_were_raised(url):
    with remote(url) as ex:
        with pytest.raises(Mine) as caught:
            ex.submit(raise_mine).result(60)
        assert caught.value.args == ("why", 5)
        assert "raise_mine" in str(caught.value.__cause__)
        with pytest.raises(ResultEncodeError):
            ex.submit(lambda: (e for e in ())).result(60)
        with pytest.raises(ResultDecodeError, match="no number"):
            ex.submit(Stubborn).result(60)
        with pytest.raises(TaskDecodeError, match="no number"):
            ex.submit(len, Stubborn()).result(60)
        with pytest.raises(TaskEncodeError):
            ex.submit(len, (e for e in ())).result(60)
        with pytest.raises(SystemExit):
            ex.submit(lambda: sys.exit(3)).result(60)
        assert ex.submit(lambda: 1).result(60) == 1


def test_with_another_key_nothing_runs(url):
    with remote(url, signing_key=TEXT[::-1]) as ex:
        with pytest.raises(AuthError):
            ex.submit(lambda: 1).result(60)


def test_without_a_key_and_what_is_local_only_do_not_go(url):
    with remote(url, signing_key=None) as ex, pytest.raises(PlacementError, match="signing_key"):
        ex.submit(lambda: 1).result(60)
    with remote(url) as ex, pytest.raises(PlacementError, match="local_only"):
        ex.submit(task(local_only=True)(lambda: 1)).result(60)


def test_a_fleet_sends_plain_callables_there_if_it_is_told_to(url):
    with HybridExecutor(remote=remote(url)) as ex:
        here = ex.submit(os.getpid).result(60)
        there = ex.options(executor="remote").submit(lambda: (os.getpid(),)[0]).result(60)
        assert here == os.getpid() != there
        got = ex.options(executor="remote").map(lambda x: (x, os.getpid()), range(3))
        assert [(x, pid != here) for x, pid in got] == [(0, True), (1, True), (2, True)]


def test_a_server_that_takes_none_gets_none():
    server = Served("tests.server.work:TASKS")
    try:
        for end in ("http", "ws"):
            path = "compute" if end == "http" else "ws"
            with remote(f"{end}://127.0.0.1:{server.port}/{path}") as ex:
                with pytest.raises(PlacementError, match="--allow-pickle"):
                    ex.submit(lambda: 1).result(60)
    finally:
        server.end()


def test_an_answer_that_is_not_signed_is_not_unpickled(tmp_path):
    song = tmp_path / "song"
    body = pickle.dumps(Canary(song))
    codec = Codec(tagged=True)
    asked = []

    def answers():
        yield body
        yield sign_answer(OTHER, body, failed=False, call_mac=asked[-1])
        yield sign_answer(KEY, body, failed=True, call_mac=asked[0])  # to another call

    def handle(peer: Peer) -> None:
        made = answers()
        while (request := peer.request()) is not None:
            own = f"{HEADER}: 1\r\n"
            if peer.start.startswith("GET"):
                peer.answer(b'{"tasks":[]}', extra=f"{own}{BOOT_HEADER}: {'00' * 16}\r\n")
            else:
                envelope = codec.value(codec.decode(request)["input"])
                asked.append(mac_of(envelope))
                answer = b'{"result":' + codec.encode(next(made)) + b"}"
                peer.answer(answer, extra=own)

    with serving(handle) as port:
        with RemoteExecutor(f"http://127.0.0.1:{port}", signing_key=TEXT, max_workers=1) as ex:
            for _ in range(3):
                with pytest.raises(AuthError, match="nothing of it was unpickled"):
                    ex.submit(lambda: 1).result(60)
    assert len(asked) == 3
    assert not song.exists()


def test_a_server_that_was_started_anew_is_asked_what_to_sign_for(executor):
    """Over HTTP the client finds that out by a 403, and signs once more."""
    codec = Codec(tagged=True)
    boots, refused = [b"a" * 16], []

    def handle(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            own = f"{HEADER}: 1\r\n"
            if peer.start.startswith("GET"):
                peer.answer(b'{"tasks":[]}', extra=f"{own}{BOOT_HEADER}: {boots[0].hex()}\r\n")
                continue
            envelope = codec.value(codec.decode(request)["input"])
            if boots[0] not in envelope:
                refused.append(envelope)
                peer.answer(b'{"error":"another run"}', 403, extra=own)
                continue
            body = pickle.dumps("ran")
            answer = sign_answer(KEY, body, failed=False, call_mac=mac_of(envelope))
            peer.answer(b'{"result":' + codec.encode(answer) + b"}", extra=own)

    with serving(handle) as port:
        with RemoteExecutor(f"http://127.0.0.1:{port}", signing_key=TEXT) as ex:
            assert ex.submit(lambda: 1).result(60) == "ran"
            boots[0] = b"b" * 16
            assert ex.submit(lambda: 1).result(60) == "ran"
    assert len(refused) == 1


@pytest.mark.parametrize("url", ["http://192.0.2.1/compute", "ws://other.example/ws"])
def test_pickles_never_travel_in_the_clear(url):
    with pytest.raises(ConfigurationError, match="in the clear"):
        RemoteExecutor(url, signing_key=TEXT, allow_plaintext=True)


def test_the_callers_key_comes_from_a_closed_file_and_is_not_the_token(tmp_path, monkeypatch):
    access = Access("https://host")
    path = tmp_path / "key"
    path.write_text(TEXT + "\n")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Signer(path, access)
    path.chmod(0o600)
    assert Signer(path, access).key.id == KEY.id
    monkeypatch.setenv("THE_KEY", TEXT)
    assert Signer("env:THE_KEY", access).key.id == KEY.id
    for bad in ("env:NO_SUCH", 5, tmp_path / "none"):
        with pytest.raises(ConfigurationError):
            Signer(bad, access)
    with pytest.raises(ConfigurationError, match="token as well"):
        Signer(TEXT, access, token=TEXT)
