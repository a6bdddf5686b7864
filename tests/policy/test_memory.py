"""Estimates as a file: a second start is warm, and a file that is none is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hybrid_compute import HybridExecutor, task
from hybrid_compute.errors import ConfigurationError
from hybrid_compute.policy import Adaptive

from .bench import HELD, Bench

LONG = 50e-3


@task
def tiny() -> None: ...


@task
def heavy(size: int = 0) -> None: ...


@task
def waiting() -> None: ...


def learned() -> Adaptive:
    bench = Bench()
    bench.calls(200, tiny, wall=1e-6)
    bench.calls(5, heavy, wall=LONG)
    bench.calls(5, heavy, 1000, wall=100 * LONG)
    bench.calls(5, waiting, wall=LONG, cpu=0.0)
    return bench.policy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "estimates.json"
    learned().save(file)
    return file


def test_what_was_saved_is_known_at_the_next_start(path: Path) -> None:
    warm = Bench(Adaptive(estimates=path, cores=2))
    assert set(warm.burst(8, tiny)) == {"inline"}
    assert set(warm.burst(8, waiting)) == {"lane"}
    assert warm.burst(8, heavy).count("process") >= 6
    cold = Bench()
    assert HELD in cold.burst(8, tiny)


def test_each_size_class_is_remembered_by_itself(path: Path) -> None:
    policy = Adaptive(estimates=str(path))
    bench = Bench(policy)
    bench.hand(heavy)
    bench.hand(heavy, 1000)
    small, large = policy.explain(heavy).splitlines()
    assert "50 ms a call" in small
    assert "5 s a call" in large


def test_saving_again_what_was_loaded_keeps_what_was_called_since(path: Path) -> None:
    policy = Adaptive(estimates=path)
    Bench(policy).calls(3, tiny, wall=1e-6)
    policy.save(path)
    assert set(Bench(Adaptive(estimates=path)).burst(3, tiny)) == {"inline"}


def test_a_warm_start_runs_tiny_tasks_inline_at_once(path: Path) -> None:
    with HybridExecutor(2, policy=Adaptive(estimates=path)) as executor:
        assert executor.submit(tiny).explain().executor == "inline"


def test_a_policy_that_knows_nothing_saves_a_file_that_can_be_loaded(tmp_path: Path) -> None:
    Adaptive().save(tmp_path / "none")
    assert Bench(Adaptive(estimates=tmp_path / "none")).burst(3, tiny)[-1] == HELD


def row(**changed: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(("run", "cpu", "held", "spread", "out_bytes"), 0.5)
    return {"task": "module:name", "size": 0, "runs": 3, "quick": 0, **numbers, **changed}


def content(**changed: Any) -> str:
    return json.dumps(
        {"format": "hybrid_compute estimates", "version": 1, "tasks": [row()], **changed}
    )


def test_the_file_that_the_bad_ones_below_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(content())
    Adaptive(estimates=tmp_path / "good")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("\x00\xff", "cannot be read"),
        (content()[:-20], "cannot be read"),
        ("[]", "has no estimates"),
        ("{}", "has no estimates"),
        (content(format="cookies"), "has no estimates"),
        (content(version=2), "is of version 2, and this release reads version 1"),
        (content(version=None), "is of version None"),
        (content(tasks=None), "row 0"),
        (content(tasks=[row(), 7]), "row 1 is 7"),
        (content(tasks=[row(task=None)]), "row 0"),
        (content(tasks=[row(runs=-1)]), "row 0"),
        (content(tasks=[row(runs=1.5)]), "row 0"),
        (content(tasks=[row(size=True)]), "row 0"),
        (content(tasks=[row(run=-0.1)]), "row 0"),
        (content(tasks=[row(cpu=float("nan"))]), "row 0"),
        (content(tasks=[row(cpu=float("inf"))]), "row 0"),
        (content(tasks=[row(held="much")]), "row 0"),
        (content(tasks=[{"task": "module:name"}]), "row 0"),
    ],
)
def test_a_file_that_holds_no_estimates_is_refused_by_name(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "estimates.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigurationError) as caught:
        Adaptive(estimates=file)
    message = str(caught.value)
    assert str(file) in message
    assert says in message
    assert "Adaptive.save(path)" in message


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"estimates='.*missing' cannot be read"):
        Adaptive(estimates=tmp_path / "missing")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(path: Path) -> None:
    before = path.read_text()
    folder = path.parent
    (folder / "taken").mkdir()
    with pytest.raises(OSError):
        learned().save(folder / "taken")  # a directory is in its place
    with pytest.raises(OSError):
        learned().save(folder / "missing" / "file")
    assert path.read_text() == before
    assert sorted(os.listdir(folder)) == ["estimates.json", "taken"]
