"""Detectors on hand-made runs: literal numbers in, a cause out; and nothing for the healthy twin."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Diagnosis, Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]


def first(run: RunDir) -> Finding:
    findings = diagnose(run).findings
    assert findings, "nothing was found"
    return findings[0]


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings]


def test_a_healthy_run_has_nothing_and_says_what_was_looked_at(hand_made: Make, rl_rows: Rows) -> None:
    diagnosis = diagnose(hand_made(metrics=rl_rows()))
    assert diagnosis.findings == []
    assert "nothing found" in diagnosis.headline and len(diagnosis.looked_at) > 25
    assert diagnosis.command == ""


def test_an_empty_run_directory_is_no_reason_to_fail(hand_made: Make) -> None:
    run = hand_made()
    (run.path / "config.yaml").write_text("run: [")
    diagnosis = diagnose(run)
    assert any("metrics.jsonl" in text for text in diagnosis.missing)
    assert any("config.yaml" in text for text in diagnosis.missing)


COURSES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("not_finite", {"loss": lambda step: float("nan") if step == 12 else -0.1}, []),
    ("gradient_dead", {"grad_norm": lambda step: 0.0 if step > 20 else 0.4}, []),
    ("lost_updates", {"update__lost": 0.83}, []),
    ("lr_too_low", {"lr": 1e-12}, ["train.lr=1e-12"]),
    ("lr_floor", {"lr": lambda step: 1e-3 if step < 12 else 0.0}, []),
    ("verifier_errors", {"reward__errors": 0.4}, []),
    ("too_hard", {"groups__zero_variance": 0.97, "reward__mean": lambda step: 0.001 * (step % 2)}, []),
    ("truncation", {"completion__truncated": 0.98}, ["rollout.stop_at_eos=true"]),
    ("logprob_gap", {"gap__mean": 0.3}, []),
    ("mask_coverage", {"mask__coverage": 0.0}, []),
    ("slow_step", {"seconds": lambda step: 30.0 if step > 22 else 1.0}, []),
    ("memory_leak", {"memory__driver_gib": lambda step: 2.0 * 1.05**step}, []),
    ("memory_leak", {"memory__children_gib": lambda step: 0.5 + 0.02 * step}, []),
    ("stale_sampler", {"gap__mean": lambda s: 0.0 if s == 1 else 0.45, "staleness": lambda s: s - 1.0}, []),
    ("reward_falls", {"reward__mean": lambda step: 0.8 - 0.02 * step + 0.005 * (step % 2)}, []),
    ("entropy_low", {"entropy": lambda step: 2.5 * 0.7**step, "reward__mean": lambda s: 0.1 + 0.01 * (s % 2)}, []),
    ("shaped_reward", {"reward__mean": lambda s: 0.7 - 0.004 * s, "reward__shaped": lambda s: 0.1 + 0.02 * s}, []),
    ("gradient_spike", {"grad_norm": lambda step: 40.0 if step == 17 else 0.4}, []),
]


def test_memory_that_is_filled_once_is_no_leak(hand_made: Make, rl_rows: Rows) -> None:
    filled = rl_rows(memory__driver_gib=lambda step: 4.0 if step > 6 else 1.0 + 0.5 * step)
    assert "memory_leak" not in causes(diagnose(hand_made(metrics=filled)))


def sl_rows(gains: tuple[float, float], loss: Callable[[int], float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": 0, "eval/loss": 3.0, "eval/prompt_gain": gains[0]}]
    rows += [{"step": at, "loss": loss(at), "grad_norm": 1.0, "lr": 1e-3, "mask/eos": 1.0} for at in range(1, 41)]
    rows[-1] |= {"eval/loss": 1.4, "eval/prompt_gain": gains[1]}
    return rows


def test_prompts_that_say_nothing_of_their_answers(hand_made: Make) -> None:
    settled = sl_rows((0.0, 0.003), lambda step: max(1.3, 3.0 - 0.1 * step))
    assert first(hand_made("sft", metrics=settled)).cause == "contradictory_rows"
    still_falling = sl_rows((0.0, 0.003), lambda step: 3.0 - 0.04 * step)
    assert "contradictory_rows" not in causes(diagnose(hand_made("sft", metrics=still_falling)))
    right = sl_rows((0.0, 1.7), lambda step: max(1.3, 3.0 - 0.1 * step))
    assert "contradictory_rows" not in causes(diagnose(hand_made("sft", metrics=right)))


def test_rows_that_never_teach_their_end(hand_made: Make) -> None:
    rows = [row | {"mask/eos": 0.0} for row in sl_rows((0.0, 2.0), lambda step: 3.0 - 0.05 * step)]
    finding = first(hand_made("sft", metrics=rows))
    assert (finding.cause, finding.severity) == ("no_eos", "error")


def test_adapters_whose_scale_is_next_to_nothing(hand_made: Make) -> None:
    lora = ["model.lora.enabled=true", "model.lora.rank=512", "model.lora.alpha=1"]
    slow = sl_rows((0.0, 2.0), lambda step: 3.0 - 0.01 * step)
    finding = first(hand_made("sft", overrides=lora, metrics=slow))
    assert finding.cause == "loss_flat" and "alpha" in finding.next
    usual = hand_made("sft", overrides=[lora[0]], metrics=slow)
    assert "loss_flat" not in causes(diagnose(usual))


@pytest.mark.parametrize(("cause", "metrics", "overrides"), COURSES, ids=[case[0] for case in COURSES])
def test_the_course_of_a_metric(
    cause: str, metrics: dict[str, Any], overrides: list[str], hand_made: Make, rl_rows: Rows
) -> None:
    finding = first(hand_made(overrides=overrides, metrics=rl_rows(**metrics)))
    assert finding.cause == cause
    assert finding.evidence and finding.next


def test_cut_off_completions_are_no_fault_where_they_are_asked_for(hand_made: Make, rl_rows: Rows) -> None:
    # The recipe always draws four tokens: stop_at_eos is off.
    assert causes(diagnose(hand_made(metrics=rl_rows(completion__truncated=1.0)))) == []


def test_a_low_entropy_is_success_where_the_reward_is_found(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(entropy=lambda step: 2.5 * 0.7**step, reward__mean=lambda step: min(0.99, 0.1 + 0.05 * step))
    assert causes(diagnose(hand_made(metrics=rows))) == []


@pytest.mark.parametrize(("score", "cause"), [(0.0, "reward_zero"), (1.0, "reward_full"), (0.5, "reward_constant")])
def test_one_reward_for_everything(
    score: float, cause: str, hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rows = rl_rows(reward__mean=score, reward__std=0.0, groups__zero_variance=1.0, grad_norm=0.0)
    rollouts = {
        step: [
            recorded(step, prompt, index, score=score, completion_text=f"{prompt}{index}", policy_version=step - 1)
            for prompt in range(6)
            for index in range(4)
        ]
        for step in range(1, 13)
    }
    finding = first(hand_made(metrics=rows, rollouts=rollouts))
    assert finding.cause == cause
    # Dead groups and a dead gradient are what follows from it.
    assert {"gradient_dead"} <= set(finding.explains)
    assert finding.evidence[0].samples[0] == "1/p/0/0"


def test_the_same_completion_with_two_verdicts(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    rollouts = {
        step: [recorded(step, p, score=float(step % 2), completion_text=f"{p}") for p in range(8)]
        for step in range(1, 11)
    }
    assert first(hand_made(metrics=rl_rows(), rollouts=rollouts)).cause == "reward_inconsistent"


def test_one_answer_to_every_prompt_that_pays(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    rollouts = {
        step: [
            recorded(
                step,
                prompt,
                completion_text="42" if step > 5 else f"{step} {prompt}",
                completion_token_ids=[4, 2] if step > 5 else [step, prompt],
                score=float(step > 5),
            )
            for prompt in range(12)
        ]
        for step in range(1, 16)
    }
    finding = first(hand_made(metrics=rl_rows(), rollouts=rollouts))
    assert finding.cause == "constant_answer" and "'42'" in finding.summary


def test_length_that_is_paid(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    def group(step: int, prompt: int) -> list[dict[str, Any]]:
        sizes = [step + 2 * index for index in range(4)]
        return [
            recorded(step, prompt, index, completion_token_ids=list(range(size)), completion_text="a" * size,
                     score=size / 40, rollout_logprobs=[-1.0] * size, advantages=[0.0] * size)
            for index, size in enumerate(sizes)
        ]  # fmt: skip

    rollouts = {step: [row for p in range(3) for row in group(step, p)] for step in range(1, 25)}
    rows = rl_rows(completion__length=lambda step: 4.0 + step)
    finding = first(hand_made(overrides=["rollout.stop_at_eos=true"], metrics=rows, rollouts=rollouts))
    assert finding.cause == "length_hacking"


def test_rising_training_reward_and_falling_held_out_reward(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows()
    for step, value in ((10, 0.5), (20, 0.4), (30, 0.2)):
        rows[step - 1]["eval/reward"] = value
    finding = first(hand_made(metrics=rows))
    assert finding.cause == "eval_falls"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_was_rewarded_becomes_less_likely(sign: float, hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    # Twenty tokens; even ones are rewarded and odd ones punished, and become likelier by `sign` times that.
    rollouts = {
        step: [
            recorded(
                step, prompt, token, completion_token_ids=[token], advantages=[paid],
                rollout_logprobs=[-9.0 + 0.1 * sign * paid * step], completion_text=f"{prompt} {token}",
                score=0.5 + paid / 2,
            )
            for prompt in range(4)
            for token in range(20)
            for paid in ([1.0, -1.0][token % 2],)
        ]
        for step in range(1, 16)
    }  # fmt: skip
    rows = rl_rows(reward__mean=lambda step: 0.5 + 0.002 * (step % 2))
    found = causes(diagnose(hand_made(metrics=rows, rollouts=rollouts)))
    assert ("learns_backwards" in found[:1]) == (sign < 0)


def test_rollouts_of_an_old_policy(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    rollouts = {step: [recorded(step, policy_version=0)] for step in range(1, 6)}
    finding = first(hand_made(metrics=rl_rows(), rollouts=rollouts))
    assert finding.cause == "stale_sampler" and "4 steps old" in finding.summary


def test_held_out_rows_that_are_trained_on(hand_made: Make, rl_rows: Rows) -> None:
    finding = first(hand_made(overrides=["data.eval.0.split=train"], metrics=rl_rows()))
    assert finding.cause == "train_eval_leak" and "180 of 180" in finding.summary


def test_a_preference_for_the_rejected(hand_made: Make) -> None:
    usual = {"loss": 0.7, "lr": 1e-3, "grad_norm": 1.0}
    rows = [usual | {"step": step, "preference/accuracy": 0.5 - 0.02 * step} for step in range(1, 21)]
    assert first(hand_made("dpo", metrics=rows)).cause == "learns_backwards"


def test_a_gradient_that_doubles_at_a_resume(hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "info", "code": "resumed", "message": "goes on from step 15", "checkpoint": "step_00000015"}
    rows = rl_rows(grad_norm=lambda step: 0.4 if step <= 15 else 0.8)
    finding = first(hand_made(metrics=rows, events=[event]))
    assert finding.cause == "resume_jump" and "2 times" in finding.summary


def safetensors(path: Path, tensors: dict[str, list[float]]) -> None:
    """A safetensors file of float32 matrices of one row, written by hand."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": [1, len(values)], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_matrix_that_did_not_move_is_named(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows())
    safetensors(run.path / "model" / "model.safetensors", {"a.weight": [1.0, 2.0], "b.weight": [3.0]})
    safetensors(run.path / "final" / "model.safetensors", {"a.weight": [1.5, 2.0], "b.weight": [3.0]})
    finding = first(run)
    assert finding.cause == "frozen_weights" and finding.evidence[0].samples == ["b.weight"]


