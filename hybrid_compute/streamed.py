"""StreamItem: a work item whose outcome is a stream.

Owns the two halves of such an item's life. Until its generator has started it is an item like any
other: queued, cancelled, retried, sent elsewhere. Then `begin` settles the caller's future with
the `Stream`, and what its executor goes on to say of the item, `succeed` or `fail`, ends the
stream: behind the items before it. To its executor nothing changes: the item has a future that
runs, though it is another one, which nobody else has.

Locks: none of its own; like any item it is in one pair of hands at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError
from contextlib import suppress
from threading import current_thread
from typing import Any

from hybrid_compute._contexts import open_in
from hybrid_compute._producer import as_iterator, close_iterator, run_stream
from hybrid_compute._seats import here
from hybrid_compute.channels import BUFFER_BYTES, BUFFER_ITEMS, Channel, Source
from hybrid_compute.futures import HybridFuture
from hybrid_compute.items import WorkItem
from hybrid_compute.routed import RoutedItem
from hybrid_compute.running import item_runs, runs_work
from hybrid_compute.streams import Stream
from hybrid_compute.tasks import TaskOptions

__all__ = ["PullSource", "StreamItem"]


def _nobody() -> None:
    return None


class PullSource(Source):
    """A generator that runs in its consumer, step by step."""

    def __init__(
        self,
        item: WorkItem,
        iterator: Iterator[Any],
        channel: Channel,
        owner: Callable[[], Any],
    ) -> None:
        self._owner = owner
        self._item = item
        self._iterator = iterator
        self._channel = channel

    @runs_work(lambda frame: item_runs(frame["self"]._item, frame["self"]._owner))
    def pull(self) -> bool:
        """Run it as far as its next item."""
        deadline = self._item.deadline
        if deadline is not None and here.limit.deadline != deadline:
            outer = here.limit.deadline
            here.limit.deadline = deadline  # for what it submits
            try:
                return self.pull()
            finally:
                here.limit.deadline = outer
        try:
            value = next(self._iterator)
        except StopIteration as end:
            self._item.succeed(end.value)
        except BaseException as error:
            self._item.fail(error)
        else:
            if self._channel.is_wanted():
                self._channel.ready.append(value)
            else:  # it was closed while it ran
                self.close()
        return True

    def close(self) -> None:
        """Run what it has to do at its end."""
        if close_iterator(self._iterator):
            self._item.end()
        # Else somebody closes from within, or besides: `pull` sees it.


class StreamItem(RoutedItem):
    """A routed item whose work is a generator. Has a dict: there are few, and others derive.

    Attributes:
        channel: where its items go.
        begun: whether the generator has started.
    """

    args: tuple[Any, ...]

    streams = True

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        options: TaskOptions,
        **rest: Any,
    ) -> None:
        most = options.buffersize or BUFFER_ITEMS
        most_bytes = options.buffer_bytes or BUFFER_BYTES
        super().__init__(run_stream, (fn, most, most_bytes, True, *args), kwargs, options, **rest)
        self.begun: bool = False
        self.channel: Channel = Channel(most, most_bytes)
        self._kept: Stream[Any] | None = Stream(self.channel, self.name, self.future)
        self._stream = weakref.ref(self._kept)
        self.channel.begins = weakref.ref(self.future)
        self.future.add_done_callback(self.channel.on_done)

    def is_unwanted(self) -> bool:
        """Say whether nobody wants the rest, though the generator still runs. Any thread."""
        return super().is_unwanted() or self.channel.closed

    def hand_out(self) -> Stream[Any]:
        """Return the stream to a caller who gets it instead of the future."""
        stream, self._kept = self._kept, None
        self.future._unretrieved = False  # nobody has it: the stream raises what goes wrong
        fn, most, most_bytes, _, *args = self.args
        self.args = (fn, most, most_bytes, False, *args)
        assert stream is not None  # noqa: S101 - nobody has it yet
        return stream

    def run(self) -> None:
        """Run the generator on the threads of the pool that this one belongs to; else here."""
        pool = current_thread().__dict__.get("hybrid_pool")
        if pool is None:
            self.run_here()
        elif self.start():
            iterator = self._open()
            if iterator is not None:
                pool.pump(self, iterator)

    def run_here(self, owner: Callable[[], Any] = _nobody) -> None:
        """Run the generator in its consumer, step by step."""
        if self.start():
            iterator = self._open()
            if iterator is not None:
                self.begin(PullSource(self, iterator, self.channel, owner))

    def _open(self) -> Iterator[Any] | None:
        try:
            fn, _, _, _, *args = self.args
            if self.context is not None:
                return open_in(self.context, as_iterator, fn, tuple(args), self.kwargs)
            return as_iterator(fn(*args, **(self.kwargs or {})))
        except BaseException as error:
            self.raised(error)
            return None

    def expect(self, source: Source) -> None:
        """Tell a source if the stream is closed before it has begun. Any thread."""
        channel = self.channel
        with channel.lock:
            wanted = not channel.closed
            channel.source = source if wanted else None
        if not wanted:
            source.close()

    def begin(self, source: Source) -> None:
        """Give the caller the stream: its generator has started. Callbacks run: hold no lock."""
        channel = self.channel
        future = self.future
        stand_in: HybridFuture[Any] = HybridFuture(self)
        stand_in.set_running_or_notify_cancel()
        stand_in._unretrieved = False
        with channel.lock:
            wanted = not channel.closed
            channel.source = source if wanted else None
        stream = self._stream()
        # In this order: whoever ends the item between the two, as its time is up, ends the stream.
        self.begun = True
        self.future = stand_in
        self._kept = None
        if self.deadline is not None and self._alarm is not None:
            self._alarm.set(self)
        try:
            future.set_result(stream)
        except InvalidStateError:  # it was ended at this very moment: its time was up
            wanted = False
            with suppress(InvalidStateError):
                stand_in._end()
        finally:
            future = None  # type: ignore[assignment]  # it is the caller's
        if stream is None or not wanted:
            source.close()

    def _goes_on(self, error: BaseException) -> bool:
        return not (self.begun or self.channel.closed) and super()._goes_on(error)

    def _deliver(self, value: Any) -> None:
        super()._deliver(value)
        if self.begun:
            self.channel.finish(value)

    def _deliver_failure(self, error: BaseException) -> None:
        super()._deliver_failure(error)
        if self.begun:
            self._break_off(error)

    def end(self) -> None:
        """Deliver that the work was ended because that was asked for."""
        if self.begun:
            self._break_off(CancelledError())
        if not self.future.done():
            with suppress(InvalidStateError):  # somebody else has, just now
                super().end()

    def _break_off(self, error: BaseException) -> None:
        with self.channel.lock:
            source = self.channel.source
        self.channel.fail(error)
        if source is not None:
            source.close()
