"""Calls, results and exceptions to bytes and back, here and through a second interpreter."""

from __future__ import annotations

import copyreg
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_compute import _failures, _pickling, errors
from hybrid_compute.tasks import task

# What a script needs to run calls in another interpreter, one that does not know its __main__.
PREAMBLE = '''
import subprocess, sys
from hybrid_compute import _failures, _pickling
from hybrid_compute._functions import CallEncoder
WORKER = """
import sys
from hybrid_compute import _failures, _pickling
source, sink = sys.stdin.buffer, sys.stdout.buffer
while head := source.read(8):
    try:
        fn, args, kwargs = _pickling.decode_call(source.read(int.from_bytes(head, "big")))
        answer = b"v" + _pickling.dumps(fn(*args, **(kwargs or {})))
    except BaseException as error:
        answer = b"e" + _failures.encode_error(error)
    sink.write(len(answer).to_bytes(8, "big") + answer)
    sink.flush()
"""
worker = subprocess.Popen(
    [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
encoder = CallEncoder()

def there(fn, *args, **kwargs):
    data = encoder.encode_call(fn, args, kwargs, name="it")
    worker.stdin.write(len(data).to_bytes(8, "big") + data)
    worker.stdin.flush()
    answer = worker.stdout.read(int.from_bytes(worker.stdout.read(8), "big"))
    if answer[:1] == b"v":
        return _pickling.loads(answer[1:])
    return _failures.decode_error(answer[1:])
'''

SCRIPTS = {
    "a function": "def f(x): return x + 1\nassert there(f, 1) == 2 == there(f, 1)",
    "a function, without a memory": """
        def f(x): return x + 1
        class encoder: encode_call = _pickling.encode_call
        assert there(f, 1) == 2""",
    "functions in one message": """
        def f(x): return x + 1
        data = _pickling.encode_calls([(f, (3,), None)])
        assert there(lambda d: [g(*a) for g, a, k in _pickling.decode_call(d)], data) == [4]""",
    "an argument beside a remembered function": """
        class Point:
            def __init__(self, x): self.x = x
        def f(x): return x
        assert there(f, 1) == 1
        assert there(f, Point(2)).x == 2 and there(f, [Point]) == [Point]""",
    "a lambda": "assert there(lambda x, y=2: x * y, 3) == 6",
    "a closure": """
        def adder(n):
            return lambda x: x + n
        assert there(adder(3), 4) == 7""",
    "a recursive function": """
        def fact(n): return n * fact(n - 1) if n else 1
        assert there(fact, 10) == 3628800 == there(fact, 10)""",
    "functions that call each other": """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        assert there(even, 10) is True and there(odd, 10) is False and there(even, 7) is False""",
    "a task": """
        from hybrid_compute.tasks import task
        @task(idempotent=True)
        def double(x): return 2 * x
        assert there(double, 4) == 8 == there(double, 4)""",
    "a recursive task": """
        from hybrid_compute.tasks import task
        @task
        def fact(n): return n * fact(n - 1) if n else 1
        assert there(fact, 5) == 120 == there(fact, 5)""",
    "a partial": """
        from functools import partial
        def power(x, n): return x ** n
        assert there(partial(power, n=3), 2) == 8""",
    "a bound method": """
        class Counter:
            def __init__(self): self.n = 5
            def plus(self, x): return self.n + x
        assert there(Counter().plus, 1) == 6 == there(Counter().plus, 1)""",
    "a callable object": """
        class Times:
            def __init__(self, n): self.n = n
            def __call__(self, x): return self.n * x
        assert there(Times(3), 2) == 6""",
    "an instance that comes back": """
        class Point:
            def __init__(self, x): self.x = x
            def moved(self): return Point(self.x + 1)
        method = Point.__dict__["moved"]
        back = there(Point.moved, Point(1))
        assert type(back) is Point and back.x == 2
        back = there(Point.moved, back)
        assert type(back) is Point and back.x == 3
        assert Point.__dict__["moved"] is method, "the caller's class was changed"
        assert method.__globals__ is globals()""",
    "a dataclass and an enum that come back": """
        import dataclasses, enum
        class Colour(enum.Enum):
            RED = 1
            def upper(self): return self.name
        @dataclasses.dataclass
        class Box:
            colour: Colour
        back = there(lambda box: Box(box.colour), Box(Colour.RED))
        assert back == Box(Colour.RED) and back.colour is Colour.RED""",
    "a changed class": """
        class Config: factor = 2
        def f(x): return Config.factor * x
        assert there(f, 1) == 2
        Config.factor = 5
        assert there(f, 1) == 5""",
    "an exception that comes back": """
        class Oops(Exception): pass
        def fail(): raise Oops("no", 3)
        error = there(fail)
        assert type(error) is Oops and error.args == ("no", 3)
        assert "in fail" in str(error.__cause__)""",
    "a class made by the worker": """
        def make():
            class Local:
                def hello(self): return "hello"
            return Local()
        assert there(make).hello() == "hello"
        assert there(make).hello() == "hello" """,
    "a changed global": """
        factor = 2
        def f(x): return factor * x
        assert there(f, 1) == 2 == there(f, 1)
        factor = 3
        assert there(f, 1) == 3""",
    "a global that the function keeps": """
        calls = 0
        def count():
            global calls
            calls += 1
            return calls
        assert [there(count) for _ in range(3)] == [1, 2, 3] and calls == 0""",
    "a list that it captures": """
        seen = []
        def f(x): seen.append(x); return len(seen)
        assert there(f, 1) == 1 == there(f, 1) and seen == []""",
    "a submodule imported later": """
        import xml
        def f(): return xml.dom.__name__
        assert "xml.dom" not in sys.modules
        assert isinstance(there(f), AttributeError)
        import xml.dom
        assert there(f) == "xml.dom" """,
}


