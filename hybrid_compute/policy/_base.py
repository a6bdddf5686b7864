"""What the built-in policies have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from hybrid_compute.errors import ConfigurationError

if TYPE_CHECKING:
    from hybrid_compute.events import Event

__all__ = ["Move", "check_move", "check_names", "check_policy", "learner_of", "observer_of"]

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


def check_policy(owner: str, policy: Any) -> Any:
    """Return a policy that another one is built around, checked to be one."""
    if isinstance(policy, type) or not callable(getattr(policy, "route", None)):
        raise ConfigurationError(
            f"{owner}: {policy!r} is no policy, for it has no method route(item, fleet); give an "
            "object such as Adaptive()"
        )
    return policy


def learner_of(policy: Any) -> Any:
    """Return the policy that measurements are for: of one around another, the other."""
    return getattr(policy, "learner", policy)


def observer_of(policy: object) -> Callable[[Event], None] | None:
    """Return the policy's own `observe`, if it learns; else None."""
    observe: Any = getattr(policy, "observe", None)
    return cast("Callable[[Event], None]", observe) if callable(observe) else None
