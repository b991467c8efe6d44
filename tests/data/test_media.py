"""Rows with pictures and sounds: where they stand in a prompt, what stands for them, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import pickle
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import Gemma3Processor, Idefics3Processor, Qwen2_5_VLProcessor, Qwen2AudioProcessor

from oxrl_core.config.schema import DataConfig, DatasetConfig
from oxrl_core.data.media import MediaReader, open_media, parts_of, read_image, render_with_media
from oxrl_core.data.render import pair_up, render_example, render_labeled, render_pair, render_prompt, render_text
from oxrl_core.data.sound import read_audio, resample
from oxrl_core.datasets.shapes import draw, png
from oxrl_core.datasets.tones import wav
from oxrl_core.errors import DataError, ModelError
from oxrl_core.models.load import load_tokenizer
from oxrl_core.models.miniature import make_miniature
from oxrl_core.types import Example, Media

QWEN, GEMMA, SMOL, AUDIO = (
    "qwen2.5-vl-3b-instruct",
    "gemma-3-4b-it",
    "smolvlm-instruct",
    "qwen2-audio-7b-instruct",
)
RED = Media("image", png(draw("red", "circle", 1)))
BLUE = Media("image", png(draw("blue", "square", 2)))
TONE = Media("audio", wav(440, 440))
START = "<|im_start|>user\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {slug: make_miniature(slug, home / slug, 0) for slug in (QWEN, GEMMA, SMOL, AUDIO)}


@pytest.fixture(scope="module")
def qwen(folders: dict[str, Path]) -> MediaReader:
    reader = open_media(folders[QWEN], load_tokenizer(folders[QWEN]))
    assert reader is not None
    return reader


def rendered(reader: MediaReader | None, row: dict[str, Any], render: Any = render_prompt, **settings: Any) -> Any:
    data = DataConfig(train=[DatasetConfig(name="shapes")], **settings)
    tokenizer = reader.tokenizer._tokenizer if reader else None
    return render_with_media({"id": "r", **row}, render=render, tokenizer=tokenizer, data=data, reader=reader)


@pytest.mark.parametrize(
    ("prompt", "media", "expected"),
    [
        ("hi", (RED,), "Ihi"),
        ("hi <image>, you", (RED,), "hi I, you"),
        ("<image> or <image>?", (RED, BLUE), "I or I?"),
        ("hi", (RED, BLUE), "IIhi"),
        ("no <image> here", (), "no <image> here"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], (RED,), "Ia|b"),
        ([{"role": "system", "content": "s"}, {"role": "user", "content": "a<image>"}], (RED,), "s|aI"),
    ],
)
def test_media_stand_where_the_prompt_says_so_else_before_the_first_user(
    qwen: MediaReader, prompt: Any, media: tuple[Media, ...], expected: str
) -> None:
    shown = rendered(qwen, {"prompt": prompt, "media": media})
    features = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
    turns = [turn.split("\n", 1)[1] for turn in shown.text.split("<|im_start|>")[1:-1]]
    assert "|".join(turns).replace("<|im_end|>\n", "") == expected.replace("I", features)
    assert shown.token_ids.count(322) == 4 * len(media)
    assert shown.media == media


def test_pictures_keep_the_order_in_which_they_are_given(qwen: MediaReader) -> None:
    pair = rendered(qwen, {"prompt": "<image><image>", "media": (RED, BLUE), "completion": "x"}, render_example)
    whole = qwen.collate([pair])
    assert whole is not None
    alone = [qwen.features(one).inputs["pixel_values"] for one in (RED, BLUE)]
    assert (whole["pixel_values"][:16] == alone[0]).all() and (whole["pixel_values"][16:] == alone[1]).all()


@pytest.mark.parametrize("text", ["<|image_pad|>", "say <|vision_start|><|image_pad|><|vision_end|>"])
@pytest.mark.parametrize("media", [(), (RED,)])
@pytest.mark.parametrize("place", ["prompt", "completion"])
def test_a_text_that_holds_the_models_own_placeholder_is_refused(
    qwen: MediaReader, text: str, media: tuple[Media, ...], place: str
) -> None:
    row = {"prompt": "hi", "completion": "yes", "media": media} | {place: text}
    with pytest.raises(DataError, match=r"stand for|would be learned"):
        rendered(qwen, row, render_example)


def test_a_marker_of_gemma_in_a_text_is_refused_but_may_be_drawn(folders: dict[str, Path]) -> None:
    reader = open_media(folders[GEMMA], load_tokenizer(folders[GEMMA]))
    assert reader is not None
    with pytest.raises(DataError, match="stand for"):
        rendered(reader, {"prompt": "hi <start_of_image>", "completion": "x"}, render_example)
    shown = rendered(reader, {"prompt": "hi", "media": (RED,)})
    drawn = Example([*shown.token_ids, reader.marker_id], [False] * len(shown.token_ids) + [True], shown.media)
    assert reader.collate([drawn]) is not None


def test_a_count_of_words_that_is_not_that_of_the_media_is_refused(qwen: MediaReader) -> None:
    with pytest.raises(DataError, match="2 times, and has 1"):
        rendered(qwen, {"prompt": "<image> <image>", "media": (RED,)})


def test_the_placeholders_count_for_the_longest_prompt_and_a_row_with_media_is_never_cut(qwen: MediaReader) -> None:
    row = {"prompt": "what colour is it?", "media": (RED,), "completion": "red"}
    length = len(rendered(qwen, row).token_ids)
    assert rendered(qwen, row, max_prompt_tokens=length) is not None
    for overlong in ("drop", "left", "right"):
        assert rendered(qwen, row, max_prompt_tokens=length - 1, overlong=overlong) is None
        assert rendered(qwen, row, render_example, max_length=length, overlong=overlong) is None
    with pytest.raises(DataError, match="tokens"):
        rendered(qwen, row, max_prompt_tokens=length - 1, overlong="error")


def test_both_rows_of_a_pair_and_both_of_a_twin_have_the_prompts_media(qwen: MediaReader) -> None:
    pair = rendered(qwen, {"prompt": "a", "media": (RED,), "chosen": "x", "rejected": "y"}, render_pair)
    assert pair.chosen.media == pair.rejected.media == (RED,)
    labeled = [
        rendered(qwen, {"prompt": "a", "media": (one,), "completion": word, "label": True}, render_labeled)
        for one, word in ((RED, "x"), (BLUE, "y"))
    ]
    first, second = pair_up(labeled, 100)
    assert first.example.media == first.mismatched.media == (RED,)
    assert second.example.media == second.mismatched.media == (BLUE,)


def test_documents_cannot_hold_media(qwen: MediaReader) -> None:
    with pytest.raises(DataError, match="would be learned"):
        rendered(qwen, {"prompt": "a" * 90, "media": (RED,), "completion": "b" * 90}, render_text, max_length=16)


def test_a_model_that_reads_text_alone_refuses_rows_with_media() -> None:
    with pytest.raises(DataError, match="reads text alone"):
        rendered(None, {"prompt": "a", "media": (RED,)})


def test_rendering_without_a_reader_does_not_leave_pictures_out_in_silence(qwen: MediaReader) -> None:
    data = DataConfig(train=[DatasetConfig(name="shapes")])
    with pytest.raises(DataError, match="not shown here"):
        render_prompt({"id": "r", "prompt": "a", "media": (RED,)}, qwen.tokenizer._tokenizer, data)


def test_without_a_chat_template_the_picture_stands_before_the_text(qwen: MediaReader) -> None:
    shown = rendered(qwen, {"prompt": "what?", "media": (RED,)}, apply_chat_template=False)
    assert shown.text == "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>what?"


def test_a_sound_is_nothing_for_a_model_that_sees(qwen: MediaReader) -> None:
    with pytest.raises(DataError, match="reads image, not audio"):
        rendered(qwen, {"prompt": "a", "media": (TONE,)})


def test_a_file_and_its_bytes_are_the_same_picture(qwen: MediaReader, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(RED.data)
    from_file = qwen.features(Media("image", path=str(tmp_path / "red.png"))).inputs["pixel_values"]
    assert (from_file == qwen.features(RED).inputs["pixel_values"]).all()


def test_a_broken_picture_is_named(qwen: MediaReader, tmp_path: Path) -> None:
    for data in (RED.data[:60], b"no picture"):
        with pytest.raises(DataError, match="cannot be read"):
            qwen.features(Media("image", data))
    with pytest.raises(DataError, match=r"gone\.png"):
        qwen.features(Media("image", path=str(tmp_path / "gone.png")))
    strip = io.BytesIO()
    Image.new("RGB", (1, 900)).save(strip, "PNG")
    with pytest.raises(DataError, match="refuses the image"):
        qwen.features(Media("image", strip.getvalue()))


def test_a_picture_is_turned_upright_and_loses_its_palette() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (4, 2), 200).save(file, "PNG", exif=exif)
    picture = read_image(Media("image", file.getvalue()))
    assert (picture.size, picture.mode) == ((2, 4), "RGB")


def test_features_are_kept_for_a_while_and_media_travel(qwen: MediaReader) -> None:
    assert qwen.features(RED) is qwen.features(pickle.loads(pickle.dumps(RED)))  # noqa: S301  # our own bytes
    assert "data" not in repr(RED)


# ---- the families' own processors as oracle ----------------------------------------------------------------------


def own_ids(folder: Path, text: str, pictures: list[Media]) -> list[int]:
    """Token ids by transformers' own processor from the template's text."""
    tokenizer = load_tokenizer(folder)
    reader = open_media(folder, tokenizer)
    assert reader is not None
    if reader.config.model_type == "gemma3":
        for name, token in (("boi", "<start_of_image>"), ("eoi", "<end_of_image>"), ("image", "<image_soft_token>")):
            setattr(tokenizer, f"{name}_token", token)
            setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        processor = Gemma3Processor(reader.processor, tokenizer, image_seq_length=4)
        return processor(images=[[read_image(one) for one in pictures]], text=[text])["input_ids"][0]
    if reader.config.model_type == "idefics3":
        processor = Idefics3Processor(reader.processor, tokenizer, image_seq_len=4)
        images = [[read_image(one) for one in pictures]]
        return processor(images=images, text=[text], add_special_tokens=False)["input_ids"][0]
    if reader.config.model_type == "qwen2_audio":
        processor = Qwen2AudioProcessor(reader.processor, tokenizer)
        sounds = [read_audio(one, 16_000) for one in pictures]
        return processor(text=[text], audio=sounds, sampling_rate=16_000)["input_ids"][0]
    grids = reader.processor(images=[read_image(one) for one in pictures])["image_grid_thw"]
    processor = Qwen2_5_VLProcessor.__new__(Qwen2_5_VLProcessor)  # whole, it would want torchvision for videos
    processor.image_token, processor.image_processor = "<|image_pad|>", reader.processor
    pieces = text.split("<|image_pad|>")
    inside = [processor.replace_image_token({"image_grid_thw": np.array(grids)}, index) for index in range(len(grids))]
    return tokenizer("".join(a + b for a, b in zip(pieces, [*inside, ""], strict=True)))["input_ids"]


@pytest.mark.parametrize("slug", [QWEN, GEMMA, SMOL, AUDIO])
def test_the_token_ids_are_those_of_the_families_own_processor(folders: dict[str, Path], slug: str) -> None:
    folder = folders[slug]
    tokenizer = load_tokenizer(folder)
    reader = open_media(folder, tokenizer)
    assert reader is not None
    media = (TONE, Media("audio", wav(300, 900))) if slug == AUDIO else (RED, BLUE)
    word = reader.family.word
    shown = rendered(reader, {"prompt": f"{word}one\n\n{word}\ntwo", "media": media})
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts_of(f"{word}one\n\n{word}\ntwo", word)}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert shown.token_ids == list(own_ids(folder, text, list(media)))


def test_a_picture_cut_into_tiles_has_the_token_ids_of_its_own_processor(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for file in folders[SMOL].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings |= {"do_image_splitting": True, "size": {"longest_edge": 252}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    file = io.BytesIO()
    Image.new("RGB", (250, 120), (10, 200, 30)).save(file, "PNG")
    wide = Media("image", file.getvalue())
    reader = open_media(folder, load_tokenizer(folder))
    assert reader is not None
    features = reader.features(wide)
    assert features.num_placeholders == 4 * len(features.inputs["pixel_values"]) > 4
    shown = rendered(reader, {"prompt": "what?", "media": (wide,)})
    expected = own_ids(folder, f"{START}<image>what?<|im_end|>\n<|im_start|>assistant\n", [wide])
    assert shown.token_ids == list(expected)


def test_a_processor_that_is_missing_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders[QWEN].iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="processor of the model cannot be loaded"):
        open_media(tmp_path, load_tokenizer(tmp_path))


# ---- sound -------------------------------------------------------------------------------------------------------


def sound_file(samples: np.ndarray, *, rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(channels)
        opened.setsampwidth(width)
        opened.setframerate(rate)
        opened.writeframes(samples.tobytes())
    return file.getvalue()


def test_every_width_of_a_wav_file_gives_the_same_sound() -> None:
    tone = np.sin(np.arange(1600) * 0.05) * 0.5
    as_int = {
        1: (np.round(tone * 127) + 128).astype(np.uint8),
        2: np.round(tone * 2**15).astype("<i2"),
        3: np.round(tone * 2**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].copy(),
        4: np.round(tone * 2**31).astype("<i4"),
    }
    for width, samples in as_int.items():
        found = read_audio(Media("audio", sound_file(samples, width=width)), 16_000)
        assert np.abs(found - tone).max() < 2.0 ** (2 - 8 * width) + 1e-6
    stereo = np.stack([as_int[2], as_int[2]], 1)
    assert np.abs(read_audio(Media("audio", sound_file(stereo, channels=2)), 16_000) - tone).max() < 1e-4


def test_another_rate_is_the_same_tone() -> None:
    times = np.arange(8_000) / 8_000
    tone = np.sin(2 * np.pi * 440 * times)
    twice = resample(tone, 16_000)
    assert len(twice) == 16_000
    assert np.abs(twice - np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).max() < 1e-3
    found = read_audio(Media("audio", sound_file(np.round(tone * 2**14).astype("<i2"), rate=8_000)), 16_000)
    assert len(found) == 16_000


def test_what_would_not_be_heard_is_refused(folders: dict[str, Path]) -> None:
    reader = open_media(folders[AUDIO], load_tokenizer(folders[AUDIO]))
    assert reader is not None
    long = sound_file(np.zeros(16_000 * 30 + 1, dtype="<i2"))
    with pytest.raises(DataError, match="would not hear the rest"):
        reader.features(Media("audio", long))
    with pytest.raises(DataError, match="empty"):
        reader.features(Media("audio", sound_file(np.zeros(0, dtype="<i2"))))
    with pytest.raises(DataError, match="uncompressed WAV"):
        reader.features(Media("audio", base64.b64encode(b"ID3 not a wav file")))
