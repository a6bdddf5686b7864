"""The examples of the docs run, and their pages hang together."""

from __future__ import annotations

import contextlib
import doctest
import re
from pathlib import Path

import pytest

from tests.chat import PORT, a_model
from tests.public import public_names

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.rst"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_do_what_it_says(page):
    text = page.read_text()
    with a_model() if PORT in text else contextlib.nullcontext() as port:
        examples = doctest.DocTestParser().get_doctest(
            text.replace(PORT, f":{port}/"), {"__name__": "__main__"}, page.stem, str(page), 0
        )
        outcome = doctest.DocTestRunner().run(examples)
    assert outcome.failed == 0


def test_every_page_can_be_reached_from_the_index():
    listed = re.findall(r"^   ([\w/]+)$", (DOCS / "index.rst").read_text(), re.MULTILINE)
    pages = (*PAGES, *DOCS.rglob("*.md"))
    assert {*listed, "index"} == {str(p.relative_to(DOCS).with_suffix("")) for p in pages}


def test_the_reference_lists_every_public_name():
    text = (DOCS / "reference.rst").read_text()
    whole = set(
        re.findall(r"^.. automodule:: hybrid_compute\.(\w+)\n   :members:", text, re.MULTILINE)
    )
    listed = set(re.findall(r"^.. auto\w+:: hybrid_compute\.(\S+)$", text, re.MULTILINE))
    objects = [each for name, each in public_names().items() if name in listed]
    missing = [
        name
        for name, value in public_names().items()
        if name not in listed
        and name.partition(".")[0] not in whole
        and not any(each is value for each in objects)  # under another of its names
    ]
    assert missing == []
