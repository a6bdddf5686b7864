"""Which executor is done soonest: the candidates of a work item, and the best of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hybrid_compute.policy._belief import COMPUTES, Belief

if TYPE_CHECKING:
    from hybrid_compute.abc import Fleet
    from hybrid_compute.policy._places import Cores, Place

__all__ = ["Load", "best_of", "candidates_of"]

_DEAD_BAND = 0.2  # of an item's own length: to end sooner by less is not worth a change
_FIRST_LOOK = 64  # decisions before another machine is looked at, then twice as many, and so on
_WORTH_A_LOOK = 3.0  # times the best prediction


class Load(NamedTuple):
    """What an item brings.

    Attributes:
        calls: how many it is.
        size: bytes that go there and come back.
        behind: how many calls more will come, which would go the same way.
    """

    calls: int
    size: float
    behind: int


def candidates_of(
    belief: Belief,
    fleet: Fleet,
    load: Load,
    cores: Cores,
    place_of: Callable[[str, Fleet], Place],
) -> list[tuple[str, float]]:
    """Return the executors that an item may go to, and the seconds to its end; the least first.

    Waiting is for the lane: it takes many threads and no core, hence no process. Of an executor
    that claims nothing of itself only the name is known: it has to be named to be used.
    """
    lane = belief.kind == "waits" and "lane" in fleet
    found = []
    for name, each in fleet.items():
        capabilities = each.capabilities
        if capabilities.blocks:
            continue
        if capabilities.shares_memory:
            if name != ("lane" if lane else "thread"):
                continue
        elif (lane and not capabilities.remote and belief.cpu < COMPUTES) or (
            belief.unpicklable or not (capabilities.isolates or capabilities.remote)
        ):
            continue
        place = place_of(name, fleet)
        if capabilities.remote:
            place.delay = each.latency() or place.delay
        seconds = place.predict(
            belief, size=load.size, calls=load.calls, behind=load.behind, cores=cores
        )
        found.append((name, seconds))
    found.sort(key=lambda each: each[1])
    return found


def best_of(
    belief: Belief,
    candidates: list[tuple[str, float]],
    load: Load,
    places: Mapping[str, Place],
) -> tuple[str, bool]:
    """Return the one to take: the first, unless it is hardly better than where the task is now.

    And whether it is only a look at another one, for this item alone.
    """
    best, least = candidates[0]
    belief.asked += 1
    if belief.asked >= _FIRST_LOOK and not belief.asked & (belief.asked - 1):  # a power of two
        # Of another machine one only knows what was seen; what runs here was measured anyway.
        for name, seconds in candidates[1:]:
            if places[name].remote and seconds <= _WORTH_A_LOOK * least:
                return name, True
    now = belief.route[0] if belief.route else best
    length = belief.took.get(now, belief.length) * load.calls
    for name, seconds in candidates:
        if name == now and seconds - least <= _DEAD_BAND * length:
            return name, False
    return best, False
