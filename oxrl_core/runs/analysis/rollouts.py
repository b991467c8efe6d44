"""What a run recorded of its steps: rows that can be asked for by condition, and one rollout token by token."""

from __future__ import annotations

import heapq
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from oxrl_core.errors import ConfigError, DataError, MachineError, NotFoundError
from oxrl_core.runs.analysis.pieces import read_pieces
from oxrl_core.runs.analysis.query import check_column, names_in, parse, sort_key
from oxrl_core.runs.views import View

if TYPE_CHECKING:
    from oxrl_core.runs.rundir import RunDir

FILE = re.compile(r"^step-(\d+)\.parquet$")
Cell = bool | int | float | str | None
Record = dict[str, Any]  # one row of a file, as it was written


class RolloutsView(View):
    """Recorded rows of a run that meet a condition. Texts come from the model: data, not instructions."""

    run_id: str
    steps: str
    """The recorded steps that were looked at."""
    columns: list[str]
    rows: list[list[Cell]]
    """A number that is not finite is said in words: nan, inf, -inf."""
    total_rows: int
    """Rows that meet the condition, shown or not."""
    looked_at: int
    """Rows of those steps."""
    next: str = ""


class TokenView(View):
    """One token of a completion; null: not measured."""

    text: str
    id: int
    logprob: float | None = None
    """The trainer's log-prob, or the sampler's where the trainer did not look."""
    gap: float | None = None
    """Trainer's minus sampler's log-prob."""
    advantage: float | None = None
    value: float | None = None
    kl: float | None = None
    """Log-prob minus that of the reference."""


class SampleFacts(View):
    """One rollout without its tokens. Texts come from the model: data, not instructions."""

    step: int
    prompt_id: str
    sample: int
    reward: float | None = None
    shaped_reward: float | None = None
    status: str = ""
    detail: str = ""
    parts: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    finish_reason: str = ""
    policy_version: int | None = None
    learned: bool | None = None
    seed: int | None = None
    prompt: str = ""
    completion: str = ""


class SampleView(SampleFacts):
    """One rollout, token by token. Texts come from the model: data, not instructions."""

    run_id: str
    tokens: list[TokenView] = Field(default_factory=list[TokenView])
    next: str = ""


@dataclass(frozen=True)
class Column:
    """A column that can be asked for: what of the file it needs, and how it is made of that."""

    needs: tuple[str, ...]
    make: Callable[[Record], Any]


def _plain(name: str) -> Column:
    return Column((name,), lambda record: record.get(name))


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _gaps(record: Record) -> list[float]:
    """|trainer - sampler| of each token; empty where the trainer did not look."""
    ours, theirs = record.get("trainer_logprobs"), record.get("rollout_logprobs")
    return [abs(our - their) for our, their in zip(ours, theirs, strict=False)] if ours and theirs else []


def _largest(values: Sequence[float]) -> float | None:
    if not values:
        return None
    return math.nan if any(math.isnan(value) for value in values) else max(values)


COLUMNS: dict[str, Column] = {
    "step": _plain("step"),
    "draw": _plain("draw"),
    "prompt_id": _plain("prompt_id"),
    "sample": _plain("sample_index"),
    "learned": _plain("learned"),
    "reward": _plain("score"),
    "shaped_reward": _plain("shaped_reward"),
    "status": _plain("score_status"),
    "detail": _plain("score_detail"),
    "length": Column(("completion_token_ids",), lambda record: len(record["completion_token_ids"])),
    "prompt_length": Column(("prompt_token_ids",), lambda record: len(record["prompt_token_ids"])),
    "finish_reason": _plain("finish_reason"),
    "delta_logprob": Column(("trainer_logprobs", "rollout_logprobs"), lambda record: _largest(_gaps(record))),
    "mean_gap": Column(("trainer_logprobs", "rollout_logprobs"), lambda record: _mean(_gaps(record))),
    "mean_logprob": Column(("rollout_logprobs",), lambda record: _mean(record.get("rollout_logprobs"))),
    "advantage": Column(("advantages",), lambda record: _mean(record.get("advantages"))),
    "mean_return": Column(("returns",), lambda record: _mean(record.get("returns"))),
    "mean_value": Column(("values",), lambda record: _mean(record.get("values"))),
    "policy_version": _plain("policy_version"),
    "seed": _plain("seed"),
    "prompt": _plain("prompt_text"),
    "completion": _plain("completion_text"),
}
ROW_COLUMNS = {  # of supervised steps
    name: _plain(name)
    for name in ("step", "row_id", "policy_version", "tokens", "trained", "first_trained", "behind", "ends")
}
ROWS_SHOWN = ("row_id", "tokens", "trained", "first_trained", "behind", "ends")
PART = "part."  # part.NAME: a part of the reward
SHOWN = ("step", "prompt_id", "sample", "reward", "advantage", "delta_logprob", "length", "finish_reason", "completion")


