"""Whether the data is there, holds what this kind of training looks at, and fits into config and model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from oxrl_core.config.case import Case
from oxrl_core.config.check_model import ModelFacts
from oxrl_core.config.machine import is_offline
from oxrl_core.config.schema import DatasetConfig
from oxrl_core.errors import OxrlError
from oxrl_core.types import Row

BIG_FILE_BYTES = 256 * 1024**2  # above it only the first rows of a file are read
FIRST_ROWS = 1000
MAX_TOKENIZED_ROWS = 2000


@dataclass
class DataFacts:
    """Rows that could be read."""

    train: list[Row] = field(default_factory=list[Row])
    eval: list[Row] = field(default_factory=list[Row])
    num_rows: int | None = 0


def look_at_data(case: Case) -> DataFacts:
    data = DataFacts()
    counts: list[int | None] = []
    for index, source in enumerate(case.config.data.train):
        rows, count = _rows(case, source, f"data.train.{index}")
        data.train += rows
        counts.append(count)
    for index, source in enumerate(case.config.data.eval):
        rows, _ = _rows(case, source, f"data.eval.{index}")
        data.eval += rows
    known = [count for count in counts if count is not None]
    data.num_rows = sum(known) if len(known) == len(counts) else None
    _columns(case, data.train, "data.train")
    _columns(case, data.eval, "data.eval")
    held_out = {_text(row["prompt"]) for row in data.eval}
    shared = held_out & {_text(row["prompt"]) for row in data.train}
    if shared:
        case.warning(
            "leak",
            "data.eval",
            f"{len(shared)} of {len(held_out)} held-out prompts are also training prompts",
            "choose another split or file, else the evaluation measures memory",
        )
    return data


def _rows(case: Case, source: DatasetConfig, where: str) -> tuple[list[Row], int | None]:
    """The rows as the run will read them, and how many there are (None: not known before the download)."""
    from oxrl_core.datasets.base import load_rows

    if source.name.startswith("hub:") or (source.name == "gsm8k" and not os.environ.get("OXRL_GSM8K_DIR")):
        case.downloads.append(source.name)
        if find_spec("datasets") is None:
            case.error("MachineError", where, "hub datasets need the package datasets", 'install "oxrl[train]"')
        elif is_offline():
            case.warning(
                "offline",
                where,
                f"{source.name} comes from the hub, and HF_HUB_OFFLINE forbids to download it",
                "it must be in the cache already; or name a local file",
            )
        return [], source.limit
    path = Path(source.name).expanduser()
    is_cut = source.limit is None and path.is_file() and path.stat().st_size > BIG_FILE_BYTES
    try:
        rows = load_rows(source.model_copy(update={"limit": FIRST_ROWS}) if is_cut else source, case.config.run.seed)
    except OxrlError as error:
        case.caught(error, f"{where} = {source.name}")
        return [], None
    except OSError as error:
        case.error("DataError", f"{where} = {source.name}", f"cannot be read: {error}", "check its permissions")
        return [], None
    if not rows:
        case.error("DataError", f"{where} = {source.name}", "the dataset is empty", "check its file, split and limit")
    return rows, None if is_cut else len(rows)


def _columns(case: Case, rows: Sequence[Row], where: str) -> None:
    """Whether the rows hold what this kind of training looks at."""
    if not rows:
        return
    if case.kind == "sl":
        lacking = [row["id"] for row in rows if not row.get("completion")]
        if lacking:
            case.error(
                "DataError",
                where,
                f"{len(lacking)} of {len(rows)} rows have no completion to learn from, first {lacking[0]}",
                "name its column in completion_column, or remove these rows",
            )
    elif not any(row.get("answer") for row in rows):
        is_own = ":" in case.config.reward.name  # it may need no reference
        (case.warning if is_own else case.error)(
            "DataError",
            where,
            f"no row has a reference answer for the reward '{case.config.reward.name}' to compare with",
            "name its column in answer_column" + (", unless the reward needs none" if is_own else ""),
        )


def check_lengths(case: Case, model: ModelFacts, data: DataFacts) -> None:
    """Whether prompts and examples fit into the limits of the config and of the model."""
    if case.kind == "rl":
        most = case.config.rollout.max_completion_tokens
        if model.context is not None and most >= model.context:
            case.error(
                "ConfigError",
                "rollout.max_completion_tokens",
                f"a completion of {most} tokens leaves a prompt no room: the model reads {model.context} tokens",
                f"set it well below {model.context}",
            )
            return
        _fit(case, data.train, "data.train", model, "data.max_prompt_tokens", case.config.data.max_prompt_tokens, most)
        _fit(case, data.eval, "data.eval", model, "data.max_prompt_tokens", case.config.data.max_prompt_tokens, most)
    else:
        _fit(case, data.train, "data.train", model, "data.max_length", case.config.data.max_length, 0)
        _fit(case, data.eval, "data.eval", model, "data.max_length", case.config.data.max_length, 0)


def _fit(case: Case, rows: Sequence[Row], where: str, model: ModelFacts, key: str, limit: int, room: int) -> None:
    count = model.least_tokens
    if count is None or not rows:
        return
    what = "prompts" if case.kind == "rl" else "examples"
    sizes = _token_counts(rows, case.kind, count, limit, (model.context or limit) - room)
    long = [size for size in sizes if size > limit]
    is_error = bool(long) and (case.config.data.overlong == "error" or len(long) == len(rows))
    if long:
        (case.error if is_error else case.warning)(
            "DataError",
            where,
            f"{len(long)} of {len(rows)} {what} have more than {key} = {limit} tokens (the longest {max(long)})"
            + ("" if is_error else "; they are dropped"),
            f"raise {key}" + ("" if is_error else ", unless that is meant"),
        )
    kept = [size for size in sizes if size <= limit]
    if model.context is not None and kept and max(kept) + room > model.context:
        case.error(
            "ConfigError",
            where,
            f"a {what[:-1]} of {max(kept)} tokens"
            + (f" and a completion of {room}" if room else "")
            + f" do not fit into the model, which reads {model.context} tokens",
            f"set {key} to at most {max(1, model.context - room)}"
            + (", or lower rollout.max_completion_tokens" if room else ""),
        )


def _token_counts(rows: Sequence[Row], kind: str, count: Callable[[str], int], limit: int, fits: int) -> list[int]:
    """At least so many tokens has each row; only texts that could be too long are tokenized."""
    sizes: list[int] = []
    tokenized = 0
    for row in rows:
        text = _text(row["prompt"]) + (str(row.get("completion") or "") if kind == "sl" else "")
        if len(text.encode()) <= min(limit, fits):  # a token is at least one byte
            sizes.append(0)
            continue
        tokenized += 1
        sizes.append(count(text) if tokenized <= MAX_TOKENIZED_ROWS else 0)
    return sizes


def _text(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    messages = cast("Sequence[dict[str, str]]", prompt)
    return "\n".join(str(message.get("content", "")) for message in messages)
