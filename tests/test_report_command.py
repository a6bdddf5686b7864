"""`hybrid-compute report`, and the demo that records itself."""

from __future__ import annotations

import json

import pytest

from hybrid_compute import HybridExecutor
from tests.test_cli import run


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "run.jsonl"
    with HybridExecutor(1) as ex, ex.record(path):
        ex.submit(abs, -1).result()
    return path


def test_a_page_is_written_beside_the_recording(recording):
    done = run("report", recording)
    page = recording.with_suffix(".html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{page}: 1 attempt, 0.0 MB\n"
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["-o", "trace.json"], "trace.json"),
        (["--format", "chrome"], "run.trace.json"),
        (["--format", "chrome", "-o", "trace.html"], "trace.html"),
    ],
)
def test_a_trace_is_written_if_it_is_asked_for_by_name_or_by_ending(recording, options, name):
    options = [str(recording.parent / each) if "." in each else each for each in options]
    assert run("report", recording, *options).returncode == 0
    assert "traceEvents" in json.loads((recording.parent / name).read_text())


def test_a_dash_is_the_terminal(recording):
    done = run("report", recording, "-o", "-", "--format", "chrome")
    assert json.loads(done.stdout)["otherData"]["recording"] == "run.jsonl"
    assert [each.name for each in recording.parent.iterdir()] == ["run.jsonl"]


def test_what_cannot_be_read_or_written_is_told_in_one_line(recording, tmp_path):
    other = tmp_path / "log.jsonl"
    other.write_text('{"v": 1}\n')
    for args, words in (
        ([tmp_path / "none.jsonl"], "No such file"),
        ([other], "is no recording: its first line is no header"),
        ([recording, "-o", recording], "is the recording itself; give another name with -o"),
        ([recording, "-o", tmp_path / "no" / "where.html"], "cannot write"),
    ):
        done = run("report", *args)
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert recording.read_text().startswith('{"recording":1')


def test_the_demo_records_itself(tmp_path):
    for number in range(6):
        (tmp_path / f"m{number}.py").write_text("def f(x):\n    return x\n" * (number + 1))
    path = tmp_path / "run.jsonl"
    assert run("demo", "--no-compare", tmp_path, "--record", path).returncode == 0
    _, *rows = map(json.loads, path.read_text().splitlines())
    assert {row["task"] for row in rows} == {"read", "pack", "measure", "classify"}
    done = run("demo", "--no-compare", tmp_path, "--record", tmp_path / "no" / "where")
    assert (done.returncode, done.stderr[:21]) == (1, "Error: cannot record:")