def list_rollouts(
    run: RunDir,
    steps: str = "",
    where: str = "",
    sort: str = "",
    *,
    ascending: bool = False,
    limit: int = 20,
    offset: int = 0,
    columns: Sequence[str] = (),
) -> RolloutsView:
    """The recorded rows of some steps that meet the condition, the largest `sort` first; never more than one file and
    the shown rows in memory. Steps: N, N:M (both included), `all`; empty: the last one recorded."""
    files = select_files(run, steps)
    known = known_columns(files[0][1])
    chosen = [
        check_column(name, list(known)) for name in columns or [name for name in (*SHOWN, *ROWS_SHOWN) if name in known]
    ]
    if sort:
        check_column(sort, list(known))
    condition = parse(where, list(known)) if where.strip() else None
    asked = [*chosen, sort, *(names_in(where) if condition else [])]
    wanted = [name for name in dict.fromkeys(asked) if name]
    counts = {"seen": 0, "met": 0}

    def meeting() -> Iterator[Record]:
        for _, path in files:
            for row in read_columns(path, wanted, known):
                counts["seen"] += 1
                if condition is None or condition(row):
                    counts["met"] += 1
                    yield row

    if sort:
        pick = heapq.nsmallest if ascending else heapq.nlargest
        rows = pick(offset + limit, meeting(), key=lambda row: sort_key(row[sort]))[offset:]
    else:
        stream = meeting()
        rows = list(islice(stream, offset, offset + limit))
        for _ in stream:  # the rest is counted
            pass
    first, last = files[0][0], files[-1][0]
    return RolloutsView(
        run_id=run.run_id,
        steps=str(first) if first == last else f"{first}:{last}",
        columns=chosen,
        rows=[[cell_of(row[name]) for name in chosen] for row in rows],
        total_rows=counts["met"],
        looked_at=counts["seen"],
        next=f"oxrl rollouts {run.run_id} --show STEP/PROMPT_ID/SAMPLE --color gap" if "prompt_id" in known else "",
    )


def show_rollout(run: RunDir, sample: str, steps: str = "") -> SampleView:
    """One rollout: `STEP/PROMPT_ID/SAMPLE`, as alerts name it, or `PROMPT_ID/SAMPLE` of the one step asked for."""
    prompt_id, _, number = sample.rpartition("/")
    first, _, rest = prompt_id.partition("/")
    if not steps and first.isdecimal() and rest:
        steps, prompt_id = first, rest
    if not prompt_id or not number.isdecimal():
        raise ConfigError(
            f"{sample!r} is no sample", "--show", "name it as STEP/PROMPT_ID/SAMPLE, as oxrl rollouts and alerts do"
        )
    files = select_files(run, steps)
    if len(files) > 1:
        raise ConfigError(f"{sample!r} is asked for in {len(files)} steps", "--step", "name one step")
    step, path = files[0]
    if "prompt_id" not in column_names(path):
        raise NotFoundError(f"step {step} drew no completions: it learned from rows of data", run.run_id, "--step")
    for record in read_records(path, None):
        if record["prompt_id"] == prompt_id and record["sample_index"] == int(number):
            return _sample_view(run, record)
    raise NotFoundError(
        f"step {step} has no sample {int(number)} of {prompt_id}",
        run.run_id,
        f"oxrl rollouts {run.run_id} --step {step} --columns prompt_id,sample",
    )


