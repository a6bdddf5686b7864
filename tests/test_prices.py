"""Prices: how executors get them, and what the events say that an attempt has cost."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, TaskOptions, task
from hybrid_compute.abc import WorkItem
from hybrid_compute.errors import ConfigurationError, UnknownExecutorError
from hybrid_compute.events import Event
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.policy import Always, Price
from hybrid_compute.prices import bytes_of


@task
def twice(data: bytes) -> bytes:
    return data * 2


@pytest.mark.parametrize(
    ("price", "cost"),
    [
        (Price(), 0.0),
        (Price(per_call=3), 3.0),
        (Price(per_second=2), 1.0),
        (Price(per_megabyte=4), 10.0),
        (Price(per_call=3, per_second=2, per_megabyte=4), 14.0),
    ],
)
def test_the_parts_of_a_price_add_up(price: Price, cost: float) -> None:
    assert price.of(0.5, 2_500_000) == cost
    assert bool(price) is bool(cost)


def test_a_price_is_a_value() -> None:
    price = Price(per_call=1)
    assert price == Price(per_call=1.0)
    assert pickle.loads(pickle.dumps(price)) == price
    assert repr(price) == "Price(per_call=1.0, per_megabyte=0.0, per_second=0.0)"
    with pytest.raises(AttributeError):
        price.per_call = 2


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("part", ["per_call", "per_second", "per_megabyte"])
def test_a_price_is_of_numbers(part: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"Price\({part}={value!r}\): give a number"):
        Price(**{part: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["inline", "process", "cloud", "remote"])
def test_each_member_of_a_fleet_gets_its_price_by_its_name(name: str) -> None:
    price = Price(per_call=1)
    with HybridExecutor(
        1,
        executors={"cloud": ThreadPoolExecutor(1)},
        remote="ws://127.0.0.1:9/ws",
        prices={name: price},
    ) as executor:
        prices = {each: member.price for each, member in executor._fleet.items()}
    assert prices.pop(name) is price
    assert set(prices.values()) == {None}


@pytest.mark.parametrize(
    ("prices", "error", "text"),
    [
        ({"cloud": Price()}, UnknownExecutorError, r"'cloud' is no executor .* \['inline', .*add"),
        ({"thread": 3}, ConfigurationError, r"prices\['thread'\]=3 is no price; give Price\("),
        ([("thread", Price())], ConfigurationError, "is no mapping; give"),
    ],
)
def test_wrong_prices_are_refused(prices: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        HybridExecutor(prices=prices)  # type: ignore[arg-type]


class Flaky:
    """Raises the first time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls == 1:
            raise OSError("not yet")
        return self.calls


@pytest.fixture
def events_of() -> Iterator[Callable[..., list[Event]]]:
    """Run something on a priced thread, and return the events about it."""

    def run(price: Price, fn: Callable[..., object], *args: object, **options: object):
        events: list[Event] = []
        with HybridExecutor(
            1, policy=Always("thread"), prices={"thread": price}, observers=[events.append]
        ) as executor:
            executor.options(**options).submit(fn, *args).exception()  # type: ignore[arg-type]
        return events

    return run


def costs(events: list[Event]) -> list[tuple[str, float | None]]:
    return [(each.kind, each.cost) for each in events]


def test_the_event_that_ends_an_attempt_tells_its_cost(events_of) -> None:
    assert costs(events_of(Price(per_call=2), twice, b"x")) == [
        ("submitted", None),
        ("routed", None),
        ("started", None),
        ("succeeded", 2.0),
    ]


def test_each_attempt_costs(events_of) -> None:
    events = events_of(Price(per_call=2), Flaky(), retries=1)
    assert [each for each in costs(events) if each[1]] == [("retried", 2.0), ("succeeded", 2.0)]


def test_failures_cost_as_well(events_of) -> None:
    assert costs(events_of(Price(per_call=2), task(lambda: 1 // 0)))[-1] == ("failed", 2.0)


def test_seconds_cost_from_the_start_to_the_end(events_of) -> None:
    *_, started, ended = events_of(Price(per_second=3), twice, b"x")
    assert ended.seconds == ended.time - started.time
    assert ended.cost == 3 * ended.seconds


def test_arguments_and_result_cost_by_their_size(events_of) -> None:
    assert events_of(Price(per_megabyte=10), twice, bytes(100_000))[-1].cost == 3.0


def test_the_chunks_of_a_map_tell_how_many_calls_they_are() -> None:
    events: list[Event] = []
    with HybridExecutor(
        1, max_processes=1, policy=Always("process"), observers=[events.append]
    ) as executor:
        assert [*executor.map(task(abs), range(-50, 0), chunksize=20)] == [*range(50, 0, -1)]
    assert [each.calls for each in events if each.kind == "succeeded"] == [20, 20, 10]


@pytest.mark.parametrize(
    ("args", "size"),
    [
        ((run_batch, len, [bytes(2000), bytes(3000)], False), 5000),
        ((run_batch, len, [(bytes(2000), "x" * 1500), (bytes(3000), 1)], True), 6500),
        ((len, bytes(2000), [bytes(5000)], 7), 2000),
    ],
)
def test_arguments_count_as_far_as_they_tell_their_size(args: Any, size: int) -> None:
    assert bytes_of(WorkItem(args[0], args[1:])) == size


def test_the_results_of_a_chunk_cost_by_their_sizes() -> None:
    events: list[Event] = []
    price = Price(per_call=1, per_megabyte=10)
    with HybridExecutor(
        1, policy=Always("thread"), prices={"thread": price}, observers=[events.append]
    ) as executor:
        item = executor._item(run_batch, (twice, [bytes(100_000)] * 2, False), None, TaskOptions())
        executor._route(item).result()
    assert events[-1].cost == 2 + 6.0


def test_who_has_no_price_tells_the_seconds_only() -> None:
    events: list[Event] = []
    with HybridExecutor(1, observers=[events.append]) as executor:
        executor.submit(abs, -1).result()
    assert [each.cost for each in events] == [None] * 4
    assert [each.seconds is None for each in events] == [True, True, True, False]


def test_what_never_started_costs_nothing() -> None:
    events: list[Event] = []
    release = threading.Event()
    with HybridExecutor(
        1, prices={"thread": Price(per_call=1)}, observers=[events.append]
    ) as executor:
        executor.submit(release.wait)
        assert executor.submit(abs, -1).cancel()
        release.set()
    assert [(each.kind, each.cost) for each in events if each.item_id == 2][-1] == (
        "cancelled",
        None,
    )
