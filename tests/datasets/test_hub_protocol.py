"""A dataset of the hub, fetched by its id from a server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

REPO, COMMIT = "own/sums", "c" * 40
README = "---\nconfigs:\n- config_name: easy\n  data_files:\n  - split: train\n    path: easy/train-*\n---\n"


def table(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


FILES = {
    "README.md": README.encode(),
    "easy/train-00000-of-00001.parquet": table(
        [{"question": f"{n}+{n}=", "answer": str(2 * n)} for n in range(5)] + [{"question": "", "answer": "none"}]
    ),
}


class Hub(BaseHTTPRequestHandler):
    """One repository: what it is, what files it has, and the files."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        # What paths are: as JSON or as a form.
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        known = [one for one in self.tree("", True) if one["path"] in asked]
        self.answer(known)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        info = {"id": REPO, "sha": COMMIT, "private": False, "gated": False, "disabled": False, "tags": []}
        info |= {"siblings": [{"rfilename": name} for name in FILES], "downloads": 0, "likes": 0}
        if path in (f"/api/datasets/{REPO}", *(f"/api/datasets/{REPO}/revision/{name}" for name in ("main", COMMIT))):
            self.answer(info)
        elif found := re.fullmatch(rf"/api/datasets/{REPO}/tree/(?:main|{COMMIT})/?(.*)", path):
            self.answer(self.tree(found[1].strip("/"), "recursive=true" in self.path.lower()))
        elif (found := re.fullmatch(rf"/datasets/{REPO}/resolve/(?:main|{COMMIT})/(.+)", path)) and found[1] in FILES:
            self.answer(FILES[found[1]])
        else:
            self.answer({"error": "Entry not found"}, 404)

    def tree(self, folder: str, is_recursive: bool) -> list[dict[str, Any]]:
        """What is in a folder, or also in the folders in it."""
        inside = [name for name in FILES if name.startswith(f"{folder}/" if folder else "")]
        names = dict.fromkeys(parent.as_posix() for name in inside for parent in Path(name).parents)
        folders = [{"type": "directory", "path": name, "size": 0, "oid": "d" * 40} for name in names if name != "."]
        everything = [*folders, *map(self.entry, inside)]
        return [one for one in everything if is_recursive or Path(one["path"]).parent.as_posix() == (folder or ".")]

    @staticmethod
    def entry(name: str) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(FILES[name]), "oid": hashlib.sha1(FILES[name]).hexdigest()}

    def answer(self, content: Any, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound" if REPO in self.path else "RepoNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


# One process for all: the library takes seconds to import.
COMMANDS = """
import json, sys
from pathlib import Path
from oxrl_core.errors import DataError
from oxrl_core.runs.data import inspect_data, prepare_data
name, missing, target = sys.argv[1:]
prepared = prepare_data(name, Path(target))
seen = inspect_data(name)
try:
    inspect_data(missing)
except DataError as error:
    print(json.dumps([prepared.model_dump(), seen.model_dump(), str(error)]))
"""


def test_a_dataset_is_prepared_and_inspected_by_its_id(hub: str, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf"), "OXRL_HOME": str(tmp_path)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, f"hub:{REPO}:easy", "hub:own/nothing", str(target)],
        capture_output=True, text=True, timeout=180, check=False, env=inherited | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prepared, seen, missing = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["prompt"], row["answer"]) for row in rows] == [(f"{n}+{n}=", str(2 * n)) for n in range(5)]
    assert (prepared["num_rows"], prepared["num_bad"]) == (seen["num_rows"], seen["num_bad"]) == (5, 1)
    assert seen["first_bad"][0]["where"] == f"hub:{REPO}:easy train, row 5"
    assert seen["rows"][0]["fields"]["prompt"] == "0+0="
    assert "cannot be loaded" in missing and "hub:own/nothing" in missing
