"""Fixtures: executors to test, and scripts in an interpreter of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from . import makers

_SPEC = importlib.util.find_spec("hybrid_compute")
assert _SPEC is not None
assert _SPEC.origin is not None
_PARENT = str(Path(_SPEC.origin).parents[1])  # scripts import what the tests import


def _making(maker: makers.Maker) -> Iterator[makers.Make]:
    make = maker.load()["make"]
    made: list[weakref.ref[Executor]] = []  # weak: some tests are about executors being freed

    def remember(*args: Any, **kwargs: Any) -> Executor:
        executor: Executor = make(*args, **kwargs)
        made.append(weakref.ref(executor))
        return executor

    yield remember
    makers.release_all()
    for reference in made:
        executor = reference()
        if executor is not None:
            executor.shutdown()


def _params(those: tuple[makers.Maker, ...]) -> dict[str, Any]:
    return {"params": those, "ids": [maker.name for maker in those]}


@pytest.fixture(**_params(makers.ALL))
def make(request: pytest.FixtureRequest) -> Iterator[makers.Make]:
    """Make an executor of any kind."""
    yield from _making(request.param)


@pytest.fixture(**_params(makers.NARROW))
def narrow(request: pytest.FixtureRequest) -> Iterator[makers.Make]:
    """Make an executor of a few kinds, for tests with many cases of their own."""
    yield from _making(request.param)


@pytest.fixture(**_params(makers.FRESH))
def fresh(request: pytest.FixtureRequest) -> Iterator[makers.Make]:
    """Make an executor that did nothing yet."""
    yield from _making(request.param)


@pytest.fixture(**_params(makers.WHOLE))
def whole(request: pytest.FixtureRequest) -> Iterator[makers.Make]:
    """Make an executor that is not only a view of one."""
    yield from _making(request.param)


@pytest.fixture(**_params(makers.OURS))
def ours(request: pytest.FixtureRequest) -> Iterator[makers.Make]:
    """Make an executor, not the stdlib's, for what we promise and the stdlib does not."""
    yield from _making(request.param)


@pytest.fixture(**_params(makers.WHOLE))
def cls(request: pytest.FixtureRequest) -> type[Executor]:
    """Return a class to inherit from."""
    found: type[Executor] = request.param.load()["cls"]
    return found


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _running(maker: makers.Maker, tmp_path: Path) -> Run:
    def run(script: str, *, how: str = "file") -> subprocess.CompletedProcess[str]:
        text = maker.source + textwrap.dedent(script)
        command = [sys.executable, "-W", "ignore::DeprecationWarning"]
        stdin = None
        if how == "-c":
            command += ["-c", text]
        elif how == "stdin":
            stdin = text
        else:
            path = tmp_path / "script.py"
            path.write_text(text)
            command.append(str(path))
        environment = dict(os.environ, PYTHONPATH=_PARENT)
        return subprocess.run(
            command,
            input="" if stdin is None else stdin,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=makers.TIMEOUT,
            check=False,
        )

    return run


@pytest.fixture(**_params(makers.SCRIPTED))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script, in which `make` is defined, in an interpreter of its own."""
    return _running(request.param, tmp_path)


@pytest.fixture(**_params(makers.SCRIPTED[1:]))
def run_ours(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script as `run` does, but not with the stdlib's executor."""
    return _running(request.param, tmp_path)


@pytest.fixture(**_params((makers.DEFAULT,)))
def run_hybrid(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a script as `run` does, with a HybridExecutor() as it comes."""
    return _running(request.param, tmp_path)
