"""Which miniatures the installed vLLM reads pictures and sounds with: `python benchmarks/vllm_media.py [MODEL ...]`.

Each is started in a process of its own, draws from a few prompts with media, gets new weights and draws again. Printed
is one line of a Markdown table for each: whether it works, or the first line of what vLLM said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODELS = (
    "qwen2-vl-2b-instruct",
    "qwen2.5-vl-3b-instruct",
    "qwen3-vl-2b-instruct",
    "qwen3.5-27b",
    "gemma-3-4b-it",
    "smolvlm-instruct",
    "qwen2-audio-7b-instruct",
)
SECONDS = 600


def try_one(slug: str) -> str:
    """What came of it, in this process: the largest gap of log-probs between two drawings of the same weights."""
    from safetensors.torch import load_file

    from oxrl_core.config.schema import Config, DatasetConfig
    from oxrl_core.data.media import open_media, render_with_media
    from oxrl_core.data.render import render_prompt
    from oxrl_core.datasets.base import load_rows
    from oxrl_core.models.load import load_tokenizer
    from oxrl_core.models.miniature import make_miniature
    from oxrl_core.rollout.hf_worker import TransformersWorker
    from oxrl_core.rollout.verify import probe_row
    from oxrl_core.rollout.vllm_worker import VllmWorker

    data = "tones" if "audio" in slug else "shapes"
    with tempfile.TemporaryDirectory() as home:
        folder = make_miniature(slug, Path(home) / "model", 0)
        model = {"path": str(folder), "precision": "float32"}
        config = Config.model_validate(
            {"run": {"name": "media"}, "model": model, "data": {"train": [{"name": data}], "max_prompt_tokens": 200}}
            | {"rollout": {"max_completion_tokens": 60}}
        )
        vllm, own = VllmWorker(config, folder), TransformersWorker(config, folder)
        tokenizer = load_tokenizer(folder)
        reader = open_media(folder, tokenizer)
        assert reader is not None
        rows = load_rows(DatasetConfig(name=data, limit=4), 0)
        prompts = [
            render_with_media(row, render=render_prompt, tokenizer=tokenizer, data=config.data, reader=reader)
            for row in rows
        ]
        ids, media = [prompt.token_ids for prompt in prompts], [prompt.media for prompt in prompts]
        row = probe_row(len(tokenizer), 250, without=reader.placeholders)
        gaps: list[float] = []
        weights = load_file(folder / "model.safetensors")
        for version in (0, 1):
            if version:
                weights = {name: tensor * 1.1 for name, tensor in weights.items()}
                vllm.load_weights(weights, version)
                own.load_weights(weights, version)
            # Greedy: the same tokens are drawn by both, and what they say of them is compared.
            drawn = [worker.generate(ids, [0] * len(ids), 1.0, 8, True, media) for worker in (vllm, own)]
            for theirs, ours in zip(*drawn, strict=True):
                if theirs.token_ids != ours.token_ids:
                    return f"other tokens than transformers: {theirs.token_ids} against {ours.token_ids}"
                gaps += [abs(a - b) for a, b in zip(theirs.logprobs, ours.logprobs, strict=True)]
            gaps += [abs(a - b) for a, b in zip(vllm.probe(row), own.probe(row), strict=True)]
    return f"reads it; largest gap to transformers {max(gaps):.1e}, before and after new weights"


def main() -> int:
    """0 where every model was tried, whatever came of it."""
    if sys.argv[1:2] == ["--one"]:
        print(f"| {sys.argv[2]} | {try_one(sys.argv[2])} |", flush=True)
        return 0
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    print("| model | vLLM |\n| --- | --- |")
    for slug in sys.argv[1:] or MODELS:
        command = [sys.executable, __file__, "--one", slug]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env={**os.environ, **quiet}
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
        why = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        print(lines[-1] if lines else f"| {slug} | {why[0][:200]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
