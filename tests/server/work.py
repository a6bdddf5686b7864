"""Tasks for the server that the tests start."""

import os
from typing import Any

import attrs

from hybrid_compute import task


@attrs.frozen
class Point:
    x: int


@task
def echo(value: Any = None) -> Any:
    return value


@task
def double(point: Point) -> int:
    return 2 * point.x


@task
def fail(text: str = "") -> None:
    raise ValueError(text)


@task
def environ() -> list[str]:
    return [each for each in os.environ if "TOKEN" in each]


@task
def wait() -> None:
    import threading

    threading.Event().wait(60)


@task
def stubborn(path: str) -> None:
    import signal
    import threading

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(path, "w").close()
    threading.Event().wait()


@task(executor="thread")
def forever(path: str) -> None:
    import threading

    open(path, "w").close()
    threading.Event().wait()


@task(executor="inline")
def stuck(path: str) -> None:
    import threading

    open(path, "w").close()
    threading.Event().wait()


@task(executor="thread")
def nap(value: int) -> int:
    import time

    time.sleep(0.005)
    return value


@task(executor="inline")
def ping(value: Any = None) -> Any:
    return value


@task
def big(size: int) -> str:
    return "x" * size


@attrs.frozen
class Picky:
    x: int

    def __attrs_post_init__(self) -> None:
        raise KeyError(self.x)


@task
def pick(value: Picky) -> int:
    return value.x


class Unreadable(dict):
    """A result of somebody's own class."""

    def items(self) -> Any:
        raise KeyError("items")


@task(executor="thread")
def unreadable() -> Any:
    return Unreadable(a=1)


RUNS = []


@task(executor="thread")
def cancels() -> None:
    from concurrent.futures import CancelledError

    RUNS.append(1)
    raise CancelledError


@task(executor="thread")
def runs() -> int:
    return len(RUNS)


def append(path: str, gate: str) -> int:
    """Have an effect that can be counted; then wait for a file, if one is named."""
    import threading

    with open(path, "a") as file:
        file.write("x")
    while gate and not os.path.exists(gate):
        threading.Event().wait(0.005)
    return os.path.getsize(path)


@task(executor="thread")
def note(path: str, gate: str = "") -> int:
    return append(path, gate)


@task(executor="thread", idempotent=True)
def again(path: str, gate: str = "") -> int:
    return append(path, gate)


@task
def numbers() -> Any:
    yield 1


KEYED = [note, again, numbers]


@task(executor="thread")
def about_here() -> list[Any]:
    import hybrid_compute

    me = hybrid_compute.current()
    return [me.name, me.attempt, me.cancelled(), type(me.executor).__name__]


@task(executor="inline")
def about_inline() -> list[Any]:
    return about_here.fn()


@task(executor="thread")
def time_left() -> float | None:
    import hybrid_compute

    return hybrid_compute.current().remaining


TASKS = [echo, double, fail, environ, wait, about_here, about_inline, time_left]
ODD = [*TASKS, stubborn, forever, stuck, ping, nap, big, pick, unreadable, cancels, runs]
