"""mypy and pyright infer what `accepted.py` says, and refuse what `refused.py` marks."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from hybrid_compute import HybridExecutor, TaskOptions
from hybrid_compute.mapper import MapKeywords, Mapper
from hybrid_compute.tasks import OptionKeywords

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = [HERE / "accepted.py", HERE / "refused.py"]


def by_mypy(cache: Path) -> list[tuple[str, int, str]]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache)),
            # What the package itself does wrong is told by another run.
            *("--follow-imports", "silent", "--hide-error-context"),
            *map(str, FILES),
        ],
        check=False,  # it fails: `refused.py` is wrong
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"^(.+?):(\d+): error: (.+)$", done.stdout, re.MULTILINE)
    return [(Path(name).name, int(line), message) for name, line, message in found]


def by_pyright(_: Path) -> list[tuple[str, int, str]]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson"),
            *("--pythonpath", sys.executable, *map(str, FILES)),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]


@pytest.mark.parametrize("check", [by_mypy, by_pyright])
def test_a_type_checker_infers_and_refuses_what_the_files_say(check, tmp_path):
    found = check(tmp_path)
    assert [each for each in found if each[0] == "accepted.py"] == []
    marked = {
        number
        for number, line in enumerate((HERE / "refused.py").read_text().splitlines(), 1)
        if line.endswith("  # refused")
    }
    assert len(marked) > 40
    assert {each[1] for each in found if each[0] == "refused.py"} == marked


def keywords_of(function):
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}


def test_checkers_know_the_keywords_of_options():
    assert set(OptionKeywords.__annotations__) == keywords_of(TaskOptions)
    assert set(OptionKeywords.__annotations__) == keywords_of(HybridExecutor.options)
    said = typing.get_type_hints(TaskOptions.__init__) | {"return": None}
    assert typing.get_type_hints(OptionKeywords) | {"return": None} == said


def test_checkers_know_the_keywords_of_map():
    hints = typing.get_type_hints(MapKeywords)
    said = typing.get_type_hints(Mapper.map)
    assert hints == {name: said[name] for name in keywords_of(Mapper.map)}
