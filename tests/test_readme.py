"""The examples in README.rst do what they say."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.chat import PORT, a_model
from tests.server.conftest import ROOT, Served

README = Path(__file__).parents[1] / "README.rst"


def test_the_lines_about_a_service_work_against_one():
    section = README.read_text().partition("\nOn a service\n")[2]
    token, served = re.search(
        r"HYBRID_COMPUTE_TOKEN=(\S+) hybrid-compute serve (\S+)", section
    ).groups()
    server = Served(served, token=token)
    try:
        code = section.partition(".. code-block:: python\n")[2].partition("\nThe service")[0]
        code = re.sub(r"^    ", "", code, flags=re.MULTILINE).replace(":8760", f":{server.port}")
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout == "111\n"
    finally:
        server.end()


def test_the_examples_of_the_readme_print_what_they_say():
    text = README.read_text()
    assert text.count(PORT) == 1
    with a_model() as port:
        examples = doctest.DocTestParser().get_doctest(
            text.replace(PORT, f":{port}/"), {}, "README.rst", str(README), 0
        )
        assert any(
            "chat(" in each.source and each.want == "Hello to you\n" for each in examples.examples
        )
        outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 0
    assert outcome.failed == 0
