"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid_compute import _demo_remote

ROOT = Path(__file__).parents[1]


def run(*args, code="", **env):
    """Run the command in a process of its own, as a shell does."""
    start = ["-c", code] if code else ["-m", "hybrid_compute.cli"]
    return subprocess.run(
        [sys.executable, *start, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def tree(tmp_path):
    for number in range(6):
        (tmp_path / f"m{number}.py").write_text("def f(x):\n    return x\n" * (number + 1))
    (tmp_path / "broken.py").write_text("def (:\n")
    return tmp_path


def test_a_command_waits_for_no_module_of_another():
    code = (
        "import sys\nfrom hybrid_compute._commands import _COMMANDS, main\n"
        "main.get_command(None, 'serve')\n"
        "print([name for name, (module, _) in _COMMANDS.items()\n"
        "       if f'hybrid_compute.{module}' in sys.modules])\n"
    )
    assert run(code=code).stdout == "['serve']\n"


def test_the_demo_prints_a_table_of_what_ran_where(tree):
    done = run("demo", tree)
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(re.findall(r"^(\w+)  +(.*)$", done.stdout, re.MULTILINE))
    assert list(rows) == ["task", "start", "read", "pack", "measure", "classify", "all"]
    assert {rows[name].split()[0] for name in ("read", "pack", "measure", "classify")} == {"7"}
    assert len(re.findall(r"\d+\.\d+ m?s", rows["all"])) == 3
    assert re.findall(r"(\w+) alone: [\d.]+ times the time of HybridExecutor", done.stdout) == [
        "ThreadPoolExecutor",
        "ProcessPoolExecutor",
    ]
    assert "equal results in all three" in done.stdout
    assert "1 file not measurable: 1 SyntaxError." in done.stdout


def test_the_demo_shows_a_stream_and_where_it_comes_from(tree):
    done = run("demo", "--no-compare", tree)
    live = "\nA stream from a server of its own, as it comes:\nf, f, f, f, f, f ...\n"
    assert live in done.stdout
    assert re.search(r"127\.0\.0\.1:\d+, .* 7 calls\nover one WebSocket .* as here", done.stdout)


def test_a_stream_is_shown_item_by_item(tree):
    class Enough(Exception):
        pass

    shown = []

    def show(name):
        shown.append(name)
        if len(shown) == 3:
            raise Enough

    with pytest.raises(Enough):
        _demo_remote.run((str(tree / "m5.py"),), show=show)
    assert shown == ["f", "f", "f"]


def test_the_output_is_plain_text_when_it_is_not_a_terminal(tree):
    done = run("demo", "--no-compare", tree)
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= max(100, len(str(tree)) + 40)


def test_the_output_is_ascii_where_the_terminal_knows_nothing_else(tree):
    done = run("demo", "--no-compare", tree, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout.isascii()) == (0, True)


def test_a_narrow_window_cuts_no_figures(tree):
    assert "…" not in run("demo", "--no-compare", tree, COLUMNS="30").stdout


def test_the_demo_tells_how_many_files_a_limit_left_out(tree):
    done = run("demo", "--no-compare", "--limit", 2, tree)
    assert "2 Python files" in done.stdout
    assert "5 of 7 left out" in done.stdout


def test_a_limit_of_0_takes_all_files(tree):
    done = run("demo", "--no-compare", "--limit", 0, tree)
    assert "7 Python files" in done.stdout
    assert "left out" not in done.stdout


def test_json_is_the_only_thing_on_stdout(tree):
    done = run("demo", "--json", "--workers", 1, "--processes", 2, tree)
    report = json.loads(done.stdout)
    assert (report["workers"], report["processes"], report["equal"]) == (1, 2, True)
    assert set(report["seconds"]) == {
        "HybridExecutor",
        "ThreadPoolExecutor",
        "ProcessPoolExecutor",
    }
    assert report["sample"]["files"] == 7
    measured = [row for row in report["rows"] if row["task"] == "measure"]
    places = [(row["thread"], row["process"]) for row in measured]
    assert sum(places[0]) == 7  # for so few files a start of processes may not be worth it
    assert places[1:] == [(7, 0), (0, 7)]


@pytest.mark.parametrize(
    ("path", "words"), [("nowhere", "does not exist"), ("empty", "no readable Python file")]
)
def test_a_path_without_python_files_ends_with_status_1_and_one_line(tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    done = run("demo", tmp_path / path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"Error: .*{words}.*\n", done.stderr)


@pytest.mark.parametrize("option", ["--workers", "--processes", "--limit"])
@pytest.mark.parametrize("value", ["-1", "many"])
def test_a_wrong_number_ends_with_status_2(tree, option, value):
    done = run("demo", option, value, tree)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{option}'" in done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_ends_with_status_2_and_one_line_that_names_it(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from hybrid_compute.cli import main; main()"
    )
    done = run(code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hybrid-compute: the command line needs {missing}: pip install 'hybrid-compute[cli]'\n"
    )


def test_another_import_error_is_not_taken_for_a_missing_extra():
    code = (
        "import sys; sys.modules['hybrid_compute.demo'] = None\n"
        "from hybrid_compute.cli import main; main()"
    )
    done = run(code=code)
    assert done.returncode == 1
    assert "hybrid_compute.demo" in done.stderr.splitlines()[-1]


def test_help_explains_the_demo():
    done = run("demo", "--help")
    assert done.returncode == 0
    assert "standard library" in done.stdout


def test_a_terminal_shows_a_progress_bar_that_is_gone_at_the_end(tree):
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb") as its_end:
        started = subprocess.Popen(
            [sys.executable, "-m", "hybrid_compute.cli", "demo", "--no-compare", str(tree)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
            stdout=subprocess.DEVNULL,
            stderr=its_end,
        )
        its_end.close()
        shown = b""
        with suppress(OSError):  # what reading gives when the other end is closed
            while part := terminal.read(4096):
                shown += part
        assert started.wait(100) == 0
    assert b"100%" in shown
    assert shown.rstrip().endswith(b"\x1b[2K")  # the line is cleared


@pytest.fixture
def calls(tmp_path):
    """An outbox with a dead letter, an outcome and two calls that wait."""
    from hybrid_compute import OutboxExecutor, remote_task
    from hybrid_compute.errors import AuthError
    from tests.executors.outbox_fakes import Service

    path = tmp_path / "calls"
    service = Service()
    ex = OutboxExecutor(service, path, linger=0, max_attempts=1, keep_results=True)
    assert ex.submit(remote_task("echo"), 1).result(30) == 1

    def refuse(_):
        raise AuthError("who are\x1b[31m you?", status=401)

    service.answer = refuse
    assert ex.submit(remote_task("charge"), 2).exception(30)
    service.away = True
    waiting = [ex.submit(remote_task("later"), each) for each in range(2)]
    ex.shutdown()
    assert len(waiting) == 2
    return path


def test_outbox_list_shows_what_is_there_and_why(calls):
    done = run("outbox", calls, "list")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines if len(line) > 5 and line[0].isdigit()] == [
        ["1", "delivered"],
        ["2", "dead"],
        ["3", "pending"],
        ["4", "pending"],
        ["2", "pending,"],
    ]
    assert "AuthError: who are\N{REPLACEMENT CHARACTER}[31m you?" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 pending, 1 delivered, 1 dead"
    done = run("outbox", calls, "list", "--json", "--state", "dead")
    (entry,) = map(json.loads, done.stdout.splitlines())
    assert (entry["id"], entry["task"], entry["attempts"]) == (2, "charge", 1)


def test_outbox_retry_and_drop_do_what_they_say(calls):
    done = run("outbox", calls, "retry")
    assert (done.returncode, done.stdout[:1]) == (0, "1")
    done = run("outbox", calls, "retry", 1, 99)
    assert done.returncode == 1
    assert "99: not in the outbox; 1: delivered" in " ".join(done.stderr.split())
    done = run("outbox", calls, "drop", 3, 99)
    assert (done.returncode, done.stdout) == (1, "1 of 2 calls were dropped.\n")
    assert done.stderr == "Error: not dropped: 99: not in the outbox\n"
    assert run("outbox", calls, "drop", "--state", "delivered").returncode == 0
    done = run("outbox", calls, "list", "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["id"], each["state"]) for each in found] == [(2, "pending"), (4, "pending")]
    assert run("outbox", calls, "drop").returncode == 2


def test_outbox_leaves_the_calls_of_a_running_program_alone(tmp_path):
    from hybrid_compute import remote_task
    from tests.executors.outbox_fakes import Service, outbox

    service = Service()
    service.away = True
    with outbox(tmp_path / "calls", service) as ex:
        future = ex.submit(remote_task("echo"), 1)
        done = run("outbox", tmp_path / "calls", "drop", *range(1, 14), 2**63 - 1)
        assert (done.returncode, done.stdout) == (1, "0 of 14 calls were dropped.\n")
        assert done.stderr == (
            "Error: not dropped: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more: not in the outbox; "
            "1: held by a running program\n"
        )
        assert run("outbox", tmp_path / "calls", "drop", 2**63).returncode == 2
        service.away = False
        assert future.result(30) == 1


def test_outbox_says_what_is_wrong_with_a_file(tmp_path):
    done = run("outbox", tmp_path / "none", "list")
    assert (done.returncode, "there is no outbox" in done.stderr) == (1, True)
    (tmp_path / "text").write_text("text")
    (tmp_path / "text").chmod(0o600)
    done = run("outbox", tmp_path / "text", "list")
    assert (done.returncode, "is damaged" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
