"""Rows become token ids. Text is tokenized once: what the sampler drew is never decoded and encoded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oxrl_core.data.chat import RenderNotes, chat_text, end_of_turn, without_opened_thinking
from oxrl_core.errors import ConfigError, DataError, EmptyRowError
from oxrl_core.types import Example, LabeledExample, Media, Message, PairExample, Prompt, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from oxrl_core.config.schema import DataConfig


@dataclass(frozen=True)
class LabeledRow:
    """A row with a label as tokens, before it meets the other rows of its step."""

    prompt_ids: list[int]
    completion_ids: list[int]
    is_desirable: bool
    media: tuple[Media, ...] = ()


def render_prompt(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    *,
    needs_completion: bool = False,
    notes: RenderNotes | None = None,
) -> Prompt | None:
    """The prompt as the model will read it, or None where it is longer than data.max_prompt_tokens.

    It carries the row's own completion as tokens. Where that is needed (it is trained on), a row without one is an
    error, and a row that is longer than data.max_length with it counts as too long. A prompt that is cut loses its
    beginning: its end is what the model goes on from.
    """
    prompt = _prompt(row, tokenizer, data, notes)
    token_ids, text = prompt.token_ids, prompt.text
    answer: str = row.get("answer", "")
    completion_ids: list[int] = []
    if needs_completion:
        completion_ids = _completion_tokens(row, "completion", tokenizer, prompt)
    elif row.get("completion"):
        completion_ids = _ended(without_opened_thinking(text, row["completion"]), tokenizer, prompt.end)
    is_cut = False
    if len(token_ids) > data.max_prompt_tokens:
        if data.overlong not in ("left", "right"):
            return _overlong(row, len(token_ids), "max_prompt_tokens", data.max_prompt_tokens, data, notes)
        token_ids, is_cut = _last_tokens(token_ids, data.max_prompt_tokens, tokenizer), True
    if needs_completion and len(token_ids) + len(completion_ids) > data.max_length:
        fitting = _fit(token_ids, [completion_ids], tokenizer, data)
        if fitting is None:
            return _overlong(row, len(token_ids) + len(completion_ids), "max_length", data.max_length, data, notes)
        (token_ids, (completion_ids,)), is_cut = fitting, True
    if is_cut:
        _note(notes, "cut", row)
        text = tokenizer.decode(token_ids)
    return Prompt(
        id=row["id"],
        token_ids=token_ids,
        text=text,
        answer=answer,
        row=row.get("row", {}),
        answer_ids=_ended(answer, tokenizer, prompt.end) if answer else [],
        completion_ids=completion_ids,
        messages=_messages(row, data),
    )


def without_empty(row: Row, *, render: Callable[..., Any], strict: bool, notes: RenderNotes, **options: Any) -> Any:
    """What the row becomes; None where it has no token to learn from, or holds what the tokenizer has no token for."""
    try:
        return render(row, notes=notes, **options)
    except EmptyRowError:
        if strict:
            raise
        return _note(notes, "empty", row)
    except Exception as error:
        if type(error) is not Exception:  # tokenizers has no class of its own for a text that it refuses
            raise
        if strict:
            raise DataError(f"the tokenizer refuses it: {error}", row["id"], "mend or remove the row") from error
        return _note(notes, "refused", row)


def prompt_tokens(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> list[int]:
    """The tokens of the row's prompt, whole, as they stand before a completion."""
    return _prompt(row, tokenizer, data, None).token_ids


def render_example(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, notes: RenderNotes | None = None
) -> Example | list[Example] | None:
    """Prompt and completion as one row of tokens, or None where it is longer than data.max_length.

    The prompt is tokenized alone, exactly as for generation, so that training sees the prefix that sampling continues.
    With data.train_on: all every answer of the assistant is learned: a list of as few rows as give each answer the
    prefix that it has in generation.
    """
    if data.train_on == "all" and not isinstance(row.get("prompt"), str):
        turns = [_one_example(turn, tokenizer, data, notes) for turn in _turns(row)]
        return merge_turns([turn for turn in turns if turn is not None])
    return _one_example(row, tokenizer, data, notes)


