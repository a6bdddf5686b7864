"""The demo's functions, its choice of files, and its comparison."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import attrs
import pytest

from hybrid_compute import Task, demo

SOURCE = b"""\
class Shop:
    def price(self, items):
        for item in items:
            if item and item > 2:
                return item
        return 0
"""

# ProcessPoolExecutor forks, and what runs the tests has threads.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def tree(tmp_path):
    for number in range(12):
        folder = tmp_path / ("pkg" if number % 2 else "test")
        folder.mkdir(exist_ok=True)
        (folder / f"m{number:02}.py").write_bytes(SOURCE * (number + 1))
    (tmp_path / "notes.txt").write_text("not Python")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b"name = '\xe9'\n")
    return tmp_path


# The work.


def test_measure_counts_what_a_source_is_made_of():
    measures, _ = demo.measure(SOURCE)
    assert measures == demo.Measures(tokens=43, functions=1, classes=1, branches=3, depth=4)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"def (:\n", "SyntaxError"),
        (b"name = '\xe9'\n", "SyntaxError"),
        (b"# coding: nonsense\n", "SyntaxError"),
        (b"x = 1\0\n", {"SyntaxError", "ValueError"}),  # by the version of Python
    ],
)
def test_measure_names_the_problem_of_a_source_that_is_no_python(source, problem):
    measures, _ = demo.measure(source)
    assert measures.problem == problem or measures.problem in problem
    assert attrs.evolve(measures, problem=None) == demo.Measures()


def test_measure_is_silent_about_code_that_gives_warnings_and_no_other_warning_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measures, _ = demo.measure(b'"\\d"\n')
        assert measures.problem is None
        with pytest.raises(SyntaxWarning):
            warnings.warn("of somebody else", SyntaxWarning, stacklevel=1)


def test_measure_parses_again_when_threads_have_confused_the_parser(monkeypatch):
    parse, outcomes = ast.parse, [SystemError("AST constructor recursion depth mismatch"), None]

    def confused(*args):
        if error := outcomes.pop(0):
            raise error
        return parse(*args)

    monkeypatch.setattr(ast, "parse", confused)
    measures, _ = demo.measure(SOURCE)
    assert (measures.functions, outcomes) == (1, [])


def test_pack_gives_the_digest_and_both_sizes():
    packed, _ = demo.pack(b"abc" * 1000)
    assert packed.sha256.startswith("328de8f1")
    assert (packed.size_bytes, packed.packed_bytes < 100) == (3000, True)


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [("lib/test/x.py", 5, "test"), ("lib/x.py", 60_000, "big"), ("lib/x.py", 5, "module")],
)
def test_classify_tells_tests_big_files_and_modules_apart(path, size, kind):
    assert demo.classify(path, size)[0] == kind


@pytest.mark.parametrize("name", demo.TASKS)
def test_every_function_of_the_demo_is_pickled_by_name(name):
    function = getattr(demo, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert len(pickle.dumps(function)) < 100


def test_two_functions_are_plain_and_two_are_declared():
    assert {name: isinstance(getattr(demo, name), Task) for name in demo.TASKS} == {
        "read": False,
        "pack": False,
        "measure": True,
        "classify": True,
    }


def test_every_function_tells_where_it_ran(tree):
    here = (os.getpid(), threading.get_ident())
    path = str(tree / "broken.py")
    assert demo.read(path) == (b"def (:\n", here)
    assert demo.pack(b"")[1] == demo.measure(b"")[1] == demo.classify("", 0)[1] == here


# The files.


def test_all_python_files_are_found_the_biggest_first(tree):
    sample = demo.collect(tree)
    assert (len(sample.paths), sample.found, sample.unreadable) == (14, 14, 0)
    assert sample.paths[0].endswith("m11.py")
    sizes = [Path(path).stat().st_size for path in sample.paths]
    assert sizes == sorted(sizes, reverse=True)
    assert sample.size_bytes == sum(sizes)


def test_a_limit_takes_files_from_all_parts_of_the_tree(tree):
    sample = demo.collect(tree, limit=4)
    assert (len(sample.paths), sample.found) == (4, 14)
    assert {Path(path).parent.name for path in sample.paths} >= {"pkg", "test"}


def test_folders_to_skip_are_not_entered(tree):
    sample = demo.collect(tree, skip=["test"])
    assert not [path for path in sample.paths if "/test/" in path]


def test_a_single_file_is_a_sample_too(tree):
    assert demo.collect(tree / "broken.py").paths == (str(tree / "broken.py"),)


def test_a_file_that_cannot_be_read_is_counted_and_left_out(tree):
    (tree / "dangling.py").symlink_to(tree / "nowhere")
    sample = demo.collect(tree)
    assert (len(sample.paths), sample.found, sample.unreadable) == (14, 15, 1)


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        demo.collect(tmp_path / "nowhere")


@pytest.mark.parametrize("where", [".", "notes.txt"])
def test_a_path_without_python_files_is_an_error(tmp_path, where):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="no readable Python file"):
        demo.collect(tmp_path / where)


def test_the_default_is_the_standard_library():
    assert (demo.default_path() / "ast.py").exists()


# The comparison.


def places(report, executor):
    rows = [report.row(executor, name) for name in demo.TASKS]
    return {row.task: (row.inline, row.thread, row.process) for row in rows}


@forks
def test_all_executors_give_equal_results_and_each_task_runs_where_it_belongs(tree):
    ticks = []
    report = demo.compare(demo.collect(tree), workers=2, processes=2, tick=ticks.append)
    assert report.equal is True
    assert report.executors == (demo.HYBRID, demo.THREADS, demo.PROCESSES)
    ran = places(report, demo.HYBRID)
    measured = ran.pop("measure")  # so few files that a start of processes may not be worth it
    assert measured[0] == 0
    assert sum(measured) == 14
    assert ran == {"read": (0, 14, 0), "pack": (0, 14, 0), "classify": (14, 0, 0)}
    assert set(places(report, demo.THREADS).values()) == {(0, 14, 0)}
    assert set(places(report, demo.PROCESSES).values()) == {(0, 0, 14)}
    assert sum(ticks) == 14 * 4 * 3
    assert report.problems == {"SyntaxError": 2}
    assert sum(report.kinds.values()) == 14
    assert report.totals["classes"] == sum(range(1, 13))
    assert report.totals["depth"] == 4


def test_hybrid_executor_alone_has_nothing_to_compare_with(tree):
    report = demo.compare(demo.collect(tree, limit=2), workers=1, processes=1, alone=True)
    assert (report.executors, report.equal) == ((demo.HYBRID,), None)
    assert report.seconds(demo.HYBRID) == sum(row.seconds for row in report.rows) > 0


@forks
def test_different_results_are_noticed(tree, monkeypatch):
    monkeypatch.setattr(demo, "pack", pack_differently_in_each_process)
    report = demo.compare(demo.collect(tree, limit=2), workers=1, processes=1)
    assert report.equal is False


def pack_differently_in_each_process(content):
    return demo.Packed(str(os.getpid()), len(content), 0), demo.place()


def test_worker_processes_load_neither_click_nor_rich_nor_executors():
    code = (
        "import sys, hybrid_compute._demo_work\n"
        "heavy = ('click', 'rich', 'tqdm', 'requests', 'hybrid_compute.hybrid')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
