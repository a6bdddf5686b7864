"""Budget: predictions, reservations, windows, and the ceiling that nothing passes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_compute import HybridExecutor, Retry, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import ConfigurationError, PlacementError, UnknownExecutorError
from hybrid_compute.events import Event, Kind
from hybrid_compute.executors._batch import run_batch
from hybrid_compute.policy import (
    Adaptive,
    Always,
    Budget,
    LeastLoaded,
    Policy,
    Prefer,
    Price,
    Shadow,
)
from tests.policy.places import Guarded, Place, make_item, work

BIG = bytes(1_000_000)
NEAR_FIRST = Prefer("cloud", "thread")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fleet(**prices: Price | None) -> dict[str, Place]:
    return {name: Place(name, price=price) for name, price in prices.items()}


def event(
    kind: Kind,
    number: int,
    *,
    executor: str = "cloud",
    cost: float | None = None,
    seconds: float | None = None,
    calls: int = 1,
    name: str = "work",
) -> Event:
    return Event(
        kind=kind,
        item_id=number,
        name=name,
        executor=executor,
        attempt=1,
        time=0.0,
        seconds=seconds,
        calls=calls,
        cost=cost,
    )


CALLS = fleet(thread=None, cloud=Price(per_call=1))
CLOUD = fleet(cloud=Price(per_call=1))


# What is set aside.


@pytest.mark.parametrize(
    ("price", "item", "reserved"),
    [
        (Price(per_call=2), {}, 2),
        (Price(per_second=2), {}, 0),
        (Price(per_call=1, per_second=2), {}, 1),
        (Price(per_call=1, per_megabyte=3), {"args": (BIG, 5)}, 4),
        (Price(per_call=2), {"retries": 2}, 6),
        (Price(per_call=2), {"retries": Retry(attempts=4)}, 8),
    ],
)
def test_before_anything_is_known_the_price_of_a_call_is_set_aside(
    price: Price, item: dict[str, Any], reserved: float
) -> None:
    budget = Budget(Always("cloud"), 10)
    args = item.pop("args", ())
    assert budget.route(make_item(work, *args, number=1, **item), fleet(cloud=price)) == ("cloud",)
    assert budget.spending().reserved == reserved


def test_the_last_known_seconds_count_wherever_they_were_spent() -> None:
    budget = Budget(Always("cloud"), 100)
    budget.observe(event("succeeded", 1, executor="thread", seconds=4.0))
    budget.route(make_item(number=2), fleet(cloud=Price(per_second=3)))
    assert budget.spending().reserved == 12


def test_unknown_seconds_are_taken_as_said() -> None:
    budget = Budget(Always("cloud"), 100, unknown_seconds=2)
    budget.route(make_item(number=1), fleet(cloud=Price(per_second=3)))
    assert budget.spending().reserved == 6


def test_what_a_task_cost_on_the_executor_so_far_is_its_prediction() -> None:
    budget = Budget(Always("cloud"), 1000)
    for number, cost in enumerate((1.0, 2.0, 6.0)):
        budget.observe(event("succeeded", number, cost=cost))
    budget.observe(event("succeeded", 9, cost=50.0, name="other"))
    budget.observe(event("succeeded", 9, cost=50.0, executor="elsewhere"))
    budget.route(make_item(number=3), CLOUD)
    assert budget.spending().reserved == 3


def test_the_dearest_of_a_route_is_set_aside() -> None:
    both = fleet(cloud=Price(per_call=1), gpu=Price(per_call=5), thread=None)
    budget = Budget(Prefer("cloud", "gpu", "thread"), 10)
    assert budget.route(make_item(number=1), both) == ("cloud", "gpu", "thread")
    assert budget.spending().reserved == 5


def test_an_item_that_stands_for_a_map_sets_nothing_aside() -> None:
    budget = Budget(NEAR_FIRST, 10)
    assert budget.route(make_item(), CALLS) == ("cloud", "thread")
    assert budget.spending().reserved == 0


def test_an_item_that_is_routed_anew_counts_once() -> None:
    budget = Budget(NEAR_FIRST, 1)
    for _ in range(3):
        assert budget.route(make_item(number=1), CALLS) == ("cloud", "thread")
    assert budget.spending().reserved == 1


def test_an_item_that_was_cancelled_meanwhile_sets_nothing_aside() -> None:
    budget, item = Budget(NEAR_FIRST, 1), make_item(number=1)
    item.future.cancel()
    budget.route(item, CALLS)
    assert budget.spending().reserved == 0


def test_a_chunk_of_a_map_counts_with_all_of_its_calls() -> None:
    budget = Budget(Always("cloud"), 1000)
    price = fleet(cloud=Price(per_call=1, per_second=2, per_megabyte=4))
    chunk = (run_batch, work, [BIG, BIG, BIG], False)
    budget.route(make_item(*chunk, number=1), price)
    assert budget.spending().reserved == 15
    budget.observe(event("succeeded", 1, cost=30.0, seconds=9.0, calls=3))
    budget.route(make_item(*chunk, number=2), price)
    assert budget.spending().reserved == 30
    budget.route(make_item(number=3), price)
    assert budget.spending().reserved == 40
    budget.route(make_item(number=4), fleet(gpu=Price(per_second=1), cloud=None))
    assert budget.spending().reserved == 40


def test_the_seconds_of_a_chunk_are_those_of_all_its_calls() -> None:
    budget = Budget(Always("cloud"), 1000)
    budget.observe(event("succeeded", 1, executor="thread", seconds=9.0, calls=3))
    budget.route(make_item(number=2), fleet(cloud=Price(per_second=1)))
    assert budget.spending().reserved == 3


# What is held back.


def test_who_is_too_dear_is_not_shown_to_the_policy() -> None:
    seen: list[list[str]] = []

    class Looks:
        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
            seen.append([*fleet])
            return tuple(fleet)

    dear = fleet(thread=None, cloud=Price(per_call=1), gpu=Price(per_call=5))
    assert Budget(Looks(), 4).route(make_item(number=1), dear) == ("thread", "cloud")
    assert seen == [["thread", "cloud"]]


def test_retries_must_fit_too() -> None:
    budget = Budget(NEAR_FIRST, 3)
    assert budget.route(make_item(number=1, retries=3), CALLS) == ("thread",)
    assert budget.route(make_item(number=2, retries=2), CALLS) == ("cloud", "thread")


def test_a_limit_that_is_used_up_to_the_last_is_used_up() -> None:
    budget = Budget(NEAR_FIRST, 0.3)
    tenth = fleet(thread=None, cloud=Price(per_call=0.1))
    routes = [budget.route(make_item(number=n), tenth)[0] for n in range(4)]
    assert routes == ["cloud", "cloud", "cloud", "thread"]


@pytest.mark.parametrize("limit", [0, 1])
def test_once_all_is_spent_nothing_goes_whose_cost_is_not_known(limit: float) -> None:
    budget = Budget(NEAR_FIRST, limit)
    budget.observe(event("succeeded", 1, cost=1.0, name="other"))
    route = budget.route(make_item(number=2), fleet(thread=None, cloud=Price(per_second=1)))
    assert route == ("thread",)


def test_the_free_are_never_held_back() -> None:
    free = fleet(thread=None, cloud=Price())
    assert Budget(NEAR_FIRST, 0).route(make_item(number=1), free) == ("cloud", "thread")


def test_a_policy_that_looks_at_no_fleet_is_held_back_as_well() -> None:
    class Stubborn:
        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
            return ("cloud", "thread")

    assert Budget(Stubborn(), 0).route(make_item(number=1), CALLS) == ("thread",)


def test_an_answer_that_is_no_route_is_passed_on() -> None:
    class Wrong:
        def __init__(self, answer: object) -> None:
            self.answer = answer

        def route(self, item: WorkItem, fleet: Fleet) -> Any:
            return self.answer

    for answer in (None, ["cloud"], ()):
        assert Budget(Wrong(answer), 1).route(make_item(number=1), CALLS) == answer


def test_with_nothing_left_to_choose_from_the_error_says_why_and_until_when() -> None:
    clock = Clock()
    budget = Budget(Always("cloud"), 5, per="hour", clock=clock)
    for number in range(2):
        budget.route(make_item(number=number, retries=1), CLOUD)
    budget.observe(event("succeeded", 0, cost=1.5))
    clock.now = 600
    with pytest.raises(PlacementError) as caught:
        budget.route(make_item(retries=1, number=3), CLOUD)
    assert str(caught.value) == (
        "'work' would cost too much for Budget(Always('cloud'), 5, per='hour'): cloud 3; of the "
        "limit of 5, 1.5 are spent and 2 set aside for work under way; the window ends in 3000 s; "
        "raise the limit, wait, or let the policy answer a free executor too"
    )


def test_the_error_names_who_is_left_and_was_not_chosen() -> None:
    with pytest.raises(
        PlacementError, match=r"cloud 1, and Always\('cloud'\) answers none of \['thread'\];"
    ):
        Budget(Always("cloud"), 0.5).route(make_item(number=1), CALLS)


# What is booked.


def test_the_end_of_an_item_corrects_what_was_set_aside() -> None:
    budget = Budget(Always("cloud"), 10)
    budget.route(make_item(number=1, retries=2), CLOUD)
    assert (budget.spending().reserved, budget.spending().left) == (3, 7)
    budget.observe(event("retried", 1, cost=1.25))
    assert (budget.spending().reserved, budget.spending().left) == (2, 6.75)
    budget.observe(event("succeeded", 1, cost=0.5))
    now = budget.spending()
    assert (now.in_window, now.reserved, now.left) == (1.75, 0, 8.25)
    assert now.spent == {"cloud": 1.75}


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_what_did_not_start_sets_free_and_costs_nothing(kind: Kind) -> None:
    budget = Budget(Always("cloud"), 10)
    budget.route(make_item(number=1), CLOUD)
    budget.observe(event(kind, 1))
    assert (budget.spending().reserved, budget.spending().left) == (0, 10)


def test_a_refusal_leaves_what_is_set_aside_for_the_next_of_the_route() -> None:
    budget = Budget(Always("cloud"), 10)
    budget.route(make_item(number=1), CLOUD)
    budget.observe(event("retried", 1))
    assert budget.spending().reserved == 1


def test_an_end_that_is_told_twice_counts_once() -> None:
    budget = Budget(Always("cloud"), 10)
    for number in (1, 2):
        budget.route(make_item(number=number), CLOUD)
    for _ in range(2):
        budget.observe(event("cancelled", 1))
    assert budget.spending().reserved == 1


def test_what_passed_the_policy_by_is_booked() -> None:
    budget = Budget(Always("cloud"), 10)
    budget.observe(event("succeeded", 7, cost=4.0))
    assert (budget.spending().in_window, budget.spending().saved) == (4, 0)


@pytest.mark.parametrize(
    ("executor", "cost", "saved"),
    [
        ("thread", None, 5),  # it would have cost 5 on the gpu
        ("cloud", 1.0, 4),
        ("gpu", 5.0, 0),  # the cloud would have been cheaper
        ("gpu", 0.25, 0.75),  # it cost less than the cloud would have
    ],
)
def test_saved_is_the_dearest_alternative_less_the_cost(
    executor: str, cost: float | None, saved: float
) -> None:
    budget = Budget(LeastLoaded(), 100)
    all_ = fleet(thread=None, cloud=Price(per_call=1), gpu=Price(per_call=5))
    budget.route(make_item(number=1), all_)
    budget.observe(event("succeeded", 1, executor=executor, cost=cost))
    assert budget.spending().saved == saved


def test_nothing_is_saved_by_a_failure() -> None:
    budget = Budget(LeastLoaded(), 100)
    budget.route(make_item(number=1), CALLS)
    budget.observe(event("failed", 1, executor="thread"))
    assert budget.spending().saved == 0


# Windows.


@pytest.mark.parametrize(("per", "seconds"), [("hour", 3600), ("day", 86400), (90, 90), (0.5, 0.5)])
def test_a_window_ends_and_all_of_the_limit_is_there_again(per: Any, seconds: float) -> None:
    clock = Clock()
    clock.now = 1000
    budget = Budget(NEAR_FIRST, 1, per, clock=clock)
    budget.route(make_item(number=1), CALLS)
    budget.observe(event("succeeded", 1, cost=1.0))
    clock.now += seconds * 0.75
    assert budget.route(make_item(number=2), CALLS) == ("thread",)
    assert budget.spending().ends_in == seconds / 4
    clock.now += seconds / 4
    assert budget.route(make_item(number=3), CALLS) == ("cloud", "thread")
    assert budget.spending().spent == {"cloud": 1.0}


def test_without_a_window_the_limit_is_for_good() -> None:
    clock = Clock()
    budget = Budget(NEAR_FIRST, 1, clock=clock)
    budget.observe(event("succeeded", 1, cost=1.0))
    clock.now = 1e9
    assert budget.route(make_item(number=2), CALLS) == ("thread",)
    assert budget.spending().ends_in is None


def test_what_is_under_way_when_a_window_ends_counts_in_the_next() -> None:
    clock = Clock()
    budget = Budget(NEAR_FIRST, 1, "hour", clock=clock)
    budget.route(make_item(number=1), CALLS)
    clock.now = 3601
    assert budget.route(make_item(number=2), CALLS) == ("thread",)
    budget.observe(event("succeeded", 1, cost=0.5))
    assert budget.spending().in_window == 0.5


STEPS = st.one_of(
    st.tuples(st.just("route"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(
        st.sampled_from(["retried", "succeeded", "failed", "cancelled"]),
        st.integers(0, 9),
        st.none() | st.floats(0, 8),
    ),
    st.tuples(st.just("pass"), st.floats(0, 40), st.none()),
)


@settings(max_examples=80)
@given(st.floats(0, 20), st.none() | st.floats(5, 50), st.lists(STEPS, max_size=60))
def test_no_order_of_events_passes_the_ceiling_by_more_than_predictions_were_wrong(
    limit: float, per: float | None, steps: list[tuple[str, Any, Any]]
) -> None:
    clock = Clock()
    budget = Budget(NEAR_FIRST, limit, per, clock=clock)
    priced = fleet(thread=None, cloud=Price(per_call=1, per_second=0.5))
    names = (abs, len, pow)
    under_way: dict[int, list[Any]] = {}  # by number: name, attempts left, predicted for each
    wrong = 0.0
    for number, (what, one, other) in enumerate(steps):
        if what == "route":
            before = budget.spending().reserved
            item = make_item(names[one], number=number, retries=other)
            route = budget.route(item, priced)
            aside = budget.spending().reserved - before
            if route[0] == "cloud":
                under_way[number] = [item.name, other + 1, aside / (other + 1)]
            else:
                assert aside == 0
        elif what == "pass":
            clock.now += one
        elif under_way:
            which = [*under_way][one % len(under_way)]
            name, left, predicted = under_way[which]
            cost = other if left else None  # its attempts are used up
            budget.observe(event(what, which, cost=cost, seconds=cost, name=name))
            if cost is not None:
                under_way[which][1] -= 1
                wrong += max(0.0, cost - predicted)
            if what != "retried":
                del under_way[which]
        now = budget.spending()
        assert now.in_window + now.reserved <= limit + wrong + 1e-6
        assert now.reserved >= -1e-6
        assert under_way or abs(now.reserved) <= 1e-6  # sums of fractions


# Threads.


def test_the_last_of_the_budget_goes_to_one_of_two_threads() -> None:
    both_have_looked = threading.Barrier(2)

    class Waits:
        forgot = 0

        def left(self, item: WorkItem) -> None:
            self.forgot += 1

        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
            if "cloud" in fleet:
                both_have_looked.wait()
            return NEAR_FIRST.route(item, fleet)

    policy = Waits()
    budget = Budget(policy, 1)
    with ThreadPoolExecutor(2) as pool:
        routes = pool.map(lambda number: budget.route(make_item(number=number), CALLS), range(2))
        assert sorted(routes) == [("cloud", "thread"), ("thread",)]
    assert policy.forgot == 1  # what it had answered to the one who was late
    assert budget.spending().reserved == 1


def test_two_threads_spend_exactly_the_limit() -> None:
    budget = Budget(NEAR_FIRST, 100)

    def run(first: int) -> int:
        bought = 0
        for number in range(first, first + 200):
            if budget.route(make_item(number=number), CALLS)[0] == "cloud":
                bought += 1
                budget.observe(event("succeeded", number, cost=1.0))
            else:
                budget.observe(event("succeeded", number, executor="thread"))
        return bought

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(run, (0, 1000))) == 100
    now = budget.spending()
    assert (now.in_window, now.reserved, now.left, now.saved) == (100, 0, 0, 300)


def test_the_accounts_are_written_under_the_lock() -> None:
    budget = Budget(NEAR_FIRST, 100)
    budget._holds = holds = Guarded(budget._lock)
    budget._spent = spent = Guarded(budget._lock)
    budget.route(make_item(number=1), CALLS)
    budget.observe(event("succeeded", 1, cost=1.0))
    assert (holds.changes, spent.changes) == (2, 1)


def test_a_forked_child_has_a_lock_of_its_own_and_none_of_the_parent_s_items() -> None:
    budget = Budget(NEAR_FIRST, 10)
    budget.route(make_item(number=1), CALLS)
    lock = budget._lock
    budget.after_fork()
    assert budget._lock is not lock
    assert budget.spending().reserved == 0


# In a fleet.


@task
def thread_name(_: object = None) -> str:
    return threading.current_thread().name


@task(retries=1)
def fails() -> None:
    raise OSError("hm")


@task
def count(to: int) -> Any:
    yield from range(to)


def hybrid(policy: Policy, **options: Any) -> HybridExecutor:
    cloud = ThreadPoolExecutor(2, thread_name_prefix="cloud")
    return HybridExecutor(
        2, executors={"cloud": cloud}, prices={"cloud": Price(per_call=1)}, policy=policy, **options
    )


def places(names: Any) -> list[str]:
    return ["cloud" if name.startswith("cloud") else "thread" for name in names]


def test_submits_stop_at_the_limit_and_go_where_it_is_free() -> None:
    with hybrid(Budget(NEAR_FIRST, 2)) as executor:
        ran = [executor.submit(thread_name).result() for _ in range(4)]
        spending = executor.stats().spending
    assert places(ran) == ["cloud", "cloud", "thread", "thread"]
    assert spending is not None
    assert (spending.spent, spending.left, spending.saved) == ({"cloud": 2.0}, 0, 2.0)


def test_the_calls_of_a_map_stop_at_the_limit() -> None:
    with hybrid(Budget(NEAR_FIRST, 2)) as executor:
        ran = [*executor.map(thread_name, range(5))]
    assert places(ran).count("cloud") == 2


@pytest.mark.parametrize("name", ["thread", "process"])
def test_a_map_asks_for_each_call_if_its_route_has_a_price(name: str) -> None:
    asked: list[str] = []

    class Counts(Prefer):
        def route(self, item: WorkItem, fleet: Fleet) -> tuple[str, ...]:
            asked.append(item.name)
            return super().route(item, fleet)

    with HybridExecutor(
        1, max_processes=1, prices={name: Price(per_call=1)}, policy=Counts(name)
    ) as executor:
        assert [*executor.map(task(abs), range(3))] == [0, 1, 2]
        assert len(asked) == 4  # and once for the map
        assert [*executor.options(executor=name).map(abs, range(3))] == [0, 1, 2]


def test_a_map_that_cannot_be_paid_for_fails_at_that_call() -> None:
    with hybrid(Budget(Always("cloud"), 2)) as executor:
        results = executor.map(thread_name, range(3))
        assert places([next(results), next(results)]) == ["cloud", "cloud"]
        with pytest.raises(PlacementError, match="raise the limit"):
            next(results)


def test_each_attempt_is_paid_for() -> None:
    with hybrid(Budget(Always("cloud"), 5)) as executor:
        assert isinstance(executor.submit(fails).exception(), OSError)
        spending = executor.stats().spending
    assert spending is not None
    assert (spending.in_window, spending.reserved) == (2, 0)


def test_a_stream_is_paid_for_when_it_has_ended() -> None:
    budget = Budget(Always("thread"), 5)
    with HybridExecutor(1, prices={"thread": Price(per_call=1)}, policy=budget) as executor:
        assert list(executor.submit(count, 3)) == [0, 1, 2]
    assert (budget.spending().in_window, budget.spending().reserved) == (1, 0)


def test_a_cancelled_item_sets_free_what_it_held() -> None:
    release = threading.Event()
    budget = Budget(Always("cloud"), 5)
    with hybrid(budget) as executor:
        running = [executor.submit(task(release.wait)) for _ in range(2)]
        queued = executor.submit(thread_name)
        assert budget.spending().reserved == 3
        assert queued.cancel()
        assert budget.spending().reserved == 2
        release.set()
        assert all(each.result() for each in running)


def test_who_names_the_executor_passes_by_and_is_booked() -> None:
    with hybrid(Budget(Prefer("thread"), 0)) as executor:
        ran = executor.options(executor="cloud").submit(thread_name).result()
        spending = executor.stats().spending
    assert places([ran]) == ["cloud"]
    assert spending is not None
    assert spending.spent == {"cloud": 1}


def test_the_inner_policy_goes_on_learning() -> None:
    seen: list[str] = []

    class Learns(Prefer):
        def observe(self, event: Event) -> None:
            seen.append(event.kind)

    with hybrid(Budget(Learns("thread"), 1)) as executor:
        executor.submit(thread_name).result()
    assert seen == ["submitted", "routed", "started", "succeeded"]


def test_a_policy_that_learns_from_runs_goes_on_learning() -> None:
    with hybrid(Budget(Adaptive(), 1)) as executor:
        for _ in range(5):
            executor.submit(thread_name).result()
        assert "nothing is known yet" not in executor.explain(thread_name)
        assert len([*executor.map(thread_name, range(20))]) == 20
    assert executor._policy.spending().reserved == 0  # type: ignore[attr-defined]


def test_an_answer_that_is_not_heeded_is_taken_back() -> None:
    class Notes(Prefer):
        forgot = 0

        def left(self, item: WorkItem) -> None:
            self.forgot += 1

    policy = Notes("cloud")
    with pytest.raises(PlacementError):
        Budget(policy, 0).route(make_item(number=1), CALLS)
    assert policy.forgot == 1


def test_budgets_can_be_put_around_each_other() -> None:
    hour = Budget(Budget(NEAR_FIRST, 3, "day"), 2, "hour")
    with hybrid(hour) as executor:
        ran = [executor.submit(thread_name).result() for _ in range(4)]
    assert places(ran) == ["cloud", "cloud", "thread", "thread"]


def test_without_a_budget_there_is_no_spending() -> None:
    with HybridExecutor(1) as executor:
        assert executor.stats().spending is None


# Bad input.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Budget(3, 1), "Budget: 3 is no policy.*give an object such as Adaptive"),
        (lambda: Budget("adaptive", 1), "Budget: 'adaptive' is no policy"),
        (lambda: Budget(NEAR_FIRST, -1), r"Budget\(limit=-1\): give a number of at least 0"),
        (lambda: Budget(NEAR_FIRST, "5"), r"Budget\(limit='5'\)"),
        (lambda: Budget(NEAR_FIRST, float("inf")), r"Budget\(limit=inf\)"),
        (lambda: Budget(NEAR_FIRST, 1, "week"), r"Budget\(per='week'\): give 'hour', 'day'"),
        (lambda: Budget(NEAR_FIRST, 1, 0), r"Budget\(per=0\)"),
        (lambda: Budget(NEAR_FIRST, 1, True), r"Budget\(per=True\)"),
        (lambda: Budget(NEAR_FIRST, 1, clock=3), r"Budget\(clock=3\): give a function"),
        (lambda: Budget(NEAR_FIRST, 1, unknown_seconds=-1), r"Budget\(unknown_seconds=-1\)"),
    ],
)
def test_a_wrong_argument_is_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make()


def test_it_is_checked_as_its_policy_is() -> None:
    budget = Budget(Prefer("gpu", move="all"), 1, 60)
    assert isinstance(budget, Policy)
    assert (budget.names, budget.moves_plain) == ({"gpu"}, True)
    assert repr(budget) == "Budget(Prefer('gpu'), 1, per=60)"
    with pytest.raises(UnknownExecutorError, match="gpu"):
        HybridExecutor(policy=budget)


def test_a_snapshot_is_frozen() -> None:
    spending = Budget(NEAR_FIRST, 1).spending()
    with pytest.raises(AttributeError):
        spending.limit = 2
    with pytest.raises(TypeError):
        spending.spent["cloud"] = 2  # type: ignore[index]
    assert {spending: 1}[spending] == 1


def test_it_can_predict_in_the_shadow_of_another() -> None:
    second = Budget(NEAR_FIRST, 1)
    with hybrid(Shadow(NEAR_FIRST, second)) as executor:
        for _ in range(3):
            executor.submit(thread_name).result()
    assert second.spending().in_window == 3
