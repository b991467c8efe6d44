"""`oxrl mcp install` and `uninstall`: a program's own settings file, changed by one entry and in nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oxrl_core import agent_clients
from oxrl_core.agent_clients import CLIENTS, install, server_command, uninstall

FILES = {
    "claude": (".mcp.json", ".claude.json", "mcpServers"),
    "gemini": (".gemini/settings.json", ".gemini/settings.json", "mcpServers"),
    "antigravity": ("", ".gemini/config/mcp_config.json", "mcpServers"),
    "cursor": (".cursor/mcp.json", ".cursor/mcp.json", "mcpServers"),
    "vscode": (".vscode/mcp.json", ".config/Code/User/mcp.json", "servers"),
}
OTHERS: dict[str, Any] = {"theme": "dark", "mcpServers": {"other": {"command": "x"}}, "größe": [1, 2.50, None]}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    project, user = tmp_path / "project", tmp_path / "user"
    project.mkdir()
    user.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setattr(agent_clients.sys, "platform", "linux")
    return project, user


@pytest.mark.parametrize("client", FILES)
@pytest.mark.parametrize("scope", ["--project", "--user"])
def test_the_entry_goes_into_the_programs_own_file_and_starts_this_server(
    oxrl: Any, places: tuple[Path, Path], client: str, scope: str
) -> None:
    in_project, of_user, section = FILES[client]
    code, out, err = oxrl("mcp", "install", "--client", client, scope, "--json")
    if scope == "--project" and not in_project:
        assert code == 2 and "no file for one project" in err
        return
    assert code == 0
    path = places[0] / in_project if scope == "--project" else places[1] / of_user
    said = json.loads(out)
    assert (said["file"], said["action"], said["backup"]) == (str(path), "written", "")
    entry = json.loads(path.read_text())[section]["oxrl"]
    assert [entry["command"], *entry.get("args", [])] == server_command()
    assert entry["env"]["OXRL_HOME"] == os.environ["OXRL_HOME"]
    before = path.read_bytes()
    assert json.loads(oxrl("mcp", "install", "--client", client, scope, "--json")[1])["action"] == "unchanged"
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir() if file.is_file()] == [
        path.name
    ]
    assert json.loads(oxrl("mcp", "uninstall", "--client", client, scope, "--json")[1])["action"] == "removed"
    assert json.loads(path.read_text()) == {section: {}}
    assert json.loads(oxrl("mcp", "uninstall", "--client", client, scope, "--json")[1])["action"] == "absent"


def test_everything_else_stays_and_the_old_file_is_kept(oxrl: Any, places: tuple[Path, Path]) -> None:
    path = places[1] / ".gemini/settings.json"
    path.parent.mkdir()
    text = json.dumps(OTHERS, indent=4, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o640)
    said = json.loads(oxrl("mcp", "install", "--client", "gemini", "--user", "--json")[1])
    assert said["action"] == "merged"
    assert Path(said["backup"]).read_text(encoding="utf-8") == text
    written = path.read_text(encoding="utf-8")
    assert written.splitlines()[1].startswith('    "theme"') and "größe" in written, "its own indentation and letters"
    document = json.loads(written)
    assert document["mcpServers"].pop("oxrl")["timeout"] == 600_000
    assert document == OTHERS and list(document) == list(OTHERS)
    assert path.stat().st_mode & 0o777 == 0o640 == Path(said["backup"]).stat().st_mode & 0o777
    assert json.loads(oxrl("mcp", "uninstall", "--client", "gemini", "--user", "--json")[1])["action"] == "removed"
    assert json.loads(path.read_text(encoding="utf-8")) == OTHERS


def test_what_a_person_added_to_the_entry_stays_and_a_stale_command_goes(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    old = {"command": "/gone/python", "args": ["-m", "x"], "env": {"MINE": "1", "OXRL_HOME": "/old"}, "disabled": True}
    path.write_text(json.dumps({"mcpServers": {"oxrl": old}}))
    client = CLIENTS["cursor"]
    change = install(client, path, client.entry(["/new/oxrl-mcp"], {"OXRL_HOME": "/new"}))
    assert change.action == "updated"
    assert json.loads(path.read_text())["mcpServers"]["oxrl"] == {
        "command": "/new/oxrl-mcp",
        "env": {"MINE": "1", "OXRL_HOME": "/new", "HF_TOKEN": "${env:HF_TOKEN}", "GITHUB_TOKEN": "${env:GITHUB_TOKEN}"},
        "disabled": True,
    }


@pytest.mark.parametrize("text", ['{"a": 1, // mine\n}', "[]", '{"mcpServers": []}', '{"a"'])
def test_a_file_that_cannot_be_changed_without_loss_is_left_as_it_is(
    oxrl: Any, places: tuple[Path, Path], text: str
) -> None:
    path = places[0] / ".mcp.json"
    path.write_text(text)
    code, _, err = oxrl("mcp", "install", "--client", "claude")
    assert code == 2 and ".mcp.json" in err and "--print" in err
    assert path.read_text() == text and list(places[0].iterdir()) == [path]


def test_print_changes_no_file_and_names_the_one_it_is_for(oxrl: Any, places: tuple[Path, Path]) -> None:
    code, out, err = oxrl("mcp", "install", "--client", "vscode", "--print")
    assert code == 0 and json.loads(out)["servers"]["oxrl"]["type"] == "stdio"
    assert "Code/User/mcp.json" in err
    assert ".vscode/mcp.json in your project" in oxrl("mcp", "install", "--client", "vscode", "--print", "--project")[2]
    assert list(places[0].iterdir()) == list(places[1].iterdir()) == []


def test_a_linked_settings_file_stays_linked(tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles.json"
    dotfiles.write_text("{}")
    path = tmp_path / "mcp.json"
    path.symlink_to(dotfiles)
    assert install(CLIENTS["cursor"], path, {"command": "x"}).action == "merged"
    assert path.is_symlink() and "oxrl" in dotfiles.read_text()


def test_what_the_program_itself_writes_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"count": 0}')
    write = agent_clients._write
    counts = [1, 2]

    def write_while_the_program_does(*arguments: Any) -> None:
        if counts and path.exists():
            path.write_text(json.dumps({"count": counts.pop(0)}))
        write(*arguments)

    monkeypatch.setattr(agent_clients, "_write", write_while_the_program_does)
    assert install(CLIENTS["claude"], path, {"command": "x"}).action == "merged"
    assert json.loads(path.read_text()) == {"count": 2, "mcpServers": {"oxrl": {"command": "x"}}}
    monkeypatch.undo()
    assert uninstall(CLIENTS["claude"], path).action == "removed"
    assert json.loads(path.read_text()) == {"count": 2, "mcpServers": {}}
