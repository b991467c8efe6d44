"""Every rollout of every step on disk: one row per rollout, well enough to replay and explain the step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oxrl_core.types import Credit, Rollout

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("prompt_id", pa.string()),
        ("prompt_text", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("completion_text", pa.string()),
        ("rollout_logprobs", pa.list_(pa.float32())),
        ("trainer_logprobs", pa.list_(pa.float32())),  # null where the trainer did not look at the rollout
        ("advantages", pa.list_(pa.float32())),  # null where it was not an advantage that was learned from
        ("returns", pa.list_(pa.float32())),  # with a critic
        ("values", pa.list_(pa.float32())),  # with a critic, before the update
        ("ref_logprobs", pa.list_(pa.float32())),  # where they were measured before the update
        ("score", pa.float64()),  # null where the reward gave none
        ("score_status", pa.string()),
        ("score_parts", pa.string()),  # JSON
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("seed", pa.int64()),
        ("sample_index", pa.int64()),
    ]
)


class Recorder:
    """The rollouts folder of a run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write(
        self,
        step: int,
        rollouts: Sequence[Rollout],
        credits: Sequence[Credit] = (),
        trainer_logprobs: Sequence[Sequence[float]] = (),
    ) -> Path:
        """The file of the step. It appears whole or not at all. Without credits it was learned from otherwise."""
        missing = [None] * len(rollouts)
        rows = [
            _row(step, rollout, credit, logprobs)
            for rollout, credit, logprobs in zip(rollouts, credits or missing, trainer_logprobs or missing, strict=True)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.parquet"
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), unfinished, compression="zstd")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path


def read_rollouts(path: str | Path) -> list[dict[str, Any]]:
    """The recorded rows of one step file, or of a whole folder in the order of its steps."""
    path = Path(path)
    files = sorted(path.glob("step-*.parquet")) if path.is_dir() else [path]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    for row in rows:
        row["score_parts"] = json.loads(row["score_parts"])
    return rows


def _row(step: int, rollout: Rollout, credit: Credit | None, logprobs: Sequence[float] | None) -> dict[str, Any]:
    score = rollout.score
    measured = None if credit is None else credit.measurement
    return {
        "step": step,
        "prompt_id": rollout.prompt.id,
        "prompt_text": rollout.prompt.text,
        "prompt_token_ids": rollout.prompt.token_ids,
        "completion_token_ids": rollout.token_ids,
        "completion_text": rollout.text,
        "rollout_logprobs": rollout.rollout_logprobs,
        "trainer_logprobs": logprobs,
        "advantages": None if credit is None else credit.advantages,
        "returns": (credit.returns or None) if credit else None,
        "values": (measured.values or None) if measured else None,
        "ref_logprobs": (measured.ref_logprobs or None) if measured else None,
        "score": None if score is None else score.value,
        "score_status": None if score is None else score.status,
        "score_parts": json.dumps({} if score is None else score.parts),
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "seed": rollout.seed,
        "sample_index": rollout.sample_index,
    }
