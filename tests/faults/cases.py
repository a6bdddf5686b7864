"""The faults of one item as data: what is done, what its caller sees, and who lives afterwards.

The numbers are those of the fault matrix, which rows 2, 7, 14, 16 and 20-27 of have tests of
their own: they are not about one item, or need more than a call.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import BrokenExecutor, CancelledError

from hybrid_compute import errors

from . import work

GRACE = 0.2  # seconds between SIGTERM and SIGKILL


class Case:
    """A fault.

    Attributes:
        name: the id of its tests.
        row: of the matrix.
        fn: what is called.
        args: makes its arguments, of the folder of the test.
        error: the type of what the caller gets; None: it gets a value.
        says: words that the error's text has.
        cause: words that the text of the error's cause has.
        attributes: what the error has; a string must be in the attribute, all else equal it.
        dies: whether it costs the worker its life.
        timeout: that of the item.
        cancels: whether the running item is cancelled by `cancel_running`.
        hangs: whether it writes a file "hung" with process ids, all of which must be gone then.
    """

    def __init__(
        self,
        row,
        name,
        fn,
        *args,
        error=None,
        make_args=None,
        says=(),
        cause=(),
        dies=False,
        timeout=None,
        cancels=False,
        hangs=False,
        **attributes,
    ):
        self.row = row
        self.name = name
        self.fn = fn
        self.args = make_args or (lambda _: args)
        self.error = error
        self.says = says
        self.cause = cause
        self.attributes = attributes
        self.dies = dies
        self.timeout = timeout
        self.cancels = cancels
        self.hangs = hangs

    def __repr__(self):
        return f"<row {self.row}: {self.name}>"


def crash(row, name, fn, *args, exitcode=None, number=None, stack="", says=(), **more):
    if number is not None:
        says = (*says, signal.Signals(number).name)
    return Case(
        row,
        name,
        fn,
        *args,
        error=errors.WorkerCrashed,
        says=says,
        dies=True,
        exitcode=exitcode,
        signal=None if number is None else int(number),
        oom=False,
        stack=stack,
        **more,
    )


def segfault(name, fn, *args, stack, **more):
    return crash(4, name, fn, *args, number=signal.SIGSEGV, stack=stack, says=(stack,), **more)


def remote(name, cls, *args, says):
    """An exception that cannot travel: its stand-in has its name, its text and its traceback."""
    return Case(
        13,
        name,
        work.raise_made,
        cls,
        *args,
        error=errors.RemoteError,
        says=(cls.__name__, *says),
        cause=("raise_made", cls.__name__),
        type_name=cls.__name__,
        traceback_text="raise_made",
    )


PICKLED, UNPICKLED, FREED = work.WhenPickled, work.WhenUnpickled, work.WhenFreed

CASES = (
    # 1, 3, 4, 5: the worker dies.
    crash(1, "killed", work.kill_myself, number=signal.SIGKILL),
    crash(1, "killed by SIGTERM", work.kill_myself, signal.SIGTERM, number=signal.SIGTERM),
    crash(
        3,
        "killed while it reads a large argument",
        work.length,
        make_args=lambda _: ([bytes(2_000_000), UNPICKLED(work.kill_myself)],),
        number=signal.SIGKILL,
    ),
    crash(
        3,
        "killed while it writes a large result",
        work.return_large_and,
        work.kill_myself,
        number=signal.SIGKILL,
    ),
    segfault("segfault in the call", work.segfault, stack="in segfault"),
    segfault(
        "segfault in unpickling an argument",
        work.echo,
        make_args=lambda _: (UNPICKLED(work.segfault),),
        stack="in segfault",
    ),
    segfault(
        "segfault in pickling the result",
        work.return_when_pickled,
        work.segfault,
        stack="in __reduce__",
    ),
    segfault(
        "segfault in pickling a large result",
        work.return_large_and,
        work.segfault,
        stack="in __reduce__",
    ),
    segfault("segfault in __del__", work.free, work.segfault, stack="in __del__"),
    crash(4, "abort", os.abort, number=signal.SIGABRT, stack="Fatal Python error: Aborted"),
    crash(4, "segfault without a stack", work.silent_segfault, number=signal.SIGSEGV),
    crash(5, "exit 0", os._exit, 0, exitcode=0),
    crash(5, "exit 3", os._exit, 3, exitcode=3),
    crash(5, "exit 0 of C", work.c_exit, 0, exitcode=0),
    crash(5, "exit 4 of C", work.c_exit, 4, exitcode=4),
    crash(
        5,
        "exit in unpickling an argument",
        work.echo,
        make_args=lambda _: (UNPICKLED(os._exit, 7),),
        exitcode=7,
    ),
    crash(5, "exit in pickling the result", work.return_when_pickled, os._exit, 8, exitcode=8),
    crash(5, "exit in __del__", work.free, os._exit, 9, exitcode=9),
    crash(5, "exit in pickling the error", work.raise_made, work.DiesInReduce, exitcode=10),
    # 6: what the call raises is its outcome, whatever it is.
    Case(6, "sys.exit", sys.exit, 5, error=SystemExit, code=5),
    Case(6, "KeyboardInterrupt", work.raise_it, KeyboardInterrupt(), error=KeyboardInterrupt),
    Case(6, "GeneratorExit", work.raise_it, GeneratorExit(), error=GeneratorExit),
    Case(6, "StopIteration", work.raise_it, StopIteration(1), error=StopIteration, value=1),
    Case(6, "an exception", work.raise_it, KeyError("k"), error=KeyError, cause=("raise_it",)),
    Case(6, "an exception in __del__", work.raise_from_del),
    # 8: a limit that the call sets for itself.
    Case(8, "a memory limit", work.exhaust_address_space, error=MemoryError),
    # 9: the call does not reach the worker.
    Case(
        9,
        "an argument cannot be pickled",
        work.echo,
        make_args=lambda _: ({"key": [work.make_lock()]},),
        error=errors.TaskEncodeError,
        says=("args[0]", "lock"),
    ),
    Case(
        9,
        "pickling an argument raises",
        work.echo,
        make_args=lambda _: (PICKLED(work.raise_it, LookupError("no pickle of mine")),),
        error=errors.TaskEncodeError,
        says=("argument 1", "LookupError", "no pickle of mine"),
    ),
    Case(
        9,
        "pickling an argument exits",
        work.echo,
        make_args=lambda _: (PICKLED(sys.exit, "bye"),),
        error=errors.TaskEncodeError,
        says=("argument 1", "SystemExit"),
    ),
    Case(
        9,
        "pickling a large argument raises",
        work.length,
        make_args=lambda _: (
            bytes(300_000),
            bytearray(2_000_000),
            PICKLED(work.raise_it, LookupError("no pickle of mine")),
        ),
        error=errors.TaskEncodeError,
        says=("argument 3", "no pickle of mine"),
    ),
    # 10: nor does it become a call there.
    Case(
        10,
        "unpickling an argument raises",
        work.echo,
        make_args=lambda _: (UNPICKLED(work.raise_it, LookupError("no unpickling")),),
        error=errors.TaskDecodeError,
        says=("LookupError", "no unpickling"),
    ),
    Case(
        10,
        "unpickling an argument exits",
        work.echo,
        make_args=lambda _: (UNPICKLED(sys.exit, "bye"),),
        error=errors.TaskDecodeError,
        says=("SystemExit", "bye"),
    ),
    Case(
        10,
        "unpickling a large argument raises",
        work.length,
        make_args=lambda _: (
            bytes(300_000),
            bytearray(2_000_000),
            UNPICKLED(work.raise_it, LookupError("no unpickling")),
        ),
        error=errors.TaskDecodeError,
        says=("LookupError", "no unpickling"),
    ),
    Case(
        10,
        "the worker lacks a module",
        work.echo,
        make_args=lambda _: (work.make_only_here("only_in_the_caller"),),
        error=errors.TaskDecodeError,
        says=("ModuleNotFoundError", "only_in_the_caller"),
    ),
    # 11: the result does not leave the worker.
    Case(
        11,
        "the result cannot be pickled",
        work.make_lock,
        error=errors.ResultEncodeError,
        says=("type _thread.", "lock"),
    ),
    Case(
        11,
        "pickling the result raises",
        work.return_when_pickled,
        work.raise_it,
        LookupError("no pickle of mine"),
        error=errors.ResultEncodeError,
        says=("WhenPickled", "no pickle of mine"),
    ),
    Case(
        11,
        "pickling the result exits",
        work.return_when_pickled,
        sys.exit,
        "bye",
        error=errors.ResultEncodeError,
        says=("WhenPickled", "SystemExit"),
    ),
    Case(
        11,
        "pickling a large result raises",
        work.return_large_and,
        work.raise_it,
        LookupError("no pickle of mine"),
        error=errors.ResultEncodeError,
        says=("list", "no pickle of mine"),
    ),
    # 12: nor does it get into the caller.
    Case(
        12,
        "unpickling the result raises",
        work.return_when_unpickled,
        work.raise_it,
        LookupError("no unpickling"),
        error=errors.ResultDecodeError,
        says=("LookupError", "no unpickling"),
    ),
    Case(
        12,
        "unpickling the result exits",
        work.return_when_unpickled,
        sys.exit,
        "bye",
        error=errors.ResultDecodeError,
        says=("SystemExit", "bye"),
    ),
    Case(
        12,
        "the caller lacks a module",
        work.make_only_here,
        "only_in_the_worker",
        error=errors.ResultDecodeError,
        says=("ModuleNotFoundError", "only_in_the_worker"),
    ),
    # 13: exceptions that pickle cannot restore.
    remote("an exception with two arguments", work.TwoArguments, 1, "b", says=("1 and b",)),
    remote("an exception whose pickling raises", work.BrokenReduce, "why", says=("why",)),
    remote("an exception whose pickling exits", work.ExitsInReduce, "why", says=("why",)),
    remote("an exception whose unpickling raises", work.RaisesWhenLoaded, "why", says=("why",)),
    remote("an exception that would become another", work.TextOfItsOwn, 5, says=("code 5",)),
    remote("an exception with a lock", work.UnpicklableAttribute, "why", says=("why",)),
    # 15: too deep.
    Case(15, "a recursion", work.recurse, error=RecursionError, cause=("recurse",)),
    Case(
        15,
        "an argument that is too deep",
        work.echo,
        make_args=lambda _: (work.nested_list(100_000),),
        error=errors.TaskEncodeError,
        says=("RecursionError",),
    ),
    Case(
        15,
        "a result that is too deep",
        work.nested_list,
        100_000,
        error=errors.ResultEncodeError,
        says=("list", "RecursionError"),
    ),
    # 17, 18: the work is ended, with its child, though both ignore SIGTERM.
    Case(
        17,
        "its time is up",
        work.hang,
        make_args=lambda folder: (folder / "hung",),
        error=errors.TaskTimeout if hasattr(errors, "TaskTimeout") else TimeoutError,
        says=("hang", "0.6"),
        dies=True,
        timeout=0.6,
        hangs=True,
        item_name="hang",
    ),
    Case(
        18,
        "cancelled while it runs",
        work.hang,
        make_args=lambda folder: (folder / "hung",),
        error=CancelledError,
        dies=True,
        cancels=True,
        hangs=True,
    ),
)
BY_NAME = {case.name: case for case in CASES}

# What else each error is, so that callers find it by the standard library's name.
BASES = {errors.WorkerCrashed: BrokenExecutor}
