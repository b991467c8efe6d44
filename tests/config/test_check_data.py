"""What each kind of training needs in its rows, found before a run starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.check import check_config
from oxrl_core.config.load import load_config
from oxrl_core.config.machine import Machine
from oxrl_core.config.requirements import Requirements

MINIMAL = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
ROOMY = Machine(cpus=4, memory_gib=64, free_memory_gib=60, free_disk_gib=500)
PAIR = {"prompt": "1>", "chosen": "1", "rejected": "2"}
LABELED = {"prompt": "1>", "completion": "1", "label": True}


def check(algorithm: str, *overrides: str) -> Requirements:
    short = [f"algorithm.name={algorithm}", "data.max_length=60", "rollout.max_completion_tokens=4", *overrides]
    return check_config(load_config(MINIMAL, short).config, home=Path("/nowhere"), machine=ROOMY)


def found(needs: Requirements, severity: str) -> str:
    data = [p for p in needs.problems if p.severity == severity and p.where.startswith("data")]
    return "\n".join(f"{p.where}: {p.what} | {p.next}" for p in data)


@pytest.fixture
def rows(tmp_path: Path):
    def write(*content: dict[str, Any]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return f"data.train={path}"

    return write


@pytest.mark.parametrize(
    ("algorithm", "dataset"),
    [
        ("sft", "reverse3"),
        ("dpo", "reverse3-pairs"),
        ("simpo", "reverse3-pairs"),
        ("rm", "reverse3-pairs"),
        ("kto", "reverse3-labeled"),
        ("cpt", "digits-text"),
        ("cpt", "reverse3"),
        ("spin", "reverse3"),
    ],
)
def test_the_built_in_data_of_each_kind_has_what_is_needed(algorithm: str, dataset: str) -> None:
    needs = check(algorithm, f"data.train={dataset}", f"data.eval={{name: {dataset}, split: eval}}")
    assert found(needs, "error") == found(needs, "warning") == ""


@pytest.mark.parametrize(
    ("algorithm", "dataset", "what"),
    [
        ("dpo", "reverse3", "180 of 180 rows have no chosen completion to learn from, first reverse3/train/0"),
        ("dpo", "reverse3", "180 of 180 rows have no rejected completion to learn from"),
        ("rm", "reverse3", "name its column in chosen_column"),
        ("kto", "reverse3", "180 of 180 rows have no label to learn from"),
        ("sft", "reverse3-pairs", "180 of 180 rows have no completion to learn from"),
        ("spin", "reverse3-pairs", "180 of 180 rows have no completion to learn from"),
        ("sft", "digits-text", "180 of 180 rows have no prompt"),
        ("dpo", "digits-text", "180 of 180 rows have no prompt"),
        ("cpt", "reverse3-pairs", "180 of 180 rows have no text to learn from"),
    ],
)
def test_data_of_another_kind_is_refused(algorithm: str, dataset: str, what: str) -> None:
    assert what in found(check(algorithm, f"data.train={dataset}"), "error")


def test_some_pairs_that_do_not_differ_are_dropped_and_all_are_an_error(rows: Any) -> None:
    same = {**PAIR, "rejected": PAIR["chosen"]}
    some = check("dpo", rows(PAIR, same, PAIR))
    assert found(some, "error") == ""
    text = "in 1 of 3 rows the chosen completion is the rejected one, first rows.jsonl/train/1; they are dropped"
    assert text.removeprefix("in ").split(", first")[0] in found(some, "warning")
    assert "/train/1; they are dropped" in found(some, "warning")
    assert "in 1 of 3 rows" in found(check("dpo", rows(PAIR, same, PAIR), "data.overlong=error"), "error")
    assert "in 2 of 2 rows" in found(check("dpo", rows(same, same)), "error")


def test_labels_of_one_kind_only_are_reported(rows: Any) -> None:
    one = check("kto", rows(LABELED, LABELED))
    assert found(one, "error") == ""
    assert "all completions are desirable" in found(one, "warning")
    no = {**LABELED, "label": 0}
    assert "all completions are undesirable" in found(check("kto", rows(no, no)), "warning")
    assert found(check("kto", rows(LABELED, no)), "warning") == ""


def test_a_reward_that_compares_needs_answers_and_learning_without_a_reward_does_not(rows: Any) -> None:
    data = rows({"prompt": "1>", "completion": "1"})
    text = "no row has a reference answer for the reward 'exact' to compare with"
    assert text in found(check("sgrpo", data, "reward.name=exact"), "error")
    assert found(check("spin", data), "error") == ""


def test_texts_are_cut_to_the_windows_that_the_model_can_read(rows: Any) -> None:
    data = rows({"text": "1" * 500})
    assert found(check("cpt", data), "error") == found(check("cpt", data), "warning") == ""
    text = found(check("cpt", data, "data.max_length=100"), "error")
    assert "a text of 100 tokens do not fit into the model, which reads 64 tokens" in text


def test_the_longer_completion_of_a_pair_decides_whether_it_fits(rows: Any) -> None:
    needs = check("dpo", rows(PAIR, {**PAIR, "rejected": "2" * 80}))
    assert "1 of 2 pairs have more than data.max_length = 60 tokens" in found(needs, "warning")


def test_what_self_play_learns_from_must_fit_with_its_prompt(rows: Any) -> None:
    needs = check("spin", rows({"prompt": "1>", "completion": "1"}, {"prompt": "1>", "completion": "1" * 80}))
    assert "1 of 2 examples have more than data.max_length = 60 tokens" in found(needs, "warning")


def test_held_out_texts_that_are_training_texts_are_reported() -> None:
    needs = check("cpt", "data.train=digits-text", "data.eval=digits-text")
    assert "180 of 180 held-out texts are also training texts" in found(needs, "warning")
