"""Access: how a service is reached, and what is believed of it.

Owns the address, the token, headers, TLS, proxy and limits of one service, and the rule that a
token does not travel in the clear. Opens no connection. Immutable, but for the TLS context, which
is made once, when it is first needed; making it twice at the same time does no harm.

A token appears in no repr and no error: only `headers_now` tells it, to whoever is about to send.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

from hybrid_compute._plugins import TRANSPORTS, plugin_names
from hybrid_compute.errors import (
    AuthError,
    ConfigurationError,
    HybridComputeError,
    ProtocolError,
    RemoteBusy,
    RemoteUnavailable,
    TLSError,
)
from hybrid_compute.protocol.codec import MAX_BYTES

if TYPE_CHECKING:
    import ssl

__all__ = ["Access", "Token", "check_number", "is_foreign", "refusal_of"]

# A token itself; a file that has it; or who is asked for it before each connection or request.
Token: TypeAlias = str | os.PathLike[str] | Callable[[], str]

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
# What the transports write themselves.
_OURS = frozenset(
    (
        *("host", "connection", "upgrade", "content-length", "transfer-encoding", "te"),
        *("accept-encoding", "content-type", "cookie", "expect", "hybrid-compute"),
    )
)
_ENVIRONMENT = "env:"


class Access:
    """One service, as it was named by the user.

    Attributes:
        scheme: "http", "https", "ws" or "wss".
        host: its name or address, without brackets.
        port: its TCP port.
        path: where it is on the host, without a "/" at the end.
        max_bytes: the largest message to take, and to send.
        connect_timeout: seconds for all of name, connection, TLS and handshake.
        proxy: URL of an HTTP proxy, or None.
        trust_env: take a proxy from the environment.
        foreign: somebody else's transport goes there.
    """

    def __init__(  # noqa: PLR0913 - one setting each, all but the first by name
        self,
        url: str,
        *,
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | tuple[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        allow_plaintext: bool = False,
        max_bytes: int = MAX_BYTES,
        connect_timeout: float = 10.0,
        foreign: bool = False,
        encrypted: bool = False,
    ) -> None:
        parts = _split(url, foreign=foreign)
        self.foreign: bool = foreign
        self._encrypted = encrypted
        self.scheme: str = parts.scheme
        self.host: str = str(parts.hostname)
        self.port: int = parts.port or _PORTS.get(parts.scheme, 0)
        self.path: str = parts.path.rstrip("/")
        self.query: str = parts.query
        self.max_bytes = max_bytes
        self.connect_timeout = connect_timeout
        self.trust_env = trust_env
        self.proxy = proxy
        if token is not None and not (callable(token) or isinstance(token, (str, os.PathLike))):
            raise ConfigurationError(
                f"token= is of type {type(token).__name__}: give the text, 'env:NAME', the "
                "pathlib.Path of a file, or a function that returns it"
            )
        self._token = token
        self._headers = _checked(headers or {})
        self._tls_ca = tls_ca
        self._tls_cert = tls_cert
        self._context: ssl.SSLContext | None = None
        for name, value in (("connect_timeout", connect_timeout), ("max_bytes", max_bytes)):
            check_number(name, value)
        if proxy is not None:
            _check_proxy(proxy)
        secret = token is not None or "authorization" in map(str.lower, self._headers)
        if secret and not self.tls and not self.loopback and not allow_plaintext:
            better = "a transport that encrypts" if foreign else f"{self.scheme}s://"
            raise ConfigurationError(
                f"{self} would get the token in the clear, for all between to read: use {better}, "
                "or say allow_plaintext=True"
            )

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted, and the other end proves who it is."""
        return self.scheme in ("https", "wss") or self._encrypted

    @property
    def loopback(self) -> bool:
        """Whether the service is on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def netloc(self) -> str:
        """Host and port, as they stand in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme, 0) else f"{host}:{self.port}"

    def url(self, path: str) -> str:
        """Return the http(s) URL of a path of the service."""
        return f"{'https' if self.tls else 'http'}://{self.netloc}{path}"

    def beside(self, name: str) -> str:
        """Return the path of another door of the service, such as "/tasks" beside "/compute"."""
        head, _, last = self.path.rpartition("/")
        return f"{head if last in ('compute', 'ws') else self.path}/{name}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}"

    def __repr__(self) -> str:
        token = "" if self._token is None else ", token=<not shown>"
        return f"Access({str(self)!r}{token})"

    # -- secrets -----------------------------------------------------------------------------

    def headers_now(self) -> dict[str, str]:
        """Return the user's headers, with the token if there is one.

        Raises:
            AuthError: there is no token where it should come from.
        """
        headers = dict(self._headers)
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token_now()}"
        return headers

    def _token_now(self) -> str:
        source = self._token
        if callable(source):
            where = "token=<callable>"
            try:
                token: Any = source()
            except (Exception, SystemExit) as error:
                raise AuthError(
                    f"the token for {self} cannot be had: {where} raised {type(error).__name__}"
                ) from error
        elif isinstance(source, str) and source.startswith(_ENVIRONMENT):
            name = source.removeprefix(_ENVIRONMENT)
            where, token = f"the environment variable {name}", os.environ.get(name, "")
        elif isinstance(source, str):
            where, token = "token=", source
        else:
            where = f"the file {source}"
            try:
                token = Path(source).read_text().strip()  # type: ignore[arg-type]  # not None
            except (OSError, ValueError) as error:
                raise AuthError(f"the token for {self} cannot be read from {where}") from error
        # Never the value: it may be a token with a line end.
        if not isinstance(token, str) or not token or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AuthError(
                f"the token for {self} is not one: {where} gives nothing, or has spaces, line "
                "ends or letters beyond ASCII"
            )
        return token

    # -- TLS ---------------------------------------------------------------------------------

    def tls_context(self) -> ssl.SSLContext:
        """Return the rules of a TLS connection: both ends check, from version 1.2 on.

        Raises:
            TLSError: a file of certificates cannot be read.
        """
        if self._context is None:
            import ssl  # noqa: PLC0415 - plain connections do without

            try:
                context = ssl.create_default_context(
                    cafile=None if self._tls_ca is None else os.fspath(self._tls_ca)
                )
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                cert = self._tls_cert
                if cert is not None:
                    chain, key = (cert, None) if isinstance(cert, (str, os.PathLike)) else cert
                    context.load_cert_chain(chain, key)
            except (OSError, ValueError) as error:  # an SSLError is an OSError
                raise TLSError(
                    f"{self}: tls_ca={self._tls_ca!r} or tls_cert={self._tls_cert!r} cannot be "
                    f"used: {error}"
                ) from error
            self._context = context
        return self._context

    # -- proxies -----------------------------------------------------------------------------

    def proxy_now(self) -> str | None:
        """Return the URL of the proxy to go through. None: straight there."""
        if self.loopback:
            return None
        if self.proxy is not None or not self.trust_env:
            return self.proxy
        from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - few have one

        if proxy_bypass(self.host):
            return None
        return getproxies().get("https" if self.tls else "http")


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise ConfigurationError unless a setting is a finite number, greater than 0 or just that."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (0 < value < math.inf or (zero and value == 0))
    ):
        kind = "that is not negative" if zero else "greater than 0"
        raise ConfigurationError(f"{name}={value!r} is not a finite number {kind}")


