"""Retry: how often, how soon and after what a failed work item is tried again.

Owns the rule and the budget that keeps retries from becoming a storm. Pure: chance and time are
passed in. `RetryBudget` has a lock, which guards its two numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hybrid_compute._values import Value
from hybrid_compute.errors import ConfigurationError

__all__ = ["Retry", "RetryBudget", "as_retry"]

_MOST_DOUBLINGS = 64


class Retry(Value):
    """When to try again.

    The wait before attempt n + 1 is `backoff * factor ** (n - 1)` seconds, `longest` at most, and
    with `jitter` a random part of that: "full jitter", which spreads clients that failed together
    better than any other way (M. Brooker, "Exponential Backoff And Jitter", 2015). No worker sleeps
    meanwhile: the item waits with a timer. If it runs inline, its submitter waits.

    Args:
        attempts: how often it is tried in all, the first time included; at least 1.
        backoff: seconds before the second attempt; 0: at once.
        factor: by how much each wait is longer than the one before; at least 1.
        longest: seconds of the longest wait.
        jitter: False: the waits are as computed.
        on: which errors are tried again: a type, a tuple of types, or a function of the error that
            says whether. What a task raised on a service is a `RemoteTaskError`, whose `type_name`
            tells what it was there. Default: every `Exception`.

    Raises:
        ConfigurationError: a value is out of range.
    """

    __slots__ = ("attempts", "backoff", "factor", "jitter", "longest", "on")

    attempts: int
    backoff: float
    factor: float
    longest: float
    jitter: bool
    on: Any

    def __init__(
        self,
        attempts: int = 3,
        backoff: float = 0.1,
        *,
        factor: float = 2.0,
        longest: float = 30.0,
        jitter: bool = True,
        on: type[BaseException]
        | tuple[type[BaseException], ...]
        | Callable[[BaseException], bool] = Exception,
    ) -> None:
        if type(attempts) is not int or attempts < 1:
            raise ConfigurationError(
                f"Retry(attempts={attempts!r}): give how often it is tried in all, at least 1"
            )
        for name, value, least in (
            ("backoff", backoff, 0.0),
            ("factor", factor, 1.0),
            ("longest", longest, 0.0),
        ):
            if type(value) not in (int, float) or not least <= value < float("inf"):
                raise ConfigurationError(
                    f"Retry({name}={value!r}): give a number of at least {least:g}"
                )
        if not isinstance(jitter, bool):
            raise ConfigurationError(f"Retry(jitter={jitter!r}): give True or False")
        kinds = on if isinstance(on, tuple) else (on,)
        errors = all(isinstance(each, type) and issubclass(each, BaseException) for each in kinds)
        if on == () or (not errors and (isinstance(on, (tuple, type)) or not callable(on))):
            raise ConfigurationError(
                f"Retry(on={on!r}): give a type of exceptions, a tuple of types, or a function"
            )
        self._set(
            attempts=attempts,
            backoff=float(backoff),
            factor=float(factor),
            longest=float(longest),
            jitter=jitter,
            on=on,
        )

    def delay(
        self,
        failures: int,
        error: BaseException,
        chance: Callable[[], float] | None = None,
        *,
        elapsed: float = 0.0,
    ) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is to be none.

        Args:
            failures: how many attempts have failed, at least 1.
            error: what ended the last one.
            elapsed: seconds since the first one was asked for; makes no difference here.
            chance: gives a number from 0 to 1, for the jitter; None: `random.random`.
        """
        if failures >= self.attempts or not self._is_for(error):
            return None
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        wait = min(self.longest, self.backoff * self.factor**doublings)
        if not self.jitter:
            return wait
        if chance is None:
            import random  # noqa: PLC0415 - it takes 5 ms, and few need it

            chance = random.random
        return wait * chance()

    def _is_for(self, error: BaseException) -> bool:
        if isinstance(self.on, (type, tuple)):
            return isinstance(error, self.on)
        return bool(self.on(error))


class _OfTenacity:
    """What a `tenacity.Retrying` says, asked without running anything."""

    def __init__(self, retrying: Any) -> None:
        self._retrying = retrying

    def delay(self, failures: int, error: BaseException, *, elapsed: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt; None: there is to be none."""
        import tenacity  # noqa: PLC0415 - whoever has such an object has it

        rules = self._retrying
        state = tenacity.RetryCallState(rules, None, (), {})
        state.attempt_number = failures
        state.set_exception((type(error), error, error.__traceback__))
        state.start_time = (state.outcome_timestamp or 0.0) - elapsed
        if not rules.retry(state):
            return None
        wait = float(rules.wait(state)) if rules.wait else 0.0
        state.upcoming_sleep = wait  # which `stop_before_delay` looks at: as tenacity, in its order
        return None if rules.stop(state) else wait

    def __repr__(self) -> str:
        return repr(self._retrying)


def as_retry(value: Any) -> Any:
    """Return what `retries=` was given, as a number or as something with `delay`.

    Raises:
        ConfigurationError: it is neither a whole number, nor a `Retry`, nor of tenacity.
    """
    if value is None or isinstance(value, (Retry, _OfTenacity)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if all(callable(getattr(value, name, None)) for name in ("retry", "stop", "wait")):
        return _OfTenacity(value)
    raise ConfigurationError(
        f"retries={value!r} is not a whole number of at least 0; a Retry(...), or a "
        f"tenacity.Retrying(...), will do too"
    )


class RetryBudget:
    """Keeps attempts that repeat others to a share of all, so that a service is not buried in them.

    Each first attempt earns a part of a retry, and so does time; what is not used is kept, up to a
    bound. (As Finagle's `RetryBudget`, whose defaults these are: a fifth, and ten a second.) What
    it has not left, another executor of the item's route may do, if there is one.
    Thread-safe; never blocks.

    Args:
        share: retries for each first attempt.
        least: retries a second, whatever happens.
        most: how many may be saved up, and are there at first. By default enough for the loss of a
            connection with all the calls that a server takes over it (256: `Limits.in_flight` and
            `Limits.ahead`), and for that of the next.

    Raises:
        ConfigurationError: a value is not a finite number that is 0 or more.
    """

    def __init__(self, share: float = 0.2, least: float = 10.0, most: float = 512.0) -> None:
        for name, value in (("share", share), ("least", least), ("most", most)):
            given: Any = value
            if (
                isinstance(given, bool)
                or not isinstance(given, (int, float))
                or not 0 <= given < float("inf")
            ):
                raise ConfigurationError(
                    f"RetryBudget({name}={value!r}): give a number of at least 0"
                )
        self._share = share
        self._least = least
        self._most = most
        self._lock = threading.RLock()  # guards both below; re-entrant for signal handlers
        self._left = most
        self._seen: float | None = None

    def earn(self) -> None:
        """Count a first attempt."""
        with self._lock:
            self._left = min(self._most, self._left + self._share)

    def spend(self, now: float) -> bool:
        """Say whether there may be one more retry, and count it if so.

        Args:
            now: seconds of a clock that never goes back.
        """
        with self._lock:
            if self._seen is not None:
                self._left = min(self._most, self._left + self._least * (now - self._seen))
            self._seen = now
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        """Count one retry less: it was not made after all."""
        with self._lock:
            self._left = min(self._most, self._left + 1)
