"""Rows whose texts do not belong together, and values that fit no course: hand-made files and records, and twins."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def overlay(finding: Finding) -> dict[str, Any]:
    return {change.path: change.new for change in finding.overlay}


def learned(steps: int = 40, **others: Any) -> list[dict[str, Any]]:
    """Rows of a supervised run whose loss halves; a keyword is a metric: a value, or a function of the step."""
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "loss": 2.0 * 0.97**step, "lr": 1e-3, "grad_norm": 1.0}
        row |= {name.replace("__", "/"): value(step) if callable(value) else value for name, value in others.items()}
        rows.append(row)
    return rows


def files(folder: Path, train: list[dict[str, Any]], held: list[dict[str, Any]]) -> list[str]:
    """Overrides that name two files with these rows."""
    for name, rows in (("train", train), ("held", held)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.train.0.name={folder / 'train.jsonl'}", f"data.eval.0.name={folder / 'held.jsonl'}",
            "data.eval.0.split=train"]  # fmt: skip


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions that name a thing, an answer that names it too, and one that names another thing."""
    words = random.Random(seed)
    things = [f"thing{words.randrange(10**6)} part{words.randrange(10**6)}" for _ in range(count)]
    return [
        {"prompt": f"what is {thing} for", "chosen": f"{thing} is for work", "rejected": f"{other} is for work"}
        for thing, other in zip(things, things[1:] + things[:1], strict=True)
    ]


