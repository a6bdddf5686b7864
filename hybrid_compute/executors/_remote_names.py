"""Names: what a service offers, as it says itself at `GET /tasks`.

Owns the answer, once there is one. `_lock` is held while somebody asks, for a bounded time, so
that one does; who comes meanwhile waits for the answer with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from hybrid_compute import _exit
from hybrid_compute.errors import (
    ConfigurationError,
    HybridComputeError,
    RemoteUnavailable,
    TaskTimeout,
)
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.http import BINARY_TYPE, HEADER
from hybrid_compute.protocol.signing import BOOT_HEADER
from hybrid_compute.transports._access import Access
from hybrid_compute.transports.http import HttpTransport

__all__ = ["Names"]

_PATIENCE = 2.0  # seconds that a submit may wait for the answer
_AGAIN = 5.0  # seconds before a service that gave none is asked again


class Names(_exit.Member):
    """The tasks of one service.

    Attributes:
        own: whether the service is one of ours; False until it was asked.
        binary: whether it also takes bodies of BINARY_TYPE.
        boot: what calls are signed for, if it takes signed ones; None: it does not.
    """

    def __init__(self, access: Access, tasks: Iterable[str] | None) -> None:
        self._access = access
        self._given = _checked(tasks)
        self._lock = threading.RLock()  # guards all below
        self._asked_at: float | None = None
        self._known = False
        self._names: frozenset[str] | None = None
        self.own = self.binary = False
        self.boot: str | None = None
        _exit.register(self)

    def after_fork(self) -> None:
        """Forget a lock that another thread of the parent may have held."""
        self._lock = threading.RLock()

    def has(self, name: str) -> bool | None:
        """Say whether the service has a task of that name; None if that cannot be known."""
        names = self._given
        if names is None:
            self.ask()
            names = self._names
        return None if names is None else name in names

    def known(self, name: str) -> bool | None:
        """Say what is known already of whether the service has a task; None: nothing."""
        names = self._names if self._given is None else self._given
        return None if names is None else name in names

    def boot_after(self, boot: str | None) -> str | None:
        """Return what calls are signed for, and ask again if `boot` is all that is known.

        Raises:
            RemoteUnavailable: the service does not answer.
        """
        with self._lock:
            if self.boot == boot and (boot is not None or not self._known):
                self._known, self._asked_at = False, None
                self.ask()
            if not self._known:
                raise RemoteUnavailable(
                    f"{self._access} does not answer GET {self._access.beside('tasks')}, without "
                    "which no call can be signed for it; nothing was sent"
                )
            return self.boot

    def ask(self, left: float | None = None) -> None:
        """Ask the service, unless it has answered, or has just been asked.

        Args:
            left: most seconds to wait; None: a few.
        """
        if self._known or self._access.foreign:  # no way to ask
            return
        patience = _PATIENCE if left is None else min(left, _PATIENCE)
        until = time.monotonic() + patience
        if patience <= 0 or not self._lock.acquire(timeout=patience):
            return
        try:
            now = time.monotonic()
            if self._asked_at is not None and now - self._asked_at < _AGAIN:
                return
            if self._known:  # somebody else has asked meanwhile
                return  # type: ignore[unreachable]  # mypy thinks nobody can
            if now < until:
                self._ask(until - now)
        finally:
            self._lock.release()

    def _ask(self, patience: float) -> None:
        transport = HttpTransport(self._access)
        try:
            path = self._access.beside("tasks")
            answer = transport.exchange("GET", path, headers={HEADER: "1"}, timeout=patience)
            self.own = HEADER in answer.headers
            accepted = answer.headers.get("Accept-Post", "")
            self.binary = self.own and BINARY_TYPE in accepted
            self.boot = answer.headers.get(BOOT_HEADER)
            if answer.status == 200:
                self._names = _names_in(Codec(max_bytes=len(answer.body)).decode(answer.body))
            # Whoever has no such page has none tomorrow; a server in trouble may have.
            self._known = answer.status < 500 and answer.status != 429
        except TaskTimeout:
            # The deadline of one call says nothing to the others.
            if patience >= _PATIENCE / 2:
                self._asked_at = time.monotonic()
        except HybridComputeError:
            self._asked_at = time.monotonic()  # the call itself will tell what is wrong
        else:
            self._asked_at = time.monotonic()
        finally:
            transport.close()


def _checked(tasks: object) -> frozenset[str] | None:
    """Return the names that the user gives, or raise ConfigurationError."""
    if tasks is None:
        return None
    # A text has characters, which are no names; other collections may be read once only.
    names: list[Any] = [None]
    if isinstance(tasks, Iterable) and not isinstance(tasks, str):
        names = list(tasks)
    if not all(isinstance(each, str) for each in names):
        raise ConfigurationError(f"tasks={tasks!r} is no list of names: give ['echo'] or None")
    return frozenset(names)


def _names_in(raw: Any) -> frozenset[str] | None:
    """Return the names in a list, a mapping, or a list of objects with a name."""
    if isinstance(raw, dict) and "tasks" in raw:
        raw = raw["tasks"]
    if not isinstance(raw, (list, dict)):
        return None
    found = [each.get("name") if isinstance(each, dict) else each for each in raw]
    return frozenset(each for each in found if isinstance(each, str))
