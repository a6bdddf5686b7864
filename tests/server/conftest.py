"""A real server in a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRET = "secret-of-the-tests-0123456789"


class Served:
    def __init__(self, *options: str, token: str | None = SECRET, port: int = 0, **more: str):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        if token:
            env["HYBRID_COMPUTE_TOKEN"] = token
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hybrid_compute.cli", "serve", *options, "--port", str(port)],
            env=env,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            if found := re.search(r"serving at \w+://(\S+):(\d+)", line):
                self.port = int(found[2])
                break
        else:
            self.process.communicate()
            pytest.fail(self.said)
        self.url = f"http://127.0.0.1:{self.port}"

    def end(self) -> int:
        if self.process.stderr.closed:
            return self.process.returncode
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.said += self.process.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode


@pytest.fixture
def served():
    server = Served("tests.server.work:TASKS")
    yield server
    server.end()
