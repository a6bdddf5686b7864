"""The direct way: tasks that are known, and have one place to go in this process."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, wait
from time import sleep
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, ThreadExecutor, task
from hybrid_compute.decisions import Choice
from hybrid_compute.direct import DirectItem
from hybrid_compute.items import Keeper
from hybrid_compute.policy import Adaptive, Always
from hybrid_compute.policy._belief import Belief
from hybrid_compute.routed import RoutedItem
from hybrid_compute.sensitive import Sensitive

SHORT = 0.0005


@task
def pause(seconds: float, value: Any = None) -> Any:
    sleep(seconds)
    return value


@task
def gate(event: threading.Event) -> bool:
    return event.wait(20)


@task
def fails(seconds: float) -> None:
    sleep(seconds)
    raise ValueError("no")


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[DirectItem]:
    """The items that went the direct way."""
    seen: list[DirectItem] = []
    init = DirectItem.__init__

    def note(self: DirectItem, *args: Any) -> None:
        init(self, *args)
        seen.append(self)

    monkeypatch.setattr(DirectItem, "__init__", note)
    return seen


def know(executor: HybridExecutor, fn: Any = pause, *args: Any) -> None:
    for _ in range(8):
        executor.submit(fn, *(args or (SHORT,))).exception()


class Meter:
    """Has nothing to measure."""

    def begin(self, _: object) -> None:
        return None

    def end(self, *_: object) -> bool:
        return False

    def handed(self, *_: object) -> None: ...

    def left(self, *_: object, **__: object) -> None: ...


def direct_item(*args: Any) -> DirectItem:
    belief = Belief("pause", "here:pause", ("pause", 0))
    belief.route, belief.choice = ("lane",), Choice(rule="mostly waits")
    return DirectItem(pause, args, {}, belief, Meter())  # type: ignore[arg-type]


def test_a_known_task_that_waits_is_handed_over_without_a_question(
    handed: list[DirectItem],
) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        know(executor)
        future = executor.submit(pause, SHORT, value="x")
        assert future.result() == "x"
    assert handed
    told = future.explain()
    assert told.executor == "lane"
    assert "mostly waits" in told.rule
    assert told.candidates
    assert told.elapsed is not None
    assert told.wall is not None
    assert SHORT <= told.wall <= told.elapsed


def test_what_it_raises_is_on_the_future(handed: list[DirectItem]) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        know(executor, fails)
        future = executor.submit(fails, SHORT)
        assert isinstance(future.exception(), ValueError)
        assert future.explain().elapsed is not None
    assert handed


def test_a_question_is_asked_once_in_a_while(handed: list[DirectItem]) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        know(executor)
        del handed[:]
        futures = [executor.submit(pause, SHORT) for _ in range(200)]
        wait(futures)
    assert 150 < len(handed) < 200


def test_options_of_a_call_take_the_long_way(handed: list[DirectItem]) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        know(executor)
        del handed[:]
        executor.options(tags="x").submit(pause, SHORT).result()
        executor.options(timeout=9).submit(pause, SHORT).result()
        executor.options(executor="thread").submit(pause, SHORT).result()
    assert handed == []


def test_what_is_sensitive_takes_the_long_way(handed: list[DirectItem]) -> None:
    with HybridExecutor(2, max_processes=1) as executor:
        know(executor)
        del handed[:]
        assert executor.submit(pause, SHORT, Sensitive("x")).result() == "x"
    assert handed == []


@pytest.mark.parametrize("given", [{"observers": [lambda _: None]}, {"policy": Always("lane")}])
def test_who_is_watched_or_has_another_policy_takes_the_long_way(
    given: dict[str, Any], handed: list[DirectItem]
) -> None:
    with HybridExecutor(2, max_processes=1, **given) as executor:
        know(executor)
    assert handed == []


def test_a_task_that_begins_to_compute_leaves_the_direct_way() -> None:
    policy = Adaptive()
    with HybridExecutor(2, max_processes=1, policy=policy) as executor:
        know(executor)
        belief = policy.usual(pause)
        assert belief is not None
        assert belief.left > 0
        for _ in range(8):  # as `ran_here` would tell
            policy.ran(belief, 1, 0.05, 0.05)
        assert belief.kind == "holds"
        assert executor.submit(pause, SHORT).explain().rule.startswith("computes")


def test_one_that_waits_for_a_thread_can_be_taken_back_and_routed_anew() -> None:
    event = threading.Event()
    with ThreadExecutor(1) as pool:
        running = pool.submit(gate, event)
        item, other = direct_item(0.0, "mine"), direct_item(0.0, "other")
        pool.execute(item)
        pool.execute(other)
        (routed,) = pool.give_back(item.belief)
        assert type(routed) is RoutedItem
        assert routed.future is item.future
        assert routed.belief is item.belief
        event.set()
        assert running.result()
        assert other.future.result(20) == "other"
        assert not item.future.done()
        routed.launch(("thread",), {"thread": pool})
        assert item.future.result(20) == "mine"
        assert item.future.explain().executor == "thread"


def test_one_that_was_cancelled_is_not_taken_back_and_who_waits_is_told() -> None:
    event = threading.Event()
    with ThreadExecutor(1) as pool:
        running = pool.submit(gate, event)
        item = direct_item(0.0)
        pool.execute(item)
        assert item.future.cancel()
        assert pool.give_back(item.belief) == []
        assert wait([item.future], 20).done  # only told of what is notified
        event.set()
        assert running.result()
    with pytest.raises(CancelledError):
        item.future.result()


def test_one_that_is_cancelled_after_it_was_taken_back_keeps_nothing() -> None:
    class Argument:
        pass

    event, argument = threading.Event(), Argument()
    with ThreadExecutor(1) as pool:
        running = pool.submit(gate, event)
        item = direct_item(0.0, argument)
        pool.execute(item)
        (routed,) = pool.give_back(item.belief)
        assert item.future.cancel()
        assert routed.fn is None
        alive = weakref.ref(argument)
        del argument, item
        gc.collect()
        assert alive() is None
        event.set()
        assert running.result()


def test_one_that_is_taken_back_while_it_is_cancelled_keeps_nothing_either() -> None:
    class Between(Keeper):
        taken: RoutedItem | None = None

        def withdraw(self, item: Any) -> bool:
            self.taken = item.routed()
            return True

    item, between = direct_item(0.0, "argument"), Between()
    item.keeper = between
    assert item.future.cancel()
    assert between.taken is not None
    assert between.taken.args == ()


def test_nothing_is_kept_of_a_call_that_is_over(handed: list[DirectItem]) -> None:
    class Argument:
        pass

    with HybridExecutor(2, max_processes=1) as executor:
        know(executor, pause, SHORT, None)
        argument = Argument()
        alive = weakref.ref(argument)
        future = executor.submit(pause, SHORT, argument)
        future.result()
        del argument
        assert handed
        del handed[:]
        executor.submit(pause, SHORT).result()  # the thread lets go of the one before
        future._result = None
        assert alive() is None


def test_after_a_shutdown_it_is_refused() -> None:
    executor = HybridExecutor(2, max_processes=1)
    know(executor)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pause, SHORT)
