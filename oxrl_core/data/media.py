"""Images and sounds become what a model reads: features, and exactly as many placeholder tokens as there are features.

The chat template writes a marker for each picture or sound. Before tokenization the marker is replaced, once, by what
the model's own processor would put there; the same token ids then go to the sampler and to the trainer. Every batch is
checked again: as many placeholders as features, none of them in a completion.
"""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, WhisperFeatureExtractor

from oxrl_core.data.sound import name_of, read_audio
from oxrl_core.errors import DataError, MachineError, ModelError
from oxrl_core.types import Example, Media, MediaKind, Message, PairExample, Prompt, Row

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

    from oxrl_core.config.schema import DataConfig

KEPT_FEATURES = 256  # media whose features are kept: a group of rollouts and both rows of a pair share theirs
Item = Any  # Prompt, Example, PairExample, or a labeled row


@dataclass(frozen=True)
class Features:
    """What the model reads of one picture or sound."""

    inputs: dict[str, Tensor]  # by the model's own names, the first dimension to be joined with that of others
    text: str  # what stands in the prompt in place of the marker
    num_placeholders: int


@dataclass(frozen=True)
class Family:
    """How the models of one family are told about pictures or sounds."""

    kind: MediaKind
    marker: str  # what the chat template writes once for each
    token: str  # the placeholder that stands once for each feature
    plain: str  # what is written where there is no chat template
    read: Callable[[MediaReader, Media], Features]

    @property
    def word(self) -> str:
        """What stands in a prompt of the data where the picture or sound belongs."""
        return f"<{self.kind}>"


class MediaReader:
    """The eyes and ears of one model: its processor, loaded from the model folder without torchvision."""

    def __init__(self, folder: Path, family: Family, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder = folder
        self.family = family
        self.config = config
        self.token_id: int = tokenizer.convert_tokens_to_ids(family.token)
        self.marker_id: int = tokenizer.convert_tokens_to_ids(family.marker)
        announced = placeholder_id(config)
        if self.token_id != announced:
            raise ModelError(
                f"the tokenizer's {family.token} is token {self.token_id}, config.json says {announced}",
                str(folder),
                "take tokenizer and config of the same model",
            )
        self.tokenizer = MediaTokenizer(tokenizer, self)
        self._kept: OrderedDict[Media, Features] = OrderedDict()
        try:
            self.processor = self._load_processor()
        except ImportError as error:
            raise MachineError(
                f"images need a package that is not installed: {error}", "model.path", 'install "oxrl[train]"'
            ) from error
        except (OSError, ValueError) as error:
            raise ModelError(
                f"the processor of the model cannot be loaded: {str(error).splitlines()[0]}",
                str(folder),
                "copy preprocessor_config.json beside config.json",
            ) from error

    @property
    def placeholders(self) -> set[int]:
        """Tokens that mean nothing without a picture or sound behind them."""
        return {self.token_id, self.marker_id}

    def _load_processor(self) -> Any:
        if self.family.kind == "audio":
            return WhisperFeatureExtractor.from_pretrained(self.folder)
        # Always the one that computes with PIL and NumPy, so that the same picture gives the same numbers everywhere.
        return AutoImageProcessor.from_pretrained(self.folder, backend="pil", local_files_only=True)

    def features(self, media: Media) -> Features:
        """What the model reads of it; the last ones are kept."""
        found = self._kept.pop(media, None) or self._read(media)
        self._kept[media] = found
        if len(self._kept) > KEPT_FEATURES:
            self._kept.popitem(last=False)
        return found

    def _read(self, media: Media) -> Features:
        if media.kind != self.family.kind:
            raise DataError(
                f"this model reads {self.family.kind}, not {media.kind}",
                where=name_of(media),
                next_step="take a model that does, or leave the column out",
            )
        return self.family.read(self, media)

    def expand(self, text: str, media: Sequence[Media]) -> str:
        """The text with each marker, in order, replaced by what stands for the picture or sound; the rest is as it was.

        Done in one pass over the given text: what was written in is never looked at again.
        """
        pieces = text.split(self.family.marker)
        fillings = [self.features(one).text for one in media] + [self.family.marker] * len(pieces)
        return "".join(part for pair in zip(pieces, [*fillings[: len(pieces) - 1], ""], strict=True) for part in pair)

    def check(self, token_ids: Sequence[int], media: Sequence[Media], where: str) -> None:
        """Raises unless there are as many placeholder tokens as features."""
        wanted = sum(self.features(one).num_placeholders for one in media)
        self._require(token_ids, self.token_id, self.family.token, wanted, media, where)

    def check_text(self, token_ids: Sequence[int], media: Sequence[Media], where: str) -> None:
        """As `check`, and raises unless there are as many markers as the media ask for. A model may draw a marker that
        is no placeholder; a text that holds one would have been taken for a picture.
        """
        self.check(token_ids, media, where)
        wanted = sum(self.features(one).text.count(self.family.marker) for one in media)
        self._require(token_ids, self.marker_id, self.family.marker, wanted, media, where)

    def _require(
        self, token_ids: Sequence[int], token_id: int, word: str, wanted: int, media: Sequence[Media], where: str
    ) -> None:
        found = sum(token == token_id for token in token_ids)
        if found != wanted:
            raise DataError(
                f"{found} {word} tokens stand for {wanted} features of {len(media)} {self.family.kind} inputs",
                where=where,
                next_step="a text must not hold the model's own placeholder; the chat template must write one for each "
                "input; a row with media is never cut",
            )

    def shown(self, token_ids: Sequence[int], media: tuple[Media, ...]) -> tuple[Media, ...]:
        """The first of the media: as many as the placeholders among the tokens are for."""
        left = sum(token == self.token_id for token in token_ids)
        count = 0
        while left > 0 and count < len(media):
            left -= self.features(media[count]).num_placeholders
            count += 1
        return media[:count]

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor] | None:
        """The features of all media of the examples in order, by the model's own names; None where there are none."""
        for example in examples:
            self.check(example.token_ids, example.media, "a row of a batch")
        return self.stack([one for example in examples for one in example.media])

    def stack(self, media: Sequence[Media]) -> dict[str, Tensor] | None:
        """The features of these media, joined along the first dimension; None of none."""
        inputs = [self.features(one).inputs for one in media]
        return {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]} if inputs else None


