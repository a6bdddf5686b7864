"""The rules about an executor's end: nothing that it accepted is lost, and nothing is left."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from hybrid_compute.testing._checks import Rule, call, rule, together
from hybrid_compute.testing._scene import Probe, Scene
from hybrid_compute.testing.work import echo, hold

__all__ = ["CLOSING_RULES"]

ITEMS = 20
MANY = 2000  # about as many as can be submitted before shutdown() is called
# Seconds that one who should wait is given to show that he does not. Who waits is never told off.
MOMENT = 0.05


@rule("after shutdown() execute() and submit() raise RuntimeError and touch nothing")
def refuses_after_shutdown(scene: Scene) -> None:
    scene.shutdown(wait=True)
    item = Probe(echo, (1,))
    for how in ("execute", "submit"):
        try:
            if how == "execute":
                scene.execute(item)
            else:
                scene.submit(echo, 1)
        except RuntimeError:
            continue
        scene.broken(f"{how}() accepted work")
    scene.demand(not item.steps, f"the steps of what it refused were {', '.join(item.steps)}")


@rule("shutdown(wait=True) returns once all that was accepted is finished")
def finishes_what_it_has(scene: Scene) -> None:
    gate = scene.gate()
    item = Probe(hold, (gate.port, 5))
    scene.hold(item)
    queued = []
    if not scene.capabilities.blocks:  # else there is no queue but the callers'
        queued = [Probe(echo, (5,)) for _ in range(3)]
        for each in queued:
            scene.execute(each)
        over = call(lambda: scene.executor.shutdown(wait=True), MOMENT)[0]
        scene.demand(not over, "shutdown(wait=True) did not wait for work that ran")
    gate.open()
    scene.shutdown(wait=True)
    for each in (item, *queued):
        if not scene.capabilities.blocks:
            scene.demand(each.future.done(), "shutdown(wait=True) left a future without outcome")
        value = scene.value(each.future)
        scene.demand(value == 5, f"a result was {value!r} instead of 5")


@rule("shutdown(wait=False) returns at once, and what was accepted is finished later")
def need_not_wait(scene: Scene) -> None:
    gate = scene.gate()
    item = Probe(hold, (gate.port, 5))
    scene.hold(item)
    scene.shutdown(wait=False)
    scene.demand(not item.future.done(), "shutdown(wait=False) ended work that ran")
    gate.open()
    value = scene.value(item.future)
    scene.demand(value == 5, f"the result of what ran was {value!r} instead of 5")


@rule(
    "shutdown(cancel_futures=True) cancels what has not started, and finishes the rest",
    needs="not blocks",
)
def cancels_on_request(scene: Scene) -> None:
    gate = scene.gate()
    for _ in range(scene.executor.workers):
        scene.hold(Probe(hold, (gate.port,)))
    marked = [scene.marker() for _ in range(ITEMS)]
    for item, _ in marked:
        scene.execute(item)
    scene.shutdown(wait=False, cancel_futures=True)
    gate.open()
    scene.settle(*(item.future for item, _ in marked))
    scene.shutdown(wait=True)
    ran = sum(scene.marks(path) for _, path in marked)
    finished = sum(not item.future.cancelled() for item, _ in marked)
    scene.demand(ran == finished, f"{finished} futures were not cancelled and {ran} items ran")
    if not scene.capabilities.remote:  # there they may all have been sent, where nothing stops them
        scene.demand(finished < ITEMS, f"none of {ITEMS} queued items was cancelled")


@rule("shutdown() may be called again, by any threads")
def may_be_shut_down_again(scene: Scene) -> None:
    scene.value(scene.submit(echo, 1))
    said = together(4, scene.executor.shutdown, scene.timeout)
    scene.demand(said == [None] * 4, f"four shutdown() at once told {said}")
    for how in ({}, {"wait": False}, {"cancel_futures": True}, {"wait": True}):
        scene.shutdown(**how)


@rule("shutdown(wait=False) may be called by a callback")
def may_be_shut_down_in_a_callback(scene: Scene) -> None:
    seen: list[str] = []

    def on_done(_: Future[object]) -> None:
        try:
            scene.executor.shutdown(wait=False, cancel_futures=True)
            seen.append("returned")
        except BaseException as error:
            seen.append(f"raised {error!r}")
        called.set()

    called = threading.Event()
    gate = scene.gate()
    item = Probe(hold, (gate.port,))
    item.future.add_done_callback(on_done)
    scene.hold(item)
    gate.open()
    scene.settle(item.future)
    called.wait(scene.timeout)
    scene.shutdown(wait=True)
    scene.demand(seen == ["returned"], f"shutdown(wait=False) {', '.join(seen) or 'hung'}")


@rule("submit() during shutdown() raises RuntimeError, or its future has an outcome")
def loses_nothing_when_it_ends(scene: Scene) -> None:
    futures: list[Future[object]] = []
    begun, ended = threading.Event(), threading.Event()

    def submit() -> None:
        try:
            for _ in range(MANY):
                futures.append(scene.executor.submit(echo, 1))
                begun.set()
                if ended.is_set():
                    break
            ended.wait(scene.timeout)
            futures.append(scene.executor.submit(echo, 1))  # certainly too late
        except RuntimeError:
            return

    def end() -> None:
        begun.wait(scene.timeout)
        scene.executor.shutdown(wait=True)
        ended.set()

    turns = iter((end, submit, submit, submit))

    def take_turn() -> None:
        next(turns)()

    said = together(4, take_turn, scene.timeout)
    scene.demand(said == [None] * 4, f"submit() and shutdown(), side by side, told {said}")
    scene.settle(*futures)


@rule("no thread is left after shutdown(wait=True)")
def leaves_no_thread(scene: Scene) -> None:
    scene.settle(*(scene.submit(echo, each) for each in range(ITEMS)))
    scene.shutdown(wait=True)
    left = scene.threads_left()
    scene.demand(not left, f"{len(left)} threads went on: {', '.join(left)}")


CLOSING_RULES: tuple[Rule[Scene], ...] = (
    refuses_after_shutdown,
    finishes_what_it_has,
    need_not_wait,
    cancels_on_request,
    may_be_shut_down_again,
    may_be_shut_down_in_a_callback,
    loses_nothing_when_it_ends,
    leaves_no_thread,
)
