"""What programs, executors and transports are tested with; nothing in the library needs it.

    _checks             a rule of a contract, and how it is told that one was broken
    executors           the rules of `abc.SubExecutor`: `check_executor`, `executor_checks`
    transports          the rules of `transports.Transport`: `check_transport`, `transport_checks`
    work                what those run: tasks that a server can serve, too
    manual, scripted    executors that do as they are told; `VirtualClock` in `clock`
    recorder, routed    what became of items: `Recorder`, `assert_routed`
    proxy               `FaultProxy`: a network that is slow, cut or dead
    plugin              fixtures for pytest, which loads it by itself

The names are imported when they are first used (PEP 562): pytest loads this package in every run,
also in those that use nothing of it. Only `plugin` needs pytest.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from hybrid_compute.testing._checks import Check, ContractBroken
    from hybrid_compute.testing.clock import VirtualClock
    from hybrid_compute.testing.executors import check_executor, executor_checks
    from hybrid_compute.testing.manual import ManualExecutor
    from hybrid_compute.testing.proxy import FaultProxy
    from hybrid_compute.testing.recorder import Recorder
    from hybrid_compute.testing.routed import assert_routed
    from hybrid_compute.testing.scripted import Crash, Refuse, Run, ScriptedExecutor
    from hybrid_compute.testing.transports import Link, check_transport, transport_checks

__all__ = [
    "Check",
    "ContractBroken",
    "Crash",
    "FaultProxy",
    "Link",
    "ManualExecutor",
    "Recorder",
    "Refuse",
    "Run",
    "ScriptedExecutor",
    "VirtualClock",
    "assert_routed",
    "check_executor",
    "check_transport",
    "executor_checks",
    "transport_checks",
]

_HOMES = {
    "Check": "_checks",
    "ContractBroken": "_checks",
    "Crash": "scripted",
    "FaultProxy": "proxy",
    "Link": "transports",
    "ManualExecutor": "manual",
    "Recorder": "recorder",
    "Refuse": "scripted",
    "Run": "scripted",
    "ScriptedExecutor": "scripted",
    "VirtualClock": "clock",
    "assert_routed": "routed",
    "check_executor": "executors",
    "check_transport": "transports",
    "executor_checks": "executors",
    "transport_checks": "transports",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
