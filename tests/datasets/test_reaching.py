"""The simulated table: what is seen, what the expert does, and what its actions are worth."""

from __future__ import annotations

import io
import math
from base64 import b64decode
from typing import Any

import pytest
from PIL import Image

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import load_rows
from oxrl_core.rewards.base import get_reward
from oxrl_core.simulation import Table
from oxrl_core.types import Prompt, Rollout, Row


def rows_of(**params: Any) -> list[Row]:
    source = DatasetConfig.model_validate({"name": "reaching", "limit": 200, **params})
    return list(load_rows(source, 0))


def verdict(row: Row, text: str) -> Any:
    prompt = Prompt(id=row["id"], token_ids=[], text="", row=row["row"])
    return get_reward("reaching")(Rollout(prompt, 0, [], [], "stop", 0, 0, text))


@pytest.mark.parametrize("params", [{}, {"bins": 16}, {"scheme": "fast"}, {"split": "eval", "scheme": "fast"}])
def test_every_demonstration_reaches_the_target(params: dict[str, Any]) -> None:
    rows = rows_of(**params)
    assert len({row["completion"] for row in rows}) > 100
    for row in rows:
        score = verdict(row, row["completion"])
        assert (score.value, score.status, score.parts["success"]) == (1.0, "ok", 1.0)


def test_another_rows_actions_are_worth_less_and_other_texts_nothing() -> None:
    first, *others = rows_of()
    values = [verdict(first, other["completion"]).value for other in others]
    assert sum(values) / len(values) < 0.5 and 0 < min(value for value in values if value > 0) < 1
    for text in ("", "go left", first["completion"] * 2, first["completion"] + " done", "<act0>"):
        score = verdict(first, text)
        assert (score.value, score.status) == (0.0, "no_answer")


def test_half_of_the_way_is_worth_a_quarter() -> None:
    row = {"hand": [0.2, 0.5], "target": [0.8, 0.5]}
    code = {"scheme": "uniform", "horizon": 1, "low": [0.0, 0.0], "high": [0.6, 0.0], "bins": 1, "scale": 1.0}
    facts = {"id": "r", "row": {**row, "actions": {**code, "merges": []}}}
    assert verdict(facts, "<act0>" * 2).value == pytest.approx(0.25)  # one bin, its middle: 0.3 of 0.6


def test_moves_are_cut_and_the_hand_stays_on_the_table() -> None:
    table = Table((0.5, 0.5), (0.5, 0.9))
    assert table.after([[9.0, 0.0]]).hand == (0.9, 0.5)
    assert table.after([[9.0, -9.0]] * 3).hand == (1.0, 0.0)
    assert table.distance == pytest.approx(0.4) and not table.is_reached
    assert sum(math.hypot(*step) for step in table.expert()) == pytest.approx(0.4)


def test_the_picture_shows_hand_and_target_where_they_are() -> None:
    (row, *_) = rows_of(limit=1)
    with Image.open(io.BytesIO(b64decode(row["row"]["image"]))) as opened:
        picture = opened.convert("RGB")
    assert picture.size == (56, 56)
    for place, colour in ((row["row"]["hand"], (40, 70, 220)), (row["row"]["target"], (220, 40, 40))):
        assert picture.getpixel((round(place[0] * 55), round(place[1] * 55))) == colour


def test_rows_follow_from_seed_and_split_and_the_code_does_not() -> None:
    source = DatasetConfig(name="reaching", limit=5)
    first, again, other = load_rows(source, 1), load_rows(source, 1), load_rows(source, 2)
    assert [row["completion"] for row in first] == [row["completion"] for row in again]
    assert [row["completion"] for row in first] != [row["completion"] for row in other]
    assert first[0]["row"]["actions"] == other[0]["row"]["actions"]
    held_out = {tuple(row["row"]["hand"]) for row in rows_of(split="eval")}
    assert held_out.isdisjoint(tuple(row["row"]["hand"]) for row in rows_of())
