"""Every public name says what it is, what it takes, what it raises, and whether it blocks."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any, get_origin

import pytest

from hybrid_compute import errors
from hybrid_compute.abc import Policy
from tests.public import public_names

# Nobody but the library constructs these.
MADE_BY_US = {
    *("Stream", "HybridFuture", "abc.WorkItem", "executors.outbox.OutboxEntry", "server.App"),
    *("testing.Check", "testing.proxy.FaultHandle", "views.ExecutorView"),
}


def members(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a public object and, of a class, its public methods and properties."""
    yield name, value
    for base in value.__mro__ if isinstance(value, type) else ():
        if not base.__module__.startswith("hybrid_compute"):
            continue
        for each, found in vars(base).items():
            member = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
            if isinstance(member, (types.FunctionType, property)) and (
                each == "__call__" or not each.startswith("_")
            ):
                yield f"{name}.{each}", member


# A type alias has a comment, which Sphinx reads.
PUBLIC = {
    label: member
    for name, value in public_names().items()
    if not isinstance(value, types.ModuleType) and get_origin(value) is None
    for label, member in members(name, value)
}
OWNERS = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}


def doc_of(label: str) -> str:
    """Return what is said of a public name: by itself, and by the contract that it fulfils."""
    member = PUBLIC[label]
    own = inspect.getdoc(member.fget if isinstance(member, property) else member) or ""
    if isinstance(member, type) and own:
        own += "\n" + (inspect.getdoc(vars(member).get("__init__")) or "")
    owner, _, method = label.rpartition(".")
    if owner not in OWNERS or not own:
        return own
    bases = [*OWNERS[owner].__mro__, Policy]
    said = [own, *(inspect.getdoc(getattr(base, method, None)) or "" for base in bases)]
    said += [
        doc_of(each) for each in re.findall(r"(?:see|[Aa]s) `([\w.]+)`", own) if each in PUBLIC
    ]
    return "\n".join(said)


def parameters_of(label: str) -> list[str]:
    member = PUBLIC[label]
    if isinstance(member, property) or label in MADE_BY_US:
        return []
    if isinstance(member, type):
        made = member.__init__ if "__init__" in vars(member) else None
        if made is None and not hasattr(member, "__attrs_attrs__"):
            return []
    try:
        found = inspect.signature(member).parameters.values()
    except ValueError:
        return []  # an error with the constructor of its base
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    # The first argument of an exception is its message.
    text = {"text"} if isinstance(member, type) and issubclass(member, BaseException) else set()
    return [
        each.name
        for each in found
        if each.kind not in kinds
        and each.name not in {"self", "cls"} | text
        and not each.name.startswith("_")
    ]


def is_named(parameter: str, doc: str) -> bool:
    """Say whether it is an entry under Args: or Attributes:, or stands in the text as code."""
    entry = rf"^ +\*?{parameter}: |`[^`]*\b{parameter}\b[^`]*`"
    return re.search(entry, doc, re.MULTILINE) is not None


def is_mentioned(parameter: str, doc: str) -> bool:
    """Say whether a sentence speaks of it, which will do where there is only one."""
    return re.search(rf"\b{parameter.rstrip('s')}", doc, re.IGNORECASE) is not None


def raised_by(member: Any) -> set[str]:
    """Return the public errors that a function raises itself, in so many words."""
    if isinstance(member, property):
        member = member.fget
    if not isinstance(member, types.FunctionType):
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(member)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func)
            if hasattr(builtins, name) or name in errors.__all__:
                found.add(name)
    return found


def kin_of(name: str) -> set[str]:
    """Return the names of an error and of those that it is one of."""
    kind = getattr(errors, name, None) or getattr(builtins, name)
    return {each.__name__ for each in kind.__mro__} - {"object", "BaseException", "Exception"}


def test_every_public_name_has_a_docstring():
    assert [label for label in PUBLIC if not doc_of(label)] == []
    assert len(PUBLIC) > 300


def test_every_parameter_is_documented():
    missing = {}
    for label in PUBLIC:
        names = parameters_of(label)
        told = is_named if len(names) > 1 else is_mentioned
        missing[label] = [each for each in names if not told(each, doc_of(label))]
    assert {label: names for label, names in missing.items() if names} == {}


def test_what_a_function_raises_is_documented():
    missing = {}
    for label, member in PUBLIC.items():
        owner = label.rpartition(".")[0]
        said = doc_of(label) + (doc_of(owner) if owner in PUBLIC else "")
        body = vars(member).get("__init__") if isinstance(member, type) else member
        if label in MADE_BY_US or getattr(body, "__module__", "") == "typing":
            continue  # the constructor of a protocol is typing's
        names = [each for each in raised_by(body) if not any(kin in said for kin in kin_of(each))]
        if names:
            missing[label] = names
    assert missing == {}


WAITS = re.compile(r"\b(block|wait|at once|quick|takes no time)", re.IGNORECASE)


def test_what_has_a_timeout_says_its_unit_and_that_it_waits():
    timed = [
        label
        for label in PUBLIC
        if "timeout" in parameters_of(label) and not isinstance(PUBLIC[label], type)
    ]
    assert len(timed) > 20
    for label in timed:
        assert "seconds" in doc_of(label), label
        assert WAITS.search(doc_of(label)), label


BLOCKING = ("submit", "stream", "map", "shutdown", "result", "exception", "cancel", "get", "close")


@pytest.mark.parametrize("method", BLOCKING)
def test_what_might_block_says_whether_it_does(method):
    labels = [label for label in PUBLIC if label.rpartition(".")[2] == method]
    assert labels
    assert [label for label in labels if not WAITS.search(doc_of(label))] == []


def test_every_class_with_methods_says_from_which_threads_they_may_be_called():
    silent = []
    for name, value in OWNERS.items():
        methods = [label for label in PUBLIC if label.startswith(f"{name}.")]
        if not methods or issubclass(value, BaseException):
            continue
        module = inspect.getmodule(value)
        said = " ".join([doc_of(name), *map(doc_of, methods), (module and module.__doc__) or ""])
        if not re.search(r"\b(threads?|locks?|immutable|pure|frozen)\b", said, re.IGNORECASE):
            silent.append(name)
    assert silent == []
