"""A bounded choice of a run's recorded rollouts, for a person who wants to see what the model writes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.redact import Redactor
from oxrl_core.runs.records import thin

if TYPE_CHECKING:
    from oxrl_core.runs.rundir import RunDir

MOST_STEPS = 40
MOST_OF_A_STEP = 10
LONGEST_TEXT = 2000  # characters of a prompt or completion
LONGEST_SECRET = 500
_COLUMNS = (
    "step", "prompt_id", "sample_index", "prompt_text", "completion_text", "completion_token_ids", "score",
    "score_status", "finish_reason", "advantages", "trainer_logprobs", "rollout_logprobs", "policy_version",
)  # fmt: skip

Sample = dict[str, Any]


def chosen_samples(
    run: RunDir, redactor: Redactor, *, most_steps: int = MOST_STEPS, most_of_a_step: int = MOST_OF_A_STEP
) -> list[Sample]:
    """Rollouts of evenly spaced steps, the first and the last among them; of each step the best, the worst, others."""
    files = sorted(run.rollouts.glob("step-*.parquet"))
    samples: list[Sample] = []
    for file in thin(files, most_steps):
        rows = sorted(_read(file), key=lambda row: (row.get("score") is None, row.get("score") or 0.0))
        samples += [_sample(row, redactor) for row in thin(rows, most_of_a_step)]
    return samples


def last_sample(run: RunDir, redactor: Redactor) -> Sample | None:
    """The best rollout of the newest recorded step; None where nothing is recorded."""
    for file in sorted(run.rollouts.glob("step-*.parquet"))[:-3:-1]:  # the newest may be on its way
        rows = _read(file)
        if rows:
            judged = [row for row in rows if row.get("score") is not None]
            return _sample(max(judged or rows, key=lambda row: float(row.get("score") or 0.0)), redactor)
    return None


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows of one step, without what nobody looks at; none where the file cannot be read any more."""
    if find_spec("pyarrow") is None:
        return []
    # By name: its own types are half unknown.
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(file) as opened:  # read_table would import pandas, for seconds
            there = set(opened.schema_arrow.names)
            return opened.read(columns=[name for name in _COLUMNS if name in there]).to_pylist()
    except (OSError, arrow.ArrowInvalid):
        return []


def _sample(row: dict[str, Any], redactor: Redactor) -> Sample:
    ours, theirs = row.get("trainer_logprobs"), row.get("rollout_logprobs")
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=False)] if ours and theirs else []
    return {
        "step": row.get("step"),
        "id": f"{row.get('step')}/{row.get('prompt_id')}/{row.get('sample_index')}",
        "reward": row.get("score"),
        "status": row.get("score_status") or "",
        "tokens": len(row.get("completion_token_ids") or ()),
        "end": row.get("finish_reason") or "",
        "advantage": _mean(row.get("advantages") or ()),
        "gap": max(gaps, default=None),
        "prompt": _text(row.get("prompt_text"), redactor),
        "completion": _text(row.get("completion_text"), redactor),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _text(value: Any, redactor: Redactor) -> str:
    whole = str(value or "")
    more = len(whole) - LONGEST_TEXT
    # A secret is masked before the text is cut: half of one would not be known for what it is.
    text = redactor.shown(whole[: LONGEST_TEXT + LONGEST_SECRET])[: 2 * LONGEST_TEXT]
    return text if more <= 0 else f"{text[:LONGEST_TEXT]} [{more} more characters]"
