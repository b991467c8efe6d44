"""Whether the data is there, holds what the algorithm learns from, and fits into config and model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from oxrl_core.algorithms.base import COMPLETION_LESSONS, JUDGED_LESSONS
from oxrl_core.config.case import Case
from oxrl_core.config.check_model import ModelFacts
from oxrl_core.config.lesson_rows import missing_columns, named
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
        kept = _usable(case, rows, f"data.train.{index}")
        data.train += kept
        count = None if count is None else count - len(rows) + len(kept)
        counts.append(count)
    for index, source in enumerate(case.config.data.eval):
        rows, _ = _rows(case, source, f"data.eval.{index}")
        data.eval += _usable(case, rows, f"data.eval.{index}")
    known = [count for count in counts if count is not None]
    data.num_rows = sum(known) if len(known) == len(counts) else None
    _columns(case, data.train, "data.train")
    _columns(case, data.eval, "data.eval")
    held_out = {_question(row) for row in data.eval}
    shared = held_out & {_question(row) for row in data.train}
    if shared:
        what = "prompts" if "prompt" in data.eval[0] else "texts"
        case.warning(
            "leak",
            "data.eval",
            f"{len(shared)} of {len(held_out)} held-out {what} are also training {what}",
            "choose another split or file, else the evaluation measures memory",
        )
    return data


def _rows(case: Case, source: DatasetConfig, where: str) -> tuple[list[Row], int | None]:
    """The rows as the run will read them, and how many there are (None: not known before the download)."""
    from oxrl_core.datasets.base import all_datasets, read_rows
    from oxrl_core.datasets.lazy import Endless

    known = all_datasets().get(source.name)
    is_downloaded = known is not None and known.hub_id != "" and not os.environ.get(known.folder_variable)
    if source.name.startswith("hub:") or is_downloaded:
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
        looked_at = source.model_copy(update={"limit": FIRST_ROWS}) if is_cut else source
        loaded = read_rows(looked_at, case.config.run.seed, strict=case.config.data.strict)
    except OxrlError as error:
        case.caught(error, f"{where} = {source.name}")
        return [], None
    except OSError as error:
        case.error("DataError", f"{where} = {source.name}", f"cannot be read: {error}", "check its permissions")
        return [], None
    if loaded.bad:
        case.warning(
            "bad_rows",
            where,
            f"{len(loaded.bad)} rows cannot be used and are left out; the first: {loaded.bad[0].where}: "
            f"{loaded.bad[0].what}",
            f"mend them (oxrl data validate {source.name} lists all), or set data.strict to stop at the first",
        )
    rows = list(loaded.rows[:FIRST_ROWS]) if isinstance(loaded.rows, Endless) else list(loaded.rows)
    return rows, None if is_cut else len(loaded.rows)


def _usable(case: Case, rows: Sequence[Row], where: str) -> list[Row]:
    """The rows that hold what the algorithm learns from. The others are left out, and an error where none is usable."""
    lesson = case.algorithm.lesson
    lacking: dict[str, list[Row]] = {}
    kept: list[Row] = []
    for row in rows:
        missing = missing_columns(row, lesson, case.config.data.train_on)
        for key in missing:
            lacking.setdefault(key, []).append(row)
        if not missing:
            kept.append(row)
    is_error = case.config.data.strict or not kept
    for key, bad in lacking.items():
        what = key if key == "prompt" else f"{named(key)} to learn from"
        (case.error if is_error else case.warning)(
            "DataError",
            where,
            f"{len(bad)} of {len(rows)} rows have no {what}, first {bad[0]['id']}"
            + ("" if is_error else "; they are left out"),
            f"name its column in {key}_column, or remove these rows",
        )
    return kept


def _columns(case: Case, rows: Sequence[Row], where: str) -> None:
    """Whether the rows together hold what the algorithm learns from."""
    if not rows:
        return
    lesson = case.algorithm.lesson
    if lesson == "pairs":
        _differences(case, rows, where)
    if lesson == "labeled" and where == "data.train":
        _both_labels(case, rows, where)
    if lesson in JUDGED_LESSONS:
        _answers(case, rows, where)


def _differences(case: Case, rows: Sequence[Row], where: str) -> None:
    """A pair whose two completions are the same teaches nothing."""
    same = [row for row in rows if row.get("chosen") and row["chosen"] == row.get("rejected")]
    if same:
        is_error = case.config.data.overlong == "error" or len(same) == len(rows)
        (case.error if is_error else case.warning)(
            "DataError",
            where,
            f"in {len(same)} of {len(rows)} rows the chosen completion is the rejected one, first {same[0]['id']}"
            + ("" if is_error else "; they are dropped"),
            "remove these rows, or check chosen_column and rejected_column",
        )


def _both_labels(case: Case, rows: Sequence[Row], where: str) -> None:
    labels = {row["label"] for row in rows if "label" in row}
    if len(labels) == 1:
        case.warning(
            "labels",
            where,
            f"all completions are {'desirable' if True in labels else 'undesirable'}: there is nothing to tell apart",
            "add rows of the other kind, or check label_column",
        )


def _answers(case: Case, rows: Sequence[Row], where: str) -> None:
    """Whether the reward finds something to compare with."""
    from oxrl_core.rewards.base import all_rewards

    name = case.config.reward.name
    is_own = ":" in name  # it may need no reference
    known = all_rewards().get(name)
    if any(row.get("answer") for row in rows) or not (is_own or (known is not None and known.needs_answer)):
        return
    (case.warning if is_own else case.error)(
        "DataError",
        where,
        f"no row has a reference answer for the reward '{name}' to compare with",
        "name its column in answer_column" + (", unless the reward needs none" if is_own else ""),
    )


def check_lengths(case: Case, model: ModelFacts, data: DataFacts) -> None:
    """Whether prompts and examples fit into the limits of the config and of the model."""
    room = case.config.rollout.max_completion_tokens if case.kind == "rl" else 0
    if room and model.context is not None and room >= model.context:
        case.error(
            "ConfigError",
            "rollout.max_completion_tokens",
            f"a completion of {room} tokens leaves a prompt no room: the model reads {model.context} tokens",
            f"set it well below {model.context}",
        )
        return
    for rows, where in ((data.train, "data.train"), (data.eval, "data.eval")):
        if case.kind == "rl":
            limit = case.config.data.max_prompt_tokens
            _fit(case, rows, where, model, "prompts", "data.max_prompt_tokens", limit, room)
        if case.kind == "sl" or case.algorithm.lesson in COMPLETION_LESSONS:
            what = {"pairs": "pairs", "documents": "texts"}.get(case.algorithm.lesson, "examples")
            _fit(case, rows, where, model, what, "data.max_length", case.config.data.max_length, 0)


def _fit(
    case: Case, rows: Sequence[Row], where: str, model: ModelFacts, what: str, key: str, limit: int, room: int
) -> None:
    count = model.least_tokens
    if count is None or not rows:
        return
    texts = [_content(row, what) for row in rows]
    sizes = _token_counts(texts, count, limit, (model.context or limit) - room)
    if what == "texts":
        sizes = [min(size, limit) for size in sizes]  # a longer one becomes several windows
    long = [size for size in sizes if size > limit]
    is_cut = case.config.data.overlong in ("left", "right")
    is_error = bool(long) and (case.config.data.overlong == "error" or (len(long) == len(rows) and not is_cut))
    if long:
        (case.error if is_error else case.warning)(
            "DataError",
            where,
            f"{len(long)} of {len(rows)} {what} have more than {key} = {limit} tokens (the longest {max(long)})"
            + ("" if is_error else "; they are cut" if is_cut else "; they are dropped"),
            f"raise {key}" + ("" if is_error else ", unless that is meant"),
        )
    kept = [min(size, limit) for size in sizes if is_cut or size <= limit]
    if model.context is not None and kept and max(kept) + room > model.context:
        case.error(
            "ConfigError",
            where,
            f"{'an' if what == 'examples' else 'a'} {what[:-1]} of {max(kept)} tokens"
            + (f" and a completion of {room}" if room else "")
            + f" do not fit into the model, which reads {model.context} tokens",
            f"set {key} to at most {max(1, model.context - room)}"
            + (", or lower rollout.max_completion_tokens" if room else ""),
        )


def _token_counts(texts: Sequence[str], count: Callable[[str], int], limit: int, fits: int) -> list[int]:
    """At least so many tokens has each text; only those that could be too long are tokenized."""
    sizes: list[int] = []
    tokenized = 0
    for text in texts:
        if len(text.encode()) <= min(limit, fits):  # a token is at least one byte
            sizes.append(0)
            continue
        tokenized += 1
        sizes.append(count(text) if tokenized <= MAX_TOKENIZED_ROWS else 0)
    return sizes


def _question(row: Row) -> str:
    """What is asked: the same words about another picture or sound are another question."""
    from oxrl_core.datasets.media import digest_of_media

    return _opening(row) + digest_of_media(row)


def _opening(row: Row) -> str:
    """The text of the prompt, or of a row that is nothing but text."""
    prompt: object = row.get("prompt", row.get("text", ""))
    if isinstance(prompt, str):
        return prompt
    messages = cast("Sequence[dict[str, str]]", prompt)
    return "\n".join(str(message.get("content", "")) for message in messages)


def _content(row: Row, what: str) -> str:
    """All that is read of a row at once."""
    if what == "prompts":
        return _opening(row)
    if what == "texts" and "text" in row:
        return str(row["text"])
    return _opening(row) + max((str(row.get(key) or "") for key in ("completion", "chosen", "rejected")), key=len)
