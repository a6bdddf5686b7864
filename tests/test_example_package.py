"""The package in examples/datagrams: installed as anybody's would be, and found by its names.

Its transport is neither HTTP nor WebSocket: datagrams that are lost, doubled and overtaken.
"""

from __future__ import annotations

import importlib
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    RemoteConnectionLost,
    RemoteTaskError,
    RemoteUnavailable,
    TaskTimeout,
    UnknownTaskError,
)
from hybrid_compute.testing import assert_routed, check_executor, transport_checks
from hybrid_compute.transports import Address

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "datagrams"
BAD = "loss=0.1&reorder=0.1&double=0.05&seed=7"
TOKEN = "token-of-the-tests-0123456789"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install it offline into a folder of its own, from a copy: building writes into the source."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(SOURCE, folder / "source")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--no-index", "--disable-pip-version-check"),
            *("--target", str(folder / "site"), str(folder / "source")),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
    )
    return folder / "site"


@pytest.fixture
def package(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    importlib.invalidate_caches()
    package = importlib.import_module("hybrid_datagrams")
    assert Path(package.__file__).is_relative_to(installed)
    yield package
    for name in [each for each in sys.modules if each.partition(".")[0] == "hybrid_datagrams"]:
        del sys.modules[name]


def bad(package, seed=3):
    return package.BadNetwork(loss=0.1, reorder=0.1, double=0.05, seed=seed)


class Link:
    """The transport and a listener, with a bad network between them, both ways."""

    def __init__(self, package):
        self.frames = queue.SimpleQueue()
        self.listener = package.Listener(
            lambda _, frame: self.frames.put(frame), lambda _: None, network=bad(package)
        )
        self.transport = package.DatagramTransport(
            Address(
                url=f"datagram://127.0.0.1:{self.listener.port}?{BAD}",
                headers=dict,
                max_bytes=2**26,
                connect_timeout=10.0,
            )
        )

    def receive(self, timeout):
        try:
            return self.frames.get(timeout=timeout)
        except queue.Empty:
            return None

    def send(self, frame):
        self.listener.visitors()[0].send(frame)

    def vanish(self):
        self.listener.close()

    close = vanish


@pytest.mark.parametrize("check", transport_checks(), ids=str)
def test_datagrams_keep_the_contract_of_a_transport(package, check):
    check(lambda: Link(package), timeout=30)


# -- the layer that makes frames of datagrams ------------------------------------------------------


def carry(package, frames, *, network, most=100_000):
    """Carry frames from one channel to another, without sockets and threads, in made-up time."""
    Channel = package.Channel
    near, far = (Channel(1, 0.0, max_bytes=2**24, patience=60) for _ in range(2))
    for each in frames:
        near.send(each)
    came, now, rounds = [], 0.0, 0
    head = importlib.import_module("hybrid_datagrams.channel").head_of
    while len(came) < len(frames) and rounds < most:
        rounds += 1
        for source, target in ((near, far), (far, near)):
            for datagram in source.datagrams(now):
                for each in network.pass_on(datagram):
                    kind, _, body = head(each)
                    got = target.receive(kind, body, now)
                    assert source is near or not got
                    came += got
        now = max(now, min(near.due(), far.due()))
        assert not near.failure + far.failure
    return came, network


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_whole_and_in_order_however_bad_the_network_is(package, seed):
    frames = [bytes([n]) * size for n, size in enumerate((0, 1, 1199, 1200, 1201, 30_000, 7))]
    network = package.BadNetwork(loss=0.3, reorder=0.3, double=0.2, seed=seed)
    came, network = carry(package, frames, network=network)
    assert came == frames
    assert min(network.lost, network.kept, network.doubled) > 0


def test_silence_is_a_failure_that_is_told(package):
    channel = package.Channel(1, 0.0, max_bytes=100, patience=8)
    assert channel.datagrams(2.0) != []  # it asks whether somebody is there
    channel.datagrams(8.1)
    assert "nothing was heard for 8 s" in channel.failure


def test_a_frame_that_is_too_large_is_a_failure(package):
    with pytest.raises(AssertionError, match="more than 16777216 bytes"):
        carry(package, [bytes(2**24 + 1)], network=package.BadNetwork())


# -- calls -----------------------------------------------------------------------------------------


def double(x):
    return 2 * x


def fail(text):
    raise ValueError(text)


@pytest.fixture
def over():
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def server(package, over):
    tasks = {"double": double, "fail": fail, "wait": lambda: over.wait(60), "len": len}
    with package.DatagramServer(tasks, network=bad(package)) as server:
        yield server
        over.set()


def url(server, query=BAD):
    return f"datagram://127.0.0.1:{server.port}?{query}"


def test_calls_of_a_remote_executor_go_over_a_bad_network(server):
    with RemoteExecutor(url(server)) as ex:
        far = remote_task("double")
        futures = [ex.submit(far, n) for n in range(300)]
        assert [each.result(60) for each in futures] == [2 * n for n in range(300)]
        assert ex.submit(far, (1, {2: b"\0"}.__len__())).result(60) == (1, 1, 1, 1)
        assert ex.submit(remote_task("len"), bytes(1_000_000)).result(60) == 1_000_000
        assert isinstance(ex.submit(remote_task("none")).exception(60), UnknownTaskError)
        error = ex.submit(remote_task("fail"), "why").exception(60)
        assert (type(error), str(error)) == (RemoteTaskError, "why")
    assert server.network.lost > 0


def test_many_threads_call_over_one_connection(server):
    with RemoteExecutor(url(server)) as ex, HybridExecutor(8) as callers:
        far = remote_task("double")
        got = callers.map(lambda n: ex.submit(far, n).result(60), range(200))
        assert [*got] == [2 * n for n in range(200)]


def test_a_deadline_holds_over_datagrams(server):
    with RemoteExecutor(url(server), timeout=0.3) as ex:
        assert isinstance(ex.submit(remote_task("wait")).exception(60), TaskTimeout)


def test_a_fleet_sends_a_task_there_by_its_name(server):
    @task(name="double")
    def here(x):
        return "here"

    far = RemoteExecutor(url(server), tasks=["double"], name="far")
    with HybridExecutor(executors={"far": far}) as ex:
        future = ex.options(executor="far").submit(here, 4)
        assert future.result(60) == 8
        assert_routed(future, "far")


def test_a_server_that_ends_loses_the_call_and_the_next_finds_nobody(package, over):
    begun = threading.Event()

    def wait():
        begun.set()
        over.wait(60)

    server = package.DatagramServer({"wait": wait}, network=bad(package))
    with RemoteExecutor(url(server), reconnect_for=0) as ex:
        future = ex.submit(remote_task("wait"))
        assert begun.wait(60)
        server._listener.close()
        assert isinstance(future.exception(60), RemoteConnectionLost)
        assert isinstance(ex.submit(remote_task("wait")).exception(60), RemoteUnavailable)
    over.set()
    server._executor.shutdown()


def test_a_token_is_checked_by_the_server(package):
    with package.DatagramServer({"double": double}, token=TOKEN) as server:
        with RemoteExecutor(url(server), token=TOKEN) as ex:
            assert ex.submit(remote_task("double"), 4).result(60) == 8
        with RemoteExecutor(url(server), token="no") as ex:
            error = ex.submit(remote_task("double"), 4).exception(60)
            assert isinstance(error, AuthError)
            assert TOKEN not in str(error)


def test_a_token_does_not_leave_this_machine_over_a_transport_that_does_not_encrypt(package):
    with pytest.raises(ConfigurationError, match="a transport that encrypts"):
        RemoteExecutor("datagram://example.com:9000", token=TOKEN)
    with pytest.raises(ConfigurationError, match="signing_key"):
        RemoteExecutor("datagram://127.0.0.1:9000", signing_key="k" * 40)


# -- names -----------------------------------------------------------------------------------------


def test_executors_and_policies_are_had_by_their_names(package):
    @task
    def where():
        return threading.current_thread().name

    with HybridExecutor(executors={"top": "newest-first"}, policy="round-robin") as ex:
        assert type(ex._fleet["top"]) is package.NewestFirst
        assert ex._fleet["top"].name == "top"
        assert type(ex._policy) is package.RoundRobin
        assert ex.options(executor="top").submit(where).result(60).startswith("top")


def test_the_names_can_stand_in_a_configuration(package):
    said = {
        "executors": {
            "top": {"type": "newest-first", "max_workers": 2},
            "far": "datagram://127.0.0.1:9000",
        },
        "policy": {"name": "round-robin", "names": ["top", "thread"]},
    }
    with HybridExecutor.from_config(said, environ={}) as ex:
        assert ex._fleet["top"].workers == 2
        assert ex._fleet["far"]._access.scheme == "datagram"
        assert ex._policy.names == {"top", "thread"}
    said["executors"]["top"]["max_worker"] = 1
    with pytest.raises(ConfigurationError, match="did you mean 'max_workers'"):
        HybridExecutor.from_config(said, environ={})


def test_a_name_that_is_like_one_of_a_package_is_told_it(package):
    with pytest.raises(ConfigurationError, match="did you mean 'round-robin'"):
        HybridExecutor(policy="round-robbin")
    with pytest.raises(ConfigurationError, match="did you mean 'newest-first'"):
        HybridExecutor(executors={"x": "newest"})
    with pytest.raises(ConfigurationError, match=r"there are \['datagram'\]"):
        RemoteExecutor("datagrams://127.0.0.1:1")


def test_the_executor_of_the_package_keeps_the_contract(package):
    check_executor(lambda: package.NewestFirst(2))


def test_the_names_are_known_on_the_command_line(installed, tmp_path, package):
    from click.testing import CliRunner

    from hybrid_compute._commands import main
    from hybrid_compute.decision_log import DecisionLog

    @task
    def two():
        return 2

    log = tmp_path / "log.jsonl"
    with DecisionLog(log) as observer, HybridExecutor(1, observers=[observer]) as ex:
        assert ex.submit(two).result(60) == 2
    result = CliRunner().invoke(main, ["replay", str(log), "--policy", "round-robin"])
    assert result.exit_code == 0, result.output
    (tmp_path / "c.toml").write_text('[replay]\npolicy = "round-robin"\n')
    result = CliRunner().invoke(main, ["replay", str(log), "--config", str(tmp_path / "c.toml")])
    assert result.exit_code == 0, result.output
    assert "RoundRobin" in result.output
