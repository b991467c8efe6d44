"""One real step of one engine: `python -m oxrl_core.train.deep_check ray|deepspeed|vllm`.

`oxrl doctor --deep` spawns it with a deadline. Its verdict is the last line that is a JSON object: {"ok", "value"}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# Before any engine is imported. Each would otherwise compile kernels, phone home, or wait for a network.
QUIET_ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "30",
}
LOGPROB_LIMIT = 1e-3  # float32 on both sides; measured 1e-6


def check_ray() -> str:
    """An actor on a cluster of its own has answered."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:

        @ray.remote(num_cpus=1)
        class Adder:
            def add(self, left: int, right: int) -> int:
                return left + right

        answer = ray.get(Adder.remote().add.remote(20, 22), timeout=120)
    finally:
        ray.shutdown()
    assert answer == 42, answer
    return f"ray {ray.__version__}: a cluster started, an actor answered"


def check_deepspeed() -> str:
    """One ZeRO-2 step gives the weights that plain AdamW gives."""
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    from oxrl_core.engine.ranks import load_deepspeed

    deepspeed = load_deepspeed()  # as a rank does
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no C++ build at the first start
    with tempfile.TemporaryDirectory() as folder:
        # A file store needs no port, so two checks at once cannot collide.
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        torch.manual_seed(0)
        model, plain = torch.nn.Linear(8, 1), torch.nn.Linear(8, 1)
        plain.load_state_dict(model.state_dict())
        settings = {
            "train_micro_batch_size_per_gpu": 4,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        inputs = torch.randn(4, 8)
        engine.backward(engine(inputs.to(engine.device)).pow(2).mean())
        engine.step()
        plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1)
        plain(inputs).pow(2).mean().backward()
        plain_optimizer.step()
        gap = max(
            (mine.detach().cpu() - theirs.detach()).abs().max().item()
            for mine, theirs in zip(engine.module.parameters(), plain.parameters(), strict=True)
        )
        torch.distributed.destroy_process_group()
    assert gap < 1e-5, f"a ZeRO-2 step and plain AdamW differ by {gap:.1e}"
    where = torch.cuda.get_device_name() if on_gpu else "CPU"
    return f"deepspeed {deepspeed.__version__}: a ZeRO-2 step on the {where} equals plain AdamW ({gap:.0e})"


def check_vllm() -> str:
    """A miniature model generates, and its log-probs are those of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    from oxrl_core.models.miniature import make_miniature

    if torch.cuda.is_available():
        del os.environ["TORCH_COMPILE_DISABLE"]
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    with tempfile.TemporaryDirectory() as folder:
        model_folder = make_miniature("chars", Path(folder) / "model", 0)
        engine = LLM(
            model=str(model_folder),
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            max_model_len=32,
            max_num_seqs=4,
            gpu_memory_utilization=0.2,
            seed=0,
        )
        prompt = [6, 4, 2, 17]
        sampling = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=0, detokenize=False, seed=1)
        answer = engine.generate([TokensPrompt(prompt_token_ids=prompt)], sampling, use_tqdm=False)[0].outputs[0]
        completion = list(answer.token_ids)
        sampled = [entry[token].logprob for entry, token in zip(answer.logprobs, completion, strict=True)]
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    expected = [logprobs[len(prompt) + index - 1, token].item() for index, token in enumerate(completion)]
    gap = max(abs(left - right) for left, right in zip(sampled, expected, strict=True))
    assert gap < LOGPROB_LIMIT, f"vLLM and transformers disagree about the same tokens by {gap:.1e}"
    import vllm

    return f"vllm {vllm.__version__}: {len(completion)} tokens drawn, log-probs equal to transformers' ({gap:.0e})"


CHECKS: dict[str, Callable[[], str]] = {"ray": check_ray, "deepspeed": check_deepspeed, "vllm": check_vllm}


def main(argv: list[str] | None = None) -> int:
    """0 when the engine took its step; the verdict is the last JSON line of the output."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print(f"usage: python -m oxrl_core.train.deep_check {'|'.join(CHECKS)}", file=sys.stderr)
        return 2
    os.environ.update(QUIET_ENVIRONMENT)
    started = time.monotonic()
    try:
        value = CHECKS[arguments[0]]()
    except Exception as error:  # whatever an engine raises is the verdict
        traceback.print_exc()
        text = " ".join(str(error).split())[:200] or type(error).__name__
        print(json.dumps({"ok": False, "value": f"{type(error).__name__}: {text}"}), flush=True)
        return 1
    print(json.dumps({"ok": True, "value": value, "seconds": round(time.monotonic() - started, 1)}), flush=True)
    return 0


if __name__ == "__main__":  # vLLM and Ray start processes that import this file again
    sys.exit(main())
