"""The examples run as a user would run them, and print what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_drop_in_counts_the_lines_of_every_example():
    counts = dict(re.findall(r"(\w+\.py): (\d+) lines", run("drop_in.py")))
    assert counts == {
        path.name: str(len(path.read_text().splitlines()))
        for path in (ROOT / "examples").glob("*.py")
    }


def test_the_declared_task_is_measured_and_most_of_its_calls_run_in_worker_processes():
    lines = run("declared_tasks.py").splitlines()
    assert lines[0] == "below 20000, 17647 takes the most steps: 278"
    assert lines[1].endswith("calls ran in worker processes")
    assert lines[-1].startswith("collatz, arguments below 65536: ")


def test_the_policy_sends_small_texts_to_the_caller_and_big_ones_to_processes():
    assert run("own_policy.py") == "4\n1\n2\n20000\n2 by inline, 2 by process\n"


def test_the_tasks_to_serve_print_nothing():
    assert run("tasks.py") == ""


def test_every_example_has_a_test():
    text = Path(__file__).read_text()
    assert all(f'run("{path.name}")' in text for path in (ROOT / "examples").glob("*.py"))