def test_an_export_of_nothing(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows())
    safetensors(run.path / "final" / "model.safetensors", {"a.weight": []})
    assert first(run).cause == "export_empty"


KERNEL = "SIGKILL: the kernel killed 2 processes"
NOBODY = "killed by SIGKILL (out of memory?): the kernel reports no kill"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
# cause, class of the error, its words, exit code, log
ENDINGS: list[tuple[str, str, str, int, str]] = [
    ("weight_sync", "WeightSyncError", "apart", 1, ""),
    ("not_finite", "NumericsError", "the loss is nan", 1, ""),
    ("deadline", "DeadlineError", "no answer in 60 s", 1, ""),
    ("verifier_rejects_references", "RewardError", "rejects the reference of its own row", 1, ""),
    ("killed", "Killed", NOBODY, -9, ""),
    ("host_out_of_memory", "Killed", KERNEL, -9, ""),
    ("crashed", "Crashed", "ended by SIGSEGV", -11, ""),
    ("killed", "Crashed", "ended by SIGHUP", -1, ""),
    ("gradient_dead", "ConfigError", "the loss of mine has no gradient: no weight has a part in it", 2, ""),
    ("disk_full", "OSError", "[Errno 28] No space left on device", 1, ""),
    ("cuda_oom", "Exited", "it said nothing", 1, OOM),
    ("unexplained_failure", "Exited", "exited with code 1", 1, "hm"),
]


