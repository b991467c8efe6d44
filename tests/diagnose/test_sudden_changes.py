"""What changes at once in the middle of a run, and what it leaves behind: hand-made records, and healthy twins."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.trends import jump, leap
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def losses(loss: Callable[[int], float], steps: int = 40, **others: Any) -> list[dict[str, Any]]:
    row = {"lr": 1e-3, "grad_norm": 1.0, **others}
    rows = [{"step": step, "loss": loss(step), **row} for step in range(1, steps + 1)]
    return [{**row, **({"eval/loss": row["loss"]} if row["step"] % 10 == 0 else {})} for row in rows]


def test_a_jump_is_neither_a_slope_nor_a_spike() -> None:
    stairs = [(step, (1.0 if step < 10 else 4.0) + 0.1 * (step % 3)) for step in range(20)]
    found_jump = jump(stairs)
    assert found_jump is not None and (found_jump.step, found_jump.before, found_jump.after) == (10, 1.1, 4.1)
    assert jump([(step, 0.3 * step) for step in range(20)]) is None
    spike = [(step, 9.0 if step == 10 else 0.1 * (step % 3)) for step in range(20)]
    assert jump(spike) is None and leap(spike) is None
    healing = [(step, 0.5 if step < 10 else 0.5 + 3.0 * 0.9 ** (step - 10)) for step in range(24)]
    assert leap(healing) is not None and leap([(step, 0.3 * step) for step in range(20)]) is None


def test_a_reward_that_leaps_while_the_policy_stays(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(reward__mean=lambda step: (0.1 if step < 15 else 0.9) + 0.01 * (step % 3))
    seen = found(hand_made(metrics=rows))
    assert next(iter(seen)) == "reward_inconsistent" and "step 15" in seen["reward_inconsistent"].summary
    # Where the policy leaps too, it is not the verifier.
    both = rl_rows(
        reward__mean=lambda step: (0.1 if step < 15 else 0.9) + 0.01 * (step % 3),
        entropy=lambda step: (2.5 if step < 15 else 0.9) + 0.01 * (step % 3),
    )
    assert "reward_inconsistent" not in found(hand_made(metrics=both))


@pytest.mark.parametrize(("value", "cause"), [(0.0, "reward_zero"), (1.0, "reward_full")])
def test_a_verifier_that_says_one_thing_from_some_step_on(
    value: float, cause: str, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = rl_rows(
        reward__mean=lambda step: 0.2 + 0.01 * (step % 3) if step < 16 else value,
        reward__std=lambda step: 0.2 if step < 16 else 0.0,
        groups__zero_variance=lambda step: 0.1 if step < 16 else 1.0,
    )
    rollouts = {
        step: [
            recorded(step, prompt, completion_text=str(prompt + step), completion_token_ids=[prompt + step, 1],
                     score=float(prompt % 2) * 0.4 if step < 16 else value)
            for prompt in range(20)
        ]
        for step in range(1, 31)
    }  # fmt: skip
    seen = found(hand_made(metrics=rows, rollouts=rollouts))
    assert next(iter(seen)) == cause and "since step 16" in seen[cause].summary


@pytest.mark.parametrize(("rate", "loss", "said"), [(0.06, 2.0, "error"), (0.06, 0.5, "warning"), (1.3e-3, 0.5, "")])
def test_a_learning_rate_that_leaps_in_mid_run(rate: float, loss: float, said: str, hand_made: Make) -> None:
    rows = losses(lambda step: 2.0 - 0.06 * step if step < 20 else loss + 0.02 * (step % 2))
    for row in rows:
        row["lr"] = 1e-3 if row["step"] < 20 else rate
    seen = found(hand_made("sft", overrides=["train.lr=0.06" if said else "train.lr=1e-3"], metrics=rows))
    assert (seen["lr_too_high"].severity if "lr_too_high" in seen else "") == said


def test_a_loss_that_is_lost_at_a_stroke(hand_made: Make) -> None:
    rows = losses(lambda step: 2.0 - 0.05 * step if step < 25 else 2.6 - 0.03 * (step - 25))
    seen = found(hand_made("sft", metrics=rows))
    assert next(iter(seen)) == "diverged" and "step 25" in seen["diverged"].summary
    assert "diverged" not in found(hand_made("sft", metrics=losses(lambda step: 2.0 - 0.04 * step + 0.05 * (step % 2))))


def test_a_mask_that_is_another_from_some_step_on(hand_made: Make) -> None:
    rows = losses(lambda step: 2.0 - 0.04 * step)
    for row in rows:
        row["mask/coverage"] = (0.3 if row["step"] < 18 else 0.9) + 0.01 * (row["step"] % 2)
    assert "step 18" in found(hand_made("sft", metrics=rows))["mask_coverage"].summary


def test_a_reward_that_was_there_and_went_away(hand_made: Make, rl_rows: Rows) -> None:
    rose_and_fell = rl_rows(reward__mean=lambda step: 0.1 + 0.05 * min(step, 14) - 0.05 * max(0, step - 14))
    assert found(hand_made(metrics=rose_and_fell))["reward_falls"].severity == "error"
    assert "reward_falls" not in found(hand_made(metrics=rl_rows()))


def test_verdicts_that_fail_now_and_then(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    def rollouts(failing: int) -> dict[int, list[dict[str, Any]]]:
        bad = {"score": None, "score_status": "error", "score_detail": "ValueError: could not parse"}
        return {step: [recorded(step, n, **(bad if n < failing else {})) for n in range(50)] for step in range(1, 31)}

    seen = found(hand_made(metrics=rl_rows(reward__errors=0.02), rollouts=rollouts(1)))
    assert seen["verifier_errors"].severity == "warning"
    assert "verifier_errors" not in found(hand_made(metrics=rl_rows(reward__errors=0.0), rollouts=rollouts(0)))


def test_steps_that_stand_twice(hand_made: Make) -> None:
    rows = losses(lambda step: 2.0 - 0.04 * step)
    seen = found(hand_made("sft", metrics=[*rows[:20], *rows[12:]]))
    assert "8 steps stand in metrics.jsonl more than once, from 13 to 20" in seen["resume_gap"].summary
    assert "resume_gap" not in found(hand_made("sft", metrics=rows))


@pytest.mark.parametrize(("grown", "times", "said"), [("time/reward", 4, True), ("all", 4, False), ("all", 8, True)])
def test_one_part_that_slows_a_step_down_or_all(
    grown: str, times: float, said: bool, hand_made: Make, rl_rows: Rows
) -> None:
    rows = rl_rows(seconds=lambda step: 1.0 if step < 20 else times)
    for row in rows:
        for part in ("time/generate", "time/reward", "time/train"):
            row[part] = 0.2 * times if row["step"] >= 20 and grown in ("all", part) else 0.2
    seen = found(hand_made(metrics=rows))
    assert ("slow_step" in seen) is said
    if said:
        assert ("above all time/reward" in seen["slow_step"].summary) is (grown != "all")


def safetensors(path: Path, tensors: dict[str, list[float]]) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        shape = [len(values) // 16, 16]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("after", "cause"),
    [
        ({"a": [0.2] * 512, "b": [-0.0] * 512}, "export_empty"),
        ({"a": [0.2] * 512, "b": [float("nan")] * 512}, "not_finite"),
        ({"a": [0.2] * 512}, "export_empty"),
        ({}, "export_empty"),
        ({"a": [0.2] * 512, "b": [0.3] * 512}, ""),
    ],
)
def test_an_exported_model_that_is_not_whole(after: dict[str, Any], cause: str, hand_made: Make) -> None:
    run = hand_made("sft", metrics=losses(lambda step: 2.0 - 0.04 * step))
    safetensors(run.path / "model" / "model.safetensors", {"a": [0.1] * 512, "b": [0.1] * 512})
    (run.path / "final").mkdir(exist_ok=True)
    (run.path / "final" / "config.json").write_text("{}")
    if after:
        safetensors(run.path / "final" / "model.safetensors", after)
    assert next(iter(found(run)), "") == cause


def test_files_of_a_checkpoint_that_are_gone_or_cut(hand_made: Make) -> None:
    run = hand_made("sft", metrics=losses(lambda step: 2.0 - 0.04 * step))
    folder = run.checkpoints / "step_00000040"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": {"a": {"size": 4}, "b": {"size": 2}}}))
    (folder / "a").write_text("1234")
    (folder / "b").write_text("12")
    assert found(run) == {}
    (folder / "b").write_text("1")
    assert "b has 1 of 2 bytes" in found(run)["bad_checkpoint"].summary
    (folder / "a").unlink()
    assert "a is missing" in found(run)["bad_checkpoint"].summary
