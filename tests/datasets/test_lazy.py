"""Rows made when they are asked for, rows without end, and bad rows: none is lost in silence."""

from __future__ import annotations

import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.data.stream import RowStream
from oxrl_core.datasets.base import each_row, load_rows, read_rows
from oxrl_core.datasets.lazy import Endless, IndexedRows
from oxrl_core.errors import DataError
from oxrl_core.types import Progress, Row

LINES = [
    '\ufeff{"prompt": "1+1=", "answer": "2"}',
    '{"prompt": "torn',
    "",
    '{"prompt": "größer?", "answer": "ja"}',
    '{"answer": "no prompt"}',
    '{"prompt": "2+2=", "answer": 4}',
]


def source(path: Path, **settings: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"name": str(path), **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train-0.jsonl").write_text("\n".join(LINES), encoding="utf-8")
    (tmp_path / "train-1.jsonl").write_text('{"prompt": "last", "answer": "z"}\r\n', encoding="utf-8")
    return tmp_path


def test_rows_that_are_read_one_by_one_are_those_that_are_read_at_once(folder: Path) -> None:
    whole = read_rows(source(folder), 0, strict=False)
    lazy = read_rows(source(folder), 0, strict=False, lazy_bytes=1)
    assert isinstance(whole.rows, list)
    assert isinstance(lazy.rows, IndexedRows)
    assert list(lazy.rows) == whole.rows
    assert [row["prompt"] for row in whole.rows] == ["1+1=", "größer?", "2+2=", "last"]
    assert [row["id"].rpartition("/")[2] for row in whole.rows] == ["0", "2", "4", "5"]  # a bad row keeps its number
    assert lazy.rows[-1] == whole.rows[-1]
    assert lazy.rows[1:3] == whole.rows[1:3]
    assert [error.where for error in lazy.bad] == [error.where for error in whole.bad]
    assert pickle.loads(pickle.dumps(whole)).rows == whole.rows  # noqa: S301 - our own bytes
    with pytest.raises(IndexError):
        lazy.rows[4]


def test_bad_rows_are_named_by_file_line_and_reason(folder: Path) -> None:
    bad = read_rows(source(folder), 0, strict=False).bad
    assert [(Path(error.where).name, error.what.split(":")[0]) for error in bad] == [
        ("train-0.jsonl, line 2", "the line is not JSON"),
        ("train-0.jsonl, line 5", "the column 'prompt' is missing"),
    ]


@pytest.mark.parametrize("lazy_bytes", [1, 10**9])
def test_strict_stops_at_the_first_bad_row(folder: Path, lazy_bytes: int) -> None:
    with pytest.raises(DataError, match="not JSON") as caught:
        read_rows(source(folder), 0, strict=True, lazy_bytes=lazy_bytes)
    assert caught.value.where.endswith("train-0.jsonl, line 2")


def test_a_source_of_bad_rows_alone_is_refused_with_the_first_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt"\n[1]\n')
    with pytest.raises(DataError, match="none of its 2 rows can be used; the first: the line is not JSON"):
        read_rows(source(tmp_path / "a.jsonl"), 0, strict=False)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["good", "torn", "list", "empty", "no prompt"]), min_size=1, max_size=30))
def test_every_line_is_a_row_or_a_named_reason(tmp_path_factory: pytest.TempPathFactory, kinds: list[str]) -> None:
    lines = {"good": '{"prompt": "p"}', "torn": "{", "list": "[1]", "empty": '{"prompt": ""}', "no prompt": '{"a": 1}'}
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(lines[kind] + "\n" for kind in [*kinds, "good"]))
    for lazy_bytes in (0, 10**9):
        loaded = read_rows(source(path), 0, strict=False, lazy_bytes=lazy_bytes)
        assert len(loaded.rows) + len(loaded.bad) == len(kinds) + 1
        numbers = [int(error.where.rpartition(" ")[2]) for error in loaded.bad]
        assert numbers == [number for number, kind in enumerate(kinds, start=1) if kind != "good"]