def run_script(text: str, *, stdin: bool) -> None:
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    body = "\n".join(line[indent:] for line in lines)
    program = f"{PREAMBLE}\n{body}\nworker.stdin.close()\nworker.stdout.close()\nworker.wait()\n"
    done = subprocess.run(
        [sys.executable, "-" if stdin else "-c", *([] if stdin else [program])],
        input=program if stdin else None,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_of_main_works_in_a_worker_that_does_not_know_main(text: str) -> None:
    run_script(text, stdin=False)


def test_a_function_from_a_program_on_stdin_works_in_a_worker() -> None:
    run_script(SCRIPTS["a recursive function"], stdin=True)


def importable(x: int) -> int:
    return x + 1


@task(name="other", idempotent=True)
def importable_task(x: int) -> int:
    return x + 1


def test_what_can_be_imported_is_pickled_without_cloudpickle() -> None:
    program = (
        "import sys; from hybrid_compute import _pickling; from hybrid_compute._functions import *;"
        "import os.path; call = (os.path.join, ('a', 'b'), None);"
        "_pickling.encode_call(*call, name='join'); CallEncoder().encode_call(*call, name='join');"
        "CallEncoder().encode_calls([call]); sys.exit('cloudpickle' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=60)


@pytest.mark.parametrize("kwargs", [None, {}, {"x": 1}])
def test_a_call_comes_back_as_it_was_sent(kwargs: dict[str, Any] | None) -> None:
    data = _pickling.encode_call(importable, (1, "a"), kwargs, name="it")
    assert _pickling.decode_call(data) == (importable, (1, "a"), kwargs)


def test_a_task_of_a_module_comes_back_as_itself() -> None:
    data = _pickling.encode_call(importable_task, (1,), None, name="it")
    assert _pickling.decode_call(data)[0] is importable_task


def test_many_calls_share_one_function() -> None:
    fn = functools.partial(importable, 3)
    back = _pickling.loads(_pickling.encode_calls([(fn, (), None), (fn, (), None)]))
    assert back[0][0] is back[1][0]


@pytest.mark.parametrize("text", ["__main__", b"\x8c\x08__main__"])
def test_data_that_looks_like_a_name_of_main_stays_what_it_is(text: object) -> None:
    assert _pickling.loads(_pickling.dumps([text])) == [text]


def test_equal_bytes_load_one_function() -> None:
    data = _pickling.by_value(lambda: 1)
    assert _pickling.load_function(data) is _pickling.load_function(bytes(bytearray(data)))


# -- exceptions ----------------------------------------------------------------------------


class Plain(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class WithDefault(Exception):
    def __init__(self, a: int, b: int = 0) -> None:
        super().__init__(f"{a} and {b}")


class BrokenReduce(Exception):
    def __reduce__(self) -> NoReturn:
        raise self.args[0]


class BrokenConstructor(Exception):
    """Takes what it is given only the first time."""

    def __init__(self, exit_with: type[BaseException], *, first: bool = False) -> None:
        super().__init__(exit_with)
        if not first:
            raise exit_with("from the constructor")


class BrokenStr(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit(3)


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = 7


def slotted(code: int) -> Slotted:
    error = Slotted("x")
    error.code = code
    return error


class OwnReduce(Exception):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, (self.args[0], self.code)


class Becomes(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return ValueError, ("another",)


def there_and_back(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return _failures.decode_error(_failures.encode_error(caught))


def with_attribute(error: Exception, value: object) -> Exception:
    error.extra = value  # type: ignore[attr-defined]
    return error


TRAVELLING: dict[str, Callable[[], BaseException]] = {
    "plain": lambda: Plain("x", 1),
    "KeyError": lambda: KeyError("k"),
    "OSError": lambda: FileNotFoundError(2, "no such file", "name"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "NaN": lambda: Plain(float("nan")),
    "attribute": lambda: with_attribute(Plain("x"), {"a": [1]}),
    "own reduce": lambda: OwnReduce("x", 3),
    "slots": lambda: slotted(7),
    "group": lambda: ExceptionGroup("g", [Plain(1), ExceptionGroup("h", [KeyError(2)])]),
    "base group": lambda: BaseExceptionGroup("g", [KeyboardInterrupt()]),
    "own error": lambda: errors.WorkerCrashed("x", item_name="f", pid=3, exitcode=None, signal=9),
}

STAYING: dict[str, Callable[[], BaseException]] = {
    "two arguments": lambda: TwoArguments(1, 2),
    "changed arguments": lambda: WithDefault(1, 2),
    "reduce raises": lambda: BrokenReduce(ValueError("r")),
    "reduce exits": lambda: BrokenReduce(SystemExit(4)),
    "constructor raises": lambda: BrokenConstructor(ValueError, first=True),
    "constructor exits": lambda: BrokenConstructor(SystemExit, first=True),
    "slots": lambda: slotted(8),  # pickle forgets them: it would be 7
    "attribute": lambda: with_attribute(Plain("x"), threading.Lock()),
    "argument": lambda: Plain(threading.Lock()),
    "another class": lambda: Becomes("x"),
}


@pytest.mark.parametrize("make", TRAVELLING.values(), ids=TRAVELLING)
def test_an_exception_that_can_travel_arrives_as_itself(
    make: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    # distributed, if another test has imported it, has all exceptions pickled in a way of its own,
    # by which a BaseExceptionGroup does not travel.
    for known in [each for each in copyreg.dispatch_table if issubclass(each, BaseException)]:
        monkeypatch.delitem(copyreg.dispatch_table, known)
    error = make()
    back = there_and_back(error)
    assert type(back) is type(error)
    assert repr(back) == repr(error)
    assert vars(back).keys() == vars(error).keys()


@pytest.mark.parametrize("make", STAYING.values(), ids=STAYING)
def test_an_exception_that_cannot_travel_is_described(make: Callable[[], BaseException]) -> None:
    error = make()
    back = there_and_back(error)
    assert isinstance(back, errors.RemoteError)
    assert back.type_name == f"{__name__}.{type(error).__qualname__}"
    assert str(error) in str(back)
    assert "in there_and_back" in back.traceback_text


def test_an_exception_whose_text_raises_still_arrives() -> None:
    assert type(there_and_back(BrokenStr("x"))) is BrokenStr


def test_an_exception_that_can_do_nothing_at_all_is_described() -> None:
    class Hopeless(BrokenStr, BrokenReduce):
        pass

    back = there_and_back(Hopeless(KeyboardInterrupt()))
    assert isinstance(back, errors.RemoteError)
    assert "its __str__ raised SystemExit" in str(back)


def test_the_remote_traceback_is_the_cause_and_tells_the_first_cause() -> None:
    error = Plain("second")
    error.__cause__ = ValueError("first")
    back = there_and_back(error)
    assert isinstance(back.__cause__, _failures.RemoteTraceback)
    assert "ValueError: first" in str(back.__cause__)
    assert "in there_and_back" in str(back.__cause__)


@pytest.mark.parametrize("make", [Plain, lambda: TwoArguments(1, 2), lambda: OwnReduce("x", 1)])
def test_notes_arrive(make: Callable[[], BaseException]) -> None:
    error = make()
    error.add_note("a note")
    assert there_and_back(error).__notes__ == ["a note"]


def test_in_a_group_only_what_cannot_travel_is_replaced() -> None:
    group = ExceptionGroup("g", [Plain(1), ExceptionGroup("h", [TwoArguments(1, 2), Plain(2)])])
    group.add_note("note")
    back = there_and_back(group)
    assert isinstance(back, ExceptionGroup)
    first, inner = back.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert [type(first), *map(type, inner.exceptions)] == [Plain, errors.RemoteError, Plain]
    assert back.__notes__ == ["note"]


@pytest.mark.parametrize("data", [b"", b"nonsense", _pickling.dumps(3), _pickling.dumps([1] * 7)])
def test_bytes_that_are_no_exception_give_a_remote_error(data: bytes) -> None:
    assert isinstance(_failures.decode_error(data), errors.RemoteError)


def test_an_exception_that_only_the_sender_could_load_gives_a_remote_error() -> None:
    data = _failures.encode_error(Plain("a text"))
    back = _failures.decode_error(data.replace(b"Plain", b"Gone_"))
    assert isinstance(back, errors.RemoteError)
    assert "a text" in str(back)


def test_encoding_an_exception_leaves_its_class_as_it_is() -> None:
    class Local(Exception):
        def method(self) -> None: ...

    method = Local.__dict__["method"]
    assert type(there_and_back(Local("x"))) is Local
    assert Local.__dict__["method"] is method


values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(threading.Lock),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    kind=st.sampled_from(
        [Plain, TwoArguments, WithDefault, BrokenReduce, BrokenStr, Slotted, OwnReduce, Becomes]
    ),
    args=st.lists(values, max_size=3),
    attributes=st.dictionaries(st.sampled_from(["a", "b", "args_"]), values),
    notes=st.lists(st.text()),
    grouped=st.booleans(),
)
def test_every_shape_of_exception_arrives_or_is_described(
    kind: type[Exception],
    args: list[Any],
    attributes: dict[str, Any],
    notes: list[str],
    grouped: bool,
) -> None:
    error: Exception = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    for note in notes:
        error.add_note(note)
    sent = ExceptionGroup("g", [error]) if grouped else error
    back: Any = there_and_back(sent)
    assert isinstance(back.__cause__, _failures.RemoteTraceback)
    if grouped:
        assert type(back) is ExceptionGroup
        (back,) = back.exceptions
    assert type(back) in (kind, errors.RemoteError)
    if not grouped:
        assert getattr(back, "__notes__", []) == notes
    if type(back) is kind and kind is not OwnReduce:
        assert list(map(type, back.args)) == list(map(type, args))
        assert all(name in vars(back) for name in attributes)
