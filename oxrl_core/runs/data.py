"""Looking at data: rows as a model reads them, what is wrong with rows, rows in one form on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from oxrl_core.algorithms.base import COMPLETION_LESSONS, get_algorithm
from oxrl_core.config.lesson_rows import check_row
from oxrl_core.config.load import load_config
from oxrl_core.config.schema import Config, DatasetConfig
from oxrl_core.datasets.base import all_datasets, each_row, is_path, read_rows
from oxrl_core.datasets.columns import Columns
from oxrl_core.errors import DataError, NotFoundError, OxrlError, RunFailure, UserError
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.types import Media, Row

VIEW_MODULE = "oxrl_core.train.data_view"  # spawned by name: it imports torch
VIEW_DEADLINE_SECONDS = 300.0
MEASURED_ROWS = 256  # rows whose lengths are counted
SHOWN_ROWS = 3
FIRST_BAD = 5
FORM_KEYS = ("prompt", "completion", "answer", "chosen", "rejected", "margin", "label", "text")


class Span(BaseModel):
    """A run of tokens, and whether they are trained on."""

    text: str
    trained: bool


class ShownExample(BaseModel):
    """One row of tokens."""

    tokens: int
    trained: int
    spans: list[Span] = []


class ShownRow(BaseModel):
    """A row in one form, and what the model reads of it."""

    id: str
    fields: dict[str, Any]
    examples: list[ShownExample] = []
    problem: str = ""


class Lengths(BaseModel):
    """The lengths of the first rows, in tokens where there is a model, else in characters."""

    what: str
    rows: int
    shortest: int
    median: int
    p90: int
    longest: int


class BadRow(BaseModel):
    """A row that cannot be used: where it stands and why."""

    where: str
    reason: str
    fix: str = ""


class DataInspection(BaseModel):
    """A dataset as a run reads it."""

    name: str
    split: str
    num_rows: int
    num_bad: int
    columns: dict[str, str]
    lesson: str
    model: str = ""
    lengths: list[Lengths] = []
    notes: dict[str, int] = {}
    first_bad: list[BadRow] = []
    rows: list[ShownRow] = []


class DataProblems(BaseModel):
    """Every row that cannot be used."""

    num_rows: int
    num_bad: int
    items: list[BadRow]


class PreparedData(BaseModel):
    """Rows that were written in one form."""

    path: str
    num_rows: int
    num_bad: int
    first_bad: list[BadRow] = []
    next: str = ""


def inspect_data(
    name: str, overrides: Sequence[str] = (), *, row: int | None = None, model: str = "", index: int = 0
) -> DataInspection:
    """The dataset (or the `index`-th one of a configuration): counts, columns, lengths, and rows as they are read."""
    config, is_config = _config_of(name, overrides, model)
    source = config.data.train[index]
    loaded = read_rows(source, config.run.seed, strict=False)
    if row is not None and not 0 <= row < len(loaded.rows):
        raise NotFoundError(f"there is no row {row}", source.name, f"it has {len(loaded.rows)} rows, the first is 0")
    at = [row] if row is not None else list(range(min(SHOWN_ROWS, len(loaded.rows))))
    looked_at = list(dict.fromkeys([*at, *range(min(MEASURED_ROWS, len(loaded.rows)))]))
    rows = [loaded.rows[number] for number in looked_at]
    lesson = get_algorithm(config.algorithm.name).lesson if is_config else _lesson_of(rows[0])
    shown = [ShownRow(id=one["id"], fields=_form(one)) for one in rows[: len(at)]]
    view = DataInspection(
        name=source.name,
        split=source.split,
        num_rows=len(loaded.rows),
        num_bad=len(loaded.bad),
        columns=_named(loaded.columns),
        lesson=lesson,
        first_bad=[_bad(error) for error in loaded.bad[:FIRST_BAD]],
        rows=shown,
    )
    if not (is_config or model):
        keys = [key for key in FORM_KEYS if any(isinstance(one.get(key), str | list) for one in rows)]
        view.lengths = [
            _lengths(f"characters of {key}", [_characters(one[key]) for one in rows if key in one]) for key in keys
        ]
        return view
    rendered = _rendered(config, lesson, rows, len(at))
    view.model, view.notes = config.model.path, cast("dict[str, int]", rendered["notes"])
    examples: list[dict[str, Any]] = []
    for number, found in enumerate(cast("list[dict[str, Any]]", rendered["rows"])):
        examples += found["examples"]
        if number < len(shown):
            shown[number].examples = [_example(example) for example in found["examples"]]
            shown[number].problem = _problem(found)
    if examples:
        view.lengths = [_lengths("tokens", [one["tokens"] for one in examples])]
        if any(one["trained"] for one in examples):
            view.lengths.append(_lengths("trained tokens", [one["trained"] for one in examples]))
    return view


def validate_data(name: str, overrides: Sequence[str] = ()) -> DataProblems:
    """Every row of the dataset, or of all datasets of a configuration, that cannot be used, with place and reason."""
    config, is_config = _config_of(name, overrides, "")
    check = check_row(get_algorithm(config.algorithm.name).lesson, config.data.train_on) if is_config else None
    items: list[BadRow] = []
    num_rows = 0
    for source in (*config.data.train, *config.data.eval):
        for row, place in _each(source, config.run.seed):
            if isinstance(row, DataError):
                items.append(_bad(row))
                continue
            lacks = check(row, place) if check is not None else None
            if lacks is not None:
                items.append(_bad(lacks))
            else:
                num_rows += 1
    return DataProblems(num_rows=num_rows, num_bad=len(items), items=items)


def prepare_data(
    name: str, target: Path, overrides: Sequence[str] = (), *, strict: bool = False, force: bool = False
) -> PreparedData:
    """The dataset's rows in one form, written as lines of JSON; what is in memory does not grow with their number."""
    config, is_config = _config_of(name, overrides, "")
    if is_config:
        raise UserError("a configuration is no dataset", name, "name one of its datasets: `oxrl datasets`, or a file")
    if target.suffix != ".jsonl":
        raise UserError("the file must end in .jsonl", str(target), "write --to rows.jsonl")
    if target.exists() and not force:
        raise UserError("there is a file already", str(target), "name another one, or replace it with --force")
    (source,) = config.data.train
    columns, entries = each_row(source, config.run.seed)
    unfinished = target.with_name(f".{target.name}-{os.getpid()}")
    num_rows, bad = 0, list[DataError]()
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for row, _ in entries:
                if not isinstance(row, DataError):
                    file.write(json.dumps(_line(row, columns), ensure_ascii=False, default=str) + "\n")
                    num_rows += 1
                elif strict:
                    raise row
                else:
                    bad.append(row)
        unfinished.replace(target)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", str(target), "name a place with room") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return PreparedData(
        path=str(target),
        num_rows=num_rows,
        num_bad=len(bad),
        first_bad=[_bad(error) for error in bad[:FIRST_BAD]],
        next=f"oxrl data inspect {target}",
    )


