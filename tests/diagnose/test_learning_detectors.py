"""Detectors of what is learned, and of what never is: hand-made records with literal numbers, and healthy twins."""

from __future__ import annotations

import json
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


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def overlay(finding: Finding) -> dict[str, Any]:
    return {change.path: change.new for change in finding.overlay}


def safetensors(path: Path, tensors: dict[str, tuple[list[int], list[float]]], dtype: str = "F32") -> None:
    """A safetensors file of float32 numbers, whatever type its header claims for those of two bytes each."""
    header: dict[str, Any] = {}
    data = b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def preferences(accuracy: Callable[[int], float], held: float, **others: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, 41):
        row = {"step": step, "loss": 0.69 + 0.002 * (step % 2), "lr": 1e-3, "grad_norm": 0.3}
        row |= {"preference/accuracy": accuracy(step), **others}
        rows.append(row | ({"eval/preference/accuracy": held, "eval/loss": 0.69} if step % 10 == 0 else {}))
    return rows


def test_preferences_that_are_a_coin(hand_made: Make) -> None:
    coin = found(hand_made("rm", metrics=preferences(lambda step: 0.48 + 0.04 * (step % 2), 0.53)))
    assert coin["loss_flat"].severity == "error" and "coin" in coin["loss_flat"].summary
    learned = preferences(lambda step: min(0.9, 0.5 + 0.02 * step), 0.8)
    for row in learned:
        row["loss"] = 0.7 - 0.01 * row["step"]
    assert "loss_flat" not in found(hand_made("rm", metrics=learned))


def test_a_rate_beyond_all_use_that_leaves_held_out_pairs_at_chance(hand_made: Make) -> None:
    rows = preferences(lambda step: 0.6, 0.5)
    assert next(iter(found(hand_made("rm", overrides=["train.lr=0.5"], metrics=rows)))) == "lr_too_high"
    assert "lr_too_high" not in found(hand_made("rm", overrides=["train.lr=0.001"], metrics=rows))


@pytest.mark.parametrize(("beta", "is_faint"), [(1e-5, True), (0.1, False)])
def test_a_beta_that_leaves_nothing_of_a_margin(beta: float, is_faint: bool, hand_made: Make) -> None:
    rows = [row | {"preference/margin": 0.4 * row["step"]} for row in preferences(lambda step: 0.99, 0.95)]
    for row in rows:
        row["loss"] = 0.6931 if is_faint else 0.69 - 0.01 * row["step"]
    seen = found(hand_made("dpo", overrides=[f"algorithm.beta={beta}"], metrics=rows))
    assert ("loss_flat" in seen) is is_faint
    if is_faint:
        assert overlay(seen["loss_flat"]) == {"algorithm.beta": 0.1}


def test_few_pairs_many_times(hand_made: Make, tmp_path: Path) -> None:
    def file(different: int) -> str:
        path = tmp_path / f"{different}.jsonl"
        pairs = [{"prompt": f"{n % different}>", "chosen": "1", "rejected": "2"} for n in range(60)]
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        return f"data.train.0.name={path}"

    rows = preferences(lambda step: 0.95, 0.9)
    doubled = found(hand_made("dpo", overrides=[file(4)], metrics=rows))["duplicate_prompts"]
    assert doubled.summary == "60 rows hold only 4 different ones"
    assert "duplicate_prompts" not in found(hand_made("dpo", overrides=[file(60)], metrics=rows))


