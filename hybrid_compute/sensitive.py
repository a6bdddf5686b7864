"""Sensitive: a value that must not leave this machine.

Owns the wrapper only; `privacy` says what follows from it. Nobody else imports this module: that it
is not loaded tells that there can be no such value yet, so that programs without any need not look.

No threads, no locks; immutable.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, NoReturn, TypeVar

from hybrid_compute.errors import PlacementError

__all__ = ["Sensitive"]

T = TypeVar("T")


class Sensitive(Generic[T]):
    """A value that never goes to an executor with `capabilities.remote`.

    `submit(score, Sensitive(record), 3)`: the function of a declared task gets the bare value,
    wherever on this machine it runs. Only a whole argument is opened so: what is deeper, such as
    an item of a list, stays wrapped, and then cannot be sent even to a worker process.

    In an annotation it says the same of a parameter, whoever calls and with whatever:
    `Annotated[str, Sensitive]`, or `Sensitive[str]`.

    It prints as `<Sensitive>` and cannot be pickled.
    """

    __slots__ = ("__value",)

    def __init__(self, value: T | Sensitive[T]) -> None:
        bare = value.reveal() if type(value) is Sensitive else value
        object.__setattr__(self, "_Sensitive__value", bare)

    def __init_subclass__(cls, **_: Any) -> NoReturn:
        # What looks for it compares types.
        raise TypeError("Sensitive cannot be derived from")

    def reveal(self) -> T:
        """Return the bare value."""
        return self.__value  # type: ignore[attr-defined,no-any-return]  # set past __setattr__

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Sensitive cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Sensitive cannot be changed")

    def __copy__(self) -> Sensitive[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Sensitive[T]:
        return Sensitive(copy.deepcopy(self.reveal(), memo))

    def __repr__(self) -> str:
        return "<Sensitive>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise PlacementError(
            "a Sensitive is never pickled; it is opened for worker processes of this machine where "
            "it is a whole argument of a declared task, or of a call through options(): wrap the "
            "argument, not a part of it, and declare the function with @task"
        )

    def __getstate__(self) -> NoReturn:
        self.__reduce_ex__(None)
