"""Decisions: why a work item went where it went, and what came of it.

Owns the record that travels with an item and stays with its future, and what a person reads of it.
A `Choice` is made by a policy, is never changed, and may stand for many items; a `Decision` is one
item's own, and is written by whoever has the item in hand. Keeps no function, argument or result.
"""

from __future__ import annotations

from hybrid_compute._values import Value

__all__ = ["Attempt", "Choice", "Decision", "Explanation", "explain", "seconds_in_words"]


class Choice(Value):
    """What a policy chose, and why.

    Attributes:
        rule: in words a person can read.
        candidates: seconds from now to the end that were predicted, by executor; the least first.
            Empty where nothing was predicted.
    """

    __slots__ = ("candidates", "rule")

    rule: str
    candidates: tuple[tuple[str, float], ...]

    def __init__(self, *, rule: str, candidates: tuple[tuple[str, float], ...] = ()) -> None:
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "candidates", candidates)


class Attempt(Value):
    """One executor that had the item.

    Attributes:
        executor: its name.
        error: why another one was needed, as text; None for the last one.
    """

    __slots__ = ("error", "executor")

    executor: str
    error: str | None

    def __init__(self, *, executor: str, error: str | None = None) -> None:
        self._set(executor=executor, error=error)


class Decision:
    """One item's way, as far as it has got.

    Attributes:
        choice: what the policy said.
        executor: name of the executor that has it, or had it last; None before.
        earlier: those that had it before, and why they were not the last.
        submitted: seconds of the performance counter when it was routed.
        ended: the same of its end; None before.
        wall: seconds that the work itself took, where it ran; None if that was not measured.
        cpu: seconds of CPU of these; None likewise.
        hedge: why a second attempt was made beside it, and where; None: there was none.
    """

    __slots__ = ("choice", "cpu", "earlier", "ended", "executor", "hedge", "submitted", "wall")

    def __init__(self, choice: Choice, submitted: float) -> None:
        self.choice: Choice = choice
        self.submitted: float = submitted
        self.executor: str | None = None
        self.earlier: tuple[Attempt, ...] = ()
        self.ended: float | None = None
        self.wall: float | None = None
        self.cpu: float | None = None
        self.hedge: str | None = None

    def copy(self) -> Decision:
        """Return another one that says the same."""
        copied = Decision(self.choice, self.submitted)
        for name in self.__slots__:
            setattr(copied, name, getattr(self, name))
        return copied


class Explanation(Value):
    """Where an item went, and why: `str()` of it is for people. Immutable.

    Attributes:
        rule: the rule that chose, in words.
        candidates: predicted seconds to the end, by executor, the least first; may be empty.
        attempts: the executors that had it, in order.
        elapsed: seconds from `submit` to its end; None if it is not over, or was not measured.
        wall: seconds that the work itself took; None likewise.
        cpu: seconds of CPU of these; None likewise.
        hedge: why a second attempt was made beside the first, and where; None: there was none.
    """

    __slots__ = ("attempts", "candidates", "cpu", "elapsed", "hedge", "rule", "wall")

    rule: str
    candidates: tuple[tuple[str, float], ...]
    attempts: tuple[Attempt, ...]
    elapsed: float | None
    wall: float | None
    cpu: float | None
    hedge: str | None

    def __init__(
        self,
        *,
        rule: str,
        candidates: tuple[tuple[str, float], ...] = (),
        attempts: tuple[Attempt, ...] = (),
        elapsed: float | None = None,
        wall: float | None = None,
        cpu: float | None = None,
        hedge: str | None = None,
    ) -> None:
        self._set(
            rule=rule,
            candidates=candidates,
            attempts=attempts,
            elapsed=elapsed,
            wall=wall,
            cpu=cpu,
            hedge=hedge,
        )

    @property
    def executor(self) -> str | None:
        """Name of the executor that had it last; None if none had."""
        return self.attempts[-1].executor if self.attempts else None

    def __str__(self) -> str:
        lines = [f"{self.executor or 'nowhere yet'}: {self.rule}"]
        if self.candidates:
            told = ", ".join(f"{name} {seconds_in_words(each)}" for name, each in self.candidates)
            lines.append(f"  predicted: {told}")
        if self.hedge is not None:
            lines.append(f"  hedged: {self.hedge}")
        lines += [
            f"  {each.executor} did not do it: {each.error}"
            for each in self.attempts
            if each.error is not None
        ]
        if self.elapsed is not None:
            took = f"  took: {seconds_in_words(self.elapsed)}"
            if self.wall is not None:
                took += f", of which the work {seconds_in_words(self.wall)}"
            if self.cpu is not None:
                took += f" ({seconds_in_words(self.cpu)} of CPU)"
            lines.append(took)
        return "\n".join(lines)


def explain(told: Decision | Choice | str | None) -> Explanation:
    """Return the explanation of what a future remembers of its item's way.

    Args:
        told: a `Decision`; a `Choice` of an item that ran right where it was submitted; the name
            of an executor that was the only choice; None for a plain callable.
    """
    if told is None:
        return Explanation(
            rule="a plain callable stays on the thread pool",
            attempts=(Attempt(executor="thread"),),
        )
    if isinstance(told, str):
        return Explanation(rule="the only choice", attempts=(Attempt(executor=told),))
    if isinstance(told, Choice):
        return Explanation(
            rule=told.rule, candidates=told.candidates, attempts=(Attempt(executor="inline"),)
        )
    attempts = told.earlier
    if told.executor is not None:
        attempts += (Attempt(executor=told.executor),)
    return Explanation(
        rule=told.choice.rule,
        candidates=told.choice.candidates,
        attempts=attempts,
        elapsed=None if told.ended is None else told.ended - told.submitted,
        wall=told.wall,
        cpu=told.cpu,
        hedge=told.hedge,
    )


def seconds_in_words(seconds: float) -> str:
    """Return a time for people: three figures and a unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.2g} us"
