"""What a policy of somebody's own can do wrong, and that each error says what to do about it."""

from __future__ import annotations

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import PlacementError, PolicyError


@task
def resize() -> int:
    return 1


class Mine:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def route(self, item: WorkItem, fleet: Fleet) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __repr__(self) -> str:
        return "Mine()"


FLEET = "['inline', 'thread', 'process', 'lane']"


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            ValueError("hm"),
            PolicyError,
            (
                "policy Mine() raised ValueError('hm') for 'resize'; its route() has to answer for "
                "every item (this error's notes have the traceback)"
            ),
        ),
        (
            ("gpu",),
            PolicyError,
            (
                f"policy Mine() answered 'gpu' for 'resize'; the fleet has {FLEET}; answer one of "
                "these, or add it with HybridExecutor(executors={'gpu': ...})"
            ),
        ),
        (
            ["thread"],
            PolicyError,
            (
                "policy Mine() answered ['thread'] for 'resize'; a route is a tuple of "
                "executors' names"
            ),
        ),
        (
            (),
            PlacementError,
            (
                "no executor may run 'resize': it was to go to [], and those of the fleet that can "
                f"and may run it are {FLEET}; name one of them in the policy or in "
                "options(executor=...)"
            ),
        ),
    ],
)
def test_the_error_names_the_policy_the_answer_and_the_remedy(
    answer: object, error: type[Exception], text: str
) -> None:
    with HybridExecutor(1, policy=Mine(answer)) as executor:  # type: ignore[arg-type]
        for ask in (lambda: executor.submit(resize).result(), lambda: executor.map(resize)):
            with pytest.raises(error) as caught:
                ask()
            assert str(caught.value) == text
        assert executor.submit(abs, -1).result() == 1


def test_the_traceback_of_a_policy_that_raised_is_in_the_notes() -> None:
    with HybridExecutor(1, policy=Mine(ValueError("hm"))) as executor:  # type: ignore[arg-type]
        error = executor.submit(resize).exception()
    assert isinstance(error, PolicyError)
    assert "raise self.answer" in "".join(error.__notes__)


def test_a_policy_may_say_itself_that_an_item_goes_nowhere() -> None:
    answer = PlacementError("not before noon; wait")
    with HybridExecutor(1, policy=Mine(answer)) as executor:  # type: ignore[arg-type]
        assert executor.submit(resize).exception() is answer
