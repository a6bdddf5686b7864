"""Forms: calls and outcomes as they stand in the rows of an outbox, and what users see of a row.

Owns the bytes of both: JSON, with the tags that our own peers exchange, so that nothing runs when a
file is read. Where pickles were opted into, what JSON does not hold is pickled and signed, together
with the key of its row and with what it is: nothing is unpickled whose signature is not good.

    call      {"args": [...], "kwargs": {...}, "context": {name: value}}, the last if there is one;
              or signed: what `_signed_work` packs, and no context
    outcome   {"result": value}
              {"error": name in `errors`, "text": ..., "state": {attributes}}
              or an envelope (the first byte tells): a result or an exception, pickled

No threads, no state.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from hybrid_compute import errors
from hybrid_compute._contexts import Carried
from hybrid_compute._failures import encode_error, text_of, type_name_of
from hybrid_compute._pickling import dumps
from hybrid_compute._signed_work import outcome, pack
from hybrid_compute.errors import (
    HybridComputeError,
    OutboxError,
    PayloadTooLarge,
    PlacementError,
    ProtocolError,
    RemoteError,
    TaskEncodeError,
)
from hybrid_compute.executors._outbox_table import Draft, Row, new_key
from hybrid_compute.items import WorkItem
from hybrid_compute.protocol.codec import MAX_BYTES, Codec
from hybrid_compute.protocol.signing import BadSignature, SigningKey, open_at_rest, sign_at_rest
from hybrid_compute.protocol.values import Refused
from hybrid_compute.protocol.writer import Writer
from hybrid_compute.tasks import Task

__all__ = ["Forms", "OutboxEntry"]

_ENVELOPE = 1  # the first byte of what is signed; JSON begins with 123


class Forms:
    """Writes rows and reads them."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, key: SigningKey | None = None) -> None:
        """Choose what is written.

        Args:
            max_bytes: the largest call that the service takes.
            key: what JSON does not hold is pickled and signed with it; None: it is refused.
        """
        self._codec = Codec(tagged=True, max_bytes=max_bytes)
        # An answer was let in by the remote executor; written in base64 it may be longer.
        self._answers = Codec(tagged=True, max_bytes=max(4 * max_bytes, MAX_BYTES))
        self._key = key

    @property
    def signs(self) -> bool:
        """Whether pickles were opted into."""
        return self._key is not None

    def draft(self, item: WorkItem, carried: Carried | None = None) -> Draft:
        """Return the row for an item.

        Args:
            item: the call.
            carried: the context variables that go along; None: none.

        Raises:
            PlacementError: it is no declared task, and pickles were not opted into.
            TaskEncodeError, PayloadTooLarge: a part of it cannot be written.
        """
        fn, key = item.fn, new_key()
        idempotent = bool(item.options.idempotent)
        if isinstance(fn, Task):
            body = self._json(fn.name, item, carried)
            return Draft(key, fn.name, body, signed=False, idempotent=idempotent)
        if self._key is None:
            raise PlacementError(
                f"{item.name!r} is no declared task, and an outbox keeps only those: declare it "
                "with @task on both sides, or use remote_task(name), or let both sides have a "
                "signing_key and give the outbox allow_pickle=True"
            )
        assert fn is not None  # noqa: S101 - it was just submitted
        packed = pack(fn, item.args, item.kwargs, name=item.name)
        body = sign_at_rest(self._key, packed, about=f"call {key}")
        return Draft(key, item.name, body, signed=True, idempotent=idempotent)

    def _json(self, name: str, item: WorkItem, carried: Carried | None) -> bytes:
        codec = self._codec
        try:
            args = codec.encode(list(item.args), "$.args")
            kwargs = codec.encode(dict(item.kwargs or {}), "$.kwargs")
        except Refused as refusal:
            raise TaskEncodeError(f"{name}: {refusal}") from refusal
        more = {}
        if carried is not None and item.context is not None:
            # As they would be sent: what cannot be stays here.
            more = Writer(codec).context(carried.named(item.context))
        body = codec.fields(args=args, kwargs=kwargs, **more)
        if len(body) > codec.max_bytes:
            raise PayloadTooLarge(
                f"{name}: the call takes {len(body)} bytes, and {codec.max_bytes} may be sent",
                size=len(body),
                limit=codec.max_bytes,
            )
        return body

    def arguments(self, row: Row) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a row that is not signed.

        Raises:
            OutboxError: the row is damaged.
        """
        try:
            raw = self._codec.decode(row.body)
            args = [self._codec.value(each) for each in raw["args"]]
            kwargs = self._codec.value(raw["kwargs"])
            if type(kwargs) is not dict or any(type(each) is not str for each in kwargs):
                raise TypeError("no keywords")
        except (ProtocolError, PayloadTooLarge, KeyError, TypeError) as error:
            raise OutboxError(
                f"row {row.id} of the outbox cannot be read: {error}", path=""
            ) from error
        return tuple(args), kwargs

    def variables(self, row: Row) -> dict[str, Any] | None:
        """Return the context variables of a row whose arguments were read, by their names.

        Raises:
            OutboxError: the row is damaged.
        """
        if b'"context":' not in row.body:  # it is seldom there, and is not read for that alone
            return None
        try:
            found = self._codec.value(self._codec.decode(row.body).get("context"))
            if found is not None and type(found) is not dict:
                raise TypeError("no names")
            return found
        except (ProtocolError, PayloadTooLarge, TypeError) as error:
            raise OutboxError(
                f"row {row.id} of the outbox cannot be read: {error}", path=""
            ) from error

    def packed(self, row: Row) -> bytes:
        """Return what a signed row carries.

        Raises:
            OutboxError: pickles were not opted into, or its signature is not good.
        """
        if self._key is None:
            raise OutboxError(
                f"row {row.id} of the outbox is a signed pickle, and nothing of it was read: give "
                "the outbox allow_pickle=True, and its remote executor the key",
                path="",
            )
        try:
            return open_at_rest(self._key, row.body, about=f"call {row.key}")
        except BadSignature as error:
            raise OutboxError(
                f"row {row.id} of the outbox is not what was put there: {error}; nothing of it "
                "was unpickled",
                path="",
            ) from error

    def write_outcome(self, key: str, value: Any, error: BaseException | None) -> bytes:
        """Return the bytes of an outcome. Never raises: what cannot be written is described."""
        codec = self._answers
        try:
            if error is None:
                return codec.fields(result=codec.encode(value, "$.result"))
            if isinstance(error, HybridComputeError) and type(error).__name__ in errors.__all__:
                return codec.fields(
                    error=codec.encode(type(error).__name__),
                    text=codec.encode(text_of(error)),
                    state=codec.encode(_portable(vars(error))),
                )
        except (Refused, PayloadTooLarge):
            pass
        if self._key is not None:
            try:
                body = dumps(value) if error is None else encode_error(error)
            except BaseException as why:  # a user's __reduce__ may raise anything
                error = why
            else:
                flag = b"\1" if error is not None else b"\0"
                return sign_at_rest(self._key, flag + body, about=f"outcome {key}")
        if error is None:
            text = f"the result, a {type_name_of(type(value))}, cannot be kept in an outbox"
            name = "ResultEncodeError"
        else:
            text, name = f"{type_name_of(type(error))}: {text_of(error)}", "RemoteError"
        state = {} if error is None else {"type_name": type_name_of(type(error))}
        return codec.fields(
            error=codec.encode(name),
            text=codec.encode(text.encode(errors="backslashreplace").decode()[:20_000]),
            state=codec.encode(state | {"traceback_text": ""} if state else state),
        )

    def read_outcome(self, key: str, data: bytes) -> tuple[Any, BaseException | None]:
        """Return a result, or the exception that stands in its place. Never raises."""
        try:
            if data[:1] == bytes((_ENVELOPE,)):
                return self._open(key, data)
            raw = self._answers.decode(data)
            if "result" in raw:
                return self._answers.value(raw["result"]), None
            kind = getattr(errors, raw["error"]) if raw["error"] in errors.__all__ else RemoteError
            state = self._answers.value(raw["state"])
            return None, errors._restore(kind, raw["text"], state)
        except BaseException as error:
            return None, error

    def _open(self, key: str, data: bytes) -> tuple[Any, BaseException | None]:
        if self._key is None:
            return None, OutboxError(
                "the outcome is a signed pickle, and nothing of it was read: open the outbox with "
                "allow_pickle=True and the key",
                path="",
            )
        body = open_at_rest(self._key, data, about=f"outcome {key}")
        return outcome(body[1:], failed=body[:1] == b"\1"), None


def _portable(state: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in state.items() if not name.startswith("__")}


@attrs.frozen
class OutboxEntry:
    """One row of an outbox, as it was when it was looked at.

    Attributes:
        id: in the file; larger for what was submitted later.
        key: under which the service remembers the call.
        task: its name.
        state: "pending", "claimed", "delivered", "failed" or "dead".
        attempts: how often it was sent, or tried to be, in vain.
        submitted: when, by the wall clock of that moment.
        trouble: what ended the last of these attempts; "" if nothing did.
    """

    id: int
    key: str
    task: str
    state: str
    attempts: int
    submitted: dt.datetime
    trouble: str
    _row: Row = attrs.field(repr=False, eq=False)
    _forms: Forms = attrs.field(repr=False, eq=False)

    @classmethod
    def of(cls, row: Row, forms: Forms) -> OutboxEntry:
        """Return what users see of a `row`, read by `forms`."""
        try:
            when = dt.datetime.fromtimestamp(row.submitted, dt.UTC)
        except (OverflowError, ValueError, OSError):  # some clock had jumped far
            when = dt.datetime.fromtimestamp(0, dt.UTC)
        return cls(
            row.id, row.key, row.task, row.state, row.attempts, when, row.trouble, row, forms
        )

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments of the call.

        Raises:
            OutboxError: the row is damaged, or is a signed pickle, which only the service reads.
        """
        if self._row.signed:
            raise OutboxError(f"the arguments of row {self.id} are pickled", path="")
        return self._forms.arguments(self._row)

    def exception(self) -> BaseException | None:
        """Return what the call raised; None: it has a result, or none yet. Does not wait."""
        if self._row.outcome is None:
            return None
        return self._forms.read_outcome(self.key, self._row.outcome)[1]

    def result(self) -> Any:
        """Return the result of the call, or raise what it raised. Does not wait.

        Raises:
            RuntimeError: it has no outcome yet.
        """
        if self._row.outcome is None:
            raise RuntimeError(f"row {self.id} of the outbox is {self.state}: it has no outcome")
        value, error = self._forms.read_outcome(self.key, self._row.outcome)
        if error is not None:
            raise error
        return value