@pytest.mark.parametrize(("cause", "code", "what", "exit_code", "log"), ENDINGS, ids=[case[0] for case in ENDINGS])
def test_how_it_ended(
    cause: str, code: str, what: str, exit_code: int, log: str, hand_made: Make, rl_rows: Rows
) -> None:
    status = {"state": "failed", "error": {"code": code, "what": what}, "exit_code": exit_code}
    assert first(hand_made(metrics=rl_rows(6), status=status, log=log)).cause == cause


def test_a_stop_is_no_fault(hand_made: Make, rl_rows: Rows) -> None:
    asked = {"state": "stopped", "stop_reason": "lunch", "exit_code": 143}
    finding = first(hand_made(metrics=rl_rows(), status=asked))
    assert (finding.cause, finding.severity, finding.overlay) == ("stopped_on_request", "info", [])
    spent = {"state": "stopped", "stop_reason": "its budget of 2 hours (run.max_hours) is spent"}
    assert first(hand_made(metrics=rl_rows(), status=spent)).cause == "budget_spent"


def test_a_text_in_the_log_of_a_run_that_went_well_is_no_failure(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(), log="retrying: address already in use\n")
    assert diagnose(run).findings == []


def test_texts_without_a_prompt_are_not_all_the_same(hand_made: Make) -> None:
    rows = [{"step": step, "loss": 2.0 - 0.03 * step, "lr": 1e-3, "grad_norm": 1.0} for step in range(1, 21)]
    assert diagnose(hand_made("cpt", metrics=rows)).findings == []


