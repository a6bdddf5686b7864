"""Belief: what has been measured of one task with arguments of about one size.

Owns the estimates and how they change with each run. Pure: no clock, no lock; whoever has one
guards it (`Adaptive` does), but for `ran_inline`, which says why it needs none.

What is kept, and why so. *Run* is the least wall time of late, since contention for the GIL or for
a core only ever adds to it; it creeps up by a twentieth of the difference each time, so that a task
that has become slow is believed. *CPU* is a discounted mean. What is not CPU is waiting. Whether a
task holds the GIL one call cannot tell, but two that overlap can: the CPU time of two holders
never adds up to more than the wall time that they shared. (Measured: 0.99 for plain Python, 1.86
for sha256 of large data, 0.00 for sleep.) So holding it is assumed until such a sum says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybrid_compute.decisions import Choice, seconds_in_words

if TYPE_CHECKING:
    from hybrid_compute.policy._places import Place

__all__ = ["QUICK_RUNS", "Belief"]

# Below: what a hand-over to a thread and back takes (20 us, benchmarks/thread.py), so that nothing
# is gained by one; twice that before it is taken back.
TINY_SECONDS = 20e-6
_SLOW_SECONDS = 2 * TINY_SECONDS
_STUCK_SECONDS = 5e-3  # the GIL's switch interval: who takes that long inline holds everybody up
QUICK_RUNS = 32
_MOST_QUICK = 64
_FEW_RUNS = 8  # that must be tiny although the task has been so for long, with smaller arguments
_WAITING = 0.25  # a task waits if so much of its run, or less, is CPU
_NOT_WAITING = 0.4  # and does not any more, if so much is
COMPUTES = 1e-3  # seconds of CPU from which on a task that waits needs a core as well
_SHORTEST_WAIT = 100e-6
_MOVED_BYTE = 0.5e-9  # seconds to move one by shared memory: two copies, benchmarks/README.rst
_SURE_RUNS = 2  # "its first two samples"
_STEP = 0.15  # weight of a new sample, once there are some
_JUMP = 8.0  # three samples in a row so many times off are no noise: all else is forgotten
_SURPRISES = 3
_GROWTH = 8.0  # how much longer a call may take with arguments of the next size class
_OVERLAP = 1.2  # CPU seconds a second that two holders of the GIL cannot reach
_CPU_SAMPLED = 8  # every so many-th short run has its CPU time taken, once some have


class Belief:
    """The estimates for one task and size class.

    Attributes:
        name: the task's.
        origin: module and qualified name of its function, which another run finds again.
        key: the table's key: the task's code, and the size class.
        runs: how many calls were measured.
        run: seconds of one call, undisturbed.
        cpu: of these, seconds of CPU.
        held: how much of its CPU holds the GIL, from 0 to 1.
        spread: mean distance of the samples from the run, in seconds.
        out_bytes: bytes of a result, where they are seen.
        quick: how many runs of late were tiny; at `QUICK_RUNS` the submitter may run it itself.
        quick_options: options of a task that may be run inline; None if it may not.
        quick_choice: why it is.
        direct_options: options of a task that may go to `route` without a question; or None.
        kind: what is to be done with it, in one word.
        took: seconds of one call by executor, where that is another machine.
        probing: calls that run, or are about to, so that something is known.
        byte: seconds for each byte to another process here, if there were many; None: not known.
        outdated: another one stands for the task since then: see `Beliefs.renew`.
        waived: it is to be routed as it is, known or not: whoever held its items has waited enough.
        unpicklable: it did not travel to a process.
        where: the place of the last answer.
        sole: there was no other place to choose from.
        route: that answer, for `left` more items.
        choice: why.
        asked: how many decisions there were, the answer for several counting once.
    """

    __slots__ = (
        *("choice", "cpu", "direct_options", "held", "key", "kind", "left", "name"),
        *("out_bytes", "probing", "quick", "quick_choice", "quick_options", "route", "run"),
        *("runs", "sole", "spread", "surprises", "took", "unpicklable", "waived", "where"),
        *("_last", "asked", "byte", "origin", "outdated"),
    )

    cpu: float
    left: int
    out_bytes: float
    quick: int
    run: float
    runs: int
    spread: float
    surprises: int
    waived: bool

    def __init__(self, name: str, origin: str, key: tuple[Any, int]) -> None:
        self.name = name
        self.origin = origin
        self.key = key
        self.runs = self.surprises = self.quick = self.probing = self.left = self.asked = 0
        self.run = self.cpu = self.spread = self.out_bytes = 0.0
        self.held: float = 1.0
        self.byte: float | None = None
        self.quick_options: Any = None
        self.direct_options: Any = None
        self.took: dict[str, float] = {}
        self.waived = self.unpicklable = self.sole = self.outdated = False
        self.where: Place | None = None
        self.route: tuple[str, ...] = ()
        self.choice: Choice | None = None
        self.quick_choice: Choice | None = None
        self.kind: str = "unknown"
        self._last: tuple[float, float, float] | None = None  # begin, end and CPU of the last run

    @property
    def known(self) -> bool:
        """Whether there is enough to decide by."""
        return self.runs >= _SURE_RUNS or self.waived

    @property
    def wait(self) -> float:
        """Seconds of one call that are no CPU."""
        return max(0.0, self.run - self.cpu)

    @property
    def length(self) -> float:
        """Seconds that one call is expected to take: of one that computes, its CPU time alone.

        What else such calls seem to take is mostly the time of others, on whose core they were.
        """
        return self.cpu if self.kind in ("holds", "works") else self.run

    @property
    def holds(self) -> float:
        """Seconds of one call that hold the GIL."""
        return self.cpu * self.held

    @property
    def wants_cpu(self) -> bool:
        """Whether the CPU time of the next run is worth taking: it costs half a microsecond."""
        return self.runs < QUICK_RUNS or self.run > 1e-3 or not self.runs % _CPU_SAMPLED

    def inherit(self, other: Belief) -> None:
        """Believe at first what is known of the same task with arguments of about this size.

        One that is far from taking long may be run by its submitter sooner than others.
        """
        for name in ("run", "cpu", "held", "spread", "out_bytes", "unpicklable", "byte"):
            setattr(self, name, getattr(other, name))
        self.runs = min(other.runs, _SURE_RUNS)
        if other.kind == "quick" and _GROWTH * other.run <= TINY_SECONDS:
            self.quick = QUICK_RUNS - _FEW_RUNS
        self.classify()

    def ran(self, count: int, wall: float, cpu: float | None, *, alone: bool = True) -> bool:
        """Take note of some calls, which took so many seconds together.

        Args:
            count: how many.
            wall: seconds that they took.
            cpu: of these, seconds of CPU; None: not measured.
            alone: nothing else is known to have run beside them.

        Returns:
            Whether what is to be done with such calls may have changed.
        """
        each, mine = wall / count, None if cpu is None else min(cpu, wall) / count
        if not self.runs:
            self.run, self.cpu, self.spread = each, each if mine is None else mine, each / 2
        else:
            off = each > _JUMP * self.run or each * _JUMP < self.run
            self.surprises = self.surprises + 1 if off else 0
            if self.surprises >= _SURPRISES:
                self.surprises = 0
                self.run, self.cpu, self.spread = each, each if mine is None else mine, each / 2
                self.took.clear()
            step = max(_STEP, 1 / (self.runs + 1))
            self.spread += step * (abs(each - self.run) - self.spread)
            creep = 0.05 if alone else 0.005
            self.run = each if each < self.run else self.run + creep * (each - self.run)
            if mine is not None:
                self.cpu += step * (mine - self.cpu)
        self.run = max(self.run, min(self.cpu, each))
        self.runs += count
        if each <= TINY_SECONDS:
            self.quick = min(_MOST_QUICK, self.quick + count)
        elif each > _SLOW_SECONDS and (mine is None or mine > TINY_SECONDS):
            self.quick = 0 if each > _STUCK_SECONDS else self.quick // 2
        return self.classify()

    def ran_inline(self, seconds: float) -> bool:
        """Take note of a run on its submitter's thread; say whether that must be thought over.

        Called by any thread without a lock, since it is a good part of what such a call costs. A
        count that is lost between two threads makes no difference.
        """
        if seconds <= _SLOW_SECONDS:
            self.runs += 1
            if self.quick < _MOST_QUICK:
                self.quick += 1
            return False
        return True

    def seen(self, wall: float, cpu: float, together: float) -> None:
        """Take note of first calls that still run, unless something better is known.

        Args:
            wall: seconds that they have run so far.
            cpu: of these, seconds of CPU of one of them.
            together: seconds of CPU of all of them.
        """
        if self.runs or self.waived:
            return
        self.run, self.cpu, self.waived = wall, cpu, True
        if together > _OVERLAP * wall:
            self.held = max(0.0, 2 - together / wall)
        self.classify()

    def pickled(self, size: float, seconds: float) -> None:
        """Take note of how long it took to pickle so many bytes for another process here.

        There they are unpickled, which takes about as long, and what comes back as well.
        """
        sample = _MOVED_BYTE + 2 * max(0.0, seconds) / size
        self.byte = sample if self.byte is None else self.byte + 0.2 * (sample - self.byte)

    def is_another(self, seconds: float) -> bool:
        """Say whether a call took so long inline that what is known is of no use for the next."""
        return seconds > _STUCK_SECONDS and seconds > _JUMP * self.run

    def overlapped(self, begun: float, ended: float, cpu: float) -> None:
        """Take note of when a call ran on a thread, for what two at once tell of the GIL."""
        last, self._last = self._last, (begun, ended, cpu)
        if last is None or cpu < _SHORTEST_WAIT:
            return
        together = min(ended, last[1]) - max(begun, last[0])
        if together <= 0.5 * (max(ended, last[1]) - min(begun, last[0])):
            return
        sum_ = (cpu + last[2]) / (max(ended, last[1]) - min(begun, last[0]))
        if sum_ > _OVERLAP:
            self.held += 0.5 * (max(0.0, 2 - sum_) - self.held)
        elif sum_ > 0.5:
            self.held += 0.1 * (1 - self.held)

    def classify(self) -> bool:
        """See what kind of task it is; return whether that is news."""
        if not self.known:
            kind = "unknown"
        elif self.run <= TINY_SECONDS:
            kind = "tiny" if self.quick < QUICK_RUNS else "quick"
        elif self.run >= _SHORTEST_WAIT and self.cpu <= self.run * (
            _NOT_WAITING if self.kind == "waits" else _WAITING
        ):
            kind = "waits"
        else:
            kind = "holds" if self.held > 0.5 else "works"
        news = kind != self.kind
        self.kind = kind
        if news:
            self.left = 0
        return news

    @property
    def place(self) -> str:
        """Name of the executor that gets its calls at the moment; "" if there was no choice yet."""
        return "inline" if self.kind == "quick" else self.route[0] if self.route else ""

    def in_words(self) -> str:
        """Return what is believed, for a person."""
        kinds = {
            "unknown": "not known yet",
            "tiny": "tiny",
            "quick": "tiny, and has been so for long",
            "waits": "mostly waits",
            "holds": "computes, and holds the GIL",
            "works": "computes, and lets go of the GIL",
        }
        if not self.runs and not self.run:
            return kinds[self.kind]
        return (
            f"{kinds[self.kind]}: {seconds_in_words(self.run)} a call, "
            f"{seconds_in_words(self.cpu)} of it CPU (+- {seconds_in_words(self.spread)}), "
            f"after {self.runs} calls"
        )