def test_a_line_of_csv_that_is_torn_does_not_hide_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,answer\na,1\n"b"x,2\nc,3\nd\n')
    loaded = read_rows(source(tmp_path / "a.csv"), 0, strict=False)
    assert [row["prompt"] for row in loaded.rows] == ["a", "c"]
    assert [Path(error.where).name for error in loaded.bad] == ["a.csv, line 3", "a.csv, line 5"]


def test_a_file_that_changes_under_a_run_stops_it(folder: Path) -> None:
    rows = read_rows(source(folder), 0, strict=False, lazy_bytes=1).rows
    (folder / "train-1.jsonl").write_text('{"prompt": "other", "answer": "zz"}\n')
    assert rows[0]["prompt"] == "1+1="
    with pytest.raises(DataError, match="has changed since"):
        rows[3]


def test_rows_of_a_generator_pass_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{number}"}) + "\n" for number in range(500)))
    columns, entries = each_row(source(path), 0)
    assert columns.prompt == "prompt"
    first = next(entries)[0]
    assert not isinstance(first, DataError)
    assert first["prompt"] == "0"
    assert sum(1 for _ in entries) == 499


# Rows without end


def arithmetic(seed: int = 0, **settings: Any) -> Sequence[Row]:
    return load_rows(DatasetConfig.model_validate({"name": "arithmetic", **settings}), seed)


@settings(deadline=None)
@given(
    st.sampled_from(["add", "subtract", "multiply", "mixed"]),
    st.integers(2, 5),
    st.integers(1, 4),
    st.integers(0, 10**9),
    st.integers(0, 99),
)
def test_sums_are_right_and_any_row_is_made_without_those_before_it(
    operation: str, terms: int, digits: int, index: int, seed: int
) -> None:
    chosen: dict[str, Any] = {"operation": operation, "terms": terms, "digits": digits}
    row = arithmetic(seed, **chosen)[index]
    expression = row["prompt"].removesuffix("=")
    assert str(eval(expression)) == row["answer"] == row["completion"]  # noqa: S307 - digits and signs
    assert arithmetic(seed, **chosen)[index] == row
    assert row["id"] == f"arithmetic/train/{index}"


def test_no_sum_is_in_both_splits_whatever_the_seeds() -> None:
    train = {row["prompt"] for seed in range(3) for row in arithmetic(seed, digits=1, epoch_rows=400)}
    held_out = {row["prompt"] for seed in range(3) for row in arithmetic(seed, split="eval", digits=1, epoch_rows=400)}
    assert train and held_out and not train & held_out


