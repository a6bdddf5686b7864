"""The examples of the docs run, and their pages hang together."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import hybrid_compute

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.rst"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_do_what_it_says(page):
    failed, _ = doctest.testfile(str(page), module_relative=False)
    assert failed == 0


def test_every_page_can_be_reached_from_the_index():
    listed = re.findall(r"^   ([\w/]+)$", (DOCS / "index.rst").read_text(), re.MULTILINE)
    assert {*listed, "index"} == {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES}


def test_the_reference_lists_every_public_name():
    text = (DOCS / "reference.rst").read_text()
    modules = {"abc", "errors", "events", "policy", "server", "testing", "transports"}
    names = set(hybrid_compute.__all__) - modules
    assert {name for name in names if f"hybrid_compute.{name}\n" not in text} == set()
