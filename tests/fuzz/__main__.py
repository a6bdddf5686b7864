"""Feed malformed input to all that reads bytes of a peer: `python -m tests.fuzz --inputs 100000`.

Each input goes to every session, codec and decoder; every `--every`-th also to a real server, over
HTTP and over a WebSocket. A refusal is one of our own errors, and of a server a status below 500.
An input that makes anything else come out, or takes long, is printed with its number: with the same
seed it comes again. Afterwards the server must answer, and neither process have grown.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import os
import random
import sys
import time
import traceback

from tests.server.conftest import Served
from tests.server.raw import PATIENCE, Raw, RawSocket, ask, frame, post, rss

from .inputs import an_input
from .targets import REFUSALS, Target, targets

MOST_SECONDS = 0.5  # of CPU, for one input and one reader; most take microseconds
MOST_GROWTH = 64 << 20  # bytes, of either process
WARM = 2000  # inputs, after which memory is looked at for the first time


class Report:
    """What a run has come to."""

    def __init__(self) -> None:
        self.inputs = self.fed = self.refused = self.sent = 0
        self.slowest = 0.0  # seconds
        self.statuses: collections.Counter[int] = collections.Counter()
        self.wrong: list[str] = []
        self.growth: dict[str, int] = {}

    def feed(self, what: str, reader: Target, data: bytes, rng: random.Random) -> None:
        """Give an input to one reader, and note what comes of it."""
        self.fed += 1
        begun = time.thread_time()  # of CPU: the machine may have others to care for
        try:
            reader(data, rng)
        except REFUSALS:
            self.refused += 1
        except Exception:
            self.wrong.append(f"{what}: {data!r}\n{traceback.format_exc()}")
        took = time.thread_time() - begun
        self.slowest = max(self.slowest, took)
        if took > MOST_SECONDS:
            self.wrong.append(f"{what} took {took:.2f} s: {data[:200]!r}")

    def __str__(self) -> str:
        grown = ", ".join(f"{name} {size >> 10} KiB" for name, size in self.growth.items())
        readers = self.fed // max(1, self.inputs)
        lines = [
            f"inputs {self.inputs}, each to {readers} readers, which have refused {self.refused}",
            f"sent to the server {self.sent}; statuses {dict(sorted(self.statuses.items()))}",
            f"the slowest took {self.slowest * 1000:.1f} ms; grown: {grown}",
            f"crashes {len(self.wrong)}",
            *self.wrong[:20],
        ]
        return "\n".join(lines)


class Server:
    """The real server, to which inputs are sent as bodies, and as frames of one WebSocket."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._served = Served("tests.interop.work:CHECKED")
        self.pid = self._served.process.pid
        self._socket: RawSocket | None = None

    def feed(self, data: bytes, rng: random.Random) -> None:
        """Send an input."""
        self._report.sent += 1
        if rng.random() < 0.5:
            with Raw(self._served.port, post(data)) as raw:
                status = raw.status()
            self._report.statuses[status] += 1
            if status >= 500 or not status:
                self._report.wrong.append(f"status {status} for {data!r}")
            return
        if self._socket is None:
            self._socket = RawSocket(self._served.port)
        # Answers are read at times, as by anybody who sends nonsense and looks at what comes.
        self._socket.send(frame(data, rng.choice((1, 1, 1, 2, 0, 9, 10, 3))))
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._socket.sock.setblocking(False)
            while got := self._socket.sock.recv(2**16):
                if got[:1] == b"\x88":
                    break
            else:
                got = b""
            self._socket.sock.close()
            self._socket = None
            return
        if self._socket is not None:
            self._socket.sock.settimeout(PATIENCE)

    def is_well(self) -> bool:
        """Say whether it answers a good call as ever."""
        return ask(self._served.port, {"task": "scalar", "input": 1}) == (200, b'{"result":null}')

    def end(self) -> int:
        """End it; return its exit code."""
        if self._socket is not None:
            self._socket.sock.close()
        return self._served.end()


def run(inputs: int, seed: int, every: int) -> Report:
    """Feed so many inputs, and tell what came out.

    Args:
        inputs: how many.
        seed: of all of them.
        every: every so many-th goes to the server as well; 0: there is none.
    """
    report, readers = Report(), targets()
    server = Server(report) if every else None
    pids = {"this process": os.getpid()}
    if server is not None:
        pids["the server"] = server.pid
    before: dict[str, int] = {}
    try:
        for number in range(inputs):
            rng = random.Random(f"{seed}-{number}")
            data = an_input(rng)
            report.inputs += 1
            for name, reader in readers.items():
                report.feed(f"input {number}, {name}", reader, data, rng)
            if server is not None and number % every == 0:
                server.feed(data, rng)
            if number == min(WARM, inputs // 2):
                gc.collect()
                before = {name: rss(pid) for name, pid in pids.items()}
        gc.collect()
        report.growth = {name: rss(pid) - before.get(name, 0) for name, pid in pids.items()}
        report.wrong += [
            f"{name} has grown by {size} bytes"
            for name, size in report.growth.items()
            if size > MOST_GROWTH
        ]
        if server is not None and not server.is_well():
            report.wrong.append("the server does not answer as it should any more")
    finally:
        if server is not None and (code := server.end()):
            report.wrong.append(f"the server has ended with {code}")
    return report


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and return the status to exit with."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=10, help="one in so many goes to a server")
    report = run(**vars(parser.parse_args(arguments)))
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
