"""What nobody looked at: the failure of a future that has died.

A future that is alive when the program ends is told of then, since the interpreter does not promise
that anything dies after that. So the module has a set of those that wait, weakly held: one of the
few things that belong to the whole process.
"""

from __future__ import annotations

import atexit
import logging
import os
import traceback
import weakref
from concurrent.futures._base import LOGGER
from contextlib import suppress

__all__ = ["Unretrieved"]


class Unretrieved:
    """Stands by a future that has failed, and dies with it: then it logs what nobody looked at.

    So only a failure costs anything: a future itself has no finalizer.
    """

    __slots__ = ("__weakref__", "_name", "error")

    def __init__(self, name: str, error: BaseException) -> None:
        self._name = name
        self.error: BaseException | None = error
        _waiting.add(self)

    def __del__(self) -> None:
        self.tell()

    def tell(self) -> None:
        """Log the failure, unless somebody has looked, or it was told before. Never raises."""
        error, self.error = self.error, None
        if error is not None:
            with suppress(Exception):  # the interpreter may be in pieces
                if LOGGER.isEnabledFor(logging.ERROR):
                    text = "the exception of %r was never retrieved"
                    told = (type(error), error, error.__traceback__)
                    record = LOGGER.makeRecord(
                        LOGGER.name, logging.ERROR, __file__, 0, text, (self._name,), told
                    )
                    record.exc_text = _without_carets(error)
                    LOGGER.handle(record)


_waiting: weakref.WeakSet[Unretrieved] = weakref.WeakSet()


def _tell_the_rest() -> None:
    for each in list(_waiting):
        each.tell()


atexit.register(_tell_the_rest)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.clear)  # the parent tells of its own


def _without_carets(error: BaseException) -> str:
    """Return the traceback of an error, without the marks below its lines.

    For them `traceback` parses the lines, and a finalizer may come in the middle of somebody else's
    `ast.parse`, which then fails, as the two share a counter (CPython 3.11).
    """
    told = traceback.TracebackException.from_exception(error)
    rest: list[traceback.TracebackException | None] = [told]
    while rest:
        if (each := rest.pop()) is not None:
            for frame in each.stack:
                frame.colno = frame.end_colno = None
            rest += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())]
    return "".join(told.format()).rstrip("\n")
