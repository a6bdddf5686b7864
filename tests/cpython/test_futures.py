"""CPython's tests of Future, against HybridFuture."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any

import pytest

from hybrid_compute import HybridFuture

from . import adapt, suite

if suite.path_entry() is None:
    pytest.skip(suite.MISSING, allow_module_level=True)


def _create(state: str, exception: BaseException | None = None, result: Any = None) -> Future:
    future = HybridFuture()
    future._state, future._exception, future._result = state, exception, result
    return future


def _swaps() -> dict[str, Any]:
    """Return the module's globals that are futures, or make them, as HybridFutures."""
    swaps: dict[str, Any] = {"Future": HybridFuture, "create_future": _create}
    for name, value in vars(suite.module("test_future")).items():
        if isinstance(value, Future):
            swaps[name] = _create(value._state, value._exception, value._result)
    return swaps


def _log_to_stderr(test: Any) -> None:
    # Where some of the tests look for records, and where they go unless a handler is there
    # already: pytest has one.
    logger = logging.getLogger("concurrent.futures")
    logger.addHandler(logging.lastResort)
    test.addCleanup(logger.removeHandler, logging.lastResort)


HybridFuture_FutureTests = adapt.swap("test_future", "FutureTests", _swaps(), before=_log_to_stderr)