def _config_of(name: str, overrides: Sequence[str], model: str) -> tuple[Config, bool]:
    """The configuration of that name, or one that has the dataset of that name; and which of the two it is."""
    said = [f"model.path={model}"] if model else []
    if not is_dataset(name):
        return load_config(name, [*overrides, *said]).config, True
    keys = [text if text.startswith(("data.", "run.", "algorithm.")) else f"data.train.0.{text}" for text in overrides]
    mapping = {"run": {"name": "data"}, "model": {"path": "miniature:chars"}, "data": {"train": [{"name": name}]}}
    return load_config(mapping, [*keys, *said]).config, False


def is_dataset(name: str) -> bool:
    """Whether the name is that of a dataset; else it is a configuration's."""
    if Path(name).suffix in (".yaml", ".yml"):
        return False
    return name in all_datasets() or ":" in name or is_path(name)


def _each(source: DatasetConfig, seed: int) -> Iterator[tuple[Row | DataError, str]]:
    """The entries of a source; what is wrong with all of it is one of them."""
    try:
        yield from each_row(source, seed)[1]
    except DataError as error:
        yield error, error.where


def _lesson_of(row: Row) -> str:
    """What such a row is there to be learned from."""
    if "chosen" in row:
        return "pairs"
    if "label" in row and "completion" in row:
        return "labeled"
    if "completion" in row:
        return "examples"
    return "documents" if "prompt" not in row else "advantages"


def _rendered(config: Config, lesson: str, rows: Sequence[Row], num_shown: int) -> dict[str, Any]:
    """What the process below the torch line says about the rows."""
    request = {
        "config": config.model_dump(mode="json"),
        "home": str(oxrl_home()),
        "lesson": lesson,
        "needs_completion": lesson in COMPLETION_LESSONS,
        "rows": rows,
        "shown": list(range(num_shown)),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", VIEW_MODULE],
            input=json.dumps(request, default=_plain),
            capture_output=True,
            text=True,
            timeout=VIEW_DEADLINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailure(
            f"the rows were not rendered within {VIEW_DEADLINE_SECONDS:.0f} s", config.model.path, "try a smaller model"
        ) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if "error" in answer:
        kind = UserError if answer["user"] else OxrlError
        raise kind(answer["error"]["what"], answer["error"]["where"], answer["error"]["next"])
    if "rows" not in answer:
        last = (done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1]
        raise RunFailure(f"the rows cannot be rendered: {last}", config.model.path, "oxrl doctor")
    return answer


def _plain(value: object) -> object:
    """A value of a row as JSON: media with their bytes, anything else as its text."""
    if isinstance(value, Media):
        return {"kind": value.kind, "data": b64encode(value.data).decode("ascii"), "path": value.path}
    return str(value)


def _example(found: dict[str, Any]) -> ShownExample:
    runs = [Span(trained=trained, text=text) for trained, text in found.get("spans", [])]
    return ShownExample(tokens=found["tokens"], trained=found["trained"], spans=runs)


def _problem(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"]["what"])
    return "" if found["examples"] else "dropped: too long, or a pair of the same completions"


def _form(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in FORM_KEYS if key in row}


def _named(columns: Columns) -> dict[str, str]:
    found = {key: getattr(columns, key) for key in FORM_KEYS}
    return {key: name for key, name in found.items() if name is not None}


def _bad(error: DataError) -> BadRow:
    return BadRow(where=error.where, reason=error.what, fix=error.next_step)


def _line(row: Row, columns: Columns) -> dict[str, Any]:
    """The row in one form, with the columns of the source that are none of its parts: rewards may need them."""
    used = {*_named(columns).values(), *FORM_KEYS}
    return {key: value for key, value in cast("Row", row["row"]).items() if key not in used} | _form(row)


def _characters(value: str | list[dict[str, Any]]) -> int:
    return len(value) if isinstance(value, str) else sum(len(str(message.get("content", ""))) for message in value)


def _lengths(what: str, sizes: Sequence[int]) -> Lengths:
    ordered = sorted(islice(sizes, None))
    last = len(ordered) - 1
    return Lengths(
        what=what,
        rows=len(ordered),
        shortest=ordered[0],
        median=ordered[last // 2],
        p90=ordered[round(0.9 * last)],
        longest=ordered[-1],
    )
