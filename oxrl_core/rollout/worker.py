"""What every sampler worker is, and what both engines share: completions, EOS, lengths, names of the weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from oxrl_core.errors import ConfigError, ModelError, WeightSyncError
from oxrl_core.rollout.verify import PROBE_TOKENS
from oxrl_core.types import FinishReason, Media

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from oxrl_core.config.schema import Config


@dataclass(frozen=True)
class Completion:
    """What a worker drew for one sample, stamped with the version of the weights that drew it."""

    token_ids: list[int]  # ends with EOS when finish_reason is "stop"
    logprobs: list[float]  # of the distribution drawn from: at its temperature, within top_p and top_k (greedy: at 1)
    finish_reason: FinishReason
    policy_version: int


class RolloutWorker(Protocol):
    """One sampler worker: a whole copy of the policy that draws completions."""

    def ready(self) -> dict[str, Any]:
        """What this worker is, once it is loaded."""
        ...

    def generate(
        self,
        token_id_lists: Sequence[Sequence[int]],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
        greedy: bool,
        media_lists: Sequence[tuple[Media, ...]] | None = None,
    ) -> list[Completion]:
        """One completion per row, each from its own seed: neighbours in the batch do not change it.

        Drawn within rollout.top_p and rollout.top_k; greedy ignores both, as it does the temperature. `media_lists`:
        the pictures and sounds of each row, where there are any.
        """
        ...

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Replaces the policy's weights in memory."""
        ...

    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """The log-prob of each token of a fixed row at temperature 1; 0 for the first."""
        ...

    def version(self) -> int:
        """The number of optimizer steps behind the weights in use."""
        ...

    def sleep(self) -> None:
        """Gives GPU memory back for the learner's turn, and keeps the weights elsewhere; does nothing on the CPU."""
        ...

    def wake(self) -> None:
        """Takes the GPU memory again."""
        ...


def compute_device(config: Config) -> tuple[str, torch.dtype]:
    """Where a worker computes and in which precision: by default bfloat16 on a GPU, float32 on the CPU."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = config.model.precision
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "float32"
    return device, getattr(torch, precision)


def eos_token_ids(model_folder: str | Path) -> list[int]:
    """Every token that ends a completion: of generation_config.json, else config.json, else the tokenizer."""
    folder = Path(model_folder)
    for name in ("generation_config.json", "config.json"):
        facts = _read_json(folder / name)
        found = facts.get("eos_token_id")
        if found is None:
            found = facts.get("text_config", {}).get("eos_token_id")
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder).eos_token_id
    if found is None:
        raise ModelError(
            "no file of the model names an EOS token, so no completion could end",
            where=str(folder),
            next_step="add eos_token_id to generation_config.json, or set rollout.stop_at_eos: false",
        )
    return [found]


def window(config: Config, model_folder: str | Path) -> int:
    """Most tokens of prompt and completion together: what the configuration allows, within what the model can read.

    The probe row of the fingerprint has to fit as well, however short the prompts are.
    """
    asked = max(config.data.max_prompt_tokens + config.rollout.max_completion_tokens, PROBE_TOKENS + 1)
    facts = _read_json(Path(model_folder) / "config.json")
    limit = facts.get("text_config", facts).get("max_position_embeddings") or facts.get("max_position_embeddings")
    return min(asked, limit) if limit else asked


def check_fits(token_id_lists: Sequence[Sequence[int]], max_tokens: int, limit: int) -> None:
    """Raises where a prompt and its completion do not fit in the window: an engine would cut it silently."""
    longest = max((len(token_ids) for token_ids in token_id_lists), default=0)
    if longest + max_tokens > limit:
        raise ConfigError(
            f"a prompt of {longest} tokens and a completion of {max_tokens} do not fit in the sampler's {limit} tokens",
            where="rollout.max_completion_tokens",
            next_step="lower rollout.max_completion_tokens or data.max_prompt_tokens",
        )


def checkpoint_names(model_folder: str | Path) -> set[str]:
    """The names of the weights in the folder's safetensors files, read from the headers alone."""
    names: set[str] = set()
    for path in sorted(Path(model_folder).glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            names |= set(json.loads(file.read(size))) - {"__metadata__"}
    return names


def check_names(given: Iterable[str], expected: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Raises unless the given weights are exactly the expected ones; a missing one would stay at its old value."""
    given, expected, optional = set(given), set(expected), set(optional)
    missing = sorted(expected - given - optional)
    unknown = sorted(given - expected - optional)
    if missing or unknown:
        parts = [
            f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for word, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise WeightSyncError(
            f"the trainer's weights are not those of the sampler's model: {' and '.join(parts)}",
            where="load_weights",
            next_step="the learner must export whole weights under the names of the model's own checkpoint",
        )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
