"""One real server for the tables of hostile input; every table leaves it able to serve."""

from __future__ import annotations

import pytest

from tests.server.conftest import Served
from tests.server.raw import RawSocket, ask, frame


class Target(Served):
    """A server, and what an attacker does to it."""

    def over_http(self, body, *headers: str) -> tuple[int, bytes]:
        return ask(self.port, body, *headers)

    def over_ws(self, message: str | bytes) -> bytes:
        """Send a message, and then a good call; return what came before the good call's answer."""
        data = message.encode() if isinstance(message, str) else message
        with RawSocket(self.port) as raw:
            raw.send(frame(data) + frame(b'{"id":77,"task":"echo","input":"good"}'))
            came = raw.until(b'{"id":77,"result":"good"}')
            return came.partition(b'{"id":77,"result":"good"}')[0]


@pytest.fixture(scope="module")
def target():
    served = Target("tests.security.work:TASKS")
    ask(served.port, {"task": "echo"})  # its first worker has started
    try:
        yield served
        assert ask(served.port, {"task": "echo", "input": 1})[0] == 200
    finally:
        served.end()
