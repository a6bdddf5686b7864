"""A connection that is cut after each byte of an exchange."""

from __future__ import annotations

import json

import pytest

from hybrid_compute import remote_task
from hybrid_compute.errors import RemoteConnectionLost
from tests.remote.servers import Peer, serving
from tests.remote.test_websocket import client

pytestmark = pytest.mark.timeout(60)

echo = remote_task("echo")
FRAME = json.dumps({"id": 1, "result": "x" * 100}).encode()


def test_a_reset_after_any_byte_of_the_answer_is_a_lost_connection():
    whole = b"\x81" + bytes((len(FRAME),)) + FRAME
    for count in range(len(whole)):

        def handle(peer: Peer, count: int = count) -> None:
            peer.shake_hands()
            peer.message()
            peer.sock.sendall(whole[:count])
            peer.reset()

        with serving(handle) as port, client(port) as ex:
            with pytest.raises(RemoteConnectionLost) as info:
                ex.submit(echo, 1).result(30)
            assert info.value.may_have_run
