"""Rows become token ids. Text is tokenized once: what the sampler drew is never decoded and encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxrl_core.errors import ConfigError, DataError
from oxrl_core.types import Example, LabeledExample, Message, PairExample, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from oxrl_core.config.schema import DataConfig


@dataclass(frozen=True)
class LabeledRow:
    """A row with a label as tokens, before it meets the other rows of its step."""

    prompt_ids: list[int]
    completion_ids: list[int]
    is_desirable: bool


def render_prompt(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, needs_completion: bool = False
) -> Prompt | None:
    """The prompt as the model will read it, or None where it is longer than data.max_prompt_tokens.

    It carries the row's own completion as tokens. Where that is needed (it is trained on), a row without one is an
    error, and a row that is longer than data.max_length with it counts as too long.
    """
    token_ids, text = _prompt_tokens(row, tokenizer, data)
    if len(token_ids) > data.max_prompt_tokens:
        return _overlong(row, len(token_ids), "max_prompt_tokens", data.max_prompt_tokens, data)
    answer: str = row.get("answer", "")
    completion_ids: list[int] = []
    if needs_completion:
        completion_ids = _completion_tokens(row, "completion", tokenizer)
        if len(token_ids) + len(completion_ids) > data.max_length:
            return _overlong(row, len(token_ids) + len(completion_ids), "max_length", data.max_length, data)
    elif row.get("completion"):
        completion_ids = _tokens_with_eos(row["completion"], tokenizer)
    return Prompt(
        id=row["id"],
        token_ids=token_ids,
        text=text,
        answer=answer,
        row=row.get("row", {}),
        answer_ids=_tokens_with_eos(answer, tokenizer) if answer else [],
        completion_ids=completion_ids,
        messages=_messages(row, data),
    )


def render_example(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> Example | None:
    """Prompt and completion as one row of tokens, or None where it is longer than data.max_length.

    The prompt is tokenized alone, exactly as for generation, so that training sees the prefix that sampling continues.
    """
    prompt_ids, _ = _prompt_tokens(row, tokenizer, data)
    example = _example(prompt_ids, _completion_tokens(row, "completion", tokenizer))
    if len(example.token_ids) > data.max_length:
        return _overlong(row, len(example.token_ids), "max_length", data.max_length, data)
    return example


def render_text(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> list[Example]:
    """The row's text as windows of at most data.max_length tokens, all of them trained on, EOS at the text's end.

    A window begins with the last token of the one before it, which is there to be read only: so every token of the
    text but its first is learned from once. A row without text gives its prompt and completion in place of it. An
    empty text gives no window.
    """
    if data.max_length < 2:
        raise ConfigError("a window needs a token to read and one to learn", "data.max_length", "set it to 2 or more")
    if row.get("text") is not None:
        token_ids = _with_eos(_plain_tokens(row["text"], tokenizer), tokenizer) if row["text"] else []
    else:
        prompt_ids, _ = _prompt_tokens(row, tokenizer, data)
        token_ids = prompt_ids + _completion_tokens(row, "completion", tokenizer)
    windows = [token_ids[start : start + data.max_length] for start in range(0, len(token_ids), data.max_length - 1)]
    return [Example(window, [False] + [True] * (len(window) - 1)) for window in windows if len(window) > 1]


def render_pair(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> PairExample | None:
    """Both completions after the same prompt tokens, or None where one of them is longer than data.max_length.

    Two completions that are the same teach nothing: such a row is treated like one that is too long.
    """
    chosen_ids = _completion_tokens(row, "chosen", tokenizer)
    rejected_ids = _completion_tokens(row, "rejected", tokenizer)
    if chosen_ids == rejected_ids:
        if data.overlong == "error":
            raise DataError(
                "the chosen and the rejected completion are the same",
                where=row["id"],
                next_step="remove the row, or set data.overlong to drop",
            )
        return None
    prompt_ids, _ = _prompt_tokens(row, tokenizer, data)
    longest = len(prompt_ids) + max(len(chosen_ids), len(rejected_ids))
    if longest > data.max_length:
        return _overlong(row, longest, "max_length", data.max_length, data)
    return PairExample(_example(prompt_ids, chosen_ids), _example(prompt_ids, rejected_ids), row.get("margin", 0.0))


def render_labeled(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> LabeledRow | None:
    """Prompt, completion and label, or None where the two are longer than data.max_length."""
    if not isinstance(row.get("label"), bool):
        raise DataError(
            "the row does not say whether its completion is desirable",
            where=row["id"],
            next_step="name the column in label_column; it holds true or false, 1 or 0, desirable or undesirable",
        )
    prompt_ids, _ = _prompt_tokens(row, tokenizer, data)
    completion_ids = _completion_tokens(row, "completion", tokenizer)
    if len(prompt_ids) + len(completion_ids) > data.max_length:
        return _overlong(row, len(prompt_ids) + len(completion_ids), "max_length", data.max_length, data)
    return LabeledRow(prompt_ids, completion_ids, row["label"])


def pair_up(rows: Sequence[LabeledRow], max_length: int) -> list[LabeledExample]:
    """The rows of a whole step, each with its mismatched twin: its prompt and the completion of the row after it.

    The last row takes the first one's completion. A completion that would be right for this prompt after all (the same
    text, or given to the same prompt) is passed over while there is another one. The twin is cut to max_length.
    """
    if len(rows) == 1:
        raise DataError(
            "one labeled row alone has no completion of another row to be compared with",
            where="train.rows_per_step, data.eval",
            next_step="take 2 rows or more",
        )
    paired: list[LabeledExample] = []
    for index, row in enumerate(rows):
        other = _row_of_another(rows, index)
        twin = _example(row.prompt_ids, other.completion_ids[: max_length - len(row.prompt_ids)])
        paired.append(LabeledExample(_example(row.prompt_ids, row.completion_ids), row.is_desirable, twin))
    return paired


def _row_of_another(rows: Sequence[LabeledRow], index: int) -> LabeledRow:
    """The next row with another completion and another prompt, else with another completion, else the next one."""
    own, others = rows[index], [*rows[index + 1 :], *rows[:index]]
    different = [other for other in others if other.completion_ids != own.completion_ids]
    of_other_prompts = (other for other in different if other.prompt_ids != own.prompt_ids)
    return next(of_other_prompts, (different or others)[0])


def _example(prompt_ids: list[int], completion_ids: list[int]) -> Example:
    return Example(prompt_ids + completion_ids, [False] * len(prompt_ids) + [True] * len(completion_ids))


def _completion_tokens(row: Row, key: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the completion at row[key] with EOS, at least one of them more than EOS."""
    what = "completion" if key == "completion" else f"{key} completion"
    if row.get(key) is None:
        raise DataError(
            f"the row has no {what} to train on",
            where=row["id"],
            next_step=f"name its column in data.{key}_column, or use a dataset that has one",
        )
    completion_ids = _tokens_with_eos(row[key], tokenizer)
    if all(token == tokenizer.eos_token_id for token in completion_ids):
        raise DataError(
            f"the {what} has 0 trainable tokens",
            where=row["id"],
            next_step="remove the row, or give it a completion",
        )
    return completion_ids


