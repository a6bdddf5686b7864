"""Adaptive: the default policy. It sends each task where, by what it has seen, it is done soonest.

What is seen is measured on runs that were wanted anyway; nothing is ever run twice, or moved, to
learn something. ::

    unknown  the first two calls go to threads, where they can be measured, the others are held:
             `route` answers None, and is asked again when one of the two is over, or after a few
             milliseconds, when the CPU time that the running ones have used tells enough
    tiny     threads; and after many such runs: quick
    quick    inline: the submitter runs it, which is over before a hand-over would be
    waits    the lane, whose threads may be many, as they need no core
    holds    where it is predicted to end first: in a process, or on a thread if it is alone there,
    works    or on another machine if this one is busy. A task that lets go of the GIL is as good
             on threads, to which large arguments need not be copied

The prediction: queue + hand-over + transfer + run, see `_places`; the measurements: `_belief`. A
task stays where it is unless another place promises to end it sooner by a fifth of its length, or
small differences would make it flap. Once in a while, ever more rarely, another machine that is not
the best choice gets a call, in case what is believed of it is out of date.

One lock guards all estimates. It is held for some hundred nanoseconds, no code of anybody else's
runs under it, and it is re-entrant, since a signal handler or a finalizer that submits may land on
a thread that holds it. (A few lines over 400: what is decided and what is learned belong together.)
"""

from __future__ import annotations

import os
import threading
from typing import Any

from hybrid_compute import _exit
from hybrid_compute._keys import key_of
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.decisions import Choice, seconds_in_words
from hybrid_compute.items import name_of
from hybrid_compute.policy._base import Move, check_move
from hybrid_compute.policy._belief import COMPUTES, QUICK_RUNS, Belief
from hybrid_compute.policy._beliefs import Beliefs
from hybrid_compute.policy._choosing import Load, best_of, candidates_of
from hybrid_compute.policy._memory import load, rows, save
from hybrid_compute.policy._places import Cores, Place
from hybrid_compute.policy._sizes import measure
from hybrid_compute.routed import RoutedItem
from hybrid_compute.tasks import Task, TaskOptions

__all__ = ["Adaptive"]

_PROBES = 2
_LARGE_BYTES = 1 << 16  # from which on the time of a transfer is seen in that of a call
_MOST_LEFT = 63  # a decision takes some 5 us: it holds for so many items that find room

_UNKNOWN = Choice(rule="a first call, on a thread, since nothing is known of the task yet")
_FIXED = Choice(rule="processes, where work can be ended, then threads")
_STREAM = Choice(rule="a generator: a process, then threads")
_ALL = Choice(rule="whatever the fleet has")


