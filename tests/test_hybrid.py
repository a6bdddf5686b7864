"""HybridExecutor: options, routes, attempts, observers, and bad input."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, InlineExecutor, Task, ThreadExecutor, remote_task, task
from hybrid_compute.abc import Capabilities, Fleet, SubExecutor, WorkItem
from hybrid_compute.errors import (
    ConfigurationError,
    ExecutorUnavailable,
    PlacementError,
    PolicyError,
    TaskEncodeError,
    UnknownExecutorError,
    WorkerCrashed,
    WorkerStartError,
)
from hybrid_compute.events import Event
from hybrid_compute.executors.foreign import ForeignExecutor
from hybrid_compute.policy import Always, Prefer, Rules, tagged, when


@task
def where() -> str:
    return threading.current_thread().name


def plain_where() -> str:
    return threading.current_thread().name


@task
def pid() -> int:
    return os.getpid()


class Away(SubExecutor):
    """Pretends to be a remote: records what reaches it."""

    name = "away"
    capabilities = Capabilities(remote=True)
    workers = 1

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[str] = []

    def execute(self, item: WorkItem) -> None:
        self.seen.append(item.name)
        if isinstance(self.error, ExecutorUnavailable):
            raise self.error
        if item.start():
            if self.error is not None:
                item.fail(self.error)
            else:
                item.succeed("away")

    def load(self) -> float:
        return 0.0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.seen.append("shutdown")


@pytest.fixture
def hybrid() -> Iterator[HybridExecutor]:
    with HybridExecutor(max_workers=2, thread_name_prefix="pool", max_processes=1) as executor:
        yield executor


# Where things run.


def test_a_declared_task_goes_where_the_policy_says() -> None:
    with HybridExecutor(2, policy=Always("process")) as executor:
        assert executor.submit(pid).result() != os.getpid()


def test_a_plain_callable_stays_on_a_thread(hybrid: HybridExecutor) -> None:
    assert hybrid.submit(plain_where).result().startswith("pool_")
    assert hybrid.submit(os.getpid).result() == os.getpid()


@pytest.mark.parametrize("name", ["inline", "process"])
def test_a_plain_callable_stays_on_a_thread_whatever_the_policy(name: str) -> None:
    with HybridExecutor(1, "pool", policy=Always(name)) as executor:
        assert executor.submit(plain_where).result() == "pool_0"
        assert list(executor.map(lambda _: plain_where(), range(3))) == ["pool_0"] * 3


def test_a_policy_built_to_move_all_moves_plain_callables_too() -> None:
    me = threading.current_thread().name
    with HybridExecutor(1, "pool", policy=Always("inline", move="all")) as executor:
        assert executor.submit(plain_where).result() == me
        assert list(executor.map(lambda _: plain_where(), range(3))) == [me] * 3


def test_options_may_move_a_plain_callable(hybrid: HybridExecutor) -> None:
    assert hybrid.options(executor="process").submit(os.getpid).result() != os.getpid()
    with HybridExecutor(2, policy=Always("process")) as executor:
        assert executor.options(movable=True).submit(os.getpid).result() != os.getpid()
    assert hybrid.options(executor="inline").submit(plain_where).result() == where()


def test_movable_false_keeps_a_task_on_the_threads(hybrid: HybridExecutor) -> None:
    assert hybrid.options(movable=False).submit(where).result().startswith("pool_")


def test_the_options_of_a_task_itself_count() -> None:
    pinned = task(executor="inline")(plain_where)
    with HybridExecutor(1, "pool") as executor:
        assert executor.submit(pinned).result() == threading.current_thread().name
        assert executor.options(executor="thread").submit(pinned).result() == "pool_0"


def test_rules_look_at_tags() -> None:
    policy = Rules(when(tagged("here"), "inline"), default="thread")
    with HybridExecutor(1, "pool", policy=policy) as executor:
        assert executor.submit(where).result() == "pool_0"
        me = threading.current_thread().name
        assert executor.options(tags="here").submit(where).result() == me


def test_local_only_never_reaches_a_remote() -> None:
    away = Away()
    secret = task(local_only=True)(plain_where)
    with HybridExecutor(
        1, "pool", executors={"away": away}, policy=Prefer("away", "thread")
    ) as executor:
        assert executor.submit(where).result() == "away"
        assert executor.submit(secret).result() == "pool_0"
        assert list(executor.map(task(local_only=True)(str), [1, 2])) == ["1", "2"]
    assert away.seen == ["where", "shutdown", "shutdown"]


def test_a_task_whose_body_only_a_service_has_is_mapped_call_by_call() -> None:
    class ByName(Away):
        def can_run(self, item: WorkItem) -> bool:
            return isinstance(item.fn, Task)

    with HybridExecutor(1, executors={"away": ByName()}) as executor:
        assert list(executor.map(remote_task("echo"), range(3))) == ["away"] * 3


def test_local_only_fails_closed_when_nobody_is_left() -> None:
    away = Away()
    with HybridExecutor(executors={"away": away}, policy=Always("away")) as executor:
        view = executor.options(local_only=True)
        with pytest.raises(PlacementError, match=r"'where' \(it is local_only\)"):
            view.submit(where).result()
        with pytest.raises(PlacementError):
            view.map(where)
    assert away.seen == ["shutdown", "shutdown"]


def test_an_executor_that_cannot_run_an_item_is_not_asked() -> None:
    class Picky(Away):
        def can_run(self, item: WorkItem) -> bool:
            return item.name == "where"

    picky = Picky()
    with HybridExecutor(
        1, "pool", executors={"away": picky}, policy=Prefer("away", "thread")
    ) as executor:
        assert executor.submit(where).result() == "away"
        assert executor.submit(task(len), "four").result() == 4


def test_any_foreign_executor_can_be_a_member() -> None:
    foreign = ThreadPoolExecutor(1, "foreign")
    with HybridExecutor(executors={"extra": foreign}, policy=Always("extra")) as executor:
        assert executor.submit(where).result() == "foreign_0"
        assert set(executor.map(task(lambda _: plain_where()), "ab")) == {"foreign_0"}
        with pytest.raises(ZeroDivisionError):
            executor.submit(task(lambda: 1 // 0)).result()
    with pytest.raises(RuntimeError, match="shutdown"):
        foreign.submit(plain_where)


def test_cancelling_work_that_a_foreign_executor_runs_is_refused() -> None:
    started, finish = threading.Event(), threading.Event()

    def work() -> str:
        started.set()
        finish.wait()
        return "done"

    with HybridExecutor(executors={"extra": ThreadPoolExecutor(1)}) as executor:
        view = executor.options(executor="extra")
        running, queued = view.submit(work), view.submit(plain_where)
        started.wait()
        assert not running.cancel()
        assert queued.cancel()
        finish.set()
        assert running.result() == "done"
        with pytest.raises(CancelledError):
            queued.result()
        assert wait([running, queued], timeout=10).not_done == set()


# Attempts.


class Flaky:
    def __init__(self, failures: int) -> None:
        self.left = failures
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise OSError("not yet")
        return "at last"


@pytest.mark.parametrize("name", ["thread", "inline"])
def test_retries_try_again_until_they_are_used_up(hybrid: HybridExecutor, name: str) -> None:
    flaky = Flaky(2)
    assert hybrid.options(executor=name, retries=2).submit(flaky).result() == "at last"
    assert flaky.calls == 3
    hopeless = Flaky(9)
    with pytest.raises(OSError, match="not yet"):
        hybrid.options(executor=name, retries=2).submit(hopeless).result()
    assert hopeless.calls == 3


def test_many_inline_retries_do_not_grow_the_stack(hybrid: HybridExecutor) -> None:
    flaky = Flaky(5000)
    assert hybrid.options(executor="inline", retries=5000).submit(flaky).result() == "at last"


def test_without_retries_a_failing_item_runs_once(hybrid: HybridExecutor) -> None:
    flaky = Flaky(1)
    with pytest.raises(OSError, match="not yet"):
        hybrid.options(executor="thread").submit(flaky).result()
    assert flaky.calls == 1


@pytest.mark.parametrize("error", [ExecutorUnavailable, WorkerStartError, TaskEncodeError])
@pytest.mark.parametrize("first", ["inline", "thread", "process", "lane", "foreign"])
def test_work_that_raises_what_looks_like_a_refusal_runs_once(
    tmp_path: Path, first: str, error: type[Exception]
) -> None:
    effects = tmp_path / "effects"

    @task
    def work() -> None:
        with effects.open("a") as file:
            file.write("x")
        raise error("of an executor that the work uses itself")

    foreign = ThreadPoolExecutor(1)
    policy = Prefer(first, "thread", "process", "inline")
    with HybridExecutor(
        1, max_processes=1, executors={"foreign": foreign}, policy=policy
    ) as executor:
        assert isinstance(executor.submit(work).exception(), error)
        with pytest.raises(error):
            next(executor.stream(work))
    assert effects.read_text() == "xx"


def test_shutdown_waits_for_the_retries_of_what_it_accepted() -> None:
    flaky = Flaky(3)
    with HybridExecutor(1) as executor:
        future = executor.options(retries=3).submit(flaky)
    assert future.result(timeout=0) == "at last"


def test_shutdown_without_waiting_still_lets_retries_take_place() -> None:
    flaky, go = Flaky(2), threading.Event()

    def work() -> str:
        go.wait()
        return flaky()

    executor = HybridExecutor(1)
    future = executor.options(retries=2).submit(work)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(plain_where)
    go.set()
    assert future.result() == "at last"
    executor.shutdown()


def test_retries_of_a_map_are_of_each_call(hybrid: HybridExecutor) -> None:
    flaky = {n: Flaky(n) for n in range(3)}
    view = hybrid.options(retries=2, executor="thread")
    assert list(view.map(lambda n: flaky[n](), range(3))) == ["at last"] * 3


def test_an_executor_that_does_not_accept_is_passed_over() -> None:
    away = Away(ExecutorUnavailable("gone"))
    with HybridExecutor(
        1, "pool", executors={"away": away}, policy=Prefer("away", "thread")
    ) as executor:
        assert executor.submit(where).result() == "pool_0"


def test_when_nobody_accepts_the_future_says_so() -> None:
    away = Away(ExecutorUnavailable("gone"))
    with HybridExecutor(executors={"away": away}, policy=Always("away")) as executor:
        with pytest.raises(ExecutorUnavailable, match="gone"):
            executor.submit(where).result()


def test_a_crash_is_tried_again_only_if_the_item_is_idempotent() -> None:
    crash = WorkerCrashed("died", item_name="where", pid=1, exitcode=None, signal=9)
    away = Away(crash)
    with HybridExecutor(executors={"away": away}, policy=Always("away")) as executor:
        for options, attempts in (
            ({}, 1),
            ({"retries": 2}, 1),
            ({"retries": 2, "idempotent": True}, 3),
        ):
            away.seen.clear()
            with pytest.raises(WorkerCrashed):
                executor.options(**options).submit(where).result()
            assert len(away.seen) == attempts


# Observers.


def steps(events: list[Event]) -> list[tuple[str, str | None, int]]:
    return [(event.kind, event.executor, event.attempt) for event in events]


def test_observers_get_every_step_of_an_item_in_order() -> None:
    events: list[Event] = []
    flaky = Flaky(1)
    with HybridExecutor(1, observers=[events.append]) as executor:
        executor.options(retries=1).submit(flaky).result()
    assert steps(events) == [
        ("submitted", None, 0),
        ("routed", "thread", 1),
        ("started", "thread", 1),
        ("retried", "thread", 1),
        ("routed", "thread", 2),
        ("started", "thread", 2),
        ("succeeded", "thread", 2),
    ]
    assert isinstance(events[3].error, OSError)
    assert {event.item_id for event in events} == {1}
    assert [event.time for event in events] == sorted(event.time for event in events)


def test_observers_see_failures_and_cancellations() -> None:
    events: list[Event] = []
    release = threading.Event()
    with HybridExecutor(1, observers=[events.append]) as executor:
        executor.submit(release.wait)
        queued = executor.submit(plain_where)
        assert queued.cancel()
        release.set()
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 // 0).result()
    kinds = {event.item_id: event.kind for event in events}
    assert kinds == {1: "succeeded", 2: "cancelled", 3: "failed"}


def test_observers_see_each_call_of_a_map() -> None:
    events: list[Event] = []
    with HybridExecutor(1, observers=[events.append]) as executor:
        assert list(executor.map(str, range(3))) == ["0", "1", "2"]
    assert sum(event.kind == "succeeded" for event in events) == 3


def test_an_observer_that_raises_is_logged_and_told_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise ValueError("oh")

    with HybridExecutor(1, observers=[broken]) as executor:
        assert executor.submit(str, 1).result() == "1"
        assert executor.submit(str, 2).result() == "2"
    assert len(calls) == 1
    assert "is told no more" in caplog.text


def test_a_policy_that_learns_gets_the_events() -> None:
    class Learning(Always):
        def __init__(self) -> None:
            super().__init__("inline")
            self.seen: list[str] = []

        def observe(self, event: Event) -> None:
            self.seen.append(event.kind)

    policy = Learning()
    with HybridExecutor(policy=policy) as executor:
        executor.submit(where).result()
    assert policy.seen == ["submitted", "routed", "started", "succeeded"]


# Bad input.


class Wrong:
    names: frozenset[str] = frozenset()

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def route(self, item: WorkItem, fleet: Fleet) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((), PlacementError),
        (("nowhere",), PolicyError),
        ("thread", PolicyError),
        ([], PolicyError),
        (ValueError("hm"), PolicyError),
    ],
)
def test_a_policy_that_answers_nonsense_costs_the_one_item(
    answer: object, error: type[Exception]
) -> None:
    with HybridExecutor(1, policy=Wrong(answer)) as executor:  # type: ignore[arg-type]
        with pytest.raises(error, match="where"):
            executor.submit(where).result()
        assert executor.submit(str, 1).result() == "1"


def test_a_policy_that_names_an_unknown_executor_is_refused_at_once() -> None:
    with pytest.raises(UnknownExecutorError, match=r"names \['gpu'\], and the fleet has"):
        HybridExecutor(policy=Always("gpu"))


@pytest.mark.parametrize("policy", ["fastest", 3, Always])
def test_what_is_no_policy_is_refused(policy: object) -> None:
    with pytest.raises(ConfigurationError, match="policy="):
        HybridExecutor(policy=policy)  # type: ignore[arg-type]


def test_the_default_policy_can_be_named() -> None:
    with HybridExecutor(1, policy="adaptive") as executor:
        assert executor.submit(str, 1).result() == "1"


@pytest.mark.parametrize("foreign", [object(), 3, ThreadPoolExecutor, None])
def test_what_is_no_executor_is_refused(foreign: object) -> None:
    with pytest.raises(ConfigurationError, match=r"executor 'gpu': .* is no concurrent.futures"):
        HybridExecutor(executors={"gpu": foreign})  # type: ignore[dict-item]


def test_an_executor_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="is no name"):
        HybridExecutor(executors={"": InlineExecutor()})


def test_an_observer_must_be_callable() -> None:
    with pytest.raises(ConfigurationError, match="cannot be called"):
        HybridExecutor(observers=["log"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("max_workers", 0, ValueError),
        ("max_workers", -1, ValueError),
        ("max_workers", "4", TypeError),
        ("max_processes", 0, ValueError),
        ("max_processes", "4", TypeError),
        ("initializer", 3, TypeError),
    ],
)
def test_a_wrong_size_is_refused(argument: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"max_workers|max_processes|initializer must be a callable"):
        HybridExecutor(**{argument: value})  # type: ignore[arg-type]


def test_unknown_executors_in_options_are_refused_at_once(hybrid: HybridExecutor) -> None:
    with pytest.raises(UnknownExecutorError, match="executor='gpu': the fleet has"):
        hybrid.options(executor="gpu")
    with pytest.raises(UnknownExecutorError):
        hybrid.submit(task(executor="gpu")(plain_where))
    assert hybrid.submit(str, 1).result() == "1"


def test_options_that_contradict_each_other_are_refused(hybrid: HybridExecutor) -> None:
    with pytest.raises(ConfigurationError, match="movable=False forbids it"):
        hybrid.options(executor="process", movable=False)


def test_a_negative_buffersize_is_refused(hybrid: HybridExecutor) -> None:
    for executor in (hybrid, hybrid.options(executor="process")):
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            executor.map(str, [1], buffersize=-1)
        with pytest.raises(TypeError, match="buffersize must be an integer"):
            executor.map(str, [1], buffersize="2")  # type: ignore[arg-type]


def test_a_closed_executor_refuses_everything() -> None:
    executor = HybridExecutor(1)
    view = executor.options(retries=1)
    executor.shutdown()
    refused: list[Callable[[], object]] = [
        lambda: executor.submit(str, 1),
        lambda: executor.submit(where),
        lambda: executor.map(str, [1]),
        lambda: view.submit(str, 1),
        lambda: view.map(str, [1]),
    ]
    for call in refused:
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()


# Views and shapes.


def test_a_view_is_an_executor_and_can_be_narrowed(hybrid: HybridExecutor) -> None:
    view = hybrid.options(tags="a").options(executor="inline")
    assert isinstance(view, Executor)
    assert view.submit(plain_where).result() == threading.current_thread().name
    assert "inline" in repr(view)
    assert list(view.map(str, [1, 2])) == ["1", "2"]


def test_the_thread_pool_shape_is_one_and_uses_the_executor(hybrid: HybridExecutor) -> None:
    shape = hybrid.as_thread_pool()
    assert isinstance(shape, ThreadPoolExecutor)
    assert shape.submit(plain_where).result().startswith("pool_")
    assert list(shape.map(str, [1, 2])) == ["1", "2"]
    shape.shutdown()
    with pytest.raises(RuntimeError):
        hybrid.submit(str, 1)


def test_stats_count_what_is_queued_and_runs() -> None:
    started, finish = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        finish.wait()

    with HybridExecutor(1) as executor:
        futures = [executor.submit(work), executor.submit(str), executor.submit(str)]
        started.wait()
        thread = executor.stats().executors["thread"]
        finish.set()
        wait(futures)
    assert (thread.workers, thread.running, thread.queued) == (1, 1, 2)


def test_a_subclass_that_overrides_submit_sees_every_call_of_a_map() -> None:
    class Counting(HybridExecutor):
        seen = 0

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override]
            self.seen += 1
            return super().submit(fn, *args, **kwargs)

    with Counting(1) as executor:
        assert list(executor.map(str, range(5))) == ["0", "1", "2", "3", "4"]
        assert executor.seen == 5


def test_an_executor_of_the_fleet_works_by_itself() -> None:
    for executor in (InlineExecutor(), ThreadExecutor(1)):
        with executor:
            future = executor.submit(str, 1)
            assert isinstance(future, Future)
            assert future.result() == "1"
            assert list(executor.map(str, [1, 2])) == ["1", "2"]
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(str, 1)


class Shop:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @task
    def price(self, x: int) -> int:
        return self.factor * x


def test_a_method_that_is_a_task_runs_in_a_process(hybrid: HybridExecutor) -> None:
    assert hybrid.submit(Shop(3).price, 2).result() == 6


# Shutdown and fork, in the middle of things.


def test_a_retry_that_is_queued_when_futures_are_cancelled_ends_with_its_last_error() -> None:
    failed, runs, go = threading.Event(), threading.Event(), threading.Event()

    def flaky() -> None:
        failed.wait()
        raise ValueError("try again")

    def blocker() -> None:
        runs.set()
        go.wait()

    executor = HybridExecutor(1)
    future = executor.options(retries=5).submit(flaky)
    executor.submit(blocker)
    failed.set()
    runs.wait()
    executor.shutdown(wait=False, cancel_futures=True)
    go.set()
    with pytest.raises(ValueError, match="try again"):
        future.result(timeout=10)
    executor.shutdown()


def test_two_threads_may_shut_down_while_a_retry_is_out() -> None:
    go, flaky = threading.Event(), Flaky(1)

    def work() -> str:
        go.wait()
        return flaky()

    executor = HybridExecutor(1)
    future = executor.options(retries=1).submit(work)
    closers = [threading.Thread(target=executor.shutdown) for _ in range(3)]
    for closer in closers:
        closer.start()
    go.set()
    for closer in closers:
        closer.join(timeout=20)
    assert not any(closer.is_alive() for closer in closers)
    assert future.result(timeout=0) == "at last"


def test_a_retry_that_a_foreign_executor_refuses_ends_with_the_last_error() -> None:
    class Once(ThreadPoolExecutor):
        used = False

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override]
            if self.used:
                raise OSError("no more")
            self.used = True
            return super().submit(fn, *args, **kwargs)

    with HybridExecutor(executors={"once": Once(1)}) as executor:
        future = executor.options(executor="once", retries=3).submit(Flaky(9))
        with pytest.raises(OSError, match="not yet"):
            future.result(timeout=10)


@pytest.mark.parametrize("name", ["inline", "process"])
def test_a_callback_may_shut_down_while_counted_items_are_out(name: str) -> None:
    closed = threading.Event()
    executor = HybridExecutor(1, max_processes=1)
    view = executor.options(executor=name, retries=1)

    def close(_: object) -> None:
        executor.shutdown()
        closed.set()

    if name == "inline":
        view.submit(executor.shutdown).result(timeout=10)
    else:
        first, second = view.submit(abs, -1), view.submit(abs, -2)
        first.add_done_callback(close)
        assert closed.wait(20)
        assert second.result(timeout=10) == 2
    executor.shutdown()


def test_a_callback_that_exits_does_not_keep_others_from_being_cancelled() -> None:
    def leave(_: object) -> None:
        raise SystemExit(3)

    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait()

    executor = HybridExecutor(1)
    executor.submit(work)
    started.wait()
    queued = [executor.submit(str) for _ in range(3)]
    queued[0].add_done_callback(leave)
    with pytest.raises(SystemExit):
        executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    go.set()
    executor.shutdown()


def test_a_map_with_a_buffer_does_not_starve_others() -> None:
    with HybridExecutor(1) as executor:
        results = executor.map(abs, iter(range(10_000)), buffersize=4)
        next(results)
        other = executor.submit(str, 1)
        for _ in range(20):
            next(results)
        assert other.result(timeout=10) == "1"
        results.close()  # type: ignore[attr-defined]


def test_a_forked_child_of_a_busy_parent_can_shut_down() -> None:
    go = threading.Event()
    with HybridExecutor(1) as executor:
        future = executor.options(retries=1).submit(go.wait)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            executor.shutdown()
            os._exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        go.set()
        assert future.result(timeout=10)
    assert status == 7


def test_what_a_policy_raised_keeps_neither_arguments_nor_executor_alive() -> None:
    class Thing:
        pass

    gc.disable()
    try:
        executor = HybridExecutor(1, policy=Wrong(ValueError("hm")))  # type: ignore[arg-type]
        thing = Thing()
        argument, owner = weakref.ref(thing), weakref.ref(executor)
        future = executor.submit(task(lambda _: None), thing)
        assert isinstance(future.exception(timeout=10), PolicyError)
        assert "hm" in "".join(future.exception().__notes__)  # type: ignore[union-attr]
        executor.shutdown()
        del thing, executor
        assert argument() is None
        assert owner() is None
    finally:
        gc.enable()


# Foreign executors that refuse or misbehave.


def test_a_foreign_executor_that_refuses_is_passed_over() -> None:
    dead = ThreadPoolExecutor(1)
    dead.shutdown()
    with HybridExecutor(1, executors={"d": dead}, policy=Prefer("d", "thread")) as executor:
        assert executor.submit(task(abs), -1).result(timeout=10) == 1
        with pytest.raises(ExecutorUnavailable, match="did not accept 'abs'"):
            executor.options(executor="d").submit(abs, -1).result(timeout=10)


def test_an_item_that_nobody_took_never_started() -> None:
    events: list[Event] = []
    dead = ThreadPoolExecutor(1)
    dead.shutdown()
    with HybridExecutor(1, executors={"d": dead}, observers=[events.append]) as executor:
        executor.options(executor="d").submit(abs, -1).exception(timeout=10)
    assert [event.kind for event in events] == ["submitted", "routed", "failed"]


def test_a_foreign_submit_that_returns_no_future_costs_the_one_item() -> None:
    class Forgetful(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override]
            return None

    with HybridExecutor(1, executors={"d": Forgetful(1)}) as executor:
        with pytest.raises(ConfigurationError, match="returned None, which is no future"):
            executor.options(executor="d").submit(abs, -1).result(timeout=10)


def test_ctrl_c_during_an_inline_item_reaches_the_program() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with HybridExecutor(1) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.options(executor="inline").submit(interrupted)
        assert executor.submit(str, 1).result() == "1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"executors": [InlineExecutor()]}, "is no mapping"),
        ({"observers": print}, "is no list"),
        ({"max_processes": "2"}, "max_processes must be a whole number"),
        ({"max_processes": 0}, "max_processes must be greater than 0"),
    ],
)
def test_an_error_names_the_argument(arguments: dict[str, object], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        HybridExecutor(**arguments)  # type: ignore[arg-type]


def test_predicates_have_no_truth_by_themselves() -> None:
    with pytest.raises(TypeError, match="combine predicates with &"):
        bool(tagged("a"))


class Refuses(ThreadPoolExecutor):
    """A foreign pool that accepts nothing."""

    def submit(self, fn: Callable[..., object], /, *args: object, **kwargs: object) -> Future[None]:  # type: ignore[override]
        raise RuntimeError("not today")


def test_a_foreign_pool_in_place_of_the_threads_may_refuse_a_plain_callable() -> None:
    with HybridExecutor(executors={"thread": Refuses(1)}) as executor:
        assert isinstance(executor.submit(abs, -1).exception(), ExecutorUnavailable)


def test_work_that_a_foreign_executor_has_done_cannot_be_cancelled_any_more() -> None:
    cancelled: list[bool] = []

    class Late(WorkItem):
        def start(self) -> bool:
            cancelled.append(self.future.cancel())
            return super().start()

    with ForeignExecutor(ThreadPoolExecutor(1), name="foreign") as executor:
        item = Late(pow, (2, 5))
        executor.execute(item)
        assert item.future.result(30) == 32
    assert cancelled == [False]


def test_a_pool_of_threads_that_has_ended_has_nothing_running() -> None:
    executor = ThreadExecutor(2)
    executor.submit(pow, 2, 5).result()
    executor.shutdown()
    assert (executor.load(), executor.counts()) == (0, (0, 0))
