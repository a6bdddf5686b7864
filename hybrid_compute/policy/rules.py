"""Rules: the first rule whose predicate holds names the executors.

Predicates compose: `tagged("gpu") & ~named("tiny_*")`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable

from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy._base import Move, check_move, check_names

__all__ = ["Predicate", "Rule", "Rules", "named", "tagged", "when"]


class Predicate:
    """A question about an item; combine with `&`, `|` and `~`.

    Args:
        test: called with the item on the submitter's thread; must be quick and pure.
        text: how it prints.

    Raises:
        ConfigurationError: `test` cannot be called.
    """

    def __init__(self, test: Callable[[WorkItem], bool], text: str = "") -> None:
        if not callable(test):
            raise ConfigurationError(f"a predicate needs a function of an item, not {test!r}")
        self._test = test
        self._text = text or getattr(test, "__qualname__", repr(test))

    def __call__(self, item: WorkItem) -> bool:
        """Ask the question about an `item`. Quick and pure; any thread."""
        return self._test(item)

    def __and__(self, other: Callable[[WorkItem], bool]) -> Predicate:
        return Predicate(lambda item: self(item) and other(item), f"({self!r} & {other!r})")

    def __or__(self, other: Callable[[WorkItem], bool]) -> Predicate:
        return Predicate(lambda item: self(item) or other(item), f"({self!r} | {other!r})")

    def __invert__(self) -> Predicate:
        return Predicate(lambda item: not self(item), f"~{self!r}")

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self!r} has no truth by itself; combine predicates with &, | and ~, not with and, "
            f"or, not"
        )

    def __repr__(self) -> str:
        return self._text


def tagged(tag: str) -> Predicate:
    """True for items whose options have this tag."""
    return Predicate(lambda item: tag in (item.options.tags or ()), f"tagged({tag!r})")


def named(pattern: str) -> Predicate:
    """True for items whose name matches a shell-style pattern such as "resize*"."""
    return Predicate(lambda item: fnmatch.fnmatchcase(item.name, pattern), f"named({pattern!r})")


class Rule:
    """A predicate and the executors for the items of which it is true; made by `when`. Immutable.

    Args:
        predicate: called with each item on its submitter's thread; must be quick and pure.
        names: of the executors, the first choice and then fallbacks.

    Raises:
        ConfigurationError: `predicate` cannot be called, or there are no names.
    """

    def __init__(self, predicate: Callable[[WorkItem], bool], names: tuple[str, ...]) -> None:
        if not callable(predicate):
            raise ConfigurationError(
                f"when({predicate!r}, ...): needs a predicate such as tagged('gpu'), "
                f"or any function of a work item"
            )
        self.predicate = predicate
        self.names: tuple[str, ...] = check_names("when(...)", names)

    def __repr__(self) -> str:
        return f"when({self.predicate!r}, {', '.join(map(repr, self.names))})"


def when(predicate: Callable[[WorkItem], bool], *names: str) -> Rule:
    """Make a rule: items of which the predicate is true go to these executors, in this order."""
    return Rule(predicate, names)


class Rules:
    """The first rule that applies decides; else the default.

    Args:
        rules: made by `when`, the most particular first.
        default: name or names for all other items.
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.

    Attributes:
        names: all names that `route` may answer; HybridExecutor checks them when it is made.
        moves_plain: whether plain callables are routed too.

    Raises:
        ConfigurationError: one of `rules` was not made by `when`, or a name is none.
    """

    def __init__(
        self, *rules: Rule, default: str | tuple[str, ...], move: Move = "declared"
    ) -> None:
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ConfigurationError(
                    f"Rules(...): {rule!r} is no rule; write when(predicate, 'executor')"
                )
        self._rules = rules
        self._default = check_names(
            "Rules(default=...)", (default,) if isinstance(default, str) else tuple(default)
        )
        self.names: frozenset[str] = frozenset(self._default).union(*(rule.names for rule in rules))
        self.moves_plain: bool = check_move("Rules", move)

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the executors of the first rule that applies, as far as they can run the item."""
        for rule in self._rules:
            if rule.predicate(item):
                return tuple(name for name in rule.names if name in fleet)
        return tuple(name for name in self._default if name in fleet)

    def __repr__(self) -> str:
        inside = ", ".join([*map(repr, self._rules), f"default={self._default!r}"])
        return f"Rules({inside})"
