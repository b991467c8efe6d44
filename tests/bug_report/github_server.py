"""A server on loopback that speaks the part of GitHub's REST interface which PyGithub calls for issues."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPO = "acme/oxrl"
Answer = tuple[int, dict[str, str], Any]


class GitHub:
    """Issues of one repository, and every request that was made."""

    def __init__(self) -> None:
        self.issues: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.scopes: str | None = None  # of a classic token; a fine-grained one has no such header
        self.before: Callable[[str, str], Answer | None] = lambda method, path: None
        self.after_post: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

            def do_GET(self) -> None:
                self.answer(b"")

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def answer(self, data: bytes) -> None:
                with outer.lock:
                    outer.requests.append((self.command, self.path))
                status, headers, body = outer.before(self.command, self.path) or outer.reply(self, data)
                content = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    if outer.scopes is not None:
                        self.send_header("X-OAuth-Scopes", outer.scopes)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # whoever asked has been killed
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def posts(self) -> int:
        return sum(method == "POST" for method, _ in self.requests)

    def add(self, body: str, state: str = "open", title: str = "an issue") -> dict[str, Any]:
        with self.lock:
            number = len(self.issues) + 1
            issue = {
                "id": number,
                "number": number,
                "title": title,
                "body": body,
                "state": state,
                "url": f"{self.url}/repos/{REPO}/issues/{number}",
                "html_url": f"{self.url}/{REPO}/issues/{number}",
            }
            self.issues.append(issue)
            return issue

    def reply(self, request: Any, data: bytes) -> Answer:
        if (
            request.headers.get("Authorization") != "token right"
            and request.headers.get("Authorization") != "Bearer right"
        ):
            return 401, {}, {"message": "Bad credentials"}
        parts = urlsplit(request.path)
        if parts.path == f"/repos/{REPO}":
            return 200, {}, {"id": 1, "name": "oxrl", "full_name": REPO, "url": f"{self.url}/repos/{REPO}"}
        if parts.path != f"/repos/{REPO}/issues":
            return 404, {}, {"message": "Not Found"}
        if request.command == "POST":
            asked = json.loads(data)
            issue = self.add(asked["body"], title=asked["title"])
            self.after_post()
            return 201, {}, issue
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        wanted = [issue for issue in self.issues if query.get("state", "open") in ("all", issue["state"])]
        wanted = sorted(wanted, key=lambda issue: issue["number"], reverse=query.get("direction", "desc") == "desc")
        size, page = min(100, int(query.get("per_page", "30"))), int(query.get("page", "1"))
        headers = {}
        if page * size < len(wanted):
            following = re.sub(r"[?&]page=\d+", "", request.path)
            headers["Link"] = f'<{self.url}{following}{"&" if "?" in following else "?"}page={page + 1}>; rel="next"'
        return 200, headers, wanted[(page - 1) * size : page * size]
