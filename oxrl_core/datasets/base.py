"""The catalogue of datasets, and rows of any source in one form.

A normalised row has `id` ("<dataset>/<split>/<index>"), `row` (the source's row as it was), and where the source has
them `prompt` (text or messages), `completion`, `answer`, `chosen`, `rejected`, `text` (text), `margin` (a number) and
`label` (whether the completion is desirable). Every row has a prompt or a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from oxrl_core.datasets import files
from oxrl_core.datasets.columns import Columns, columns_of, normalise
from oxrl_core.datasets.lazy import Endless, IndexedRows
from oxrl_core.datasets.sources import LAZY_BYTES, Others, Source, sources_of
from oxrl_core.discover import Catalogue, Function, summary_of
from oxrl_core.errors import ConfigError, DataError
from oxrl_core.parameters import Parameters, parameters_of
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import DatasetConfig

RowsFunction = TypeVar("RowsFunction", bound=Callable[..., Sequence[Row] | Sequence[Row | DataError]])

CheckRow = Callable[[Row, str], DataError | None]  # of a row and where it stands: why it cannot be used

Made = Sequence[Row] | Sequence[Row | DataError]

FIRST_ROWS = 100  # by these the columns are found


@dataclass(frozen=True)
class Dataset:
    """A function `rows(split, seed, *, parameters)` with its name, its splits, and what a configuration may set.

    Among its rows may be errors: they say why a row of the source cannot be used.
    """

    name: str
    rows: Callable[..., Sequence[Row] | Sequence[Row | DataError]]
    splits: tuple[str, ...] = ("train",)
    summary: str = ""
    parameters: Parameters = field(default_factory=lambda: Parameters({}))
    hub_id: str = ""  # where its rows are downloaded from; empty: they are made on the spot
    folder_variable: str = ""  # the environment variable that names a local copy instead


@dataclass(frozen=True)
class Loaded:
    """The rows of a source in one form, and why the others are not among them."""

    rows: Sequence[Row]
    bad: list[DataError]
    columns: Columns


def _describe(name: str, function: Function) -> Dataset:
    # No splits: somebody's own, it knows.
    return Dataset(name, function, splits=(), summary=summary_of(function), parameters=_parameters(function))


_catalogue: Catalogue[Dataset] = Catalogue("dataset", "oxrl_core.datasets", _describe)


def dataset(
    name: str, splits: Sequence[str] = ("train",), *, hub_id: str = "", folder_variable: str = ""
) -> Callable[[RowsFunction], RowsFunction]:
    """A decorator that registers `rows(split, seed, *, parameters)` under a name and returns it unchanged."""

    def register(function: RowsFunction) -> RowsFunction:
        summary, parameters = summary_of(function), _parameters(function)
        entry = Dataset(name, function, tuple(splits), summary, parameters, hub_id, folder_variable)
        _catalogue.add(name, function, entry)
        return function

    return register


def _parameters(function: Function) -> Parameters:
    return parameters_of(function, "a dataset", may_require=True, num_inputs=2)


def get_dataset(name: str) -> Dataset:
    """The built-in dataset of that name, or of your own function at `package.module:function`."""
    return _catalogue.get(name)


def all_datasets() -> dict[str, Dataset]:
    """Every built-in dataset, by name."""
    return _catalogue.all()


def is_path(name: str) -> bool:
    """Whether a dataset's name means a local file or folder rather than a built-in dataset."""
    return "/" in name or name.startswith("~") or Path(name).suffix in files.READERS or Path(name).is_dir()


def load_rows(source: DatasetConfig, seed: int) -> Sequence[Row]:
    """The rows of a source in one form; the first one that cannot be read is raised."""
    return read_rows(source, seed, strict=True).rows


def read_rows(
    source: DatasetConfig, seed: int, *, strict: bool, lazy_bytes: int = LAZY_BYTES, check: CheckRow | None = None
) -> Loaded:
    """The rows of a built-in dataset, a local file or folder, or a dataset of the hub, in one form.

    A row that cannot be read is raised where that is asked for, else it stands in `bad`; so does one that `check` finds
    something wrong with. What is wrong with the whole source is always raised, and so is a source of which every row is
    bad. Of files that are larger than `lazy_bytes`, and of the hub, only the places of the rows are in memory.
    """
    made = None if _is_file(source) else _made(source, seed)
    if isinstance(made, Endless) and source.limit is None:
        return _endless(source, made)
    columns, entries = _with_columns(source, _entries(source, made), strict=strict)
    sources = _lazy_sources(source, made, lazy_bytes)
    if sources:
        return _lazy(source, sources, columns, strict=strict, check=check)
    rows: list[Row] = []
    bad: list[DataError] = []
    for entry, place in _normalised(source, columns, entries):
        row = _checked(entry, place, check)
        if not isinstance(row, DataError):
            rows.append(row)
        elif strict:
            raise row
        else:
            bad.append(row)
    return Loaded(_not_empty(source, rows, bad), bad, columns)


def each_row(source: DatasetConfig, seed: int) -> tuple[Columns, Iterator[files.Entry]]:
    """The columns, and every row in one form or why it cannot be read, with where it stands.

    They come one after the other: never more than a few are in memory.
    """
    made = None if _is_file(source) else _made(source, seed)
    columns, entries = _with_columns(source, _entries(source, made), strict=False)
    return columns, _normalised(source, columns, entries)


