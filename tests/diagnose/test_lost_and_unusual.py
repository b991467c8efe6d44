"""Runs that lose what they learned, meet the same rows, or are set as nobody sets them; and failures without a text."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from oxrl_core.diagnose.classes import inner_of, known_of
from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.logs import search_text
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


def wave(step: int) -> float:
    return 0.01 * math.sin(7 * step)


def learned(steps: int = 40, **others: Any) -> list[dict[str, Any]]:
    """Rows of a supervised run whose loss halves; a keyword is a metric: a value, or a function of the step."""
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "loss": 2.0 * 0.97**step, "lr": 1e-3, "grad_norm": 1.0}
        row |= {name.replace("__", "/"): value(step) if callable(value) else value for name, value in others.items()}
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def test_entropy_and_reward_that_are_suddenly_those_of_the_beginning(hand_made: Make, rl_rows: Rows) -> None:
    def since(step: int) -> int:
        return step if step < 9 else step - 8

    lost = rl_rows(entropy=lambda s: 2.9 - 0.1 * since(s) + wave(s), reward__mean=lambda s: 0.05 * since(s) + wave(s))
    seen = found(hand_made(metrics=lost))["reward_falls"]
    assert "at step 9" in seen.summary and "at the beginning" in seen.summary
    kept = rl_rows(entropy=lambda s: 2.9 - 0.05 * s + wave(s), reward__mean=lambda s: 0.02 * s + wave(s))
    assert "reward_falls" not in found(hand_made(metrics=kept))


@pytest.mark.parametrize(
    ("recipe", "overrides", "metrics", "cause"),
    [
        ("sgrpo", ["algorithm.kl_coef=50"], {}, "reward_flat"),
        ("sgrpo", ["train.betas=[0.9999,0.999]"], {}, "reward_flat"),
        ("sgrpo", ["reward.clip=0.001"], {}, "reward_flat"),
        ("dpo", ["algorithm.label_smoothing=0.49"], {}, "loss_flat"),
    ],
)
def test_a_setting_that_nobody_takes_is_named_where_nothing_is_learned(
    recipe: str, overrides: list[str], metrics: dict[str, Any], cause: str, hand_made: Make, rl_rows: Rows
) -> None:
    key = overrides[0].partition("=")[0]
    is_rl = recipe == "sgrpo"
    stuck = rl_rows(reward__mean=lambda s: 0.1 + wave(s)) if is_rl else learned(loss=lambda s: 0.69 + 0.1 * wave(s))
    assert key in found(hand_made(recipe, overrides, stuck))[cause].summary
    works = rl_rows(reward__mean=lambda s: min(1.0, 0.04 * s)) if is_rl else learned()
    assert cause not in found(hand_made(recipe, overrides, works))


def test_a_clip_range_and_a_discount_that_leave_too_little(hand_made: Make, rl_rows: Rows) -> None:
    slow = rl_rows(ratio__clipped=0.5, reward__mean=lambda s: 0.1 + 0.002 * s)
    narrow = ["algorithm.clip_low=0.0001", "algorithm.clip_high=0.0001"]
    assert "clip range" in found(hand_made("sgrpo", narrow, slow))["reward_flat"].summary
    assert "reward_flat" not in found(hand_made("sgrpo", [], slow))
    short = rl_rows(reward__mean=lambda s: 0.1 + 0.004 * s)
    assert "first token" in found(hand_made("ppo", ["algorithm.discount=0.1"], short))["reward_flat"].summary
    assert "reward_flat" not in found(hand_made("ppo", [], short))


def test_a_reference_that_is_another_model(hand_made: Make) -> None:
    other = learned(preference__chosen=lambda s: 3.0 + 0.1 * s, preference__rejected=lambda s: 2.5 - 0.1 * s)
    assert "two models" in found(hand_made("dpo", [], other))["kl_high"].summary
    same = learned(preference__chosen=lambda s: 0.1 * (s - 1), preference__rejected=lambda s: -0.1 * (s - 1))
    assert "kl_high" not in found(hand_made("dpo", [], same))
    free = learned(preference__chosen=lambda s: -3.0 + 0.1 * s, preference__rejected=lambda s: -3.0 - 0.1 * s)
    assert "kl_high" not in found(hand_made("simpo", [], free))


def test_training_pairs_that_are_told_apart_worse_than_held_out_ones(hand_made: Make) -> None:
    def rows(train: float, held: float) -> list[dict[str, Any]]:
        return learned(
            preference__accuracy=lambda s: train + wave(s),
            eval__preference__accuracy=lambda s: held if s % 10 == 0 else None,
        )

    assert "wrong way round" in found(hand_made("rm", [], rows(0.66, 0.95)))["contradictory_rows"].summary
    assert "contradictory_rows" not in found(hand_made("rm", [], rows(0.8, 0.83)))


def test_few_pairs_and_many(hand_made: Make, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"

    def run(count: int) -> RunDir:
        path.write_text(
            "".join(
                json.dumps({"prompt": f"{n}?", "chosen": f"a{n}", "rejected": f"b{n}"}) + "\n" for n in range(count)
            )
        )
        metrics = learned(loss=lambda s: 0.69 * 0.8**s, eval__loss=lambda s: 0.6 if s % 10 == 0 else None)
        return hand_made("dpo", [f"data.train.0.name={path}", "train.rows_per_step=8"], metrics)

    assert "6 training rows" in found(run(6))["overfitting"].summary
    assert "training rows, each" not in found(run(2000)).get("overfitting", Finding.model_construct(summary="")).summary


def supervised(make: Make, folder: Path, rows: Callable[[int], list[int]], **parts: Any) -> RunDir:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"id": f"r/{n}", "prompt": f"{n}+1=", "completion": f"{n + 1}"}) + "\n" for n in range(400))
    )
    run = make("sft", [f"data.train.0.name={path}"], learned(24), **parts)
    from oxrl_core.diagnose.facts import RunFacts
    from oxrl_core.diagnose.rows import rows_of

    ids = [row.id for row in rows_of(RunFacts(run), "train")]
    for step in range(1, 25):
        table = [{"step": step, "row_id": ids[number], "tokens": 4} for number in rows(step)]
        pq.write_table(pa.Table.from_pylist(table), run.rollouts / f"step-{step:08d}.parquet")
    return run


def test_the_same_rows_in_every_step(hand_made: Make, tmp_path: Path) -> None:
    same = found(supervised(hand_made, tmp_path, lambda _: list(range(16))))["duplicate_prompts"]
    assert "384 draws met only 16 of 400 rows" in same.summary and same.severity == "error"
    assert "duplicate_prompts" not in found(supervised(hand_made, tmp_path, lambda s: list(range(16 * s - 16, 16 * s))))


def test_a_resume_that_begins_the_data_anew(hand_made: Make, tmp_path: Path) -> None:
    resumed = [{"level": "info", "code": "resumed", "message": "", "checkpoint": "step_00000010"}]

    def anew(step: int) -> list[int]:
        first = 16 * (step - 1 if step <= 10 else step - 11)
        return list(range(first, first + 16))

    seen = found(supervised(hand_made, tmp_path, anew, events=resumed))["resume_jump"]
    assert "place in the data is lost" in seen.summary
    went_on = supervised(hand_made, tmp_path, lambda s: list(range(16 * s - 16, 16 * s)), events=resumed)
    assert "place in the data" not in str(found(went_on).get("resume_jump"))


def weights(path: Path, tensors: dict[str, list[float]]) -> None:
    """A safetensors file of float32 matrices of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.array([values], dtype=np.float32) for name, values in tensors.items()}, path)


