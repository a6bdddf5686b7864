"""Pickles: calls of any callable, from callers who sign them. Off unless keys are given.

Owns the server's half of `protocol.signing`: the keys, which come from the environment or a file
that nobody else can read; the boot id of this run; and the entry that stands in for a task. The
signature is checked here, on the event loop; the bytes are unpickled in a worker process, by
`_signed_work.perform`, and the result is signed here again, unread.

Whoever has a key can run anything as the server's user: a key is worth more than any token. The
keys are taken out of the environment before the first worker starts.

No threads of its own; on the event loop, like all of the server.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import time
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from hybrid_compute._signed_work import perform
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.protocol.messages import Request
from hybrid_compute.protocol.signing import (
    BOOT_BYTES,
    BOOT_HEADER,
    SIGNED_TASK,
    BadSignature,
    GuardFull,
    SigningKey,
    Verified,
    Verifier,
    sign_answer,
)
from hybrid_compute.server.gate import Refusal
from hybrid_compute.server.tokens import Tokens
from hybrid_compute.tasks import Task, TaskOptions

__all__ = ["FILE_VARIABLE", "VARIABLE", "Pickles", "SignedEntry", "is_private", "keys_from_environ"]

VARIABLE = "HYBRID_COMPUTE_SIGNING_KEY"
FILE_VARIABLE = "HYBRID_COMPUTE_SIGNING_KEY_FILE"

PERFORM: Task[..., Any] = Task(perform, name=SIGNED_TASK, options=TaskOptions(executor="process"))

_OFF = "this server takes no pickled calls (it was not started with --allow-pickle)"


def keys_from_environ(
    environ: MutableMapping[str, str] | None = None,
) -> list[SigningKey] | None:
    """Read the keys as the environment says, and take the variables out of it.

    A variable, or a file, has one key, or several between white space: any of them is good, so
    that a key can be replaced while callers still have the old one.

    Returns:
        None if neither variable is set.

    Raises:
        ConfigurationError: a key or the file is no good.
    """
    environ = os.environ if environ is None else environ
    text, path = environ.pop(VARIABLE, None), environ.pop(FILE_VARIABLE, None)
    if text is not None and path is not None:
        raise ConfigurationError(f"{VARIABLE} and {FILE_VARIABLE} are set; unset one of them")
    if path is not None:
        text = _read(path)
    if text is None:
        return None
    keys = [SigningKey(each) for each in text.split()]
    if not keys:
        raise ConfigurationError(f"{VARIABLE if path is None else path} is empty: give a key")
    return keys


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(2**16)
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be read: {error}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigurationError(
            f"the key file {path} has mode {stat.S_IMODE(status.st_mode):04o}, so others can reach "
            f"it: chmod 600 {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(f"the key file {path} belongs to another user")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(f"the key file {path} is no ASCII text") from None


def is_private(scope: Any) -> bool:
    """Tell whether nobody between can read a connection: it has TLS, or comes from this machine."""
    if scope.get("scheme") in ("https", "wss"):
        return True
    try:
        return ipaddress.ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


class SignedEntry:
    """Stands in the place of a catalog's entry for one call of a callable that no registry has.

    Attributes:
        task: what runs in a worker process.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.task = PERFORM
        self._verifier = verifier
        self._call: Verified | None = None

    def check(self, request: Request, *, own: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Check the signature, and return the arguments of `perform`.

        Raises:
            Refusal: 403 if it is not good, 503 if too many calls come; 415 for a peer that is not
                ours, which cannot send bytes.
        """
        if not own:
            raise Refusal(415, "pickled calls are taken from hybrid_compute's own clients only")
        envelope = request.args[0] if len(request.args) == 1 and not request.kwargs else None
        try:
            self._call = self._verifier.open(envelope)
        except BadSignature as error:
            raise Refusal(403, f"the pickled call is refused: {error}") from None
        except GuardFull:
            raise Refusal(503, "too many pickled calls came at once", retry_after=1) from None
        return (self._call.body, os.getpid()), {}

    @property
    def call_id(self) -> str:
        """The call's id, for the log; "" until its signature was found good."""
        return "" if self._call is None else self._call.call_id.hex()

    def seal(self, value: tuple[bool, bytes]) -> bytes:
        """Sign what a worker has returned. It is not looked at."""
        assert self._call is not None  # noqa: S101 - it has run
        failed, body = value
        return sign_answer(self._call.key, body, failed=failed, call_mac=self._call.mac)


class Pickles:
    """What a server makes of pickled calls.

    Attributes:
        headers: what tells our own clients that they may send some.
    """

    def __init__(
        self,
        keys: Iterable[SigningKey | str] | None,
        *,
        tokens: Tokens | None = None,
        hosts: Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the keys; None: all such calls are refused, unread.

        Args:
            keys: any of them may sign.
            tokens: none of them may be a key as well.
            hosts: names of this server, which calls are signed for.
            clock: seconds since 1970.

        Raises:
            ConfigurationError: there is no key, one is too short, or it is a token too.
        """
        self._verifier: Verifier | None = None
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        if keys is None:
            return
        if isinstance(keys, (str, bytes)):
            raise ConfigurationError("pickle_keys is one text; give a list of keys")
        taken = [each if isinstance(each, SigningKey) else SigningKey(each) for each in keys]
        if not taken:
            raise ConfigurationError("pickle_keys is empty: nobody could sign; give None")
        digests = {each.digest for each in tokens or ()}
        if any(each.digest in digests for each in taken):
            raise ConfigurationError(
                "a signing key is also a token: whoever may call tasks could run anything; make "
                "another key"
            )
        boot = os.urandom(BOOT_BYTES)
        self._verifier = Verifier(taken, audiences=hosts, boot=boot, clock=clock)
        self.headers = ((BOOT_HEADER.lower().encode(), boot.hex().encode()),)

    def entry(self, *, private: bool) -> SignedEntry:
        """Return an entry for one call.

        Raises:
            Refusal: 415 without keys; 403 if others could read the connection.
        """
        if self._verifier is None:
            raise Refusal(415, _OFF)
        if not private:
            raise Refusal(403, "pickled calls need TLS, or a caller on this machine")
        return SignedEntry(self._verifier)
