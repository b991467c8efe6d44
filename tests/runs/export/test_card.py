"""The card of a model says what it is, where it comes from and how it did, and nothing about the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from oxrl_core.config.load import load_config
from oxrl_core.runs.export.card import model_card
from oxrl_core.runs.rundir import RunDir


def card_of(tmp_path: Path, base: Path | None = None, model: str = "miniature:chars", **sections: object) -> str:
    data = tmp_path / "secret folder" / "rows.jsonl"
    data.parent.mkdir(exist_ok=True)
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    config = {"run": {"name": "tale"}, "model": {"path": model}, "data": {"train": str(data)}, **sections}
    run = RunDir.create(tmp_path, load_config(config), "sl")
    for step, loss in ((0, 3.5), (1, 2.0), (2, 1.25)):
        run.append_metrics({"step": step, "loss": loss})
    run.write_progress("exporting", 2, 2)
    return model_card(run, base)


def front_of(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_names_paper_metrics_and_versions_and_no_folder(tmp_path: Path) -> None:
    card = card_of(tmp_path, algorithm={"name": "dpo"})
    assert "arXiv:2305.18290" in card
    assert "| `loss` | 3.5 (step 0) | 1.25 (step 2) |" in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "rows.jsonl" in card
    assert "2 of 2" in card
    assert str(tmp_path) not in card
    assert "secret folder" not in card
    assert front_of(card)["tags"] == ["oxrl", "dpo"]


def test_the_licence_is_that_of_the_base_where_somebody_says_it(tmp_path: Path) -> None:
    assert "license" not in front_of(card_of(tmp_path, algorithm={"name": "sft"}))
    known = card_of(tmp_path, model="Qwen/Qwen2.5-0.5B-Instruct", algorithm={"name": "sft"})
    assert front_of(known)["license"] == "apache-2.0"
    assert front_of(known)["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n# Base\n")
    assert front_of(card_of(tmp_path, tmp_path, algorithm={"name": "sft"}))["license"] == "gemma"


@pytest.mark.parametrize("name", ["sft", "rm"])
def test_how_to_load_it_depends_on_what_it_is(tmp_path: Path, name: str) -> None:
    card = card_of(tmp_path, algorithm={"name": name})
    assert ("AutoModelForSequenceClassification" in card) == (name == "rm")
    assert ("vllm serve" in card) == (name == "sft")
