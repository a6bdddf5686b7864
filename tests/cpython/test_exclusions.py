"""What is not run is listed, exists, and has its reason; all else is run."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest

from . import exclusions, suite, test_futures, test_processes, test_threads

if suite.path_entry() is None:
    pytest.skip(suite.MISSING, allow_module_level=True)

MODULES = sorted(path.stem for path in Path(suite.module("util").__file__).parent.glob("test_*.py"))


def cases() -> dict[str, type[unittest.TestCase]]:
    """Return all test cases of CPython's package by `module.TestCase`."""
    return {
        f"{module}.{name}": case
        for module in MODULES
        for name, case in vars(suite.module(module)).items()
        if isinstance(case, type)
        and issubclass(case, unittest.TestCase)
        and case.__module__ == suite.module(module).__name__
    }


def names_of(case: type[unittest.TestCase]) -> set[str]:
    return set(unittest.defaultTestLoader.getTestCaseNames(case))


def derived_cases() -> list[type[unittest.TestCase]]:
    return [
        case
        for module in (test_futures, test_processes, test_threads)
        for case in vars(module).values()
        if isinstance(case, type) and issubclass(case, unittest.TestCase)
    ]


@pytest.mark.parametrize("identity", [*exclusions.EXCLUDED, *exclusions.OTHER_ERRORS])
def test_each_id_in_the_tables_is_a_test_of_cpython(identity):
    case, _, test = identity.rpartition(".")
    assert test in names_of(cases()[case])


def test_every_test_of_cpython_is_run_or_excluded():
    run = {
        f"{case.__base__.__module__}.{case.__base__.__name__}.{test}".removeprefix(suite.NAME + ".")
        for case in derived_cases()
        for test in names_of(case)
    }
    there = {
        f"{identity}.{test}"
        for identity, case in cases().items()
        if not case.__name__.startswith(exclusions.OTHER_START_METHODS)
        for test in names_of(case)
    }
    assert run | set(exclusions.EXCLUDED) == there
    assert not run & set(exclusions.EXCLUDED)


def test_what_is_left_out_for_its_start_method_runs_for_another():
    names = set(cases())
    for name in names:
        module, case = name.split(".")
        if case.startswith(exclusions.OTHER_START_METHODS):
            rest = case.removeprefix("ProcessPoolForkserver").removeprefix("ProcessPoolFork")
            assert f"{module}.ProcessPoolSpawn{rest}" in names
