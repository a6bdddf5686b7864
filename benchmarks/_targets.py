"""What each row is to reach: the one table of "must" and "goal".

A target compares one of our executors with one adapter of the same case, in one run. None stands
where a row has only one of the two.
"""

from __future__ import annotations

import statistics

import attrs

from benchmarks._harness import Outcome, rst_table, short

__all__ = ["OURS", "TARGETS", "Target", "table_of_targets"]

OURS = (
    *("HybridExecutor", "ThreadExecutor", "ProcessExecutor", "RemoteExecutor", "OutboxExecutor"),
    *("ForeignExecutor", "DaskExecutor", "RayExecutor", "hybrid_compute"),
)

TPE = "ThreadPoolExecutor"
PPE = "ProcessPoolExecutor (fork)"
PPE_SERVER = "ProcessPoolExecutor (forkserver)"
COPIES = "two plain copies"
POOL = "multiprocessing.Pool"


@attrs.frozen
class Target:
    """One figure of ours against one of theirs.

    Attributes:
        case: the name of the case.
        ours: our adapter.
        theirs: the other one.
        kind: "faster" is theirs / ours, at least; "of" is ours / theirs, at most; "more" is
            ours - theirs, in the case's unit, at most; "alone" is ours, at most.
        must: what it has to reach; None if it only has a goal.
        goal: what it is meant to reach; None if it only has a must.
    """

    case: str
    ours: str
    theirs: str
    kind: str
    must: float | None
    goal: float | None

    def value(self, ours: float, theirs: float) -> float:
        """Return the figure that is held against `must` and `goal`."""
        if self.kind == "faster":
            return theirs / ours
        if self.kind == "of":
            return ours / theirs
        return ours - theirs if self.kind == "more" else ours

    def reached(self, value: float) -> str:
        """Say which of the two a value reaches."""
        sign = 1 if self.kind == "faster" else -1
        for word, bound in (("goal", self.goal), ("must", self.must)):
            if bound is not None and sign * value >= sign * bound:
                return word
        return "NO" if self.must is not None else "not the goal"

    def words(self, value: float) -> str:
        """Return a value as the table shows it."""
        if self.kind in ("faster", "of"):
            return f"{short(value)}x"
        return f"{value:+.3g}" if self.kind == "more" else short(value)

    def bound(self, value: float | None) -> str:
        """Return `must` or `goal` as the table shows it."""
        if value is None:
            return "-"
        return (">= " if self.kind == "faster" else "<= ") + self.words(value)


def _thread(ours: str) -> tuple[Target, ...]:
    return (
        Target("thread: submit 50k no-ops and collect", ours, TPE, "faster", 3, 6),
        Target("thread: map 50k", ours, TPE, "faster", 15, 50),
        Target("thread: one outstanding, p50", ours, TPE, "of", 1.1, 1.0),
        Target("memory: per pending item, traced", ours, TPE, "of", 1 / 3, None),
        Target("memory: per pending item, resident", ours, TPE, "of", 1 / 3, None),
        Target("start: construct to first result, thread", ours, TPE, "more", 2, 0),
    )


def _process_echo() -> tuple[Target, ...]:
    row = "process: 100 MB array there and back"
    touched = "array there and back, all touched"
    return (
        Target(row, "ProcessExecutor", PPE, "faster", 4, 10),
        Target(row, "ProcessExecutor", COPIES, "of", 5.0, 2.2),
        # The same promise where nobody can put the page faults off until after the clock.
        Target(f"process: 100 MB {touched}", "ProcessExecutor", PPE, "faster", 4, 10),
        Target(
            "process: 100 MB array there, another back", "ProcessExecutor", PPE, "faster", 4, 10
        ),
        # No promise but this one: whatever the payload, and whatever its size, never slower.
        Target("process: 100 MB of bytes there and back", "ProcessExecutor", PPE, "of", 1.0, None),
        Target(f"process: 10 MB {touched}", "ProcessExecutor", PPE, "of", 1.0, None),
        Target(f"process: 1 MB {touched}", "ProcessExecutor", PPE, "of", 1.0, None),
    )


def _waiting() -> tuple[Target, ...]:
    return tuple(
        Target(f"waiting, p99: {what}", ours, theirs, "of", 1.0, None)
        for short in ("100 us", "nothing")
        for what in (
            f"10 ms behind 200 of {short}",
            f"200 of {short} behind 50 ms",
            f"200 of {short} behind 200 and 50 ms",
        )
        for ours in ("ProcessExecutor", "HybridExecutor")
        for theirs in (PPE, PPE_SERVER)
    )


