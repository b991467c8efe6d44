"""Recorded rollouts, read step by step and only as many as a diagnosis needs."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

MAX_STEPS = 36  # files that are read: a third each from the beginning, the middle and the end of the run
MAX_ROWS = 512  # rows of one step that are read
MAX_TOKENS = 256  # tokens of a completion that are kept: whole reasoning traces of 36 steps would fill the memory
MAX_DETAIL = 200  # characters
LISTS = ("completion_token_ids", "rollout_logprobs", "trainer_logprobs", "advantages")
COLUMNS = (
    "prompt_id", "prompt_text", "completion_token_ids", "completion_text", "rollout_logprobs", "trainer_logprobs",
    "advantages", "score", "score_status", "score_parts", "score_detail", "finish_reason", "policy_version",
    "sample_index",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One recorded rollout."""

    step: int
    prompt_id: str
    prompt: str
    completion: str
    tokens: tuple[int, ...]  # the first MAX_TOKENS
    length: int  # of the whole completion
    rollout_logprobs: tuple[float, ...]
    trainer_logprobs: tuple[float, ...]  # empty where the trainer did not look
    advantage: float | None  # mean over its tokens
    score: float | None
    status: str
    parts: dict[str, float]
    detail: str  # of the verdict, or why there is none
    finish_reason: str
    policy_version: int
    index: int

    @property
    def name(self) -> str:
        return f"{self.step}/{self.prompt_id}/{self.index}"

    @property
    def has_verdict(self) -> bool:
        return self.score is not None and self.status in ("ok", "no_answer")


@dataclass
class Samples:
    """The rollouts folder of a run; the steps that are looked at, each read once."""

    folder: Path | None
    problem: str = ""  # why nothing could be read
    _read: dict[int, list[Sample]] = field(default_factory=dict[int, "list[Sample]"])
    _steps: list[int] | None = None

    def steps(self) -> list[int]:
        """Recorded steps, thinned to those that are looked at."""
        if self.folder is None:
            return []
        if self._steps is None:
            found = sorted(int(path.stem[5:]) for path in self.folder.glob("step-*.parquet") if path.stem[5:].isdigit())
            if len(found) > MAX_STEPS:
                third = MAX_STEPS // 3
                middle = found[third:-third]
                found = found[:third] + [middle[i * len(middle) // third] for i in range(third)] + found[-third:]
            self._steps = found
        return self._steps

    def of_step(self, step: int) -> list[Sample]:
        """The samples of one step; none where its file cannot be read."""
        if step not in self._read:
            self._read[step] = self._load(step)
        return self._read[step]

    def all(self) -> list[Sample]:
        return [sample for step in self.steps() for sample in self.of_step(step)]

    def early(self) -> list[Sample]:
        """Samples of the first third of the recorded steps."""
        steps = self.steps()
        return [sample for step in steps[: max(1, len(steps) // 3)] for sample in self.of_step(step)]

    def late(self) -> list[Sample]:
        """Samples of the last third of the recorded steps."""
        steps = self.steps()
        return [sample for step in steps[-max(1, len(steps) // 3) :] for sample in self.of_step(step)]

    def _load(self, step: int) -> list[Sample]:
        if self.folder is None:
            return []
        path = self.folder / f"step-{step:08d}.parquet"
        try:
            reader: Any = importlib.import_module("pyarrow.parquet")
            compute: Any = importlib.import_module("pyarrow.compute")
        except ImportError:
            self.problem = "the recorded rollouts cannot be read: pyarrow is not installed"
            return []
        try:
            file = reader.ParquetFile(path)
            known = set(file.schema_arrow.names)
            rows: list[dict[str, Any]] = []
            for batch in file.iter_batches(MAX_ROWS, columns=[name for name in COLUMNS if name in known]):
                lengths = compute.list_value_length(batch["completion_token_ids"]).to_pylist()
                columns = {
                    name: (compute.list_slice(batch[name], 0, MAX_TOKENS) if name in LISTS else batch[name]).to_pylist()
                    for name in batch.schema.names
                }
                names = list(columns)
                rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                for row, length in zip(rows, lengths, strict=True):
                    row["length"] = length or 0
                break
        except Exception as error:  # a file of another version or half gone: the others are still worth reading
            self.problem = f"rollouts of step {step} cannot be read: {error}"
            return []
        return [_sample(step, row) for row in rows]


def _sample(step: int, row: dict[str, Any]) -> Sample:
    advantages = _numbers(row.get("advantages"))
    score = row.get("score")
    parts: dict[str, float] = {}
    try:
        said = json.loads(row.get("score_parts") or "{}")
        if isinstance(said, dict):
            parts = {
                str(name): float(value)
                for name, value in cast("dict[Any, Any]", said).items()
                if isinstance(value, (int, float))
            }
    except ValueError:
        parts = {}
    return Sample(
        step=step,
        prompt_id=str(row.get("prompt_id", "")),
        prompt=str(row.get("prompt_text") or ""),
        completion=str(row.get("completion_text") or ""),
        tokens=tuple(row.get("completion_token_ids") or ()),
        length=int(row.get("length") or 0),
        rollout_logprobs=_numbers(row.get("rollout_logprobs")),
        trainer_logprobs=_numbers(row.get("trainer_logprobs")),
        advantage=sum(advantages) / len(advantages) if advantages else None,
        score=float(score) if isinstance(score, (int, float)) and score == score else None,
        status=str(row.get("score_status") or ""),
        parts=parts,
        detail=str(row.get("score_detail") or "")[:MAX_DETAIL],
        finish_reason=str(row.get("finish_reason") or ""),
        policy_version=int(row.get("policy_version") or 0),
        index=int(row.get("sample_index") or 0),
    )


def _numbers(values: Any) -> tuple[float, ...]:
    """The numbers of a column that may be empty."""
    return tuple(float(value) for value in values or () if value is not None)


def rows_of_steps(folder: Path) -> list[list[str]]:
    """The ids of the rows of each recorded supervised step, as far as they can be read."""
    try:
        reader: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        return []
    found: list[list[str]] = []
    for path in sorted(folder.glob("step-*.parquet"))[: 4 * MAX_STEPS]:
        try:
            if "row_id" not in reader.read_schema(path).names:
                return []
            found.append([str(name) for name in reader.read_table(path, columns=["row_id"])["row_id"].to_pylist()])
        except (OSError, ValueError):  # half gone: the others are still worth reading
            continue
    return found


def commonest(samples: list[Sample]) -> tuple[str, float]:
    """The completion that is given most often, and its share of the prompts that it is given to."""
    by_text: Counter[str] = Counter()
    prompts = {sample.prompt_id for sample in samples}
    for text, _ in {(sample.completion, sample.prompt_id) for sample in samples}:
        by_text[text] += 1
    if not by_text:
        return "", 0.0
    text, count = by_text.most_common(1)[0]
    return text, count / len(prompts)
