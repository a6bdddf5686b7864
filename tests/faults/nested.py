"""Work that submits work and waits for it: on threads, in worker processes, and in both by turns.

Each new worker imports this module anew. What it does, it does by `current().executor` alone, so
that the same function runs everywhere.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from pathlib import Path

import hybrid_compute


def by_result(futures):
    return [future.result() for future in futures]


def by_exception(futures):
    assert [future.exception() for future in futures] == [None] * len(futures)
    return by_result(futures)


def by_wait(futures):
    done, rest = wait(futures)
    assert not rest
    return [future.result() for future in done]


def by_first(futures):
    values, rest = [], set(futures)
    while rest:
        done, rest = wait(rest, return_when=FIRST_COMPLETED)
        values += [future.result() for future in done]
    return values


def by_as_completed(futures):
    return [future.result() for future in as_completed(futures)]


def by_asking(futures):
    while not all(future.done() for future in futures):
        time.sleep(0.001)
    return by_result(futures)


WAYS = {
    "result": by_result,
    "exception": by_exception,
    "wait": by_wait,
    "wait for the first": by_first,
    "as_completed": by_as_completed,
}


def count(depth, width, places, how):
    """Count the leaves of a tree of calls; each level in the next of the places."""
    if depth == 0:
        return 1
    place, *others = places
    executor = hybrid_compute.current().executor
    if place is not None:
        executor = executor.options(executor=place)
    rest = (depth - 1, width, [*others, place], how)
    if how == "map":
        return sum(executor.map(count, *([each] * width for each in rest)))
    return sum(WAYS[how]([executor.submit(count, *rest) for _ in range(width)]))


def who():
    me = hybrid_compute.current()
    return me.name, me.attempt, me.deadline, me.cancelled(), type(me.executor).__name__


def truth():
    return bool(hybrid_compute.current())


def time_left():
    return hybrid_compute.current().remaining


def time_left_below(**options):
    executor = hybrid_compute.current().executor
    if options:
        executor = executor.options(**options)
    return executor.submit(time_left).result()


def fail_below(error):
    return hybrid_compute.current().executor.submit(throw, error).result()


def throw(error):
    raise error


def make_lock():
    return threading.Lock()


def a_lock_from_below():
    return hybrid_compute.current().executor.submit(make_lock).result()


def a_lock_for_below():
    return hybrid_compute.current().executor.submit(id, threading.Lock()).exception()


def keep_for_later(kept):
    """Return nothing, and leave what this call has in a variable of the worker."""
    me = hybrid_compute.current()
    kept_here[kept] = me, me.executor.submit(pow, 2, 3)


kept_here = {}


def use_what_was_kept(kept):
    me, future = kept_here[kept]
    return [_error_of(future.result), _error_of(me.executor.submit, pow, 2, 3)]


def _error_of(fn, *args):
    try:
        fn(*args)
    except RuntimeError as error:
        return str(error)
    return None


def on_a_thread_of_its_own():
    """Return whether a thread that the work starts runs an item, and what it does if told."""
    me, answers = hybrid_compute.current(), []

    def body():
        answers.append(bool(hybrid_compute.current()))
        answers.append(me.executor.submit(pow, 2, 3).result())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return answers


def begin_and_wait_below(begun, go, place):
    """Say that it runs; submit what waits for a file, and wait for that."""
    executor = hybrid_compute.current().executor.options(executor=place)
    future = executor.submit(wait_for, begun, go)
    return future.result()


def wait_for(begun, go):
    Path(begun).touch()
    while not Path(go).exists():
        time.sleep(0.002)
    return "done"


def cancel_below(place):
    """Return what became of work that is cancelled while it is queued behind this one."""
    executor = hybrid_compute.current().executor.options(executor=place)
    futures = [executor.submit(time.sleep, 0) for _ in range(50)]
    said = futures[-1].cancel()
    return said, futures[-1].cancelled(), by_result(futures[:-1])[0]


def shut_down(*, wait):
    try:
        hybrid_compute.current().executor.shutdown(wait=wait)
    except RuntimeError as error:
        return str(error)
    try:
        hybrid_compute.current().executor.submit(pow, 2, 3)
    except RuntimeError as error:
        return str(error)
    return None


SOON = 60.0  # seconds; only a test that fails ever waits so long

# What a test leaves for work that runs in its own process.
registered = {}


def take_registered(name):
    return registered[name].result()


def wait_for_registered(name):
    executor = hybrid_compute.current().executor.options(executor="lane")
    return executor.submit(take_registered, name).result()


def asks_until_done():
    future = hybrid_compute.current().executor.submit(pow, 2, 3)
    called = []
    future.add_done_callback(lambda future: called.append(future.result()))
    while not future.done():
        future.running()
        time.sleep(0.001)
    return future.done(), future.result(), called


def wait_for_file(path):
    wait_until(Path(path).exists)


def wait_until(is_so):
    """Return when it is so; nothing else tells of it."""
    deadline = time.monotonic() + SOON
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Meter:
    """Counts how many run at once."""

    def __init__(self):
        self._lock = threading.Lock()  # guards both
        self.running = self.peak = 0

    def __enter__(self):
        with self._lock:
            self.running += 1
            self.peak = max(self.peak, self.running)
        return self

    def __exit__(self, *_):
        with self._lock:
            self.running -= 1

    def away(self):
        """Do not count this one for a while."""
        return _Away(self)

    def stay(self):
        with self:
            time.sleep(0.0005)


class _Away:
    def __init__(self, meter):
        self._meter = meter

    def __enter__(self):
        self._meter.__exit__()

    def __exit__(self, *_):
        self._meter.__enter__()
