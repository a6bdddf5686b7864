"""progress: iterate over futures as they are done, and show how far it has got.

Owns no state; the bar belongs to the iterator, on whose consumer's thread it is moved.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, as_completed
from typing import Any, TypeVar

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.maps import bar_of

__all__ = ["progress"]

T = TypeVar("T")


def progress(
    futures: Iterable[Future[T]], *, timeout: float | None = None, bar: Any = True
) -> Iterator[Future[T]]:
    """Iterate over futures as they are done, failed and cancelled ones too, with a bar.

    As the stdlib's `as_completed`, which see: any futures will do, each is yielded once, and
    `next` blocks until one is done. The bar is there from this call on, and is closed with the
    iterator.

    Args:
        futures: what to wait for; all of it is read now.
        timeout: seconds from this call after which the iterator raises TimeoutError; None never.
        bar: True shows one on a terminal, or in a notebook (needs the extra `progress`); or any
            object with `update(n)`, which is called on the consumer's thread for each future. If
            it has a `total` that is None, it is told; if it has `close`, that is called.

    Raises:
        ConfigurationError: one of `futures` is no future, or `bar` is no bar.
        ImportError: tqdm is not installed.
    """
    found = set(futures)
    for each in found:
        if not isinstance(each, Future):
            raise ConfigurationError(f"progress: {each!r} is no future; give what submit() returns")
    shown = bar_of(bar, "bar", total=len(found))
    # A function of its own: the bar, and the time-out, count from now, not from the first `next`.
    return _shown(found, None if timeout is None else time.monotonic() + timeout, shown)


def _shown(found: set[Future[T]], end: float | None, bar: Any) -> Iterator[Future[T]]:
    done = as_completed(found, None if end is None else max(0.0, end - time.monotonic()))
    del found  # it has a set of its own, and forgets what it has yielded; so does this
    try:
        for future in done:
            if bar is not None:
                bar.update(1)
            taken = [future]
            del future
            yield taken.pop()
    finally:
        close = getattr(bar, "close", None)
        if close is not None:
            close()
