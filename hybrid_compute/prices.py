"""Price: what it costs to run something on an executor.

Owns the record, and how it gets to the executors. Numbers have no currency: it is the same for
all prices, and for the limit of a `hybrid_compute.policy.Budget`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hybrid_compute._values import Value
from hybrid_compute.channels import large_size_of
from hybrid_compute.errors import ConfigurationError, UnknownExecutorError

if TYPE_CHECKING:
    from hybrid_compute.abc import SubExecutor
    from hybrid_compute.items import WorkItem

__all__ = ["Price", "amount", "bytes_of", "set_prices"]

_MEGABYTE = 10**6


def amount(owner: str, name: str, value: object) -> float:
    """Return an amount of money, checked to be a number of at least 0.

    Raises:
        ConfigurationError: it is none; the text names the owner and the argument.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ConfigurationError(f"{owner}({name}={value!r}): give a number of at least 0")


class Price(Value):
    """What an executor takes for an item; each part adds up.

    Attributes:
        per_call: for each attempt that starts; for a chunk of a map, for each of its calls.
        per_second: from its start to its end, as measured here: to a service, the way counts.
        per_megabyte: for each 10**6 bytes of arguments and result that tell their size and are
            more than 1024 (text, bytes, arrays); the rest counts for nothing.
    """

    __slots__ = ("per_call", "per_megabyte", "per_second")

    per_call: float
    per_second: float
    per_megabyte: float

    def __init__(
        self, *, per_call: float = 0.0, per_second: float = 0.0, per_megabyte: float = 0.0
    ) -> None:
        self._set(
            per_call=amount("Price", "per_call", per_call),
            per_megabyte=amount("Price", "per_megabyte", per_megabyte),
            per_second=amount("Price", "per_second", per_second),
        )

    def of(self, seconds: float, size: int = 0, calls: int = 1) -> float:
        """Return what an attempt costs.

        Args:
            seconds: how long it takes.
            size: bytes of its arguments and its result.
            calls: how many calls it is: a chunk of a map is several.
        """
        return (
            self.per_call * calls
            + self.per_second * seconds
            + self.per_megabyte * (size / _MEGABYTE)
        )

    def __bool__(self) -> bool:
        """Say whether anything can cost something."""
        return bool(self.per_call or self.per_second or self.per_megabyte)


def bytes_of(item: WorkItem) -> int:
    """Return about how many bytes the arguments of an item are; see `Price`."""
    args = item.args
    if item.calls == 1:
        return sum(map(large_size_of, args)) + sum(map(large_size_of, (item.kwargs or {}).values()))
    _, calls, star = args  # a chunk of a map
    return sum(sum(map(large_size_of, each)) if star else large_size_of(each) for each in calls)


def set_prices(fleet: Mapping[str, SubExecutor], prices: Mapping[str, Price] | None) -> None:
    """Give the executors of a fleet their prices, by their names.

    Raises:
        ConfigurationError: `prices` is no mapping, or one of them is no `Price`.
        UnknownExecutorError: a name is not in the fleet.
    """
    if not isinstance(prices or {}, Mapping):
        raise ConfigurationError(
            f"prices={prices!r} is no mapping; give {{'remote': Price(per_call=...)}}"
        )
    for name, price in (prices or {}).items():
        if name not in fleet:
            raise UnknownExecutorError(
                f"prices: {name!r} is no executor of the fleet, which has {list(fleet)}; give the "
                "price to one of these, or add it with executors= or remote="
            )
        if not isinstance(price, Price):
            raise ConfigurationError(
                f"prices[{name!r}]={price!r} is no price; give Price(per_call=...), with "
                "per_second= or per_megabyte= where that is what costs"
            )
        fleet[name].price = price
