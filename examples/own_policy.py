"""A policy in ten lines: small inputs in the caller, big ones in processes.

Run it: python own_policy.py
"""

from collections import Counter

from hybrid_compute import HybridExecutor, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.events import Event


class BySize:
    """Routes by the length of the first argument."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
        """Return the caller for short inputs; processes, and threads as a fallback, for others."""
        return ("inline",) if len(item.args[0]) < self.limit else ("process", "thread")


@task
def distinct_words(text: str) -> int:
    """Count the different words of a text."""
    return len(set(text.lower().split()))


seen: Counter[str | None] = Counter()


def note(event: Event) -> None:
    """Count the finished items of each executor."""
    if event.kind == "succeeded":
        seen[event.executor] += 1


texts = ["to be or not to be", "one " * 10_000, "the end", " ".join(map(str, range(20_000)))]
with HybridExecutor(policy=BySize(1000), observers=[note]) as ex:
    for future in [ex.submit(distinct_words, text) for text in texts]:
        print(future.result())
print(", ".join(f"{count} by {name}" for name, count in sorted(seen.items(), key=str)))
