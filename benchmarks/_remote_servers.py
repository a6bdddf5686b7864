"""The other libraries' servers, each in a process of its own: the least that answers a call.

`python -m benchmarks._remote_servers KIND` prints its port and serves until its input ends.
`served` starts one, or ours, and ends it.
"""

# ruff: noqa: PLC0415 - a library is imported only in the process that measures it

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time, sleep
from typing import Any

__all__ = ["OURS", "cpu_seconds", "served"]

OURS = "hybrid_compute"
_TICKS = os.sysconf("SC_CLK_TCK")


# -- ours, and the way to all of them ----------------------------------------------------------


@contextlib.contextmanager
def served(kind: str, **environment: str) -> Iterator[tuple[int, int]]:
    """Start a server, and yield its port and its process id; it is ended on the way out.

    Args:
        kind: `OURS`, or one of those below.
        environment: further variables for it.
    """
    if kind == OURS:
        # As a user starts it; without a token, as all the others here.
        call = ["hybrid_compute.cli", "serve", "benchmarks._remote_work:TASKS"]
        call += ["--port", "0", "--no-token"]
    else:
        call = ["benchmarks._remote_servers", kind]
    # To a file: nobody here has to read what it says later.
    with tempfile.NamedTemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *call],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env={**os.environ, **environment},
        )
        try:
            yield _port(process, Path(said.name)), process.pid
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], said: Path) -> int:
    while process.poll() is None:
        if found := re.search(r"serving at \S+:(\d+)\n", said.read_text()):
            return int(found[1])
        sleep(0.02)
    raise RuntimeError(f"the server did not start: {said.read_text()[-1000:]}")


def cpu_seconds() -> float:
    """Return the CPU time so far of this process and of all that descend from it."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    total = process_time()
    for each, parent in parents.items():
        above = parent
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            total += used[each]
    return total


# -- theirs --------------------------------------------------------------------------------------


def _say(port: int) -> None:
    print(f"serving at 127.0.0.1:{port}", flush=True)


def _websockets() -> None:
    """Send each frame back: no JSON, no task."""
    import asyncio

    from websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for frame in connection:
            await connection.send(frame)

    async def main() -> None:
        async with serve(echo, "127.0.0.1", 0, compression=None) as server:
            _say(next(iter(server.sockets)).getsockname()[1])
            await asyncio.get_running_loop().create_future()

    asyncio.run(main())


def _uvicorn() -> None:
    """Answer POST /call, which calls `successor`, and POST /echo, which sends the body back."""
    import asyncio

    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        parts = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if scope["path"] == "/call":
            body = json.dumps({"result": json.loads(body)["input"] + 1}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            _say(self.servers[0].sockets[0].getsockname()[1])

    # It binds by itself: on a socket that is given to it, asyncio leaves Nagle's algorithm on.
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", access_log=False)
    asyncio.run(Server(config).serve())


def _rpyc() -> None:
    import rpyc  # type: ignore[import-untyped]
    from rpyc.utils.server import ThreadedServer  # type: ignore[import-untyped]

    class Service(rpyc.Service):  # type: ignore[misc]
        def exposed_successor(self, number: int) -> int:
            return number + 1

    server = ThreadedServer(Service, hostname="127.0.0.1", port=0)
    _say(server.port)
    server.start()


def _pyro5() -> None:
    import Pyro5.api  # type: ignore[import-untyped]

    @Pyro5.api.expose
    class Service:
        def successor(self, number: int) -> int:
            return number + 1

    daemon = Pyro5.api.Daemon("127.0.0.1", 0)
    daemon.register(Service(), "service")
    _say(int(daemon.locationStr.rpartition(":")[2]))
    daemon.requestLoop()


_KINDS: dict[str, Callable[[], None]] = {
    "websockets": _websockets,
    "uvicorn": _uvicorn,
    "rpyc": _rpyc,
    "pyro5": _pyro5,
}


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    _KINDS[sys.argv[1]]()
