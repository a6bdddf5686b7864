"""Events: what observers are told of an item's life, one frozen event a step.

Owns the record only. Events are built only while somebody listens.
"""

from __future__ import annotations

from contextvars import Context
from typing import Literal, TypeAlias

import attrs

from hybrid_compute.decisions import Choice
from hybrid_compute.tasks import TaskOptions

__all__ = ["Event", "Kind"]

#: The steps; `Event` says when each comes.
Kind: TypeAlias = Literal[
    "submitted",
    "withheld",
    "redacted",
    "routed",
    "started",
    "retried",
    "hedged",
    "dropped",
    "succeeded",
    "failed",
    "cancelled",
]


@attrs.frozen(kw_only=True)
class Event:
    """One step of one item's life.

    Attributes:
        kind: which step. "submitted" comes first; "routed" each time an executor is offered the
            item; "started" when the work begins; "retried" when the offer was refused or the
            work failed, and another attempt follows; one of "succeeded", "failed" and "cancelled"
            is the last. "hedged" when a second attempt is made beside one that takes long;
            "dropped", which may come after the last, when one of the two was not the one that
            counts. For an audit of privacy, once an item at most: "withheld" when an executor
            that leaves this machine was kept from getting it, "redacted" when one gets what
            `before_remote` made of its arguments.
        item_id: number of the item, counted from 1 by its executor.
        name: name of the task or function.
        executor: name of the executor; None before one is chosen. For "withheld", the one that was
            kept out; if there are several, the first. For "hedged", that of the second attempt.
        attempt: number of the attempt, counted from 1; 0 before the first.
        time: seconds of the monotonic clock when it happened.
        error: what was raised, for "retried" and "failed"; else None.
        options: of "submitted": what was said about the item.
        declared: of "submitted": whether it is a task, and no plain callable.
        size_bytes: of "submitted": bytes of those arguments that tell their size (text, bytes,
            lists, arrays); None for a chunk of a map.
        choice: of "routed": why the policy chose as it did, and what it predicted; None if it
            does not tell.
        wall: of "succeeded" and "failed": seconds that the work itself took, if that was measured:
            on threads and inline it is.
        cpu: of these, seconds of CPU; None likewise.
        reason: why, in words, for "withheld", "redacted" and "hedged"; else None. Names parameters
            and types, never values.
        seconds: how long the attempt ran that has ended, for "retried", "dropped" and the last;
            None if it had not started.
        calls: how many calls the item is: a chunk of a map is several.
        cost: what that attempt cost, by its executor's `Price`; None if it has none.
        context: of "submitted" and "routed": the context in copies of which the work is about to
            run. Who runs something in it (`event.context.run(variable.set, value)`) sets variables
            for the work, and for what goes along with it to other processes and services. None: it
            runs in whatever context there is, as plain callables do.
    """

    kind: Kind
    item_id: int
    name: str
    executor: str | None
    attempt: int
    time: float
    error: BaseException | None = None
    options: TaskOptions | None = None
    declared: bool | None = None
    size_bytes: int | None = None
    choice: Choice | None = None
    wall: float | None = None
    cpu: float | None = None
    reason: str | None = None
    seconds: float | None = None
    cost: float | None = None
    calls: int = 1
    context: Context | None = None
