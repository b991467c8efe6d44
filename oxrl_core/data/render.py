"""Rows become token ids. Text is tokenized once: what the sampler drew is never decoded and encoded again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxrl_core.errors import ConfigError, DataError
from oxrl_core.types import Message, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from oxrl_core.config.schema import DataConfig


@dataclass(frozen=True)
class Example:
    """A prompt with its completion, and which of the tokens are trained on."""

    token_ids: list[int]
    completion_mask: list[bool]


def render_prompt(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> Prompt | None:
    """The prompt as the model will read it, or None where it is longer than data.max_prompt_tokens."""
    token_ids, text = _prompt_tokens(row, tokenizer, data)
    if len(token_ids) > data.max_prompt_tokens:
        return _overlong(row, len(token_ids), "max_prompt_tokens", data.max_prompt_tokens, data)
    answer: str = row.get("answer", "")
    answer_ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"] if answer else []
    if answer_ids and tokenizer.eos_token_id is not None:
        answer_ids = [*answer_ids, tokenizer.eos_token_id]
    return Prompt(row["id"], token_ids, text, answer, row.get("row", {}), answer_ids)


def render_example(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> Example | None:
    """Prompt and completion as one row of tokens, or None where it is longer than data.max_length.

    The prompt is tokenized alone, exactly as for generation, so that training sees the prefix that sampling continues.
    """
    if row.get("completion") is None:
        raise DataError(
            "the row has no completion to train on",
            where=row["id"],
            next_step="name its column in data.completion_column, or use a dataset with completions",
        )
    prompt_ids, _ = _prompt_tokens(row, tokenizer, data)
    completion_ids: list[int] = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    if all(token == eos for token in completion_ids):
        raise DataError(
            "the completion has 0 trainable tokens",
            where=row["id"],
            next_step="remove the row, or give it a completion",
        )
    if eos is not None and completion_ids[-1] != eos:
        completion_ids = [*completion_ids, eos]  # else the model never learns to stop
    token_ids = prompt_ids + completion_ids
    if len(token_ids) > data.max_length:
        return _overlong(row, len(token_ids), "max_length", data.max_length, data)
    return Example(token_ids, [False] * len(prompt_ids) + [True] * len(completion_ids))


def _prompt_tokens(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> tuple[list[int], str]:
    """The prompt's token ids and what they say."""
    has_template = bool(tokenizer.chat_template)
    use_template = has_template if data.apply_chat_template is None else data.apply_chat_template
    if use_template and not has_template:
        raise ConfigError(
            "the model's tokenizer has no chat template",
            where="data.apply_chat_template",
            next_step="set it to false, or take an instruct model",
        )
    if use_template:
        text = _chat_text(row, tokenizer, data)
        token_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template writes its own BOS
    else:
        text = _plain_text(row, data)
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # BOS where the tokenizer puts one before text, and only one; never the EOS that some append to a prompt.
        before = tokenizer(text)["input_ids"][:1]
        if tokenizer.bos_token_id is not None and before == [tokenizer.bos_token_id] != token_ids[:1]:
            token_ids = [tokenizer.bos_token_id, *token_ids]
    if not token_ids:
        raise DataError("the prompt has no tokens", where=row["id"], next_step="remove the row, or give it a prompt")
    return token_ids, text


def _chat_text(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> str:
    prompt: str | list[Message] = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if data.system_prompt is not None and all(message["role"] != "system" for message in messages):
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates are programs: they raise what they like about roles and their order
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the model's chat template refuses messages of the roles {roles}: {error}",
            where=row["id"],
            next_step="remove data.system_prompt where the model knows no system role; mend the row's order of roles",
        ) from error


def _plain_text(row: Row, data: DataConfig) -> str:
    prompt: str | list[Message] = row["prompt"]
    if not isinstance(prompt, str):
        raise DataError(
            "the prompt is a list of messages, which only a chat template can render",
            where=row["id"],
            next_step="set data.apply_chat_template to true with a model that has a template, or use text prompts",
        )
    return prompt if data.system_prompt is None else f"{data.system_prompt}\n\n{prompt}"


def _overlong(row: Row, num_tokens: int, key: str, limit: int, data: DataConfig) -> None:
    """None, which the caller counts, or an error where the configuration wants one."""
    if data.overlong == "error":
        raise DataError(
            f"the row has {num_tokens} tokens, and data.{key} is {limit}",
            where=row["id"],
            next_step=f"raise data.{key}, or set data.overlong to drop",
        )
