"""OutboxExecutor: keeps calls in a file until a service has had them, and what came of them.

Owns the public face: arguments, defaults, what may go into the file at all. What happens to a row
is in `_outbox_file` (its states), `_outbox_courier` (the thread that delivers) and
`_outbox_verdicts` (what follows from an attempt). Any thread may call any method.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from hybrid_compute._contexts import Carried
from hybrid_compute._durable import checked_path
from hybrid_compute.abc import Capabilities, SubExecutor
from hybrid_compute.errors import ConfigurationError, HybridComputeError, PlacementError
from hybrid_compute.executors._outbox_courier import Courier
from hybrid_compute.executors._outbox_desk import Desk
from hybrid_compute.executors._outbox_entries import Entry
from hybrid_compute.executors._outbox_file import OutboxFile
from hybrid_compute.executors._outbox_forms import Forms, OutboxEntry
from hybrid_compute.executors._outbox_lives import Lives
from hybrid_compute.executors._outbox_table import Draft
from hybrid_compute.executors.remote import RemoteExecutor
from hybrid_compute.executors.thread import check_max_workers
from hybrid_compute.items import WorkItem
from hybrid_compute.maps import MapOptions, map_by_submit
from hybrid_compute.privacy import refuse_to_send, why_here
from hybrid_compute.protocol.codec import MAX_BYTES
from hybrid_compute.tasks import NO_OPTIONS, Task, has_body

__all__ = ["OutboxEntry", "OutboxExecutor"]

T = TypeVar("T")

_OVER = ("delivered", "failed")
_TOGETHER = 500  # rows of a map that are written at once


class OutboxExecutor(SubExecutor):
    """Runs declared tasks on a service, at least once each, whatever happens on the way.

    `submit` returns when the call is in a file, for good: it survives the end of this process, of
    the service, and of the power. It is delivered when the service is there, now or in a later
    run, and sent again until there is an answer. Each call has a key, under which a server of ours
    remembers its answer for a while: so it takes effect once, though it may be sent twice.

    A future has the outcome if its program still runs then. Outcomes of calls of earlier runs are
    in `results()`. Calls whose delivery fails again and again go to the dead letters, `dead()`.

    Several processes may use one file. A row is delivered by the process that submitted it, or by
    any other one when that has ended.

    Args:
        remote: the service: a RemoteExecutor, which belongs to the outbox from now on, or a URL.
        path: of the file, which is made if there is none, with its directory. Only this user can
            read it.
        name: its name in a fleet.
        max_bytes: how large calls may make the file. Outcomes get a quarter more.
        max_attempts: how often a row is tried that is lost on its way, or refused for want of
            trust. A service that is away does not count.
        keep_results: keep outcomes for `results()` though a future had them.
        allow_pickle: let any callable go there, pickled and signed with the key of `remote`; and
            let results be kept so which JSON does not hold.
        linger: seconds that `shutdown`, and the interpreter's exit, wait for a service that is away
            before they leave the rows to the next run.
        lease: seconds after which another process takes over the rows of one that stands still.
            If a process ends, they are free at once.

    Raises:
        ConfigurationError: an argument has a wrong value.
        OutboxError: the file cannot be used. One that is damaged has been moved aside.
    """

    capabilities: Capabilities = Capabilities(isolates=True, remote=True)

    def __init__(  # noqa: PLR0913 - one setting each, by name
        self,
        remote: RemoteExecutor | str,
        path: str | os.PathLike[str],
        *,
        name: str = "outbox",
        max_bytes: int = 256 * 2**20,
        max_attempts: int = 8,
        keep_results: bool = False,
        allow_pickle: bool = False,
        linger: float = 2.0,
        lease: float = 60.0,
    ) -> None:
        max_bytes = _whole("max_bytes", max_bytes, at_least=2**16)
        max_attempts = _whole("max_attempts", max_attempts, at_least=1)
        if not isinstance(keep_results, bool):
            raise ConfigurationError(f"keep_results={keep_results!r} is neither True nor False")
        linger, lease = _seconds("linger", linger), _seconds("lease", lease)
        if lease == 0:
            raise ConfigurationError("lease=0 would take every process for dead: give seconds")
        where = checked_path(path, "path")
        given: Any = RemoteExecutor(remote) if isinstance(remote, str) else remote
        if not isinstance(given, SubExecutor) or not given.capabilities.remote:
            raise ConfigurationError(
                f"remote={remote!r} is neither a URL nor a RemoteExecutor: an outbox delivers to a "
                "service"
            )
        signer = getattr(given, "_signer", None)
        if allow_pickle and signer is None:
            raise ConfigurationError(
                "allow_pickle=True needs a key to sign with: "
                "OutboxExecutor(RemoteExecutor(url, signing_key=...), ...)"
            )
        self.name = name
        self.workers: int = check_max_workers(given.workers)
        access = getattr(given, "_access", None)
        self._remote: SubExecutor = given
        self._carried: Carried | None = None
        self._forms = Forms(
            max_bytes=MAX_BYTES if access is None else access.max_bytes,
            key=signer.key if allow_pickle and signer is not None else None,
        )
        self._file = OutboxFile(where, max_bytes)
        self._desk = Desk(self._file)
        try:
            lives = Lives(self._file, lease)
        except BaseException:
            self._file.close()
            raise
        self._courier = Courier(
            self._file,
            lives,
            given,
            self._forms,
            name=f"{name} {where.name}",
            max_attempts=max_attempts,
            keep_results=keep_results,
            linger=linger,
            lease=lease,
        )
        try:
            self._courier.start()
        except BaseException:  # no thread can be started
            lives.end()
            self._file.close()
            raise

    @property
    def carried(self) -> Carried | None:
        """The context variables whose values are written down with a call, and go along with it."""
        return self._carried

    @carried.setter
    def carried(  # pyright: ignore[reportIncompatibleVariableOverride]  # not to be read only
        self, carried: Carried | None
    ) -> None:
        self._carried = self._remote.carried = carried

    # -- in ----------------------------------------------------------------------------------

    def can_run(self, item: WorkItem) -> bool:
        """Say whether the item may go there. The service is not asked: it may be away.

        As long as nobody knows whether it has a task, the outbox takes what can run nowhere else,
        and what was sent there by name (`options(executor=...)`).
        """
        fn = item.fn
        if item.streams or why_here(item) is not None:
            return False
        if not isinstance(fn, Task):
            return self._forms.signs and not getattr(fn, "carries_function", False)
        if not isinstance(self._remote, RemoteExecutor):
            return self._remote.can_run(item)
        known = self._remote._names.known(fn.name)
        return not has_body(fn) or item.options.executor is not None if known is None else known

    def execute(self, item: WorkItem) -> None:
        """Put the item into the file. Blocks until it is there for good.

        Raises:
            OutboxFull: there is no room.
            OutboxError: the file cannot be written.
            PlacementError: the item is local_only, or streams.
            RuntimeError: the outbox is shut down.
        """
        made = self._draft(item)
        if made is not None:
            self._courier.accept([made[0]], [made[1]])

    def _draft(self, item: WorkItem) -> tuple[Entry, Draft] | None:
        """Return an entry and its row; None if the item cannot be written, and knows it."""
        refuse_to_send(item, self._remote)  # nor is it written down
        if item.streams:
            raise PlacementError(
                f"{item.name!r} streams, and nobody would read that later: submit it to a "
                "RemoteExecutor"
            )
        try:
            draft = self._forms.draft(item, self._carried)
        except PlacementError:
            raise
        except HybridComputeError as error:
            item.reject(error)
            return None
        return Entry(self._courier, draft.key, item), draft

    def _map(
        self, fn: Callable[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        if options.buffersize is not None:
            return map_by_submit(self.submit, fn, iterables, options)
        batch = _Batch(self, fn)
        found = map_by_submit(batch.submit, fn, iterables, options)
        batch.flush()
        return found

    def _map_guarded(
        self, fn: Task[..., T], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[T]:
        return self._map(fn, iterables, options)  # a batch sees to guards

    # -- out ---------------------------------------------------------------------------------

    def pending(self) -> Iterator[OutboxEntry]:
        """Iterate over the calls that have no outcome yet, oldest first, of all processes.

        Raises:
            RuntimeError: the outbox is shut down.
        """
        return self._entries("pending", "claimed")

    def results(self, *, keep: bool = False) -> Iterator[OutboxEntry]:
        """Iterate over the outcomes that no future had, oldest first, and remove them.

        These are of calls of earlier runs, and of processes that have ended. `entry.result()`
        returns the result, or raises what the call raised. An outcome is removed when the loop
        goes on to the next, or is at its end: if its body raises, or is left, that one is kept.

        Args:
            keep: leave all of them there.

        Raises:
            RuntimeError: the outbox is shut down.
        """
        seen: list[tuple[int, str]] = []
        try:
            for row in self._desk.rows(*_OVER, unowned=True):
                yield OutboxEntry.of(row, self._forms)
                if not keep:
                    seen.append((row.id, row.key))
                    if len(seen) >= 100:
                        self._collect(seen)
        finally:
            self._collect(seen)

    def _collect(self, seen: list[tuple[int, str]]) -> None:
        if seen:
            self._desk.collect(seen)
            seen.clear()

    def dead(self) -> Iterator[OutboxEntry]:
        """Iterate over the dead letters: the calls whose delivery was given up, oldest first.

        Raises:
            RuntimeError: the outbox is shut down.
        """
        return self._entries("dead")

    def _entries(self, *states: str) -> Iterator[OutboxEntry]:
        for row in self._desk.rows(*states):
            yield OutboxEntry.of(row, self._forms)

    def retry(self, *ids: int) -> int:
        """Have dead, or failed, calls delivered again. Their outcomes will be in `results()`.

        A call that may have run stays the same one for the service, which does not run it twice
        if it remembers it; one that has failed, or that the service cannot tell of, runs anew.

        Args:
            *ids: of the entries; none: all that are dead.

        Returns:
            How many there are.
        """
        found = self._desk.retry(ids or None)
        self._courier.wake()
        return found

    def drop(self, *ids: int) -> int:
        """Remove calls for good, whatever their state, but those that a living process has.

        Args:
            *ids: of the entries.

        Returns:
            How many there were.
        """
        return self._desk.drop(ids)

    # -- as every executor ---------------------------------------------------------------------

    def load(self) -> float:
        """Return the number of calls with futures, queued and sent, per worker."""
        return sum(self.counts()) / self.workers

    def counts(self) -> tuple[int, int]:
        """Return how many calls wait here, and how many were sent and have no answer yet."""
        return self._courier.counts()

    def runs_here(self) -> bool:
        """Say whether the current thread delivers this executor's outcomes."""
        return self._courier.runs_here()

    def wind_down(self) -> None:
        """Wait no longer than `linger` for a service that is away."""
        self._courier.wind_down()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; deliver those with futures, and close the file and the remote.

        If the service is away, for longer than `linger`, futures fail with NotDelivered; their
        calls are kept for the next run.

        Args:
            wait: block until that is done; from a done-callback it does not block.
            cancel_futures: remove the calls with futures that were not sent.
        """
        self._courier.refuse()
        if cancel_futures:
            self._courier.cancel_all()  # before anything else becomes of them
        self._courier.close()
        if wait:
            self._courier.join()

    def __repr__(self) -> str:
        return f"<OutboxExecutor {self.name} {self._file.path} to {self._remote!r}>"

    def __del__(self) -> None:
        courier: Any = getattr(self, "_courier", None)  # the constructor may have raised
        if courier is not None:
            courier.close()


class _Batch:
    """Calls of one map, many of which are written at once."""

    def __init__(self, outbox: OutboxExecutor, fn: Callable[..., Any]) -> None:
        self._outbox = outbox
        self._options = fn.options if isinstance(fn, Task) else NO_OPTIONS
        self._made: list[tuple[Entry, Draft]] = []

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Make a call that is written with the next `flush`, or at once if it has secrets."""
        if isinstance(fn, Task) and self._outbox._guard(fn, args, {}) is not None:
            return self._outbox.submit(fn, *args)
        item = WorkItem(fn, args, None, self._options)
        made = self._outbox._draft(item)
        if made is not None:
            self._made.append(made)
            if len(self._made) >= _TOGETHER:
                self.flush()
        return item.future

    def flush(self) -> None:
        """Write what waits. Blocks until it is there for good."""
        made, self._made = self._made, []
        if made:
            self._outbox._courier.accept([each[0] for each in made], [each[1] for each in made])


def _whole(name: str, value: Any, *, at_least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
        return value
    raise ConfigurationError(f"{name}={value!r} is not a whole number of at least {at_least}")


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ConfigurationError(f"{name}={value!r} is not a number of seconds, 0 or more")
