"""A judge that is real down to the socket: a local server that speaks the chat-completions protocol."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = str | tuple[int, dict[str, str], str]  # what the judge says, or a raw response: status, headers, body
SECTION = re.compile(
    r"^<(?P<name>[a-zA-Z ]+) (?P<code>[0-9a-f]{16})>\n(?P<text>.*?)\n</(?P=name) (?P=code)>$", re.DOTALL | re.MULTILINE
)


@dataclass
class JudgeServer:
    """What the server says to each request, and what it was asked."""

    url: str = ""
    reply: Callable[[dict[str, Any]], Reply] = lambda body: "tie"
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @staticmethod
    def parts(body: dict[str, Any]) -> dict[str, str]:
        """The parts of a question by name ("task", "answer A", ...), as a careful judge reads them: between marks."""
        return {match["name"]: match["text"] for match in SECTION.finditer(body["messages"][1]["content"])}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    judge, lock = JudgeServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                judge.requests.append(body)
                judge.headers.append({name.lower(): value for name, value in self.headers.items()})
                judge.at_once += 1
                judge.most_at_once = max(judge.most_at_once, judge.at_once)
            try:
                answer = judge.reply(body)
            finally:
                with lock:
                    judge.at_once -= 1
            if isinstance(answer, str):
                message = {"role": "assistant", "content": answer}
                usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
                completion = {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]}
                answer = (200, {}, json.dumps(completion | {"usage": usage}))
            status, headers, content = answer
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client hung up on an answer that came too late

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    judge.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield judge
    http.shutdown()
    http.server_close()
    thread.join(timeout=10)
