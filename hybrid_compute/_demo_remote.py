"""The demo's remote stage: a server of its own, calls to it, and a stream from it.

Owns the server's process from its start to its end, whatever happens between. The server listens
on a free port of this machine, and takes a token that was made for it. Needs the extra `server`.

Threads: the calls' own; and one that reads what the server says, as long as it lives.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import attrs

from hybrid_compute._demo_work import outline, tokens_of
from hybrid_compute.executors.remote import RemoteExecutor

__all__ = ["MISSING", "RemoteReport", "run"]

MISSING = "The remote stage needs a server: pip install 'hybrid-compute[server]'"
_NEEDED = ("uvicorn", "msgspec", "websockets", "httptools", "click")
_FILES = 40
_NAMES = 8
_START_SECONDS = 30.0


@attrs.frozen(kw_only=True)
class RemoteReport:
    """What the remote stage has found.

    Attributes:
        port: of the server.
        start_seconds: until it answered.
        calls: files that were measured there, one call each, over one WebSocket.
        seconds: for all of them.
        tokens: how many tokens they have.
        equal: whether some of them, measured here, gave the same.
        streamed: the first names of a stream of all functions in the biggest file.
        first_seconds: until the first of them came; 0: there is none.
    """

    port: int
    start_seconds: float
    calls: int
    seconds: float
    tokens: int
    equal: bool
    streamed: tuple[str, ...]
    first_seconds: float


def run(
    paths: tuple[str, ...], *, show: Callable[[str], object] | None = None
) -> RemoteReport | None:
    """Start a server, have it measure some files, and read a stream from it. Blocks.

    Args:
        paths: the files, the biggest first.
        show: called with each item of the stream as it comes; None: nobody watches.

    Returns:
        None if the extra `server` is not installed.

    Raises:
        RuntimeError: the server did not start.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        return None
    contents = [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // _FILES)]]
    begin = time.perf_counter()
    with _server() as (port, token):
        started = time.perf_counter()
        with RemoteExecutor(f"ws://127.0.0.1:{port}/ws", token=token, timeout=300) as remote:
            counts = list(remote.map(tokens_of, contents))
            done = time.perf_counter()
            streamed: list[str] = []
            came = done
            with remote.stream(outline, contents[0]) as names:
                for name in islice(names, _NAMES):
                    if not streamed:
                        came = time.perf_counter()
                    streamed.append(name)
                    if show is not None:
                        show(name)
    return RemoteReport(
        port=port,
        start_seconds=started - begin,
        calls=len(counts),
        seconds=done - started,
        tokens=sum(counts),
        equal=counts[:3] == [tokens_of(each) for each in contents[:3]],
        streamed=tuple(streamed),
        first_seconds=came - done,
    )


@contextmanager
def _server() -> Iterator[tuple[int, str]]:
    token = secrets.token_hex(32)
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "hybrid_compute.cli", "serve"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "hybrid_compute._demo_work:SERVED", "--port", "0"],
        env={**os.environ, "HYBRID_COMPUTE_TOKEN": token, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    found: list[int] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        for line in process.stderr:
            if not found:
                said.append(line)
                if match := re.search(r"serving at \S+:(\d+)", line):
                    found.append(int(match[1]))
                    ready.set()
        ready.set()

    listener = threading.Thread(target=listen, name="demo-server", daemon=True)
    listener.start()
    try:
        if not ready.wait(_START_SECONDS) or not found:
            raise RuntimeError(f"the demo's server did not start: {''.join(said).strip()}")
        yield found[0], token
    finally:
        process.terminate()
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join()
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        process.stderr.close()
