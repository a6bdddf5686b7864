"""The decision log: one header, then one line of JSON for each item that ended.

Owns the format: the records, how they are written and how they are read. Reading is strict: a
line that says anything else than what stands here is refused, with its file, number and key.
Times are seconds of the monotonic clock since the log began. Pure: no clock, no thread.

::

    {"v": 1, "cores": 2, "fleet": {"thread": {"workers": 6, "shares_memory": true, ...}, ...}}
    {"v": 1, "id": 1, "task": "resize", "submitted": 0.01, "executor": "process", ...}
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs

from hybrid_compute.errors import DecisionLogError

__all__ = [
    "VERSION",
    "ExecutorRecord",
    "Header",
    "ItemRecord",
    "Log",
    "parse_log",
    "read_log",
    "to_line",
]

VERSION = 1

_Check: TypeAlias = Callable[[Any], bool]
_R = TypeVar("_R")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _field(check: _Check, words: str, default: Any = attrs.NOTHING) -> Any:
    """Return a field that is read by `check`; None is allowed where it is the default."""
    kind = (check, f"{words}, or null" if default is None else words)
    return attrs.field(default=default, metadata={"kind": kind})


_AMOUNT = "a number of at least 0"
_FLAG = "true or false"


@attrs.frozen(kw_only=True)
class ExecutorRecord:
    """One executor of a fleet, as the header of a log tells it, and as a replay builds it.

    Attributes:
        workers: how many items it runs at once, at the most.
        shares_memory: as in `Capabilities`; such executors share one core's worth of GIL.
        isolates: as in `Capabilities`.
        remote: as in `Capabilities`: its work needs no core of this machine.
        blocks: as in `Capabilities`: the submitter waits for the work.
        dispatch: seconds that a worker is busy with an item beyond its work; None: not known.
        start: seconds until the first worker takes work; None: not known.
        rtt: seconds for a message there and one back; None: there is no way to go.
        bandwidth: bytes per second on that way; None: it does not count.
        per_call: price of each item.
        per_second: price of each second in which a worker is busy.
        per_megabyte: price of each million bytes.
    """

    workers: int = _field(lambda v: _is_count(v) and v >= 1, "a whole number of at least 1")
    shares_memory: bool = _field(_is_flag, _FLAG, default=False)
    isolates: bool = _field(_is_flag, _FLAG, default=False)
    remote: bool = _field(_is_flag, _FLAG, default=False)
    blocks: bool = _field(_is_flag, _FLAG, default=False)
    dispatch: float | None = _field(_is_amount, _AMOUNT, default=None)
    start: float | None = _field(_is_amount, _AMOUNT, default=None)
    rtt: float | None = _field(_is_amount, _AMOUNT, default=None)
    bandwidth: float | None = _field(
        lambda v: _is_amount(v) and v > 0, "a number greater than 0", default=None
    )
    per_call: float = _field(_is_amount, _AMOUNT, default=0.0)
    per_second: float = _field(_is_amount, _AMOUNT, default=0.0)
    per_megabyte: float = _field(_is_amount, _AMOUNT, default=0.0)

    def cost(self, *, calls: int, seconds: float, size_bytes: int) -> float:
        """Return the cost of `calls` that took `seconds` and moved `size_bytes`."""
        return (
            calls * self.per_call + seconds * self.per_second + size_bytes / 1e6 * self.per_megabyte
        )


@attrs.frozen(kw_only=True)
class Header:
    """The first line of a log.

    Attributes:
        cores: cores that the program could use.
        fleet: the executors by name, in their order of preference.
    """

    cores: int = _field(lambda v: _is_count(v) and v >= 1, "a whole number of at least 1")
    fleet: Mapping[str, ExecutorRecord] = _field(
        lambda v: isinstance(v, dict), "an object of executors by name"
    )


@attrs.frozen(kw_only=True)
class ItemRecord:
    """What became of one item.

    Attributes:
        id: number of the item, counted by its executor.
        task: name of the task or function.
        submitted: when it was submitted.
        executor: where it was last; None: nobody took it.
        started: when its work began there, or was sent there; None: it never started.
        ended: when its outcome was known.
        ok: whether it succeeded.
        wall: seconds that the work itself took, where it ran; None: not measured.
        cpu: seconds of processor time that its thread took; None: not measured.
        gil: the part of `cpu` in which it held the GIL, from 0 to 1; None: not known.
        bytes: bytes of its pickled arguments and result; None: not measured.
        rule: which rule of the policy chose; None: it does not tell.
        predicted: seconds that the policy foresaw, by executor.
        declared: whether it was a task; a plain callable stays on threads, whatever a policy says.
        pinned: the executor that its options name, past the policy; None: none.
        movable: as in `TaskOptions`.
        local_only: as in `TaskOptions`.
        tags: as in `TaskOptions`.
    """

    id: int = _field(_is_count, "a whole number of at least 0")
    task: str = _field(_is_text, "a name")
    submitted: float = _field(_is_number, "a number of seconds")
    executor: str | None = _field(_is_text, "a name", default=None)
    started: float | None = _field(_is_number, "a number of seconds", default=None)
    ended: float = _field(_is_number, "a number of seconds")
    ok: bool = _field(_is_flag, _FLAG)
    wall: float | None = _field(_is_amount, _AMOUNT, default=None)
    cpu: float | None = _field(_is_amount, _AMOUNT, default=None)
    gil: float | None = _field(
        lambda v: _is_amount(v) and v <= 1, "a number from 0 to 1", default=None
    )
    bytes: int | None = _field(_is_count, "a whole number of at least 0", default=None)
    rule: str | None = _field(lambda v: isinstance(v, str), "a text", default=None)
    predicted: Mapping[str, float] = _field(
        lambda v: isinstance(v, dict) and all(_is_number(each) for each in v.values()),
        "an object of seconds by executor",
        default=attrs.Factory(dict),
    )
    declared: bool = _field(_is_flag, _FLAG, default=True)
    pinned: str | None = _field(_is_text, "a name", default=None)
    movable: bool | None = _field(_is_flag, _FLAG, default=None)
    local_only: bool = _field(_is_flag, _FLAG, default=False)
    tags: tuple[str, ...] = _field(
        lambda v: isinstance(v, list) and all(_is_text(each) for each in v),
        "a list of words",
        default=(),
    )


@attrs.frozen(kw_only=True)
class Log:
    """A whole log.

    Attributes:
        header: its first line.
        items: the others, in order of submission.
    """

    header: Header
    items: tuple[ItemRecord, ...]


# What a line always has; the rest only where it is not the default, for short lines.
_ALWAYS = frozenset(
    {
        *("workers", "shares_memory", "isolates", "remote", "blocks"),
        *("id", "task", "submitted", "executor", "started", "ended", "ok", "wall", "cpu", "gil"),
        *("bytes", "rule", "predicted"),
    }
)


def to_line(record: Header | ItemRecord) -> str:
    """Return the line of a log that says this, with its line feed."""
    if isinstance(record, Header):
        fleet = {name: _as_data(each) for name, each in record.fleet.items()}
        data = {"v": VERSION, "cores": record.cores, "fleet": fleet}
    else:
        data = {"v": VERSION, **_as_data(record)}
    return json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n"


def _as_data(record: ExecutorRecord | ItemRecord) -> dict[str, Any]:
    data = {}
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        if isinstance(value, float):
            value = round(value, 9)  # the clock's own resolution
        if field.name in _ALWAYS or value != field.default:
            data[field.name] = value
    return data


def read_log(path: str | Path) -> Log:
    """Read a log from the file `path`.

    Raises:
        OSError: the file cannot be read.
        DecisionLogError: it is no log, or a line of it says what it should not.
    """
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        return parse_log(lines, name=str(path))


def parse_log(lines: Iterable[str], *, name: str = "log") -> Log:
    """Read a log from its lines; empty ones are passed over.

    Args:
        lines: the text, line by line.
        name: what errors call it.

    Raises:
        DecisionLogError: it is no log, or a line of it says what it should not.
    """
    header: Header | None = None
    items: list[ItemRecord] = []
    seen: dict[int, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        here = _Line(name, number)
        data = here.parse(line)
        if header is None:
            header = here.header(data)
            continue
        item = here.item(data, header)
        if item.id in seen:
            raise here.wrong("id", f"{item.id} stands in line {seen[item.id]} already")
        seen[item.id] = number
        items.append(item)
    if header is None:
        raise DecisionLogError(f"{name} is empty; a decision log begins with a header", path=name)
    items.sort(key=lambda item: (item.submitted, item.id))
    return Log(header=header, items=tuple(items))


@attrs.frozen
class _Line:
    """Where an error is."""

    path: str
    number: int

    def wrong(self, key: str | None, text: str) -> DecisionLogError:
        where = f"{self.path}, line {self.number}" + (f", {key!r}" if key else "")
        return DecisionLogError(f"{where}: {text}", path=self.path, line=self.number, key=key)

    def parse(self, line: str) -> dict[str, Any]:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self.wrong(
                None,
                f"{line.strip()[:40]!r} is no JSON ({error}); if the program was killed while it "
                "wrote its last line, delete that line",
            ) from None
        if not isinstance(data, dict):
            raise self.wrong(None, f"a line is a JSON object, not {line.strip()[:40]!r}")
        version = data.pop("v", None)
        if version != VERSION or isinstance(version, bool):
            raise self.wrong(
                "v", f"version {version!r} is not the one that is read here, {VERSION}"
            )
        return data

    def header(self, data: dict[str, Any]) -> Header:
        if "fleet" not in data:
            raise self.wrong("fleet", "missing; the first line of a decision log is its header")
        header = self.record(Header, data)
        fleet: dict[str, ExecutorRecord] = {}
        for name, each in data["fleet"].items():
            if not isinstance(each, dict) or not name:
                raise self.wrong("fleet", f"{name!r} is no executor: {each!r}")
            fleet[name] = self.record(ExecutorRecord, each, f"fleet.{name}.")
        return attrs.evolve(header, fleet=fleet)

    def item(self, data: dict[str, Any], header: Header) -> ItemRecord:
        item = self.record(ItemRecord, data)
        for key in ("executor", "pinned"):
            name = getattr(item, key)
            if name is not None and name not in header.fleet:
                raise self.wrong(
                    key, f"{name!r} is not in the fleet of the header, {list(header.fleet)}"
                )
        if item.ended < item.submitted:
            raise self.wrong("ended", f"{item.ended!r} is before 'submitted', {item.submitted!r}")
        if item.started is not None:
            if not item.submitted <= item.started <= item.ended:
                raise self.wrong(
                    "started", f"{item.started!r} is not between 'submitted' and 'ended'"
                )
            if item.executor is None:
                raise self.wrong("executor", "null, but the item was started")
        return attrs.evolve(item, tags=tuple(item.tags))

    def record(self, cls: type[_R], data: dict[str, Any], prefix: str = "") -> _R:
        fields: dict[str, Any] = attrs.fields_dict(cls)  # type: ignore[arg-type]  # they are attrs'
        for key in data:
            if key not in fields:
                raise self.wrong(prefix + key, f"unknown; there are {', '.join(fields)}")
        for key, field in fields.items():
            check, words = field.metadata["kind"]
            if key not in data:
                if field.default is attrs.NOTHING:
                    raise self.wrong(prefix + key, f"missing; it is {words}")
                continue
            value = data[key]
            if not (check(value) or (value is None and field.default is None)):
                raise self.wrong(prefix + key, f"{value!r} is not {words}")
        return cls(**data)
