"""The settings that make an agent's program start `oxrl-mcp` from this environment, and the files they stand in.

A client's file belongs to its user: an entry is put beside the others, or taken out; nothing else in it changes.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.errors import NotFoundError, UserError
from oxrl_core.suggest import did_you_mean

SERVER = "oxrl"  # no underscore: gemini-cli splits its tool names there
GEMINI_TIMEOUT_MS = 600_000  # gemini-cli's own default, written out because watch_run's wait is cut to stay below it
TOKENS = ("HF_TOKEN", "GITHUB_TOKEN")
BACKUP_SUFFIX = ".oxrl-backup"
SECONDS_BETWEEN_ATTEMPTS = 0.05
ATTEMPTS = 5  # a client may write its own file at the same moment

Action = Literal["written", "merged", "updated", "unchanged", "removed", "absent"]


@dataclass(frozen=True)
class AgentClient:
    """One program that agents live in: where its settings are and how they are written."""

    name: str
    title: str
    project_file: str  # below the project; "" where it has none
    user_file: str  # below the user's home
    section: str = "mcpServers"
    reference: str = ""  # how its file names a variable of the environment; "": it has no such way, or passes all on
    extras: tuple[tuple[str, Any], ...] = ()

    def path(self, *, project: bool, folder: Path, home: Path) -> Path:
        """The file of the project in `folder`, or of the user whose home this is."""
        if project and not self.project_file:
            raise UserError(f"{self.title} has no file for one project", "--project", "leave --project out")
        return folder / self.project_file if project else home / self.user_file

    def entry(self, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """The server's entry; `environment` is set for it as it is, tokens are only referred to."""
        tokens = {name: self.reference.format(name) for name in TOKENS} if self.reference else {}
        return {
            **dict(self.extras),
            "command": command[0],
            **({"args": list(command[1:])} if command[1:] else {}),
            **({"env": env} if (env := {**environment, **tokens}) else {}),
        }


def _vscode_user_file() -> str:
    folder = "Library/Application Support" if sys.platform == "darwin" else ".config"
    return f"{folder}/Code/User/mcp.json"


# gemini-cli strips variables with TOKEN in their name from what a server inherits: there they must be named.
CLIENTS: dict[str, AgentClient] = {
    client.name: client
    for client in (
        AgentClient("claude", "Claude Code", ".mcp.json", ".claude.json", reference="${{{}:-}}"),
        AgentClient(
            "gemini",
            "gemini-cli",
            ".gemini/settings.json",
            ".gemini/settings.json",
            reference="${{{}:-}}",
            extras=(("timeout", GEMINI_TIMEOUT_MS),),
        ),
        AgentClient("antigravity", "Antigravity", "", ".gemini/config/mcp_config.json"),
        AgentClient("cursor", "Cursor", ".cursor/mcp.json", ".cursor/mcp.json", reference="${{env:{}}}"),
        AgentClient(
            "vscode", "VS Code", ".vscode/mcp.json", _vscode_user_file(), "servers", extras=(("type", "stdio"),)
        ),
    )
}


@dataclass(frozen=True)
class ClientSettings:
    """What goes into which file of one client."""

    client: str
    file: str
    json: str


@dataclass(frozen=True)
class ClientChange:
    """What was done to which file of a client; `backup` holds it as it was before, where there was one."""

    client: str
    file: str
    action: Action
    backup: str = ""


def server_command() -> list[str]:
    """The absolute command of this environment's MCP server."""
    script = Path(sys.executable).parent / "oxrl-mcp"
    return [str(script)] if script.exists() else [sys.executable, "-m", "mcp_server"]


def find_client(name: str) -> AgentClient:
    """The client of this name."""
    if name not in CLIENTS:
        raise NotFoundError(
            f"no client {name!r}.{did_you_mean(name, CLIENTS)}", "--client", f"take one of: {', '.join(CLIENTS)}"
        )
    return CLIENTS[name]


def client_settings(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    names: Sequence[str] = ("claude", "gemini"),
    *,
    project: bool | None = None,
) -> list[ClientSettings]:
    """The settings of these clients for this command; `environment` is set for the server as it is."""
    found: list[ClientSettings] = []
    for client in map(find_client, names):
        in_project = client.name == "claude" if project is None else project
        path = client.path(project=in_project, folder=Path(), home=Path("~"))
        document = {client.section: {SERVER: client.entry(command, environment or {})}}
        where = f"{path} in your project" if in_project else str(path)
        found.append(ClientSettings(client.title, where, json.dumps(document, indent=2)))
    return found