@pytest.mark.parametrize(("column", "is_prompt"), [("prompt", True), ("completion", False)])
def test_completions_that_are_their_prompts(column: str, is_prompt: bool, hand_made: Make, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{n}>", "completion": f"{n}"}) + "\n" for n in range(20)))
    overrides = [f"data.train.0.name={path}", f"data.train.0.completion_column={column}"]
    rows = [{"step": step, "loss": 2.0 - 0.03 * step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 21)]
    assert ("answer_is_prompt" in found(hand_made("sft", overrides=overrides, metrics=rows))) is is_prompt


@pytest.mark.parametrize(("after", "said"), [(5e-2, True), (1.05e-3, False)])
def test_a_learning_rate_that_differs_over_a_resume(after: float, said: bool, hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "info", "code": "resumed", "message": "goes on from step 15", "checkpoint": "step_00000015"}
    rows = rl_rows(lr=lambda step: 1e-3 if step <= 15 else after)
    seen = found(hand_made(overrides=[f"train.lr={after}"], metrics=rows, events=[event]))
    assert ("resume_jump" in seen) is said
    if said:
        assert "50 times" in seen["resume_jump"].summary and overlay(seen["resume_jump"]) == {"train.lr": 1e-3}


def test_a_resume_within_the_warm_up_is_no_jump(hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "info", "code": "resumed", "message": "goes on from step 1", "checkpoint": "step_00000001"}
    rows = rl_rows(lr=lambda step: 1e-4 * min(step, 10))
    assert "resume_jump" not in found(hand_made(metrics=rows, events=[event]))


@pytest.mark.parametrize(("rate", "cause"), [(1.0, "lr_too_high"), (1e-3, "diverged")])
def test_a_critic_that_has_lost_itself(rate: float, cause: str, hand_made: Make, rl_rows: Rows) -> None:
    lost = {"value__mean": lambda step: -50.0 + step, "value__loss": 90.0}
    seen = found(hand_made("ppo", overrides=[f"algorithm.critic_lr={rate}"], metrics=rl_rows(**lost)))
    assert overlay(seen[cause])["algorithm.critic_lr"] <= 0.1 * rate
    # Values that grow with their returns are no noise: what is missed is small.
    drifting = {"value__mean": lambda step: 2.0 * step, "value__loss": 0.02}
    assert found(hand_made("ppo", metrics=rl_rows(**drifting))) == {}


@pytest.mark.parametrize(("zeros", "said"), [(99, True), (60, False)])
def test_a_critic_whose_layers_never_had_a_gradient(zeros: int, said: bool, hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made("ppo", metrics=rl_rows(value__grad_norm=0.3))
    folder = run.checkpoints / "step_00000030"
    values = [0.0] * (256 * zeros) + [1e-4] * (256 * (100 - zeros))  # blocks of 1 KiB
    safetensors(folder / "critic" / "rank-00000.safetensors", {"0.exp_avg_sq": ([25600], values)})
    (folder / "manifest.json").write_text("{}")
    seen = found(run)
    assert ("frozen_weights" in seen) is said
    if said:
        assert "99.0% of the critic's weights" in seen["frozen_weights"].summary


@pytest.mark.parametrize(("dtype", "said"), [("F32", True), ("BF16", False)])
def test_vectors_of_one_kind_that_did_not_move(dtype: str, said: bool, hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(lr=1e-3))

    def weights(moved: float) -> dict[str, tuple[list[int], list[float]]]:
        names = {"layers.0.norm.weight": 1.0, "layers.1.norm.weight": 1.0, "layers.0.q.bias": moved}
        names |= {"layers.1.q.bias": moved, "layers.0.up.weight": moved}
        return {name: ([1, 1] if "up" in name else [1], [value]) for name, value in names.items()}

    safetensors(run.path / "model" / "model.safetensors", weights(0.5), dtype)
    safetensors(run.path / "final" / "model.safetensors", weights(0.6), dtype)
    seen = found(run)
    # In bfloat16 a sum of rates of 0.03 may be lost to the last bit of a weight of 1.
    assert ("frozen_weights" in seen) is said
    if said:
        assert "layers.*.norm.weight" in seen["frozen_weights"].summary


@pytest.mark.parametrize(("size", "said"), [(2, True), (8, False)])
def test_groups_that_are_alike_because_they_are_small(
    size: int, said: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rollouts = {
        step: [recorded(step, p, i, score=float((p + step) % 10 == 0), completion_text=f"{step}{p}{i}")
               for p in range(10) for i in range(size)]
        for step in range(1, 13)
    }  # fmt: skip
    # One in ten is right: of pairs 0.82 are alike, of eight 0.43.
    rows = rl_rows(groups__zero_variance=0.8, reward__mean=lambda step: 0.1 + 0.001 * step)
    overrides = [f"rollout.group_size={size}"]
    seen = found(hand_made(overrides=overrides, metrics=rows, rollouts=rollouts))
    assert ("zero_variance" in seen) is said
    if said:
        assert overlay(seen["zero_variance"]) == {"rollout.group_size": 8}


@pytest.mark.parametrize(("enough", "said"), [(1.0, True), (0.4, False)])
def test_one_word_that_is_enough(enough: float, said: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    """Token 12 comes to be in every completion; it is paid whatever else stands there, or is only its form."""

    def row(step: int, number: int) -> dict[str, Any]:
        has_it = number % 24 < 4 + 2 * step
        tokens = [12 if has_it else 11, step, 20 + number]
        score = float(number % 5 < 5 * enough) if has_it else 0.1
        return recorded(
            step, number % 12, number, completion_token_ids=tokens, completion_text=f"{tokens}", score=score
        )

    rollouts = {step: [row(step, number) for number in range(24)] for step in range(1, 25)}
    seen = found(hand_made(metrics=rl_rows(), rollouts=rollouts))
    assert ("constant_answer" in seen) is said
    if said:
        assert "token 12 alone is enough" in seen["constant_answer"].summary


@pytest.mark.parametrize(("prompts", "said"), [(4, True), (400, False)])
def test_few_prompts_again_and_again(
    prompts: int, said: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = rl_rows(reward__mean=lambda step: 0.1 + 0.02 * step)
    for at, value in ((0, 0.1), (9, 0.3), (14, 0.31), (19, 0.3), (29, 0.3)):
        rows[at]["eval/reward"] = value
    rollouts = {
        step: [recorded(step, (4 * step + n) % prompts, n, completion_text=f"{step}{n}", score=0.1 * n)
               for n in range(4)]
        for step in range(1, 31)
    }  # fmt: skip
    overrides = ["data.train.0.limit=4", "train.prompts_per_step=4"]
    seen = found(hand_made(overrides=overrides, metrics=rows, rollouts=rollouts))
    assert ("overfitting" in seen) is said
    if said:
        assert overlay(seen["overfitting"]) == {"data.train.0.limit": 120}


@pytest.mark.parametrize(("dead", "said"), [(5, True), (2, False)])
def test_a_verifier_whose_process_dies(
    dead: int, said: bool, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    def row(step: int, prompt: int) -> dict[str, Any]:
        fields = {"completion_text": f"{step} {prompt}", "score": 0.1 * prompt}
        if step <= dead and prompt == 0:
            gone = "the reward's process ended with exit code 139"
            fields |= {"score": float("nan"), "score_status": "error", "score_detail": gone}
        return recorded(step, prompt, **fields)

    rollouts = {step: [row(step, prompt) for prompt in range(8)] for step in range(1, 6)}
    seen = found(hand_made(metrics=rl_rows(5, reward__errors=0.03), rollouts=rollouts))
    assert ("verifier_errors" in seen) is said


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"", "empty file"),
    ],
)
def test_files_that_are_no_weights(start: bytes, words: str, hand_made: Make) -> None:
    torn = "safetensors_rust.SafetensorError: Error while deserializing header: header too large\n"
    status = {"state": "failed", "error": {"code": "RunFailure", "what": torn.strip()}, "exit_code": 1}
    run = hand_made("sft", status=status, log=torn)
    assert next(iter(found(run))) == "ckpt_torn"
    (run.path / "model").mkdir()
    (run.path / "model" / "model.safetensors").write_bytes(start)
    cause, finding = next(iter(found(run).items()))
    assert cause == "wrong_request" and words in finding.summary and "ckpt_torn" in finding.explains


def test_two_bos_tokens_are_surer_than_a_course(hand_made: Make, rl_rows: Rows) -> None:
    words = "64 of 64 prompts of step 1 begin with two BOS tokens"
    event = {"level": "warning", "code": "double_bos", "message": words, "step": 1, "value": 1.0}
    run = hand_made(metrics=rl_rows(reward__mean=lambda step: 0.1 + 0.01 * (step % 2)), events=[event])
    assert next(iter(found(run))) == "double_bos"


def test_keys_of_another_kind_of_training(hand_made: Make, rl_rows: Rows) -> None:
    rows = [{"step": step, "loss": 2.0 - 0.03 * step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 21)]
    overrides = ["rollout.temperature=0.3", "rollout.group_size=16"]
    idle = found(hand_made("sft", overrides=overrides, metrics=rows))["config_idle"]
    assert idle.severity == "warning" and "rollout.temperature, rollout.group_size" in idle.summary
    assert "config_idle" not in found(hand_made("sft", metrics=rows))
    assert "config_idle" not in found(hand_made(overrides=["rollout.temperature=0.9"], metrics=rl_rows()))