def test_length_that_is_paid_is_seen_where_it_was_found_within_a_few_steps(
    hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    sizes = [4, 8, 12, 16]
    rollouts = {
        step: [
            recorded(step, prompt, index, completion_token_ids=[3] * size, score=size / 16)
            for prompt in range(2)
            for index, size in enumerate(sizes)
        ]
        for step in range(1, 25)
    }  # fmt: skip
    rows = rl_rows(completion__length=lambda step: 10.0 if step == 1 else 20.0)
    run = hand_made(overrides=["rollout.stop_at_eos=true"], metrics=rows, rollouts=rollouts)
    assert "length_hacking" in causes(diagnose(run))


def test_a_run_that_hung_until_it_was_ended(hand_made: Make, rl_rows: Rows) -> None:
    event = {"level": "error", "code": "stalled", "message": "nothing was achieved for 300 s in phase training"}
    status = {"state": "failed", "error": {"code": "Stalled", "what": "nothing was achieved for 300 s"}, "exit_code": 1}
    finding = first(hand_made(metrics=rl_rows(6), events=[event], status=status))
    assert finding.cause == "stalled" and "300 s" in finding.summary
    # The same event in a run that went on is past.
    assert causes(diagnose(hand_made(metrics=rl_rows(), events=[event]))) == []


@pytest.mark.parametrize(
    ("kl", "reward", "severity"),
    [(4.0, 0.3, "error"), (1.5, 0.3, "warning"), (0.2, 0.3, None)],
)
def test_a_policy_far_from_its_reference(
    kl: float, reward: float, severity: str | None, hand_made: Make, rl_rows: Rows
) -> None:
    rows = rl_rows(kl__ref=lambda step: kl * min(1.0, step / 10), reward__mean=lambda step: reward + 0.01 * (step % 2))
    found = {one.cause: one.severity for one in diagnose(hand_made(metrics=rows)).findings}
    assert found.get("kl_high") == severity


def test_one_part_of_the_reward_at_the_cost_of_another(hand_made: Make, rl_rows: Rows, recorded: Recorded) -> None:
    def parts(step: int) -> str:
        return json.dumps({"truth": 0.8 - 0.03 * step, "style": 0.1 + 0.05 * step})

    rollouts = {
        step: [recorded(step, p, completion_text=f"{step} {p}", score_parts=parts(step)) for p in range(12)]
        for step in range(1, 16)
    }
    found = {one.cause: one for one in diagnose(hand_made(metrics=rl_rows(), rollouts=rollouts)).findings}
    assert "style rose by" in found["part_hacking"].summary and "truth fell by" in found["part_hacking"].summary


def test_a_run_that_vanished_did_not_prove_that_memory_ran_out(hand_made: Make, rl_rows: Rows) -> None:
    words = "every process of the run is gone without a final record (machine restarted, out of memory, or killed)"
    status = {"state": "failed", "error": {"code": "Lost", "what": words}}
    assert first(hand_made(metrics=rl_rows(6), status=status)).cause == "lost"
    told = status | {"log_tail": ["MemoryError: Unable to allocate 3 GiB"]}
    assert first(hand_made(metrics=rl_rows(6), status=told)).cause == "host_out_of_memory"


def test_a_warm_up_that_is_longer_than_the_run(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(lr=lambda step: 1e-3 * step / 4000)
    finding = first(hand_made(overrides=["train.warmup_steps=4000"], metrics=rows))
    assert finding.cause == "lr_too_low" and "4000" in finding.summary


def test_large_steps_that_end_where_the_loss_has_no_slope(hand_made: Make) -> None:
    rows = [
        {"step": s, "loss": 0.5 + 0.1 * (s % 2), "lr": 0.3, "grad_norm": 0.3 if s < 8 else 0.0} for s in range(1, 31)
    ]
    finding = first(hand_made("kto", overrides=["train.lr=0.3"], metrics=rows))
    assert finding.cause == "lr_too_high" and finding.explains == ["gradient_dead"]


def test_labels_that_mean_the_opposite_of_the_held_out_ones(hand_made: Make) -> None:
    def rows(sign: float) -> list[dict[str, Any]]:
        made = []
        for step in range(41):
            row = {"step": step, "loss": 0.5 - 0.004 * step, "lr": 1e-3, "grad_norm": 0.3}
            row |= {"preference/chosen": 0.02 * step, "preference/rejected": -0.02 * step}
            if step % 10 == 0:
                row |= {"eval/preference/chosen": sign * 0.02 * step, "eval/preference/rejected": -sign * 0.02 * step}
            made.append(row)
        return made

    assert first(hand_made("kto", metrics=rows(-1.0))).cause == "learns_backwards"
    assert causes(diagnose(hand_made("kto", metrics=rows(1.0)))) == []


@pytest.mark.parametrize(("recipe", "contradicts"), [("dpo", True), ("dpo", False), ("kto", True), ("kto", False)])
def test_comparisons_that_stand_in_the_data_both_ways(
    recipe: str, contradicts: bool, hand_made: Make, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(20):
        if recipe == "dpo":
            pair = {"prompt": f"{number}>", "chosen": "1", "rejected": "2"}
            rows += [pair, {"prompt": f"{number}>", "chosen": "2", "rejected": "1"} if contradicts else pair]
        else:
            labeled = {"prompt": f"{number}>", "completion": "1", "label": True}
            rows += [labeled, labeled | ({"label": False} if contradicts else {"completion": "2", "label": False})]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"step": s, "loss": 0.69 - 0.01 * s, "lr": 1e-3, "grad_norm": 0.3} for s in range(1, 31)]
    found = causes(diagnose(hand_made(recipe, overrides=[f"data.train.0.name={path}"], metrics=metrics)))
    assert ("contradictory_rows" in found) is contradicts


@pytest.mark.parametrize(("logprob", "cause"), [(-2.5, ["zero_variance"]), (-0.01, [])])
def test_a_group_of_one_text_is_a_fault_where_the_policy_is_unsure(
    logprob: float, cause: list[str], hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    rollouts = {
        step: [
            recorded(step, prompt, index, completion_token_ids=[step, prompt], completion_text=f"{step} {prompt}",
                     rollout_logprobs=[logprob, logprob], score=0.1 * (prompt % 3))
            for prompt in range(8)
            for index in range(4)
        ]
        for step in range(1, 13)
    }  # fmt: skip
    assert causes(diagnose(hand_made(metrics=rl_rows(12), rollouts=rollouts)))[:1] == cause
