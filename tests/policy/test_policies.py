"""The built-in policies, asked directly: they are pure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hybrid_compute import TaskOptions
from hybrid_compute.abc import Fleet, WorkItem
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.executors.inline import InlineExecutor
from hybrid_compute.policy import Adaptive, Always, Policy, Prefer, Rules, named, tagged, when


def resize_image() -> None: ...


def fleet(*names: str) -> Fleet:
    return {name: InlineExecutor(name=name) for name in names}


def item(fn: Callable[..., object] = resize_image, **options: object) -> WorkItem:
    return WorkItem(fn, options=TaskOptions(**options))  # type: ignore[arg-type]


ALL = fleet("inline", "thread", "process", "gpu")


@pytest.mark.parametrize(
    "policy", [Always("thread"), Prefer("thread"), Rules(default="thread"), Adaptive()]
)
def test_each_policy_is_a_policy(policy: object) -> None:
    assert isinstance(policy, Policy)


def test_always_answers_its_one_name() -> None:
    assert Always("gpu").route(item(), ALL) == ("gpu",)
    assert Always("gpu").route(item(), fleet("thread")) == ()


def test_prefer_answers_those_that_can_run_it_in_order() -> None:
    policy = Prefer("gpu", "process", "inline")
    assert policy.route(item(), ALL) == ("gpu", "process", "inline")
    assert policy.route(item(), fleet("inline", "process")) == ("process", "inline")


def test_adaptive_sends_what_it_cannot_learn_from_to_processes_then_threads() -> None:
    assert Adaptive().route(item(), ALL) == ("process", "thread")
    assert Adaptive().route(item(), fleet("thread", "inline")) == ("thread",)


def test_the_first_rule_that_applies_decides() -> None:
    policy = Rules(
        when(tagged("gpu"), "gpu", "process"),
        when(named("resize_*"), "inline"),
        default=("process", "thread"),
    )
    assert policy.route(item(tags="gpu"), ALL) == ("gpu", "process")
    assert policy.route(item(), ALL) == ("inline",)
    assert policy.route(item(len), ALL) == ("process", "thread")


@pytest.mark.parametrize(
    ("predicate", "answer"),
    [
        (tagged("a") & tagged("b"), True),
        (tagged("a") & tagged("c"), False),
        (tagged("c") | tagged("b"), True),
        (~tagged("c"), True),
        (~(tagged("a") | tagged("c")), False),
        (tagged("a") & (lambda item: item.name == "resize_image"), True),
    ],
)
def test_predicates_compose(predicate: Callable[[WorkItem], bool], answer: bool) -> None:
    assert predicate(item(tags=("a", "b"))) is answer


def test_policies_print_as_they_are_written() -> None:
    rules = Rules(when(tagged("gpu") & ~named("tiny*"), "gpu"), default="thread")
    assert (
        repr(rules) == "Rules(when((tagged('gpu') & ~named('tiny*')), 'gpu'), default=('thread',))"
    )
    assert repr(Prefer("process", "inline")) == "Prefer('process', 'inline')"
    assert repr(Always("thread")) == "Always('thread')"
    assert repr(Adaptive()) == "Adaptive()"


@pytest.mark.parametrize(
    "make",
    [
        Prefer,
        lambda: Always(3),  # type: ignore[arg-type]
        lambda: Always(""),
        lambda: Prefer("thread", move="some"),  # type: ignore[arg-type]
        lambda: Rules("thread", default="thread"),  # type: ignore[arg-type]
        lambda: when("gpu", "thread"),  # type: ignore[arg-type]
        lambda: when(tagged("gpu")),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()
