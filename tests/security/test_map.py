"""The map of this folder, and SECURITY.md, speak of what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tests.security

TESTS = Path(__file__).parents[1]
LINES = re.findall(
    r"^ {4}(\d*) .*? ([\w.]*test_\w+\.test_\w+)$", tests.security.__doc__, re.MULTILINE
)


@pytest.mark.parametrize("name", sorted({name for _, name in LINES}))
def test_each_test_of_the_map_exists(name):
    *folder, module, function = name.split(".")
    path = TESTS.joinpath(*(folder or ["security"]), f"{module}.py")
    found = {each.name for each in ast.parse(path.read_text()).body if hasattr(each, "name")}
    assert function in found


def test_the_map_has_every_default_and_every_row():
    numbers = {int(number) for number, _ in LINES if number}
    assert numbers == {*range(1, 12), *range(46, 55)} - {9}


def test_security_md_says_what_it_must():
    text = (TESTS.parent / "SECURITY.md").read_text()
    for title in ("Reporting", "Whom the server trusts", "Defaults", "What is not protected"):
        assert f"\n## {title}\n" in text
    assert "A worker process is no sandbox" in text
