"""The probe: runs a program as Python would, and notes each call that its pools make.

Runs in a process of its own, and in the worker processes of the program's pools, which unpickle
`Measured`; so it imports the standard library only. It puts itself around `submit` of both pools of
`concurrent.futures` and changes nothing that they do: arguments and results are the program's.

What it notes are lines of JSON in the file that the variable names, one write each, so that all
processes can share it. Times are of the monotonic clock, which all processes of a machine share.

    {"cores": 2, "load": 0.3}
    {"pool": "thread", "workers": 6}
    {"id": "77-1", "fn": "fetch", "pool": "thread", "submitted": 1.0, "calls": 1}
    {"id": "77-1", "started": 1.1, "ended": 1.3, "cpu": 0.1, "delay": 0.0, "ok": true}
    {"id": "77-2", "bytes": 4711}                             pickled: of a call, of a result

Threads: on those of the program. No locks: a line is written by one call of the system.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

__all__ = ["VARIABLE", "Measured", "install", "main"]

VARIABLE = "HYBRID_COMPUTE_ADVISE"  # has the path of the file
_numbers = itertools.count(1)


def _write(**line: Any) -> None:
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)
    except OSError:
        pass  # the program is more important


def _name_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        # `ProcessPoolExecutor.map` sends chunks: partial(_process_chunk, fn)
        fn = fn.args[0] if getattr(fn.func, "__name__", "") == "_process_chunk" else fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    module = getattr(fn, "__module__", None)
    return name if module in (None, "__main__", "__mp_main__", "builtins") else f"{module}.{name}"


def _delay() -> float:
    """Return the seconds for which this thread has wanted a core and got none; 0: not told."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:  # noqa: PTH123 - light
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


class Measured:
    """A function that notes what each call takes, wherever it runs."""

    last: str | None = None  # the number of the call that this process has made last

    def __init__(self, number: str, fn: Callable[..., Any]) -> None:
        self.number = number
        self.fn = fn

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle, and measure in the worker as well."""
        return Measured, (self.number, self.fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, and note it."""
        _measure_pickles()
        number, fn = self.number, self.fn
        Measured.last = number
        ok = False
        delayed = _delay()
        started, used = time.monotonic(), time.thread_time()
        try:
            value = fn(*args, **kwargs)
            ok = True
            return value
        finally:
            cpu, ended = time.thread_time() - used, time.monotonic()
            delay = _delay() - delayed
            _write(id=number, started=started, ended=ended, cpu=cpu, delay=delay, ok=ok)
            del self, fn, args, kwargs  # as little as possible stays in a traceback


@functools.cache
def _measure_pickles() -> None:
    """Have multiprocessing tell the sizes of what it pickles anyway."""
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is None:
        return
    pickler = reduction.ForkingPickler
    dumps = pickler.dumps.__func__

    def measured(cls: Any, obj: Any, protocol: Any = None) -> Any:
        data = dumps(cls, obj, protocol)
        kind = type(obj).__name__
        if kind == "_CallItem" and type(obj.fn) is Measured:
            _write(id=obj.fn.number, bytes=len(data))
        elif kind == "_ResultItem" and Measured.last is not None:
            _write(id=Measured.last, bytes=len(data))
        return data

    pickler.dumps = classmethod(measured)


def install() -> None:
    """Put the probe around both pools. Once, before the program begins."""
    from concurrent.futures import process, thread  # noqa: PLC0415 - not in worker processes

    _measure_pickles()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    _write(cores=cores or 1, load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)
    _around(thread.ThreadPoolExecutor, "thread")
    _around(process.ProcessPoolExecutor, "process")


def _around(pool: Any, kind: str) -> None:
    submit = pool.submit

    @functools.wraps(submit)
    def measured(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__.setdefault("_advised", False) is False:
            self._advised = True
            _write(pool=kind, workers=self._max_workers)
        number = f"{os.getpid()}-{next(_numbers)}"
        chunk = isinstance(fn, functools.partial) and fn.func.__name__ == "_process_chunk"
        submitted = time.monotonic()
        future = submit(self, Measured(number, fn), *args, **kwargs)
        calls = len(args[0]) if chunk else 1
        _write(id=number, fn=_name_of(fn), pool=kind, submitted=submitted, calls=calls)
        return future

    pool.submit = measured


def _as_without_us(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return an excepthook that shows a traceback from the program's first frame on."""
    ours = {main.__code__.co_filename, "<frozen runpy>"}

    def shown(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename in ours:
            trace = trace.tb_next
        hook(kind, error.with_traceback(trace), trace)

    return shown


def main(args: list[str]) -> None:
    """Run `-m MODULE ARGS` or `SCRIPT ARGS` as the interpreter does."""
    if args[0] != "-m":  # of a module the interpreter shows runpy's as well
        sys.excepthook = _as_without_us(sys.excepthook)
    if args[0] == "-m":
        import runpy  # noqa: PLC0415 - a script needs none

        sys.argv = args[1:]
        sys.path[0] = os.getcwd()  # noqa: PTH109 - as the interpreter has it
        install()
        runpy._run_module_as_main(args[1], alter_argv=True)  # type: ignore[attr-defined]  # its own
        return
    script = args[0]
    with open(script, "rb") as file:  # noqa: PTH123 - light
        source = file.read()
    sys.argv = args
    sys.path[0] = os.path.dirname(os.path.realpath(script))  # noqa: PTH120 - light
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=script, __builtins__=__builtins__)
    sys.modules["__main__"] = module
    install()
    exec(compile(source, script, "exec"), module.__dict__)  # noqa: S102 - that is what it is for


if __name__ == "__main__":
    # The name under which the program's workers import it, rather than "__main__".
    from hybrid_compute._advise_probe import main as run

    run(sys.argv[1:])
