"""What the doctor finds, what it offers, and that its deep checks are real."""

from __future__ import annotations

import re
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from oxrl_core.errors import MachineError
from oxrl_core.runs import doctor
from oxrl_core.runs.views import EnvironmentItem, EnvironmentReport

REPOSITORY = Path(__file__).parents[1]
SMI = """\
0, NVIDIA H200, 143771, 143009, 580.65.06, 9.0, GPU-aaaa1111
1, NVIDIA H200, 143771, 1024, 580.65.06, 9.0, GPU-bbbb2222
2, NVIDIA GB10, [N/A], [N/A], 580.65.06, 12.1, GPU-cccc3333
"""


def install(folder: Path, name: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a package's metadata where Python finds it first."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


def item(items: list[EnvironmentItem], name: str) -> EnvironmentItem:
    return next(found for found in items if found.name == name)


def test_gpus_are_read_from_the_drivers_answer() -> None:
    first, second, third = doctor.read_gpu_rows(SMI, None)
    assert (first.name, first.memory_gib, first.free_gib) == ("NVIDIA H200", 140.4, 139.7)
    assert second.compute_capability == "9.0"
    assert third.memory_gib == 0.0, "a GPU that shares the host's memory reports none of its own"


@pytest.mark.parametrize(
    ("visible", "expected"), [("1", [1]), ("GPU-aaaa1111", [0]), ("0,2", [0, 2]), ("", []), (None, [0, 1, 2])]
)
def test_hidden_gpus_are_not_there(visible: str | None, expected: list[int]) -> None:
    assert [gpu.index for gpu in doctor.read_gpu_rows(SMI, visible)] == expected


def test_this_environment_passes_and_every_problem_has_a_fix() -> None:
    report = doctor.check_environment()
    assert report.profile in ("cpu", "gpu", "train")
    assert report.ok, [found for found in report.items if found.needed and not found.ok]
    assert all(found.fix for found in report.items if not found.ok)
    assert not any(found.fix or found.remedy for found in report.items if found.ok)


def test_a_report_survives_json() -> None:
    report = doctor.check_environment()
    assert EnvironmentReport.model_validate_json(report.model_dump_json()) == report


def test_tokens_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret_of_mine")
    report = doctor.check_environment()
    assert item(report.items, "HF token").value == "set"
    assert item(report.items, "GitHub token").value == "set"
    assert "secret_of_mine" not in report.model_dump_json()


def test_cuda_builds_beside_a_cpu_torch_are_found_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torch", "2.13.0+cpu", monkeypatch)
    install(tmp_path, "torchvision", "0.28.0", monkeypatch)
    found = item(doctor.check_traps("cpu", []), "CUDA builds beside CPU torch")
    assert not found.ok
    assert found.needed
    assert "torchvision 0.28.0" in found.value
    assert found.remedy[-1] == "torchvision"
    assert "uninstall" in found.remedy


def test_a_cpu_build_of_torchvision_is_no_trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "torchvision", "0.28.0+cpu", monkeypatch)
    assert item(doctor.check_traps("cpu", []), "CUDA builds beside CPU torch").ok


def test_a_package_outside_its_range_is_broken_and_the_pinned_one_is_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "transformers", "5.40.0", monkeypatch)
    found = item(doctor.check_packages("cpu"), "transformers")
    assert not found.ok
    assert found.needed
    assert found.remedy[-2:] == ["--no-deps", "transformers==5.19.0"]
    install(tmp_path, "torch", "2.15.0", monkeypatch)
    torch = item(doctor.check_packages("cpu"), "torch")
    assert not torch.ok
    assert torch.remedy == [], "the wrong build of torch is worse than none: a person decides"


def test_a_newer_version_inside_the_range_is_fine_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "ray", "2.99.0", monkeypatch)
    found = item(doctor.check_packages("cpu"), "ray")
    assert found.ok
    assert found.value == "2.99.0 (tested: 2.60.0)"


def test_an_idle_gpu_behind_a_cpu_torch_is_said() -> None:
    gpu = doctor.read_gpu_rows(SMI, "0")
    if doctor.installed_profile() == "cpu":
        found = item(doctor.check_traps("cpu", gpu), "torch build")
        assert not found.ok
        assert "OXRL_PROFILE=gpu" in found.fix


def test_the_light_core_alone_cannot_train() -> None:
    found = item(doctor.check_packages("core"), "training stack")
    assert found.needed
    assert not found.ok


def test_a_home_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("OXRL_HOME", str(file))
    found = item(doctor.check_access(), "home")
    assert found.needed
    assert not found.ok
    assert "OXRL_HOME" in found.fix


def test_packages_are_changed_only_inside_a_virtual_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    broken = EnvironmentItem(name="x", ok=False, needed=True, value="", fix="f", remedy=["uv", "pip", "install", "x"])
    with pytest.raises(MachineError, match="virtual environment"):
        doctor.apply_remedy(broken)


def test_a_remedy_that_fails_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = EnvironmentItem(
        name="home", ok=False, value="", fix="f", remedy=["mkdir", "-p", str(tmp_path / "file" / "x")]
    )
    with pytest.raises(MachineError, match=re.escape(str(tmp_path))):
        doctor.apply_remedy(broken)


def test_the_tested_versions_lie_in_the_ranges_that_are_installed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def ranges(*lists: list[str]) -> dict[str, Requirement]:
        found = [Requirement(line) for entries in lists for line in entries]
        return {wanted.name.lower(): wanted for wanted in found}

    matrix = doctor.tested_versions()
    asked = {
        "core": (matrix["core"], ranges(project["dependencies"])),
        **{
            profile: (matrix["profiles"][profile]["packages"], ranges(extras["train"], extras.get(profile, [])))
            for profile in ("train", "cpu", "gpu")
        },
    }
    for profile, (packages, wanted) in asked.items():
        for name, entry in packages.items():
            if name.lower() in wanted:
                requirement = wanted[name.lower()]
                assert requirement.specifier.contains(entry["tested"]), (profile, name)
                assert requirement.specifier.contains(entry["tested"]) == doctor.accepts(
                    entry["accepts"], entry["tested"]
                )
    assert str(project["requires-python"]) == matrix["python"]


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["ray", "deepspeed", "vllm"])
def test_a_deep_check_is_a_real_step(engine: str) -> None:
    if engine == "vllm" and doctor.installed_profile() not in ("cpu", "gpu"):
        assert doctor.installed_version("vllm") is None
        return
    found = doctor.run_deep_check(engine, doctor.DEEP_DEADLINE_SECONDS[engine])
    assert found.ok, found.value
    assert engine in found.value


def test_a_deep_check_that_hangs_is_ended_with_all_its_processes() -> None:
    started = time.monotonic()
    found = doctor.run_deep_check("ray", 2.0)
    assert time.monotonic() - started < 20
    assert not found.ok
    assert "no answer within 2 s" in found.value
    assert found.fix
    assert not [
        child for child in psutil.Process().children(recursive=True) if "deep_check" in " ".join(child.cmdline())
    ]


def test_a_deep_check_of_nothing_known_is_refused() -> None:
    found = doctor.run_deep_check("nothing", 60.0)
    assert not found.ok
    assert "usage" in found.value
