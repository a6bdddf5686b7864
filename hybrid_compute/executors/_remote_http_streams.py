"""Streams over HTTP: an answer is opened, judged, and read piece by piece.

Owns what is asked for, what the answer is taken for, and what follows when it is cut off: another
request for the rest, if the task is idempotent and the service one of ours, which counts items. On
the threads of the pool that `_remote_http` has; a thread is needed only while there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

from hybrid_compute.channels import Source
from hybrid_compute.errors import PayloadTooLarge, RemoteConnectionLost, TaskTimeout
from hybrid_compute.executors._remote_tries import Pauses
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.decoders import DECODERS, Decoder, OwnLines, decode, decoder_for
from hybrid_compute.protocol.http import EVENTS_TYPE, HEADER, JSON_TYPE, NDJSON_TYPE, judge
from hybrid_compute.transports.http import HttpTransport, Opened

__all__ = ["Forms", "Opening", "Pieces", "open_stream", "read"]

# A decoder of the caller's own: takes the pieces of an answer, and gives its items.
Pieces = Callable[[Iterator[bytes]], Iterable[Any]]


class Forms(NamedTuple):
    """What a service that is not ours wants and gives.

    Attributes:
        request: makes the body of a request from the task's name and its arguments.
        decoder: cuts an answer into items: a name in `protocol.decoders.DECODERS`, or a function;
            None: as its content type says.
    """

    request: Callable[..., Any] | None = None
    decoder: str | Pieces | None = None


class Opening(Source):
    """A stream whose answer is asked for: its consumer need not wait for that to close it."""

    def __init__(self, transport: HttpTransport, pauses: Pauses) -> None:
        self._transport = transport
        self._pauses = pauses

    def close(self) -> None:
        """Ask no more."""
        self._transport.abort()
        self._pauses.look()


def open_stream(  # noqa: PLR0913, PLR0917 - as an exchange is called
    transport: HttpTransport,
    forms: Forms,
    plain: Codec,
    codec: Codec,
    path: str,
    body: bytes,
    left: float | None,
    own: bool,
    *,
    more: dict[str, str],
) -> Generator[Any, None, Any]:
    """Send a request, and return its items, which are still to come.

    Raises:
        HybridComputeError: there is no such stream.
    """
    accept = NDJSON_TYPE if own else f"{NDJSON_TYPE}, {EVENTS_TYPE}, {JSON_TYPE}, */*;q=0.5"
    if forms.decoder in ("sse", "chat"):
        accept = EVENTS_TYPE
    headers = {"Content-Type": JSON_TYPE, "Accept": accept, **more}
    if own:
        headers[HEADER] = "1"
    answer = transport.open("POST", path, body=body, headers=headers, timeout=left)
    theirs = HEADER in answer.headers
    if answer.status != 200:
        whole = _whole(answer, plain.max_bytes)
        after = answer.headers.get("Retry-After", "")
        judge(
            codec if theirs else plain,
            answer.status,
            answer.content_type,
            whole,
            retry_after=float(after) if after.isdigit() and len(after) < 10 else None,
        )
    if callable(forms.decoder):
        return _given(forms.decoder, answer)
    kind = answer.content_type.partition(";")[0].strip().lower()
    make: Callable[[Codec], Decoder] | None
    if theirs and kind == NDJSON_TYPE:
        return decode(OwnLines(codec), answer.pieces)
    make = decoder_for(kind) if forms.decoder is None else DECODERS[forms.decoder]
    if make is not None:
        return decode(make(plain), answer.pieces)
    value = judge(
        codec if theirs else plain,
        answer.status,
        answer.content_type,
        _whole(answer, plain.max_bytes),
    )
    return _ready(value)


def _whole(answer: Opened, most: int) -> bytes:
    parts, size = [], 0
    for piece in answer.pieces:
        parts.append(piece)
        size += len(piece)
        if size > most:
            answer.pieces.close()
            raise PayloadTooLarge(f"the answer has more than {most} bytes", limit=most)
    return b"".join(parts)


def _given(decoder: Pieces, answer: Opened) -> Generator[Any, None, Any]:
    return (yield from decoder(answer.pieces))


def _ready(value: Any) -> Generator[Any, None, Any]:
    yield from value if type(value) is list else (value,)


def read(
    items: Iterator[Any],
    rest_after: Callable[[RemoteConnectionLost, int], Iterator[Any]],
    late: Callable[[], TaskTimeout],
    close: Callable[[], object],
) -> Generator[Any, None, Any]:
    """Iterate over a stream; if it is cut off, over the rest of it as well, if that may be.

    Args:
        items: the stream.
        rest_after: asks for it once more, from the item of that number on, or raises; may wait.
        late: makes the error for what has not come in time.
        close: called in the end.
    """
    came = 0
    try:
        while True:
            try:
                while True:
                    try:
                        value = next(items)
                    except StopIteration as end:
                        return end.value
                    yield value
                    came += 1
            except RemoteConnectionLost as lost:
                items = rest_after(lost, came)
    except TimeoutError as error:
        raise late() from error  # the connection's own does not know of what task it is
    finally:
        close_items = getattr(items, "close", None)
        if close_items is not None:
            close_items()
        close()