def _tokens_with_eos(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The text's tokens and one EOS after them, else the model never learns to stop; none of a text without tokens."""
    return _with_eos(tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer)


def _with_eos(token_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    eos = tokenizer.eos_token_id
    return [*token_ids, eos] if token_ids and eos is not None and token_ids[-1] != eos else token_ids


def _prompt_tokens(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> tuple[list[int], str]:
    """The prompt's token ids and what they say."""
    if row.get("prompt") is None:
        raise DataError("the row has no prompt", row["id"], "name its column in data.prompt_column")
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
        token_ids = _plain_tokens(text, tokenizer)
    if not token_ids:
        raise DataError("the prompt has no tokens", where=row["id"], next_step="remove the row, or give it a prompt")
    return token_ids, text


def _plain_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The text's tokens, after BOS where the tokenizer puts one; never before the EOS that some append."""
    token_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer(text[:64])["input_ids"][:1]  # a long text is not tokenized twice
    if tokenizer.bos_token_id is not None and before == [tokenizer.bos_token_id] != token_ids[:1]:
        token_ids = [tokenizer.bos_token_id, *token_ids]
    return token_ids


def _messages(row: Row, data: DataConfig) -> list[Message]:
    """The prompt as messages, after the system prompt where it has none of its own."""
    prompt: str | list[Message] = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if data.system_prompt is not None and all(message["role"] != "system" for message in messages):
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
    return messages


def _chat_text(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> str:
    messages = _messages(row, data)
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
