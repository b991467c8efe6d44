"""Pictures and sounds for vLLM: the same token ids as everywhere, and the files; vLLM's processor makes the features.

vLLM writes the placeholders of a prompt itself. So it is given the prompt with one marker for each picture or sound,
and what it made of it is compared with the prompt that the trainer reads, token by token.

Which families the installed vLLM reads is measured by benchmarks/vllm_media.py, which starts a miniature of each:

| family | vLLM 0.32 without torchvision |
| --- | --- |
| SmolVLM (idefics3) | reads it |
| Qwen2-Audio | reads it, where the model hears 30 s at once, as the published one does |
| Qwen2-VL, 2.5-VL, 3-VL, 3.5, Gemma 3 | their code in vLLM imports torchvision: refused before anything is loaded |
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import DataError, MachineError, ModelError, RunFailure

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oxrl_core.data.media import MediaReader
    from oxrl_core.types import Media

NEEDS_TORCHVISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe", "gemma3")
MOST_MEDIA = 16  # of one prompt: vLLM wants to be told
MEL_FRAMES = 3000  # of a sound, the only number that vLLM's Qwen2-Audio takes


def refusal(model_type: str) -> str | None:
    """Why the installed vLLM cannot read the pictures or sounds of such a model; None where it can."""
    if find_spec("vllm") is None:
        return "vLLM is not installed"
    if model_type in NEEDS_TORCHVISION and find_spec("torchvision") is None:
        return f"vLLM's {model_type} needs torchvision, which is not installed"
    return None


class VllmMedia:
    """The eyes and ears of a vLLM engine: what it is started with, and its requests."""

    def __init__(self, reader: MediaReader) -> None:
        from oxrl_core.models.multimodal import placeholder_ids

        self.reader = reader
        self.kind = reader.family.kind
        self.forbidden = placeholder_ids(reader.config)
        # Nothing is measured with the largest inputs before the start: it takes a minute on the CPU.
        self.settings: dict[str, Any] = {"limit_mm_per_prompt": {self.kind: MOST_MEDIA}, "skip_mm_profiling": True}

    @classmethod
    def of(cls, folder: Path) -> VllmMedia | None:
        """Those of the model in the folder; None of a model that reads text alone."""
        from oxrl_core.data.media import open_media
        from oxrl_core.models.load import load_tokenizer

        reader = open_media(folder, load_tokenizer(folder))
        if reader is None:
            return None
        why = refusal(reader.config.model_type)
        if why is not None:
            raise MachineError(why, "rollout.engine", "set it to transformers, or install what is missing")
        if reader.family.kind == "audio" and reader.processor.nb_max_frames != MEL_FRAMES:
            raise ModelError(
                f"vLLM takes sounds of {MEL_FRAMES} frames, this model hears {reader.processor.nb_max_frames}",
                str(folder),
                "set rollout.engine: transformers",
            )
        return cls(reader)

    def request(
        self,
        llm: Any,
        token_id_lists: Sequence[Sequence[int]],
        params: list[Any],
        media_lists: Sequence[tuple[Media, ...]] | None,
    ) -> list[Any]:
        """vLLM's outputs; raises unless it read the very tokens of these rows."""
        from vllm.inputs import TokensPrompt

        media = [()] * len(token_id_lists) if media_lists is None else media_lists
        prompts: list[Any] = []
        for token_ids, of_row in zip(token_id_lists, media, strict=True):
            self.reader.check(token_ids, of_row, "a prompt of the sampler")
            if not of_row:
                prompts.append(TokensPrompt(prompt_token_ids=list(token_ids)))
                continue
            if len(of_row) > MOST_MEDIA:
                what = f"a prompt has {len(of_row)} {self.kind} inputs, the vLLM sampler takes {MOST_MEDIA}"
                raise DataError(what, "a prompt of the sampler", "set rollout.engine: transformers")
            short = self.with_markers(token_ids, of_row)
            data = {self.kind: [self._opened(one) for one in of_row]}
            prompts.append(TokensPrompt(prompt_token_ids=short, multi_modal_data=data))
        try:
            outputs = llm.generate(prompts, params, use_tqdm=False)
        except ValueError as error:  # it counted other placeholders than features, or refused the file
            raise RunFailure(
                f"vLLM cannot read the prompts: {str(error).splitlines()[0]}",
                where="VllmWorker.generate",
                next_step="put the model's processor files beside config.json, or take rollout.engine: transformers",
            ) from error
        for output, token_ids in zip(outputs, token_id_lists, strict=True):
            check_same_tokens(output.prompt_token_ids, token_ids)
        return outputs

    def with_markers(self, token_ids: Sequence[int], media: Sequence[Media]) -> list[int]:
        """The prompt as it was before what stands for each picture or sound was written out."""
        short: list[int] = []
        rest = list(token_ids)
        for one in media:
            text = self.reader.features(one).text
            filling = self.reader.tokenizer(text, add_special_tokens=False)["input_ids"]
            size = len(filling)
            start = next((at for at in range(len(rest) - size + 1) if rest[at : at + size] == filling), None)
            if start is None:
                raise DataError(
                    f"what stands for the {self.kind} input became other tokens than it is alone",
                    where="a prompt of the sampler",
                    next_step="set rollout.engine: transformers",
                )
            short += [*rest[:start], self.reader.marker_id]
            rest = rest[start + size :]
        return short + rest

    def _opened(self, media: Media) -> Any:
        """What vLLM's processor takes: a picture, or samples with their rate."""
        if self.kind == "image":
            from oxrl_core.data.media import read_image

            return read_image(media)
        from oxrl_core.data.sound import read_audio

        rate = self.reader.processor.sampling_rate
        return read_audio(media, rate), rate


def check_same_tokens(theirs: Sequence[int], ours: Sequence[int]) -> None:
    """Raises unless vLLM read the tokens that the trainer will read."""
    if list(theirs) == list(ours):
        return
    both = zip(theirs, ours, strict=False)
    at = next((index for index, (their, our) in enumerate(both) if their != our), min(len(theirs), len(ours)))
    raise RunFailure(
        f"vLLM read other tokens than the trainer will: {len(theirs)} against {len(ours)}, first at {at}",
        where="VllmWorker.generate",
        next_step="its processor writes out pictures or sounds otherwise; set rollout.engine: transformers",
    )


def forbid_in_model(model: nn.Module, token_ids: Sequence[int]) -> None:
    """Makes a vLLM model give these tokens probability 0, as the trainer does: also in what it says of a prompt."""
    from oxrl_core.models.multimodal import forbid

    compute = model.compute_logits
    forbidden = list(token_ids)

    def without(*arguments: Any, **options: Any) -> Tensor | None:
        logits = compute(*arguments, **options)
        return None if logits is None else forbid(logits, forbidden)  # only one rank of several has them

    model.compute_logits = without  # type: ignore[assignment]  # a method of this one model
