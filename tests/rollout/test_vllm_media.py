"""vLLM reads pictures and sounds as the trainer does: the same tokens, the same log-probs, before and after a sync."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oxrl_core.config.schema import Config, DatasetConfig
from oxrl_core.data.media import open_media, render_with_media
from oxrl_core.data.render import render_prompt
from oxrl_core.datasets.base import load_rows
from oxrl_core.errors import DataError, MachineError, RunFailure
from oxrl_core.models.load import load_tokenizer
from oxrl_core.models.miniature import make_miniature
from oxrl_core.models.multimodal import forbid, with_media
from oxrl_core.rollout.hf_worker import TransformersWorker
from oxrl_core.rollout.verify import probe_row
from oxrl_core.rollout.vllm_media import MOST_MEDIA, VllmMedia, check_same_tokens, refusal
from oxrl_core.rollout.vllm_worker import VllmWorker
from oxrl_core.types import Prompt

SEES, HEARS, QWEN = "smolvlm-instruct", "qwen2-audio-7b-instruct", "qwen2-vl-2b-instruct"
CASES = {SEES: "shapes", HEARS: "tones", QWEN: "shapes"}


def config_of(folder: Path, data: str) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "media"},
            "model": {"path": str(folder), "precision": "float32"},
            "data": {"train": [{"name": data}], "max_prompt_tokens": 200},
            "rollout": {"max_completion_tokens": 60},
        }
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return {slug: make_miniature(slug, home / slug, 0) for slug in CASES}


def prompts_of(folder: Path, config: Config, count: int) -> list[Prompt]:
    tokenizer = load_tokenizer(folder)
    reader = open_media(folder, tokenizer)
    rows = load_rows(DatasetConfig(name=config.data.train[0].name, limit=count), 0)
    return [
        render_with_media(row, render=render_prompt, tokenizer=tokenizer, data=config.data, reader=reader)
        for row in rows
    ]


def largest_gap(vllm: VllmWorker, hf: TransformersWorker, prompts: list[Prompt]) -> float:
    """Between what vLLM says of its tokens and what the model says that reads prompt, media and completion at once."""
    ids, media = [prompt.token_ids for prompt in prompts], [prompt.media for prompt in prompts]
    assert hf.media is not None
    gaps: list[float] = []
    for prompt, drawn in zip(prompts, vllm.generate(ids, list(range(len(ids))), 0.8, 8, False, media), strict=True):
        row = torch.tensor([prompt.token_ids + drawn.token_ids])
        mask = torch.ones_like(row)
        plain: dict[str, Any] = {"input_ids": row, "attention_mask": mask, "position_ids": mask.cumsum(1) - 1}
        with torch.no_grad():
            logits = hf.model(**with_media(hf.model, plain, hf.media.stack(prompt.media))).logits[0].float()
        scores = (forbid(logits, hf.forbidden) / 0.8).log_softmax(-1)[len(prompt.token_ids) - 1 : -1]
        ours = scores.gather(-1, torch.tensor(drawn.token_ids)[:, None])[:, 0].tolist()
        gaps += [abs(our - their) for our, their in zip(ours, drawn.logprobs, strict=True)]
    return max(gaps)


@pytest.mark.engine
@pytest.mark.parametrize("slug", [SEES, HEARS])
def test_vllm_and_the_trainer_agree_before_and_after_new_weights(slug: str, folders: dict[str, Path]) -> None:
    folder = folders[slug]
    config = config_of(folder, CASES[slug])
    vllm, hf = VllmWorker(config, folder), TransformersWorker(config, folder)
    assert hf.media is not None
    prompts = prompts_of(folder, config, 4)
    row = probe_row(324, 250, without=hf.media.placeholders)
    assert largest_gap(vllm, hf, prompts) < 1e-4
    assert vllm.probe(row) == pytest.approx(hf.probe(row), abs=1e-4)
    before = vllm.probe(row)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(3)
    weights = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in weights.items()}  # the towers too
    for worker in (vllm, hf):
        worker.load_weights(weights, 1)
    assert vllm.probe(row) == pytest.approx(hf.probe(row), abs=1e-4) and vllm.probe(row) != before
    assert largest_gap(vllm, hf, prompts) < 1e-4  # pictures seen before: what the old towers made of them is gone
    plain = [Prompt("text", [5, 6, 7, 8], ""), prompts[0]]
    assert largest_gap(vllm, hf, plain) < 1e-4
    many = Prompt("many", prompts[0].token_ids * (MOST_MEDIA + 1), "", media=prompts[0].media * (MOST_MEDIA + 1))
    assert vllm.media is not None
    with pytest.raises(DataError, match=str(MOST_MEDIA)):
        vllm.media.request(vllm.llm, [many.token_ids], [], [many.media])


def test_prompts_become_short_and_nothing_else_of_them_changes(folders: dict[str, Path]) -> None:
    for slug in (SEES, HEARS):
        (prompt, *_) = prompts_of(folders[slug], config_of(folders[slug], CASES[slug]), 1)
        media = VllmMedia.of(folders[slug])
        assert media is not None
        short = media.with_markers(prompt.token_ids * 2, prompt.media * 2)
        assert short.count(media.reader.marker_id) == 2
        without = [token for token in prompt.token_ids if token < 320]
        assert [token for token in short if token < 320] == without * 2
        with pytest.raises(DataError, match="other tokens"):
            media.with_markers(prompt.token_ids, prompt.media * 2)


def test_a_family_that_the_installed_vllm_cannot_read_is_refused_before_it_is_loaded(folders: dict[str, Path]) -> None:
    why = refusal("qwen2_vl")
    if why is None:
        assert VllmMedia.of(folders[QWEN]) is not None
    else:
        with pytest.raises(MachineError, match="torchvision"):
            VllmWorker(config_of(folders[QWEN], "shapes"), folders[QWEN])
    assert refusal("idefics3") is None and refusal("qwen2_audio") is None


def test_other_tokens_than_the_trainers_are_refused() -> None:
    check_same_tokens([1, 2, 3], [1, 2, 3])
    for theirs in ([1, 2], [1, 2, 4], [1, 2, 3, 3]):
        with pytest.raises(RunFailure, match="other tokens"):
            check_same_tokens(theirs, [1, 2, 3])
