"""What a configuration can name (algorithms, rewards, datasets, recipes, keys), agent topics, client settings."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.cli.results import Catalogue, ClientFile, Entry, FieldEntry, FieldList
from oxrl_core.errors import NotFoundError, UserError
from oxrl_core.suggest import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from oxrl_core.agent_clients import ClientSettings

TOPICS = "oxrl_core.cli.topics"


def list_algorithms() -> Catalogue:
    """Every loss with its kind and parameters."""
    from oxrl_core.algorithms.base import all_algorithms

    entries = [
        Entry(name=name, summary=entry.summary, kind=entry.kind, params=dict(entry.params), paper=entry.paper)
        for name, entry in all_algorithms().items()
    ]
    return Catalogue(entries=entries, next="oxrl config schema algorithm (the switches that every algorithm has)")


def list_rewards() -> Catalogue:
    """Every built-in reward."""
    from oxrl_core.rewards.base import all_rewards

    entries = [
        Entry(name=name, summary=entry.summary, params=dict(entry.parameters.shown()))
        for name, entry in all_rewards().items()
    ]
    return Catalogue(entries=entries, next="your own: reward: {name: package.module:function}")


def list_datasets() -> Catalogue:
    """Every built-in dataset with its splits."""
    from oxrl_core.datasets.base import all_datasets

    entries = [
        Entry(name=name, summary=entry.summary, params=dict(entry.parameters.shown()), splits=list(entry.splits))
        for name, entry in all_datasets().items()
    ]
    return Catalogue(entries=entries, next="your own: data: {train: rows.jsonl} (also .json .csv .parquet, hub:<id>)")


def list_examples(*, with_others: bool = False) -> Catalogue:
    """The main recipes of the registry, or every one."""
    from oxrl_core.config.sources import list_recipes

    recipes = list_recipes()
    shown = [recipe for recipe in recipes if with_others or not recipe.group]
    entries = [Entry(name=recipe.name, summary=recipe.summary, path=str(recipe.path)) for recipe in shown]
    uses = "oxrl examples show NAME, oxrl train NAME, oxrl examples copy NAME"
    rest = len(recipes) - len(shown)
    return Catalogue(entries=entries, next=f"{uses}; {rest} more: oxrl examples --all" if rest else uses)


def find_example(name: str) -> Path:
    """The file of a recipe."""
    from oxrl_core.config.sources import list_recipes

    paths = {recipe.name: Path(recipe.path) for recipe in list_recipes()}
    if name not in paths:
        raise NotFoundError(f"there is no recipe {name!r}.{did_you_mean(name, paths)}", next_step="oxrl examples --all")
    return paths[name]


def copy_example(name: str, target: Path | None, *, force: bool) -> Path:
    """The copy of a recipe: `target`, a file in the folder `target`, or NAME.yaml here."""
    source = find_example(name)
    path = target or Path(f"{name}.yaml")
    if path.is_dir():
        path = path / f"{name}.yaml"
    if path.exists() and not force:
        raise UserError("there is a file already", str(path), "name another target, or replace it with --force")
    try:
        shutil.copyfile(source, path)
    except OSError as error:
        raise UserError(
            f"cannot be written: {error.strerror}", str(path), "name a target that can be written"
        ) from error
    return path


def config_json_schema() -> dict[str, Any]:
    """The JSON schema of a whole configuration."""
    from oxrl_core.config.schema import Config

    return Config.model_json_schema()


def config_fields(key: str = "") -> FieldList:
    """Every key below a section, or one key; all of them without a key."""
    from oxrl_core.config.schema import Config

    fields = _fields(Config, "")
    found = [field for field in fields if not key or field.key == key or field.key.startswith(f"{key}.")]
    if not found:
        known = {part for field in fields for part in (field.key, field.key.rpartition(".")[0]) if part}
        raise NotFoundError(
            f"there is no configuration key {key!r}.{did_you_mean(key, known)}", next_step="oxrl config schema"
        )
    return FieldList(fields=found)


def _fields(section: type[BaseModel], prefix: str) -> list[FieldEntry]:
    from pydantic import BaseModel

    entries: list[FieldEntry] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            entries += _fields(kind, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _yaml(field.get_default(call_default_factory=True))
        entries.append(
            FieldEntry(key=prefix + name, type=_type_name(kind), default=default, description=field.description or "")
        )
    return entries


def _yaml(value: Any) -> str:
    """A default as it stands in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))  # pyright: ignore[reportUnknownArgumentType] - of whatever it holds
    return str(value)


def _type_name(kind: Any) -> str:
    """A type in words that YAML writers know: `true|false`, `a|b`, number, text, list."""
    from types import NoneType, UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return " or ".join(str(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not NoneType)
    if origin is tuple:
        return "list of " + _type_name(arguments[0])
    names: dict[Any, str] = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return names.get(kind, "mapping" if isinstance(kind, type) else str(kind))


def topic_names() -> list[str]:
    """Topics of `oxrl agent-docs`, the overview first."""
    names = sorted(entry.name.removesuffix(".md") for entry in files(TOPICS).iterdir() if entry.name.endswith(".md"))
    return ["overview", *(name for name in names if name != "overview")]


def read_topic(topic: str) -> str:
    """The text of one topic; the overview ends with the list of all."""
    names = topic_names()
    if topic not in names:
        raise NotFoundError(
            f"there is no topic {topic!r}.{did_you_mean(topic, names)}", next_step=f"topics: {', '.join(names)}"
        )
    text = files(TOPICS).joinpath(f"{topic}.md").read_text(encoding="utf-8").rstrip()
    if topic == "overview":
        text += "\n\nTopics: " + ", ".join(f"`oxrl agent-docs {name}`" for name in names[1:])
    return text


def mcp_settings(client: str, *, project: bool | None = None) -> ClientSettings:
    """The settings of one client for this environment's MCP server."""
    from oxrl_core.agent_clients import client_settings, server_command

    (settings,) = client_settings(server_command(), _server_environment(), [client], project=project)
    return settings


def change_client(name: str, *, project: bool | None, take_out: bool = False) -> ClientFile:
    """What was done to a client's settings: the entry of this environment's server put in, or taken out.

    Without a choice it is the project's file where the client has one.
    """
    from dataclasses import asdict

    from oxrl_core.agent_clients import find_client, install, server_command, uninstall

    client = find_client(name)
    in_project = bool(client.project_file) if project is None else project
    path = client.path(project=in_project, folder=Path.cwd(), home=Path.home())
    if take_out:
        return ClientFile(**asdict(uninstall(client, path)), next=f"restart {client.title}")
    change = install(client, path, client.entry(server_command(), _server_environment()))
    return ClientFile(
        **asdict(change), next=f"restart {client.title}, then ask it: what can this machine train? (check_environment)"
    )


def _server_environment() -> dict[str, str]:
    """What the server must be told: it is started from anywhere, with an environment of its own."""
    import os

    home = os.environ.get("OXRL_HOME")
    return {"OXRL_HOME": str(Path(home).expanduser().absolute())} if home else {}
