"""Tokens: who may call, what, and until when.

Owns secrets only as SHA-256 digests, and the comparison in constant time. Reads them from the
environment or from a file that nobody else can read; never from a command line, which every user
of a machine can see. No threads; all immutable.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Iterable, MutableMapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from hybrid_compute.errors import ConfigurationError

__all__ = ["FILE_VARIABLE", "VARIABLE", "Token", "Tokens"]

VARIABLE = "HYBRID_COMPUTE_TOKEN"
FILE_VARIABLE = "HYBRID_COMPUTE_TOKEN_FILE"
_LEAST = 16  # characters of a secret; those that are made here have 43


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


@attrs.frozen
class Token:
    """One secret, under a name that may be written to logs.

    Attributes:
        name: its name in the audit log.
        digest: SHA-256 of the secret.
        tasks: patterns of the tasks that it may call, as of `fnmatch`.
        expires: seconds since 1970 after which it is refused; None: never.
    """

    name: str
    digest: bytes = attrs.field(repr=False)
    tasks: tuple[str, ...] = ("*",)
    expires: float | None = None

    @classmethod
    def of(
        cls,
        secret: str,
        *,
        name: str = "default",
        tasks: Iterable[str] = ("*",),
        expires: float | None = None,
    ) -> Token:
        """Make one of a secret.

        Args:
            secret: what callers send, as text.
            name: by which it stands in logs.
            tasks: patterns of the names of tasks that it may call.
            expires: seconds since 1970 after which it is no good; None: never.

        Raises:
            ConfigurationError: the secret is too short, or cannot stand in a header.
        """
        if len(secret) < _LEAST or not secret.isascii() or not secret.isprintable():
            raise ConfigurationError(
                f"token {name!r}: its secret has {len(secret)} characters; it needs at least "
                f"{_LEAST}, of printable ASCII: python -c 'import secrets; "
                "print(secrets.token_urlsafe(32))'"
            )
        return cls(name, _digest(secret.encode()), tuple(tasks), expires)

    def allows(self, task: str) -> bool:
        """Tell whether this token may call a task."""
        return "*" in self.tasks or any(fnmatchcase(task, pattern) for pattern in self.tasks)


class Tokens:
    """The tokens that a server knows."""

    def __init__(self, tokens: Iterable[Token], *, clock: Callable[[], float] = time.time) -> None:
        """Take the tokens.

        Args:
            tokens: at least one; their names differ.
            clock: seconds since 1970, for `Token.expires`.

        Raises:
            ConfigurationError: there is none, or two have one name.
        """
        self._tokens = tuple(tokens)
        self._clock = clock
        names = [each.name for each in self._tokens]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"two tokens have one name: {sorted(names)}")
        if not names:
            raise ConfigurationError("no token: nobody could call; see Tokens.anyone()")
        self.open = False

    @classmethod
    def anyone(cls) -> Tokens:
        """Let everybody in: for servers on loopback only."""
        tokens = cls([Token("anyone", b"")])
        tokens.open = True
        return tokens

    @classmethod
    def generate(cls) -> tuple[Tokens, str]:
        """Make a token of 256 random bits; return it and its secret."""
        secret = secrets.token_urlsafe(32)
        return cls([Token.of(secret)]), secret

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] | None = None) -> Tokens | None:
        """Read them as the environment says, and take the variables out of it.

        So no worker process inherits them.

        Returns:
            None if neither variable is set.

        Raises:
            ConfigurationError: a secret or the file is no good.
        """
        environ = os.environ if environ is None else environ
        secret, path = environ.pop(VARIABLE, None), environ.pop(FILE_VARIABLE, None)
        if secret is not None and path is not None:
            raise ConfigurationError(f"{VARIABLE} and {FILE_VARIABLE} are set; unset one of them")
        if secret is not None:
            return cls([Token.of(secret.strip())])
        return None if path is None else cls.from_file(path)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read the file `path` with one secret or, if its name ends with .toml, with several.

        Such a file looks like this::

            [ci]
            secret = "..."                      # or sha256 = "...", in hexadecimal
            tasks = ["resize*"]
            expires = 2027-01-01T00:00:00Z

        Raises:
            ConfigurationError: it cannot be read, others can read it, or it is malformed.
        """
        try:
            with Path(path).open("rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(2**20)
        except OSError as error:
            raise ConfigurationError(f"the token file {path!s} cannot be read: {error}") from error
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                f"the token file {path!s} has mode {stat.S_IMODE(status.st_mode):04o}, so others "
                f"can reach it: chmod 600 {path!s}"
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise ConfigurationError(f"the token file {path!s} belongs to another user")
        try:
            text = data.decode()
            if Path(path).suffix != ".toml":
                return cls([Token.of(text.strip())])
            return cls(_from_table(name, each) for name, each in tomllib.loads(text).items())
        except (ValueError, TypeError) as error:  # a ConfigurationError is a ValueError
            raise ConfigurationError(f"the token file {path!s}: {error}") from error

    def __iter__(self) -> Any:
        return iter(self._tokens)

    def find(self, authorization: list[bytes]) -> Token | None:
        """Return the token in the headers Authorization of a request, or None.

        Takes the same time whichever token it is, if any: digests are compared, all of them, as
        bytes (text that is not ASCII would be a TypeError).
        """
        if self.open:
            return self._tokens[0]
        if len(authorization) != 1:
            return None
        scheme, _, secret = authorization[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest, found = _digest(secret.strip(b" ")), None
        for each in self._tokens:
            if hmac.compare_digest(each.digest, digest):
                found = each
        if found is not None and found.expires is not None and found.expires <= self._clock():
            return None
        return found


def _from_table(name: str, table: Any) -> Token:
    if not isinstance(table, dict) or not table.keys() <= {"secret", "sha256", "tasks", "expires"}:
        raise ConfigurationError(f"[{name}] has secret or sha256, tasks and expires only")
    expires = table.get("expires")
    if isinstance(expires, dt.datetime):
        if expires.tzinfo is None:
            raise ConfigurationError(f"[{name}] expires={expires} has no time zone; add Z")
        expires = expires.timestamp()
    elif expires is not None:
        raise ConfigurationError(f"[{name}] expires={expires!r} is no date and time")
    tasks = table.get("tasks", ["*"])
    if not isinstance(tasks, list) or not all(isinstance(each, str) for each in tasks):
        raise ConfigurationError(f"[{name}] tasks={tasks!r} is no list of patterns")
    if ("secret" in table) == ("sha256" in table):
        raise ConfigurationError(f"[{name}] needs one of secret and sha256")
    if "secret" in table:
        return Token.of(str(table["secret"]), name=name, tasks=tasks, expires=expires)
    digest = bytes.fromhex(str(table["sha256"]))
    if len(digest) != hashlib.sha256().digest_size:
        raise ConfigurationError(f"[{name}] sha256 has {len(digest)} bytes, not 32")
    return Token(name, digest, tuple(tasks), expires)
