"""What a policy has learned, as a file: JSON, one row for each task and size class.

Pure but for the two functions that read and write the file. Times of another machine would
mislead, so a row tells only what a task is like; the costs of executors are measured anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hybrid_compute.errors import ConfigurationError

if TYPE_CHECKING:
    from hybrid_compute.policy._belief import Belief

__all__ = ["load", "recall", "rows", "save"]

_FORMAT = "hybrid_compute estimates"
_VERSION = 1
_NUMBERS = ("run", "cpu", "held", "spread", "out_bytes")
_REMEDY = "write it with Adaptive.save(path), or leave estimates= out"


def rows(beliefs: Iterable[Belief]) -> list[dict[str, Any]]:
    """Return the rows of some beliefs."""
    return [
        {
            "task": each.origin,
            "size": each.key[1],
            "runs": each.runs,
            "quick": each.quick,
            **{name: getattr(each, name) for name in _NUMBERS},
        }
        for each in beliefs
    ]


def recall(belief: Belief, row: Mapping[str, Any]) -> None:
    """Believe what a row says."""
    for name in _NUMBERS:
        setattr(belief, name, float(row[name]))
    belief.runs, belief.quick = row["runs"], row["quick"]
    belief.classify()


def save(path: str | os.PathLike[str], found: list[dict[str, Any]]) -> None:
    """Write rows to a file, which is replaced as a whole."""
    import json  # noqa: PLC0415 - most programs save nothing
    import tempfile  # noqa: PLC0415

    text = json.dumps({"format": _FORMAT, "version": _VERSION, "tasks": found}, indent=1)
    from pathlib import Path  # noqa: PLC0415 - it takes long to import

    target = Path(path).absolute()
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - it is closed before it is moved
        "w", dir=target.parent, delete=False, encoding="utf-8"
    )
    try:
        with file:
            file.write(text)
        Path(file.name).replace(target)
    except BaseException:
        Path(file.name).unlink()
        raise


def load(path: str | os.PathLike[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the rows of a file.

    Raises:
        ConfigurationError: it is not there, or is no such file, or one of another version.
    """
    import json  # noqa: PLC0415 - see `save`

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"estimates={os.fspath(path)!r} cannot be read: {error}; {_REMEDY}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigurationError(f"estimates={os.fspath(path)!r} has no estimates; {_REMEDY}")
    if content.get("version") != _VERSION:
        raise ConfigurationError(
            f"estimates={os.fspath(path)!r} is of version {content.get('version')!r}, and this "
            f"release reads version {_VERSION}; {_REMEDY}"
        )
    found = {}
    tasks = content.get("tasks")
    rows: list[Any] = tasks if isinstance(tasks, list) else [None]
    for number, row in enumerate(rows):
        if not _is_row(row):
            raise ConfigurationError(
                f"estimates={os.fspath(path)!r}: row {number} is {row!r:.200}, which is no "
                f"estimate; {_REMEDY}"
            )
        found[row["task"], row["size"]] = row
    return found


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("task"), str)
        and all(type(row.get(name)) is int and row[name] >= 0 for name in ("size", "runs", "quick"))
        and all(
            isinstance(row.get(name), (int, float)) and 0 <= row[name] < 1e12 for name in _NUMBERS
        )
    )
