"""Generated pictures and sounds, and the columns that hold media."""

from __future__ import annotations

import base64
import io
import json
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from oxrl_core.config.schema import DatasetConfig
from oxrl_core.datasets.base import load_rows
from oxrl_core.datasets.columns import columns_of, normalise
from oxrl_core.datasets.media import media_of
from oxrl_core.datasets.shapes import COLOURS, SIDE, draw, png
from oxrl_core.errors import DataError
from oxrl_core.types import Media

PNG = png(draw("green", "triangle", 3))


@pytest.mark.parametrize(("name", "counts"), [("shapes", (144, 48)), ("tones", (72, 24))])
def test_generated_rows_are_fixed_in_number_and_no_held_out_input_is_trained_on(
    name: str, counts: tuple[int, int]
) -> None:
    splits = [load_rows(DatasetConfig(name=name, split=split), 0) for split in ("train", "eval")]
    assert tuple(len(rows) for rows in splits) == counts
    seen = [{row["media"] for row in rows} for rows in splits]
    assert not seen[0] & seen[1]
    assert load_rows(DatasetConfig(name=name), 5) == splits[0]


def test_a_shape_is_a_real_png_of_its_colour_and_the_answer_says_so() -> None:
    for row in load_rows(DatasetConfig(name="shapes"), 0):
        (media,) = row["media"]
        with Image.open(io.BytesIO(media.data)) as picture:
            assert (picture.format, picture.size, picture.mode) == ("PNG", (SIDE, SIDE), "RGB")
            picture.verify()
        with Image.open(io.BytesIO(media.data)) as picture:
            (colour,) = {pixel for _, pixel in picture.getcolors() or []} - {(235, 235, 235)}
        if "colour" in row["prompt"]:
            assert COLOURS[row["answer"]] == colour


def test_all_shapes_and_colours_are_asked_for() -> None:
    answers = {row["answer"] for row in load_rows(DatasetConfig(name="shapes"), 0)}
    assert answers == {*COLOURS, "square", "circle", "triangle"}


@pytest.mark.parametrize("name", ["shapes-pairs", "tones-pairs"])
def test_a_pair_is_the_right_word_and_a_wrong_one(name: str) -> None:
    right = {(row["media"], row["prompt"]): row["answer"] for row in load_rows(DatasetConfig(name=name[:-6]), 0)}
    pairs = load_rows(DatasetConfig(name=name), 0)
    assert len(pairs) == len(right)
    for row in pairs:
        assert row["chosen"] == right[row["media"], row["prompt"]] != row["rejected"]
        assert row["rejected"] in set(right.values())


def test_a_tone_is_a_real_wav_file_of_half_a_second() -> None:
    for row in load_rows(DatasetConfig(name="tones"), 0)[:8]:
        with wave.open(io.BytesIO(row["media"][0].data)) as opened:
            assert (opened.getframerate(), opened.getnchannels(), opened.getnframes()) == (16_000, 1, 8_000)
    crossings: dict[str, list[list[int]]] = {}
    for row in load_rows(DatasetConfig(name="tones"), 0):
        with wave.open(io.BytesIO(row["media"][0].data)) as opened:
            frames = opened.readframes(8_000)
        samples = [int.from_bytes(frames[at : at + 2], "little", signed=True) for at in range(0, 16_000, 2)]
        halves = [sum(a < 0 <= b for a, b in pairwise(part)) for part in (samples[:4000], samples[4000:])]
        crossings.setdefault(row["answer"], []).append(halves)
    assert all(first < second for first, second in crossings["rising"])
    assert all(first > second for first, second in crossings["falling"])
    assert max(a + b for a, b in crossings["low"]) < min(a + b for a, b in crossings["high"])


@pytest.mark.parametrize(
    "value",
    [
        PNG,
        base64.b64encode(PNG).decode(),
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
        {"bytes": PNG, "path": "somewhere.png"},
        [PNG],
    ],
)
def test_every_form_of_a_picture_is_the_same_bytes(value: object) -> None:
    assert media_of({"image": value}, "here") == {"media": (Media("image", PNG),)}


