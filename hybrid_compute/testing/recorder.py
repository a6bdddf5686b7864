"""Recorder: an observer that keeps what it is told, and lets a test wait for it.

Owns a list of events. Its one lock, that of the condition, guards the list; whoever waits is woken
by the next event, and asks nobody's code under the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from hybrid_compute.events import Event, Kind

__all__ = ["Recorder"]


class Recorder:
    """Keeps events: give it to `HybridExecutor(observers=[recorder])`.

    All methods may be called from any thread; only `wait_for` blocks. Events come in the order in
    which they happened, as far as threads have one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards _events; its lock is re-entrant
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far."""
        with self._changed:
            return tuple(self._events)

    def of(
        self,
        kind: Kind | None = None,
        *,
        name: str | None = None,
        executor: str | None = None,
        item_id: int | None = None,
    ) -> list[Event]:
        """Return the events that are as was asked; None asks for nothing.

        Args:
            kind: their kind.
            name: name of the task or function.
            executor: name of the executor.
            item_id: number of the item.
        """
        return [
            each
            for each in self.events
            if (kind is None or each.kind == kind)
            and (name is None or each.name == name)
            and (executor is None or each.executor == executor)
            and (item_id is None or each.item_id == item_id)
        ]

    def kinds(self, item_id: int | None = None) -> list[Kind]:
        """Return the kinds of all events in their order, or of the item `item_id` alone."""
        return [each.kind for each in self.of(item_id=item_id)]

    def wait_for(
        self,
        kind: Kind | None = None,
        *,
        count: int = 1,
        timeout: float = 10.0,
        name: str | None = None,
        executor: str | None = None,
        item_id: int | None = None,
    ) -> list[Event]:
        """Block until there are so many events as were asked for; return them.

        Args:
            kind: as `of` has it, and so are `name`, `executor` and `item_id`.
            count: how many.
            timeout: seconds.
            name: see `kind`.
            executor: see `kind`.
            item_id: see `kind`.

        Raises:
            TimeoutError: they did not come; it lists what came.
        """
        end = time.monotonic() + timeout
        while True:
            seen = len(self.events)
            found = self.of(kind, name=name, executor=executor, item_id=item_id)
            if len(found) >= count:
                return found
            if not self._more_than(seen, end - time.monotonic()):
                raise TimeoutError(
                    f"{len(found)} of {count} events came within {timeout:g} s (kind={kind!r}, "
                    f"name={name!r}, executor={executor!r}, item_id={item_id!r}); there were: "
                    f"{_told(self.events) or 'none'}"
                )

    def _more_than(self, seen: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._events) != seen, timeout)

    def clear(self) -> None:
        """Forget all."""
        with self._changed:
            self._events.clear()
            self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<Recorder: {len(self._events)} events>"


def _told(events: Iterable[Event]) -> str:
    return ", ".join(f"{each.kind} {each.name!r} ({each.executor})" for each in events)
