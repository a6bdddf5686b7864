"""CallEncoder: remembers by-value functions, never sends a stale one, keeps nothing alive."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from hybrid_compute import _captures, _functions, _pickling
from hybrid_compute._functions import CallEncoder
from hybrid_compute.tasks import Task


def define(source: str, **names: Any) -> dict[str, Any]:
    """Run source as the top level of a program that no one can import."""
    namespace: dict[str, Any] = {"__name__": "__main__", "os": os, "math": math, **names}
    exec(source, namespace)
    return namespace


def call(encoder: CallEncoder, fn: Callable[..., Any], *args: Any) -> Any:
    """Call the copy of a function that a worker would get."""
    alone = _pickling.decode_call(encoder.encode_call(fn, args, None, name="it"))
    (batched,) = _pickling.loads(encoder.encode_calls([(fn, args, None)]))
    value = alone[0](*alone[1])
    assert batched[0](*batched[1]) == value
    return value


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was pickled by value, in order."""
    pickled: list[object] = []

    def counting(obj: object) -> bytes:
        pickled.append(obj)
        return _pickling.by_value(obj)

    monkeypatch.setattr(_functions, "by_value", counting)
    return pickled


CACHEABLE = {
    "constants": "k = 3; s = 'x'; t = (1, ('a', None))\ndef f(x): return x + k + len(s) + len(t)",
    "modules": "def f(x): return len(os.sep) + math.floor(1.5) + x",
    "importable": "from os.path import join\ndef f(x): return (join('a', 'b'), dict, x)",
    "helpers": "def g(x): return h(x)\ndef h(x): return x + 1\ndef f(x): return g(x) + h(x)",
    "recursion": "def f(x): return f(x - 1) if x else 0",
    "closure": "def make(n):\n    def f(x): return x + n\n    return f\nf = make(3)",
    "annotations": "def f(x: int | None, *a: list[str], k: dict[str, int] = 3) -> None: return k",
    "pattern": "import re\nr = re.compile('a')\ndef f(x): return r.pattern",
    "lambda": "f = lambda x, y=1, *, z=2: x + y + z",
    "attributes": "def f(x): return 1\nf.tag = 'x'",
}


@pytest.mark.parametrize("source", CACHEABLE.values(), ids=CACHEABLE)
def test_a_function_of_constants_is_pickled_once(source: str, times: list[object]) -> None:
    fn = define(source)["f"]
    encoder = CallEncoder()
    assert [call(encoder, fn, 1) for _ in range(5)] == [fn(1)] * 5
    assert times == [fn]


def test_a_task_of_main_is_pickled_once(times: list[object]) -> None:
    declared = Task(define("def f(x): return x + 1")["f"])
    encoder = CallEncoder()
    assert [call(encoder, declared, 1) for _ in range(3)] == [2, 2, 2]
    assert times == [declared]


CHANGES = {
    "a global": ("k = 1\ndef f(): return k", "k = 2"),
    "a global that was a builtin": ("def f(): return len('abc')", "len = lambda x: 0"),
    "a global that was not there": (
        "def f():\n    try: return k\n    except NameError: return 0",
        "k = 1",
    ),
    "a global in a nested function": ("k = 1\ndef f(): return (lambda: k)()", "k = 2"),
    "a global in a comprehension": ("k = 1\ndef f(): return [k for _ in 'a']", "k = 2"),
    "a helper": ("def g(): return 1\ndef f(): return g()", "def g(): return 2"),
    # The third takes the address of the first, and so its identity.
    "a helper, twice": (
        "def g(): return 1\ndef f(): return g()",
        "def g(): return 2\ndef g(): return 3",
    ),
    "a helper's global": ("k = 1\ndef g(): return k\ndef f(): return g()", "k = 2"),
    "a helper's code": (
        "def g(): return 1\ndef h(): return 2\ndef f(): return g()",
        "g.__code__ = h.__code__",
    ),
    "a default": ("def f(x=1): return x", "f.__defaults__ = (2,)"),
    "a keyword default": ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2"),
    "the code": ("def f(): return 1\ndef g(): return 2", "f.__code__ = g.__code__"),
    "an attribute": ("def f(): return f.k\nf.k = 1", "f.k = 2"),
    "a new attribute": ("def f(): return dict(vars(f))", "f.k = 2"),
    "the name": ("def f(): return f.__name__", "f.__name__ = 'g'"),
    "a closure": (
        """def make():
            n = 1
            def f(): return n
            def set(v):
                nonlocal n
                n = v
            return f, set\nf, set = make()""",
        "set(2)",
    ),
    "a list's content": ("k = [1]\ndef f(): return list(k)", "k.append(2)"),
    "a list in a default": ("def f(k=[1]): return list(k)", "f.__defaults__[0].append(2)"),
    "a list in a tuple": ("k = ([1],)\ndef f(): return list(k[0])", "k[0].append(2)"),
    "a class attribute": ("class C: k = 1\ndef f(): return C.k", "C.k = 2"),
    "an equal value of another type": ("k = 1\ndef f(): return str(k)", "k = True"),
    "a task's helper": (
        "from hybrid_compute.tasks import task\n@task\ndef g(): return 1\ndef f(): return g()",
        "@task\ndef g(): return 2",
    ),
}