def open_media(folder: Path, tokenizer: PreTrainedTokenizerBase) -> MediaReader | None:
    """The reader of a model that takes images or sound; None of one that reads text alone."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    family = FAMILIES.get(config.model_type)
    if family is None:
        return None
    template = folder / "chat_template.json"  # where processors kept it before; tokenizers do not read it
    if tokenizer.chat_template is None and template.is_file():
        tokenizer.chat_template = json.loads(template.read_text(encoding="utf-8"))["chat_template"]
    return MediaReader(folder, family, config, tokenizer)


def placeholder_id(config: Any) -> int:
    """The token that stands for one feature."""
    names = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
    return next(value for name in names if isinstance(value := getattr(config, name, None), int))


# ---- rows ------------------------------------------------------------------------------------------------------------


def render_with_media(
    row: Row,
    *,
    render: Callable[..., Item],
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    reader: MediaReader | None,
    **options: Any,
) -> Item:
    """What `render` makes of the row, with its pictures and sounds where the model reads such.

    A row with media is never cut: the model's placeholders and its features would part.
    """
    media: tuple[Media, ...] = row.get("media", ())
    if reader is None:
        if media:
            raise DataError(
                f"the row has {media[0].kind} input, and this model reads text alone",
                where=row["id"],
                next_step="take a model that reads it, or remove the column",
            )
        return render(row, tokenizer=tokenizer, data=data, **options)
    if media:
        row = {**row, "prompt": placed(row, media, reader.family.word)}
        if data.overlong not in ("drop", "error"):
            data = data.model_copy(update={"overlong": "drop"})
        if not (bool(tokenizer.chat_template) if data.apply_chat_template is None else data.apply_chat_template):
            row["prompt"] = _written_out(row["prompt"], reader, media)
    reader.tokenizer.media = media
    try:
        item = render(row, tokenizer=reader.tokenizer, data=data, **options)
    finally:
        reader.tokenizer.media = ()
    return _attach(item, media, reader, row["id"])


def placed(row: Row, media: Sequence[Media], word: str) -> str | list[Message]:
    """The prompt with the word for each of its media: where it says so itself, else before the first user's text."""
    prompt = row.get("prompt")
    if prompt is None:
        raise DataError("a row with media has no prompt", row["id"], "name its column in data.prompt_column")
    found = prompt.count(word) if isinstance(prompt, str) else sum(turn["content"].count(word) for turn in prompt)
    if found == len(media):
        return prompt
    if found:
        what = f"the prompt says {word} {found} times, and has {len(media)} inputs"
        raise DataError(what, row["id"], f"write {word} once for each of them, or nowhere")
    if isinstance(prompt, str):
        return word * len(media) + prompt
    first = next((index for index, turn in enumerate(prompt) if turn["role"] == "user"), 0)
    shown = {**prompt[first], "content": word * len(media) + prompt[first]["content"]}
    return [*prompt[:first], shown, *prompt[first + 1 :]]


