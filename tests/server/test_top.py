"""`hybrid-compute top`: what it shows of a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from hybrid_compute._top import _change, _part, _picture
from tests.test_cli import run

from .conftest import ROOT, SECRET
from .test_served import post

pytestmark = pytest.mark.timeout(60)


def top(served, *options, token=SECRET):
    return run("top", served.url, *options, HYBRID_COMPUTE_TOKEN=token, COLUMNS="120")


def test_one_picture_shows_the_calls_of_each_task_and_the_workers(served):
    for _ in range(3):
        post(served, {"task": "echo", "input": 1})
    post(served, {"task": "fail", "input": "no"})
    done = top(served, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert f"http://127.0.0.1:{served.port}" in text
    assert re.search(r"calls/s since it began\n0 of 1,024 calls under way +none refused", text)
    cells = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert cells["echo"][1:3] == ["0", "3"]
    assert cells["fail"][4] == "1"
    assert re.search(r"\d+(\.\d+)? (us|ms|s)", " ".join(cells["echo"][5:]))
    assert {"inline", "thread", "process", "lane"} <= set(cells)
    order = [name for name in cells if name in ("echo", "fail", "double")]
    assert order == ["echo", "fail", "double"]  # the busiest first


def test_what_the_server_says_can_be_had_as_it_says_it(served):
    assert set(json.loads(top(served, "--json").stdout)) >= {"tasks", "executors", "uptime"}


def test_what_is_wrong_is_told_with_its_remedy(served):
    wrong = top(served, "--once", token="wrong-token-of-the-tests")
    assert wrong.returncode == 1
    assert re.search(r"401: .* set HYBRID_COMPUTE_TOKEN or give --token-file", wrong.stderr)
    assert SECRET not in wrong.stderr
    served.end()
    away = top(served, "--once")
    assert (away.returncode, "no connection to" in away.stderr) == (1, True)
    assert top(served, "--once").stderr.count("\n") == 1
    assert run("top", "ftp://x", "--once").returncode == 1


def test_the_picture_is_drawn_again_and_again_until_ctrl_c(served):
    post(served, {"task": "echo", "input": 1})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hybrid_compute.cli", "top", served.url, "--interval", "0.1"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HYBRID_COMPUTE_TOKEN": SECRET,
            "TERM": "xterm",
        },
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
    )
    os.close(theirs)
    try:
        seen = b""
        while (
            len(re.findall(rb"calls/s(?! since)", seen)) < 3
        ):  # those after the first are of a while
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


# The arithmetic.


def answer(calls, histogram, **more):
    task = {"under_way": 0, "calls": calls, "failed": 0, "seconds": 1, "histogram": histogram}
    return {
        "uptime": 10.0,
        "draining": False,
        "under_way": 0,
        "queue": 9,
        "refused": 0,
        "executors": {},
        "tasks": {"f": task},
        **more,
    }


def test_rates_and_times_are_of_what_came_between_two_answers():
    before, now = answer(100, {"3": 100}), answer(150, {"3": 100, "20": 50}, uptime=12.0)
    change = _change(before["tasks"]["f"], now["tasks"]["f"])
    assert change == {"calls": 50, "histogram": {3: 0, 20: 50}}
    assert _part(change["histogram"], 0.5) == "741 ms"
    assert _part(_change(None, now["tasks"]["f"])["histogram"], 0.5) == "5.66 us"
    assert _part({}, 0.5) == ""
    head = _picture("u", before, now).renderables[0].plain
    assert "25 calls/s\n" in head


def test_a_task_that_is_called_like_markup_is_shown_as_it_is():
    now = answer(1, {"3": 1})
    now["tasks"] = {"[red]f[/]": now["tasks"]["f"]}
    table = _picture("[bold]u", None, now).renderables[-1]
    assert list(table.columns[0].cells) == [r"\[red]f\[/]"]
