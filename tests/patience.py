"""Deadlines for work that must have begun before its time is up, also where much else goes on."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["times_to_begin_in"]


def times_to_begin_in(first: float) -> Iterator[float]:
    """Yield a deadline to try, in seconds, and longer ones for as long as the caller goes on.

    A short one is enough on nearly any day, and the test that waits for it to pass is quick. Work
    that had not begun by then proves nothing, neither that the deadline is kept nor that it is
    not, so the test tries again, with a time within which any machine begins it.

    Raises:
        AssertionError: the last one was not enough either.
    """
    yield from (first, 2.0, 20.0)
    raise AssertionError("the work did not begin within 20 s")
