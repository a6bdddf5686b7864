"""Where sensitive work runs, what its function gets, and that it goes nowhere else."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Annotated, Any

import pytest

from hybrid_compute import (
    HybridExecutor,
    InlineExecutor,
    ProcessExecutor,
    RemoteExecutor,
    Sensitive,
    ThreadExecutor,
    remote_task,
    task,
)
from hybrid_compute.errors import (
    ExecutorUnavailable,
    PlacementError,
    TaskEncodeError,
)
from hybrid_compute.policy import Always, Prefer

from .fakes import SECRET, Canary, Fake


@task
def what(*args: object, **kwargs: object) -> tuple[list[str], dict[str, str]]:
    return [type(a).__name__ for a in args], {k: type(v).__name__ for k, v in kwargs.items()}


@task
def items(*args: object) -> Iterator[str]:
    yield from (type(a).__name__ for a in args)


def private(customer: Annotated[str, Sensitive]) -> str:
    return customer


def private_items(customer: Annotated[str, Sensitive]) -> Iterator[str]:
    yield customer


BARE = (["str", "int"], {"key": "list"})


@pytest.fixture
def hybrid() -> Iterator[HybridExecutor]:
    with HybridExecutor(max_workers=2, max_processes=1) as executor:
        yield executor


@pytest.mark.parametrize("name", ["inline", "thread", "process"])
def test_a_declared_task_gets_the_bare_value(hybrid: HybridExecutor, name: str) -> None:
    ex = hybrid.options(executor=name)
    assert ex.submit(what, Sensitive("a"), 1, key=Sensitive([1])).result() == BARE
    assert list(ex.map(what, [Sensitive("a"), 2], iter([1, Sensitive("b")]))) == [
        (["str", "int"], {}),
        (["int", "str"], {}),
    ]
    assert list(ex.stream(items, Sensitive("a"), 1)) == ["str", "int"]
    assert list(ex.submit(items, Sensitive("a"), 1)) == ["str", "int"]


@pytest.mark.parametrize("make", [InlineExecutor, ThreadExecutor, ProcessExecutor])
def test_so_it_does_where_the_executor_stands_alone(make: Callable[[], Any]) -> None:
    with make() as ex:
        assert ex.submit(what, Sensitive("a"), 1, key=Sensitive([1])).result() == BARE
        assert list(ex.map(what, [Sensitive("a"), 2])) == [(["str"], {}), (["int"], {})]
        assert list(ex.stream(items, Sensitive("a"))) == ["str"]


@pytest.mark.parametrize("name", ["thread", "process"])
def test_a_callable_with_options_gets_the_bare_value(hybrid: HybridExecutor, name: str) -> None:
    ex = hybrid.options(executor=name)
    assert ex.submit(abs, Sensitive(-3)).result() == 3
    assert list(ex.map(abs, [Sensitive(-3), -4])) == [3, 4]


def test_a_plain_callable_gets_what_it_was_given(hybrid: HybridExecutor) -> None:
    wrapped = Sensitive(1)
    assert hybrid.submit(lambda x: x, wrapped).result() is wrapped
    with HybridExecutor(1, observers=[lambda _: None]) as observed:
        assert observed.submit(lambda x: x, wrapped).result() is wrapped


def test_only_a_whole_argument_is_opened(hybrid: HybridExecutor) -> None:
    def first(values: list[Any]) -> str:
        return type(values[0]).__name__

    in_threads = hybrid.options(executor="thread")
    assert in_threads.submit(task(first), [Sensitive(1)]).result() == "Sensitive"
    with pytest.raises(TaskEncodeError, match="wrap the argument"):
        hybrid.options(executor="process").submit(task(first), [Sensitive(1)]).result()


def sensitive_calls() -> list[Any]:
    def submit(ex: Executor) -> Any:
        return ex.submit(what, Sensitive(1)).result()

    def by_keyword(ex: Executor) -> Any:
        return ex.submit(what, key=Sensitive(1)).result()

    def annotated(ex: Executor) -> Any:
        return ex.submit(task(private), "alice").result()

    def local_only(ex: Executor) -> Any:
        return ex.submit(task(local_only=True)(private), "alice").result()

    def mapped(ex: Executor) -> Any:
        return list(ex.map(what, [Sensitive(1)]))

    def mapped_annotated(ex: Executor) -> Any:
        return list(ex.map(task(private), ["alice"]))

    def mapped_local_only(ex: Executor) -> Any:
        return list(ex.map(task(local_only=True)(abs), [1]))

    def streamed(ex: Any) -> Any:
        return list(ex.stream(items, Sensitive(1)))

    def streamed_annotated(ex: Any) -> Any:
        return list(ex.stream(task(private_items), "alice"))

    def streamed_by_submit(ex: Any) -> Any:
        return list(ex.submit(items, Sensitive(1)))

    def mapped_streams(ex: Any) -> Any:
        return [list(each) for each in ex.map(items, [Sensitive(1)])]

    return [*locals().values()]


@pytest.mark.parametrize("call", sensitive_calls(), ids=lambda each: each.__name__)
def test_an_executor_that_is_asked_for_by_name_is_refused(call: Callable[[Any], Any]) -> None:
    away = Fake("away")
    with HybridExecutor(1, executors={"away": away}) as executor:
        view = executor.options(executor="away").options(tags="a view of a view")
        with pytest.raises(
            PlacementError, match="an argument is Sensitive|annotated as Sensitive|is local_only"
        ):
            call(view)
    assert not away.seen


@pytest.mark.parametrize("call", sensitive_calls(), ids=lambda each: each.__name__)
def test_a_policy_is_overruled(call: Callable[[Any], Any]) -> None:
    away = Fake("away")
    with HybridExecutor(
        1, executors={"away": away}, policy=Prefer("away", "thread"), max_processes=1
    ) as executor:
        call(executor)
        call(executor.options(retries=1))
    assert not away.seen
    with (
        HybridExecutor(1, executors={"away": away}, policy=Always("away")) as executor,
        pytest.raises(PlacementError),
    ):
        call(executor)
    assert not away.seen


@pytest.mark.parametrize("call", sensitive_calls(), ids=lambda each: each.__name__)
def test_a_remote_that_stands_alone_refuses(call: Callable[[Any], Any]) -> None:
    away = Fake("away")
    with pytest.raises(PlacementError, match="is not sent to away"):
        call(away)
    assert not away.seen


@pytest.mark.parametrize("call", sensitive_calls(), ids=lambda each: each.__name__)
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_remote_executor_that_stands_alone_refuses(
    call: Callable[[Any], Any], scheme: str
) -> None:
    names = ["what", "items", "private", "private_items", "abs"]
    with (
        RemoteExecutor(f"{scheme}://127.0.0.1:1/ws", tasks=names) as ex,
        pytest.raises(PlacementError, match="is not sent to"),
    ):
        call(ex)


def test_so_it_does_when_an_item_is_handed_to_it_past_all_guards() -> None:
    from hybrid_compute import TaskOptions
    from hybrid_compute.abc import WorkItem

    with RemoteExecutor("http://127.0.0.1:1", tasks=["what", "private"]) as ex:
        for item in (
            WorkItem(what, (Sensitive(1),)),
            WorkItem(task(private), ("alice",)),
            WorkItem(what, (1,), None, TaskOptions(local_only=True)),
            WorkItem(what, (1,), None, TaskOptions(before_remote=lambda x: (x,))),
        ):
            with pytest.raises(PlacementError, match="is not sent to http"):
                ex.execute(item)
            assert ex.can_run(item) is (item.options.before_remote is not None)


def test_what_only_a_server_has_cannot_run_at_all() -> None:
    away = Fake("away")
    with (
        HybridExecutor(executors={"away": away}) as executor,
        pytest.raises(PlacementError, match="an argument is Sensitive"),
    ):
        executor.submit(remote_task("score"), Sensitive(1)).result()
    assert not away.seen


def test_a_map_sends_those_calls_that_have_nothing_to_hide() -> None:
    away = Fake("away")
    with HybridExecutor(1, executors={"away": away}, policy=Prefer("away", "thread")) as executor:
        found = list(executor.map(what, [1, Sensitive("a"), 2.0]))
    assert found == [(["int"], {}), (["str"], {}), (["float"], {})]
    assert [args for args, _ in away.seen] == [(1,), (2.0,)]


def test_a_fallback_to_a_remote_never_gets_what_was_opened_for_here() -> None:
    def refuses() -> Exception:
        return ExecutorUnavailable("not today")

    here, away = Fake("here", remote=False, fails=refuses), Fake("away")
    policy = Prefer("here", "away")
    with HybridExecutor(executors={"here": here, "away": away}, policy=policy) as executor:
        with pytest.raises(ExecutorUnavailable):
            executor.submit(what, Sensitive(1)).result()
        for calls in ([Sensitive(1)], iter([Sensitive(1)])):
            with pytest.raises(PlacementError, match="an argument is|may have been Sensitive"):
                list(executor.map(what, calls))
        with pytest.raises(PlacementError, match="may have been Sensitive"):
            list(executor.map(task(before_remote=lambda x: (x + 1,))(what.fn), [1]))
        assert executor.submit(what, 1).result() == (["int"], {})
    assert away.seen == [((1,), {})]


def test_a_retry_in_a_process_gets_the_bare_value_again() -> None:
    tried: list[str] = []

    def flaky(x: object) -> str:
        tried.append(type(x).__name__)
        if len(tried) < 3:
            raise ValueError
        return "done"

    with HybridExecutor(1) as executor:
        ex = executor.options(executor="thread", retries=2)
        assert ex.submit(task(flaky), Sensitive(1)).result() == "done"
    assert tried == ["int"] * 3


def test_nothing_of_a_call_that_is_refused_is_pickled() -> None:
    secret, other = Canary(), Canary()
    with (
        RemoteExecutor(
            "http://127.0.0.1:1",
            signing_key="k3yOfTheTests-0123456789abcdefghijklmnopqrstuv",
            tasks=[],
        ) as remote,
        HybridExecutor(remote=remote) as executor,
        pytest.raises(PlacementError) as caught,
    ):
        executor.options(executor="remote").submit(len, other, Sensitive(secret)).result()
    assert secret.pickled == other.pickled == 0
    assert SECRET not in str(caught.value)


def test_a_call_that_was_cancelled_lets_go_of_its_value() -> None:
    class Value: ...

    end = threading.Event()
    with HybridExecutor(1) as executor:
        ex = executor.options(executor="thread")
        ex.submit(end.wait, 60)
        value = Value()
        gone = weakref.ref(value)
        future = ex.submit(what, Sensitive(value))
        del value
        item = future._item  # as the pool's queue, which has it still
        cancelled, let_go = future.cancel(), gone() is None
        end.set()
    del item
    assert cancelled
    assert let_go
