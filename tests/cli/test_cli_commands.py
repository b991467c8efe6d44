"""Every command, in every rendering, on an empty home and with a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oxrl_core.algorithms.base import get_algorithm

Call = Callable[..., tuple[int, str, str]]
FORMATS = ("auto", "human", "agent", "json", "quiet")
ON_AN_EMPTY_HOME = (
    "run list",
    "algorithms",
    "rewards",
    "datasets",
    "examples",
    "examples list",
    "config schema",
    "config schema train.lr",
    "agent-docs",
    "agent-docs errors",
    "doctor",
    "mcp config",
    "mcp config --client gemini",
)
WITH_A_RUN = ("run list", "run show", "run show hello", "run metrics", "run metrics latest reward/mean", "run logs")


def check_rendering(rendering: str, code: int, out: str) -> None:
    assert code == 0
    assert "\x1b" not in out, "no colours outside a terminal"
    if rendering == "json":
        json.loads(out)
    if rendering == "human":
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("rendering", FORMATS)
@pytest.mark.parametrize("line", ON_AN_EMPTY_HOME)
def test_every_reading_command_on_an_empty_home(oxrl: Call, home: Path, line: str, rendering: str) -> None:
    home.mkdir()
    code, out, _ = oxrl(*line.split(), "--format", rendering)
    if line.startswith("mcp"):
        rendering = "json"  # it is made to go into a file
    if line.startswith("agent-docs") and rendering == "human":
        rendering = "auto"  # prose wraps in the terminal itself
    check_rendering(rendering, code, out)


@pytest.mark.parametrize("rendering", FORMATS)
@pytest.mark.parametrize("line", WITH_A_RUN)
def test_every_reading_command_with_a_run(oxrl: Call, run_id: str, line: str, rendering: str) -> None:
    code, out, _ = oxrl(*line.split(), "--format", rendering)
    check_rendering(rendering, code, out)
    assert out.strip()


def test_json_is_the_object_of_the_operations(oxrl: Call, run_id: str) -> None:
    from oxrl_core import api
    from oxrl_core.runs.views import RunView

    shown = RunView.model_validate_json(oxrl("run", "show", run_id, "--json")[1])
    expected = api.get_run(run_id)
    volatile = {"elapsed_seconds": None, "eta_seconds": None}
    assert shown.model_copy(update=volatile) == expected.model_copy(update=volatile)


def test_a_pipe_gets_dense_text_with_the_next_command(oxrl: Call, run_id: str) -> None:
    code, out, _ = oxrl("run", "show")
    assert code == 0
    assert f"run_id={run_id}" in out
    assert "reward/mean=0.25" in out
    assert f"next: oxrl run watch {run_id}" in out
    assert "9 of 10 groups [all of them] teach nothing" in out


def test_brackets_in_messages_are_no_markup_for_people(oxrl: Call, run_id: str) -> None:
    assert "[all of them]" in oxrl("run", "show", "--format", "human")[1].replace("\n", " ")


def test_quiet_lists_identifiers_alone(oxrl: Call, run_id: str) -> None:
    assert oxrl("run", "list", "--format", "quiet")[1] == f"{run_id}\n"


def test_an_agent_in_the_environment_gets_dense_text(oxrl: Call, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from oxrl_core.cli.render import Format, resolve_format

    monkeypatch.setattr("oxrl_core.cli.render.is_terminal", lambda: True)
    assert resolve_format(Format.auto, {}) is Format.human
    for name in ("CLAUDECODE", "GEMINI_CLI", "CODEX_SANDBOX", "AI_AGENT"):
        assert resolve_format(Format.auto, {name: "1"}) is Format.agent
    assert resolve_format(Format.json, {"CLAUDECODE": "1"}) is Format.json


def test_logs_are_plain_lines_without_control_characters(oxrl: Call, run_id: str) -> None:
    assert oxrl("run", "logs", "-n", "2")[1] == "step 1 red\nlast line\n"
    assert oxrl("run", "logs", "--grep", "first", "--format", "human")[1] == "first line\n"


def test_metrics_are_a_table_of_the_asked_columns(oxrl: Call, run_id: str) -> None:
    assert oxrl("run", "metrics", "latest", "reward/mean")[1].splitlines()[-3:] == [
        "step|reward/mean", "1|0.125", "2|0.25",
    ]  # fmt: skip


def test_explain_says_which_layer_set_a_value(oxrl: Call, config_file: Path) -> None:
    code, out, _ = oxrl("config", "explain", str(config_file), "train.lr=2e-3", "--changed")
    assert code == 0
    assert "train.lr|0.002|override" in out
    assert "train.steps|3|file hello.yaml" in out
    assert "train.seed" not in out


def test_explain_and_schema_agree_about_the_keys(oxrl: Call, config_file: Path) -> None:
    explained = {row["key"] for row in json.loads(oxrl("config", "explain", str(config_file), "--json")[1])["rows"]}
    listed = set(oxrl("config", "schema", "--format", "quiet")[1].split())
    of_loss = {f"algorithm.{name}" for name in get_algorithm("sgrpo").params}
    own = {key for key in explained if not key.startswith(("data.train.", "data.eval"))}
    assert own - of_loss <= listed and of_loss <= own


def test_schema_as_json_is_a_json_schema(oxrl: Call) -> None:
    schema = json.loads(oxrl("config", "schema", "--json")[1])
    assert schema["type"] == "object"
    assert set(schema["required"]) == {"run", "model", "data"}


def test_validate_says_yes_and_what_the_run_takes(oxrl: Call, config_file: Path) -> None:
    for rendering in FORMATS:
        code, out, _ = oxrl("config", "validate", str(config_file), "--format", rendering)
        check_rendering(rendering, code, out)
    assert "steps=3" in oxrl("config", "validate", str(config_file))[1]


def test_a_dry_run_plans_and_creates_nothing(oxrl: Call, config_file: Path, home: Path) -> None:
    for rendering in FORMATS:
        code, out, _ = oxrl("run", "launch", str(config_file), "--dry-run", "--format", rendering)
        check_rendering(rendering, code, out)
    assert json.loads(oxrl("train", str(config_file), "--dry-run", "--json")[1])["plan"]["ok"] is True
    assert not (home / "runs").exists()


def test_recipes_can_be_shown_and_copied(oxrl: Call, tmp_path: Path) -> None:
    name = oxrl("examples", "--format", "quiet")[1].split()[0]
    text = oxrl("examples", "show", name)[1]
    assert "model:" in text
    code, out, _ = oxrl("examples", "copy", name, str(tmp_path))
    assert code == 0
    assert Path(out.strip()) == tmp_path / f"{name}.yaml"
    assert (tmp_path / f"{name}.yaml").read_text() == text
    code, _, error = oxrl("examples", "copy", name, str(tmp_path))
    assert code == 2
    assert "--force" in error
    assert oxrl("examples", "copy", name, str(tmp_path), "--force")[0] == 0


def test_the_list_of_recipes_is_short_and_says_how_to_see_the_others(oxrl: Call) -> None:
    short = json.loads(oxrl("examples", "--json")[1])
    whole = json.loads(oxrl("examples", "--all", "--json")[1])
    names, others = ({entry["name"] for entry in listed["entries"]} for listed in (short, whole))
    assert names < others and "dpo" in names and "robust_dpo" in others - names
    assert f"{len(others) - len(names)} more: oxrl examples --all" in short["next"]
    assert "--all" not in whole["next"]
    assert json.loads(oxrl("examples", "list", "--all", "--json")[1]) == whole
    assert "robust_dpo" in oxrl("examples", "show", "robust_dpo")[1]


def test_agent_docs_name_every_topic_and_only_commands_that_exist(oxrl: Call) -> None:
    import re

    from oxrl_core.cli.catalogues import topic_names

    overview = oxrl("agent-docs")[1]
    for topic in topic_names()[1:]:
        assert f"`oxrl agent-docs {topic}`" in overview
    agents = (Path(__file__).parents[2] / "AGENTS.md").read_text(encoding="utf-8")
    assert len(agents.split()) < 600
    texts = agents + "".join(oxrl("agent-docs", topic)[1] for topic in topic_names())
    commands = set(re.findall(r"`oxrl ((?:run|config|examples|mcp) [a-z]+|[a-z-]+)", texts))
    assert {"run launch", "run watch", "doctor", "config validate"} <= commands
    for name in commands:
        code, out, _ = oxrl(*name.split(), "--help")
        assert code == 0, name
        assert "Usage:" in out


def test_the_doctor_makes_a_missing_home_and_says_so(oxrl: Call, home: Path) -> None:
    assert not home.exists()
    _, _, said = oxrl("doctor", "--fix")
    assert f"mkdir -p {home}" in said
    assert home.is_dir()


def test_stopping_a_run_that_has_no_process_leaves_it_ended(oxrl: Call, idle_run_id: str) -> None:
    code, out, _ = oxrl("run", "stop", idle_run_id, "--reason", "enough")
    assert code == 0
    assert "state=stopped" in out
    assert "enough" in out
