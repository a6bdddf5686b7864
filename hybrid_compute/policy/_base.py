"""What the built-in policies have in common."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hybrid_compute.errors import ConfigurationError

__all__ = ["Move", "check_move", "check_names"]

Move: TypeAlias = Literal["declared", "all"]


def check_move(policy: str, move: object) -> bool:
    """Return whether plain callables may move too."""
    if move not in ("declared", "all"):
        raise ConfigurationError(
            f"{policy}(move={move!r}): move is 'declared' (only tasks leave the thread pool) "
            f"or 'all' (plain callables too)"
        )
    return move == "all"


def check_names(policy: str, names: tuple[object, ...]) -> tuple[str, ...]:
    """Return the names of executors, checked to be some and to be strings."""
    if not names:
        raise ConfigurationError(f"{policy} needs the name of at least one executor")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(
                f"{policy}: {name!r} is no name of an executor; give a string such as 'process'"
            )
    return names  # type: ignore[return-value]  # they were just checked
