"""DatagramServer: runs the calls that come over datagrams, by the protocol of hybrid_compute.

Each visitor has a `ServerSession`, which knows the protocol and no network. `_lock` guards all of
them, and the listener's is taken inside of it; calls run on a `HybridExecutor`, whose threads
answer.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self

from hybrid_compute import HybridExecutor
from hybrid_compute.errors import PayloadTooLarge, ProtocolError, ResultEncodeError
from hybrid_compute.protocol import ServerSession
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.server import Cancelled
from hybrid_datagrams.listener import Listener, Visitor

__all__ = ["DatagramServer"]


class DatagramServer:
    """Serves functions by their names; nothing else can be called.

    Args:
        tasks: functions by name.
        token: what callers have to know. None: everybody may call.
        options: for the `Listener`.
    """

    def __init__(
        self, tasks: Mapping[str, Callable[..., Any]], *, token: str | None = None, **options: Any
    ) -> None:
        self._tasks = dict(tasks)
        self._token = token
        self._executor = HybridExecutor(4)
        self._lock = threading.RLock()  # guards the sessions; re-entrant: a call may end at once
        self._listener = Listener(self._on_frame, self._on_lost, admit=self._admit, **options)
        self.port = self._listener.port
        self.network = self._listener.network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what runs, and end."""
        self._executor.shutdown()
        self._listener.close()

    def _admit(self, headers: Mapping[str, str]) -> str:
        if self._token is None:
            return ""
        said = headers.get("authorization", "").encode()
        right = hmac.compare_digest(said, f"Bearer {self._token}".encode())
        return "" if right else "give a valid token="

    def _on_frame(self, visitor: Visitor, frame: bytes) -> None:
        with self._lock:
            if visitor.state is None:
                visitor.state = ServerSession(own=True), {}
            session, calls = visitor.state
            try:
                events = session.receive(frame)
            except (PayloadTooLarge, ProtocolError):
                visitor.close()
                return
            for event in events:
                if isinstance(event, Request):
                    self._begin(visitor, event)
                elif isinstance(event, Cancelled) and (future := calls.pop(event.id, None)):
                    future.cancel()
            self._flush(visitor)

    def _on_lost(self, visitor: Visitor) -> None:
        with self._lock:
            _, calls = visitor.state or (None, {})
            for future in calls.values():
                future.cancel()

    def _begin(self, visitor: Visitor, call: Request) -> None:
        session, calls = visitor.state
        task = self._tasks.get(call.task)
        if task is None:
            session.fail(call.id, f"there is no task {call.task!r}", status=404)
        elif call.credit is not None:
            session.fail(call.id, "this server has no streams", status=501)
        else:
            view = self._executor.options(timeout=call.timeout)
            future = view.submit(task, *call.args, **(call.kwargs or {}))
            calls[call.id] = future
            future.add_done_callback(lambda done: self._finish(visitor, call.id, done))

    def _finish(self, visitor: Visitor, identity: int | str, done: Future[Any]) -> None:
        with self._lock:
            session, calls = visitor.state
            calls.pop(identity, None)
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                with suppress(ResultEncodeError):  # the caller was told
                    session.result(identity, done.result())
            else:
                name = type(error).__qualname__
                session.fail(identity, str(error) or name, type_name=name)
            self._flush(visitor)

    def _flush(self, visitor: Visitor) -> None:
        for frame in visitor.state[0].frames_to_send():
            visitor.send(frame)
