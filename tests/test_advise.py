"""`hybrid-compute advise`: a program runs as ever, and its functions are told apart."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_compute._advise import advise, log_of
from tests.test_cli import ROOT, run

pytestmark = pytest.mark.timeout(100)

PROGRAM = """
import functools, hashlib, multiprocessing, sys, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def fetch(n):
    threading.Event().wait(0.02)
    return n

def tiny(x):
    return x + 1

def square(x):
    return x * x

def fail():
    raise KeyError("no")

class Pool(ThreadPoolExecutor):
    pass

if __name__ == "__main__":
    print(__file__.rpartition("/")[2], sys.argv[1:], __name__)
    with Pool(4) as ex:
        print(sum(ex.map(fetch, range(8))), isinstance(ex, ThreadPoolExecutor))
        print([ex.submit(functools.partial(tiny), i).result() for i in range(30)][-1])
        print(repr(ex.submit(fail).exception()))
    with ProcessPoolExecutor(1, multiprocessing.get_context(START)) as ex:
        print(sum(ex.map(square, range(100), chunksize=50)))
        print(ex.submit(len, b"x" * 100_000).result())
    print("to stderr", file=sys.stderr)
    sys.exit(3)
"""
SAID = """\
program.py ['--json', '-m', 'x y'] __main__
28 True
30
KeyError('no')
328350
100000
"""


@pytest.fixture
def script(tmp_path):
    def write(text, **values):
        path = tmp_path / "program.py"
        lines = [f"{name} = {value!r}\n" for name, value in values.items()]
        path.write_text("".join(lines) + textwrap.dedent(text))
        return path

    return write


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_program_runs_as_ever_and_its_functions_are_measured(script, tmp_path, start):
    out = tmp_path / "advice.json"
    program = script(PROGRAM, START=start)
    done = run("advise", "--json", "-o", out, program, "--json", "-m", "x y")
    assert done.stdout == SAID
    assert (done.returncode, done.stderr) == (3, "to stderr\n")
    found = {each["name"]: each for each in json.loads(out.read_text())["functions"]}
    assert {(each["name"], each["pool"], each["calls"]) for each in found.values()} == {
        ("fetch", "thread", 8),
        ("tiny", "thread", 30),
        ("fail", "thread", 1),
        ("square", "process", 100),
        ("len", "process", 1),
    }
    assert (found["fetch"]["kind"], found["tiny"]["kind"]) == ("I/O", "tiny")
    assert found["fetch"]["wall"] > 0.01
    assert found["fail"]["failed"] == 1
    assert 100_000 < found["len"]["bytes"] < 101_000
    assert found["tiny"]["bytes"] is None  # nothing was pickled for threads


def test_a_module_is_run_by_its_name(tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__main__.py").write_text(
        "import sys\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "print(__spec__.name, sys.argv[1:], ThreadPoolExecutor(1).submit(abs, -1).result())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_compute.cli", "advise", "-m", "some", "-o", "x"],
        cwd=tmp_path,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "some.__main__ ['-o', 'x'] 1\n")
    assert re.search(r"abs +thread +\S+ +1 ", done.stderr)


@pytest.mark.parametrize(
    ("end", "status", "words"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit('in words')", 1, "in words\n"),
        ("raise ValueError('no')", 1, "ValueError: no\n"),
        ("os._exit(7)", 7, ""),
        ("os.kill(os.getpid(), 9)", 128 + signal.SIGKILL, ""),
    ],
)
def test_the_exit_status_is_the_programs(script, end, status, words):
    program = script(
        "import os, sys\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\npool.submit(abs, -1).result()\n" + end
    )
    done = run("advise", program)
    assert done.returncode == status
    assert words in done.stderr
    assert re.search(r"abs +thread +\S+ +1 ", done.stderr)  # what was measured is not lost


def test_a_traceback_begins_with_the_program(script):
    program = script("def f():\n    raise ValueError('no')\nf()\n")
    plain = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run("advise", program).stderr.startswith(plain.stderr)


def test_a_program_without_pools_is_told_so(script):
    done = run("advise", script("print('hello')"))
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "nothing to advise" in done.stderr


@pytest.mark.parametrize("args", [[], ["-m"], ["no-such-file.py"]])
def test_what_cannot_be_run_is_a_usage_error(args):
    done = run("advise", *args)
    assert (done.returncode, "Usage" in done.stderr) == (2, True)


def test_the_pools_of_this_process_are_left_alone():
    assert ThreadPoolExecutor.submit.__module__ == "concurrent.futures.thread"


# What the lines say.


def call(number, fn, *, pool="thread", at=0.0, wall=1.0, cpu=0.0, delay=0.0, **more):
    """Return the lines of a call that began at `at`, and took so long."""
    number = f"1-{number}"
    head = {"id": number, "fn": fn, "pool": pool, "submitted": more.pop("submitted", 0.0)}
    tail = {"started": 100 + at, "ended": 100 + at + wall, "cpu": cpu, "delay": delay, "ok": True}
    head["submitted"] += 100
    return [json.dumps(head | {"calls": 1}), json.dumps({"id": number} | tail | more)]


def lines(*calls, cores=4, **workers):
    head = [json.dumps({"cores": cores, "load": 0.0})]
    head += [json.dumps({"pool": pool, "workers": count}) for pool, count in workers.items()]
    return head + [line for each in calls for line in each]


def kinds(*calls, **more):
    return {each.name: each.kind for each in advise(lines(*calls, **more)).functions}


def test_who_waits_is_told_from_who_computes():
    assert kinds(
        *(call(n, "waits", wall=1.0, cpu=0.01) for n in range(4)),
        *(call(10 + n, "tiny", at=2.0 + n, wall=1e-5, cpu=1e-5) for n in range(4)),
        *(call(20 + n, "alone", at=10.0 + n, wall=0.5, cpu=0.5) for n in range(4)),
        thread=4,
    ) == {"waits": "I/O", "tiny": "tiny", "alone": "computes"}


def test_who_holds_the_gil_is_told_from_who_lets_go_of_it():
    assert kinds(
        # Four at once, each of which computes for a fourth of the time.
        *(call(n, "holds", wall=4.0, cpu=1.0) for n in range(4)),
        # Four at once, all of the time.
        *(call(10 + n, "frees", at=10.0, wall=1.0, cpu=1.0) for n in range(4)),
        # The same where others have the cores: it stands in line for one.
        *(call(20 + n, "starves", at=20.0, wall=4.0, cpu=1.0, delay=3.0) for n in range(4)),
        thread=4,
    ) == {"holds": "GIL-bound", "frees": "GIL-free", "starves": "GIL-free"}


def test_declaring_what_holds_the_gil_gains_and_declaring_what_waits_does_not():
    found = advise(
        lines(
            *(call(n, "holds", wall=4.0, cpu=1.0) for n in range(4)),
            *(call(4 + n, "holds", at=4.0, wall=4.0, cpu=1.0) for n in range(4)),
            *(call(10 + n, "waits", at=8.0, wall=0.5) for n in range(4)),
            thread=4,
        )
    )
    holds, waits = found.functions
    assert holds.gain > 2
    assert waits.gain < 1.1
    assert found.declared < found.as_it_is / 2
    assert "declare it with @task(executor='process')" in holds.advice
    assert waits.advice.startswith("it waits, and threads are right for that")


def test_the_policy_finds_out_by_itself_what_comes_again_and_again():
    calls = [call(n, "holds", at=n // 4 * 0.2, wall=0.2, cpu=0.05) for n in range(400)]
    (holds,) = advise(lines(*calls, thread=4)).functions
    assert holds.gain > 2
    assert "declare it with @task, and" in holds.advice


def test_sizes_of_a_call_and_of_its_result_are_added():
    text = lines(call(1, "f", pool="process"), process=2)
    text += [json.dumps({"id": "1-1", "bytes": each}) for each in (100, 11)]
    assert advise(text).functions[0].bytes == 111


def test_what_was_cut_off_or_never_ended_is_passed_over():
    whole = lines(call(1, "f"), call(2, "g"))
    log, noted, load = log_of([*whole[:-1], '{"id": "1-2", "sta'])
    assert ([item.task for item in log.items], set(noted), load) == (["f"], {1}, 0.0)


def test_of_very_many_calls_the_first_are_simulated():
    found = advise(
        lines(*(call(n, "f", at=n, submitted=n, wall=0.5) for n in range(4100)), thread=4)
    )
    assert (found.functions[0].calls, found.left_out) == (4100, 100)
