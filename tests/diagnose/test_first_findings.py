"""Which of several true findings comes first: the root before what follows from it. Hand-made records, and twins."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]


def findings(run: RunDir) -> list[Finding]:
    return diagnose(run).findings


def first(run: RunDir) -> str:
    return next((finding.cause for finding in findings(run) if finding.severity != "info"), "")


def test_a_policy_that_has_found_the_reward_may_say_it_in_many_ways(hand_made: Make, rl_rows: Rows) -> None:
    rising = {"entropy": lambda step: 0.3 + 0.03 * step}
    lost = rl_rows(reward__mean=lambda step: 0.2 + 0.01 * (step % 2), **rising)
    assert first(hand_made(overrides=["algorithm.entropy_coef=0.2"], metrics=lost)) == "entropy_high"
    full = rl_rows(reward__mean=lambda step: 0.97 + 0.01 * (step % 2), **rising)
    assert "entropy_high" not in {one.cause for one in findings(hand_made(metrics=full))}
    tiny = rl_rows(reward__mean=0.3, entropy=lambda step: 0.01 + 0.001 * step)
    assert "entropy_high" not in {one.cause for one in findings(hand_made(metrics=tiny))}


@pytest.mark.parametrize(("coefficient", "confidence"), [(1.0, 0.93), (0.02, 0.75)])
def test_a_kl_that_grows_although_it_costs(
    coefficient: float, confidence: float, hand_made: Make, rl_rows: Rows
) -> None:
    rows = rl_rows(
        kl__ref=lambda step: 0.2 * step,
        reward__mean=lambda step: max(0.1, 0.9 - 0.05 * step),
        entropy=lambda step: max(0.01, 1.0 - 0.05 * step),
    )
    seen = findings(hand_made(overrides=[f"algorithm.kl_coef={coefficient}"], metrics=rows))
    found = {one.cause: one for one in seen} | dict.fromkeys(seen[0].explains, seen[0])
    assert "kl_high" in found
    assert (seen[0].cause == "kl_high") == (coefficient == 1.0)
    if coefficient == 1.0:
        assert seen[0].confidence >= confidence and "should hold it" in seen[0].summary


def test_a_light_part_that_is_given_up_for_a_heavy_one(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    def step_of(step: int) -> list[dict[str, Any]]:
        late = step > 15
        return [
            recorded(step, prompt, completion_text=str(prompt * 31 + step), completion_token_ids=[prompt, step],
                     score=0.5, score_parts=json.dumps({"truth": 0.1 * (prompt % 10 < (2 if late else 8)),
                                                        "style": float(prompt % 10 < (9 if late else 3))}))
            for prompt in range(20)
        ]  # fmt: skip

    rollouts = {step: step_of(step) for step in range(1, 31)}
    run = hand_made(metrics=rl_rows(), rollouts=rollouts)
    assert "part_hacking" in {one.cause for one in findings(run)}


def test_a_cold_temperature_comes_before_the_one_answer_that_it_leaves(
    hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = rl_rows(reward__mean=lambda step: 0.2 + 0.01 * (step % 2), groups__zero_variance=0.0)
    rollouts = {
        step: [recorded(step, prompt, completion_text="", score=0.2 + 0.5 * (prompt == 3)) for prompt in range(20)]
        for step in range(1, 31)
    }
    run = hand_made("dapo", overrides=["rollout.temperature=0.05"], metrics=rows, rollouts=rollouts)
    assert first(run) == "temperature_low"


@pytest.mark.parametrize(("threshold", "sure"), [(80, True), (0.3, False)])
def test_a_threshold_above_every_reward(
    threshold: float, sure: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = [
        {key: value for key, value in row.items() if key not in ("loss", "grad_norm", "lr", "num_tokens")}
        | {"skipped": 1.0, "selection/kept": 0.0}
        for row in rl_rows(reward__mean=0.2, reward__std=0.1)
    ]
    rollouts = {
        step: [
            recorded(step, prompt, completion_text=str(prompt * 31 + step), score=0.1 * (prompt % 5))
            for prompt in range(10)
        ]
        for step in range(1, 31)
    }
    settings = ["model.path=miniature:chars", f"selection.reward_threshold={threshold}"]
    seen = {one.cause: one for one in findings(hand_made("rft", overrides=settings, metrics=rows, rollouts=rollouts))}
    assert ("above every reward, 0.4 at most" in seen["nothing_to_learn"].summary) == sure


@pytest.mark.parametrize(("settings", "said"), [(["model.lora.rank=64"], True), ([], False)])
def test_adapters_that_are_described_and_not_made(settings: list[str], said: bool, hand_made: Make) -> None:
    rows = [{"step": step, "loss": 2.0 * 0.9**step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 31)]
    seen = {one.cause: one for one in findings(hand_made("sft", overrides=settings, metrics=rows))}
    assert ("config_idle" in seen) == said
    if said:
        assert "model.lora.rank" in seen["config_idle"].summary and seen["config_idle"].severity == "warning"


@pytest.mark.parametrize(("length", "said"), [(0, True), (2, False)])
def test_an_adapter_of_empty_tensors(length: int, said: bool, hand_made: Make) -> None:
    rows = [{"step": step, "loss": 2.0 * 0.9**step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 31)]
    run = hand_made("sft", overrides=["model.lora.enabled=true"], metrics=rows)
    folder = run.path / "final" / "adapter"
    folder.mkdir(parents=True)
    values = struct.pack(f"<{length}f", *range(1, length + 1))
    header = json.dumps({"lora_A": {"dtype": "F32", "shape": [length], "data_offsets": [0, len(values)]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + values)
    assert ("export_empty" in {one.cause for one in findings(run)}) == said


def test_answers_that_were_found_belong_to_their_prompts(
    tmp_path: Path, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    """Half of the training rows ask for something else than the held-out rows: no wrong join where it was learned."""
    words = random.Random(3)
    own = [f"{words.randrange(10**6):06d}" for _ in range(400)]
    train = [
        {"prompt": text, "answer": text[::-1] if at % 2 else f"{words.randrange(10**6):06d}"}
        for at, text in enumerate(own[:300])
    ]
    held = [{"prompt": text, "answer": text[::-1]} for text in own[300:]]
    for name, rows in (("train", train), ("held", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"data.train.0.name={tmp_path / 'train.jsonl'}", f"data.eval.0.name={tmp_path / 'held.jsonl'}",
                "data.eval.0.split=train"]  # fmt: skip

    def causes(level: float) -> set[str]:
        rollouts = {
            step: [recorded(step, prompt, completion_text=str(prompt * 7 + step), score=float(prompt % 20 < 20 * level))
                   for prompt in range(20)]
            for step in range(1, 31)
        }  # fmt: skip
        rows = rl_rows(reward__mean=lambda step: level + 0.001 * (step % 2))
        return {one.cause for one in findings(hand_made(overrides=settings, metrics=rows, rollouts=rollouts))}

    assert "contradictory_rows" in causes(0.4)
    assert "contradictory_rows" not in causes(0.95)


@pytest.mark.parametrize(("paid", "others", "said"), [(0.1, 0.8, True), (0.8, 0.3, False)])
def test_references_that_are_paid_worse_than_other_answers(
    paid: float, others: float, said: bool, tmp_path: Path, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = [{"prompt": f"{number}>", "answer": str(number)} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rollouts = {
        step: [
            recorded(step, prompt_id=f"{tmp_path.name}/rows.jsonl/train/{prompt}",
                     completion_text=str(prompt if prompt % 2 else prompt * 91 + step),
                     score=(paid if prompt % 2 else others) + 0.001 * step)
            for prompt in range(20)
        ]
        for step in range(1, 31)
    }  # fmt: skip
    run = hand_made(overrides=[f"data.train.0.name={tmp_path / 'rows.jsonl'}"], metrics=rl_rows(), rollouts=rollouts)
    assert ("verifier_rejects_references" in {one.cause for one in findings(run)}) == said


@pytest.mark.parametrize(("level", "said"), [(1e-4, True), (2.0, False)])
def test_a_loss_that_begins_where_others_end(level: float, said: bool, hand_made: Make) -> None:
    rows = [{"step": step, "loss": level * 0.95**step, "lr": 1e-4, "grad_norm": 0.1} for step in range(1, 31)]
    seen = {one.cause: one for one in findings(hand_made("sft", metrics=rows))}
    assert ("loss_flat" in seen and "never above" in seen["loss_flat"].summary) == said


@pytest.mark.parametrize(("held", "said"), [(2.2, True), (0.4, False)])
def test_rows_that_are_known_and_held_out_ones_that_are_not(held: float, said: bool, hand_made: Make) -> None:
    rows: list[dict[str, Any]] = [{"step": 0, "eval/loss": 2.9}]
    rows += [{"step": step, "loss": 2.9 * 0.85**step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 41)]
    for row in rows[10::10]:
        row["eval/loss"] = held
    seen = {one.cause: one for one in findings(hand_made("sft", metrics=rows))}
    assert ("overfitting" in seen) == said


@pytest.mark.parametrize(
    ("answers", "said"),
    [(["451", "154"], True), (["4 5 1 and so on", "here is another good way"], False), (["451", "451"], False)],
)
def test_short_answers_that_differ_are_a_contradiction(
    answers: list[str], said: bool, tmp_path: Path, hand_made: Make
) -> None:
    rows = [
        {"prompt": f"{number}>", "completion": f"{text}{number}"}
        for number in range(60)
        for text in dict.fromkeys(answers)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"step": step, "loss": 2.0 * 0.98**step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 31)]
    file = tmp_path / "rows.jsonl"
    settings = [f"data.train.0.name={file}", f"data.eval.0.name={file}", "data.eval.0.split=train"]
    run = hand_made("sft", overrides=settings, metrics=metrics)
    assert ("contradictory_rows" in {one.cause for one in findings(run)}) == said


@pytest.mark.parametrize(("sync", "said"), [(0.5, True), (0.06, False)])
def test_one_part_that_has_become_the_half_of_a_step(sync: float, said: bool, hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(
        seconds=lambda step: 0.4 + (sync if step > 15 else 0.05),
        time__generate=0.1, time__train=0.25, time__sync=lambda step: sync if step > 15 else 0.05,
    )  # fmt: skip
    seen = {one.cause: one for one in findings(hand_made(metrics=rows))}
    assert ("slow_step" in seen and "time/sync" in seen["slow_step"].summary) == said