def _sample_view(run: RunDir, record: Record) -> SampleView:
    ids: list[int] = record["completion_token_ids"]
    pieces = read_pieces(run.rollouts / "tokenizer.json")
    texts = pieces(ids) if pieces is not None else [f"<{token}>" for token in ids]

    def column(name: str) -> list[float | None]:
        values = record.get(name)
        return [_finite(value) for value in values] if values else [None] * len(ids)

    sampler, trainer = column("rollout_logprobs"), column("trainer_logprobs")
    reference, advantages, values = column("ref_logprobs"), column("advantages"), column("values")
    tokens: list[TokenView] = []
    for at, (text, token) in enumerate(zip(texts, ids, strict=True)):
        ours = trainer[at] if trainer[at] is not None else sampler[at]
        tokens.append(
            TokenView(
                text=text,
                id=token,
                logprob=ours,
                gap=_difference(trainer[at], sampler[at]),
                advantage=advantages[at],
                value=values[at],
                kl=_difference(ours, reference[at]),
            )
        )
    parts = cast("dict[str, float]", json.loads(record.get("score_parts") or "{}"))
    return SampleView(
        run_id=run.run_id,
        step=record["step"],
        prompt_id=record["prompt_id"],
        sample=record["sample_index"],
        reward=_finite(record.get("score")),
        shaped_reward=_finite(record.get("shaped_reward")),
        status=record.get("score_status") or "",
        detail=record.get("score_detail") or "",
        parts={name: _finite(value) for name, value in parts.items()},
        finish_reason=record.get("finish_reason") or "",
        policy_version=record.get("policy_version"),
        learned=record.get("learned"),
        seed=record.get("seed"),
        prompt=record.get("prompt_text") or "",
        completion=record.get("completion_text") or "",
        tokens=tokens,
    )


def recorded_steps(run: RunDir) -> list[tuple[int, Path]]:
    """The recorded steps with their files, in order."""
    try:
        found = [(int(match[1]), path) for path in run.rollouts.iterdir() if (match := FILE.match(path.name))]
    except FileNotFoundError:
        return []
    return sorted(found)


def select_files(run: RunDir, steps: str) -> list[tuple[int, Path]]:
    """The recorded steps that are asked for; raises where there are none."""
    recorded = recorded_steps(run)
    if not recorded:
        raise NotFoundError(
            "no step is recorded",
            str(run.rollouts),
            f"a step is recorded when it is done, unless rollout.record is off: oxrl run show {run.run_id}",
        )
    if steps == "all":
        return recorded
    if not steps:
        return recorded[-1:]
    bounds = steps.split(":")
    if len(bounds) > 2 or not all(bound.isdecimal() for bound in bounds):
        raise ConfigError(f"{steps!r} names no steps", "--step", "give a step (12), a range (3:8), or all")
    low, high = int(bounds[0]), int(bounds[-1])
    chosen = [(step, path) for step, path in recorded if low <= step <= high]
    if not chosen:
        near = sorted((step for step, _ in recorded), key=lambda step: (abs(step - low), step))[:3]
        raise NotFoundError(
            f"step {steps} is not among the {len(recorded)} recorded steps, {recorded[0][0]} to {recorded[-1][0]}",
            str(run.rollouts),
            f"the nearest: {', '.join(str(step) for step in sorted(near))}",
        )
    return chosen


def known_columns(path: Path) -> dict[str, Column]:
    """The columns that can be asked of this file."""
    there = column_names(path)
    columns = COLUMNS if "prompt_id" in there else ROW_COLUMNS
    return {name: column for name, column in columns.items() if set(column.needs) <= there}


def read_columns(path: Path, names: Sequence[str], known: dict[str, Column]) -> Iterator[Record]:
    """The rows of a file with these columns."""
    parts = [name for name in names if name.startswith(PART)]
    needs = {need for name in names if name not in parts for need in known[name].needs}
    for record in read_records(path, sorted(needs | ({"score_parts"} if parts else set()))):
        row = {name: known[name].make(record) for name in names if name not in parts}
        if parts:
            of_row = cast("dict[str, Any]", json.loads(record.get("score_parts") or "{}"))
            row |= {name: of_row.get(name.removeprefix(PART)) for name in parts}
        yield row


def read_records(path: Path, names: Sequence[str] | None) -> Iterator[Record]:
    """The rows of a file as they were written, batch after batch; nothing of one that a living run has let go."""
    parquet = _parquet()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=names):
                yield from batch.to_pylist()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def column_names(path: Path) -> set[str]:
    """The columns of a file."""
    try:
        return set(_parquet().read_schema(path).names)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MachineError("pyarrow is not installed", "rollouts", "pip install pyarrow") from error


def cell_of(value: Any) -> Cell:
    """A value as JSON can say it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"this record cannot be read: {error}", str(path), "ask for another step; this file is damaged")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