def _is_hub(source: DatasetConfig) -> bool:
    return source.name.startswith("hub:")


def _is_file(source: DatasetConfig) -> bool:
    return not _is_hub(source) and source.name not in all_datasets() and is_path(source.name)


def _path(source: DatasetConfig) -> Path:
    return Path(source.name).expanduser()


def _label(source: DatasetConfig) -> str:
    """What the ids of a source's rows begin with."""
    # Two parts of the path: the same file keeps its ids, and so its sampling seeds, on another machine.
    name = "/".join(Path(source.name).parts[-2:]).lstrip("/") if _is_file(source) else source.name
    return f"{name}/{source.split}"


def _entries(source: DatasetConfig, made: Made | None) -> Iterator[files.Entry]:
    """The rows as the source has them, each with where it stands."""
    if made is None:
        return files.read_path(_path(source), source.split, source.limit)
    rows: Iterable[Row | DataError] = made
    if isinstance(made, Endless) and source.limit is not None:
        rows = (made.make(index) for index in range(source.limit))  # as many as asked for, whatever an epoch has
    return islice(((row, _place(source, index)) for index, row in enumerate(rows)), source.limit)


def _place(source: DatasetConfig, index: int) -> str:
    return f"{source.name} {source.split}, row {index}"


def _with_columns(
    source: DatasetConfig, entries: Iterator[files.Entry], *, strict: bool
) -> tuple[Columns, Iterator[files.Entry]]:
    """What the columns are, and the entries again, of which the first ones have been looked at."""
    first: list[files.Entry] = []
    rows: list[Row] = []
    for entry in entries:
        first.append(entry)
        if not isinstance(entry[0], DataError):
            rows.append(entry[0])
        elif strict:
            raise entry[0]
        if len(rows) == FIRST_ROWS:
            break
    _not_empty(source, rows, [row for row, _ in first if isinstance(row, DataError)])
    return columns_of(source, rows), chain(first, entries)


def _normalised(source: DatasetConfig, columns: Columns, entries: Iterator[files.Entry]) -> Iterator[files.Entry]:
    label = _label(source)
    for index, (row, place) in enumerate(entries):
        yield (row if isinstance(row, DataError) else _tried(row, f"{label}/{index}", columns, place)), place


def _tried(row: Row, row_id: str, columns: Columns, place: str) -> Row | DataError:
    try:
        return normalise(row, row_id, columns, place)
    except DataError as error:
        return error


def _checked(row: Row | DataError, place: str, check: CheckRow | None) -> Row | DataError:
    error = None if check is None or isinstance(row, DataError) else check(row, place)
    return row if error is None else error


def _not_empty(source: DatasetConfig, rows: Sequence[Row], bad: Sequence[DataError]) -> Sequence[Row]:
    if rows:
        return rows
    if bad:
        raise DataError(
            f"none of its {len(bad)} rows can be used; the first: {bad[0].what}", bad[0].where, bad[0].next_step
        )
    raise DataError("the dataset has no rows", where=source.name, next_step="check its file and split")


def _endless(source: DatasetConfig, made: Endless) -> Loaded:
    columns = columns_of(source, [made.make(0)])
    label = _label(source)

    def finished(index: int) -> Row:
        return normalise(made.make(index), f"{label}/{index}", columns, f"{source.name}, row {index}")

    return Loaded(Endless(finished, made.epoch_rows), [], columns)


def _lazy_sources(source: DatasetConfig, made: Made | None, lazy_bytes: int) -> list[Source]:
    """What is to be read row by row; nothing where all the rows may be in memory, or are there already."""
    if made is not None:
        is_there = isinstance(made, list | tuple | Endless)
        return [] if is_there else [Others(made, partial(_place, source))]
    paths = files.files_of(_path(source), source.split)
    return sources_of(paths) if sum(files.size_of(path) for path in paths) > lazy_bytes else []


def _lazy(
    source: DatasetConfig, sources: Sequence[Source], columns: Columns, *, strict: bool, check: CheckRow | None
) -> Loaded:
    """The rows of sources that are read through once, so that every bad one is known, and then only when asked for."""
    label = _label(source)
    rows = IndexedRows[Row](lambda row, number, place: normalise(row, f"{label}/{number}", columns, place))
    bad: list[DataError] = []
    number = 0
    for one in sources:
        rows.add_source(one)
        left = None if source.limit is None else source.limit - number
        for row, place, key in islice(one.scan(), left):
            tried = row if isinstance(row, DataError) else _tried(row, f"{label}/{number}", columns, place)
            tried = _checked(tried, place, check)
            if not isinstance(tried, DataError):
                rows.add_row(key, number)
            elif strict:
                raise tried
            else:
                bad.append(tried)
            number += 1
    _not_empty(source, rows, bad)
    return Loaded(rows, bad, columns)


def _made(source: DatasetConfig, seed: int) -> Made:
    if _is_hub(source):
        return files.read_hub(source.name.removeprefix("hub:"), source.split)
    entry = get_dataset(source.name)
    if entry.splits and source.split not in entry.splits:
        raise ConfigError(
            f"{source.name} has no split {source.split!r}.{did_you_mean(source.split, entry.splits)}",
            where="data.split",
            next_step=f"its splits are: {', '.join(entry.splits)}",
        )
    params = entry.parameters.fill(source.params, section=source.name, owner=source.name)
    return entry.rows(source.split, seed, **params)
