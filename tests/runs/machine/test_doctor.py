"""What the doctor finds, and what it offers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from oxrl_core.errors import MachineError
from oxrl_core.runs.machine import doctor
from oxrl_core.runs.views import EnvironmentItem, EnvironmentReport


def item(items: list[EnvironmentItem], name: str) -> EnvironmentItem:
    return next(found for found in items if found.name == name)


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
