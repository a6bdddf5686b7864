"""The examples in README.rst do what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

README = Path(__file__).parents[1] / "README.rst"


def test_the_examples_of_the_readme_print_what_they_say():
    outcome = doctest.testfile(str(README), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0