def _stream() -> tuple[Target, ...]:
    memory = "stream of 1 GiB, 8 items under way, memory of the consumer"
    network = "stream of 1 GiB over a network, 8 items under way, memory of both ends"
    services = ("RemoteExecutor, WebSocket", "RemoteExecutor, NDJSON")
    first = "stream from a process, first item"
    return (
        Target("stream from a thread", "ThreadExecutor", "queue.Queue(1024)", "faster", 3, 8),
        Target(
            "stream from a process",
            "ProcessExecutor",
            "multiprocessing.Queue(1024)",
            "faster",
            8,
            20,
        ),
        Target(
            "stream from a process",
            "ProcessExecutor",
            "ray, streaming generator",
            "faster",
            100,
            400,
        ),
        Target(first, "ProcessExecutor", "ProcessExecutor, one outstanding call", "of", None, 1.5),
        # 300,000 and 100,000 items a second.
        Target("stream from a service", "RemoteExecutor, WebSocket", "", "alone", 3.33, None),
        Target("stream from a service", "RemoteExecutor, NDJSON", "", "alone", 10, None),
        Target(memory, "ThreadExecutor", "", "alone", 64, None),
        Target(memory, "ProcessExecutor", "", "alone", 64, None),
        *(Target(network, each, "", "alone", 64, None) for each in services),
        *(Target(network, f"{each}, server", "", "alone", 64, None) for each in services),
    )


def _remote() -> tuple[Target, ...]:
    ours, bare, server = "RemoteExecutor", "websocket-client, bare echo", "remote: 200 clients"
    http, body = "remote: HTTP, one outstanding, p50", "remote: HTTP, 10 MB of bytes there and back"
    return (
        Target("remote: WebSocket, one outstanding, p50", ours, bare, "of", 1.25, 1.1),
        Target("remote: WebSocket, 32 in flight", ours, bare, "faster", 2.5, 3.5),
        Target("remote: WebSocket, 256 in flight", ours, bare, "faster", 5, 10),
        Target("remote: WebSocket, 256 in flight", ours, "rpyc", "faster", 6, 12),
        Target(http, ours, "requests.Session.post", "faster", 1.0, 1.6),
        Target(body, ours, "requests, bare bodies", "of", 1.3, None),
        Target(server, "server, errors", "", "alone", 0, None),
        # What its clients leave behind: an interpreter gives not all of its memory back.
        Target(server, "server, memory after, MiB", "server, memory before, MiB", "more", 30, 10),
    )


def _outbox() -> tuple[Target, ...]:
    ours, bare = "OutboxExecutor", "bare SQLite loop"
    return (
        Target("outbox: durable submits, one thread", ours, bare, "of", 1.3, 1.1),
        Target("outbox: durable submits, 8 threads", ours, bare, "faster", 2, None),
        # 2,000 calls a second, whatever the disk needs for a sync.
        Target("outbox: map, written together", ours, "", "alone", 500, 100),
    )


def _routing() -> tuple[Target, ...]:
    ours, eight, hand = "HybridExecutor", "ThreadPoolExecutor(8)", "hand-routed"
    mixed, warm = "routing: mixed", "HybridExecutor, warm"
    best = ("ThreadPoolExecutor(8)", "ThreadPoolExecutor(32)", "ProcessPoolExecutor(2)")
    fixed = {
        "tiny": "HybridExecutor, Always('inline')",
        "waits": "HybridExecutor, Always('lane')",
        "holds": "HybridExecutor, Always('process')",
        "works": "HybridExecutor, Always('thread')",
    }
    known = "routing: submit of a known task, p50"
    return (
        *(Target(mixed, ours, each, "of", 0.8, 0.65) for each in best),
        Target(mixed, ours, hand, "of", None, 1.05),
        *(Target(mixed, warm, each, "of", 0.8, 0.65) for each in best),
        Target(mixed, f"{ours}, tiny p50", f"{eight}, tiny p50", "of", 0.01, None),
        Target(mixed, f"{ours}, tiny p50", "", "alone", None, 0.01),
        Target(mixed, f"{ours}, waits p50", f"{hand}, waits p50", "of", 8, 2),
        *(
            Target(f"routing: {kind} alone", each, theirs, "of", 1.1, None)
            for kind, theirs in fixed.items()
            for each in (ours, warm)
        ),
        Target("routing: changing", ours, hand, "of", 1.25, None),
        Target(known, "HybridExecutor, tiny", "Always('inline'), tiny", "more", 1, None),
        Target(known, "HybridExecutor, waits", "Always('lane'), waits", "more", 1, None),
    )


def _survive() -> tuple[Target, ...]:
    submit, more = "survive: thread submit, nothing failing", "with retries and a deadline"
    process = "survive: process call, nothing failing, p50"
    remote = "survive: remote call, nothing failing, p50"
    worker = "survive: first result after a killed worker"
    server = "survive: first result after a restarted server"
    return (
        *(
            Target(
                submit,
                f"ThreadExecutor, a task {more}{part}",
                f"ThreadExecutor, a task{part}",
                "more",
                0.5,
                None,
            )
            for part in (", submit", "")  # the call of `submit`, and all of it, the result too
        ),
        # What nobody has asked for is not to cost anything.
        Target(
            submit, "HybridExecutor, a function", "ThreadExecutor, a function", "more", 0.5, None
        ),
        # "Nothing measurable": less than two rounds of the same differ by.
        Target(process, f"ProcessExecutor, {more}", "ProcessExecutor", "of", 1.1, None),
        Target(remote, f"RemoteExecutor, {more}", "RemoteExecutor", "of", 1.1, None),
        Target(worker, "ProcessExecutor", "", "alone", 300, None),
        Target(server, "RemoteExecutor", "RemoteExecutor, back-off step", "more", 0, None),
    )