def test_a_model_that_was_broken_before_the_first_step(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows())
    weights(run.path / "model" / "model.safetensors", {"a": [1.0, math.nan, 2.0], "b": [1.0, 2.0]})
    assert "1 of 2 tensors of the model that it began with" in found(run)["not_finite"].summary


def test_adapters_that_are_not_in_the_exported_model(hand_made: Make) -> None:
    def run(after: float) -> dict[str, Finding]:
        made = hand_made("sft", ["model.lora.enabled=true"], learned())
        weights(made.path / "model" / "model.safetensors", {"a": [1.0, 2.0], "b": [3.0]})
        weights(made.path / "final" / "model.safetensors", {"a": [1.0, after], "b": [3.0]})
        return found(made)

    assert "not merged" in run(2.0)["weights_unmoved"].summary
    assert "weights_unmoved" not in run(2.5)


@pytest.mark.parametrize("kind", ["own", "next", "dice"])
def test_whose_verdicts_they_are(kind: str, hand_made: Make, rl_rows: Rows, recorded: Recorded, tmp_path: Path) -> None:
    chance = random.Random(5)
    path = tmp_path / "rows.jsonl"
    answers = ["".join(chance.choices("abcdefgh", k=4)) for _ in range(320)]
    path.write_text("".join(json.dumps({"prompt": f"{n}?", "answer": text}) + "\n" for n, text in enumerate(answers)))
    overrides = [f"data.train.0.name={path}", "rollout.group_size=8"]
    from oxrl_core.diagnose.facts import RunFacts
    from oxrl_core.diagnose.rows import rows_of

    ids = [row.id for row in rows_of(RunFacts(hand_made(overrides=overrides)), "train")]
    rollouts: dict[int, list[dict[str, Any]]] = {}
    for step in range(1, 31):
        texts = [
            (number, "".join(c if chance.random() < 0.5 else chance.choice("abcdefgh") for c in answers[number]))
            for number in [(step * 7 + group) % 320 for group in range(5)]
            for _ in range(8)
        ]
        right = [sum(a == b for a, b in zip(text, answers[number], strict=True)) / 4 for number, text in texts]
        score = {"own": right, "next": right[1:] + right[:1], "dice": [chance.random() for _ in right]}[kind]
        rollouts[step] = [
            recorded(step, 0, place % 8, prompt_id=ids[number], completion_text=text, score=score[place],
                     completion_token_ids=[*map(ord, text), 1000 * step + place])
            for place, (number, text) in enumerate(texts)
        ]  # fmt: skip
    seen = found(
        hand_made(overrides=overrides, metrics=rl_rows(reward__mean=lambda s: 0.5 + wave(s)), rollouts=rollouts)
    )
    said = {"own": "", "next": "wrong completions", "dice": "go with nothing"}[kind]
    assert ("reward_inconsistent" in seen) == bool(said)
    assert not said or said in seen["reward_inconsistent"].summary


