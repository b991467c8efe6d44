"""Bad input: one screen, no traceback, the right exit code, and a way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from oxrl_core.cli.command import with_one_screen_errors
from oxrl_core.cli.render import Output

Call = Callable[..., tuple[int, str, str]]
Spawn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian demo", "Did you mean 'train'?"),
        ("run lsit", "Did you mean 'list'?"),
        ("run list --formt json", "--format"),
        ("run list --format jsn", "json"),
        ("run show nowhere", "next:"),
        ("run metrics nowhere", "next:"),
        ("run stop nowhere", "next:"),
        ("run watch nowhere", "next:"),
        ("train nowhere.yaml", "nowhere.yaml"),
        ("config validate nowhere.yaml", "nowhere.yaml"),
        ("config explain nowhere", "next:"),
        ("config schema trian.lr", "Did you mean 'train.lr'?"),
        ("agent-docs eror", "Did you mean 'errors'?"),
        ("examples show dem", "next:"),
        ("mcp config --client claud", "Did you mean 'claude'?"),
        ("run logs --lines 0", "--lines"),
        ("train", "CONFIG"),
    ],
)
def test_bad_input_is_answered_in_one_screen(oxrl: Call, line: str, said: str) -> None:
    code, out, error = oxrl(*line.split())
    assert code == 2
    assert said.lower() in (out + error).lower()
    assert "Traceback" not in error
    assert len((out + error).splitlines()) < 24


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lrr=1", "Did you mean 'train.lr'?"),
        ("train.lr=fast", "train.lr"),
        ("algorithm.name=sgrop", "Did you mean 'sgrpo'?"),
        ("rollout.group_size=1", "group_size"),
        ("data.train=nowhere.jsonl", "nowhere.jsonl"),
        ("model.path=nowhere/at/all", "nowhere/at/all"),
        ("nonsense", "key=value"),
    ],
)
def test_a_bad_value_stops_a_launch_before_anything_is_created(
    oxrl: Call, home: Path, config_file: Path, override: str, said: str
) -> None:
    code, out, error = oxrl("run", "launch", str(config_file), override)
    assert code == 2
    assert said in out + error
    assert "next:" in error
    assert "Traceback" not in error
    assert not list((home / "runs").glob("*-*")) if home.exists() else True


def test_errors_are_json_on_standard_error_where_json_is_asked_for(oxrl: Call) -> None:
    code, out, error = oxrl("run", "show", "nowhere", "--json")
    assert code == 2
    assert out == ""
    assert set(json.loads(error)["error"]) == {"code", "what", "where", "next"}
    assert json.loads(error)["error"]["code"] == "NotFoundError"


def test_the_traceback_is_there_for_those_who_ask(oxrl: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in oxrl("run", "show", "nowhere")[2]
    monkeypatch.setenv("OXRL_DEBUG", "1")
    code, _, error = oxrl("run", "show", "nowhere")
    assert code == 2
    assert "Traceback" in error


def test_a_defect_of_ours_is_one_screen_too(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with pytest.raises(typer.Exit) as leaving:
        with_one_screen_errors(Output(), lambda: print(1 // 0))
    assert leaving.value.exit_code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: test_cli_errors.py:")
    assert "ZeroDivisionError" in said[0]
    assert "OXRL_DEBUG=1" in said[1]
    assert len(said) == 2


def test_a_reader_that_leaves_is_no_error(spawn: Spawn) -> None:
    program = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'oxrl', 'config', 'schema'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE); p.stdout.close(); e = p.stderr.read().decode();"
        " print(p.wait(), repr(e))"
    )
    assert spawn("-c", program).stdout.strip() == "0 ''"


def test_head_gets_its_line(spawn: Spawn, run_id: str) -> None:
    done = subprocess.run(
        ["bash", "-c", "set -o pipefail; oxrl algorithms | head -n 1"],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_a_terminal_that_knows_few_letters_is_no_error(spawn: Spawn, run_id: str) -> None:
    for encoding in ("ascii", "latin-1"):
        done = spawn("-m", "oxrl", "run", "metrics", "--format", "human", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
        assert done.returncode == 0, done.stderr
        assert "reward/mean" in done.stdout