def test_paths_are_looked_for_beside_the_file_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    lines = [{"prompt": "what?", "images": ["pictures/a.png", base64.b64encode(PNG).decode()]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (row,) = load_rows(DatasetConfig(name=str(tmp_path / "rows.jsonl")), 0)
    assert row["media"] == (Media("image", path=str(tmp_path / "pictures" / "a.png")), Media("image", PNG))


@pytest.mark.parametrize("row", [{}, {"image": None}, {"images": []}, {"image": ""}, {"prompt": "x"}])
def test_a_row_without_media_says_nothing_of_it(row: dict[str, object]) -> None:
    assert media_of(row, "here") == {}


@pytest.mark.parametrize("value", ["gone.png", 7, {"path": "gone.png"}, "not a path!"])
def test_a_file_that_is_not_there_is_named(value: object) -> None:
    with pytest.raises(DataError, match="no file of that name") as caught:
        media_of({"image": value}, "rows.jsonl, line 3")
    assert caught.value.where == "rows.jsonl, line 3"


def parts(*items: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(items)}]


def normal(row: dict[str, Any]) -> dict[str, Any]:
    source = DatasetConfig(name="rows")
    return normalise(row, "r", columns_of(source, [row]), "rows.jsonl, line 1")


SEEN = base64.b64encode(b"a picture").decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": SEEN},
        {"type": "image", "image": b"a picture"},
        {"type": "image", "image": {"bytes": b"a picture", "path": None}},
        {"type": "image", "base64": SEEN},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SEEN}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{SEEN}"},
    ],
)
def test_parts_of_messages_show_what_they_hold_where_they_stand(part: dict[str, Any]) -> None:
    row = normal({"messages": parts({"type": "text", "text": "See "}, part, {"type": "text", "text": "!"})})
    assert row["prompt"] == [{"role": "user", "content": "See <image>!"}]
    assert row["media"] == (Media("image", b"a picture"),)


def test_parts_may_only_say_where_the_pictures_of_the_row_belong() -> None:
    asked = parts({"type": "image"}, {"type": "text", "text": "What?", "image": None})
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A cat"}]}
    row = normal({"messages": [*asked, answer], "images": [SEEN]})
    assert row["prompt"][0]["content"] == "<image>What?" and row["completion"] == "A cat"
    assert row["media"] == (Media("image", b"a picture"),)


def test_two_conversations_that_are_compared_show_their_picture_once() -> None:
    asked = parts({"type": "image", "image": SEEN}, {"type": "text", "text": "What?"})
    chosen, rejected = ([*asked, {"role": "assistant", "content": word}] for word in ("cat", "dog"))
    row = normal({"chosen": chosen, "rejected": rejected})
    assert (row["chosen"], row["rejected"], len(row["media"])) == ("cat", "dog", 1)


def test_parts_that_are_not_known_or_shown_twice_are_refused() -> None:
    with pytest.raises(DataError, match="not known"):
        normal({"messages": parts({"type": "video", "video": SEEN})})
    with pytest.raises(DataError, match="in the messages and in a column"):
        normal({"messages": parts({"type": "image", "image": SEEN}), "image": SEEN})


def test_the_same_question_about_another_picture_is_no_leak(tmp_path: Path) -> None:
    """Pictures of the two splits differ, and so do what is asked about them; the very same rows are a leak."""
    from oxrl_core.api import validate_config

    text = (
        "run: {name: a, backend: local}\nmodel: {path: 'miniature:qwen2-vl-2b-instruct'}\nreward: {name: multimodal}\n"
        "rollout: {engine: transformers}\n"
        "data: {train: shapes, eval: [{name: shapes, split: SPLIT}], max_prompt_tokens: 256}\n"
    )
    told = [
        {problem.code for problem in validate_config(text.replace("SPLIT", split), home=tmp_path).problems}
        for split in ("eval", "train")
    ]
    assert "leak" not in told[0] and "leak" in told[1]