@pytest.mark.parametrize(
    ("code", "what", "frame", "cause"),
    [
        ("RunFailure", "train_on_rows failed: DistBackendError: NCCL error in: x", "/x/app.py", "nccl_timeout"),
        ("RunFailure", "score failed: torch.OutOfMemoryError: no more", "/x/app.py", "cuda_oom"),
        ("OutOfMemoryError", "Task was killed due to", "/v/site-packages/ray/worker.py", "ray_host_oom"),
        ("BrokenPipeError", "[Errno 32] Broken pipe", "/x/app.py", "crashed"),
        ("RuntimeError", "some words", "/v/site-packages/huggingface_hub/file_download.py", "hub_down"),
        ("ValueError", "some words", "/v/site-packages/jinja2/environment.py", "chat_template"),
        ("Exception", "some words", "/v/site-packages/tokenizers/__init__.py", "wrong_request"),
        ("KeyError", "'hard'", "/x/app.py", ""),
    ],
)
def test_a_failure_without_a_known_text_is_named_by_its_class_or_its_library(
    code: str, what: str, frame: str, cause: str
) -> None:
    traceback = f'Traceback (most recent call last):\n  File "{frame}", line 3, in go\n    work()\n{code}: {what}\n'
    traceback += (
        '\nThe above exception was the direct cause of the following exception:\n\n  File "/y/z.py", line 1, in f\n'
    )
    kind, root = inner_of(code, what, traceback)
    known = known_of(kind, what, root)
    assert (known.cause if known else "") == cause
    assert known is None or f"{Path(frame).name}:3 (go)" in known.place


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RuntimeError: CUDA driver error: out of memory", "cuda_oom"),
        ("CUDA_ERROR_OUT_OF_MEMORY: out of memory", "cuda_oom"),
        ("[rank1]: Some NCCL operations have failed or timed out.", "nccl_timeout"),
        ("RuntimeError: Detected mismatch between collectives on ranks.", "nccl_timeout"),
        ("DistBackendError: x\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 0", "dup_gpu"),
        ("RuntimeError: No CUDA GPUs are available", "no_cuda"),
        ("torch.AcceleratorError: CUDA error: unspecified launch failure", "ecc"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasLtMatmul`", "ecc"),
        ("_pickle.UnpicklingError: pickle data was truncated", "ckpt_torn"),
        ("SafetensorError: Error while deserializing: incomplete metadata, file not fully covered", "ckpt_torn"),
        ("RuntimeError: Error(s) in loading state_dict for Qwen2ForCausalLM:", "size_mismatch"),
        ("OSError: [Errno 98] Address already in use", "eaddrinuse"),
        ("RuntimeError: unable to open shared memory object </torch_9_1> in read-write mode", "dl_shm"),
        ("RuntimeError: received 0 items of ancdata", "too_many_files"),
        ("ImportError: /x/flash_attn_2_cuda.so: undefined symbol: _ZN2at4_ops5zeros4callE", "fa_abi"),
        ("ImportError: /lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found", "fa_abi"),
        ("TemplateError: Conversation roles must alternate user/assistant/user/...", "roles_alternate"),
        ("jinja2.exceptions.TemplateError: System role not supported", "system_role"),
        ("ValueError: Cannot handle batch sizes > 1 if no padding token is defined.", "pad_token"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", "gated"),
        ("OSError: foo/bar is not a local folder and is not a valid model identifier", "gated"),
        ("SSLError: HTTPSConnectionPool(host='huggingface.co'): Max retries exceeded", "hub_down"),
        ("datasets.exceptions.DatasetNotFoundError: Dataset 'a/b' doesn't exist on the Hub", "ds_file"),
        ("ArrowInvalid: JSON parse error: Missing a comma or } after an object member. in row 3", "ds_cast"),
        ("ray.exceptions.ObjectStoreFullError: Failed to put object in object store", "ray_host_oom"),
        ("ray.exceptions.OutOfDiskError: Local disk is full", "ray_disk"),
        ("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR", "ray_sigkill"),
        ("RuntimeError: Error building extension 'cpu_adam'", "ds_cuda_home"),
        ("ValueError: No modules were targeted for adaptation.", "lora_target"),
        ("ValueError: 2 GiB KV cache is needed, which is larger than the available KV cache memory", "vllm_kv_small"),
    ],
)  # fmt: skip
def test_other_spellings_of_known_failures(text: str, name: str) -> None:
    verdict = search_text(text + "\n")
    assert verdict.root is not None and verdict.root.id == name and not verdict.rivals


@pytest.mark.parametrize(
    "line",
    [
        "[W] The addresses of (host, 29500) cannot be retrieved (gai error: -2 - Name or service not known).",
        "WARNING retrying: HTTPConnectionPool(host='127.0.0.1', port=8000): Max retries exceeded with url: /v1",
        "INFO saved the checkpoint of step 400",
    ],
)
def test_what_healthy_runs_log_is_no_failure(line: str) -> None:
    verdict = search_text(line + "\n")
    assert verdict.root is None and not verdict.wrappers
