"""A service of a language model on this machine, for the examples of the docs."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = ":8080/"  # that of such a service in the docs


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


@contextlib.contextmanager
def a_model() -> Iterator[int]:
    """Have it serve, and give its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