def _one_example(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, notes: RenderNotes | None
) -> Example | None:
    prompt = _prompt(row, tokenizer, data, notes)
    fitting = _fitted(row, prompt, [_completion_tokens(row, "completion", tokenizer, prompt)], tokenizer, data, notes)
    return None if fitting is None else _example(fitting[0], fitting[1][0])


def _turns(row: Row) -> list[Row]:
    """A row for each answer of the assistant: the messages before it as prompt, and the answer as completion."""
    messages: list[Message] = row["prompt"]
    inside = [
        {**row, "prompt": messages[:at], "completion": message["content"]}
        for at, message in enumerate(messages)
        if message["role"] == "assistant" and at > 0 and message["content"]
    ]
    return [*inside, row] if row.get("completion") is not None or not inside else inside


def merge_turns(examples: Sequence[Example]) -> list[Example]:
    """The same trained tokens behind the same tokens, in fewer rows: one goes into the next that begins with it.

    Where a template changes what was said before (it takes thinking out of the history), the rows stay apart.
    """
    merged: list[Example] = []
    for example in examples:
        before = merged[-1] if merged else None
        if before is not None and example.token_ids[: len(before.token_ids)] == before.token_ids:
            mask = [*before.completion_mask, *example.completion_mask[len(before.completion_mask) :]]
            merged[-1] = replace(example, completion_mask=mask)
        else:
            merged.append(example)
    return merged


def render_text(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, notes: RenderNotes | None = None
) -> list[Example]:
    """The row's text as windows of at most data.max_length tokens, all of them trained on, EOS at the text's end.

    A window begins with the last token of the one before it, which is there to be read only: so every token of the
    text but its first is learned from once. A row without text gives its prompt and completion in place of it. An
    empty text gives no window.
    """
    if data.max_length < 2:
        raise ConfigError("a window needs a token to read and one to learn", "data.max_length", "set it to 2 or more")
    if row.get("text") is not None:
        eos = tokenizer.eos_token_id
        token_ids = _with_end(_plain_tokens(row["text"], tokenizer), eos, eos) if row["text"] else []
    else:
        prompt = _prompt(row, tokenizer, data, notes)
        token_ids = prompt.token_ids + _completion_tokens(row, "completion", tokenizer, prompt)
    windows = [token_ids[start : start + data.max_length] for start in range(0, len(token_ids), data.max_length - 1)]
    return [Example(window, [False] + [True] * (len(window) - 1)) for window in windows if len(window) > 1]


def render_pair(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    *,
    notes: RenderNotes | None = None,
    ends_with_eos: bool = False,
) -> PairExample | None:
    """Both completions after the same prompt tokens, or None where one of them is longer than data.max_length.

    Two completions that are the same teach nothing: such a row is treated like one that is too long. A reward model
    reads its score at EOS, whatever a turn ends with.
    """
    prompt = _prompt(row, tokenizer, data, notes)
    if ends_with_eos:
        prompt = replace(prompt, end=tokenizer.eos_token_id)
    chosen_ids = _completion_tokens(row, "chosen", tokenizer, prompt)
    rejected_ids = _completion_tokens(row, "rejected", tokenizer, prompt)
    fitting = None
    if chosen_ids != rejected_ids:
        fitting = _fitted(row, prompt, [chosen_ids, rejected_ids], tokenizer, data, notes)
        if fitting is None:
            return None
    if fitting is None or fitting[1][0] == fitting[1][1]:  # or the cut has taken off where they differ
        if data.overlong == "error":
            raise DataError(
                "the chosen and the rejected completion are the same",
                where=row["id"],
                next_step="remove the row, or set data.overlong to drop",
            )
        return _note(notes, "same_pair", row)
    prompt_ids, (chosen_ids, rejected_ids) = fitting
    return PairExample(_example(prompt_ids, chosen_ids), _example(prompt_ids, rejected_ids), row.get("margin", 0.0))