@pytest.mark.parametrize(("before", "change"), CHANGES.values(), ids=CHANGES)
def test_a_function_is_sent_anew_after_a_change_of(before: str, change: str) -> None:
    program = define(before)
    fn, encoder = program["f"], CallEncoder()
    old = fn()
    assert call(encoder, fn) == old == call(encoder, fn)
    exec(change, program)
    assert fn() != old
    assert call(encoder, fn) == fn() == call(encoder, fn)


def test_the_death_of_a_captured_thing_voids_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("short_lived")
    monkeypatch.setitem(sys.modules, "short_lived", module)
    exec("def g(): return 1", vars(module))
    program = define("def f(): return g()", g=module.g)
    encoder = CallEncoder()
    encoder.encode_call(program["f"], (), None, name="it")
    sent = encoder._known[id(program["f"])].sent
    assert sent is not None
    assert sent.is_current()
    identity = id(module.g)
    del module.g, program["g"]
    # Another function may well get the same address, now or later; only `lost` can tell.
    absent = id(_captures.ABSENT)
    sent.ids = [absent if each == identity else each for each in sent.ids]
    assert not sent.is_current()


def test_a_function_whose_global_changes_with_every_call_is_never_stale() -> None:
    program = define("k = 0\ndef f(): return k")
    encoder = CallEncoder()
    for program["k"] in range(50):
        assert call(encoder, program["f"]) == program["k"]


def test_a_batch_holds_a_function_once() -> None:
    fn = define("def f(x): return 'a rather long and outstanding constant'")["f"]
    encoder = CallEncoder()
    data = encoder.encode_calls([(fn, (i,), None) for i in range(100)])
    assert data.count(b"outstanding") == 1
    calls = _pickling.loads(data)
    assert all(each[0] is calls[0][0] for each in calls)


def test_a_function_is_loaded_once_from_many_messages() -> None:
    fn, encoder = define("def f(x): return x")["f"], CallEncoder()
    first, second = (
        _pickling.decode_call(encoder.encode_call(fn, (i,), None, name="it"))[0] for i in (1, 2)
    )
    assert first is second


def test_a_by_value_argument_beside_a_remembered_function_is_sent() -> None:
    program = define("def f(g): return g(1)\ndef g(x): return x + 1")
    encoder = CallEncoder()
    assert [call(encoder, program["f"], program["g"]) for _ in range(3)] == [2, 2, 2]


KEPT = {
    "a function": lambda: define("def f(): return f")["f"],
    "a closure": lambda: define("def make(n): return lambda: n\nf = make(1)")["f"],
    "a bound method": lambda: define("class C:\n    def m(self): ...\nf = C().m")["f"],
    "a callable object": lambda: define("class C:\n    def __call__(self): ...\nf = C()")["f"],
    "a task": lambda: Task(define("def f(): return 1")["f"]),
    "a function with itself as default": lambda: define(
        "def f(x=None): ...\nf.__defaults__ = (lambda: f,)"
    )["f"],
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT)
def test_the_encoder_keeps_alive_neither(make: Callable[[], Any]) -> None:
    encoder = CallEncoder()
    fn = make()
    for _ in range(3):
        encoder.encode_call(fn, (), None, name="it")
    reference = weakref.ref(fn)
    del fn
    gc.collect()
    assert reference() is None
    assert not encoder._known


def test_the_encoder_is_freed_without_the_cyclic_collector() -> None:
    encoder = CallEncoder()
    fn = define("def f(): return os.sep")["f"]
    encoder.encode_call(fn, (), None, name="it")
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(encoder)
        del encoder
        assert reference() is None
        assert gc.collect() == 0, "its entries were left to the collector"
    finally:
        gc.enable()


def test_functions_of_modules_are_not_remembered() -> None:
    encoder = CallEncoder()
    for _ in range(3):
        encoder.encode_call(os.path.join, ("a", lambda: 1), None, name="it")
    assert not encoder._known


def test_many_threads_may_encode_while_a_function_changes() -> None:
    program = define("k = 0\ndef f(): return k")
    encoder, wrong, barrier = CallEncoder(), [], threading.Barrier(4)

    def encode() -> None:
        barrier.wait(10)
        for _ in range(200):
            before = program["k"]
            data = encoder.encode_call(program["f"], (), None, name="it")
            after = program["k"]
            value = _pickling.decode_call(data)[0]()
            if not before <= value <= after:
                wrong.append((before, value, after))

    threads = [threading.Thread(target=encode) for _ in range(3)]
    for each in threads:
        each.start()
    barrier.wait(10)
    for value in range(200):
        program["k"] = value
    for each in threads:
        each.join()
    assert not wrong
