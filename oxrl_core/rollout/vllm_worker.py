"""A sampler worker on vLLM, with the engine in the worker's own process so that weights move in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import MachineError, ModelError, RunFailure
from oxrl_core.rollout.vllm_media import VllmMedia, forbid_in_model
from oxrl_core.rollout.worker import (
    Completion,
    check_fits,
    check_names,
    checkpoint_names,
    compute_device,
    eos_token_ids,
    window,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oxrl_core.config.schema import Config
    from oxrl_core.types import Media

FINISH_REASONS = {"stop": "stop", "length": "length"}


class VllmWorker:
    """A vLLM engine: token ids in and out, one request per sample with its own seed."""

    # Switched off only by the tests that prove that the fingerprint notices.
    _repairs_tied_head = True
    _resets_cache = True

    def __init__(
        self,
        config: Config,
        model_folder: str | Path,
        eos_ids: Sequence[int] | None = None,
    ) -> None:
        if find_spec("vllm") is None:
            raise MachineError(
                "vLLM is not installed",
                where="rollout.engine",
                next_step="install the extra `gpu` or `cpu` of oxrl, or set rollout.engine: transformers",
            )
        # Read by vLLM while it is imported. With an engine process of its own, tensors could not reach the model.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self.device, dtype = compute_device(config)
        if self.device == "cpu":
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # else 20 s of C++ compilation at the first batch
        self.media = VllmMedia.of(Path(model_folder))  # before vLLM is imported: it may say that vLLM cannot read them
        from vllm import LLM

        self.top_p, self.top_k = config.rollout.top_p, config.rollout.top_k
        self.window = window(config, model_folder)
        self.stop_ids: list[int] = []
        if config.rollout.stop_at_eos:
            self.stop_ids = list(eos_token_ids(model_folder) if eos_ids is None else eos_ids)
        self.names = checkpoint_names(model_folder)
        self.sleeps = self.device == "cuda" and config.rollout.colocate
        on_device: dict[str, Any] = {
            "cpu": {"enforce_eager": True, "kv_cache_memory_bytes": config.rollout.cpu_kv_cache_gib << 30},
            "cuda": {
                "gpu_memory_utilization": config.rollout.memory_fraction,
                "tensor_parallel_size": config.rollout.tensor_parallel,
                "enable_sleep_mode": self.sleeps,
            },
        }[self.device]
        if config.rollout.tensor_parallel > 1:
            on_device["distributed_executor_backend"] = "mp"  # inside an actor vLLM would pick Ray and look for actors
        self.llm = LLM(
            model=str(model_folder),
            dtype=str(dtype).removeprefix("torch."),
            skip_tokenizer_init=self.media is None,
            max_model_len=self.window,
            seed=config.run.seed,
            logprobs_mode="processed_logprobs",  # of the distribution that is sampled: temperature, top_p, top_k
            # A folder's generation_config.json may hold top_p or a repetition penalty; they would bias the ratios.
            generation_config="vllm",
            **on_device,
            **(self.media.settings if self.media else {}),
        )
        if self.media:
            self.llm.apply_model(partial(forbid_in_model, token_ids=self.media.forbidden))
        if self.device == "cpu":
            check_head_size(self.llm.llm_engine.model_config.get_head_size(), str(model_folder))
        self.is_tied = bool(self.llm.llm_engine.model_config.hf_text_config.tie_word_embeddings)
        self._version = 0

    def ready(self) -> dict[str, Any]:
        """What this worker is."""
        precision = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        return {"engine": "vllm", "device": self.device, "precision": precision}

    def version(self) -> int:
        """The number of optimizer steps behind the weights in use."""
        return self._version

    def generate(
        self,
        token_id_lists: Sequence[Sequence[int]],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
        greedy: bool,
        media_lists: Sequence[tuple[Media, ...]] | None = None,
    ) -> list[Completion]:
        """One completion per row, each from its own seed."""
        from vllm import SamplingParams

        check_fits(token_id_lists, max_tokens, self.window)
        if not seeds:
            return []
        # EOS comes as a stop token: the engine has no tokenizer to know it by.
        requests = [
            SamplingParams(
                temperature=0.0 if greedy else temperature,
                top_p=1.0 if greedy else self.top_p,
                top_k=0 if greedy else self.top_k,
                seed=seed,
                max_tokens=max_tokens,
                logprobs=0,
                stop_token_ids=self.stop_ids,
                ignore_eos=True,
                detokenize=False,
            )
            for seed in seeds
        ]
        outputs = self._request(token_id_lists, requests, media_lists)
        return [self._completion(output.outputs[0]) for output in outputs]

    def _completion(self, output: Any) -> Completion:
        if output.finish_reason not in FINISH_REASONS:
            raise RunFailure(
                f"vLLM ended a completion with {output.finish_reason!r}",
                where="VllmWorker.generate",
                next_step="see the worker's log; a request that was aborted ran out of KV cache or was interrupted",
            )
        token_ids = list(output.token_ids)
        logprobs = [at[token].logprob for at, token in zip(output.logprobs, token_ids, strict=True)]
        return Completion(token_ids, logprobs, FINISH_REASONS[output.finish_reason], self._version)  # type: ignore[arg-type]

    def _request(
        self,
        token_id_lists: Sequence[Sequence[int]],
        params: list[Any],
        media_lists: Sequence[tuple[Media, ...]] | None = None,
    ) -> list[Any]:
        from vllm.inputs import TokensPrompt

        if self.media:
            return self.media.request(self.llm, token_id_lists, params, media_lists)
        prompts = [TokensPrompt(prompt_token_ids=list(token_ids)) for token_ids in token_id_lists]
        return self.llm.generate(prompts, params, use_tqdm=False)

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Replaces the weights in memory, in whatever form the engine keeps them."""
        check_names(weights, self.names, optional=["lm_head.weight"] if self.is_tied else [])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": list(weights.items())})
        if self.is_tied and self.device == "cpu" and self._repairs_tied_head:
            self.llm.apply_model(repack_tied_head)
        # Blocks of the prefix cache were computed by the old weights.
        if self._resets_cache and not self.llm.reset_prefix_cache():
            raise RunFailure(
                "vLLM refused to reset its prefix cache, which holds values of the old weights",
                where="VllmWorker.load_weights",
                next_step="weights may be loaded only while no generation is running",
            )
        if self.media:
            self.llm.llm_engine.reset_encoder_cache()  # what the old towers made of pictures and sounds
        self._version = version

    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """The log-prob of each token of the row at temperature 1; 0 for the first.

        All but the last come from prompt log-probs, for which vLLM never reads its prefix cache. The last is asked for
        as the next token after the rest, which does read the cache: a stale one shows there (rows longer than a block).
        """
        from vllm import SamplingParams

        row, last = list(token_ids[:-1]), int(token_ids[-1])
        whole = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True, detokenize=False)
        after = SamplingParams(
            temperature=1.0, seed=0, max_tokens=1, logprob_token_ids=[last], ignore_eos=True, detokenize=False
        )
        (cached,) = self._request([row], [after])
        (fresh,) = self._request([row], [whole])
        told = fresh.prompt_logprobs[1:]
        values = [at[token].logprob for at, token in zip(told, row[1:], strict=True)]
        return [0.0, *values, cached.outputs[0].logprobs[0][last].logprob]

    def sleep(self) -> None:
        """Gives the GPU to the learner; the weights stay in host memory, for draws before the next sync."""
        if self.sleeps:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        """Takes the GPU memory again."""
        if self.sleeps:
            self.llm.wake_up()


def check_head_size(head_size: int, where: str) -> None:
    """Raises for attention heads that vLLM's CPU kernels cannot compute; they would fail only at the first batch."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    supported = CPUAttentionBackend.get_supported_head_sizes()
    if head_size not in supported:
        raise ModelError(
            f"vLLM on the CPU computes attention heads of {', '.join(map(str, supported))}, this model has {head_size}",
            where=where,
            next_step="set rollout.engine: transformers",
        )


def repack_tied_head(model: nn.Module) -> None:
    """Packs a tied output head again from the embedding it is tied to.

    On the CPU vLLM keeps a packed copy of the head for its matrix product. Reloading the weights renews the embedding
    but not that copy: the model would go on with the old head, off by whole nats, without an error.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    tables = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    embedding = next(module for module in tables if not isinstance(module, ParallelLMHead))
    for module in tables:
        if hasattr(module, "cpu_linear"):
            module.weight = embedding.weight
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
