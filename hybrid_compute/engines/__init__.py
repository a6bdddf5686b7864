"""Other people's engines as executors: clusters that have workers of their own.

`hybrid_compute.engines.dask` (extra `dask`) and `hybrid_compute.engines.ray` (extra `ray`). Who
imports one of them imports its engine; importing this package imports none.
"""

from __future__ import annotations

__all__: list[str] = []