def render_labeled(
    row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, notes: RenderNotes | None = None
) -> LabeledRow | None:
    """Prompt, completion and label, or None where the two are longer than data.max_length."""
    if not isinstance(row.get("label"), bool):
        raise DataError(
            "the row does not say whether its completion is desirable",
            where=row["id"],
            next_step="name the column in label_column; it holds true or false, 1 or 0, desirable or undesirable",
        )
    prompt = _prompt(row, tokenizer, data, notes)
    fitting = _fitted(row, prompt, [_completion_tokens(row, "completion", tokenizer, prompt)], tokenizer, data, notes)
    return None if fitting is None else LabeledRow(fitting[0], fitting[1][0], row["label"])


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
        twin = _example(row.prompt_ids, other.completion_ids[: max_length - len(row.prompt_ids)], row.media)
        own = _example(row.prompt_ids, row.completion_ids, row.media)
        paired.append(LabeledExample(own, row.is_desirable, twin))
    return paired


def _row_of_another(rows: Sequence[LabeledRow], index: int) -> LabeledRow:
    """The next row with another completion and another prompt, else with another completion, else the next one."""
    own, others = rows[index], [*rows[index + 1 :], *rows[:index]]
    different = [other for other in others if other.completion_ids != own.completion_ids]
    of_other_prompts = (other for other in different if other.prompt_ids != own.prompt_ids)
    return next(of_other_prompts, (different or others)[0])


def _example(prompt_ids: list[int], completion_ids: list[int], media: tuple[Media, ...] = ()) -> Example:
    return Example(prompt_ids + completion_ids, [False] * len(prompt_ids) + [True] * len(completion_ids), media)


def _completion_tokens(row: Row, key: str, tokenizer: PreTrainedTokenizerBase, prompt: _Prompt) -> list[int]:
    """The tokens of the completion at row[key] with its end, at least one of them more than the end."""
    what = "completion" if key == "completion" else f"{key} completion"
    if row.get(key) is None:
        raise DataError(
            f"the row has no {what} to train on",
            where=row["id"],
            next_step=f"name its column in data.{key}_column, or use a dataset that has one",
        )
    completion_ids = _ended(without_opened_thinking(prompt.text, row[key]), tokenizer, prompt.end)
    if all(token in (tokenizer.eos_token_id, prompt.end) for token in completion_ids):
        raise EmptyRowError(
            f"the {what} has 0 trainable tokens",
            where=row["id"],
            next_step="remove the row, or give it a completion",
        )
    return completion_ids


def _ended(text: str, tokenizer: PreTrainedTokenizerBase, end: int | None) -> list[int]:
    """The text's tokens and one end after them, else the model never learns to stop; none of a text without tokens."""
    return _with_end(tokenizer(text, add_special_tokens=False)["input_ids"], end, tokenizer.eos_token_id)


def _with_end(token_ids: list[int], end: int | None, eos: int | None) -> list[int]:
    return [*token_ids, end] if token_ids and end is not None and token_ids[-1] not in (end, eos) else token_ids


@dataclass(frozen=True)
class _Prompt:
    """The prompt's token ids, what they say, and the token that ends a completion after it."""

    token_ids: list[int]
    text: str
    end: int | None


