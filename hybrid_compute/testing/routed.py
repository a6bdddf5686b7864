"""assert_routed: where work went, as a test says it. No threads, no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

from hybrid_compute.futures import HybridFuture

__all__ = ["assert_routed"]


def assert_routed(
    target: Any,
    name: str,
    fn: Callable[..., Any] | None = None,
    /,
    *args: Any,
    after: Sequence[str] = (),
    rule: str | None = None,
    timeout: float = 10.0,
) -> None:
    """Raise AssertionError unless work was done by a certain executor.

    Blocks until the work is done; what it returned, or raised, does not matter.

    Args:
        target: the future of the work; or the executor to which `fn` is to be submitted.
        name: name of the executor that must have had it last.
        fn: what to submit, if `target` is an executor.
        *args: its arguments.
        after: names of the executors that must have had it before, in order; () is none.
        rule: words that must be in the policy's reason; None: whatever it was.
        timeout: seconds to wait for the work.

    Raises:
        AssertionError: it was done elsewhere; the message is what `future.explain()` tells.
        TypeError: `target` is neither a future of this library nor an executor with `fn`.
    """
    if isinstance(target, HybridFuture):
        future = target
    elif fn is not None and callable(getattr(target, "submit", None)):
        future = target.submit(fn, *args)
    else:
        raise TypeError(
            f"{target!r} is no future of hybrid_compute; give one, or an executor and what to "
            "submit to it: assert_routed(executor, 'process', fn, argument)"
        )
    if wait([future], timeout).not_done:
        raise AssertionError(f"not done after {timeout:g} s: {future.explain()}")
    told = future.explain()
    earlier = tuple(each.executor for each in told.attempts[:-1])
    if told.executor != name:
        raise AssertionError(f"expected executor {name!r}, but it went to {told}")
    if earlier != tuple(after):
        raise AssertionError(
            f"expected that {tuple(after)!r} had it before, not {earlier!r}; it went to {told}"
        )
    if rule is not None and rule not in told.rule:
        raise AssertionError(f"expected a rule with {rule!r}; it went to {told}")
