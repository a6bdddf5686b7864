"""The wrapper by itself."""

from __future__ import annotations

import copy
import json
import multiprocessing.reduction
import pickle
from collections.abc import Callable

import cloudpickle
import pytest

from hybrid_compute import Sensitive
from hybrid_compute.errors import PlacementError

from .fakes import SECRET, Canary


def test_it_gives_its_value_to_who_asks_for_it() -> None:
    assert Sensitive(3).reveal() == 3
    assert Sensitive[int](3).reveal() == 3


def test_wrapping_twice_is_wrapping_once() -> None:
    assert Sensitive(Sensitive(3)).reveal() == 3


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda each: f"{[each]!r}"])
def test_no_text_of_it_shows_the_value(show: Callable[[object], str]) -> None:
    assert SECRET not in show(Sensitive(SECRET))
    assert "<Sensitive>" in show(Sensitive(SECRET))


@pytest.mark.parametrize(
    "dump",
    [
        pickle.dumps,
        lambda each: pickle.dumps([each], 0),
        cloudpickle.dumps,
        lambda each: cloudpickle.dumps(lambda: each),
        multiprocessing.reduction.ForkingPickler.dumps,
    ],
)
def test_it_cannot_be_pickled_nor_is_its_value(dump: Callable[[object], object]) -> None:
    canary = Canary()
    with pytest.raises(PlacementError, match="never pickled"):
        dump(Sensitive(canary))
    assert canary.pickled == 0


def test_its_state_cannot_be_had_and_json_has_nothing_for_it() -> None:
    with pytest.raises(PlacementError):
        Sensitive(1).__getstate__()
    with pytest.raises(TypeError):
        json.dumps(Sensitive(1))
    with pytest.raises(TypeError):
        vars(Sensitive(1))


def test_a_copy_is_wrapped_too() -> None:
    value = [1]
    wrapped = Sensitive(value)
    assert copy.copy(wrapped) is wrapped
    deep = copy.deepcopy(wrapped)
    assert type(deep) is Sensitive
    assert deep.reveal() == [1]
    assert deep.reveal() is not value


def test_it_cannot_be_changed_or_derived_from() -> None:
    wrapped = Sensitive(1)
    with pytest.raises(AttributeError):
        wrapped.value = 2
    with pytest.raises(AttributeError):
        del wrapped._Sensitive__value
    with pytest.raises(TypeError, match="derived"):
        type("Mine", (Sensitive,), {})