def _written_out(prompt: str | list[Message], reader: MediaReader, media: Sequence[Media]) -> str | list[Message]:
    """The prompt for a model without chat template; messages stay what they are: rendering refuses them."""
    if not isinstance(prompt, str):
        return prompt
    return reader.expand(prompt.replace(reader.family.word, reader.family.plain), media)


class MediaTokenizer:
    """The tokenizer as rendering sees it: its chat template is given parts, and writes the row's media out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, reader: MediaReader) -> None:
        self._tokenizer = tokenizer
        self._reader = reader
        self.media: Sequence[Media] = ()  # of the row that is being rendered

    def apply_chat_template(self, conversation: Sequence[Message], **options: Any) -> Any:
        """The template's text with its markers replaced."""
        word = self._reader.family.word if self.media else None
        turns = [{**turn, "content": parts_of(turn["content"], word)} for turn in conversation]
        return self._reader.expand(self._tokenizer.apply_chat_template(turns, **options), self.media)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._tokenizer(*arguments, **options)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def parts_of(content: str, word: str | None) -> list[dict[str, str]]:
    """The content as a list of parts, as the chat templates of such models want it; `word` stands for a medium."""
    parts: list[dict[str, str]] = []
    for place, text in enumerate(content.split(word) if word else [content]):
        if place and word:
            kind = word.strip("<>")
            parts.append({"type": kind, kind: ""})  # some templates ask for the type, others for the key
        if text:
            parts.append({"type": "text", "text": text})
    return parts or [{"type": "text", "text": ""}]


def _attach(item: Item, media: tuple[Media, ...], reader: MediaReader, row_id: str) -> Item:
    """The rendered item with its media, checked."""
    if item is None:
        return None
    if isinstance(item, list):  # the turns of a conversation, or the windows of a text
        return [_attach(one, reader.shown(one.token_ids, media), reader, row_id) for one in item]
    if isinstance(item, PairExample):
        chosen, rejected = (_attach(one, media, reader, row_id) for one in (item.chosen, item.rejected))
        return replace(item, chosen=chosen, rejected=rejected)
    if isinstance(item, Example):
        token_ids = item.token_ids
        if any(
            is_trained and token == reader.token_id
            for token, is_trained in zip(token_ids, item.completion_mask, strict=True)
        ):
            raise DataError(
                f"a {reader.family.token} would be learned, and the model never says it: it only stands for features",
                where=row_id,
                next_step="take it out of the completion; learn from prompts and completions, not from documents",
            )
    else:
        token_ids = (item.token_ids if isinstance(item, Prompt) else item.prompt_ids) + item.completion_ids
    reader.check_text(token_ids, media, row_id)
    return replace(item, media=media)


# ---- pictures --------------------------------------------------------------------------------------------------------


