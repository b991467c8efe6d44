"""The catalogue of datasets, and rows of any source in one form.

A normalised row has `id` ("<dataset>/<split>/<index>"), `prompt` (text or messages), where the source has them
`completion` and `answer` (text), and `row`: the source's row as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from oxrl_core.discover import Catalogue, Function, summary_of
from oxrl_core.errors import ConfigError, DataError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Message, Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import DatasetConfig

RowsFunction = TypeVar("RowsFunction", bound=Callable[[str, int], Sequence[Row]])

PROMPT_COLUMNS = ("prompt", "question", "instruction", "problem", "input", "messages")
COMPLETION_COLUMNS = ("completion", "response", "output", "answer", "solution")
ANSWER_COLUMNS = ("answer", "solution", "label", "target")


@dataclass(frozen=True)
class Dataset:
    """A function `rows(split, seed)` with the name it is called by and the splits that it has."""

    name: str
    rows: Callable[[str, int], Sequence[Row]]
    splits: tuple[str, ...] = ("train",)
    summary: str = ""


def _describe(name: str, function: Function) -> Dataset:
    return Dataset(name, function, splits=(), summary=summary_of(function))  # no splits: somebody's own, it knows


_catalogue: Catalogue[Dataset] = Catalogue("dataset", "oxrl_core.datasets", _describe)


def dataset(name: str, splits: Sequence[str] = ("train",)) -> Callable[[RowsFunction], RowsFunction]:
    """A decorator that registers `rows(split, seed)` under a name and returns it unchanged."""

    def register(function: RowsFunction) -> RowsFunction:
        _catalogue.add(name, function, Dataset(name, function, tuple(splits), summary_of(function)))
        return function

    return register


def get_dataset(name: str) -> Dataset:
    """The built-in dataset of that name, or of your own function at `package.module:function`."""
    return _catalogue.get(name)


def all_datasets() -> dict[str, Dataset]:
    """Every built-in dataset, by name."""
    return _catalogue.all()


def is_path(name: str) -> bool:
    """Whether a dataset's name means a local file or folder rather than a built-in dataset."""
    from oxrl_core.datasets import files

    return "/" in name or name.startswith("~") or Path(name).suffix in files.READERS or Path(name).is_dir()


def load_rows(source: DatasetConfig, seed: int) -> list[Row]:
    """The rows of a built-in dataset, a local file or folder, or a dataset of the hub, in one form."""
    from oxrl_core.datasets import files

    if source.name.startswith("hub:"):
        rows, label = files.read_hub(source.name.removeprefix("hub:"), source.split), source.name
        places: Sequence[str] = ()
    elif source.name not in all_datasets() and is_path(source.name):
        rows, places = files.read_path(Path(source.name).expanduser(), source.split, source.limit)
        # Two parts of the path: the same file keeps its ids, and so its sampling seeds, on another machine.
        label = "/".join(Path(source.name).parts[-2:]).lstrip("/")
    else:
        rows, label, places = _built_in(source, seed), source.name, ()
    if source.limit is not None:
        rows = rows[: source.limit]
    if not rows:
        raise DataError("the dataset has no rows", where=source.name, next_step="check its file and split")
    columns = _columns(source, rows)
    normalised: list[Row] = []
    for index, row in enumerate(rows):
        place = places[index] if places else f"{source.name}, row {index}"
        normalised.append(_normalise(row, f"{label}/{source.split}/{index}", columns, place))
    return normalised


def _built_in(source: DatasetConfig, seed: int) -> Sequence[Row]:
    entry = get_dataset(source.name)
    if entry.splits and source.split not in entry.splits:
        raise ConfigError(
            f"{source.name} has no split {source.split!r}.{did_you_mean(source.split, entry.splits)}",
            where="data.split",
            next_step=f"its splits are: {', '.join(entry.splits)}",
        )
    return entry.rows(source.split, seed)


@dataclass(frozen=True)
class _Columns:
    prompt: str
    completion: str | None
    answer: str | None


def _columns(source: DatasetConfig, rows: Sequence[Row]) -> _Columns:
    """Which column is what: the named ones, or the first of the usual names."""
    there = list(dict.fromkeys(name for row in rows[:100] for name in row))

    def find(role: str, named: str | None, usual: Sequence[str]) -> str | None:
        if named is None:
            return next((name for name in usual if name in there), None)
        if named not in there:
            raise DataError(
                f"there is no column {named!r}.{did_you_mean(named, there)}",
                where=source.name,
                next_step=f"set data.{role}_column to one of: {', '.join(there)}",
            )
        return named

    prompt = find("prompt", source.prompt_column, PROMPT_COLUMNS)
    if prompt is None:
        raise DataError(
            f"no column is a prompt; it has: {', '.join(there)}",
            where=source.name,
            next_step=f"name it in prompt_column, or call it one of: {', '.join(PROMPT_COLUMNS)}",
        )
    completion = find("completion", source.completion_column, [name for name in COMPLETION_COLUMNS if name != prompt])
    answer = find("answer", source.answer_column, [name for name in ANSWER_COLUMNS if name != prompt])
    return _Columns(prompt, completion, answer)


def _normalise(row: Row, row_id: str, columns: _Columns, place: str) -> Row:
    if row.get(columns.prompt) is None:
        raise DataError(
            f"the column {columns.prompt!r} is missing",
            where=place,
            next_step="give every row a prompt, or remove the row",
        )
    prompt = _prompt(row[columns.prompt], columns.prompt, place)
    completion = _completion(row.get(columns.completion) if columns.completion else None, columns.completion, place)
    if completion is None and not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
        # A whole conversation: its last turn is what the model is to say.
        *prompt, last = prompt
        completion = last["content"]
        if not prompt:
            raise DataError("the conversation is one assistant message", place, "begin it with a user message")
    normalised: Row = {"id": row_id, "prompt": prompt, "row": row}
    if completion is not None:
        normalised["completion"] = completion
    answer = row.get(columns.answer) if columns.answer else None
    if answer is not None:
        is_text = isinstance(answer, str)
        normalised["answer"] = answer if is_text else json.dumps(answer, ensure_ascii=False, default=str)
    return normalised


def _prompt(value: Any, column: str, place: str) -> str | list[Message]:
    """Text that is not empty, or messages with a role and a content each."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        return [_message(item, column, place) for item in cast("Sequence[Any]", value)]
    raise DataError(
        f"the column {column!r} holds {_short(value)}: neither text nor messages",
        where=place,
        next_step='a prompt is a text, or a list of {"role": "user", "content": "..."}',
    )


def _message(item: Any, column: str, place: str) -> Message:
    if isinstance(item, Mapping):
        role, content = (cast("Mapping[str, Any]", item).get(key) for key in ("role", "content"))
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise DataError(
        f"the column {column!r} holds a message without role and content: {_short(item)}",
        where=place,
        next_step='write each message as {"role": "user", "content": "..."}',
    )


def _completion(value: Any, column: str | None, place: str) -> str | None:
    """Text; also of a number, or of one assistant message."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, Sequence) and len(cast("Sequence[Any]", value)) == 1 and column is not None:
        return _message(value[0], column, place)["content"]
    raise DataError(
        f"the column {column!r} holds {_short(value)}, which is no text",
        where=place,
        next_step="name the column of the completion in completion_column",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
