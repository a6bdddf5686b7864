"""What is called in the place of a task that streams, and what it takes for a stream.

`run_stream` carries the function, as `_batch.run_batch` does: so the function travels once to each
worker, and errors have its name. No threads, no locks.
"""

from __future__ import annotations

from hybrid_compute import _pickling

TYPE_CHECKING = False  # as typing's, which workers do not load
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any

__all__ = ["as_iterator", "close_iterator", "run_stream"]


def run_stream(
    fn: Callable[..., Any],
    most: int,
    most_bytes: int,
    announced: bool,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a generator function in a worker process, and send its items.

    Args:
        fn: what returns the generator.
        most: how many items may be on their way.
        most_bytes: how many bytes of them.
        announced: somebody waits to hear that it has begun.
        *args: the function's arguments.
        **kwargs: its keywords.

    Returns:
        What the generator returned.
    """
    assert _pickling.produce is not None  # noqa: S101 - only a worker calls this
    return _pickling.produce(
        as_iterator(fn(*args, **kwargs)), most, most_bytes, announced=announced
    )


run_stream.carries_function = True  # type: ignore[attr-defined]  # see WorkItem.name


def as_iterator(value: Any) -> Iterator[Any]:
    """Return an iterator over what a function returned: a generator, or the like.

    Raises:
        TypeError: that cannot be iterated over, or is a text.
    """
    if hasattr(value, "__anext__") or hasattr(value, "__aiter__"):
        return _run_here(value.__aiter__())
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        kind = type(value)
        raise TypeError(
            f"a stream needs a generator function, or one that returns an iterator or a list; "
            f"this one returned {kind.__module__}.{kind.__qualname__}"
        )
    return iter(value)


def close_iterator(iterator: Iterator[Any]) -> bool:
    """Run what an iterator has to do at its end; False if it runs at the moment.

    What it raises then is logged: nobody waits for it any more.
    """
    close = getattr(iterator, "close", None)
    if close is not None:
        try:
            close()
        except Exception as error:
            if isinstance(error, ValueError) and getattr(iterator, "gi_running", False):
                return False
            from concurrent.futures._base import LOGGER  # noqa: PLC0415 - a worker does without

            LOGGER.exception("exception closing %r, of a stream that nobody reads on", iterator)
    return True


def _run_here(items: AsyncIterator[Any]) -> Iterator[Any]:
    """Iterate over an asynchronous iterator, on an event loop of its own that runs meanwhile."""
    import asyncio  # noqa: PLC0415 - few need it, and it takes long

    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                # An awaitable need not be a coroutine, which run_until_complete() takes as well.
                item = loop.run_until_complete(asyncio.wait_for(items.__anext__(), None))
            except StopAsyncIteration:
                return
            yield item
    finally:
        try:
            close = getattr(items, "aclose", None)
            if close is not None:
                loop.run_until_complete(close())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
