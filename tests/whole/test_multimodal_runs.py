"""SFT, DPO and SGRPO on a miniature of every family that sees or hears: the whole driver, three steps each.

All go through one process (in_process.py), one after the other.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oxrl_core.config.schema import ModelConfig
from oxrl_core.data.media import open_media
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.multimodal import tower_names
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

RUNNER = Path(__file__).parent / "in_process.py"
REWARD = f"{Path(__file__).parent / 'letters.py'}:letters"
SEES = ["qwen2-vl-2b-instruct", "qwen2.5-vl-3b-instruct", "qwen3-vl-2b-instruct", "qwen3.5-27b", "gemma-3-4b-it"]
MODELS = [*SEES, "smolvlm-instruct", "qwen2-audio-7b-instruct"]
RECIPES = ("sft", "dpo", "sgrpo")
# Runs that differ from the plain ones in one thing.
SPECIAL = {
    "lora": ("sgrpo", "qwen2.5-vl-3b-instruct", ["model.lora.enabled=true"]),
    "towers": ("sft", "qwen2.5-vl-3b-instruct", ["model.train_towers=true"]),
    "cached": ("dpo", "gemma-3-4b-it", ["algorithm.precompute_reference=true"]),
    "labeled": ("kto", "qwen3-vl-2b-instruct", []),
    "mixed": ("sft", "qwen2-vl-2b-instruct", []),
    "critic": ("ppo", "qwen2.5-vl-3b-instruct", ["rollout.stop_at_eos=false"]),
}

pytestmark = pytest.mark.engine


def job_of(recipe: str, slug: str, more: list[str], folder: Path) -> dict[str, Any]:
    data = "tones" if "audio" in slug else "shapes"
    data += "-pairs" if recipe == "dpo" else ""
    if recipe == "kto":
        data = str(folder / "labeled.jsonl")
    overrides = [f"model.path=miniature:{slug}", f"data.train={data}", "data.eval=[]", "train.steps=3"]
    overrides += ["data.max_length=256", "train.lr=1e-3"]
    overrides += ["data.packing=true"] if recipe == "sft" else []  # asked for, but the model cannot: a check sees it
    if recipe in ("sgrpo", "ppo"):
        overrides += ["data.max_prompt_tokens=128", "train.prompts_per_step=4", f"reward.name={REWARD}"]
        overrides += ["rollout.max_completion_tokens=6", "rollout.group_size=4"]
    else:
        overrides += ["train.rows_per_step=12", "train.micro_batch_tokens=400"]
    return {"recipe": recipe, "overrides": [*overrides, *more]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir | str]:
    """The run directory of each model and recipe ("<recipe> <model>") and of the special runs, or what ended it."""
    home = tmp_path_factory.mktemp("home")
    write_rows(home)
    jobs = {f"{recipe} {slug}": job_of(recipe, slug, [], home) for slug in MODELS for recipe in RECIPES}
    jobs |= {name: job_of(recipe, slug, more, home) for name, (recipe, slug, more) in SPECIAL.items()}
    jobs["mixed"]["overrides"][1] = f"data.train={home / 'mixed.jsonl'}"
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(home)],
        input=json.dumps(list(jobs.values())),
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(jobs), f"the runner ended with {done.returncode}:\n{done.stderr[-4000:]}"
    named = zip(jobs, answers, strict=True)
    return {name: answer.get("error") or RunDir(Path(answer["path"])) for name, answer in named}


def write_rows(folder: Path) -> None:
    """Rows with a label, and rows of which only some have a picture."""
    from oxrl_core.datasets.shapes import shapes

    rows = shapes("train", 0)[:24]
    labeled = [{**row, "label": index % 2 == 0} for index, row in enumerate(rows)]
    mixed = [row if index % 3 else {**row, "image": None} for index, row in enumerate(rows)]
    for name, lines in (("labeled", labeled), ("mixed", mixed)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))


def finished(runs: dict[str, RunDir | str], name: str) -> RunDir:
    run = runs[name]
    assert isinstance(run, RunDir), run
    rows = run.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    return run


@pytest.mark.parametrize("slug", MODELS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_three_steps_move_the_language_model_and_leave_the_towers(
    recipe: str, slug: str, runs: dict[str, RunDir | str]
) -> None:
    run = finished(runs, f"{recipe} {slug}")
    before, after = (load_policy(run.path / name, ModelConfig(path="x"), torch.float32) for name in ("model", "final"))
    towers = tuple(f"{name}." for name in tower_names(before))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if name.startswith(towers):
            assert torch.equal(old, new), name
        elif name.endswith("proj.weight"):
            assert not torch.equal(old, new), name
    assert open_media(run.path / "final", load_tokenizer(run.path / "final")) is not None


@pytest.mark.parametrize("slug", MODELS)
def test_the_likelihood_of_the_answers_rises(slug: str, runs: dict[str, RunDir | str]) -> None:
    losses = [row["loss"] for row in finished(runs, f"sft {slug}").metrics() if "loss" in row]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("slug", MODELS)
def test_sampler_and_trainer_say_the_same_of_the_drawn_tokens(slug: str, runs: dict[str, RunDir | str]) -> None:
    run = finished(runs, f"sgrpo {slug}")
    rows = run.metrics()[1:]
    assert max(row["gap/max"] for row in rows) < 1e-4
    assert max(row["sync/fingerprint"] for row in rows) < 1e-4
    assert max(row["grad_norm"] for row in rows) > 0 and max(row["reward/std"] for row in rows) > 0
    assert any(value != 0 for row in read_rollouts(run.path / "rollouts") for value in row["advantages"])


@pytest.mark.parametrize("slug", MODELS)
def test_preferences_are_learned_from_the_reference_on(slug: str, runs: dict[str, RunDir | str]) -> None:
    losses = [row["loss"] for row in finished(runs, f"dpo {slug}").metrics() if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[1] != losses[0]


def test_a_cached_reference_tells_pictures_apart_and_says_what_the_model_says(runs: dict[str, RunDir | str]) -> None:
    cached, plain = (finished(runs, name) for name in ("cached", "dpo gemma-3-4b-it"))
    sums = json.loads((cached.path / "reference.json").read_text())
    assert len({tuple(pair) for pair in sums.values()}) > 100
    for mine, theirs in zip(cached.metrics()[1:], plain.metrics()[1:], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


def test_adapters_change_the_language_model_alone(runs: dict[str, RunDir | str]) -> None:
    run = finished(runs, "lora")
    names = set(load_file(run.path / "final" / "adapter" / "adapter_model.safetensors"))
    assert names and all(".language_model." in name for name in names)


def test_towers_are_trained_where_that_is_asked_for(runs: dict[str, RunDir | str]) -> None:
    run = finished(runs, "towers")
    before, after = (load_file(run.path / name / "model.safetensors") for name in ("model", "final"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("visual.") for name in moved)


@pytest.mark.parametrize("name", ["labeled", "mixed", "critic"])
def test_labels_critics_and_rows_without_pictures_go_the_same_way(name: str, runs: dict[str, RunDir | str]) -> None:
    assert any("loss" in row for row in finished(runs, name).metrics())