def shuffled(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    moved = int(share * len(rows))
    return [
        row | {"chosen": rows[(at + 1) % moved]["chosen"]} if at < moved else row for at, row in enumerate(rows)
    ]  # fmt: skip


def swapped(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    return [
        row | {"chosen": row["rejected"], "rejected": row["chosen"]} if at < share * len(rows) else row
        for at, row in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("change", "share", "cause", "words"),
    [
        (shuffled, 1.0, "contradictory_rows", "about 100% of the rows"),
        (shuffled, 0.5, "contradictory_rows", "about 50% of the rows"),
        (swapped, 1.0, "learns_backwards", "swapped"),
        (swapped, 0.4, "contradictory_rows", "swapped"),
        (shuffled, 0.0, "", ""),
    ],
)
def test_answers_that_do_not_belong_to_their_prompts(
    change: Any, share: float, cause: str, words: str, hand_made: Make, tmp_path: Path
) -> None:
    overrides = files(tmp_path, change(pairs(200, 1), share) if share else pairs(200, 1), pairs(60, 2))
    seen = found(hand_made("dpo", overrides=overrides, metrics=learned()))
    assert next(iter(seen), "") == cause
    if cause:
        assert words in seen[cause].summary


def test_labels_that_call_the_wrong_ones_good(hand_made: Make, tmp_path: Path) -> None:
    def labeled(rows: list[dict[str, Any]], good: str) -> list[dict[str, Any]]:
        return [
            {"prompt": row["prompt"], "completion": row[kind], "label": kind == good}
            for row in rows
            for kind in ("chosen", "rejected")
        ]

    inverted = files(tmp_path, labeled(pairs(100, 1), "rejected"), labeled(pairs(60, 2), "chosen"))
    assert next(iter(found(hand_made("kto", overrides=inverted, metrics=learned())))) == "learns_backwards"
    right = files(tmp_path, labeled(pairs(100, 1), "chosen"), labeled(pairs(60, 2), "chosen"))
    assert found(hand_made("kto", overrides=right, metrics=learned())) == {}
    alone = [row | {"label": True} for row in labeled(pairs(100, 1), "chosen")]
    alike = files(tmp_path, alone, labeled(pairs(60, 2), "chosen"))
    (only,) = found(hand_made("kto", overrides=alike, metrics=learned())).values()
    assert only.cause == "contradictory_rows" and only.explains == ["loss_flat"]


def test_pairs_of_one_text_doubles_and_heavy_rows(hand_made: Make, tmp_path: Path) -> None:
    rows, held = pairs(100, 1), pairs(40, 2)

    def causes(train: list[dict[str, Any]]) -> dict[str, Finding]:
        return found(hand_made("dpo", overrides=files(tmp_path, train, held), metrics=learned()))

    same = causes([row | {"rejected": row["chosen"]} if at % 4 == 0 else row for at, row in enumerate(rows)])
    assert "25 of 100 pairs prefer a text to itself" in same["rows_lost"].summary
    assert "200 rows hold only 100 different ones" in causes(rows * 2)["duplicate_prompts"].summary
    assert "2 of 100 different rows make up" in causes(rows + rows[:2] * 30)["duplicate_prompts"].summary
    assert causes(rows) == {}


def test_supervised_rows_that_are_empty_or_repeat_their_prompts(hand_made: Make, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+{n}=", "completion": str(2 * n)} for n in range(100)]

    def causes(train: list[dict[str, Any]]) -> dict[str, Finding]:
        overrides = files(tmp_path, train, [{"prompt": "x", "completion": "y"}])
        return found(hand_made("sft", overrides=overrides, metrics=learned()))

    echoes = causes([row | {"completion": row["prompt"]} if at < 20 else row for at, row in enumerate(rows)])
    assert echoes["answer_is_prompt"].severity == "warning"
    empty = causes([row | {"completion": " "} if at < 10 else row for at, row in enumerate(rows)])
    assert "10 of 100 rows" in empty["rows_lost"].summary
    assert "constant_answer" in causes([row | {"completion": "I do not know"} for row in rows])
    assert causes(rows) == {}


@pytest.mark.parametrize(("rate", "loss", "said"), [(1e-6, 0.004, True), (1e-3, 0.004, False), (1e-6, 0.04, False)])
def test_a_loss_that_has_hardly_begun_to_fall(rate: float, loss: float, said: bool, hand_made: Make) -> None:
    rows = learned(loss=lambda step: 2.0 - loss * step, lr=rate)
    assert ("lr_too_low" in found(hand_made("sft", overrides=[f"train.lr={rate}"], metrics=rows))) is said


@pytest.mark.parametrize(("explained", "said"), [(0.0, True), (0.7, False)])
def test_a_critic_that_hardly_learns(explained: float, said: bool, hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(value__lr=1e-9, value__explained=explained)
    assert ("lr_too_low" in found(hand_made("ppo", metrics=rows))) is said


@pytest.mark.parametrize(("rate", "said"), [(0.5, "error"), (0.02, "warning"), (1e-3, "")])
def test_a_rate_at_which_nothing_is_learned(rate: float, said: str, hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(lr=rate, reward__mean=lambda step: 0.1 + 0.02 * (step % 3))
    seen = found(hand_made(overrides=[f"train.lr={rate}"], metrics=rows))
    assert (seen["lr_too_high"].severity if "lr_too_high" in seen else "") == said


@pytest.mark.parametrize(("eps", "severity"), [(1.0, "error"), (1e-8, "")])
def test_an_epsilon_above_every_gradient(eps: float, severity: str, hand_made: Make) -> None:
    run = hand_made("sft", overrides=[f"train.eps={eps}"], metrics=learned())
    header = {"a": {"dtype": "F32", "shape": [100, 100], "data_offsets": [0, 40000]}}
    text = json.dumps(header).encode()
    (run.path / "model").mkdir()
    (run.path / "model" / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(40000))
    seen = found(run)
    assert (seen["lr_too_low"].severity if "lr_too_low" in seen else "") == severity
    if severity:  # a weight's gradient is 1 / sqrt(10000), a hundredth of eps
        assert "0.01 of lr is left" in seen["lr_too_low"].summary.replace("0.0099", "0.01")


def test_lost_updates_ask_for_a_larger_rate_and_not_for_another_precision(hand_made: Make) -> None:
    rows = learned(update__lost=0.9, lr=1e-6)
    lost = found(hand_made("sft", overrides=["train.lr=1e-6"], metrics=rows))["lost_updates"]
    assert overlay(lost) == {"train.lr": 1e-3}


def test_values_that_stand_in_the_way(hand_made: Make, rl_rows: Rows) -> None:
    def flat(step: int) -> float:
        return 0.1 + 0.02 * (step % 3)

    clipped = found(hand_made(metrics=rl_rows(ratio__clipped=0.9, reward__mean=flat)))
    assert clipped["reward_flat"].severity == "error" and "clip range" in clipped["reward_flat"].summary
    assert found(hand_made(metrics=rl_rows(ratio__clipped=0.3))) == {}
    forgetful = ["algorithm.discount=0.1", "data.max_prompt_tokens=8"]
    late = found(hand_made("ppo", overrides=forgetful, metrics=rl_rows(reward__mean=flat, value__explained=0.5)))
    assert "reaches the first token" in late["reward_flat"].summary
    shrinking = learned(loss=lambda step: 2.0 - 0.01 * (step % 3), lr=1e-3)
    decayed = found(hand_made("sft", overrides=["train.weight_decay=300"], metrics=shrinking))["loss_flat"]
    assert decayed.severity == "error" and "weight decay 300" in decayed.summary


def test_margins_that_the_loss_does_not_hear(hand_made: Make) -> None:
    rows = learned(loss=0.5, preference__chosen=lambda step: 0.1 * step, preference__rejected=lambda step: -0.2 * step)
    assert (
        "does not hear" in found(hand_made("kto", overrides=["algorithm.beta=1e-5"], metrics=rows))["loss_flat"].summary
    )


@pytest.mark.parametrize(("held", "cause"), [(0.52, "overfitting"), (0.75, "")])
def test_pairs_that_are_learned_by_heart_and_say_nothing_of_others(held: float, cause: str, hand_made: Make) -> None:
    rows = learned(preference__accuracy=lambda step: 0.5 + 0.006 * step)
    for row in rows[9::10]:
        row["eval/preference/accuracy"] = held
    assert next(iter(found(hand_made("rm", metrics=rows))), "") == cause


def test_a_warning_that_explains_an_error_comes_first(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(reward__errors=0.1, reward__mean=lambda step: 0.9 - 0.02 * step)
    seen = found(hand_made(metrics=rows))
    assert list(seen) == ["verifier_errors"] and seen["verifier_errors"].severity == "error"
    assert "reward_falls" in seen["verifier_errors"].explains
