"""The small preference, labeled and text datasets: what they promise, row by row."""

from __future__ import annotations

from itertools import pairwise

import pytest

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import load_rows
from oxrl_core.models.miniature import CHARACTERS
from oxrl_core.types import Row

NAMES = ("reverse3-pairs", "reverse3-ranked", "reverse3-labeled", "digits-text")


def load(name: str, split: str = "train", seed: int = 0) -> list[Row]:
    return load_rows(DatasetConfig(name=name, split=split), seed)


def opening(row: Row) -> str:
    return row.get("prompt") or row["text"]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_rows_for_every_seed_and_none_of_them_in_both_splits(name: str) -> None:
    for split in ("train", "eval"):
        assert load(name, split, seed=1) == load(name, split, seed=2)
    assert not {opening(row) for row in load(name)} & {opening(row) for row in load(name, "eval")}


@pytest.mark.parametrize("name", NAMES)
def test_the_miniature_can_read_every_character(name: str) -> None:
    for row in [*load(name), *load(name, "eval")]:
        texts = [row[key] for key in ("prompt", "completion", "chosen", "rejected", "text") if key in row]
        assert set("".join(texts)) <= set(CHARACTERS)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_pair_prefers_the_reversal_to_something_else_of_three_digits(split: str) -> None:
    rows = load("reverse3-pairs", split)
    assert len(rows) == {"train": 180, "eval": 36}[split]
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in load("reverse3", split)}
    for row in rows:
        assert row["chosen"] == row["prompt"].removesuffix(">")[::-1]
        assert row["rejected"] != row["chosen"]
        assert len(row["rejected"]) == 3
        assert set(row["rejected"]) <= set("012345")
    assert len({row["rejected"] for row in rows}) > len(rows) // 3  # no wrong answer stands out


@pytest.mark.parametrize("split", ["train", "eval"])
def test_of_two_ranked_drafts_the_first_is_right_in_more_places_by_its_margin(split: str) -> None:
    def right(draft: str, prompt: str) -> int:
        wanted = prompt.removesuffix(">")[::-1] + "$"
        return sum(a == b for a, b in zip(draft + "$", wanted, strict=False))

    rows = load("reverse3-ranked", split)
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in load("reverse3", split)}
    for row in rows:
        assert row["margin"] == right(row["chosen"], row["prompt"]) - right(row["rejected"], row["prompt"]) > 0
    almost = [row for row in rows if right(row["rejected"], row["prompt"]) >= 2]
    assert len(almost) > len(rows) // 4, "a reward model must learn to tell almost right from right"
    assert {len(row["rejected"]) for row in rows} == {2, 3}


@pytest.mark.parametrize("split", ["train", "eval"])
def test_half_of_the_labeled_rows_are_right_and_their_labels_say_so(split: str) -> None:
    rows = load("reverse3-labeled", split)
    assert len(rows) == {"train": 360, "eval": 72}[split]
    assert all(row["label"] is (row["completion"] == row["prompt"].removesuffix(">")[::-1]) for row in rows)
    assert sum(row["label"] for row in rows) == len(rows) // 2


def test_every_text_counts_on_in_equal_steps_and_begins_unlike_the_held_out_ones() -> None:
    beginnings: dict[str, set[str]] = {}
    for split, count in (("train", 180), ("eval", 36)):
        rows = load("digits-text", split)
        assert len({row["text"] for row in rows}) == len(rows) == count
        assert not any("prompt" in row for row in rows)
        for row in rows:
            digits = [int(char) for char in row["text"]]
            steps = {(after - before) % 6 for before, after in pairwise(digits)}
            assert len(steps) == 1
            assert 12 <= len(digits) <= 30
        beginnings[split] = {row["text"][:2] for row in rows}
    assert not beginnings["train"] & beginnings["eval"]
