"""The tasks of `work`, for a server some of whose fixed times are shorter.

The environment variable HURRY says which: `module:NAME=seconds`. What a server does when such a
time is up does not depend on how long it was.
"""

import importlib
import os

from .work import ODD

__all__ = ["ODD"]

_where, _, _seconds = os.environ["HURRY"].partition("=")
_module, _, _name = _where.partition(":")
_module = importlib.import_module(_module)
assert isinstance(getattr(_module, _name), float)  # or it has another name now
setattr(_module, _name, float(_seconds))
