"""Engines: other people's ways to run things, as executors.

Each is a module of its own, and needs its extra: `hybrid_compute.engines.dask`, `.ray`, `.wasm`.
Who imports one of them imports its engine; importing this package imports none.
"""

from __future__ import annotations

__all__: list[str] = []
