"""Models go to a hub that speaks its protocol on this machine; the client is huggingface_hub itself."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.errors import MachineError, NotFoundError, UserError
from oxrl_core.runs.export.push import push_model

TOKEN = "hf_0123456789abcdefghijABCD"
OID = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories with their files; only TOKEN may write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """What the hub answers to the calls that a push of small files makes."""

    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on the test's output."""

    def do_GET(self) -> None:
        name = self.path.split("?")[0].removeprefix("/api/models/").split("/revision/")[0]
        known = self.server.repositories.get(name)
        if known is None:
            self.say(404, {"error": "Repository not found"})
        else:
            self.say(200, {"id": name, "private": known["private"], "sha": OID, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(403, {"error": "you may not write here"})
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.server.repositories:
                return self.say(409, {"error": "it is there", "url": f"{self.server.url}/{name}"})
            self.server.repositories[name] = {"private": wanted["visibility"] == "private", "files": {}}
            return self.say(200, {"url": f"{self.server.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        name = path.removeprefix("/api/models/").split("/preupload/")[0].split("/commit/")[0]
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            answer = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return self.say(200, {"files": answer})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.server.repositories[name]["files"][value["path"]] = base64.b64decode(value["content"])
        return self.say(200, {"commitOid": OID, "commitUrl": f"{self.server.url}/{name}/commit/{OID}"})

    def say(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, to which huggingface_hub talks."""
    import huggingface_hub.constants as constants

    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # Read from $HF_ENDPOINT and $HF_HUB_OFFLINE when the library was imported, which other tests have done.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "r-261121-000000-abcd" / "final"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# card\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_model_arrives_whole_in_a_private_repository(hub: Hub, model: Path) -> None:
    pushed = push_model(str(model), "me/model")
    assert hub.repositories["me/model"]["private"] is True
    files = hub.repositories["me/model"]["files"]
    assert files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert (pushed.repo, pushed.commit, pushed.private) == ("me/model", OID, True)


def test_a_run_is_pushed_by_its_folder_and_into_a_repository_that_is_there(hub: Hub, model: Path) -> None:
    (model.parent / "spec.json").write_text("{}")
    push_model(str(model), "me/model", private=False)
    again = push_model(str(model.parent), "me/model")
    assert again.private is False, "a repository that was there stays as it was"


def test_a_wrong_token_is_refused_and_not_told(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong1")
    with pytest.raises(UserError, match="the hub refused") as caught:
        push_model(str(model), "me/model")
    assert "wrongwrong" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_a_token_or_a_network_it_says_why(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.server_close()
    with pytest.raises(MachineError, match="the hub cannot be reached"):
        push_model(str(model), "me/model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no token"):
        push_model(str(model), "me/model")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE is set"):
        push_model(str(model), "me/model")


def test_a_run_without_a_model_is_not_pushed(model: Path) -> None:
    (model / "config.json").unlink()
    (model.parent / "spec.json").write_text("{}")
    with pytest.raises(NotFoundError, match="no final model yet"):
        push_model(str(model.parent), "me/model")
