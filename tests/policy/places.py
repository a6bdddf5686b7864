"""What the tests of policies share: fleets of executors that run nothing, and items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybrid_compute import TaskOptions
from hybrid_compute.abc import Capabilities, SubExecutor, WorkItem


class Place(SubExecutor):
    """An executor that is only looked at."""

    def __init__(
        self,
        name: str,
        *,
        load: float = 0.0,
        latency: float | None = None,
        remote: bool = False,
        blocks: bool = False,
        price: object = None,
    ) -> None:
        self.name = name
        self.workers = 1
        self.capabilities = Capabilities(remote=remote, blocks=blocks)
        self.price = price  # type: ignore[assignment]
        self.now_load, self.now_latency = load, latency

    def execute(self, item: WorkItem) -> None:
        raise AssertionError("a policy runs nothing")

    def load(self) -> float:
        return self.now_load

    def latency(self) -> float | None:
        return self.now_latency

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class Guarded(dict[Any, Any]):
    """A mapping that is only changed by who holds its lock."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.changes = 0

    def __setitem__(self, key: object, value: object) -> None:
        self.noted()
        super().__setitem__(key, value)

    def setdefault(self, key: object, default: object = None) -> Any:
        self.noted()
        return super().setdefault(key, default)

    def pop(self, key: object, default: object = None) -> Any:
        self.noted()
        return super().pop(key, default)

    def noted(self) -> None:
        assert self.lock._is_owned()
        self.changes += 1


def work() -> None: ...


def make_item(
    fn: Callable[..., object] = work, *args: object, number: int | None = None, **options: object
) -> WorkItem:
    """Return an item, with a number if there are to be events about it."""
    item = Numbered(fn, args, options=TaskOptions(**options))  # type: ignore[arg-type]
    item.item_id = number
    return item


class Numbered(WorkItem):
    item_id: int | None = None
