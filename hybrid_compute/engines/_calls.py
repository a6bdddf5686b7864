"""What engines make of an item: what is called, what its tags ask for, what its worker's death is.

Pure: no threads, no locks, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hybrid_compute._contexts import Carried, packed_call
from hybrid_compute.engines._feed import iterate_carrying
from hybrid_compute.errors import ConfigurationError, WorkerCrashed
from hybrid_compute.items import WorkItem
from hybrid_compute.streamed import StreamItem

__all__ = ["by_tags", "call_of", "check_tags", "crashed"]


def call_of(
    item: WorkItem, carried: Carried | None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]:
    """Return what a worker is to call, with the context variables that go along.

    Args:
        item: of which; a stream's call gives the generator.
        carried: the variables; None: none.
    """
    fn, args, kwargs = item.fn, item.args, item.kwargs
    if isinstance(item, StreamItem):
        fn, args = args[0], args[4:]  # see `_producer.run_stream`
        if carried is not None and item.context is not None:
            fn, args = iterate_carrying, (fn, carried.pack(item.context), *args)
    elif carried is not None:
        fn, args, kwargs = packed_call(carried, item)
    assert fn is not None  # noqa: S101 - an item that was released is never sent
    return fn, args, kwargs


def crashed(item: WorkItem, who: str) -> WorkerCrashed:
    """Return the error of an item whose worker has died, of whom no more is known."""
    return WorkerCrashed(
        f"{who} died while it had {item.name!r}, which may have had effects. An item that may run "
        "twice can say so with idempotent=True and retries",
        item_name=item.name,
        pid=-1,
        exitcode=None,
        signal=None,
    )


def check_tags(what: str, given: Any) -> Mapping[str, Any]:
    """Return what was said of tags, checked.

    Raises:
        ConfigurationError: it is no mapping of words.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given):
        raise ConfigurationError(f"{what}={given!r} is no mapping of tags, such as {{'gpu': ...}}")
    return dict(given)


def by_tags(said: Mapping[str, Any], item: WorkItem) -> list[Any]:
    """Return what was said of the tags that an item has, in the order in which it was said."""
    tags = item.options.tags
    return [value for tag, value in said.items() if tag in tags] if tags else []
