"""Replaying what was logged: what another policy, or another fleet, would have made of it."""

from __future__ import annotations

from hybrid_compute.simulate.engine import Arrivals, simulate
from hybrid_compute.simulate.fleet import SimulatedExecutor, change_fleet
from hybrid_compute.simulate.log import (
    ExecutorRecord,
    Header,
    ItemRecord,
    Log,
    parse_log,
    read_log,
)
from hybrid_compute.simulate.report import Report, Run, Usage, report_of_log

__all__ = [
    "Arrivals",
    "ExecutorRecord",
    "Header",
    "ItemRecord",
    "Log",
    "Report",
    "Run",
    "SimulatedExecutor",
    "Usage",
    "change_fleet",
    "parse_log",
    "read_log",
    "report_of_log",
    "simulate",
]
