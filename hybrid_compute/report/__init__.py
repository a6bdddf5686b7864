"""Pictures of a recording: a page to look at, and a trace for Perfetto.

Owns what `hybrid-compute report` makes of the file that `HybridExecutor.record` writes.
"""

from __future__ import annotations

from hybrid_compute.report._page import page_of
from hybrid_compute.report._run import Attempt, Lane, Run, read_run
from hybrid_compute.report._trace import trace_of

__all__ = ["Attempt", "Lane", "Run", "page_of", "read_run", "trace_of"]
