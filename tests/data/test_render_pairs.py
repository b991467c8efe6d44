"""Pairs, labeled rows and texts as tokens, read with the tokenizers of the miniatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from oxrl_core.config.schema import DataConfig
from oxrl_core.data.render import (
    LabeledRow,
    pair_up,
    render_example,
    render_labeled,
    render_pair,
    render_prompt,
    render_text,
)
from oxrl_core.errors import ConfigError, DataError
from oxrl_core.models.load import load_tokenizer
from oxrl_core.models.miniature import make_miniature
from oxrl_core.types import Example, PairExample


@pytest.fixture(scope="module")
def chars(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """One token per character, no template."""
    return load_tokenizer(make_miniature("chars", tmp_path_factory.mktemp("chars") / "model", seed=0))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The byte-level tokenizer with the ChatML template."""
    folder = tmp_path_factory.mktemp("qwen") / "model"
    return load_tokenizer(make_miniature("qwen2.5-0.5b-instruct", folder, seed=0))


def data_of(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"train": [{"name": "reverse3"}], **settings})


def row_of(**columns: Any) -> dict[str, Any]:
    return {"id": "t/train/7", "prompt": "42>", "row": {}, **columns}


def trained(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    tokens = zip(example.token_ids, example.completion_mask, strict=True)
    return tokenizer.decode([token for token, is_trained in tokens if is_trained])


def shown(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    return tokenizer.decode(example.token_ids)


# Prompts


def test_a_prompt_carries_the_rows_own_completion_and_its_messages(qwen: PreTrainedTokenizerBase) -> None:
    row = row_of(prompt="2 + 2?", completion="four", answer="4")
    prompt = render_prompt(row, qwen, data_of(system_prompt="be brief"))
    assert prompt is not None
    assert qwen.decode(prompt.completion_ids) == "four<|im_end|>"
    assert qwen.decode(prompt.answer_ids) == "4<|im_end|>"
    assert prompt.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}]
    example = render_example(row, qwen, data_of(system_prompt="be brief"))
    assert example is not None
    assert prompt.token_ids + prompt.completion_ids == example.token_ids  # what supervised training would see
    without = render_prompt(row_of(), qwen, data_of())
    assert without is not None
    assert without.completion_ids == []


def test_a_prompt_whose_completion_is_learned_from_has_one_that_fits(chars: PreTrainedTokenizerBase) -> None:
    row = row_of(completion="123456")
    kept = render_prompt(row, chars, data_of(max_length=10), needs_completion=True)  # 3 + 6 + EOS
    assert kept is not None
    assert len(kept.token_ids + kept.completion_ids) == 10
    assert render_prompt(row, chars, data_of(max_length=9), needs_completion=True) is None
    assert render_prompt(row, chars, data_of(max_length=9)) is not None  # RL only looks at the prompt
    with pytest.raises(DataError, match="no completion"):
        render_prompt(row_of(), chars, data_of(), needs_completion=True)


def test_a_row_of_nothing_but_text_is_no_prompt(chars: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="no prompt") as caught:
        render_prompt({"id": "t/train/0", "text": "123", "row": {}}, chars, data_of())
    assert caught.value.where == "t/train/0"


# Pairs


def test_a_pair_is_two_completions_after_the_same_prompt(chars: PreTrainedTokenizerBase) -> None:
    pair = render_pair(row_of(chosen="24", rejected="7", margin=1.5), chars, data_of())
    assert pair is not None
    assert shown(chars, pair.chosen) == "42>24<eos>"
    assert trained(chars, pair.chosen) == "24<eos>"
    assert shown(chars, pair.rejected) == "42>7<eos>"
    assert trained(chars, pair.rejected) == "7<eos>"
    assert pair.margin == 1.5
    assert pair.ref_logprobs is None


def test_a_pair_in_chat_form_begins_with_the_prompt_of_generation(qwen: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "2 + 2?"},
    ]
    row = row_of(prompt=messages, chosen="four", rejected="five")
    pair, prompt = render_pair(row, qwen, data_of()), render_prompt(row, qwen, data_of())
    assert pair is not None
    assert prompt is not None
    assert prompt.text.endswith("<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n")
    for example, text in ((pair.chosen, "four"), (pair.rejected, "five")):
        count = len(prompt.token_ids)
        assert example.token_ids[:count] == prompt.token_ids
        assert example.completion_mask == [False] * count + [True] * (len(example.token_ids) - count)
        assert trained(qwen, example) == f"{text}<|im_end|>"
    assert pair.margin == 0.0


