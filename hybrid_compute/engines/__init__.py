"""Engines: other people's ways to run things. Each is a module of its own, and needs its extra.

Imports none of them.
"""

from __future__ import annotations

__all__: list[str] = []
