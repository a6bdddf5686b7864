"""HTTP: one question, one answer, over connections that are kept.

Owns one connection at a time, by way of requests' adapter: without the session around it, which
would follow redirects, keep cookies, read ~/.netrc and look up proxies in the environment, at a
quarter of the cost of a call. All that is read has a deadline and a bound, also in the headers,
and also after decompression. Knows no tasks and no JSON.

Threads: one at a time; each thread of a pool has an `HttpTransport` of its own. No locks, and
nothing that could hang but the system's search for a name: every read ends at the deadline.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Generator
from typing import Any, NamedTuple

from hybrid_compute.errors import (
    HybridComputeError,
    PayloadTooLarge,
    ProtocolError,
    RemoteConnectionLost,
    RemoteUnavailable,
    TaskTimeout,
)
from hybrid_compute.transports._access import Access
from hybrid_compute.transports._timed import Budget, TimedSocket, dial

__all__ = ["Answer", "HttpTransport", "Opened"]

_PIECE = 2**20


class Answer(NamedTuple):
    """What came back."""

    status: int
    content_type: str
    body: bytes
    headers: Any  # a mapping whose keys have no case


class Opened(NamedTuple):
    """An answer whose body is still to come."""

    status: int
    content_type: str
    headers: Any  # a mapping whose keys have no case
    pieces: Generator[bytes, None, None]


class HttpTransport:
    """Asks one service."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._budget = Budget()
        self._adapter: Any = None
        self._opened: Any = None  # the answer whose pieces are being read

    def exchange(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Send a request and return the answer, whatever its status, but for redirects.

        Args:
            method: such as "POST".
            path: on the host.
            body: what to send, or None.
            headers: further ones.
            timeout: seconds for all of it, connection and name included; None: no bound but
                `connect_timeout` for the connection.

        Raises:
            RemoteUnavailable: there is no connection; nothing was sent.
            RemoteConnectionLost: it ended before all of the answer came.
            TaskTimeout: time was up.
            PayloadTooLarge: the answer is larger than was allowed.
            ProtocolError: it is no HTTP, or a redirect.
            TLSError, AuthError: the service is not to be trusted, or there is no token.
        """
        response = self._send(method, path, body, headers, timeout)
        try:
            try:
                return self._read(response)
            except BaseException:
                # Half an answer is left on the connection: it must not be used again.
                _discard(response)
                raise
        except HybridComputeError:
            raise
        except Exception as error:
            raise self._meaning(error, timeout) from error

    def open(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> Opened:
        """Send a request, and return the answer before its body has come.

        Its `pieces` are read as they come; the connection is good for nothing else afterwards.
        Arguments and errors as `exchange` has them; `pieces` raises the same.
        """
        response = self._send(method, path, body, headers, timeout)
        kind = response.headers.get("Content-Type", "")
        try:
            _check(self._access, response.status_code, kind)
            coding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if coding not in ("", "identity"):
                raise ProtocolError(
                    f"the stream is encoded as {coding[:50]!r}, which was not asked for",
                    status=response.status_code,
                    content_type=kind,
                )
        except BaseException:
            _discard(response)
            raise
        self._opened = response
        pieces = self._pieces(response, timeout)
        return Opened(response.status_code, kind, response.headers, pieces)

    def _pieces(self, response: Any, timeout: float | None) -> Generator[bytes, None, None]:
        from http.client import IncompleteRead  # noqa: PLC0415 - see `exchange`

        raw = response.raw._fp  # http.client's: it does not wait for more than there is
        try:
            while piece := raw.read1(_PIECE):
                yield piece
            if raw.length:  # not chunked, and less than was announced
                raise ConnectionError(f"{raw.length} bytes of the answer are missing")
        except HybridComputeError:
            raise
        except IncompleteRead:
            # Not from it: behind it is an error of parsing what did not come.
            raise self._meaning(ConnectionError("the answer was cut off"), timeout) from None
        except Exception as error:
            raise self._meaning(error, timeout) from error
        finally:
            _discard(response)

    def abort(self) -> None:
        """Cut the connection, whoever reads from it. From any thread."""
        self._budget.cut()

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None,
        timeout: float | None,
    ) -> Any:
        import requests  # noqa: PLC0415 - only who connects needs it
        from requests.structures import CaseInsensitiveDict  # noqa: PLC0415

        access, budget = self._access, self._budget
        budget.deadline = None if timeout is None else time.monotonic() + timeout
        budget.left, budget.sent = None, False
        if self._adapter is None:
            self._adapter = _adapter(access, budget)
        request = requests.PreparedRequest()
        request.method = method
        request.url = access.url(path)
        request.body = body
        # No Session has seen this: no netrc, no cookies. Compression is not asked for.
        request.headers = CaseInsensitiveDict(
            {"Accept-Encoding": "identity", "User-Agent": "hybrid-compute"}
            | access.headers_now()
            | (headers or {})
        )
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
        try:
            return self._adapter.send(request, stream=True, timeout=None, proxies={})
        except HybridComputeError:
            raise
        except Exception as error:
            raise self._meaning(error, timeout) from error

    def _read(self, response: Any) -> Answer:
        """Read an answer's body, and give the connection back."""
        raw, status = response.raw, response.status_code
        kind = response.headers.get("Content-Type", "")
        limit = self._access.max_bytes
        _check(self._access, status, kind)
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        inflate: Any = None
        if coding in ("gzip", "x-gzip", "deflate"):
            inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif coding not in ("", "identity"):
            raise ProtocolError(
                f"the answer is encoded as {coding[:50]!r}, which was not asked for",
                status=status,
                content_type=kind,
            )
        parts: list[bytes] = []
        size = 0
        while piece := raw.read(_PIECE, decode_content=False):
            if inflate is not None:
                piece = inflate.decompress(piece, limit - size + 1)
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge(
                    f"the answer of {self._access} has more than {limit} bytes; send less, or "
                    "give max_bytes=",
                    limit=limit,
                )
            parts.append(piece)
        raw.release_conn()
        return Answer(status, kind, b"".join(parts), response.headers)

    def _meaning(self, error: Exception, timeout: float | None) -> HybridComputeError:
        """Return what an error of the libraries means."""
        from http.client import HTTPException, IncompleteRead, RemoteDisconnected  # noqa: PLC0415

        chain = list(_causes(error))
        for each in chain:
            if isinstance(each, HybridComputeError):
                return each
        text = f"{self._access}: {chain[-1] or type(chain[-1]).__name__}"
        deadline = self._budget.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return TaskTimeout(
                f"{self._access} had not answered in full after {timeout:g} s",
                item_name=str(self._access),
                timeout=timeout or 0.0,
            )
        for each in chain:
            broken = isinstance(each, (HTTPException, zlib.error, ValueError))
            if broken and not isinstance(each, (IncompleteRead, RemoteDisconnected)):
                return ProtocolError(f"the answer is no HTTP that can be read: {text}")
        if not self._budget.sent:
            return RemoteUnavailable(f"no connection to {text}; nothing was sent")
        return RemoteConnectionLost(
            f"the connection was lost before the answer came ({text}); it may have run",
            may_have_run=True,
        )

    def close(self) -> None:
        """Close the connection. On the thread that uses it."""
        if self._opened is not None:
            _discard(self._opened)
            self._opened = None
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def __del__(self) -> None:
        # A pool's thread has ended, and nobody else knows its connection. (The class around the
        # connection is in a reference cycle, so that the collector alone would be late.)
        if getattr(self, "_adapter", None) is not None:
            self.close()


def _check(access: Access, status: int, kind: str) -> None:
    if 300 <= status < 400:
        raise ProtocolError(
            f"{access} redirects (status {status}), and redirects are not followed: "
            "they would take the token elsewhere; give the final URL",
            status=status,
            content_type=kind,
        )


def _causes(error: BaseException) -> Any:
    """Yield an error and all that is behind it, also what libraries hide in its arguments."""
    seen: set[int] = set()
    stack: list[BaseException] = [error]
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        stack += [x for x in (each.__cause__, each.__context__) if x is not None]
        stack += [
            x for x in (*each.args, getattr(each, "reason", None)) if isinstance(x, Exception)
        ]


def _discard(response: Any) -> None:
    raw = response.raw
    connection = getattr(raw, "connection", None) or getattr(raw, "_connection", None)
    if connection is not None:
        connection.close()
    raw.close()


def _adapter(access: Access, budget: Budget) -> Any:
    """Return requests' adapter over connections of ours, which have TLS and time in hand."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - see `exchange`
    from urllib3.connection import HTTPConnection  # noqa: PLC0415
    from urllib3.connectionpool import HTTPConnectionPool  # noqa: PLC0415

    class Connection(HTTPConnection):
        def connect(self) -> None:
            soonest = time.monotonic() + access.connect_timeout
            if budget.deadline is not None:
                soonest = min(soonest, budget.deadline)
            self.sock = TimedSocket(dial(access, Budget(soonest)), budget)

        # `dial` has verified it, or there is no TLS; what urllib3 sets it to is of no account.
        is_verified: Any = property(lambda _: True, lambda _, value: None)

    class Pool(HTTPConnectionPool):
        ConnectionCls: Any = Connection

    pool = Pool(access.host, access.port, maxsize=1, retries=False)

    class Adapter(HTTPAdapter):
        # Both names: requests 2.32 renamed the hook.
        def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
            return pool

        def get_connection(self, *_: Any, **__: Any) -> Any:
            return pool

        def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
            """Do nothing: the TLS context does."""

        def close(self) -> None:
            pool.close()
            super().close()

    return Adapter(max_retries=0)