def test_a_pair_that_is_too_long_goes_as_a_whole(chars: PreTrainedTokenizerBase) -> None:
    row = row_of(chosen="1", rejected="123456")
    assert render_pair(row, chars, data_of(max_length=10)) is not None
    assert render_pair(row, chars, data_of(max_length=9)) is None
    with pytest.raises(DataError, match=r"10 tokens, and data\.max_length is 9"):
        render_pair(row, chars, data_of(max_length=9, overlong="error"))


def test_a_pair_of_the_same_completion_twice_teaches_nothing(chars: PreTrainedTokenizerBase) -> None:
    row = row_of(chosen="24", rejected="24")
    assert render_pair(row, chars, data_of()) is None
    with pytest.raises(DataError, match="are the same") as caught:
        render_pair(row, chars, data_of(overlong="error"))
    assert caught.value.where == "t/train/7"


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"chosen": "1"}, "no rejected completion to train on"),
        ({"rejected": "1"}, "no chosen completion to train on"),
        ({"chosen": "1", "rejected": ""}, "the rejected completion has 0 trainable tokens"),
    ],
)
def test_half_a_pair_is_refused(chars: PreTrainedTokenizerBase, columns: dict[str, str], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        render_pair(row_of(**columns), chars, data_of())
    assert caught.value.where == "t/train/7"


digits = st.text("0123456789", min_size=1, max_size=8)


@given(prompt=digits, chosen=digits, rejected=digits)
def test_the_mask_of_a_pair_is_its_completions_and_never_its_prompt(
    chars: PreTrainedTokenizerBase, prompt: str, chosen: str, rejected: str
) -> None:
    pair = render_pair(row_of(prompt=prompt, chosen=chosen, rejected=rejected), chars, data_of())
    if chosen == rejected:
        assert pair is None
        return
    assert isinstance(pair, PairExample)
    for example, text in ((pair.chosen, chosen), (pair.rejected, rejected)):
        assert shown(chars, example) == f"{prompt}{text}<eos>"
        assert example.completion_mask == [False] * len(prompt) + [True] * (len(text) + 1)


# Labeled rows


def labeled_of(prompt: str, completion: str, is_desirable: bool = True) -> LabeledRow:
    return LabeledRow([ord(char) for char in prompt], [ord(char) for char in completion], is_desirable)


def read(example: Example) -> tuple[str, str]:
    tokens = list(zip(example.token_ids, example.completion_mask, strict=True))
    prompt, completion = ("".join(chr(token) for token, mask in tokens if mask == wanted) for wanted in (False, True))
    return prompt, completion


def test_a_labeled_row_is_prompt_completion_and_label(chars: PreTrainedTokenizerBase) -> None:
    row = render_labeled(row_of(completion="24", label=False), chars, data_of())
    assert row is not None
    assert chars.decode(row.prompt_ids) == "42>"
    assert chars.decode(row.completion_ids) == "24<eos>"
    assert row.is_desirable is False
    assert render_labeled(row_of(completion="24", label=True), chars, data_of(max_length=5)) is None
    with pytest.raises(DataError, match="whether its completion is desirable"):
        render_labeled(row_of(completion="24"), chars, data_of())


def test_each_row_meets_the_completion_of_the_next_one() -> None:
    rows = [labeled_of("a", "1", True), labeled_of("b", "2", False), labeled_of("c", "3", True)]
    paired = pair_up(rows, max_length=10)
    assert [read(item.example) for item in paired] == [("a", "1"), ("b", "2"), ("c", "3")]
    assert [read(item.mismatched) for item in paired] == [("a", "2"), ("b", "3"), ("c", "1")]
    assert [item.is_desirable for item in paired] == [True, False, True]


def test_a_completion_that_is_right_for_the_prompt_is_passed_over() -> None:
    rows = [labeled_of("a", "1"), labeled_of("a", "2"), labeled_of("b", "1"), labeled_of("c", "3")]
    # a/1 passes over 2 (said to the same prompt) and 1 (its own text); a/2 takes 1, b/1 takes 3, c/3 the first
    assert [read(item.mismatched) for item in pair_up(rows, 10)] == [("a", "3"), ("a", "1"), ("b", "3"), ("c", "1")]
    same_prompt = [labeled_of("a", "1"), labeled_of("a", "2")]
    assert [read(item.mismatched) for item in pair_up(same_prompt, 10)] == [("a", "2"), ("a", "1")]


def test_a_mismatched_completion_is_cut_where_the_row_is_full() -> None:
    paired = pair_up([labeled_of("aaa", "1"), labeled_of("b", "2345")], max_length=5)
    assert [read(item.mismatched) for item in paired] == [("aaa", "23"), ("b", "1")]


def test_one_labeled_row_alone_cannot_be_mismatched() -> None:
    with pytest.raises(DataError, match="one labeled row alone") as caught:
        pair_up([labeled_of("a", "1")], 10)
    assert "rows_per_step" in caught.value.where
    assert pair_up([], 10) == []


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["1", "2", "3", "12"])), min_size=2, max_size=12))
def test_no_row_is_paired_with_its_own_completion_while_there_is_another(rows: list[tuple[str, str]]) -> None:
    paired = pair_up([labeled_of(*row) for row in rows], max_length=20)
    for (prompt, completion), item in zip(rows, paired, strict=True):
        assert read(item.example) == (prompt, completion)
        twin_prompt, twin_completion = read(item.mismatched)
        assert twin_prompt == prompt
        assert twin_completion in [other for _, other in rows]
        if {other for _, other in rows} != {completion}:
            assert twin_completion != completion
        if any(other != completion and other_prompt != prompt for other_prompt, other in rows):
            assert any(other == twin_completion and other_prompt != prompt for other_prompt, other in rows)


