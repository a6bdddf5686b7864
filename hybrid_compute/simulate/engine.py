"""The simulation: what a log's items would have taken with another policy or fleet.

Owns the order of events. Each item is submitted, asked for at the policy, sent, queued, served and
answered; what happens next stands in a heap, but for those that compute, which share the cores
(see `_cores`). Nothing runs and nobody waits: time is a number that jumps from event to event.

::

    submit -> policy.route() -> link: bytes / bandwidth, half a round trip -> queue of the executor
       -> one of its workers: dispatch and waiting (a timer), then computing (a share of the cores)
       -> the other half of the round trip -> policy.observe() -> the end

What is left out: retries, deadlines, the memory of the machine, and callers who submit the next
item because of the result of one before.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias

from hybrid_compute.abc import Policy
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.events import Event, Kind
from hybrid_compute.simulate._binding import Binder
from hybrid_compute.simulate._cores import Cores
from hybrid_compute.simulate._jobs import Job
from hybrid_compute.simulate.fleet import SimulatedExecutor, StandIns
from hybrid_compute.simulate.log import ExecutorRecord, ItemRecord, Log
from hybrid_compute.simulate.needs import Need, Service, needs_of, serve_of, services_of
from hybrid_compute.simulate.report import Report, Run, report_of

__all__ = ["Arrivals", "simulate"]

#: When items are submitted. "paced" is as long after the one before as in the log, less the time of
#: work that ran inline; "logged" is at the times in the log.
Arrivals: TypeAlias = Literal["paced", "logged"]


def simulate(
    log: Log,
    *,
    policy: Policy | None = None,
    fleet: Mapping[str, ExecutorRecord] | None = None,
    cores: int | None = None,
    arrivals: Arrivals = "paced",
) -> Report:
    """Replay a log, and return what it would have taken.

    Args:
        log: what was done.
        policy: chooses where each item runs, as it would in a HybridExecutor; one that learns is
            told what is simulated. None leaves each item where the log has it.
        fleet: the executors; None takes those of the log.
        cores: of this machine; None: as many as in the log.
        arrivals: "paced": the next item is submitted as long after the one before as it was in
            the log, less the time for which the submitter ran work inline; "logged": at the time
            that stands in the log.

    Raises:
        ConfigurationError: an argument has a wrong value, or an item is to stay at an executor
            that the fleet does not have.
        PolicyError: the policy raised, or answered nonsense.
    """
    if arrivals not in ("paced", "logged"):
        raise ConfigurationError(f"arrivals={arrivals!r} is neither 'paced' nor 'logged'")
    cores = log.header.cores if cores is None else cores
    if cores < 1:
        raise ConfigurationError(f"cores={cores!r} is not a whole number of at least 1")
    records = dict(log.header.fleet if fleet is None else fleet)
    served = serve_of(log)
    # An executor that is new, or changed, costs what is known of the one with its name.
    services = services_of(served, {**log.header.fleet, **records})
    simulation = _Simulation(
        [each.item for each in served],
        needs_of(served, log),
        {name: SimulatedExecutor(name, record) for name, record in records.items()},
        services=services,
        policy=policy,
        cores=cores,
        paced=arrivals == "paced",
        blocked=frozenset(name for name, each in log.header.fleet.items() if each.blocks),
    )
    return report_of(simulation.run(), records)


class _Simulation:
    def __init__(
        self,
        records: list[ItemRecord],
        needs: Mapping[int, Need],
        fleet: Mapping[str, SimulatedExecutor],
        *,
        services: Mapping[str, Service],
        policy: Policy | None,
        cores: int,
        paced: bool,
        blocked: frozenset[str],
    ) -> None:
        self._records = records
        self._needs = needs
        self._fleet = fleet
        self._services = services
        self._now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._observe: Callable[[Event], object] | None = getattr(policy, "observe", None)
        self._binder = (
            None
            if policy is None
            else Binder(policy, fleet, at=self._at, send=self._send, refuse=self._end)
        )
        self._paced = paced
        self._blocked = blocked
        self._cores = Cores(cores)
        self._stand_ins = StandIns()
        self._runs: list[Run] = []

    def run(self) -> list[Run]:
        """Let all of it happen."""
        if self._records:
            self._at(self._records[0].submitted, partial(self._submit, 0))
        heap, cores = self._heap, self._cores
        while True:
            computed = cores.next()
            if heap and heap[0][0] <= computed:
                self._now, _, call = heapq.heappop(heap)
                call()
            elif computed < float("inf"):
                self._now = computed
                for call in cores.finish():
                    call()
            else:
                return self._runs

    def _at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(time, self._now), next(self._numbers), call))

    # The submitter.

    def _submit(self, index: int) -> None:
        record = self._records[index]
        need = self._needs[record.id]
        job = Job(record, self._stand_ins.item(record), need, self._now)
        follow = self._following(index)
        if self._paced:
            job.then = follow
        elif follow is not None:
            follow()
        self._tell("submitted", job)
        if self._binder is None:
            self._send(job, self._logged(record))
        else:
            self._binder.bind(job, self._now)
        if job.executor is None or not job.executor.record.blocks:
            job.go_on()

    def _following(self, index: int) -> Callable[[], None] | None:
        if index + 1 == len(self._records):
            return None
        this, after = self._records[index], self._records[index + 1]
        submit = partial(self._submit, index + 1)
        if not self._paced:
            return partial(self._at, after.submitted, submit)
        gap = after.submitted - this.submitted
        if this.executor in self._blocked:  # the submitter was busy with it
            gap -= min(gap, this.ended - this.submitted)
        return lambda: self._at(self._now + gap, submit)

    def _logged(self, record: ItemRecord) -> SimulatedExecutor:
        if record.executor is None or record.executor not in self._fleet:
            raise ConfigurationError(
                f"item {record.id} of task {record.task!r} ran at {record.executor!r}, which the "
                f"fleet does not have ({list(self._fleet)}); give a policy"
            )
        return self._fleet[record.executor]

    # An executor.

    def _send(self, job: Job, executor: SimulatedExecutor) -> None:
        job.executor = executor
        record = executor.record
        self._tell("routed", job)
        if record.bandwidth is None and record.rtt is None:
            self._arrive(job, executor)
            return
        # The link carries one after the other; the way is as long for each.
        executor.travelling += 1
        executor.link_free = max(executor.link_free, self._now)
        if record.bandwidth is not None:
            executor.link_free += (job.record.bytes or 0) / record.bandwidth
        there = executor.link_free + (record.rtt or 0.0) / 2
        self._at(there, partial(self._arrive, job, executor, travelled=True))

    def _arrive(self, job: Job, executor: SimulatedExecutor, *, travelled: bool = False) -> None:
        if travelled:
            executor.travelling -= 1
        executor.queue.append(job)
        if executor.ready is None:
            executor.ready = self._now + self._services[executor.name].start
            self._at(executor.ready, partial(self._serve, executor))
        else:
            self._serve(executor)

    def _serve(self, executor: SimulatedExecutor) -> None:
        if executor.ready is None or self._now < executor.ready:
            return
        while executor.queue and executor.running < executor.workers:
            executor.running += 1
            self._begin(executor.queue.popleft(), executor)

    def _begin(self, job: Job, executor: SimulatedExecutor) -> None:
        job.begun = self._now
        self._tell("started", job)
        job.working = self._now + self._services[executor.name].dispatch
        if self._binder is not None:
            self._binder.began(job)
        computes = job.working + job.need.waits
        if executor.record.remote:  # it has cores of its own
            computes += job.cpu
        self._at(computes, partial(self._compute, job, executor, 0))

    def _compute(self, job: Job, executor: SimulatedExecutor, step: int) -> None:
        """Take the next share of the cores: with the GIL, without it; then it is done."""
        held, free = job.need.held, job.need.free
        if executor.record.remote:
            held = free = 0.0
        elif not executor.record.shares_memory:
            held, free = 0.0, held + free  # its GIL is its own
        for number, seconds in enumerate((held, free)):
            if number >= step and seconds > 0:
                after = partial(self._compute, job, executor, number + 1)
                self._cores.add(seconds, after, holds=number == 0, now=self._now)
                return
        job.busy = self._now - job.begun
        executor.running -= 1
        if executor.record.rtt:
            self._at(self._now + executor.record.rtt / 2, partial(self._end, job))
        else:
            self._end(job)  # what is learned comes before the worker's next item
        self._serve(executor)

    def _end(self, job: Job) -> None:
        record, executor = job.record, job.executor
        self._runs.append(
            Run(
                id=record.id,
                task=record.task,
                executor=None if executor is None else executor.name,
                submitted=job.submitted,
                begun=job.begun if executor is not None else self._now,
                ended=self._now,
                busy=job.busy,
                size_bytes=record.bytes or 0,
            )
        )
        if executor is None:
            self._tell("failed", job)
            return
        self._tell("succeeded" if record.ok else "failed", job)
        if self._binder is not None:
            self._binder.left(job, self._now)
        job.go_on()

    def _tell(self, kind: Kind, job: Job) -> None:
        if self._observe is not None:
            executor, item = job.executor, job.item
            over = kind in ("succeeded", "failed") and executor is not None
            self._observe(
                Event(
                    kind=kind,
                    item_id=job.record.id,
                    name=job.record.task,
                    executor=None if executor is None else executor.name,
                    attempt=0 if executor is None else 1,
                    time=self._now,
                    options=item.options if kind == "submitted" else None,
                    declared=job.record.declared if kind == "submitted" else None,
                    size_bytes=job.record.bytes if kind == "submitted" else None,
                    choice=item.choice if kind == "routed" else None,
                    wall=job.begun + job.busy - job.working if over else None,
                    cpu=job.cpu if over else None,
                )
            )
