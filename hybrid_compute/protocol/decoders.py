"""Decoders: what comes as a stream over HTTP, cut into items.

Owns the forms that services send: lines of JSON (NDJSON), server-sent events, text, and bytes; the
NDJSON of our own servers; and the events of chat-completions services. Bytes go in (`feed`), items
come out, in whatever pieces the network brings: a character, a line or an event may be split
anywhere. No threads, no clocks, and nothing is read here.

The rules for server-sent events are those of the HTML standard, chapter 9.2 ("Server-sent events"):
lines end in CR, LF or CRLF; a line that begins with a colon says nothing; several `data` lines make
one item with line feeds between; a blank line ends an event. Other than there, an event that the
end of the stream cuts off is taken if its data is complete JSON, since many services leave the last
blank line out.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from hybrid_compute.errors import (
    HybridComputeError,
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
    RemoteTaskError,
)
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.http import EVENTS_TYPE, NDJSON_TYPE, error_of
from hybrid_compute.protocol.messages import parse_failure

__all__ = [
    "DECODERS",
    "Chat",
    "Decoder",
    "Events",
    "Lines",
    "OwnLines",
    "Raw",
    "Text",
    "decode",
    "decoder_for",
]


class Decoder:
    """Cuts one answer into items.

    Attributes:
        ended: nothing more is taken.
        value: what the generator returned, if the service told.
        error: what ended the stream, if that was not its end.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.ended: bool = False
        self.value: Any = None
        self.error: Exception | None = None

    def feed(self, data: bytes) -> list[Any]:
        """Take some bytes, and return the items that are complete. Raises nothing."""
        items: list[Any] = []
        try:
            self._feed(data, items)
        except HybridComputeError as error:
            self._end(error=error)
        return items

    def finish(self) -> list[Any]:
        """Take the end of the answer, and return the items that it completes."""
        items: list[Any] = []
        try:
            self._finish(items)
        except HybridComputeError as error:
            self._end(error=error)
        self.ended = True
        return items

    def _feed(self, data: bytes, items: list[Any]) -> None:
        raise NotImplementedError

    def _finish(self, items: list[Any]) -> None:
        """Take the end."""

    def _end(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.ended:
            self.ended, self.value, self.error = True, value, error


def decode(decoder: Decoder, pieces: Iterable[bytes]) -> Generator[Any, None, Any]:
    """Iterate over the items in the pieces of an answer; return what the generator returned."""
    for piece in pieces:
        yield from decoder.feed(piece)
        if decoder.ended:
            break
    else:
        yield from decoder.finish()
    if decoder.error is not None:
        raise decoder.error
    return decoder.value


class Lines(Decoder):
    """NDJSON: a value a line; blank lines say nothing; the last needs no end."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._rest: list[bytes] = []
        self._size = 0

    def _feed(self, data: bytes, items: list[Any]) -> None:
        # UTF-8 has no byte of a line end within a character.
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest, self._size = [], 0
            for line in lines:
                if not self.ended:
                    self._line(line, items)
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
            self._check(self._size)

    def _finish(self, items: list[Any]) -> None:
        self._line(b"".join(self._rest), items)

    def _line(self, line: bytes, items: list[Any]) -> None:
        if line.strip():
            items.append(self._codec.value(self._codec.decode(line)))

    def _check(self, size: int) -> None:
        limit = self._codec.max_bytes
        if size > limit:
            raise PayloadTooLarge(
                f"one item of the stream has more than {limit} bytes; send smaller ones, or give "
                "max_bytes=",
                limit=limit,
            )


class OwnLines(Lines):
    """The NDJSON of our servers: arrays of items, then an object; see `server.http_streams`."""

    def _line(self, line: bytes, items: list[Any]) -> None:
        if not line.strip():
            return
        raw = self._codec.decode(line)
        if type(raw) is list:
            items += map(self._codec.value, raw)
        elif type(raw) is dict and raw.get("done") is True and "result" in raw:
            self._end(self._codec.value(raw["result"]))
        elif type(raw) is dict and "error" in raw:
            self._end(error=error_of(parse_failure(raw)))
        else:
            raise ProtocolError("a line of the stream is neither items nor an end", excerpt=line)

    def _finish(self, items: list[Any]) -> None:
        super()._finish(items)
        if not self.ended:
            raise RemoteConnectionLost(
                "the stream was cut off: its end did not come", may_have_run=True
            )

    def _check(self, size: int) -> None:
        super()._check(size - (1 << 18))  # a line has as many items as were there to be sent


class Events(Lines):
    """Server-sent events: the data of each, decoded if it is JSON, else as text.

    `[DONE]` ends the stream, as chat-completions services have it; so does an event called `done`,
    whose data may be {"result": value}. One called `error` fails it.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._data: list[bytes] = []
        self._data_size = 0  # with a byte for each line
        self._name = b""
        self._start = b""  # as long as it may be a byte order mark
        self._begun = self._after_cr = False

    def _feed(self, data: bytes, items: list[Any]) -> None:
        if not self._begun:
            data, self._start = self._start + data, b""
            if len(data) < 3 and codecs.BOM_UTF8.startswith(data):
                self._start = data
                return
            self._begun = True
            data = data.removeprefix(codecs.BOM_UTF8)
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
            super()._feed(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), items)

    def _finish(self, items: list[Any]) -> None:
        rest = b"".join(self._rest)
        if rest:
            self._line(rest, items)
        if self._data and not self.ended and self._is_whole(b"\n".join(self._data)):
            self._line(b"", items)

    @staticmethod
    def _is_whole(data: bytes) -> bool:
        if data.strip() == b"[DONE]":
            return True
        try:
            json.loads(data)
        except (ValueError, RecursionError):  # an event that was cut off may be any bytes
            return False
        return True

    def _line(self, line: bytes, items: list[Any]) -> None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._data_size += len(self._data[-1]) + 1
                self._check(self._data_size)
            elif name == b"event":
                self._name = value.removeprefix(b" ")
            return
        parts, name = self._data, self._name
        self._data, self._data_size, self._name = [], 0, b""
        if parts:
            self._event(name, b"\n".join(parts), items)

    def _event(self, name: bytes, data: bytes, items: list[Any]) -> None:
        if data.strip() == b"[DONE]":
            self._end()
            return
        try:
            value = self._codec.value(self._codec.decode(data))
        except ProtocolError:
            value = data.decode(errors="replace")
        if name == b"error":
            self._end(error=_failure(value))
        elif name == b"done":
            self._end(value.get("result") if type(value) is dict else value)
        else:
            self._item(value, items)

    def _item(self, value: Any, items: list[Any]) -> None:
        items.append(value)


