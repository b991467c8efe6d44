"""A judge behind an address that answers by rule: a small stand-in for a language model, real down to the socket."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The parts of a question stand between marks with a code of their own (rewards/judge_questions.py).
PART = re.compile(
    r"^<(?P<name>[a-zA-Z ]+) (?P<code>[0-9a-f]{16})>\n(?P<text>.*?)\n</(?P=name) (?P=code)>$", re.DOTALL | re.MULTILINE
)
MAX_BODY = 1 << 20


def right_positions(task: str, answer: str) -> int:
    """Characters of the answer that stand where the task "420>" wants them ("024"), and one for nothing behind them."""
    wanted = task.rstrip(">")[::-1]
    matches = sum(given == due for given, due in zip(answer, wanted, strict=False))
    return matches + (len(answer) == len(wanted))


def verdict(question: str) -> str:
    """A, B or tie, or a grade from 1 to 10: more right positions are better. The answer to a chat's last message."""
    parts = {match["name"]: match["text"] for match in PART.finditer(question)}
    task = parts["task"]
    if "answer" in parts:
        wanted = len(task.rstrip(">")) + 1
        return str(1 + 9 * right_positions(task, parts["answer"]) // wanted)
    a, b = (right_positions(task, parts[name]) for name in ("answer A", "answer B"))
    return "A" if a > b else "B" if b > a else "tie"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for the first's receipt

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        if self.path != "/v1/chat/completions" or not 0 < size <= MAX_BODY:
            self.send_error(404)
            return
        body = json.loads(self.rfile.read(size))
        message = {"role": "assistant", "content": verdict(body["messages"][1]["content"])}
        completion = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
        content = json.dumps(completion | {"model": body["model"], "usage": {"total_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: thousands of lines would be written."""


@contextmanager
def judge_server() -> Iterator[str]:
    """The base address (http://127.0.0.1:PORT/v1) of a judge that answers as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="judge-server", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
