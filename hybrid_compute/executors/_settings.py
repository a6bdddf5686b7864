"""What a ProcessExecutor was told about its workers. Checked here, once, and never changed."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

from hybrid_compute._values import Value
from hybrid_compute.errors import ConfigurationError

__all__ = ["Settings"]

# What the usual libraries read when they start: OpenMP, OpenBLAS, MKL, BLIS, Accelerate, numexpr.
_THREAD_VARIABLES = (
    b"OMP_NUM_THREADS",
    b"OPENBLAS_NUM_THREADS",
    b"MKL_NUM_THREADS",
    b"BLIS_NUM_THREADS",
    b"VECLIB_MAXIMUM_THREADS",
    b"NUMEXPR_NUM_THREADS",
)


class Settings(Value):
    """The keywords of `ProcessExecutor`, which see, and the size of the pool."""

    __slots__ = (
        "cores",
        "forward_logs",
        "idle_timeout",
        "kill_grace",
        "max_memory_per_child",
        "max_payload",
        "max_tasks_per_child",
        "native_threads",
        "workers",
    )

    cores: int
    forward_logs: bool
    idle_timeout: float | None
    kill_grace: float
    max_memory_per_child: int | None
    max_payload: int | None
    max_tasks_per_child: int | None
    native_threads: int | None
    workers: int

    def __init__(  # noqa: PLR0913 - as ProcessExecutor's
        self,
        *,
        workers: int,
        cores: int,
        max_tasks_per_child: int | None = None,
        idle_timeout: float | None = None,
        max_memory_per_child: int | None = None,
        max_payload: int | None = None,
        native_threads: int | None = None,
        kill_grace: float = 1.0,
        forward_logs: bool = True,
    ) -> None:
        self._set(
            workers=workers,
            cores=cores,
            forward_logs=_flag("forward_logs", forward_logs),
            max_tasks_per_child=_count("max_tasks_per_child", max_tasks_per_child),
            idle_timeout=_seconds("idle_timeout", idle_timeout),
            max_memory_per_child=_count("max_memory_per_child", max_memory_per_child),
            max_payload=_count("max_payload", max_payload),
            native_threads=_count("native_threads", native_threads),
            kill_grace=_seconds("kill_grace", kill_grace, least=0.0) or 0.0,
        )
        if max_memory_per_child is not None and importlib.util.find_spec("psutil") is None:
            raise ConfigurationError(
                "max_memory_per_child needs psutil, which is not installed; "
                "pip install 'hybrid-compute[process]'"
            )

    def environ(self) -> dict[bytes, bytes]:
        """Return the environment that a worker starts with: ours, with native threads capped.

        Each worker would otherwise start as many threads for its linear algebra as there are
        cores, and all together `workers` times too many.
        """
        environ = dict(os.environb)
        if self.native_threads is not None:
            environ.update(dict.fromkeys(_THREAD_VARIABLES, b"%d" % self.native_threads))
        elif b"OMP_NUM_THREADS" not in environ:  # all of them respect it: the user has spoken
            share = b"%d" % max(1, self.cores // self.workers)
            for name in _THREAD_VARIABLES:
                environ.setdefault(name, share)
        return environ


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name}={value!r} is not True or False")
    return value


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    if value < 1:
        raise ConfigurationError(f"{name}={value!r} must be greater than 0")
    return value


def _seconds(name: str, value: Any, *, least: float | None = None) -> float | None:
    if value is None and least is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value < math.inf or value < 0 or (least is None and value == 0):
        raise ConfigurationError(f"{name}={value!r} is no number of seconds that can be waited")
    return float(value)
