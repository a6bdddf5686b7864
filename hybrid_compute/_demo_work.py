"""The work of the demo: four functions, found by name wherever they are unpickled.

Owns what is done with one file. Worker processes import this module, so it imports little, and
nothing of the executors.

Each function returns, beside its result, where it ran: the process and the thread that really
did the work.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import threading
import tokenize
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeAlias

import attrs

from hybrid_compute.tasks import task

__all__ = [
    "SERVED",
    "Measures",
    "Packed",
    "Place",
    "classify",
    "measure",
    "outline",
    "pack",
    "place",
    "read",
    "tokens_of",
]

# Process id and thread id of whoever did the work.
Place: TypeAlias = tuple[int, int]

_LABEL = "<measured source>"  # the file name under which warnings about measured code are filed


def place() -> Place:
    """Return where this call runs."""
    return os.getpid(), threading.get_ident()


@attrs.frozen
class Packed:
    """A file's digest and how small it gets."""

    sha256: str
    size_bytes: int
    packed_bytes: int


@attrs.frozen
class Measures:
    """What a Python source is made of.

    Attributes:
        problem: name of the exception for a source that does not decode, parse or tokenize; the
            counts are 0 then. None for all others.
        branches: places where the control flow forks: one more than this is close to the
            cyclomatic complexity.
        depth: the deepest nesting of blocks; an `elif` nests in its `if`, as in the tree.
    """

    problem: str | None = None
    tokens: int = 0
    functions: int = 0
    classes: int = 0
    branches: int = 0
    depth: int = 0


def read(path: str) -> tuple[bytes, Place]:
    """Read a file: waits for the disk, or copies from the system's file cache."""
    with open(path, "rb") as file:  # noqa: PTH123 - a Path costs more than this whole task
        return file.read(), place()


def pack(content: bytes) -> tuple[Packed, Place]:
    """Hash and compress: C code that releases the GIL, so that threads use all cores."""
    digest = hashlib.sha256(content).hexdigest()
    return Packed(digest, len(content), len(zlib.compress(content, 9))), place()


_FUNCTIONS = frozenset((ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_BRANCHES = frozenset((ast.If, *_LOOPS, ast.ExceptHandler, ast.BoolOp, ast.IfExp))
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BLOCKS = frozenset((*_DEFINITIONS, ast.If, *_LOOPS, ast.With, ast.AsyncWith, ast.Try, ast.Match))


@task
def measure(content: bytes) -> tuple[Measures, Place]:
    """Parse and measure a Python source: pure Python and the parser, which hold the GIL."""
    _ignore_warnings_about_measured_code()
    try:
        kinds: Counter[type[ast.AST]] = Counter()
        deepest = 0
        todo: list[tuple[ast.AST, int]] = [(_parse(content), 0)]
        while todo:
            node, depth = todo.pop()
            kind = type(node)
            kinds[kind] += 1
            if kind in _BLOCKS:
                depth += 1
                deepest = max(deepest, depth)
            todo += [(child, depth) for child in ast.iter_child_nodes(node)]
        tokens = sum(1 for _ in tokenize.tokenize(io.BytesIO(content).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        # Real trees hold files that are broken on purpose, or were written for another Python.
        return Measures(problem=type(error).__name__), place()
    measures = Measures(
        tokens=tokens,
        functions=sum(kinds[kind] for kind in _FUNCTIONS),
        classes=kinds[ast.ClassDef],
        branches=sum(kinds[kind] for kind in _BRANCHES),
        depth=deepest,
    )
    return measures, place()


@task(executor="inline")
def classify(path: str, size_bytes: int) -> tuple[str, Place]:
    """Say what kind of file it is: a microsecond, less than any hand-over costs."""
    return "test" if "test" in path else "big" if size_bytes > 50_000 else "module", place()


@task
def tokens_of(content: bytes) -> int:
    """Count the tokens of a source; -1 if it has none that can be told."""
    try:
        return sum(1 for _ in tokenize.tokenize(io.BytesIO(content).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return -1


@task
def outline(content: bytes) -> Iterator[str]:
    """Name the functions and classes of a source, one by one."""
    _ignore_warnings_about_measured_code()
    try:
        tree = _parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS):
            yield node.name


SERVED = [tokens_of, outline]  # what the demo's own server offers


def _parse(content: bytes) -> ast.Module:
    # Before 3.13, CPython counts how deep it is in the tree in one place for all threads, and may
    # find the sum wrong (gh-106905). Nothing is wrong with the source: it is parsed again.
    for _ in range(20):
        with suppress(SystemError):
            return ast.parse(content, _LABEL)
    return ast.parse(content, _LABEL)


def _ignore_warnings_about_measured_code() -> None:
    # Parsing `"\d"` warns. That is the measured file's business; any other warning of this
    # process is left alone. Looked up first, since adding a filter that is there already takes
    # it out for a moment, while other threads parse.
    ours = ("ignore", None, Warning, re.compile(re.escape(_LABEL)), 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", module=re.escape(_LABEL))