def test_a_stream_of_endless_rows_meets_none_twice_and_resumes_anywhere() -> None:
    rows = Endless(lambda index: {"id": f"{index}"}, epoch_rows=7)
    fixed = [{"id": f"f{index}"} for index in range(5)]
    progress = Progress()
    stream = RowStream([rows, fixed], [1.0, 1.0], 0, True, progress)
    seen = [row["id"] for row in stream.take(60)]
    made = [name for name in seen if not name.startswith("f")]
    assert made == [str(index) for index in range(len(made))]
    for at in (0, 1, 11, 12, 13, 59):
        again = RowStream([rows, fixed], [1.0, 1.0], 0, True, Progress(epoch=at // 12, row_cursor=at % 12))
        assert again.take(1)[0]["id"] == seen[at]


def test_a_limit_makes_a_fixed_set_of_endless_rows() -> None:
    rows = arithmetic(limit=12, epoch_rows=5)
    assert isinstance(rows, list)
    assert len(rows) == 12
    assert rows[7] == arithmetic()[7]


# Every kind of source, row by row


def write_kind(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    return path


TEXTS = ["plain", 'a "quoted", comma', "two\nlines", "größer €😀", "three\r\n\r\nlines", ", ", "x" * 5000]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OXRL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".json"])
def test_a_lazy_source_gives_the_rows_ids_and_bad_rows_of_one_that_is_in_memory(
    tmp_path: Path, home: Path, suffix: str
) -> None:
    prompts = [f"{number} {TEXTS[number % 7]}" if number % 6 else "" for number in range(60)]
    rows = [{"prompt": prompt, "answer": str(number)} for number, prompt in enumerate(prompts)]
    path = write_kind(tmp_path / f"train{suffix}", rows)
    whole = read_rows(source(path), 0, strict=False)
    lazy = read_rows(source(path), 0, strict=False, lazy_bytes=0)
    assert isinstance(whole.rows, list) and isinstance(lazy.rows, IndexedRows)
    assert list(lazy.rows) == whole.rows
    assert [lazy.rows[index] for index in (49, 0, 31, -1, 7)] == [whole.rows[index] for index in (49, 0, 31, -1, 7)]
    assert len(whole.bad) == 10
    assert [str(error) for error in lazy.bad] == [str(error) for error in whole.bad]
    some = read_rows(source(path, limit=20), 0, strict=False, lazy_bytes=0)
    assert list(some.rows) == whole.rows[: len(some.rows)] and len(some.rows) + len(some.bad) == 20
    left = list((home / "cache" / "rows").iterdir()) if (home / "cache").exists() else []
    assert left == []  # the copy has no name: nothing is left, however the process ends


def test_a_folder_of_several_kinds_is_one_source_of_which_any_row_can_be_asked(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, suffix in enumerate((".csv", ".jsonl", ".parquet", ".json")):
        rows = [{"prompt": f"{number}.{at}", "answer": "a"} for at in range(9)]
        write_kind(folder / f"train-{number}{suffix}", rows)
    whole = read_rows(source(folder), 0, strict=True).rows
    lazy = read_rows(source(folder), 0, strict=True, lazy_bytes=0).rows
    ratios = [1.0, 3.0]
    in_memory = RowStream([whole, whole[:5]], ratios, 7, True, Progress())
    expected = [row["id"] for row in in_memory.take(90)]
    assert [row["id"] for row in RowStream([lazy, lazy[:5]], ratios, 7, True, Progress()).take(90)] == expected
    epoch = in_memory.rows_per_epoch
    for at in (1, 40, 41, 77):
        resumed = RowStream([lazy, lazy[:5]], ratios, 7, True, Progress(epoch=at // epoch, row_cursor=at % epoch))
        assert resumed.take(1)[0]["id"] == expected[at]


def test_a_csv_file_that_changes_under_a_run_stops_it(tmp_path: Path) -> None:
    path = write_kind(tmp_path / "train.csv", [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}])
    rows = read_rows(source(path), 0, strict=True, lazy_bytes=0).rows
    path.write_text("prompt,answer\nother,3\nanother,4\n")
    with pytest.raises(DataError, match="has changed since"):
        rows[1]


class Counted(Sequence[Row]):
    """Rows that know how many of them were asked for at once."""

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, index: Any) -> Any:
        if index >= 2000:
            raise IndexError(index)
        return {"prompt": "" if index == 3 else f"{index}"}


def counted(split: str, seed: int) -> Sequence[Row]:
    """Two thousand numbers, of which one is missing."""
    return Counted()


def test_rows_that_somebody_else_reads_are_not_collected() -> None:
    lazy = read_rows(DatasetConfig(name=f"{__name__}:counted"), 0, strict=False)
    assert isinstance(lazy.rows, IndexedRows)
    assert len(lazy.rows) == 1999
    assert [lazy.rows[index]["prompt"] for index in (2, 3, -1)] == ["2", "4", "1999"]
    assert lazy.rows[3]["id"].endswith("/train/4")
    assert [error.where.rpartition(", ")[2] for error in lazy.bad] == ["row 3"]


def test_the_memory_of_files_does_not_grow_with_them(tmp_path: Path) -> None:
    benchmark = Path(__file__).parents[2] / "benchmarks" / "streaming.py"
    limits = ["--mib", "45", "--kinds", "folder", "--lazy-bytes", "0", "--most-mib", "60"]
    done = subprocess.run(
        [sys.executable, str(benchmark), *limits],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OXRL_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory grew by" in done.stdout
