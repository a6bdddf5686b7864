"""The rules about an item's life: accepted, started, run and delivered, each once."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Future
from typing import Any

from hybrid_compute.abc import Capabilities
from hybrid_compute.testing._checks import Rule, call, rule, together
from hybrid_compute.testing._scene import CancelledAtStart, Probe, Scene
from hybrid_compute.testing.work import (
    OddError,
    echo,
    fail,
    fail_oddly,
    hold,
    keywords,
    leave,
    mark,
    raise_it,
)

__all__ = ["LIFE_RULES"]

ITEMS = 20
# What a careless submit(), execute() or Task would take for its own.
NAMES = ("self", "fn", "item", "task", "args", "kwargs", "timeout", "name", "executor", "key")


@rule("it has a name, capabilities and a number of workers")
def describes_itself(scene: Scene) -> None:
    executor = scene.executor
    name = getattr(executor, "name", None)
    scene.demand(isinstance(name, str) and name, f"its name is {name!r}")
    told = getattr(executor, "capabilities", None)
    scene.demand(isinstance(told, Capabilities), f"its capabilities are {told!r}")
    workers = getattr(executor, "workers", None)
    scene.demand(isinstance(workers, int) and workers > 0, f"it has {workers!r} workers")
    can = executor.can_run(Probe(echo, (1,)))
    scene.demand(can is True or can is False, f"can_run() returned {can!r}")


@rule("an item is started once, and then succeeds once, with what its function returned")
def delivers_a_result_once(scene: Scene) -> None:
    item = Probe(echo, (7,))
    scene.execute(item)
    value = scene.value(item.future)
    scene.demand(value == 7, f"the result of echo(7) was {value!r}")
    scene.shutdown(wait=True)
    scene.demand(item.steps == ["start", "succeed"], f"the steps were {', '.join(item.steps)}")


@rule("an item whose function raises is failed once")
def delivers_a_failure_once(scene: Scene) -> None:
    item = Probe(fail, ("boom",))
    scene.execute(item)
    scene.error(item.future)
    scene.shutdown(wait=True)
    scene.demand(item.steps == ["start", "fail"], f"the steps were {', '.join(item.steps)}")


@rule("an item that was accepted runs once")
def runs_each_item_once(scene: Scene) -> None:
    marked = [scene.marker() for _ in range(ITEMS)]
    for item, _ in marked:
        scene.execute(item)
    scene.settle(*(item.future for item, _ in marked))
    scene.shutdown(wait=True)
    ran = sorted(scene.marks(path) for _, path in marked)
    scene.demand(ran == [1] * ITEMS, f"of {ITEMS} items one ran {ran[0]} and one {ran[-1]} times")


@rule("start() is called just before the work begins")
def starts_an_item_before_its_work(scene: Scene) -> None:
    gate = scene.gate()
    item = Probe(hold, (gate.port,))
    scene.hold(item)
    steps = ", ".join(item.steps) or "none"
    scene.demand(item.steps == ["start"], f"the steps were {steps} while it ran")
    gate.open()
    scene.settle(item.future)


@rule("execute() does not wait for the work", needs="not blocks")
def blocks_only_if_it_says_so(scene: Scene) -> None:
    gate = scene.gate()
    item = Probe(hold, (gate.port,))
    returned, _ = call(lambda: scene.executor.execute(item), scene.timeout)
    scene.demand(returned, "execute() waited for the work")
    gate.arrived(scene.timeout)
    gate.open()
    scene.settle(item.future)


@rule("execute() returns when the work is done", needs="blocks")
def is_done_when_execute_returns(scene: Scene) -> None:
    item = Probe(echo, (1,))
    scene.execute(item)
    scene.demand(item.future.done(), "execute() returned before there was an outcome")


@rule("all keyword arguments are the function's, whatever their names")
def passes_keywords_of_any_name(scene: Scene) -> None:
    named: dict[str, Any] = dict.fromkeys(NAMES, 1)
    item = Probe(keywords, ())
    item.kwargs = dict(named)
    scene.execute(item)
    for how, future in ("execute", item.future), ("submit", scene.submit(keywords, **named)):
        got = scene.value(future)
        scene.demand(got == named, f"by {how}() of {named} came {got!r}")


@rule("what the function raised is what its future fails with")
def delivers_what_the_work_raises(scene: Scene) -> None:
    shared = scene.capabilities.shares_memory
    error = ValueError("boom")
    item = Probe(raise_it, (error,)) if shared else Probe(fail, ("boom",))
    scene.execute(item)
    got = scene.error(item.future)
    if shared:
        scene.demand(got is error, f"another object was delivered: {got!r}")
    elif not scene.capabilities.remote:
        scene.demand(type(got) is ValueError and got.args == ("boom",), f"it was {got!r}")


@rule("a function that raises SystemExit has failed, and other work goes on")
def survives_work_that_exits(scene: Scene) -> None:
    item = Probe(leave, (3,))
    scene.execute(item)
    got = scene.error(item.future)
    if not scene.capabilities.remote:
        scene.demand(isinstance(got, SystemExit), f"SystemExit became {got!r}")
    value = scene.value(scene.submit(echo, 1))
    scene.demand(value == 1, f"echo(1) returned {value!r} afterwards")


@rule(
    "an exception that cannot be pickled, or unpickled, has failed its own item only",
    needs="not shares_memory",
)
def survives_errors_that_cannot_travel(scene: Scene) -> None:
    item = Probe(fail_oddly, ())
    scene.execute(item)
    got = scene.error(item.future)
    scene.demand(not isinstance(got, OddError) or got.args, f"it became {got!r}")
    value = scene.value(scene.submit(echo, 1))
    scene.demand(value == 1, f"echo(1) returned {value!r} afterwards")


@rule("the work gets the caller's own objects, and he gets its own", needs="shares_memory")
def passes_objects_themselves(scene: Scene) -> None:
    value = object()
    got = scene.value(scene.submit(echo, value))
    scene.demand(got is value, "another object came back")


@rule("nothing of work that is done is kept", needs="shares_memory")
def forgets_work_that_is_done(scene: Scene) -> None:
    class Argument:
        pass

    argument = Argument()
    watch = weakref.ref(argument)
    future = scene.submit(echo, argument)
    scene.value(future)
    del argument, future
    # Behind another item, as a thread may keep what it has just done until the next.
    scene.value(scene.submit(echo))
    scene.shutdown(wait=True)
    gc.collect()
    scene.demand(watch() is None, "the argument of a call was still referenced")


@rule("an item that was cancelled is not run: start() is False, and that is all")
def leaves_cancelled_items_alone(scene: Scene) -> None:
    path = scene.path()
    item = CancelledAtStart(mark, (path,))
    scene.execute(item)
    scene.settle(item.future)  # wait() hears of a cancelled one by start() alone
    scene.shutdown(wait=True)
    if item.cancelled:
        scene.demand(scene.marks(path) == 0, "it ran")
        scene.demand(item.steps == ["refused start"], f"the steps were {', '.join(item.steps)}")
    else:  # who holds the work knew better
        scene.demand(item.steps == ["start", "succeed"], f"the steps were {', '.join(item.steps)}")


@rule("work whose cancel() returned True never runs, and other work does", needs="not blocks")
def cancels_what_is_queued(scene: Scene) -> None:
    gate = scene.gate()
    for _ in range(scene.executor.workers):
        scene.hold(Probe(hold, (gate.port,)))
    item, path = scene.marker()
    scene.execute(item)
    cancelled = scene.bounded("cancel()", item.future.cancel)
    gate.open()
    scene.settle(item.future)
    scene.shutdown(wait=True)
    ran = scene.marks(path)
    scene.demand(
        ran == (not cancelled), f"cancel() returned {cancelled} and the work ran {ran} times"
    )


@rule("outcomes are delivered holding no lock")
def delivers_holding_no_lock(scene: Scene) -> None:
    executor = scene.executor
    seen: list[bool] = []

    def look() -> None:
        executor.load()
        executor.counts()
        executor.give_back(object())
        executor.can_run(Probe(echo, ()))

    called = threading.Event()  # who blocks may still be in it when his future is done

    def on_done(_: Future[object]) -> None:
        seen.append(call(look, scene.timeout)[0])
        called.set()

    gate = scene.gate()
    item = Probe(hold, (gate.port,))
    item.future.add_done_callback(on_done)
    scene.hold(item)
    gate.open()
    scene.settle(item.future)
    scene.demand(called.wait(2 * scene.timeout), "the done-callback was not called")
    scene.demand(seen == [True], "load(), asked by another thread, waited for a done-callback")


@rule("a done-callback may submit more work")
def lets_callbacks_submit(scene: Scene) -> None:
    later: list[Future[object]] = []
    called = threading.Event()

    def on_done(_: Future[object]) -> None:
        try:
            later.append(scene.executor.submit(echo, 2))  # right here, on this thread
        finally:
            called.set()

    item = Probe(echo, (1,))
    item.future.add_done_callback(on_done)
    scene.execute(item)
    scene.demand(called.wait(scene.timeout), "a done-callback that submits did not return")
    scene.demand(later, "submit() in a done-callback raised")
    scene.value(later[0])


@rule("load() and counts() tell what is queued and runs")
def counts_what_it_holds(scene: Scene) -> None:
    executor = scene.executor
    for when in ("before", "after"):
        queued, running = executor.counts()
        load = executor.load()
        scene.demand(
            (queued, running, load) == (0, 0, 0),
            f"{when} all work, counts() is {(queued, running)} and load() {load}",
        )
        if when == "after":
            return
        if not scene.capabilities.blocks:
            gate = scene.gate()
            scene.hold(Probe(hold, (gate.port,)))
            queued, running = executor.counts()
            load = executor.load()
            scene.demand(
                queued + running == 1 and load > 0,
                f"with one item, counts() is {(queued, running)} and load() {load}",
            )
            gate.open()
        scene.shutdown(wait=True)


@rule("give_back() gives items with that belief only")
def gives_back_nothing_unknown(scene: Scene) -> None:
    given = scene.executor.give_back(object())
    scene.demand(given == [] and isinstance(given, list), f"give_back() returned {given!r}")


@rule("submit() and map() work as in concurrent.futures")
def is_an_executor_by_itself(scene: Scene) -> None:
    future = scene.submit(echo, 1)
    scene.demand(isinstance(future, Future), f"submit() returned {future!r}")
    scene.value(future)
    found = scene.bounded("map()", lambda: list(scene.executor.map(echo, range(ITEMS))))
    scene.demand(found == list(range(ITEMS)), f"map(echo, range({ITEMS})) gave {found}")
    results = scene.executor.map(fail, ["boom"])
    try:
        got = scene.bounded("next() of map()", lambda: next(results, None))
    except Exception:
        return
    scene.broken(f"map() of what fails gave {got!r}")


@rule("items are accepted from any thread")
def takes_items_from_many_threads(scene: Scene) -> None:
    futures: list[Future[object]] = []

    def submit() -> None:
        futures.extend(scene.executor.submit(echo, each) for each in range(ITEMS))

    said = together(4, submit, scene.timeout)
    scene.demand(said == [None] * 4, f"four threads that called submit() told {said}")
    scene.settle(*futures)
    scene.demand(
        sorted(scene.value(each) for each in futures) == sorted([*range(ITEMS)] * 4),
        "results went to the wrong futures",
    )


LIFE_RULES: tuple[Rule[Scene], ...] = (
    describes_itself,
    delivers_a_result_once,
    delivers_a_failure_once,
    runs_each_item_once,
    starts_an_item_before_its_work,
    blocks_only_if_it_says_so,
    is_done_when_execute_returns,
    passes_keywords_of_any_name,
    delivers_what_the_work_raises,
    survives_work_that_exits,
    survives_errors_that_cannot_travel,
    passes_objects_themselves,
    forgets_work_that_is_done,
    leaves_cancelled_items_alone,
    cancels_what_is_queued,
    delivers_holding_no_lock,
    lets_callbacks_submit,
    counts_what_it_holds,
    gives_back_nothing_unknown,
    is_an_executor_by_itself,
    takes_items_from_many_threads,
)
