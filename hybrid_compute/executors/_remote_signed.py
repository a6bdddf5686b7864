"""SignedCall: one call that goes to a service as a signed pickle, and its answer.

Owns the key of one RemoteExecutor, and the order of things: an answer's signature is checked before
a byte of it is unpickled. Pickling is done once a call, on the thread that submits it and
under no lock; each time that it is sent it is signed anew, since an envelope is taken once.

No locks: a call is in one pair of hands at a time, as its item is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Any, TypeAlias

from hybrid_compute._signed_work import outcome, pack
from hybrid_compute.errors import AuthError, ConfigurationError, PlacementError
from hybrid_compute.items import WorkItem
from hybrid_compute.protocol.signing import (
    NONCE_BYTES,
    SIGNED_TASK,
    BadSignature,
    SigningKey,
    mac_of,
    open_answer,
    sign_call,
)
from hybrid_compute.transports._access import Access

__all__ = ["Key", "Message", "SignedCall", "Signer"]

# The key itself; "env:NAME"; or a file that has it, and that nobody else can read.
Key: TypeAlias = str | SigningKey | os.PathLike[str]

# A task's name, its arguments and its keywords.
Message: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]

_ENVIRONMENT = "env:"


class Signer:
    """The key for one service.

    Attributes:
        key: signs calls and checks their answers.
        audience: what the service is called here.
        where: the same, for errors.
    """

    def __init__(self, key: Key, access: Access, *, token: object = None) -> None:
        """Read the key.

        Raises:
            ConfigurationError: it is none, others can read its file, it is the token too, or
                somebody between could read what is sent, or take its answer's place.
        """
        if not access.tls and not access.loopback:
            raise ConfigurationError(
                f"signing_key=: {access} would get pickles in the clear, which never happens "
                f"(allow_plaintext= is for tokens): use {access.scheme}s://"
            )
        self.key = key if isinstance(key, SigningKey) else SigningKey(_text(key))
        if isinstance(token, str) and hashlib.sha256(token.encode()).digest() == self.key.digest:
            raise ConfigurationError("signing_key= is the token as well: make another key")
        self.audience = f"[{access.host}]" if ":" in access.host else access.host
        self.where = str(access)


def _text(key: str | os.PathLike[str]) -> str:
    if isinstance(key, str):
        if key.startswith(_ENVIRONMENT):
            return os.environ.get(key.removeprefix(_ENVIRONMENT), "").strip()
        return key
    if not isinstance(key, os.PathLike):
        raise ConfigurationError("signing_key= is no text, 'env:NAME', path of a file, or key")
    try:
        with Path(key).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(2**16)
    except OSError as error:
        raise ConfigurationError(f"signing_key=: {key} cannot be read: {error}") from error
    if mode & 0o077:
        raise ConfigurationError(
            f"signing_key=: {key} has mode {mode:04o}, so others can reach it: chmod 600 {key}"
        )
    return data.decode("latin-1").strip()


class SignedCall:
    """One item on its way, signed."""

    __slots__ = ("_body", "_id", "_mac", "_signer")

    def __init__(self, signer: Signer, item: WorkItem) -> None:
        """Pickle an item.

        Raises:
            TaskEncodeError: a part of it cannot be pickled.
        """
        self._signer = signer
        fn: Any = item.fn
        packed = item.packed
        self._body = pack(fn, item.args, item.kwargs, name=item.name) if packed is None else packed
        self._id = os.urandom(16)
        self._mac = b""

    def message(self, boot: str | None) -> Message:
        """Return what is sent in place of the call: a name, arguments and keywords.

        Args:
            boot: what the service says that calls are signed for; None: it takes none.

        Raises:
            PlacementError: it takes none.
        """
        try:
            run = bytes.fromhex(boot or "")
        except ValueError:
            run = b""
        if len(run) != NONCE_BYTES:
            raise PlacementError(
                f"{self._signer.where} takes no pickled calls, and was sent none: it is not "
                "served with --allow-pickle, or cannot be asked"
            )
        envelope = sign_call(
            self._signer.key,
            self._body,
            audience=self._signer.audience,
            boot=run,
            call_id=self._id,
            nonce=os.urandom(NONCE_BYTES),
            now=time.time(),
        )
        self._mac = mac_of(envelope)
        return SIGNED_TASK, (envelope,), {}

    def open(self, answer: Any) -> Any:
        """Return the result in an answer, or raise the exception in it.

        Raises:
            AuthError: the answer's signature is not good; nothing of it was unpickled.
        """
        try:
            verified = open_answer(self._signer.key, answer, call_mac=self._mac)
        except BadSignature as error:
            raise AuthError(
                f"{self._signer.where} gave an answer that it did not sign: {error}; nothing of "
                "it was unpickled"
            ) from None
        return outcome(verified.body, failed=verified.failed)

    def settle(self, answer: Any) -> tuple[Any, BaseException | None]:
        """Return the result in an answer, or the exception in it."""
        try:
            return self.open(answer), None
        except BaseException as error:
            return None, error
