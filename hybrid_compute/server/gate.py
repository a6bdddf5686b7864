"""Gate: what the head of a request must say before anything else of it is read.

Owns the checks of Host (against DNS rebinding), Origin (against web pages that reach for a server
on the reader's machine) and the token, and `Refusal`, in which every "no" of this server travels.
Pure: headers in, a token or a Refusal out. It never judges by User-Agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.server.tokens import Token, Tokens

__all__ = ["LOOPBACK_HOSTS", "Gate", "Refusal", "values_of"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

Headers = Iterable[tuple[bytes, bytes]]


class Refusal(Exception):
    """The server says no.

    Attributes:
        status: as in HTTP; in answers over WebSocket too.
        text: for the caller; it tells nothing that the caller does not know.
        path: of the argument that was refused, or "".
        retry_after: seconds, or None.
    """

    def __init__(
        self, status: int, text: str, *, path: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.path = path
        self.retry_after = retry_after


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of a header, whose name is given in lower case."""
    return [value for key, value in headers if key.lower() == name]


class Gate:
    """Who may come in."""

    def __init__(self, tokens: Tokens, *, hosts: Iterable[str], origins: Iterable[str]) -> None:
        """Take the lists.

        Args:
            tokens: who may call.
            hosts: names by which the server may be called, without port; "*" for any.
            origins: web origins whose pages may call, such as "https://example.org".
        """
        for name, given in (("hosts", hosts), ("origins", origins)):
            if isinstance(given, str):
                raise ConfigurationError(f"{name}={given!r} is one text; give [{given!r}]")
        self._tokens = tokens
        self._hosts = frozenset(each.lower().encode() for each in hosts)
        self._origins = frozenset(each.lower().rstrip("/").encode() for each in origins)

    @property
    def open(self) -> bool:
        """Whether anybody may come in, without a token."""
        return self._tokens.open

    def check_host(self, headers: Headers) -> None:
        """Refuse who calls this server by a name that is not its own, or comes from a web page.

        Raises:
            Refusal: 421 for the name, 403 for the page.
        """
        hosts = values_of(headers, b"host")
        if len(hosts) != 1:
            raise Refusal(400, "a request has just one Host header")
        if b"*" not in self._hosts and _without_port(hosts[0].lower()) not in self._hosts:
            raise Refusal(
                421, "this server does not go by that name (--allow-host adds names to its list)"
            )
        for origin in values_of(headers, b"origin"):
            if origin.lower() not in self._origins:
                raise Refusal(
                    403, "web pages of this origin may not call (--allow-origin allows them)"
                )

    def authenticate(self, headers: Headers) -> Token:
        """Return the caller's token.

        Raises:
            Refusal: 401.
        """
        token = self._tokens.find(values_of(headers, b"authorization"))
        if token is None:
            raise Refusal(401, "a valid token is needed, as 'Authorization: Bearer ...'")
        return token


def _without_port(host: bytes) -> bytes:
    if host.startswith(b"["):
        end = host.find(b"]") + 1
        rest: Any = host[end:]
        return host[:end] if end and (not rest or _is_port(rest)) else b""
    name, colon, port = host.partition(b":")
    return name if not colon or _is_port(b":" + port) else b""


def _is_port(text: bytes) -> bool:
    return text.startswith(b":") and text[1:].isdigit()
