"""Whatever the fleet, the route and the options: what is sensitive goes out of no door."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_compute import HybridExecutor, Sensitive, task
from hybrid_compute.errors import ExecutorUnavailable, HybridComputeError
from hybrid_compute.executors.thread import ThreadExecutor

from .fakes import SECRET, Canary, Fake

ran: list[Any] = []


def work(a: Any, b: Any = None, **more: Any) -> None:
    ran.append((a, b, more))


def annotated(a: Annotated[Any, Sensitive], b: Any = None, **more: Sensitive[Any]) -> None:
    ran.append((a, b, more))


def stream(a: Any, b: Any = None, **more: Any) -> Any:
    ran.append((a, b, more))
    yield 1


def refuses() -> Exception:
    return ExecutorUnavailable("not today")


def raises() -> Exception:
    return ValueError("not today")


@attrs.frozen
class Drawn:
    """A policy that answers what was drawn, whatever is asked."""

    names: tuple[str, ...]

    def route(self, item: Any, fleet: Any) -> tuple[str, ...]:
        return self.names


MEMBERS = st.dictionaries(
    st.sampled_from(["inline", "process", "a", "b", "c"]),
    st.tuples(st.booleans(), st.sampled_from([None, refuses, raises])),
    min_size=1,
)
TRANSFORMS = {
    "none": None,
    "drops all": lambda *_, **__: ("clean",),
    "leaves all": lambda *args, **kwargs: (args, kwargs),
    "drops some": lambda a, b=None, **more: ([a], 1),
    "raises": lambda *_, **__: 1 / 0,
    "nonsense": lambda *_, **__: "clean",
}


@settings(max_examples=200)
@given(data=st.data(), members=MEMBERS, transform=st.sampled_from(sorted(TRANSFORMS)))
def test_nothing_sensitive_reaches_a_remote_and_nothing_of_it_is_pickled(
    data: st.DataObject, members: dict[str, Any], transform: str
) -> None:
    fakes = {
        name: Fake(name, remote=remote, fails=fails) for name, (remote, fails) in members.items()
    }
    fakes.setdefault("process", Fake("process", remote=False))  # starts none
    names = st.sampled_from(["inline", "thread", *fakes])
    route = tuple(data.draw(st.lists(names, min_size=1, max_size=4)))
    options = {
        "executor": data.draw(st.none() | names),
        "retries": data.draw(st.none() | st.integers(0, 2)),
        "idempotent": data.draw(st.none() | st.booleans()),
        "movable": data.draw(st.none() | st.just(True)),
        "timeout": data.draw(st.none() | st.just(60)),
        "before_remote": TRANSFORMS[transform],
    }
    way = data.draw(st.sampled_from(["submit", "map", "stream"]))
    why = data.draw(st.sampled_from(["wrapped", "keyword", "annotated", "local_only"]))
    observers = data.draw(st.sampled_from([(), (repr,)]))
    canary = Canary()
    fn: Any = task(annotated if why == "annotated" else work if way != "stream" else stream)
    if why == "local_only":
        fn = task(local_only=True)(fn.fn)
    elif why != "annotated" and data.draw(st.booleans()):
        fn = fn.fn  # a plain one, which the options move
    value = Sensitive(canary) if why in ("wrapped", "keyword") else canary
    by_name = why == "keyword" and way != "map"
    ran.clear()
    with HybridExecutor(
        executors={**fakes, "thread": ThreadExecutor(1)},
        policy=Drawn(route),
        observers=observers,
    ) as executor:
        view = executor.options(**options)
        with contextlib.suppress(HybridComputeError, ValueError, TypeError):
            if way == "map":
                list(view.map(fn, [value, value], [1, 2]))
            elif way == "stream":
                list(view.stream(fn, 1, key=value) if by_name else view.stream(fn, value, 1))
            else:
                (view.submit(fn, 1, key=value) if by_name else view.submit(fn, value, 1)).result()
    may_leave = transform in ("drops all", "drops some") and why != "local_only"
    for fake in fakes.values():
        if fake.capabilities.remote:
            assert may_leave or not fake.seen
            assert SECRET not in repr(fake.seen)
            assert "Sensitive" not in repr(fake.seen)
    assert canary.pickled == 0
    for a, b, more in ran:  # a function gets no wrapper, here or there
        assert all(type(each) is not Sensitive for each in (a, b, *more.values()))
