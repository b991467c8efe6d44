"""The installed packages against the tested matrix, and what installs well and breaks."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from oxrl_core.runs.machine import packages
from oxrl_core.runs.views import EnvironmentItem

REPOSITORY = Path(__file__).parents[3]


def install(folder: Path, name: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a package's metadata where Python finds it first."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


def item(items: list[EnvironmentItem], name: str) -> EnvironmentItem:
    return next(found for found in items if found.name == name)


def test_cuda_builds_beside_a_cpu_torch_are_found_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torch", "2.13.0+cpu", monkeypatch)
    install(tmp_path, "torchvision", "0.28.0", monkeypatch)
    found = item(packages.check_traps("cpu", 0), "CUDA builds beside CPU torch")
    assert not found.ok
    assert found.needed
    assert "torchvision 0.28.0" in found.value
    assert found.remedy[-1] == "torchvision"
    assert "uninstall" in found.remedy


def test_a_cpu_build_of_torchvision_is_no_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torchvision", "0.28.0+cpu", monkeypatch)
    assert item(packages.check_traps("cpu", 0), "CUDA builds beside CPU torch").ok


def test_a_package_outside_its_range_is_broken_and_the_pinned_one_is_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "transformers", "5.40.0", monkeypatch)
    found = item(packages.check_packages("cpu"), "transformers")
    assert not found.ok
    assert found.needed
    assert found.remedy[-2:] == ["--no-deps", "transformers==5.19.0"]
    install(tmp_path, "torch", "2.15.0", monkeypatch)
    torch = item(packages.check_packages("cpu"), "torch")
    assert not torch.ok
    assert torch.remedy == [], "the wrong build of torch is worse than none: a person decides"


def test_a_newer_version_inside_the_range_is_fine_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "ray", "2.99.0", monkeypatch)
    found = item(packages.check_packages("cpu"), "ray")
    assert found.ok
    assert found.value == "2.99.0 (tested: 2.60.0)"


def test_an_idle_gpu_behind_a_cpu_torch_is_said() -> None:
    if packages.installed_profile() == "cpu":
        found = item(packages.check_traps("cpu", 1), "torch build")
        assert not found.ok
        assert "OXRL_PROFILE=gpu" in found.fix


def test_the_light_core_alone_cannot_train() -> None:
    found = item(packages.check_packages("core"), "training stack")
    assert found.needed
    assert not found.ok


def test_the_tested_versions_lie_in_the_ranges_that_are_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def ranges(*lists: list[str]) -> dict[str, Requirement]:
        found = [Requirement(line) for entries in lists for line in entries]
        return {wanted.name.lower(): wanted for wanted in found}

    matrix = packages.tested_versions()
    asked = {
        "core": (matrix["core"], ranges(project["dependencies"])),
        **{
            profile: (matrix["profiles"][profile]["packages"], ranges(extras["train"], extras.get(profile, [])))
            for profile in ("train", "cpu", "gpu")
        },
    }
    for profile, (entries, wanted) in asked.items():
        for name, entry in entries.items():
            if name.lower() in wanted:
                requirement = wanted[name.lower()]
                assert requirement.specifier.contains(entry["tested"]), (profile, name)
                assert requirement.specifier.contains(entry["tested"]) == packages.accepts(
                    entry["accepts"], entry["tested"]
                )
    assert str(project["requires-python"]) == matrix["python"]
