"""The examples in README.rst do what they say."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.server.conftest import ROOT, Served

README = Path(__file__).parents[1] / "README.rst"


def test_the_examples_of_the_readme_print_what_they_say():
    outcome = doctest.testfile(str(README), module_relative=False)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_lines_about_a_service_work_against_one():
    section = README.read_text().partition("\nOn a service\n")[2]
    token, served = re.search(
        r"HYBRID_COMPUTE_TOKEN=(\S+) hybrid-compute serve (\S+)", section
    ).groups()
    server = Served(served, token=token)
    try:
        code = section.partition(".. code-block:: python\n")[2].partition("\nThe service")[0]
        code = re.sub(r"^    ", "", code, flags=re.MULTILINE).replace(":8760", f":{server.port}")
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout == "111\n"
    finally:
        server.end()


class Chat(BaseHTTPRequestHandler):
    """A chat-completions service that says what it was told, in three pieces."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        import json

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"] is True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for word in body["messages"][0]["content"].split():
            event = {"choices": [{"index": 0, "delta": {"content": word}}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *args):
        pass


def test_the_chat_of_the_readme_prints_tokens(capsys):
    example = README.read_text().partition("chat-completions protocol:")[2]
    example = example.partition(".. code-block:: python\n")[2].partition("\n\n\n")[0]
    code = re.sub(r"^    (>>>|\.\.\.) ?", "", example, flags=re.MULTILINE)
    names = {}
    exec(code, names)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        names["chat"](f"http://127.0.0.1:{server.server_port}/v1/chat/completions", "Hello to you")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert capsys.readouterr().out == "Hello to you "
