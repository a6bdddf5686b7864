"""HTTP streams: the items of one call as the lines of one answer. On the event loop.

Owns the three forms of such an answer:

    NDJSON to a peer of ours   [item, item, ...] a line; last {"done": true, "result": value} or
                               {"error": text, ...}
    NDJSON to anybody else     item a line; {"error": text} if it fails
    server-sent events         data: item; last "event: done", data: {"result": value}, or
                               "event: error", data: {"error": text}

The caller says by `Accept` which one he wants. Before the generator has started the answer may
still be an error with a status of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hybrid_compute.errors import PayloadTooLarge, ResultEncodeError
from hybrid_compute.protocol import http as wire
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.messages import Failed
from hybrid_compute.protocol.values import Refused
from hybrid_compute.server.gate import values_of
from hybrid_compute.server.service import Call, Service

__all__ = ["HttpStream", "form_of"]

_AHEAD = 1 << 16  # bytes that wait to be sent
_ROOM = 512  # items
_QUIET = 15.0  # seconds without an item after which a line that says nothing is sent


def form_of(headers: Any) -> str | None:
    """Return the content type of the stream that a caller asks for; None: he asks for none."""
    accepted = b",".join(values_of(headers, b"accept")).decode("latin-1").lower()
    kinds = [each.partition(";")[0].strip() for each in accepted.split(",")]
    return next((each for each in kinds if each in (wire.NDJSON_TYPE, wire.EVENTS_TYPE)), None)


class HttpStream:
    """A sink whose items become lines, and who sends them.

    Args:
        form: the content type.
        codec: that of the call.
        done: set when the call has its outcome; and when the stream has begun.
        skip: how many of the first items the caller has already.
        patience: takes the seconds for which the caller need not read what is sent.
    """

    def __init__(
        self,
        form: str,
        codec: Codec,
        done: asyncio.Future[None],
        *,
        skip: int = 0,
        patience: Callable[[float], object] | None = None,
    ) -> None:
        self._form = form
        self._codec = Codec(tagged=codec.tagged, max_bytes=codec.max_bytes)
        self._own = codec.tagged and form == wire.NDJSON_TYPE
        self._done = done
        self._skip = skip
        self._patience = patience or (lambda _: None)
        self._lines: list[bytes] = []
        self._size = 0
        self._news = asyncio.Event()
        self.begun: bool = False

    def begin(self) -> HttpStream:
        """Note that there is a stream; return the sink for it."""
        self.begun = True
        if not self._done.done():
            self._done.set_result(None)
        return self

    # -- the sink ----------------------------------------------------------------------------

    def room(self) -> int | None:
        """Return how many items may come, as far as that can be known."""
        return _ROOM if self._size < _AHEAD else 0

    def item(self, value: Any) -> None:
        """Take an item."""
        if self._skip:
            self._skip -= 1
            return
        try:
            data = self._codec.encode(value, "$.chunk")
        except (Refused, PayloadTooLarge) as error:
            raise ResultEncodeError(f"an item of the stream cannot be sent: {error}") from error
        self._lines.append(data)
        self._size += len(data)

    def turn(self) -> None:
        """Send what has come."""
        self._news.set()

    # -- the answer --------------------------------------------------------------------------

    async def run(
        self, service: Service, call: Call, leaving: asyncio.Future[Any], send: Any
    ) -> None:
        """Send all of the answer, or stop when the caller leaves."""
        own = ((wire.HEADER.lower().encode(), b"1"),) if self._codec.tagged else ()
        head = [(b"content-type", self._form.encode()), (b"cache-control", b"no-store")]
        head += [(b"x-content-type-options", b"nosniff"), (b"x-accel-buffering", b"no"), *own]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        leaving.add_done_callback(lambda _: self._news.set())
        self._patience(service.limits.task_seconds)  # for longer it cannot go on
        while not call.over and not leaving.done():
            try:
                async with asyncio.timeout(_QUIET):
                    await self._news.wait()
            except TimeoutError:
                if self._own or self._form == wire.EVENTS_TYPE:
                    await self._send(send, b"\n" if self._own else b":\n\n")
            self._news.clear()
            if self._lines:
                await self._send(send, self._take())
                if call.feed is not None:
                    call.feed.again()
        if leaving.done():
            call.abandon()
            return
        last = self._take() + self._end(service.failure(call), call)
        await send({"type": "http.response.body", "body": last})

    async def _send(self, send: Any, body: bytes) -> None:
        with suppress(OSError):  # the caller is gone, as `leaving` tells
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _take(self) -> bytes:
        lines, self._lines, self._size = self._lines, [], 0
        if not lines:
            return b""
        if self._own:
            return self._codec.array(lines) + b"\n"
        if self._form == wire.NDJSON_TYPE:
            return b"\n".join([*lines, b""])
        return b"".join([part for each in lines for part in (b"data: ", each, b"\n\n")])

    def _end(self, failure: Failed | None, call: Call) -> bytes:
        codec, event = self._codec, b"done"
        fields = b""
        if failure is None:
            try:
                fields = wire.result_body(codec, call.result())
                if self._own:
                    fields = codec.fields(
                        done=b"true", result=codec.encode(call.result(), "$.result")
                    )
            except (Refused, PayloadTooLarge) as error:
                failure = Failed(0, f"the return value cannot be sent: {error}", 500)
        if failure is not None:
            fields, event = wire.error_body(codec, failure), b"error"
        if self._form == wire.EVENTS_TYPE:
            return b"event: %b\ndata: %b\n\n" % (event, fields)
        return fields + b"\n" if self._own or failure is not None else b""