def _observe() -> tuple[Target, ...]:
    watched = "HybridExecutor, recorded"
    cases = (
        *("50k plain callables", "map over 50k on threads", "50k tiny tasks, one by one"),
        *("50k tasks inline", "50k tasks on threads", "50k tasks in a process"),
    )
    return (
        *(Target(f"observe: {each}", watched, "HybridExecutor", "more", 2, None) for each in cases),
        # Nobody watches any more: nothing measurable is left of it.
        *(
            Target(f"observe: {each}", f"{watched} before", "HybridExecutor", "of", 1.05, None)
            for each in cases
        ),
    )


def _engines() -> tuple[Target, ...]:
    foreign = "engines: foreign pool, submit 20k no-ops and collect"
    dask, ray = "engines: Dask, a batch of 2,000", "engines: Ray, a batch of 2,000"
    return (
        Target(foreign, "ForeignExecutor", TPE, "more", 6, None),
        Target(foreign, "ForeignExecutor, CPU", f"{TPE}, CPU", "more", 6, None),
        Target(dask, "DaskExecutor", "distributed", "of", 1.1, None),
        Target(dask, "DaskExecutor, map", "distributed, map", "of", 0.2, None),
        Target(ray, "RayExecutor", "ray", "of", 1.1, None),
        Target(ray, "RayExecutor, map", "ray, map", "of", 0.2, None),
    )


TARGETS = (
    *_survive(),
    *_observe(),
    *_routing(),
    *_engines(),
    *_outbox(),
    *_stream(),
    *_thread("HybridExecutor"),
    *_thread("ThreadExecutor"),
    Target("thread: one outstanding, p50", "HybridExecutor, task inline", TPE, "of", None, 0.1),
    Target("inline: submit and result, p50", "HybridExecutor", "bare Future", "of", 1.0, 0.7),
    Target("process: submit 20k tiny", "ProcessExecutor", PPE, "faster", 10, 30),
    Target("process: submit 20k tiny", "ProcessExecutor", POOL, "faster", 3, 8),
    Target("process: map 200k tiny", "ProcessExecutor", PPE, "faster", 200, 700),
    Target("process: map 200k tiny", "ProcessExecutor", POOL, "faster", 0.8, 1.2),
    Target("process: one outstanding, p50", "ProcessExecutor", PPE, "of", 0.6, 0.4),
    *_process_echo(),
    Target("process: parent memory during the echo", "ProcessExecutor", PPE, "of", 1.0, None),
    Target("process: parent memory during the echo", "ProcessExecutor", "", "alone", None, 1.0),
    Target("process: construct to first result", "ProcessExecutor", PPE_SERVER, "of", 1.0, 0.7),
    Target("start: import", "hybrid_compute", "concurrent.futures.process", "more", 30, 10),
    # Nothing is to be left. A block a call would be a leak; a thousand blocks in all are not.
    Target("memory: left by a million dropped futures", "HybridExecutor", "", "alone", 1e-3, None),
    Target("memory: left by a million dropped futures", "ThreadExecutor", "", "alone", 1e-3, None),
    Target("memory: 100k pending items of 1 kB", "ProcessExecutor", "", "alone", 2.0, None),
    Target("memory: 100k pending items of 1 kB", "HybridExecutor", "", "alone", 2.0, None),
    *_waiting(),
    *_remote(),
)


def table_of_targets(outcomes: dict[str, Outcome]) -> str:
    """Return one line for each target whose case was measured."""
    rows = []
    for target in TARGETS:
        outcome = outcomes.get(target.case)
        if outcome is None:
            continue
        rival = target.theirs or target.ours
        pairs = outcome.pairs(target.ours, rival)
        row = [target.case, target.ours, target.theirs or "-"]
        if not pairs:
            row += ["not measured", "", target.bound(target.must), target.bound(target.goal), ""]
        else:
            ours = statistics.median(a for a, _ in pairs)
            theirs = statistics.median(b for _, b in pairs)
            value = target.value(ours, theirs)
            each = [target.value(a, b) for a, b in pairs]
            row += [target.words(value), f"{target.words(min(each))} to {target.words(max(each))}"]
            row += [target.bound(target.must), target.bound(target.goal), target.reached(value)]
        rows.append(row)
    head = ["row", "ours", "against", "ratio", "each round", "must", "goal", "reached"]
    return rst_table(head, rows)
