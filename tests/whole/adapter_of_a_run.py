"""What others make of the adapter of a run: `adapter_of_a_run.py RUN_DIR`, one line of JSON.

PEFT puts it on its base and merges it, transformers and vLLM read the merged folder; all of them complete one prompt.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

os.environ.update(engine_environment())

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from oxrl_core.engine.merge import base_of, merge
from oxrl_core.runs.rundir import RunDir

PROMPTS = [[3, 4, 5], [5, 3, 4, 6], [7, 4]]
NEW_TOKENS = 8


def greedy(model: torch.nn.Module, token_ids: list[int]) -> list[int]:
    """The likeliest next token, so many times, by whole forward passes."""
    ids = list(token_ids)
    for _ in range(NEW_TOKENS):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(token_ids) :]


def by_vllm(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """The same by vLLM."""
    from vllm import LLM, SamplingParams

    options = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28, "gpu_memory_utilization": 0.1}
    engine = LLM(str(folder), max_model_len=32, dtype="float32", max_num_seqs=4, **options)
    settings = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    answers = engine.generate([{"prompt_token_ids": ids} for ids in prompts], settings, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


@torch.no_grad()
def main() -> dict[str, object]:
    """What was found, for the test to judge."""
    run = RunDir(sys.argv[1])
    adapter, merged = run.path / "final" / "adapter", run.path / "merged"
    base = base_of(adapter, run, "")
    merge(adapter, base, merged)
    ours, theirs = load_file(run.path / "final" / "model.safetensors"), load_file(merged / "model.safetensors")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    untrained = [greedy(plain, ids) for ids in PROMPTS]
    adapted = PeftModel.from_pretrained(plain, str(adapter)).eval()
    final = AutoModelForCausalLM.from_pretrained(run.path / "final", dtype="auto").eval()
    ids = torch.tensor([PROMPTS[0]])
    gap = (adapted(input_ids=ids).logits - final(input_ids=ids).logits).abs().max()
    whole = AutoModelForCausalLM.from_pretrained(merged, dtype="auto").eval()
    return {
        "same weights": sorted(ours) == sorted(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours),
        "logit gap": float(gap),
        "untrained": untrained,
        "transformers": [greedy(whole, ids) for ids in PROMPTS],
        "vllm": by_vllm(merged, PROMPTS),
    }


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print belongs to the log
    print(json.dumps(main()), file=out, flush=True)
