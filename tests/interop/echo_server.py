"""The server as `hybrid-compute serve` sets it up, with another application in it: it echoes.

The cases of Autobahn are for a server that echoes, and ours does not. All below the application is
what callers of ours meet: the settings of the command, uvicorn, its WebSocket.
"""

from __future__ import annotations

from typing import Any

from hybrid_compute import _serve


class Echo:
    """An ASGI application."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            await send({**message, "type": "websocket.send"})

    async def drain(self) -> None:
        """Do nothing: no calls run."""


_serve.create_app = lambda *_, **__: Echo()
_serve.serve()
