"""The rules about what an executor says it can do: each capability is kept."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from hybrid_compute.errors import PlacementError, TaskTimeout
from hybrid_compute.tasks import Task, TaskOptions
from hybrid_compute.testing._checks import Rule, rule
from hybrid_compute.testing._scene import Probe, Scene
from hybrid_compute.testing.work import count, crash, echo, hold, keep_here

__all__ = ["ABILITY_RULES"]

TIME = 0.3  # seconds of a deadline: work has begun by then, if the machine is not very busy


@rule("work that ends its process fails, and nothing else does", needs="isolates")
def survives_work_that_crashes(scene: Scene) -> None:
    gate = scene.gate()
    bystander = Probe(hold, (gate.port, 4))
    scene.hold(bystander)
    item = Probe(crash, ())
    scene.execute(item)
    if scene.executor.workers == 1:
        gate.open()  # it waits behind the other
    scene.error(item.future)
    gate.open()
    value = scene.value(bystander.future)
    scene.demand(value == 4, f"work that ran beside it returned {value!r} instead of 4")
    value = scene.value(scene.submit(echo, 1))
    scene.demand(value == 1, f"echo(1) returned {value!r} afterwards")


@rule("work that runs beyond its timeout is ended, and fails with TaskTimeout", needs="kills")
def ends_work_at_its_deadline(scene: Scene) -> None:
    gate = scene.gate()
    timed: Task[..., Any] = Task(hold.fn, name=hold.name, options=TaskOptions(timeout=TIME))
    scene.value(scene.submit(echo, 1))  # what starts late has started
    future = scene.submit(timed, gate.port)
    error = scene.error(future)
    began = gate.arrived(0)
    scene.demand(isinstance(error, TaskTimeout), f"it failed with {error!r}, no TaskTimeout")
    scene.demand(not began or gate.left(scene.timeout), "the work went on")
    value = scene.value(scene.submit(echo, 1))
    scene.demand(value == 1, f"echo(1) returned {value!r} afterwards")


@rule("cancel_running() ends work that runs, and returns True", needs="kills")
def ends_work_that_is_cancelled(scene: Scene) -> None:
    gate = scene.gate()
    future: Any = scene.submit(hold, gate.port)
    scene.demand(gate.arrived(scene.timeout), f"nothing ran within {scene.timeout:g} s")
    ended = scene.bounded("cancel_running()", future.cancel_running)
    scene.demand(ended and future.cancelled(), f"cancel_running() returned {ended}")
    scene.demand(gate.left(scene.timeout), "the work went on")
    value = scene.value(scene.submit(echo, 1))
    scene.demand(value == 1, f"echo(1) returned {value!r} afterwards")


def _read(scene: Scene, future: Future[Any]) -> tuple[list[Any], Any]:
    """Return a stream's items, and its value or what it raised."""
    stream = scene.value(future)
    items: list[Any] = []

    def read() -> Any:
        try:
            items.extend(stream)
        except Exception as error:
            return error
        return stream.value

    return items, scene.bounded("reading the stream", read)


@rule("a generator task gives a stream of its items, in order, and its value", needs="streams")
def streams_items_in_order(scene: Scene) -> None:
    items, value = _read(scene, scene.submit(count, 50))
    scene.demand(items == list(range(50)), f"of 50 numbers came {items}")
    scene.demand(value == "end", f"the value of the stream was {value!r} instead of 'end'")


@rule("what a generator raises is raised behind the items before it", needs="streams")
def streams_errors_behind_the_items(scene: Scene) -> None:
    items, value = _read(scene, scene.submit(count, 5, fails=True))
    scene.demand(items == list(range(5)), f"of 5 numbers before the error came {items}")
    scene.demand(isinstance(value, Exception), f"the stream ended with {value!r}, and no error")


@rule("closing a stream closes its generator", needs="streams")
def closes_generators(scene: Scene) -> None:
    gate = scene.gate()
    stream = scene.value(scene.submit(count, 10**9, gate.port))
    first = scene.bounded("next() of the stream", lambda: next(stream))
    scene.demand(first == 0, f"the first of the numbers was {first!r}")
    closing = threading.Thread(target=stream.close, daemon=True)  # may run it, up to the gate
    closing.start()
    scene.demand(gate.arrived(scene.timeout), "the generator's `finally` did not run")
    gate.open()
    closing.join(scene.timeout)
    scene.demand(not closing.is_alive(), "close() of the stream did not return")


@rule("work that is local_only is refused, and does not run", needs="remote")
def keeps_out_what_is_local(scene: Scene) -> None:
    path = scene.path()
    try:
        error = scene.error(scene.submit(keep_here, path))
    except Exception as raised:
        error = raised
    scene.shutdown(wait=True)
    scene.demand(scene.marks(path) == 0, "it ran there")
    scene.demand(isinstance(error, PlacementError), f"it failed with {error!r}")


ABILITY_RULES: tuple[Rule[Scene], ...] = (
    survives_work_that_crashes,
    ends_work_at_its_deadline,
    ends_work_that_is_cancelled,
    streams_items_in_order,
    streams_errors_behind_the_items,
    closes_generators,
    keeps_out_what_is_local,
)