class Chat(Events):
    """The tokens of a chat-completions stream: `choices[0].delta.content` of each event."""

    def _item(self, value: Any, items: list[Any]) -> None:
        if type(value) is dict and value.get("error"):
            self._end(error=_failure(value))
            return
        try:
            choice = value["choices"][0]
            text = choice["delta"].get("content") if "delta" in choice else choice.get("text")
        except (KeyError, IndexError, TypeError, AttributeError):
            return  # a role, or a count of tokens
        if isinstance(text, str) and text:
            items.append(text)


class Text(Decoder):
    """Text in UTF-8 as it comes, never in the middle of a character."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def _feed(self, data: bytes, items: list[Any]) -> None:
        if text := self._decoder.decode(data):
            items.append(text)

    def _finish(self, items: list[Any]) -> None:
        if text := self._decoder.decode(b"", True):
            items.append(text)


class Raw(Decoder):
    """Bytes as they come."""

    def _feed(self, data: bytes, items: list[Any]) -> None:
        items.append(data)


DECODERS: Mapping[str, Callable[[Codec], Decoder]] = MappingProxyType(
    {"ndjson": Lines, "sse": Events, "chat": Chat, "text": Text, "bytes": Raw}
)

_LINES = ("ndjson", "x-ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "json-lines")


def decoder_for(content_type: str) -> Callable[[Codec], Decoder] | None:
    """Return the decoder for a content type; None if it announces one JSON value."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == NDJSON_TYPE or kind.removeprefix("application/") in _LINES:
        return Lines
    if kind == EVENTS_TYPE:
        return Events
    if kind.endswith(("/json", "+json")):
        return None
    return Text if kind.startswith("text/") else Raw


def _failure(value: Any) -> RemoteTaskError:
    """Return the error for what a service says of a stream that failed."""
    said = value.get("error", value) if type(value) is dict else value
    if type(said) is dict:
        said = said.get("message") or said
    return RemoteTaskError(str(said)[:2000] or "the service gave no reason")
