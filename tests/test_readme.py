"""The examples in README.rst do what they say."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.server.conftest import ROOT, Served

README = Path(__file__).parents[1] / "README.rst"


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
    """A chat-completions service that answers with three tokens."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert body == {
            "model": "small",
            "stream": True,
            "messages": [{"role": "user", "content": "Greet me in three words"}],
        }
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": it thinks\n\n")
        self.say({"role": "assistant", "content": ""})
        for token in ("Hello", " to", " you"):
            self.say({"content": token})
        self.say({}, finish_reason="stop")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def say(self, delta, **more):
        event = {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": delta, **more}],
        }
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def model():
    """The port of a model on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_examples_of_the_readme_print_what_they_say(model):
    text = README.read_text()
    assert text.count(":8080/") == 1
    examples = doctest.DocTestParser().get_doctest(
        text.replace(":8080/", f":{model}/"), {}, "README.rst", str(README), 0
    )
    assert any(
        "chat(" in each.source and each.want == "Hello to you\n" for each in examples.examples
    )
    outcome = doctest.DocTestRunner().run(examples)
    assert outcome.attempted > 0
    assert outcome.failed == 0
