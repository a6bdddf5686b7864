"""Checks: the rules of a contract, one by one, and how it is told that one was broken.

Owns what the two suites share. A check opens a scene, in which the thing under test is made anew,
and lets its rule look; whatever may hang is called on a thread of its own, for a bounded time. Such
a thread is a daemon: one that a broken executor never lets go must not keep the interpreter from
its end.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import attrs

__all__ = [
    "Check",
    "ContractBroken",
    "Rule",
    "Stage",
    "call",
    "left_of",
    "rule",
    "run_all",
    "some_of",
    "together",
]

M = TypeVar("M")  # what makes the thing under test
S = TypeVar("S", bound="Stage")
T = TypeVar("T")


class ContractBroken(AssertionError):
    """An executor or a transport does not do what its contract says.

    Attributes:
        check: name of the check that saw it.
        rule: the rule that is broken, in words.
        subject: what broke it.
        seen: what it did instead.
    """

    check: str
    rule: str
    seen: str
    subject: str

    def __init__(self, check: str, rule: str, subject: str, seen: str) -> None:
        super().__init__(check, rule, subject, seen)
        self.check, self.rule, self.subject, self.seen = check, rule, subject, seen

    def __str__(self) -> str:
        return f"{self.subject} breaks the rule {self.check!r}: {self.rule}. But {self.seen}."


@attrs.frozen
class Rule(Generic[S]):
    """One rule, and who looks whether it is kept.

    Attributes:
        name: an identifier.
        text: the rule in words.
        needs: the capability of an executor without which it says nothing; with a "not " before
            it, the one with which; None: it holds for all.
        look: the check itself, in an open scene.
    """

    name: str
    text: str
    needs: str | None
    look: Callable[[S], None]


def rule(text: str, needs: str | None = None) -> Callable[[Callable[[S], None]], Rule[S]]:
    """Return what makes a rule of a function, whose name it gets; see `Rule`."""
    return lambda look: Rule(look.__name__, text, needs, look)


class Stage(Protocol):
    """A scene, as a check sees it."""

    def broken(self, seen: str) -> NoReturn:
        """Raise ContractBroken."""
        ...

    def holds(self, rule: Rule[Any], /) -> bool:
        """Say whether the rule says anything of what is tested here."""
        ...


@attrs.frozen(repr=False)
class Check(Generic[M]):
    """One rule of a contract as a test: call it with what makes the thing to be tested.

    Attributes:
        name: an identifier, such as `delivers_a_result_once`; `str()` of the check as well, for the
            `ids=` of pytest.
        rule: the rule in words.
        needs: capability of an executor without which the rule says nothing; see `executor_checks`.
    """

    name: str
    rule: str
    needs: str | None
    _run: Callable[[M, float], None]

    def __call__(self, make: M, *, timeout: float = 10.0) -> None:
        """Test a new one. Blocks for a bounded time; from any thread.

        Args:
            make: see `check_executor` and `check_transport`.
            timeout: seconds that nothing may take which is to happen at some time.

        Raises:
            ContractBroken: the rule is broken.
        """
        self._run(make, timeout)

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    @classmethod
    def of(
        cls,
        rule: Rule[S],
        scene: Callable[[Rule[S], M, float], AbstractContextManager[S]],
    ) -> Check[M]:
        """Return the check of a `rule`, which makes a `scene` of (rule, make, timeout)."""

        def run(make: M, timeout: float) -> None:
            with scene(rule, make, timeout) as stage:
                if not stage.holds(rule):
                    return
                try:
                    rule.look(stage)
                except ContractBroken:
                    raise
                except Exception as error:
                    told = f"{type(error).__name__}: {error}"
                    try:
                        stage.broken(f"this was raised: {told}")
                    except ContractBroken as broken:
                        raise broken from error

        return cls(rule.name, rule.text, rule.needs, run)


def some_of(checks: tuple[Check[M], ...], skip: tuple[str, ...]) -> tuple[Check[M], ...]:
    """Return the checks but those whose names are in `skip`.

    Raises:
        ValueError: there is no check of that name.
    """
    unknown = set(skip) - {each.name for each in checks}
    if unknown:
        raise ValueError(
            f"skip={skip!r}: there is no check {min(unknown)!r}; there are "
            + ", ".join(each.name for each in checks)
        )
    return tuple(each for each in checks if each.name not in skip)


def run_all(checks: tuple[Check[M], ...], make: M, timeout: float) -> None:
    """Run one check after another; the first rule that is broken ends it."""
    for check in checks:
        check(make, timeout=timeout)


def call(do: Callable[[], T], timeout: float) -> tuple[bool, Callable[[], T]]:
    """Call a function on a thread of its own.

    Returns:
        Whether it has returned, or raised, within `timeout` seconds; and what returns, or raises,
        the same.
    """
    said: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()

    def run() -> None:
        try:
            value = do()
        except BaseException as error:
            caught = error

            def tell() -> T:
                raise caught

            said.put(tell)
        else:
            said.put(lambda: value)

    thread = threading.Thread(target=run, name="hybrid_compute.testing", daemon=True)
    thread.start()
    try:
        told = said.get(timeout=timeout)
    except queue.Empty:
        return False, _nothing
    thread.join()
    return True, told


def together(count: int, do: Callable[[], object], timeout: float) -> list[BaseException | None]:
    """Call a function on so many threads at once.

    Returns:
        For each that has returned in time None, or what it raised.
    """
    begin = threading.Barrier(count)
    said: list[BaseException | None] = []

    def run() -> None:
        begin.wait(timeout)
        try:
            do()
        except BaseException as error:
            said.append(error)
        else:
            said.append(None)

    threads = [
        threading.Thread(target=run, name="hybrid_compute.testing", daemon=True)
        for _ in range(count)
    ]
    for each in threads:
        each.start()
    end = time.monotonic() + timeout
    for each in threads:
        each.join(max(0.0, end - time.monotonic()))
    return said


def _nothing() -> NoReturn:
    raise TimeoutError("it has not returned")


def left_of(before: set[threading.Thread], timeout: float) -> list[str]:
    """Return the names of threads that were not there before and do not end in time."""
    end = time.monotonic() + timeout
    new = [each for each in threading.enumerate() if each not in before]
    for each in new:
        if each is not threading.current_thread():
            with contextlib.suppress(RuntimeError):  # it is being started at this moment
                each.join(max(0.0, end - time.monotonic()))
    return sorted(each.name for each in new if each.is_alive())