def _check_proxy(proxy: object) -> None:
    """Raise ConfigurationError unless it may be a proxy; what may have a password is not told."""
    if not isinstance(proxy, str):
        raise ConfigurationError(
            f"proxy= is of type {type(proxy).__name__}: give 'http://host:port', or None"
        )
    try:
        parts = urlsplit(proxy)
        good = parts.scheme == "http" and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError("proxy= is no URL of an HTTP proxy: give 'http://host:port'")


def refusal_of(access: Access, status: int, headers: dict[str, Any]) -> HybridComputeError:
    """Return what it means that a service answers a handshake with some status."""
    text = f"{access} refused the connection with status {status}"
    if status in (401, 403):
        return AuthError(f"{text}; give a valid token=", status=status)
    if status in (429, 503):
        after = str(headers.get("retry-after", ""))
        return RemoteBusy(
            text, status=status, retry_after=float(after) if after.isdigit() else None
        )
    if status in (502, 504):
        return RemoteUnavailable(f"{text}; no call was sent")
    return ProtocolError(f"{text}; is this the URL of its WebSocket?", status=status)


def is_foreign(url: object) -> bool:
    """Say whether a text is a URL of none of our own schemes."""
    scheme, colon, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    return bool(scheme and colon) and scheme.lower() not in _PORTS


def _split(url: str, *, foreign: bool) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigurationError(f"url={url!r} is no text such as 'wss://host/ws'")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"url: {error}; give one such as 'wss://host/ws'") from error
    shown = f"{parts.scheme}://{parts.hostname or ''}"  # the rest may have secrets
    known = foreign or parts.scheme in _PORTS
    if not known or not parts.hostname or (port == 0 and not foreign):
        if "@" not in url and "?" not in url:
            shown = url
        raise ConfigurationError(
            f"url={shown!r} is no http://, https://, ws:// or wss:// URL with a host; give one "
            "such as 'wss://host/ws'" + (_others() if not known else "")
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigurationError(
            f"url={shown!r} has a user, a password or a fragment; give token= or headers="
        )
    text = parts.hostname + parts.path + parts.query
    if not text.isascii() or any(each.isspace() or not each.isprintable() for each in text):
        raise ConfigurationError(
            f"url={shown!r} has characters that do not belong there; write them as "
            f"{quote(' ')!r} and the like, and a host's name in its xn-- form"
        )
    return parts


def _others() -> str:
    names = plugin_names(TRANSPORTS)
    return f", or install a transport for it (there are {names})"


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers= is of type {type(headers).__name__}: give a dict")
    pairs: dict[Any, Any] = dict(headers)
    for name, value in pairs.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(f"headers: {name!r} is no name of a header")
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ConfigurationError(f"headers: {name!r} is written by the transport itself")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ConfigurationError(
                f"headers: the value of {name!r} is no line of ASCII text"  # it may be secret
            )
    return dict(headers)
