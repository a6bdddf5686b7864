"""Writer: messages to bytes, for one kind of peer.

Owns what each peer is told: `messages` has the forms, and which of them only our own peers know.
Reading them is there too. Each method returns the bytes of one message, for a codec's `array` or
for a frame of its own.

Threads: none of its own; its owner's lock guards it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hybrid_compute.errors import PayloadTooLarge
from hybrid_compute.protocol.codec import Codec
from hybrid_compute.protocol.messages import MAX_NAME, Failed, Hello, Id
from hybrid_compute.protocol.values import Refused

__all__ = ["Writer"]

_MAX_TEXT = 20_000  # characters of an error's text and of its traceback
_INT = 2**63  # what any codec writes as it is
_SHORT = 256  # characters
_ATOMS = frozenset((int, str, bool, type(None)))
_NOTHING: Mapping[str, Any] = {}


class Writer:
    """Writes messages. What a value cannot do raises what `Codec.encode` raises."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._result = codec.mould("id", "result")
        self._takes_small = codec.max_bytes >= 6 * _SHORT + 2  # a control character takes six
        # What stands around the id and the input, by task. A program has few tasks; beyond the
        # bound it starts anew.
        self._calls: dict[str, tuple[bytes, bytes, bytes]] = {}

    # -- a client's ------------------------------------------------------------------------

    def request(  # noqa: PLR0913 - as `ClientSession.call`
        self,
        identity: Id,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] = _NOTHING,
        *,
        timeout: float | None = None,
        credit: tuple[int, int] | None = None,
        seq: int = 0,
        key: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Write a call, as in `messages.Request`.

        A peer that is not ours learns of no time-out, key or context variable, and its tasks take
        one argument or none.
        """
        encode = self.codec.encode
        lone = len(args) == 1 and not kwargs and credit is None and key is None and not variables
        if lone and timeout is None:
            before, between, after = self._calls.get(task) or self._mould(task)
            return before + encode(identity) + between + encode(args[0], "$.input") + after
        if (
            lone
            and timeout is not None
            and self.codec.tagged
            and _is_short_name(task)
            and self._are_small((identity, args[0]))
        ):
            # At once: nothing in it can be refused.
            timed = {"id": identity, "task": task, "input": args[0], "timeout": float(timeout)}
            return self.codec.record(timed)
        fields = {"id": encode(identity)} | self.call(task, args, kwargs, timeout=timeout)
        if credit is not None and self.codec.tagged:
            fields["credit"] = encode(list(credit))
            if seq:
                fields["seq"] = encode(seq)
        if key is not None and self.codec.tagged:
            fields["key"] = encode(key)
        return self.codec.fields(**fields, **self.context(variables))

    def context(self, variables: Mapping[str, Any] | None) -> dict[str, bytes]:
        """Return the field of the caller's context variables; what cannot be sent stays here."""
        if not variables or not self.codec.tagged:
            return {}
        found = {}
        for name, value in variables.items():
            with suppress(Refused, PayloadTooLarge):
                self.codec.encode(value)
                found[name] = value
        return {"context": self.codec.encode(found)}

    def small_requests(
        self, ids: Sequence[int], tasks: Sequence[str], arguments: Sequence[Sequence[Any]]
    ) -> list[bytes] | None:
        """Write calls as `request` does; None if one of them is not small."""
        if set(map(len, arguments)) != {1} or not all(map(_is_short_name, set(tasks))):
            return None
        values = [value for (value,) in arguments]
        if not self._are_small(values):
            return None
        record = self.codec.record
        return [
            record({"id": identity, "task": task, "input": value})
            for identity, task, value in zip(ids, tasks, values, strict=True)
        ]

    def call(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] = _NOTHING,
        *,
        timeout: float | None = None,
    ) -> dict[str, bytes]:
        """Return the fields of a call but its id; they are what HTTP sends."""
        encode, own = self.codec.encode, self.codec.tagged
        if not 0 < len(task) <= MAX_NAME:
            raise Refused(f"{task[:100]!r} is no name of a task", "$.task")
        fields = {"task": encode(task, "$.task")}
        if len(args) == 1 and not kwargs:
            fields["input"] = encode(args[0], "$.input")
        elif args or kwargs:
            if not own:
                raise Refused(
                    f"a call with {len(args)} arguments and {len(kwargs)} keywords cannot be sent "
                    "to this peer, whose tasks take one argument: use one list or dict",
                    "$",
                )
            if args:
                fields["args"] = encode(list(args), "$.args")
            if kwargs:
                fields["kwargs"] = encode(dict(kwargs), "$.kwargs")
        if timeout is not None and own:
            fields["timeout"] = encode(float(timeout), "$.timeout")
        return fields

    def _mould(self, task: str) -> tuple[bytes, bytes, bytes]:
        name = self.call(task, ())["task"]
        if len(self._calls) >= 256:
            self._calls.clear()
        before, to_task, to_input, after = self.codec.mould("id", "task", "input")
        found = self._calls[task] = before, to_task + name + to_input, after
        return found

    def cancel(self, identity: Id) -> bytes:
        """Write that a call needs no answer any more."""
        return self.codec.record({"id": identity, "cancel": True})

    def credit(self, identity: Id, items: int, size: int) -> bytes:
        """Write how much a stream may send in all."""
        return self.codec.record({"id": identity, "credit": [items, size]})

    # -- a server's ------------------------------------------------------------------------

    def result(self, identity: Id, value: Any) -> bytes:
        """Write the answer to a call."""
        before, between, after = self._result
        encode = self.codec.encode
        return before + encode(identity) + between + encode(value, "$.result") + after

    def small_results(self, answers: Sequence[tuple[Id, Any]]) -> list[bytes] | None:
        """Write answers as `result` does; None if one of them is not small."""
        ids = [identity for identity, _ in answers]
        if not (self._are_small(ids) and self._are_small([value for _, value in answers])):
            return None
        record = self.codec.record
        return [record({"id": identity, "result": value}) for identity, value in answers]

    def failed(self, failure: Failed) -> bytes:
        """Write that a call failed; or, if its id is None, that there was no call to speak of."""
        return self.codec.record({"id": failure.id} | self.error(failure))

    def error(self, failure: Failed) -> dict[str, Any]:
        """Return the fields of a failure but its id; they are what HTTP sends."""
        fields: dict[str, Any] = {"error": _sendable(failure.text) or "it gave no reason"}
        if self.codec.tagged:
            details = {
                "status": failure.status,
                "type": _sendable(failure.type_name),
                "traceback": _sendable(failure.traceback),
                "path": _sendable(failure.path),
                "retry_after": failure.retry_after,
            }
            fields |= {name: value for name, value in details.items() if value}
        return fields

    def chunks(self, identity: Id, seq: int, items: Sequence[bytes], size: int) -> bytes:
        """Write encoded items of a stream, the first of which is its number `seq`."""
        encode, fields = self.codec.encode, self.codec.fields
        head = {"id": encode(identity)}
        tail = {"seq": encode(seq), "size": encode(size)}
        if len(items) == 1:
            return fields(**head, chunk=items[0], **tail)
        return fields(**head, chunks=self.codec.array(items), **tail)

    def done(self, identity: Id, value: Any, count: int) -> bytes:
        """Write the end of a stream of so many items."""
        encode = self.codec.encode
        return self.codec.fields(
            id=encode(identity),
            done=encode(True),
            result=encode(value, "$.result"),
            seq=encode(count),
        )

    # -- both ------------------------------------------------------------------------------

    def _are_small(self, values: Sequence[Any]) -> bool:
        """Say whether the encoder writes them as they are, whatever the limits: most are such."""
        kinds = set(map(type, values))  # loops in C
        if not (kinds <= _ATOMS and self._takes_small):
            return False
        if int in kinds:
            numbers = values if len(kinds) == 1 else [x for x in values if type(x) is int]
            if min(numbers) < -_INT or max(numbers) >= _INT:
                return False
        return str not in kinds or all(
            len(each) <= _SHORT and each.isascii() for each in values if type(each) is str
        )

    def hello(self, hello: Hello) -> bytes:
        """Write that this peer is ours."""
        return self.codec.record({"hello": hello._asdict()})

    def ack(self, frames: int) -> bytes:
        """Write that so many frames have come."""
        return self.codec.record({"ack": frames})


def _is_short_name(task: str) -> bool:
    return 0 < len(task) <= MAX_NAME and task.isascii()


def _sendable(text: str) -> str:
    """Return a text of bounded length without lone surrogates: it must arrive, if not exact."""
    if len(text) > _MAX_TEXT:
        text = f"{text[: _MAX_TEXT // 2]} ... {text[-_MAX_TEXT // 2 :]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