def _prompt(row: Row, tokenizer: PreTrainedTokenizerBase, data: DataConfig, notes: RenderNotes | None) -> _Prompt:
    if row.get("prompt") is None:
        raise DataError("the row has no prompt", row["id"], "name its column in data.prompt_column")
    if row.get("media") and not hasattr(tokenizer, "media"):  # data/media.py hands over one that has
        raise DataError("the row has images or sound, which are not shown here", row["id"], "use rows of text alone")
    has_template = bool(tokenizer.chat_template)
    use_template = has_template if data.apply_chat_template is None else data.apply_chat_template
    if use_template and not has_template:
        raise ConfigError(
            "the model's tokenizer has no chat template",
            where="data.apply_chat_template",
            next_step="set it to false, or take an instruct model",
        )
    if use_template:
        text = chat_text(_messages(row, data), tokenizer, row["id"], notes)
        token_ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template writes its own BOS
        bos = tokenizer.bos_token_id
        while bos is not None and token_ids[:2] == [bos, bos]:  # and so did the row
            token_ids = token_ids[1:]
    else:
        text = _plain_text(row, data)
        token_ids = _plain_tokens(text, tokenizer)
    if not token_ids:
        raise EmptyRowError("the prompt has no tokens", row["id"], "remove the row, or give it a prompt")
    return _Prompt(token_ids, text, end_of_turn(tokenizer) if use_template else tokenizer.eos_token_id)


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


def _plain_text(row: Row, data: DataConfig) -> str:
    prompt: str | list[Message] = row["prompt"]
    if not isinstance(prompt, str):
        raise DataError(
            "the prompt is a list of messages, which only a chat template can render",
            where=row["id"],
            next_step="set data.apply_chat_template to true with a model that has a template, or use text prompts",
        )
    return prompt if data.system_prompt is None else f"{data.system_prompt}\n\n{prompt}"


def _fitted(
    row: Row,
    prompt: _Prompt,
    completions: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    notes: RenderNotes | None,
) -> tuple[list[int], list[list[int]]] | None:
    """Prompt and completions within data.max_length, cut where the configuration wants that; None drops the row."""
    num_tokens = len(prompt.token_ids) + max(map(len, completions))
    if num_tokens <= data.max_length:
        return prompt.token_ids, completions
    fitting = _fit(prompt.token_ids, completions, tokenizer, data)
    if fitting is None:
        return _overlong(row, num_tokens, "max_length", data.max_length, data, notes)
    _note(notes, "cut", row)
    return fitting


def _fit(
    prompt_ids: list[int], completions: list[list[int]], tokenizer: PreTrainedTokenizerBase, data: DataConfig
) -> tuple[list[int], list[list[int]]] | None:
    """`left` takes from the beginning of the prompt, `right` from the end of the completions; None: it cannot be."""
    if data.overlong == "left":
        room = data.max_length - max(map(len, completions))
        return (_last_tokens(prompt_ids, room, tokenizer), completions) if room > 0 else None
    room = data.max_length - len(prompt_ids)
    return (prompt_ids, [ids[:room] for ids in completions]) if data.overlong == "right" and room > 0 else None


def _last_tokens(token_ids: list[int], room: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last tokens, after BOS where the prompt began with it and there is room."""
    if room >= len(token_ids):
        return token_ids
    if room > 1 and token_ids[0] == tokenizer.bos_token_id:
        return [token_ids[0], *token_ids[len(token_ids) - room + 1 :]]
    return token_ids[len(token_ids) - room :]


def _overlong(
    row: Row, num_tokens: int, key: str, limit: int, data: DataConfig, notes: RenderNotes | None = None
) -> None:
    """None, which the caller counts, or an error where the configuration wants one."""
    if data.overlong == "error":
        raise DataError(
            f"the row has {num_tokens} tokens, and data.{key} is {limit}",
            where=row["id"],
            next_step=f"raise data.{key}, or set data.overlong to drop, left or right",
        )
    return _note(notes, "too_long", row)


def _note(notes: RenderNotes | None, kind: str, row: Row) -> None:
    if notes is not None:
        notes.add(kind, row["id"])


# What a row becomes, by what the algorithm learns from.
RENDERERS: dict[str, Callable[..., Any]] = {
    "examples": render_example,
    "documents": render_text,
    "pairs": render_pair,
    "labeled": render_labeled,
}