class Adaptive(_exit.Member):
    """Declared tasks go where they are done soonest, as far as was seen; the rest stays.

    Args:
        move: "declared" lets only declared tasks leave the thread pool; "all" moves plain
            callables too.
        estimates: a file that `save` has written, so that a second start is warm; None: nothing
            is known at first.
        cores: usable cores; None: those of this process.

    Attributes:
        names: executors that it must have: none, it takes the fleet as it is.
        moves_plain: whether plain callables are routed too.
        quick: the tasks that their submitter may run, by key and size class.
        direct: those that have one place to go, which is in this process, likewise.

    Thread-safe. What it remembers of a task keeps neither the function nor arguments alive.

    Raises:
        ConfigurationError: `move` is another word; or `estimates` is no such file.
    """

    names: frozenset[str] = frozenset[str]()

    def __init__(
        self,
        *,
        move: Move = "declared",
        estimates: str | os.PathLike[str] | None = None,
        cores: int | None = None,
    ) -> None:
        self.moves_plain: bool = check_move(type(self).__name__, move)
        self._lock = threading.RLock()  # guards all below, and what hangs from it
        self._beliefs = Beliefs({} if estimates is None else load(estimates))
        self.quick: dict[Any, dict[int, Belief]] = self._beliefs.quick
        self.direct: dict[Any, dict[int, Belief]] = self._beliefs.direct
        self._places: dict[str, Place] = {}
        self._cores = Cores(cores or _usable_cores())
        _exit.register(self)

    def __repr__(self) -> str:
        return "Adaptive(move='all')" if self.moves_plain else "Adaptive()"

    def after_fork(self) -> None:
        """Keep what is known, and forget what is going on: this is a forked child."""
        self._lock = threading.RLock()
        self._places = {}
        self._cores = Cores(self._cores.number)
        for belief in self._beliefs.all():
            belief.probing = belief.left = 0
            belief.where = None

    # Choosing.

    def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...] | None:
        """Return where the item is done soonest, then where else it may go; None: not yet."""
        if not isinstance(item, RoutedItem):
            return self._usual_route(fleet)
        if item.streams or item.options.timeout is not None:
            item.choice = _STREAM if item.streams else _FIXED
            return self._usual_route(fleet)
        belief, size, calls = self._look_up(item)
        before = item.belief
        if type(before) is Belief and before.outdated and before.key == belief.key:
            belief = before
        place = belief.where
        if (
            place is not None
            and belief.left > 0
            and calls == 1
            and (belief.sole or (place.has_room() and not self._cores.are_taken(belief)))
            and place.name in fleet
        ):
            belief.left -= 1  # nobody is before it there: no place is better than it was
            route: tuple[str, ...] | None = belief.route
            item.choice = belief.choice
        else:
            with self._lock:
                route = self._decide(item, belief, fleet, size, calls)
        item.belief = belief
        return route

    def _usual_route(self, fleet: Fleet) -> tuple[str, ...]:
        return tuple(name for name in ("process", "thread") if name in fleet) or tuple(fleet)

    def _look_up(self, item: RoutedItem) -> tuple[Belief, int, int]:
        fn: Any = item.fn
        args, kwargs, calls = item.args, item.kwargs, 1
        if type(fn) is not Task and fn is not item.target:
            # A chunk of a map: its first call stands for it.
            calls = item.calls
            fn, chunk, star = args
            args, kwargs = (tuple(chunk[0]) if star else (chunk[0],)) if chunk else (), None
        key = fn.key if type(fn) is Task else key_of(fn)
        kind, size = measure((*args, *kwargs.values()) if kwargs else args)
        belief = self._beliefs.get(key, kind)
        if belief is None:
            with self._lock:
                belief = self._beliefs.add(fn, key, kind)
        return belief, size, calls

    def _decide(
        self, item: RoutedItem, belief: Belief, fleet: Fleet, size: int, calls: int
    ) -> tuple[str, ...] | None:
        lane = "lane" if "lane" in fleet else "thread" if "thread" in fleet else None
        if not belief.known and lane is not None:
            if belief.probing >= _PROBES:
                return None
            belief.probing += 1
            item.probes = True
            item.choice = _UNKNOWN
            return (lane,)
        if belief.kind == "quick" and calls == 1:
            inline = fleet.get("inline")
            if inline is not None and inline.capabilities.blocks and _may_be_inline(item.options):
                if item.options.movable is None:
                    belief.quick_options = item.options
                    self._beliefs.set_quick(belief)
                item.choice = belief.quick_choice = Choice(
                    rule=f"tiny ({seconds_in_words(belief.run)} a call): over before a hand-over"
                )
                return ("inline",)
        if belief.kind in ("tiny", "quick") and lane is not None and calls == 1:
            route: tuple[str, ...] = (lane,)
            sole = True
            choice = Choice(rule=f"{belief.in_words()}: threads")
            looks = False
        else:
            load = Load(calls, calls * (size + belief.out_bytes), item.behind)
            candidates = candidates_of(belief, fleet, load, self._cores, self._place)
            if not candidates:
                item.choice = _ALL
                return self._usual_route(fleet)
            best, looks = best_of(belief, candidates, load, self._places)
            sole = len(candidates) == 1
            # On threads it is certain to run.
            others = () if best in ("thread", "lane") else ("thread",)
            route = (best, *(name for name in others if name in fleet))
            choice = Choice(rule=belief.in_words(), candidates=tuple(candidates))
        item.choice = choice
        if calls == 1 and not looks:
            belief.route, belief.choice, belief.left = route, choice, _MOST_LEFT
            belief.where, belief.sole = self._place(route[0], fleet), sole
            options = item.options
            if (
                sole
                and belief.where.shares
                and belief.cpu < COMPUTES  # what computes is counted, for the others' sake
                and options.movable is None
                and not options.supervised
                and options.hedge is None
                and item.guard is None
            ):
                belief.direct_options = options
                self._beliefs.set_direct(belief)
            else:
                belief.direct_options = None
        return route

    def _place(self, name: str, fleet: Fleet) -> Place:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place(name, fleet[name])
        return place

    # Learning. Called by whoever has the item in hand, from any thread.

    def handed(self, item: RoutedItem, name: str, fleet: Fleet) -> None:
        """Take note that the executor `name` of `fleet` is about to get `item`, which it routed."""
        belief, calls = item.belief, item.calls
        if belief is None:
            return
        with self._lock:
            place = belief.where
            if place is None or place.name != name:
                place = self._place(name, fleet)
            seconds = belief.took.get(name, belief.length) * calls
            cpu = 0.0 if place.remote or belief.cpu * calls < COMPUTES else belief.cpu * calls
            held = cpu * belief.held if place.shares else 0.0
            item.counted = (place, seconds, cpu, held, not place.count)
            place.count += 1
            place.used = True
            place.seconds += seconds
            if cpu:
                self._cores.add(1, cpu, held)

    def left(self, item: RoutedItem) -> None:
        """Take note that an item has left the executor that had it; idempotent."""
        if item.counted is None and not item.probes:
            return
        with self._lock:
            if item.probes:
                item.probes = False
                item.belief.probing -= 1
            if item.counted is None:
                return
            place, seconds, cpu, held, _ = item.counted
            item.counted = None
            place.count -= 1
            if place.count > 0:
                place.seconds = max(0.0, place.seconds - seconds)
            else:
                place.count, place.seconds = 0, 0.0
            if cpu:
                self._cores.add(-1, cpu, held)

    def answered(self, item: RoutedItem, elapsed: float) -> None:
        """Take note of a result of `item` from elsewhere, `elapsed` seconds after the hand-over.

        What runs on another machine, and how long, only that machine knows; what is learned is the
        time that the item took, less the way there, and what it is likely to have waited for others
        of ours.
        """
        belief, calls = item.belief, item.calls
        with self._lock:
            place, alone = item.counted[0], item.counted[4]
            if not place.remote:
                if alone:
                    place.took(elapsed - belief.length * calls)
                return
            size = measure(item.args)[1] + belief.out_bytes * calls
            spent = elapsed / max(1.0, place.count / place.workers) - place.delay
            if alone and size >= _LARGE_BYTES:
                place.moved(size, spent - belief.took.get(place.name, belief.length) * calls)
            each = max(0.0, spent - size * place.byte) / calls
            old = belief.took.get(place.name)
            if old is None or each < old / 2:  # nothing but a quicker service explains that
                belief.took[place.name] = each
            else:
                belief.took[place.name] = old + 0.2 * (each - old)
            belief.left = 0  # beside such a call a decision costs nothing

    def ran(
        self,
        belief: Belief,
        count: int,
        wall: float,
        cpu: float | None,
        *,
        alone: bool = True,
    ) -> bool:
        """Take note of calls that have run on this machine.

        Args:
            belief: what their items were given.
            count: how many calls.
            wall: seconds that they took together.
            cpu: of these, seconds of CPU; None: not measured.
            alone: nothing else is known to have run beside them.

        Returns:
            Whether items of the task that wait should be thought over.
        """
        with self._lock:
            news = belief.ran(count, wall, cpu, alone=alone)
            if news and belief.kind != "quick":
                self._beliefs.set_slow(belief)
            return news

    def ran_here(
        self, item: RoutedItem, begun: float, ended: float, cpu: float | None, value: Any
    ) -> bool:
        """Take note of an item that has run on a thread of this process; see `ran`.

        Args:
            item: which.
            begun: when it began, by the performance counter.
            ended: when it ended.
            cpu: seconds of CPU that its thread has used; None: not measured.
            value: its result, of which the size is looked at; None if it failed.
        """
        belief = item.belief
        with self._lock:
            alone = item.counted is None or item.counted[4]
            if item.counted is not None and alone and item.handed_at is not None:
                item.counted[0].took(begun - item.handed_at)
            if cpu is not None:
                belief.overlapped(begun, ended, cpu)
            if value is not None:
                calls = item.calls
                size = measure((value,))[1] / calls
                belief.out_bytes += 0.2 * (size - belief.out_bytes)
            return self.ran(belief, item.calls, ended - begun, cpu, alone=alone)

    def pickled(self, item: RoutedItem, size: int, seconds: float) -> None:
        """Take note of how long it took to pickle what goes to another process of this machine.

        Args:
            item: which, or the first of those that go together.
            size: bytes that were made of it, many.
            seconds: of this thread, for that.
        """
        with self._lock:
            item.belief.pickled(size, seconds)

    def seen(
        self, belief: Belief, wall: float, cpu: float | None, *, together: float = 0.0
    ) -> bool:
        """Take note of a first call that still runs; return whether that is enough to go by.

        Args:
            belief: of its task.
            wall: seconds that it has run so far.
            cpu: of these, seconds of CPU; None: it has not begun, or cannot be looked at. Then
                its items will go to processes.
            together: seconds of CPU that all first calls have used in this time; 0: not seen.
        """
        with self._lock:
            belief.seen(wall, wall if cpu is None else cpu, together)
            return True

    def slow(self, belief: Belief, seconds: float) -> None:
        """Take note in `belief` that a call took long, `seconds`, on its submitter's thread."""
        with self._lock:
            if belief.is_another(seconds):
                self._beliefs.renew(belief)
                return
            belief.ran(1, seconds, None)
            if belief.quick < QUICK_RUNS:
                self._beliefs.set_slow(belief)
                belief.classify()

    def wrong_places(self, belief: Belief) -> tuple[str, ...]:
        """Return where items of the task of `belief` should not wait, by what is known now."""
        if belief.kind in ("tiny", "quick", "waits"):
            return ("process",)
        return ("lane",) if belief.kind in ("holds", "works") else ()

    # Telling.

    def explain(self, fn: Any) -> str:
        """Return what is believed of the function `fn`, for a person: a line for each size."""
        with self._lock:
            known = self._beliefs.of(fn)
        return (
            "\n".join(
                f"{each.name}, arguments below {4 ** (each.key[1] + 1)}: {each.in_words()}"
                + (f"; {each.place}" if each.place else "")
                for each in known
            )
            or f"{name_of(fn)}: nothing is known yet"
        )

    def usual(self, fn: Any) -> Belief | None:
        """Return what is known best of the function `fn`; None if nothing is."""
        with self._lock:
            known = self._beliefs.of(fn)
        return max(known, key=lambda each: each.runs) if known else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what is known to a file, for `Adaptive(estimates=path)`. Blocks for the disk.

        The file is replaced as a whole. Functions are known by module and name.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            found = rows(each for each in self._beliefs.all() if each.runs)
        save(path, found)


def _may_be_inline(options: TaskOptions) -> bool:
    return options.inline is not False and not options.retries


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
