"""A program as a user would write it: nothing in it tells where its tasks run."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import as_completed
from typing import Any

from hybrid_compute import HybridExecutor, TaskRegistry

TASKS = TaskRegistry()


@TASKS.task
def count_words(text: str) -> dict[str, int]:
    return dict(Counter(text.split()))


@TASKS.task
def word_count(text: str) -> int:
    return len(text.split())


@TASKS.task
def square(number: int) -> int:
    return number * number


@TASKS.task
def countdown(start: int):
    yield from range(start, 0, -1)
    return "lift-off"


@TASKS.task
def fails(text: str) -> None:
    raise ValueError(text)


def run_numbers(executor: HybridExecutor) -> dict[str, Any]:
    """Run calls that take and return numbers, which is all that a sandbox does."""
    futures = [executor.submit(square, number) for number in (3, -4, 2**20)]
    return {
        "one by one": [each.result() for each in futures],
        "mapped": list(executor.map(square, range(20))),
        "places": [each.explain().executor for each in futures],
    }


def run(executor: HybridExecutor) -> dict[str, Any]:
    """Run every kind of call; return what came of it, and where it was."""
    parts = [executor.submit(count_words, text) for text in ("a b", "a c", "b a")]
    words: Counter[str] = Counter()
    for each in as_completed(parts):
        words.update(each.result())
    stream = executor.submit(countdown, 5).result()
    failed = executor.submit(fails, "on purpose")
    return {
        "words": dict(words),
        "squares": list(executor.map(square, range(100))),
        "stream": [*stream, stream.value],
        "error": "on purpose" in str(failed.exception()),
        "places": [each.explain().executor for each in [*parts, failed]],
    }
