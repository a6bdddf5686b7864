"""The places where work can run; each is a usable `concurrent.futures.Executor` by itself.

Imports nothing: a worker process loads its own module from here and none of the others.
"""

from __future__ import annotations

__all__: list[str] = []