def read_image(media: Media) -> Image:
    """The picture in RGB, upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(media.data) if media.data else media.path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the image cannot be read: {error}", name_of(media), "give a whole PNG or JPEG file"
        ) from error


def _processed(reader: MediaReader, media: Media, images: Any, **options: Any) -> Any:
    try:
        return reader.processor(images=images, return_tensors="pt", **options)
    except ValueError as error:  # a picture a thousand times as wide as high, and the like
        raise DataError(
            f"the model's processor refuses the image: {str(error).splitlines()[0]}", name_of(media), "remove the row"
        ) from error


def _read_qwen(reader: MediaReader, media: Media) -> Features:
    found = _processed(reader, media, [read_image(media)])
    inputs = {name: found[name] for name in ("pixel_values", "image_grid_thw")}
    count = int(found["image_grid_thw"].prod()) // reader.processor.merge_size**2
    return Features(inputs, reader.family.token * count, count)


def _read_gemma(reader: MediaReader, media: Media) -> Features:
    found = _processed(reader, media, [read_image(media)])
    per_view = int(reader.config.mm_tokens_per_image)
    text = view = f"\n\n{reader.family.marker}{reader.family.token * per_view}<end_of_image>\n\n"
    crops = int(found["num_crops"][0])  # 0 unless the folder's processor pans and scans
    if crops:
        text = f"Here is the original image {view} and here are some crops to help you see better "
        text += " ".join([view] * crops)
    return Features({"pixel_values": found["pixel_values"]}, text, per_view * (1 + crops))


def _read_idefics(reader: MediaReader, media: Media) -> Features:
    found = _processed(reader, media, [[read_image(media)]], return_row_col_info=True)
    vision = reader.config.vision_config
    per_tile = int((vision.image_size // vision.patch_size) ** 2 / reader.config.scale_factor**2)
    rows, columns = int(found["rows"][0][0]), int(found["cols"][0][0])
    token, around = reader.family.token * per_tile, "<fake_token_around_image>"
    text = ""
    for row in range(1, rows + 1):
        text += "".join(f"{around}<row_{row}_col_{column}>{token}" for column in range(1, columns + 1)) + "\n"
    text += ("\n" if text else "") + f"{around}<global-img>{token}{around}"
    inputs = {name: found[name][0] for name in ("pixel_values", "pixel_attention_mask")}
    return Features(inputs, text, per_tile * (rows * columns + 1))


# ---- sound -----------------------------------------------------------------------------------------------------------


def _read_sound(reader: MediaReader, media: Media) -> Features:
    extractor = reader.processor
    samples = read_audio(media, extractor.sampling_rate)
    if len(samples) > extractor.n_samples:
        seconds = len(samples) / extractor.sampling_rate
        raise DataError(
            f"the sound has {seconds:.1f} s; the model hears {extractor.chunk_length} s and would not hear the rest",
            where=name_of(media),
            next_step="cut it into shorter ones",
        )
    found = extractor(
        samples,
        sampling_rate=extractor.sampling_rate,
        return_attention_mask=True,
        padding="max_length",
        return_tensors="pt",
    )
    frames = int(found["attention_mask"].sum())
    count = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    if count < 1:
        raise DataError("the sound is too short to be heard", name_of(media), "remove the row")
    inputs = {"input_features": found["input_features"], "feature_attention_mask": found["attention_mask"]}
    return Features(inputs, reader.family.token * count, count)


QWEN = Family("image", "<|image_pad|>", "<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", _read_qwen)
GEMMA = Family("image", "<start_of_image>", "<image_soft_token>", "<start_of_image>", _read_gemma)
IDEFICS = Family("image", "<image>", "<image>", "<image>", _read_idefics)
AUDIO = Family("audio", "<|AUDIO|>", "<|AUDIO|>", "<|audio_bos|><|AUDIO|><|audio_eos|>", _read_sound)

FAMILIES: dict[str, Family] = {
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_5": QWEN,
    "qwen3_5_moe": QWEN,
    "gemma3": GEMMA,
    "idefics3": IDEFICS,
    "qwen2_audio": AUDIO,
}
