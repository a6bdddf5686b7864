"""The command: what is wrong with its arguments is told in one line, and what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.timeout(60)


def serve(folder, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_compute.cli", "serve", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HYBRID_COMPUTE_TOKEN": "t" * 32},
        cwd=folder, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.py").write_text("TASKS = {'len': len}\nFUNCTIONS = [len]\n")
    (tmp_path / "broken.py").write_text("raise NameError('boom')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("broken:TASKS",), ["broken:TASKS", "NameError: boom", "python -c 'import broken'"]),
        (("missing:TASKS",), ["missing:TASKS", "No module named 'missing'"]),
        (("good:NOTHING",), ["good:NOTHING", "has no attribute 'NOTHING'"]),
        (("good:FUNCTIONS",), ["is no task", "@task", "a mapping of names to functions"]),
        (("good:TASKS", "--tls-key", "good.py"), ["--tls-key", "--tls-cert"]),
        (("good:TASKS", "--tls-cert", "good.py"), ["--tls-cert good.py", "no PEM files"]),
    ],
)
def test_a_wrong_argument_ends_with_status_2_and_one_line(folder, options, words):
    status, line = serve(folder, *options)
    assert status == 2
    assert [word for word in words if word not in line] == []


def test_a_port_in_use_is_told_with_another_way_out(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, line = serve(folder, "good:TASKS", "--port", port)
    assert status == 1
    assert port in line
    assert "address already in use; give another --port" in line
