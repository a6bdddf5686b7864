"""The doctor: measures what a call costs here, asks services, and says what is wrong.

Owns the measurements and the judgement: `findings_of` is pure, and says each thing with its remedy.
What the machine offers, `_machine` looks up; what it looks like, `_doctor_commands` says.

Threads: those of the executors that are measured, which end before their figures are returned.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from hybrid_compute._failures import text_of
from hybrid_compute._machine import Machine
from hybrid_compute.decisions import seconds_in_words
from hybrid_compute.errors import AuthError, HybridComputeError, TLSError
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.executors.process import ProcessExecutor
from hybrid_compute.executors.thread import ThreadExecutor
from hybrid_compute.protocol.http import HEADER
from hybrid_compute.transports._access import Access
from hybrid_compute.transports.http import HttpTransport

__all__ = ["Dispatch", "Finding", "Service", "findings_of", "measure_dispatch", "visit"]

_ONE_BY_ONE = 200
_AT_ONCE = 2000
_WORKERS = 2
_VISITS = 5
_PATIENCE = 5.0  # seconds for an answer of a service
_FEW_FILES = 256
_LITTLE_MEMORY = 256 << 20  # bytes for each worker: an interpreter and some data


@attrs.frozen(kw_only=True)
class Dispatch:
    """What a call costs on one executor, the work itself being nothing.

    Attributes:
        executor: its name.
        start: seconds from the constructor to the first result.
        one: seconds from `submit` to the result, one call at a time: the median.
        many: seconds a call, of many that were submitted at once.
        error: what went wrong; the figures are 0 then. None: nothing did.
    """

    executor: str
    start: float = 0.0
    one: float = 0.0
    many: float = 0.0
    error: str | None = None


@attrs.frozen(kw_only=True)
class Service:
    """How one service answers.

    Attributes:
        url: where it is.
        own: whether it is a server of this library.
        tasks: names of the tasks that it offers; None: it does not say.
        connect: seconds until the first answer, with the connection; None: none came.
        round_trip: seconds for one more question; None likewise.
        status: of its answers, as in HTTP; None: none came.
        error: why none came; None: one did.
        remedy: what to do about that; "" if nothing is wrong.
    """

    url: str
    own: bool = False
    tasks: tuple[str, ...] | None = None
    connect: float | None = None
    round_trip: float | None = None
    status: int | None = None
    error: str | None = None
    remedy: str = ""


@attrs.frozen(kw_only=True)
class Finding:
    """One thing to know.

    Attributes:
        level: "wrong" or "note".
        what: in plain words.
        remedy: what to do about it.
    """

    level: Literal["wrong", "note"]
    what: str
    remedy: str


def _nothing() -> None:
    """Stand for work that takes no time."""


def measure_dispatch() -> tuple[Dispatch, ...]:
    """Return what a call costs inline, on a thread and in a process; takes a second or so."""
    makers: tuple[tuple[str, Any], ...] = (
        ("inline", InlineExecutor),
        ("thread", lambda: ThreadExecutor(_WORKERS)),
        ("process", lambda: ProcessExecutor(_WORKERS)),
    )
    return tuple(_measure(name, make) for name, make in makers)


def _measure(name: str, make: Any) -> Dispatch:
    try:
        begin = time.perf_counter()
        with make() as executor:
            executor.submit(_nothing).result(60)
            start = time.perf_counter() - begin
            took = []
            for _ in range(_ONE_BY_ONE):
                begin = time.perf_counter()
                executor.submit(_nothing).result(60)
                took.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for future in [executor.submit(_nothing) for _ in range(_AT_ONCE)]:
                future.result(60)
            many = (time.perf_counter() - begin) / _AT_ONCE
    except Exception as error:  # whatever keeps it from working is what we look for
        return Dispatch(executor=name, error=f"{type(error).__name__}: {text_of(error)}")
    return Dispatch(executor=name, start=start, one=statistics.median(took), many=many)


def visit(url: str, *, token: Any = None, tls_ca: Any = None) -> Service:
    """Ask a service what it offers, several times, and return how it answers. Blocks for a while.

    Args:
        url: of the service, as for a RemoteExecutor.
        token: as for a RemoteExecutor.
        tls_ca: likewise.
    """
    try:
        access = Access(url, token=token, tls_ca=tls_ca, connect_timeout=_PATIENCE)
    except HybridComputeError as error:
        return Service(url=url, error=str(error), remedy="give a URL such as wss://host/ws")
    transport = HttpTransport(access)
    path, took = access.beside("tasks"), []
    try:
        begin = time.perf_counter()
        answer = transport.exchange("GET", path, headers={HEADER: "1"}, timeout=_PATIENCE)
        connect = time.perf_counter() - begin
        for _ in range(_VISITS):
            begin = time.perf_counter()
            transport.exchange("GET", path, headers={HEADER: "1"}, timeout=_PATIENCE)
            took.append(time.perf_counter() - begin)
    except TLSError as error:
        remedy = "trust its certificate with --tls-ca FILE, or correct the host's name"
        return Service(url=url, error=str(error), remedy=remedy)
    except AuthError as error:
        return Service(url=url, error=str(error), remedy="put its token where that says")
    except HybridComputeError as error:
        remedy = "start it, or correct host and port; look for a firewall between"
        return Service(url=url, error=str(error), remedy=remedy)
    finally:
        transport.close()
    return Service(
        url=url,
        own=HEADER in answer.headers,
        tasks=_names(answer.body) if answer.status == 200 else None,
        connect=connect,
        round_trip=statistics.median(took),
        status=answer.status,
        **_complaint(answer.status),
    )


def _complaint(status: int) -> dict[str, str]:
    if status in (401, 403):
        remedy = "set HYBRID_COMPUTE_TOKEN, or give --token-file, with a token that it takes"
        return {"error": f"it refuses the token (status {status})", "remedy": remedy}
    if status == 421:
        remedy = "call it by its own name, or start it with --allow-host NAME"
        return {"error": "it does not go by that name (status 421)", "remedy": remedy}
    if status >= 500 or status == 429:
        return {"error": f"it is in trouble (status {status})", "remedy": "look into its log"}
    return {}  # a service of somebody else's may have no list of tasks


def _names(body: bytes) -> tuple[str, ...] | None:
    try:
        found = json.loads(body)["tasks"]
        return tuple(str(each["name"]) for each in found)
    except (ValueError, KeyError, TypeError):
        return None


# The judgement.


def findings_of(
    machine: Machine, dispatches: Iterable[Dispatch] = (), services: Iterable[Service] = ()
) -> tuple[Finding, ...]:
    """Return what is wrong, the worst first, and then what is good to know. Pure."""
    found = [
        *_about_cores(machine),
        *_about_memory(machine),
        *_about_limits(machine),
        *(each for dispatch in dispatches for each in _about_dispatch(dispatch, machine)),
        *(each for service in services for each in _about_service(service)),
    ]
    return tuple(sorted(found, key=lambda each: each.level != "wrong"))


def _wrong(what: str, remedy: str) -> Finding:
    return Finding(level="wrong", what=what, remedy=remedy)


def _note(what: str, remedy: str) -> Finding:
    return Finding(level="note", what=what, remedy=remedy)


def _about_cores(machine: Machine) -> Iterable[Finding]:
    quota, usable = machine.quota_cores, machine.usable_cores
    if quota is not None and quota < usable - 0.01:
        fit = max(1, math.floor(quota + 0.25))
        yield _wrong(
            f"the container may use {quota:.3g} cores' worth of time, and pools see {usable} "
            "cores: with a worker for each, all are stopped for a part of each tenth of a second",
            f"HybridExecutor(max_processes={fit}), or give the container {usable} CPUs",
        )
    if usable < machine.cores:
        yield _note(
            f"this process may run on {usable} of {machine.cores} cores",
            "if that is not meant: taskset, or the cpuset of the container",
        )
    if machine.load is not None and machine.load > usable:
        yield _note(
            f"other programs are busy: {machine.load:.1f} wanted a core, and there are {usable}; "
            "the times here are rough",
            "measure again when the machine is quiet",
        )
    if usable == 1 and (quota is None or quota >= 1):
        yield _note(
            "there is one core: processes run nothing side by side here",
            "threads for what waits; a service for what computes (remote=)",
        )


def _about_memory(machine: Machine) -> Iterable[Finding]:
    left, whose = machine.available_bytes, "the machine has"
    if machine.memory_limit_bytes is not None:
        free = machine.memory_limit_bytes - (machine.memory_used_bytes or 0)
        if left is None or free < left:
            left, whose = free, "the container may use"
    if left is None:
        return
    fit = left // _LITTLE_MEMORY
    if fit < machine.usable_cores:
        yield _wrong(
            f"{whose} {left / 1e6:,.0f} MB more, which is little for {machine.usable_cores} "
            "worker processes: the kernel may kill one, and its call fails with WorkerCrashed",
            f"HybridExecutor(max_processes={max(1, fit)}), or more memory; "
            "ProcessExecutor(max_memory_per_child=...) bounds each",
        )


def _about_limits(machine: Machine) -> Iterable[Finding]:
    if machine.open_files is not None and machine.open_files < _FEW_FILES:
        yield _wrong(
            f"this process may have {machine.open_files} files open; each worker and each "
            "connection takes some",
            "ulimit -n 1024 in the shell that starts it (LimitNOFILE= in a systemd unit)",
        )
    if machine.shared_memory is not None:
        yield _wrong(
            f"there is no shared memory ({machine.shared_memory}): no worker process can start",
            "allow memfd_create, or mount /dev/shm (docker run --shm-size=1g)",
        )
    if not machine.gil:
        yield _note(
            "this Python has no GIL: threads compute side by side",
            "declared tasks that compute need no process here, unless they may crash",
        )


def _about_dispatch(dispatch: Dispatch, machine: Machine) -> Iterable[Finding]:
    if dispatch.error is not None:
        yield _wrong(
            f"executor {dispatch.executor!r} does not work: {dispatch.error}",
            "look at what its workers print to stderr; see the findings above"
            if dispatch.executor == "process"
            else "please report it",
        )
    elif dispatch.one > 0.01:
        busy = machine.load is not None and machine.load > machine.usable_cores
        yield _note(
            f"a call on {dispatch.executor!r} takes {seconds_in_words(dispatch.one)}, a hundred "
            "times what is usual",
            "measure again when the machine is quiet" if busy else "look for a cgroup's limit",
        )


def _about_service(service: Service) -> Iterable[Finding]:
    if service.error is not None:
        yield _wrong(f"{service.url}: {service.error}", service.remedy)
    elif service.tasks is not None and not service.tasks:
        yield _wrong(
            f"{service.url} offers no task to this token",
            "give a token that may call some, or serve some",
        )
    elif not service.own:
        yield _note(
            f"{service.url} answers, and is no server of this library (status {service.status})",
            "values that JSON does not have are refused there; name its tasks with tasks=[...]",
        )
