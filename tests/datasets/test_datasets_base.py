"""Rows of any source in one form, and bad input answered with its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import all_datasets, get_dataset, load_rows
from oxrl_core.errors import ConfigError, DataError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "gsm8k"
BUILT_IN = ("reverse3", "reverse4", "copy3")
DIGITS = {"reverse3": "012345", "reverse4": "01234", "copy3": "0123456789"}


def load(name: str | Path, **settings: Any) -> list[dict[str, Any]]:
    return load_rows(DatasetConfig(name=str(name), **settings), seed=0)


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# Built-in datasets


@pytest.mark.parametrize(("name", "split"), [(name, split) for name in BUILT_IN for split in ("train", "eval")])
def test_every_built_in_row_is_whole_and_its_id_names_it(name: str, split: str) -> None:
    rows = load(name, split=split)
    assert get_dataset(name).summary
    assert [row["id"] for row in rows] == [f"{name}/{split}/{index}" for index in range(len(rows))]
    for row in rows:
        digits = row["prompt"].removesuffix(">")
        assert row["answer"] == (digits if name == "copy3" else digits[::-1])
        assert row["completion"] == row["answer"]
        assert set(digits) <= set(DIGITS[name])


@pytest.mark.parametrize(
    ("name", "num_train", "num_eval"), [("reverse3", 180, 36), ("reverse4", 521, 104), ("copy3", 834, 166)]
)
def test_held_out_prompts_never_occur_in_training_whatever_the_seeds(name: str, num_train: int, num_eval: int) -> None:
    train = {row["prompt"] for row in load_rows(DatasetConfig(name=name), seed=1)}
    held_out = {row["prompt"] for row in load_rows(DatasetConfig(name=name, split="eval"), seed=2)}
    assert (len(train), len(held_out)) == (num_train, num_eval)
    assert not train & held_out


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_digit_is_seen_in_training_at_every_position(name: str) -> None:
    prompts = [row["prompt"].removesuffix(">") for row in load(name)]
    for position in range(len(prompts[0])):
        assert {prompt[position] for prompt in prompts} == set(DIGITS[name])


def test_reverse3_reads_as_documented() -> None:
    rows = [*load("reverse3"), *load("reverse3", split="eval")]
    assert [row["answer"] for row in rows if row["prompt"] == "420>"] == ["024"]


def test_a_misspelt_name_and_split_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'reverse3'"):
        load("revers3")
    with pytest.raises(ConfigError, match=r"no split 'evals'\. Did you mean 'eval'"):
        load("reverse3", split="evals")
    assert "gsm8k" in all_datasets()


def test_gsm8k_rows_from_a_local_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXRL_GSM8K_DIR", str(FIXTURES))
    rows = load("gsm8k")
    assert (len(rows), len(load("gsm8k", split="test"))) == (300, 60)
    first = rows[0]
    assert first["id"] == "gsm8k/train/0"
    assert first["prompt"].startswith("Natalia sold clips to 48 of her friends in April")
    assert first["answer"] == "72"
    assert first["completion"].endswith("in April and May.\n#### 72")


def test_a_folder_that_is_not_gsm8k_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "train.jsonl", {"question": "2 + 2?", "answer": "4"})
    monkeypatch.setenv("OXRL_GSM8K_DIR", str(tmp_path))
    with pytest.raises(DataError, match="not a row of GSM8K"):
        load("gsm8k")


# Local files


def test_gsm8k_as_a_local_file_has_question_solution_and_answer() -> None:
    rows = load(FIXTURES / "train.jsonl")
    assert len(rows) == 300
    assert rows[0]["id"] == "gsm8k/train.jsonl/train/0"
    assert rows[0]["completion"] == rows[0]["answer"] == rows[0]["row"]["answer"]
    assert rows[0]["answer"].endswith("#### 72")


def test_a_folder_gives_the_files_of_the_split() -> None:
    assert len(load(FIXTURES, split="test")) == 60
    with pytest.raises(DataError, match=r"no file of the split 'validation'; it has: test\.jsonl, train\.jsonl"):
        load(FIXTURES, split="validation")


ROWS = [{"prompt": "1+1=", "answer": "2", "note": "a, b\nc"}, {"prompt": "2+2=", "answer": "4", "note": 'q"q'}]


def write(path: Path) -> Path:
    if path.suffix == ".jsonl":
        return write_lines(path, *ROWS)
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = load(write(tmp_path / f"sums{suffix}"))
    assert [row["row"] for row in rows] == ROWS
    assert [(row["prompt"], row["answer"], row["completion"]) for row in rows] == [
        ("1+1=", "2", "2"),
        ("2+2=", "4", "4"),
    ]
    assert len(load(tmp_path / f"sums{suffix}", limit=1)) == 1


def test_shards_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for index in range(3):
        rows = [{"prompt": f"{index}"}]
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"train-{index:05d}-of-00003.parquet")
    (tmp_path / "README.md").write_text("not data")
    assert [row["prompt"] for row in load(tmp_path)] == ["0", "1", "2"]
    assert [row["prompt"] for row in load(tmp_path, limit=2)] == ["0", "1"]


def test_columns_are_found_by_usual_names_or_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"problem": "p", "solution": "s", "target": "t", "mine": "m", "extra": 1})
    (row,) = load(path)
    assert (row["prompt"], row["completion"], row["answer"]) == ("p", "s", "s")
    (row,) = load(path, prompt_column="mine", completion_column="target", answer_column="extra")
    assert (row["prompt"], row["completion"], row["answer"]) == ("m", "t", "1")


def test_answers_that_are_no_text_become_text(tmp_path: Path) -> None:
    rows = load(
        write_lines(tmp_path / "a.jsonl", *({"prompt": "p", "label": label} for label in (7, 0, 2.5, [1, "x"], True)))
    )
    assert [row["answer"] for row in rows] == ["7", "0", "2.5", '[1, "x"]', "true"]


def test_a_conversation_ends_with_what_the_model_is_to_say(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (row,) = load(write_lines(tmp_path / "a.jsonl", {"messages": messages}))
    assert (row["prompt"], row["completion"]) == (messages[:1], "hello")
    (row,) = load(write_lines(tmp_path / "b.jsonl", {"prompt": messages[:1], "completion": messages[1:]}))
    assert (row["prompt"], row["completion"]) == (messages[:1], "hello")
    (row,) = load(write_lines(tmp_path / "c.jsonl", {"messages": messages[:1], "answer": "42"}))
    assert (row["prompt"], row["answer"]) == (messages[:1], "42")


GOOD = {"prompt": "p", "answer": "a"}


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.jsonl", '{"prompt": "p"}\n\n{"prompt": \n', "a.jsonl, line 3", "not JSON"),
        ("a.jsonl", '{"prompt": "p"}\n[1]\n', "a.jsonl, line 2", "no object but list"),
        ("a.jsonl", '{"prompt": "p"}\n{"answer": "a"}\n', "a.jsonl, line 2", "column 'prompt' is missing"),
        ("a.jsonl", '{"prompt": ""}\n', "a.jsonl, line 1", "neither text nor messages"),
        ("a.jsonl", '{"prompt": 7}\n', "a.jsonl, line 1", "neither text nor messages"),
        ("a.jsonl", '{"prompt": ["hi"]}\n', "a.jsonl, line 1", "without role and content"),
        ("a.jsonl", '{"prompt": "p", "completion": {"a": 1}}\n', "a.jsonl, line 1", "no text"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}\n', "line 1", "one assistant message"),
        ("a.jsonl", "", "a.jsonl", "no rows"),
        ("a.jsonl", '{"body": "p", "label": 1}\n', "a.jsonl", "no column is a prompt; it has: body, label"),
        ("a.json", '[{"prompt": "p"},\n 3]', "a.json, row 1", "no object but int"),
        ("a.json", '{"prompt": "p"}\n{"prompt": "p"}\n', "a.json, line 2", "not JSON"),
        ("a.json", '{"prompt": "p"}', "a.json", "no list of rows"),
        ("a.csv", "prompt,answer\np,a\nq\n", "a.csv, line 3", "not the 2 columns"),
        ("a.csv", "prompt,answer\np,a,b\n", "a.csv, line 2", "not the 2 columns"),
        ("a.csv", "prompt,answer\n", "a.csv", "no rows"),
        ("a.parquet", "not parquet", "a.parquet", "not parquet"),
        ("a.txt", "prompt", "a.txt", "cannot end in '.txt'"),
    ],
)
def test_bad_input_is_named_with_file_and_line(tmp_path: Path, name: str, content: str, where: str, what: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=what) as caught:
        load(tmp_path / name)
    assert where in caught.value.where
    assert caught.value.next_step


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        load(tmp_path / "a.jsonl")


def test_a_missing_file_or_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"no such file or folder. Did you mean 'train\.jsonl'"):
        load(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"no column 'promt'\. Did you mean 'prompt'") as caught:
        load(path, prompt_column="promt")
    assert "prompt, answer" in caught.value.next_step


def test_the_hubs_datasets_that_cannot_be_had_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load("hub:nobody/no-such-dataset")
    assert caught.value.where == "hub:nobody/no-such-dataset, split train"


def test_a_dataset_of_ones_own_is_found_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rows.py").write_text("def rows(split, seed):\n    return [{'prompt': f'{split} {seed}'}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_rows(DatasetConfig(name="own_rows:rows"), seed=5)[0]["prompt"] == "train 5"
