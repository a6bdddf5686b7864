"""HTTP: one POST /compute, and what it says back. On the event loop; no state."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from functools import partial
from typing import Any

from hybrid_compute.errors import PayloadTooLarge, ProtocolError
from hybrid_compute.protocol import http as wire
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.messages import Failed, Request, parse_key
from hybrid_compute.protocol.values import Refused
from hybrid_compute.server.gate import Refusal, values_of
from hybrid_compute.server.http_streams import HttpStream, form_of
from hybrid_compute.server.pickles import is_private
from hybrid_compute.server.service import Call, Service
from hybrid_compute.server.settings import PATIENCE
from hybrid_compute.server.tokens import Token

__all__ = ["codec_for", "compute", "refuse", "send_json", "send_response"]

_FIXED = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_OWN = wire.HEADER.lower().encode()
_KEY = wire.KEY_HEADER.lower().encode()
_ACCEPTED = (b"accept-post", f"{wire.JSON_TYPE}, {wire.BINARY_TYPE}".encode())
_LINGER = 2.0  # seconds in which a caller who still sends can read why he was refused


async def send_response(
    send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes], kind: str = wire.JSON_TYPE
) -> None:
    """Send a whole response, over HTTP or in the place of a WebSocket's handshake."""
    head = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        *_FIXED,
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Any, value: Any, *headers: tuple[bytes, bytes], asked: Any) -> None:
    """Send a value that needs no check.

    Args:
        send: the application's.
        value: plain JSON.
        headers: for our own peers only.
        asked: the headers of the request; who asked as one of our own peers learns that we are.
    """
    own = ((_OWN, b"1"), _ACCEPTED, *headers) if values_of(asked, _OWN) else ()
    await send_response(send, 200, json.dumps(value).encode(), *own)


async def refuse(
    send: Any, refusal: Refusal, codec: Codec | None = None, *, receive: Any = None
) -> None:
    """Send a no, and close the connection: the rest of the request is not looked at.

    Args:
        send: the application's.
        refusal: the no.
        codec: how to say it.
        receive: the application's, for who may still be sending: closing at once would be a reset,
            which takes the answer with it. None: there is no such.
    """
    codec = codec or Codec()
    failure = Failed(
        0, refusal.text, refusal.status, path=refusal.path, retry_after=refusal.retry_after
    )
    headers = [(b"connection", b"close")]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(refusal.retry_after)))
    if codec.tagged:
        headers.append((_OWN, b"1"))
    body = wire.error_body(codec, failure)
    if receive is None:
        await send_response(send, refusal.status, body, *headers, kind=wire.content_type(codec))
        return

    async def send_and_wait(message: Any) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})  # the length says that this is all of it
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})

    await send_response(
        send_and_wait, refusal.status, body, *headers, kind=wire.content_type(codec)
    )


def codec_for(headers: Any, limit: int) -> Codec:
    """Choose the codec that a request asks for, by HEADER and its content type.

    Raises:
        Refusal: 415.
    """
    kinds = values_of(headers, b"content-type")
    kind = kinds[0].decode("latin-1") if len(kinds) == 1 else ""
    own = bool(values_of(headers, _OWN))
    binary = own and kind.partition(";")[0].strip().lower() == wire.BINARY_TYPE
    codec = Codec(tagged=own, binary=binary, max_bytes=limit)
    if not wire.is_content_type_of(codec, kind):
        raise Refusal(415, "the content type of a call is application/json")
    if values_of(headers, b"content-encoding"):
        raise Refusal(415, "a compressed body is not read; send it without Content-Encoding")
    return codec


async def compute(service: Service, token: Token, scope: Any, receive: Any, send: Any) -> None:
    """Answer one POST /compute."""
    codec, call, unread = None, None, receive
    try:
        codec = codec_for(scope["headers"], service.limits.body_bytes)
        call = service.admit(token)
        body = await _body(scope["headers"], receive, service)
        if body is None:
            return
        unread = None
        request = _request(service, codec, body, scope["headers"])
        done = asyncio.get_running_loop().create_future()
        stream = _stream(scope, codec, done, request.seq)
        call.start(
            request,
            lambda _: _set(done, stream),
            own=codec.tagged,
            label="http",
            private=is_private(scope),
            sink=None if stream is None else stream.begin,
        )
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({done, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if stream is not None and stream.begun and not leaving.done():
                await stream.run(service, call, leaving, send)
            elif leaving.done() and not call.over:
                call.abandon()
            else:
                await _answer(service, call, codec, send)
        finally:
            leaving.cancel()
    except Refusal as refusal:
        await refuse(send, refusal, codec, receive=unread)
    except ProtocolError as error:
        await refuse(send, Refusal(400, str(error)), codec)
    except PayloadTooLarge as error:
        await refuse(send, Refusal(413, str(error)), codec)
    finally:
        if call is not None:
            if call.future is None:
                call.release("not read")
            elif not call.over and not call.left:
                call.abandon()  # this very task was cancelled


def _stream(scope: Any, codec: Codec, done: asyncio.Future[None], skip: int) -> HttpStream | None:
    """Return what takes the items if the caller asks for a stream; else None."""
    form = form_of(scope["headers"])
    if form is None:
        return None
    patience = scope.get("extensions", {}).get(PATIENCE)
    return HttpStream(form, codec, done, skip=skip, patience=patience)


def _request(service: Service, codec: Codec, body: bytes, headers: Any) -> Request:
    request = wire.read_request(codec, body)._replace(key=_key_in(headers))
    if service.takes is None:
        return request
    found = service.takes.from_headers(partial(_header, headers))
    return request._replace(context=found | (request.context or {}))


def _header(headers: Any, name: str) -> str | None:
    found = values_of(headers, name.lower().encode())
    return found[0].decode("latin-1") if len(found) == 1 else None


def _key_in(headers: Any) -> str | None:
    found = values_of(headers, _KEY)
    if len(found) > 1:
        raise ProtocolError(f"{wire.KEY_HEADER} stands {len(found)} times")
    return parse_key(found[0].decode("latin-1")) if found else None


async def _body(headers: Any, receive: Any, service: Service) -> bytes | None:
    """Read a body of bounded size in bounded time; None if the caller is gone."""
    limit = service.limits.body_bytes
    too_large = Refusal(413, f"a body may have {limit} bytes")
    for value in values_of(headers, b"content-length"):
        if not value.isdigit() or len(value) > 15 or int(value) > limit:
            raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise too_large
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Refusal(408, "the body did not come in time") from None


def _set(done: asyncio.Future[None], stream: HttpStream | None) -> None:
    if not done.done():
        done.set_result(None)
    if stream is not None:
        stream.turn()


async def _answer(service: Service, call: Call, codec: Codec, send: Any) -> None:
    failure = service.failure(call)
    own = ((_OWN, b"1"),) if codec.tagged else ()
    body, status = b"", 500
    if failure is None:
        try:
            body, status = wire.result_body(codec, call.result()), 200
        except Refused as error:
            failure = Failed(0, f"the result cannot be sent: {error}", 500)
        except PayloadTooLarge as error:
            failure = Failed(0, f"the result cannot be sent: {error}", 413)
    if failure is not None:
        body, status = wire.error_body(codec, failure), failure.status or 500
    await send_response(send, status, body, *own, kind=wire.content_type(codec))
