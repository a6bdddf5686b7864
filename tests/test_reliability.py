"""docs/explanation/reliability.rst has every row of the matrix of faults, with tests that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "explanation" / "reliability.rst"
ROW = re.compile(r"^   \* - (\d+)\n(.*?)(?=^   \* - |^\S|\Z)", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^     - ", re.MULTILINE)
ROWS = {int(number): CELL.split(rest)[1:] for number, rest in ROW.findall(PAGE.read_text())}


@functools.cache
def names_in(module: str) -> set[str]:
    """Return the functions, the classes and the values that a test module has at its top."""
    path = TESTS.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text()).body
    values = [each for node in body if isinstance(node, ast.Assign) for each in node.targets]
    return {node.name for node in body if hasattr(node, "name")} | set(map(ast.unparse, values))


def test_no_row_is_missing():
    assert list(ROWS) == list(range(1, 65))


@pytest.mark.parametrize("number", ROWS)
def test_each_row_has_a_fault_an_outcome_a_result_and_tests_that_exist(number):
    fault, outcome, tests, result = ROWS[number]
    assert fault.strip()
    assert outcome.strip()
    assert result.strip() in ("holds", "in part")
    listed = re.findall(r"``([\w.]+)``", tests)
    assert listed
    for name in listed:
        module, _, test = name.rpartition(".")
        assert test.startswith(("test_", "Test"))
        assert test in names_in(module), f"row {number}: there is no {name}"
