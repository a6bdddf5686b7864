"""The map of this folder speaks of what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tests.remote

TESTS = Path(__file__).parents[1]
LINES = re.findall(r"^ {4}(\d*) .*? ([\w.]*test_\w+\.\w+)$", tests.remote.__doc__, re.MULTILINE)


@pytest.mark.parametrize("name", sorted({name for _, name in LINES}))
def test_each_test_of_the_map_exists(name):
    *folder, module, function = name.split(".")
    path = TESTS.joinpath(*(folder or ["remote"]), f"{module}.py")
    text = path.read_text()
    found = {each.name for each in ast.parse(text).body if hasattr(each, "name")}
    assert function in found or f"\n{function} = " in text


def test_the_map_has_every_row():
    assert {int(number) for number, _ in LINES if number} == set(range(28, 46))
