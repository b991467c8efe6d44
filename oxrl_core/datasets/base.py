"""The catalogue of datasets, and rows of any source in one form.

A normalised row has `id` ("<dataset>/<split>/<index>"), `row` (the source's row as it was), and where the source has
them `prompt` (text or messages), `completion`, `answer`, `chosen`, `rejected`, `text` (text), `margin` (a number) and
`label` (whether the completion is desirable). Every row has a prompt or a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from oxrl_core.datasets.columns import columns_of, normalise
from oxrl_core.discover import Catalogue, Function, summary_of
from oxrl_core.errors import ConfigError, DataError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import DatasetConfig

RowsFunction = TypeVar("RowsFunction", bound=Callable[[str, int], Sequence[Row]])


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
    columns = columns_of(source, rows)
    normalised: list[Row] = []
    for index, row in enumerate(rows):
        place = places[index] if places else f"{source.name}, row {index}"
        normalised.append(normalise(row, f"{label}/{source.split}/{index}", columns, place))
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
