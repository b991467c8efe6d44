"""Columns of preference, labeled and text data: every usual form, and what no form is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import load_rows
from oxrl_core.errors import DataError
from oxrl_core.types import Row


def load(folder: Path, *rows: dict[str, Any], **settings: Any) -> list[Row]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(DatasetConfig(name=str(path), **settings), seed=0)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_a_pair_of_texts(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"prompt": "p", "chosen": "c", "rejected": "r", "margin": 2})
    assert (row["prompt"], row["chosen"], row["rejected"], row["margin"]) == ("p", "c", "r", 2.0)
    assert "completion" not in row
    (row,) = load(
        tmp_path,
        {"question": "p", "good": "c", "bad": "r", "delta": "0.5"},
        chosen_column="good",
        rejected_column="bad",
        margin_column="delta",
    )
    assert (row["prompt"], row["chosen"], row["rejected"], row["margin"]) == ("p", "c", "r", 0.5)


def test_a_pair_of_last_messages_of_the_assistant(tmp_path: Path) -> None:
    messages = [user("a"), assistant("b"), user("c")]
    (row,) = load(tmp_path, {"prompt": messages, "chosen": [assistant("d")], "rejected": [assistant("e")]})
    assert (row["prompt"], row["chosen"], row["rejected"]) == (messages, "d", "e")


@pytest.mark.parametrize("rest", [{}, {"prompt": "c"}, {"prompt": [user("c")]}, {"messages": [user("c")]}])
def test_the_prompt_of_two_conversations_is_what_both_begin_with(tmp_path: Path, rest: dict[str, Any]) -> None:
    before = [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c")]
    row = {"chosen": [*before, assistant("d")], "rejected": [*before, assistant("e")], **rest}
    (row,) = load(tmp_path, row)
    assert (row["prompt"], row["chosen"], row["rejected"]) == (before, "d", "e")


def test_two_conversations_that_are_the_same_are_a_pair_of_the_same_completion(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b")]})
    assert (row["prompt"], row["chosen"], row["rejected"]) == ([user("a")], "b", "b")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "p", "chosen": "c"}, "the column 'rejected' is missing"),
        ({"prompt": "p", "rejected": "c"}, "the column 'chosen' is missing"),
        ({"chosen": "c", "rejected": "r"}, "the column 'prompt' is missing"),
        ({"prompt": "p", "chosen": {"a": 1}, "rejected": "r"}, "'chosen' holds .* which is no text"),
        ({"prompt": "p", "chosen": "c", "rejected": [user("a"), assistant("b")]}, "'rejected' holds .* no text"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("b")]}, "differ in more than"),
        (
            {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")], "rejected": [user("a"), assistant("e")]},
            "differ in more than",
        ),
        ({"chosen": [user("a"), user("b")], "rejected": [user("a"), user("c")]}, "differ in more than"),
        ({"chosen": [user("a"), "b"], "rejected": [user("a"), assistant("c")]}, "without role and content"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "much"}, "'margin' holds 'much'"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": True}, "'margin' holds True"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "margin": "nan"}, "'margin' holds 'nan'"),
    ],
)
def test_what_is_no_pair_is_named_with_file_and_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    with pytest.raises(DataError, match=what) as caught:
        load(tmp_path, good if "prompt" in row else {key: [user("a"), assistant(key)] for key in row}, row)
    assert "rows.jsonl, line 2" in caught.value.where
    assert caught.value.next_step


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "1", "desirable", " Desirable "])
def test_labels_that_say_desirable(tmp_path: Path, value: Any) -> None:
    (row,) = load(tmp_path, {"prompt": "p", "completion": "c", "label": value})
    assert row["label"] is True


@pytest.mark.parametrize("value", [False, 0, -1, 0.0, -1.0, "false", "0", "-1", "undesirable"])
def test_labels_that_say_undesirable(tmp_path: Path, value: Any) -> None:
    (row,) = load(tmp_path, {"prompt": "p", "completion": "c", "label": value})
    assert row["label"] is False


def test_a_label_that_says_something_else_is_an_answer_unless_it_was_named(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"prompt": "p", "label": 7})
    assert "label" not in row
    assert row["answer"] == "7"
    with pytest.raises(DataError, match="'kind' holds 7: neither desirable nor undesirable") as caught:
        load(tmp_path, {"prompt": "p", "completion": "c", "kind": 7}, label_column="kind")
    assert "line 1" in caught.value.where


def test_a_row_may_be_nothing_but_text(tmp_path: Path) -> None:
    (row,) = load(tmp_path, {"text": "once upon a time"})
    assert row["text"] == "once upon a time"
    assert "prompt" not in row
    (row,) = load(tmp_path, {"body": "b", "title": "t"}, text_column="body")
    assert row["text"] == "b"
    (row,) = load(tmp_path, {"prompt": "p", "completion": "c", "text": "p c"})
    assert (row["prompt"], row["completion"], row["text"]) == ("p", "c", "p c")


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'text' holds 7, which is no text") as caught:
        load(tmp_path, {"text": "t"}, {"text": 7})
    assert "line 2" in caught.value.where
    with pytest.raises(DataError, match="the column 'text' is missing"):
        load(tmp_path, {"text": "t"}, {"other": "o"})


def test_a_column_that_is_named_must_be_there(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    for role in ("chosen", "rejected", "label", "margin", "text"):
        with pytest.raises(DataError, match="there is no column 'choosen'") as caught:
            load(tmp_path, row, **{f"{role}_column": "choosen"})
        assert f"data.{role}_column" in caught.value.next_step


def test_half_a_character_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    whole = {"messages": [user("a smile: \U0001f600"), assistant("é")]}
    cut = {"messages": [user("a smile: \ud83d"), assistant("é")]}
    with pytest.raises(DataError, match=r"'a smile: \\ud83d' holds half a character") as caught:
        load(tmp_path, whole, cut)
    assert "line 2" in caught.value.where
    assert load(tmp_path, whole)[0]["prompt"] == [user("a smile: \U0001f600")]