def install(client: AgentClient, path: Path, entry: Mapping[str, Any]) -> ClientChange:
    """The change that puts the server's entry into the file: other entries stay, and what a person added to ours."""

    def put(document: dict[str, Any]) -> Action:
        servers = _servers(document, client, path)
        old = servers.get(SERVER)
        known = cast("dict[str, Any]", old) if isinstance(old, dict) else {}
        # Its command is one thing: arguments of another one must not stay.
        kept = {key: value for key, value in known.items() if key not in ("command", "args", "env")}
        theirs = known.get("env")
        environment = {**(cast("dict[str, Any]", theirs) if isinstance(theirs, dict) else {}), **entry.get("env", {})}
        new = {**kept, **entry, **({"env": environment} if environment else {})}
        servers[SERVER] = new
        if old is None:
            return "merged"
        return "unchanged" if old == new else "updated"

    return _change(client, path, put)


def uninstall(client: AgentClient, path: Path) -> ClientChange:
    """The change that takes the server's entry out of the file."""

    def take(document: dict[str, Any]) -> Action:
        return "removed" if _servers(document, client, path).pop(SERVER, None) is not None else "absent"

    if not path.exists():
        return ClientChange(client.title, str(path), "absent")
    return _change(client, path, take)


def _servers(document: dict[str, Any], client: AgentClient, path: Path) -> dict[str, Any]:
    servers = document.setdefault(client.section, {})
    if not isinstance(servers, dict):
        raise UserError(f"{client.section} is no object", str(path), "mend the file, or set it up with --print")
    return cast("dict[str, Any]", servers)


def _change(client: AgentClient, path: Path, edit: Callable[[dict[str, Any]], Action]) -> ClientChange:
    """The outcome of editing the JSON object in the file: atomic, with the former text kept beside it."""
    target = path.resolve()  # a linked file stays linked
    try:
        for _ in range(ATTEMPTS):
            before = target.read_bytes() if target.exists() else None
            document = _parsed(before, path)
            action = edit(document)
            if action in ("unchanged", "absent"):
                return ClientChange(client.title, str(path), action)
            text = json.dumps(document, indent=_indent(before), ensure_ascii=False) + "\n"
            if before is None:
                target.parent.mkdir(parents=True, exist_ok=True)
            if not _replace(target, before, text.encode()):
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)
                continue
            backup = target.with_name(target.name + BACKUP_SUFFIX) if before is not None else None
            return ClientChange(
                client.title, str(path), "written" if before is None else action, str(backup) if backup else ""
            )
    except OSError as error:
        raise UserError(f"cannot be changed: {error.strerror or error}", str(path), "use --print instead") from error
    raise UserError(f"{client.title} is writing this file all the time", str(path), "close it, then try again")


def _parsed(data: bytes | None, path: Path) -> dict[str, Any]:
    if data is None or not data.strip():
        return {}
    try:
        document = json.loads(data)
    except ValueError as error:
        # Some clients allow comments. Writing the file anew would drop them.
        raise UserError(
            f"is not plain JSON ({error}), so it is left as it is", str(path), "put in what --print shows by hand"
        ) from error
    if not isinstance(document, dict):
        raise UserError("holds no JSON object", str(path), "mend the file, or use --print")
    return cast("dict[str, Any]", document)


def _indent(before: bytes | None) -> int | str:
    """The indentation that the file has."""
    for line in (before or b"").splitlines()[1:]:
        blank = line[: len(line) - len(line.lstrip())].decode()
        if blank:
            return "\t" if blank.startswith("\t") else len(blank)
    return 2


def _replace(target: Path, before: bytes | None, after: bytes) -> bool:
    """Whether the file was replaced; not where somebody changed it in between."""
    mode = target.stat().st_mode & 0o777 if before is not None else None
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    try:
        _write(temporary, after, mode)
        if (target.read_bytes() if target.exists() else None) != before:
            return False
        if before is not None:
            backup = target.with_name(target.name + BACKUP_SUFFIX)
            backup.unlink(missing_ok=True)
            _write(backup, before, mode)  # no wider readable than the file itself: it may hold tokens
        temporary.replace(target)
        return True
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _write(path: Path, data: bytes, mode: int | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if mode is not None:
            os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
