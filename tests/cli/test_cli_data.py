"""`oxrl data`: rows as a model reads them, bad rows by name, rows in one form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import load_rows

Command = Callable[..., tuple[int, str, str]]
BAD = '{"prompt": "1+1=", "answer": "2"}\n{"prompt": \n{"answer": "3"}\n{"prompt": "2+2=", "answer": "4"}\n'


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text(BAD)
    return path


def test_inspect_counts_rows_names_columns_and_measures_lengths(oxrl: Command, bad_file: Path) -> None:
    code, out, _ = oxrl("data", "inspect", bad_file)
    assert code == 0
    assert "2 rows, 2 bad ones left out; prompt from 'prompt', completion from 'answer'" in out
    assert "characters of prompt of the first 2: 4 to 4" in out
    assert f"bad: {bad_file}, line 2: the line is not JSON" in out
    assert "  prompt: 1+1=" in out


def test_inspect_as_json_is_one_object(oxrl: Command, bad_file: Path) -> None:
    code, out, _ = oxrl("data", "inspect", bad_file, "--row", "1", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["num_rows"], found["num_bad"], found["lesson"]) == (2, 2, "examples")
    assert [row["fields"]["prompt"] for row in found["rows"]] == ["2+2="]
    assert [bad["where"] for bad in found["first_bad"]] == [f"{bad_file}, line 2", f"{bad_file}, line 3"]


def test_a_row_that_is_not_there_and_a_parameter_that_is_none_are_answered(oxrl: Command) -> None:
    code, _, err = oxrl("data", "inspect", "reverse3", "--row", "180")
    assert (code, "it has 180 rows, the first is 0" in err) == (2, True)
    code, _, err = oxrl("data", "inspect", "arithmetic", "termz=3")
    assert (code, "Did you mean 'terms'" in err) == (2, True)
    code, _, err = oxrl("data", "inspect", "revers3.jsonl")
    assert (code, "no such file" in err) == (2, True)


def test_settings_of_a_dataset_choose_its_rows(oxrl: Command) -> None:
    code, out, _ = oxrl("data", "inspect", "arithmetic", "operation=multiply", "split=eval", "limit=7", "--json")
    found = json.loads(out)
    assert (code, found["num_rows"], found["split"]) == (0, 7, "eval")
    assert all("*" in row["fields"]["prompt"] for row in found["rows"])


def test_validate_lists_every_bad_row_and_ends_with_1(oxrl: Command, bad_file: Path, tmp_path: Path) -> None:
    code, out, _ = oxrl("data", "validate", bad_file, "--json")
    found = json.loads(out)
    assert (code, found["num_rows"], found["num_bad"]) == (1, 2, 2)
    assert [(item["where"], item["reason"].partition(":")[0]) for item in found["items"]] == [
        (f"{bad_file}, line 2", "the line is not JSON"),
        (f"{bad_file}, line 3", "the column 'prompt' is missing"),
    ]
    code, out, _ = oxrl("data", "validate", bad_file, "--strict", "--json")
    assert (code, len(json.loads(out)["items"])) == (1, 1)
    good = tmp_path / "good.jsonl"
    good.write_text('{"prompt": "p", "answer": "a"}\n')
    assert oxrl("data", "validate", good)[0] == 0
    code, out, _ = oxrl("data", "validate", tmp_path / "nothing.jsonl")
    assert (code, "no such file or folder" in out) == (1, True)


def test_validate_of_a_configuration_asks_for_what_its_algorithm_learns_from(
    oxrl: Command, config_file: Path, tmp_path: Path
) -> None:
    assert oxrl("data", "validate", config_file)[0] == 0
    rows = tmp_path / "pairs.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p", "answer": "a"}\n')
    code, out, _ = oxrl("data", "validate", config_file, f"data.train={rows}", "algorithm.name=dpo", "--json")
    (item,) = json.loads(out)["items"]
    assert code == 1
    assert item["where"].endswith("pairs.jsonl, line 2")
    assert "no chosen completion and no rejected completion to learn from" in item["reason"]


def test_prepared_rows_are_read_back_as_they_were(oxrl: Command, tmp_path: Path) -> None:
    for name in ("reverse3", "reverse3-pairs", "reverse3-labeled", "digits-text"):
        target = tmp_path / f"{name}.jsonl"
        assert oxrl("data", "prepare", name, "--to", target)[0] == 0
        before = load_rows(DatasetConfig(name=name), 0)
        after = load_rows(DatasetConfig(name=str(target)), 0)
        keys = ("prompt", "completion", "answer", "chosen", "rejected", "text", "label", "margin")
        form = [{key: row.get(key) for key in keys} for row in before]
        if name == "reverse3-labeled":  # a label is also read as an answer, of files alone
            form = [row | {"answer": json.dumps(row["label"])} for row in form]
        assert [{key: row.get(key) for key in keys} for row in after] == form


def test_prepare_keeps_the_columns_that_rewards_need_and_counts_bad_rows(oxrl: Command, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"problem": "p", "solution": "s", "level": 3, "tests": [1]}\n{"problem": 7}\n')
    code, out, _ = oxrl("data", "prepare", source, "--to", target, "--json")
    found = json.loads(out)
    assert (code, found["num_rows"], found["num_bad"]) == (0, 1, 1)
    assert found["first_bad"][0]["where"] == f"{source}, line 2"
    written = json.loads(target.read_text())
    assert written == {"level": 3, "tests": [1], "prompt": "p", "completion": "s", "answer": "s"}
    code, _, err = oxrl("data", "prepare", source, "--to", target)
    assert (code, "--force" in err) == (2, True)
    code, _, err = oxrl("data", "prepare", source, "--to", target, "--force", "--strict")
    assert (code, f"{source}, line 2" in err) == (2, True)
    assert json.loads(target.read_text()) == written  # what stood there is whole, and nothing half-written beside it
    assert sorted(path.name for path in tmp_path.glob("*")) == ["in.jsonl", "out.jsonl"]
    assert oxrl("data", "prepare", source, "--to", tmp_path / "out.csv")[0] == 2


@pytest.mark.engine
def test_inspect_shows_what_the_model_reads_and_what_is_trained_on(oxrl: Command) -> None:
    code, out, _ = oxrl("data", "inspect", "reverse3", "--model", "miniature:chars", "--row", "0")
    first = load_rows(DatasetConfig(name="reverse3"), 0)[0]
    assert code == 0
    assert f"8 tokens, 4 trained on: {first['prompt']}[[{first['answer']}<eos>]]" in out
    code, out, _ = oxrl("data", "inspect", "dpo", "--json")
    (row, *_) = json.loads(out)["rows"]
    assert [[span["trained"] for span in example["spans"]] for example in row["examples"]] == [[False, True]] * 2
    assert oxrl("data", "inspect", "reverse3", "--model", "/not/there")[0] == 2


def test_on_a_terminal_what_is_trained_on_is_green() -> None:
    from oxrl_core.cli.commands.data import _draw
    from oxrl_core.cli.tables import drawn
    from oxrl_core.runs.data import DataInspection, ShownExample, ShownRow, Span

    spans = [Span(text="ask [b]", trained=False), Span(text="tell", trained=True)]
    view = DataInspection(
        name="d", split="train", num_rows=1, num_bad=0, columns={}, lesson="examples", model="m",
        rows=[ShownRow(id="d/train/0", fields={}, examples=[ShownExample(tokens=3, trained=1, spans=spans)])],
    )  # fmt: skip
    assert "ask [b]\x1b[32mtell\x1b[0m" in drawn(_draw(view), color=True)