# Texts


def text_of(text: str, **columns: Any) -> dict[str, Any]:
    return {"id": "t/train/7", "text": text, "row": {}, **columns}


def test_a_text_is_cut_into_windows_that_share_one_token(chars: PreTrainedTokenizerBase) -> None:
    windows = render_text(text_of("123456"), chars, data_of(max_length=4))
    assert [shown(chars, window) for window in windows] == ["1234", "456<eos>"]
    assert [window.completion_mask for window in windows] == [[False, True, True, True]] * 2
    assert [shown(chars, window) for window in render_text(text_of("12345"), chars, data_of(max_length=4))] == [
        "1234",
        "45<eos>",
    ]
    assert render_text(text_of(""), chars, data_of()) == []
    with pytest.raises(ConfigError, match="a token to read and one to learn"):
        render_text(text_of("12"), chars, data_of(max_length=1))


@given(text=st.text("0123456789", min_size=1, max_size=40), max_length=st.integers(2, 12))
def test_every_token_of_a_text_but_the_first_is_learned_from_once(
    chars: PreTrainedTokenizerBase, text: str, max_length: int
) -> None:
    windows = render_text(text_of(text), chars, data_of(max_length=max_length))
    assert "".join(trained(chars, window) for window in windows) == f"{text[1:]}<eos>"
    assert all(2 <= len(window.token_ids) <= max_length for window in windows)
    assert all(window.completion_mask == [False] + [True] * (len(window.token_ids) - 1) for window in windows)


def test_a_text_has_no_template_and_a_row_without_text_is_read_as_one(qwen: PreTrainedTokenizerBase) -> None:
    (window,) = render_text(text_of("one two", prompt="not read"), qwen, data_of())
    assert shown(qwen, window) == "one two<|im_end|>"
    row = row_of(prompt="hi", completion="hello")
    (window,) = render_text(row, qwen, data_of())
    example = render_example(row, qwen, data_of())
    assert example is not None
    assert window.token_ids == example.token_ids
    assert window.completion_mask == [False] + [True] * (len(window.token_ids) - 1)
    with pytest.raises(DataError, match="no completion"):
        render_text(row_of(prompt="hi"), qwen, data_of())


@pytest.mark.parametrize("render", [render_example, render_pair, render_labeled, render_prompt, render_text])
def test_rows_are_left_as_they_are(chars: PreTrainedTokenizerBase, render: Callable[..., object]) -> None:
    row = row_of(completion="1", chosen="1", rejected="2", label=True, text="12")
    before = {**row, "row": dict(row["row"])}
    render(row, chars, data_of())
    assert row == before
