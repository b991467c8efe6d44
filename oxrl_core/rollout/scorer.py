"""Reward models that judge rollouts: the service of the reward `reward_model`, and its workers.

A reward model reads text with its own tokenizer and its own chat template: the policy's tokens mean nothing to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from oxrl_core.errors import DataError, ModelError
from oxrl_core.models.load import load_tokenizer
from oxrl_core.rewards.base import failed, get_reward
from oxrl_core.rewards.reward_model import ENDING_KEY
from oxrl_core.types import Message, Metrics, Rollout, Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from oxrl_core.config.schema import Config
    from oxrl_core.train.groups import WorkerGroup

Item = tuple[list[Message] | str, str, bool]  # prompt, completion, whether the completion ended by itself


class Scorer:
    """All workers of a reward model as one object."""

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group
        self.counts: Counter[str] = Counter()

    def ready(self) -> list[dict[str, Any]]:
        """What each worker is, once all are loaded."""
        return self.group.call("ready")

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float = math.inf) -> list[Score]:
        """One verdict per rollout, in order. The deadline is that of every call to a worker group."""
        items: list[Item] = [
            (rollout.prompt.messages or rollout.prompt.text, rollout.text, rollout.finish_reason == "stop")
            for rollout in rollouts
        ]
        cuts = [len(items) * part // self.group.size for part in range(self.group.size + 1)]
        shares = [(items[start:end],) for start, end in pairwise(cuts)]
        values = [value for share in self.group.call_each("score", shares) for value in share]
        scores = [
            Score(value)
            if math.isfinite(value)
            else failed(f"the reward model gives {value}: the row is longer than reward.max_length, or it overflows")
            for value in values
        ]
        self.counts["scored"] += len(scores)
        self.counts["unscored"] += sum(score.status == "error" for score in scores)
        return scores

    def metrics(self) -> Metrics:
        """Completions scored, and those without a score, since the start."""
        return {f"reward_model/{name}": float(self.counts[name]) for name in ("scored", "unscored")}

    def close(self) -> None:
        """Ends the workers."""
        self.group.close()


class RewardModelWorker:
    """A whole copy of the reward model, in float32: its scores are compared with one another by small differences."""

    def __init__(self, config: Config, folder: str | Path) -> None:
        params = get_reward(config.reward.name, config.reward.params).params
        self.folder = Path(folder)
        self.tokenizer = load_tokenizer(self.folder)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_reward_model(self.folder).to(self.device)
        facts = self.model.config.get_text_config()
        self.vocabulary: int = facts.vocab_size
        limits = [params["max_length"], getattr(facts, "max_position_embeddings", None)]
        self.max_length: float = min((limit for limit in limits if limit), default=math.inf)
        self.batch_tokens: int = params["batch_tokens"]
        self.ending: Literal["eos", "template"] = params["ending"]
        if params["ending"] == "auto":
            was_trained_here = params["path"].startswith("run:")
            self.ending = getattr(self.model.config, ENDING_KEY, "eos" if was_trained_here else "template")

    def ready(self) -> dict[str, Any]:
        """What this worker is."""
        return {
            "engine": "transformers",
            "device": self.device,
            "precision": "float32",
            "max_length": self.max_length,
            "ending": self.ending if self.tokenizer.chat_template else "eos",
        }

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[float]:
        """The score of each prompt with its completion, at the last token; NaN where the row is too long or empty."""
        rows = [self.render(*item) for item in items]
        scores = [math.nan] * len(rows)
        fitting = [index for index, row in enumerate(rows) if 0 < len(row) <= self.max_length]
        for batch in self._batches(sorted(fitting, key=lambda index: len(rows[index])), rows):
            for index, score in zip(batch, self._score([rows[index] for index in batch]), strict=True):
                scores[index] = score
        return scores

    def render(self, prompt: list[Message] | str, completion: str, has_ended: bool) -> list[int]:
        """The row of tokens that is scored. A completion that was cut off has nothing behind it."""
        if not self.tokenizer.chat_template:
            ids: list[int] = self.tokenizer(self._plain_text(prompt))["input_ids"]
            if ids[-1:] == [self.tokenizer.eos_token_id]:  # some tokenizers end every text with it
                ids = ids[:-1]
            return ids + self._completion_ids(completion, has_ended)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if self.ending == "template":
            turn = {"role": "assistant", "content": completion}
            text = self._template([*messages, turn], add_generation_prompt=False)
            end = text.rfind(completion.strip()) + len(completion.strip())
            if has_ended:
                return self._ids(text)
            if completion.strip() and end >= len(completion.strip()):
                return self._ids(text[:end])
        # The same tokens as in training: the prompt is tokenized as for generation, the completion by itself.
        before = self._ids(self._template(messages, add_generation_prompt=True))
        return before + self._completion_ids(completion, has_ended)

    def _completion_ids(self, completion: str, has_ended: bool) -> list[int]:
        ids, eos = self._ids(completion), self.tokenizer.eos_token_id
        return [*ids, eos] if has_ended and ids[-1:] != [eos] else ids

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _template(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates are programs: they raise what they like about roles and their order
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"the reward model's chat template refuses messages of the roles {roles}: {error}",
                where=str(self.folder),
                next_step="remove data.system_prompt where the reward model knows no system role; or take another one",
            ) from error

    def _plain_text(self, prompt: list[Message] | str) -> str:
        """The prompt as text, as for a policy without a chat template: a system prompt and one message of a user."""
        if isinstance(prompt, str):
            return prompt
        roles = [message["role"] for message in prompt]
        if roles not in (["user"], ["system", "user"]):
            raise DataError(
                f"the reward model has no chat template, and the prompt has messages of the roles {', '.join(roles)}",
                where=str(self.folder),
                next_step="take a reward model with a chat template, or rows with one question each",
            )
        return "\n\n".join(message["content"] for message in prompt)

    def _batches(self, order: Sequence[int], rows: Sequence[list[int]]) -> list[list[int]]:
        """Rows of ascending length, cut where padding to the longest would go over the budget of tokens."""
        batches: list[list[int]] = []
        for index in order:
            size = len(batches[-1]) + 1 if batches else 0
            # Fewer rows than tokens in the vocabulary: then one of them ends no row, and may pad them all.
            if not batches or size * len(rows[index]) > self.batch_tokens or size >= self.vocabulary:
                batches.append([])
            batches[-1].append(index)
        return batches

    def _score(self, rows: Sequence[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        # The model scores the last token that is no padding. Where padding is EOS, as in many tokenizers, that would
        # not be the EOS of the row: pad with a token that ends none of these rows. The mask hides what it says.
        last = {row[-1] for row in rows}
        padding = next(token for token in (self.tokenizer.pad_token_id, *range(self.vocabulary)) if token not in last)
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = padding
        ids = torch.tensor([row + [padding] * (width - len(row)) for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(width, device=self.device) < lengths[:, None]).long()
        logits = self.model(input_ids=ids, attention_mask=mask).logits  # (B, 1)
        return logits[:, 0].float().tolist()


def load_reward_model(folder: Path) -> PreTrainedModel:
    """The reward model on the CPU in float32, ready to score; all of it, its head above all, comes from its files."""
    from transformers import AutoModelForSequenceClassification

    where = str(folder)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:  # RuntimeError: shapes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"the reward model cannot be loaded: {lines[0]}",
            where,
            "the folder needs config.json and safetensors weights of a sequence classifier",
        ) from error
    wrong = [*info["missing_keys"], *(str(entry[0]) for entry in info.get("mismatched_keys") or [])]
    if wrong:
        raise ModelError(
            f"{len(wrong)} weights of the reward model are not in its files: {', '.join(sorted(map(str, wrong))[:5])}",
            where,
            "a language model is no reward model: train one (algorithm.name: rm) and give its run (run:<id>)",
        )
    if model.num_labels != 1:
        raise ModelError(
            f"the model gives {model.num_labels} numbers for a text; a reward model gives 1",
            where,
            "take a reward model (num_labels 1 in config.json)",
        )
    return model.eval().requires_grad_(False)
