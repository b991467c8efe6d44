"""What a configuration that came through a tool may reach: files below the roots, code below them, no public push.

A model's context holds text of many authors. Whatever they make it ask for, a run must not read the files of others,
import code that nobody put there for it, or publish anything.
"""

from __future__ import annotations

import importlib.machinery
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mcp_server.policy import Policy, current_policy
from oxrl_core.errors import ConfigError

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

MOST_ROOTS_SHOWN = 3
CODE_ARGUMENTS = ("config", "overrides", "reward", "algorithm", "dataset", "params")
NOT_CODE = ("miniature", "run", "hub", "registry")  # the words before a colon that name something else


def check_arguments(arguments: Mapping[str, Any], policy: Policy) -> None:
    """Raises where an argument names code that may not be loaded. Before anything is read: a configuration that names
    a function is checked by importing it.
    """
    for name in CODE_ARGUMENTS:
        if name in arguments:
            for key, text in _texts(arguments[name], name):
                _check_code(key, text, policy)


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string in an argument, in the YAML that it may be, and below it."""
    if isinstance(value, dict):
        for name, inner in cast("dict[object, object]", value).items():
            yield from _texts(inner, f"{key}.{name}" if key not in CODE_ARGUMENTS else str(name))
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value
        name, separator, rest = value.partition("=")
        if separator and name.replace(".", "").replace("_", "").isalnum():
            yield from _texts(rest, name)
        elif any(mark in value for mark in ("\n", ": ", "{", "[")):
            read = _yaml(value)
            if not isinstance(read, str):
                yield from _texts(read, key)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""  # the operation says what is wrong with it


def check_config(config: str, overrides: Sequence[str], policy: Policy | None = None) -> None:
    """Raises where the configuration reaches further than the policy; one that cannot be read is not judged here."""
    from oxrl_core.api.configs import load_checked
    from oxrl_core.errors import UserError

    try:
        loaded = load_checked(config, overrides)
    except UserError:
        return  # the operation itself says what is wrong
    check(loaded.config, policy or current_policy())


def check(config: Config, policy: Policy) -> None:
    """Raises where a resolved configuration reaches further than the policy."""
    for key, name in named_paths(config):
        check_path(key, name, policy)
    for key, name in named_code(config):
        _check_code(key, name, policy)
    if config.export.push_to_hub and not policy.allow_push:
        raise ConfigError(
            "this server publishes nothing",
            "export.push_to_hub",
            "leave it out; or its operator sets OXRL_MCP_ALLOW_PUSH=1",
        )


def check_reward(name: str, params: Mapping[str, object]) -> None:
    """Raises where a reward on its own reaches further than the policy."""
    policy = current_policy()
    _check_code("reward", name, policy)
    for key, value in params.items():
        if isinstance(value, str) and "://" not in value:
            check_path(f"params {key}", value, policy)


def check_evaluation(target: str, dataset: str, reward: str, overrides: Sequence[str]) -> None:
    """Raises where an evaluation reaches further than the policy. The run's own configuration was checked before."""
    policy = current_policy()
    check_path("target", target, policy)
    if dataset:
        check_path("dataset", dataset, policy)
        _check_code("dataset", dataset, policy)
    check_reward(reward, {})
    for text in overrides:
        key, _, value = text.partition("=")
        section = key.split(".", 1)[0]
        if not value or section in ("model", "data", "reward", "algorithm", "export"):
            raise ConfigError(
                f"{key[:80]} is not for an evaluation to change",
                "overrides",
                "name target, dataset, split and reward; overrides are for rollout, run and train",
            )


def named_paths(config: Config) -> Iterator[tuple[str, str]]:
    """The keys that can name a file or folder, with their values."""
    yield "model.path", config.model.path
    if config.algorithm.teacher:
        yield "algorithm.teacher", config.algorithm.teacher
    for part, datasets in (("train", config.data.train), ("eval", config.data.eval)):
        for dataset in datasets:
            yield f"data.{part}", dataset.name
            for name, value in dataset.params.items():
                if isinstance(value, str) and "/" in value:
                    yield f"data.{part}.{name}", value
    for name, value in config.reward.params.items():
        if isinstance(value, str) and "://" not in value:
            yield f"reward.{name}", value
    if "://" in config.model.path:
        raise ConfigError("a model is no address", "model.path", "name a hub id, a registry name or a folder")


def named_code(config: Config) -> Iterator[tuple[str, str]]:
    """The keys that can name a function of somebody's own."""
    yield "algorithm.name", config.algorithm.name
    yield "reward.name", config.reward.name
    parts = config.reward.params.get("parts") or config.reward.params.get("rewards")
    if isinstance(parts, dict):
        for name in parts:  # pyright: ignore[reportUnknownVariableType]
            yield "reward.parts", str(name)  # pyright: ignore[reportUnknownArgumentType]
    for dataset in (*config.data.train, *config.data.eval):
        yield "data", dataset.name


def check_path(key: str, name: str, policy: Policy) -> None:
    """Raises where the name is a file or folder of this machine outside of the roots."""
    if name.startswith(("miniature:", "run:", "hub:", "http://", "https://")):
        if ".." in Path(name.partition(":")[2]).parts:
            raise ConfigError(f"{name[:80]!r} leaves its folder", key, "name it without ..")
        return
    if "\0" in name or len(name) > 4000:
        raise ConfigError("that is no name of a file", key, "name a file, a folder, or something of the registry")
    path = Path(name.removeprefix("file://")).expanduser()
    looks_like_path = name.startswith(("/", ".", "~", "file:")) or ".." in path.parts or path.exists()
    if looks_like_path and not is_inside(path, policy):
        shown = ", ".join(str(root) for root in policy.roots[:MOST_ROOTS_SHOWN])
        raise ConfigError(
            f"{name[:80]!r} is outside of the folders that this server may read",
            key,
            f"name something below {shown}; or the operator adds its folder to OXRL_MCP_ROOTS",
        )


def is_inside(path: Path, policy: Policy) -> bool:
    """Whether the file, wherever its links lead, is below a root."""
    real = path.resolve()
    return any(real == root or root in real.parents for root in policy.roots)


def _check_code(key: str, name: str, policy: Policy) -> None:
    source, _, function = name.strip().rpartition(":")
    is_module = bool(source) and all(part.isidentifier() for part in source.split("."))
    if not function.isidentifier() or not (source.endswith(".py") or is_module) or source in NOT_CODE:
        return
    if source.endswith(".py"):
        check_path(key, source if "/" in source else f"./{source}", policy)
        return
    top = source.split(".", 1)[0]
    if top in ("oxrl_core", "oxrl") or top in policy.allow_code:
        return
    # Found without being imported, and only among the operator's own folders: not every installed package is meant.
    spec = importlib.machinery.PathFinder.find_spec(top, [str(root) for root in policy.roots])
    if spec is None or spec.origin is None or not is_inside(Path(spec.origin), policy):
        raise ConfigError(
            f"{name[:80]!r} is code that this server may not load",
            key,
            "put it into a file below the folder where the server was started, and name it as file.py:function; or the "
            "operator adds its package to OXRL_MCP_ALLOW_CODE",
        )
