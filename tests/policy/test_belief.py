"""Belief: what runs tell of a task, by made-up measurements."""

from __future__ import annotations

import pytest

from hybrid_compute.policy._belief import Belief

TINY, SHORT, LONG = 2e-6, 1e-3, 20e-3  # seconds


@pytest.fixture
def belief() -> Belief:
    return Belief("work", "module:work", ("key", 0))


def test_nothing_is_known_before_the_second_run(belief: Belief) -> None:
    assert belief.kind == "unknown"
    assert belief.ran(1, LONG, LONG) is False
    assert not belief.known
    assert belief.ran(1, LONG, LONG) is True
    assert belief.known
    assert belief.kind == "holds"


@pytest.mark.parametrize(
    ("wall", "cpu", "kind"),
    [
        (TINY, TINY, "tiny"),
        (LONG, 0.0, "waits"),
        (LONG, 0.05 * LONG, "waits"),
        (LONG, LONG, "holds"),
        (LONG, 0.9 * LONG, "holds"),
        (SHORT, SHORT, "holds"),
    ],
)
def test_what_a_task_is_like_shows_in_its_wall_and_cpu_time(
    belief: Belief, wall: float, cpu: float, kind: str
) -> None:
    for _ in range(4):
        belief.ran(1, wall, cpu)
    assert belief.kind == kind
    assert belief.run == pytest.approx(wall, rel=0.05)
    assert belief.cpu == pytest.approx(cpu, rel=0.05, abs=1e-9)
    assert belief.wait == pytest.approx(wall - cpu, rel=0.05, abs=0.05 * wall)


def test_without_a_measurement_all_of_a_run_counts_as_cpu(belief: Belief) -> None:
    belief.ran(2, 2 * LONG, None)
    assert belief.cpu == belief.run == LONG


def test_calls_that_were_measured_together_count_as_many(belief: Belief) -> None:
    belief.ran(10, 10 * LONG, 10 * LONG)
    assert belief.runs == 10
    assert belief.run == pytest.approx(LONG)


def test_it_is_news_when_the_kind_changes_and_only_then(belief: Belief) -> None:
    belief.ran(2, 2 * LONG, 2 * LONG)
    assert not any(belief.ran(1, LONG, LONG) for _ in range(20))
    news = [belief.ran(1, LONG, 0.0) for _ in range(60)]
    assert sum(news) == 1
    assert belief.kind == "waits"


def test_what_only_adds_to_a_run_does_not_make_it_longer(belief: Belief) -> None:
    # Others have the core, or the GIL, every other time: the work itself takes as long as before.
    for number in range(60):
        belief.ran(1, LONG * (1 + number % 2), LONG)
    assert belief.run < 1.3 * LONG


def test_one_run_in_many_that_is_late_changes_little(belief: Belief) -> None:
    for _ in range(30):
        belief.ran(1, SHORT, SHORT)
    belief.ran(1, 300 * SHORT, 300 * SHORT)
    belief.ran(1, SHORT, SHORT)
    assert belief.kind == "holds"
    assert belief.run == pytest.approx(SHORT, rel=0.05)


@pytest.mark.parametrize("factor", [100, 0.01])
def test_a_task_that_changes_its_cost_is_believed_within_three_dozen_runs(
    belief: Belief, factor: float
) -> None:
    for _ in range(500):
        belief.ran(1, SHORT, SHORT)
    for _ in range(36):
        belief.ran(1, factor * SHORT, factor * SHORT)
    assert belief.run == pytest.approx(factor * SHORT, rel=0.5)
    assert belief.cpu == pytest.approx(factor * SHORT, rel=0.5)


@pytest.mark.parametrize("factor", [100, 0.01])
def test_a_task_that_waits_longer_or_less_long_is_believed_within_a_dozen_runs(
    belief: Belief, factor: float
) -> None:
    for _ in range(500):
        belief.ran(1, 10 * SHORT, 0.0)
    for _ in range(12):
        belief.ran(1, factor * 10 * SHORT, 0.0)
    assert belief.run == pytest.approx(factor * 10 * SHORT, rel=0.3)


def test_cpu_seconds_that_add_up_to_more_than_the_wall_show_that_the_gil_was_let_go(
    belief: Belief,
) -> None:
    belief.ran(2, 2 * LONG, 2 * LONG)
    assert belief.holds == pytest.approx(LONG)
    for number in range(20):  # pairs, side by side on two cores
        begun = number // 2 * LONG
        belief.overlapped(begun, begun + LONG, 0.95 * LONG)
    belief.ran(1, LONG, LONG)
    assert belief.kind == "works"
    assert belief.holds < 0.2 * LONG


def test_cpu_seconds_that_add_up_to_the_wall_show_that_it_was_held(belief: Belief) -> None:
    belief.ran(2, 2 * LONG, 2 * LONG)
    for number in range(20):
        begun = number // 2 * LONG
        belief.overlapped(begun, begun + LONG, 0.5 * LONG)
    belief.ran(1, LONG, LONG)
    assert belief.kind == "holds"


def test_runs_one_after_the_other_tell_nothing_of_the_gil(belief: Belief) -> None:
    belief.ran(2, 2 * LONG, 2 * LONG)
    for number in range(20):
        belief.overlapped(number * LONG, (number + 1) * LONG, LONG)
    assert belief.held == 1.0


def test_a_task_is_quick_only_after_many_tiny_runs(belief: Belief) -> None:
    kinds = []
    for _ in range(200):
        belief.ran(1, TINY, TINY)
        kinds.append(belief.kind)
    assert "quick" not in kinds[:20]
    assert kinds[-1] == "quick"


def test_a_quick_task_that_gets_stuck_once_is_not_quick_any_more(belief: Belief) -> None:
    belief.ran(200, 200 * TINY, 200 * TINY)
    assert belief.kind == "quick"
    belief.ran(1, LONG, None)
    assert belief.quick == 0


def test_a_tiny_run_whose_thread_lost_its_core_does_not_count_as_slow(belief: Belief) -> None:
    belief.ran(200, 200 * TINY, 200 * TINY)
    for _ in range(3):
        belief.ran(1, LONG, TINY)
        belief.ran(5, 5 * TINY, 5 * TINY)
    assert belief.kind == "quick"


def test_a_run_inline_that_was_short_is_noted_and_one_that_was_not_is_for_the_policy(
    belief: Belief,
) -> None:
    assert belief.ran_inline(TINY) is False
    assert belief.runs == 1
    assert belief.ran_inline(LONG) is True


@pytest.mark.parametrize(
    ("wall", "cpu", "words"),
    [
        (TINY, TINY, "tiny: 2 us a call, 2 us of it CPU (+- 1 us), after 2 calls"),
        (LONG, 0.0, "mostly waits: 20 ms a call"),
        (LONG, LONG, "computes, and holds the GIL: 20 ms a call, 20 ms of it CPU"),
    ],
)
def test_what_is_believed_is_told_in_words(
    belief: Belief, wall: float, cpu: float, words: str
) -> None:
    assert belief.in_words() == "not known yet"
    belief.ran(2, 2 * wall, 2 * cpu)
    assert belief.in_words().startswith(words)
