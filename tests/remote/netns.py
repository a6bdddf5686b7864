"""What a proxy cannot do to a connection: the kernel's own firewall, in a network of its own.

Run as `unshare -n python -m tests.remote.netns NAME`: a network with nothing but a loopback device
that only this process and its server have. Needs root and nft. Asserts, and exits with 0 if all
holds.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from hybrid_compute import HybridExecutor, RemoteExecutor, remote_task, task
from hybrid_compute.errors import RemoteConnectionLost, RemoteUnavailable, TaskTimeout
from hybrid_compute.policy import Prefer
from tests.server.conftest import SECRET, Served

WAIT = 20.0  # seconds; what fails takes that long, at the most
TABLE = "inet faults"
NFT = os.environ.get("NFT", "nft")


def up() -> None:
    """Bring the loopback device up, which in a new network is down."""
    flags, up_and_running = 0x8914, 0x41  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, flags, struct.pack("16sh14x", b"lo", up_and_running))


def nft(rules: str) -> None:
    subprocess.run([NFT, "-f", "-"], input=rules, text=True, check=True, timeout=WAIT)


@contextmanager
def rules(*lines: str):
    """Have packets that come in meet these rules, for as long as the block takes."""
    nft(
        f"table {TABLE} {{\nchain faults {{\ntype filter hook input priority 0; policy accept;\n"
        + "\n".join(lines)
        + "\n}\n}\n"
    )
    try:
        yield
    finally:
        nft(f"delete table {TABLE}")


def client(served: Served, scheme: str, **options) -> RemoteExecutor:
    path = "/ws" if scheme == "ws" else "/compute"
    return RemoteExecutor(f"{scheme}://127.0.0.1:{served.port}{path}", token=SECRET, **options)


def dropped(served: Served) -> tuple[str, str]:
    return f"tcp dport {served.port} drop", f"tcp sport {served.port} drop"


echo = remote_task("echo", idempotent=True)


def half_open_websocket(served: Served) -> None:
    """Packets vanish: the pings tell, and a call fails that may have run."""
    with client(served, "ws", ping_interval=0.1, ping_timeout=0.5, reconnect_for=WAIT) as ex:
        assert ex.submit(echo, 1).result(WAIT) == 1
        future = ex.submit(remote_task("wait"))
        assert ex.submit(echo, 2).result(WAIT) == 2  # the server has the call before it as well
        with rules(*dropped(served)):
            begun = time.monotonic()
            error = future.exception(WAIT)
            took = time.monotonic() - begun
            again = ex.submit(echo, 3)
        assert isinstance(error, RemoteConnectionLost), repr(error)
        assert error.may_have_run
        assert took < 5
        assert again.result(WAIT) == 3  # the wire has healed


def half_open_http(served: Served) -> None:
    """Packets vanish: a request has its deadline."""
    with client(served, "http") as ex:
        assert ex.submit(echo, 1).result(WAIT) == 1
        with rules(*dropped(served)):
            begun = time.monotonic()
            error = ex.submit(remote_task("echo", timeout=0.5), 2).exception(WAIT)
            assert isinstance(error, TaskTimeout), repr(error)
            assert 0.5 <= time.monotonic() - begun < 5
        assert ex.submit(echo, 3).result(WAIT) == 3


def black_hole(served: Served) -> None:
    """Nobody answers who would connect: what may run here does so, within the time for that."""
    local = task(name="echo", idempotent=True)(lambda value: ("here", value))
    for scheme in ("http", "ws"):
        remote = client(served, scheme, tasks=["echo"], connect_timeout=0.3, reconnect_for=0.0)
        with HybridExecutor(remote=remote, policy=Prefer("remote", "thread")) as ex:
            with rules(f"tcp dport {served.port} tcp flags & (syn | ack) == syn drop"):
                begun = time.monotonic()
                assert ex.submit(local, 1).result(WAIT) == ("here", 1)
                assert 0.3 <= time.monotonic() - begun < 5
                error = ex.options(executor="remote").submit(echo, 1).exception(WAIT)
                assert isinstance(error, RemoteUnavailable), repr(error)


def reset_in_a_stream(served: Served) -> None:
    """A stream is cut by a reset in its midst: all that came before it came in order."""
    for scheme in ("http", "ws"):
        options = {} if scheme == "http" else {"ping_interval": 0.1, "ping_timeout": 0.5}
        with client(served, scheme, reconnect_for=0.0, **options) as ex:
            assert ex.submit(remote_task("double"), 1).result(WAIT) == 2
            # Of what the caller sends, acknowledgements too: the reset comes to him.
            quota = f"tcp dport {served.port} quota over 1500 bytes reject with tcp reset"
            with rules(quota):
                got = []
                with pytest.raises(RemoteConnectionLost) as caught:
                    for block in ex.stream(remote_task("blocks"), 400, 50_000):
                        got.append(block[0])
                assert caught.value.may_have_run
            assert 0 < len(got) < 400
            assert got == [number % 256 for number in range(len(got))]


def main(name: str) -> None:
    up()
    # A reset that does not get through leaves the server with a call to whom nobody listens: told
    # to end, it would wait for that one, 10 s.
    served = Served(
        "tests.streams.work:TASKS" if name == "reset_in_a_stream" else "tests.server.work:TASKS",
        *("--grace", "0.5"),
    )
    try:
        globals()[name](served)
    finally:
        served.end()


if __name__ == "__main__":
    main(sys.argv[1])
