"""What the chat templates of the families of models ask for: system role, thinking, ends of turns, BOS, padding.

The templates here are short ones with the habit of a family, not copies of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from oxrl_core.config.schema import DataConfig
from oxrl_core.data.chat import RenderNotes, end_of_turn, fold_system, without_opened_thinking
from oxrl_core.data.collate import collate_examples
from oxrl_core.data.render import merge_turns, render_example, render_labeled, render_pair, render_prompt
from oxrl_core.data.spans import check_masks, marked, misplaced_mask, spans
from oxrl_core.errors import DataError
from oxrl_core.types import Example

SPECIAL = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<think>", "</think>"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789>+= []\n"

CHATML = (  # Qwen
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (  # Gemma 2: refuses a system message; a turn ends with a token of its own
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}[{{ 'model' if m.role == 'assistant' else m.role }}]{{ m.content }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}[model]{% endif %}"
)
DEAF_TO_SYSTEM = (  # an early Mistral: leaves a system message out and says nothing
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[inst]{{ m.content }}[end]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI = (  # Phi-3: the turn ends with one token, a text with another
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% else %}{{ eos_token }}{% endif %}"
)
FORGETS_THINKING = (  # Qwen3: what was thought before an answer is not in the history
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS_THINKING = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")  # DeepSeek-R1


def tokenizer_of(
    folder: Path, template: str, *, eos: str = "<eos>", pad: str | None = "<pad>", stops: Any = None
) -> Any:
    """A tokenizer of characters, saved and loaded as that of a model whose completions end at `stops`."""
    tokens = [*SPECIAL, *CHARACTERS]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token=eos, extra_special_tokens=SPECIAL, chat_template=template
    )
    if pad is not None:
        made.pad_token = pad
    made.save_pretrained(folder)
    ids = [SPECIAL.index(token) for token in (stops or [eos])]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return AutoTokenizer.from_pretrained(folder)


def data_of(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"train": [{"name": "reverse3"}], **settings})


def row_of(prompt: Any, **rest: Any) -> dict[str, Any]:
    return {"id": "t/train/7", "prompt": prompt, "row": {}, **rest}


def show(tokenizer: Any, example: Any) -> str:
    """Every token, what is trained on between [[ and ]]."""
    assert isinstance(example, Example)
    return marked(spans(example, tokenizer))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# The system role


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (NO_SYSTEM, "<bos>[user]be brief\n\nhi<end_of_turn>\n[model]"),
        (DEAF_TO_SYSTEM, "<bos>[inst]be brief\n\nhi[end]"),
    ],
)
def test_a_system_message_that_the_template_does_not_know_is_folded_into_the_first_user_message(
    tmp_path: Path, template: str, rendered: str
) -> None:
    tokenizer, notes = tokenizer_of(tmp_path, template), RenderNotes()
    prompt = render_prompt(row_of("hi"), tokenizer, data_of(system_prompt="be brief"), notes=notes)
    assert prompt is not None
    assert prompt.text == tokenizer.decode(prompt.token_ids) == rendered
    assert (notes.counts["folded"], notes.first["folded"]) == (1, "t/train/7")
    assert prompt.messages == [turn("system", "be brief"), turn("user", "hi")]  # another model may know the role


def test_a_system_message_that_the_template_knows_stays_what_it_is(tmp_path: Path) -> None:
    tokenizer, notes = tokenizer_of(tmp_path, CHATML), RenderNotes()
    prompt = render_prompt(row_of("hi"), tokenizer, data_of(system_prompt="be brief"), notes=notes)
    assert prompt is not None
    assert prompt.text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi")
    assert not notes.counts


def test_what_cannot_be_folded_is_an_error_with_the_templates_own_words(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, NO_SYSTEM)
    with pytest.raises(DataError, match="System role not supported"):
        render_prompt(row_of([turn("system", "a"), turn("assistant", "b")]), tokenizer, data_of())
    assert fold_system([turn("user", "a")]) is None


# Ends of turns, BOS, padding


@pytest.mark.parametrize(
    ("template", "stops", "ends_with"),
    [
        (NO_SYSTEM, ["<eos>", "<end_of_turn>"], "<end_of_turn>"),  # Gemma
        (PHI, ["<|end|>", "<eos>"], "<|end|>"),
        (CHATML, ["<|im_end|>", "<eos>"], "<|im_end|>"),  # Qwen instruct
        (CHATML, ["<eos>"], "<eos>"),  # Qwen base: generation would run over <|im_end|>
        (DEAF_TO_SYSTEM, ["<eos>"], "<eos>"),
    ],
)
def test_a_completion_ends_as_a_turn_ends_if_generation_stops_there(
    tmp_path: Path, template: str, stops: list[str], ends_with: str
) -> None:
    tokenizer = tokenizer_of(tmp_path, template, stops=stops)
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(ends_with)
    example = render_example(row_of("a", completion="b"), tokenizer, data_of())
    assert show(tokenizer, example).endswith(f"[[b{ends_with}]]")
    for said in (ends_with, "<eos>"):  # it is there already: no second one
        example = render_example(row_of("a", completion=f"b{said}"), tokenizer, data_of())
        assert show(tokenizer, example).endswith(f"[[b{said}]]")


def test_without_a_template_and_for_a_reward_model_a_text_ends_with_eos(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, NO_SYSTEM, stops=["<eos>", "<end_of_turn>"])
    plain = render_example(row_of("a", completion="b"), tokenizer, data_of(apply_chat_template=False))
    assert show(tokenizer, plain) == "a[[b<eos>]]"
    pair = render_pair(row_of("a", chosen="b", rejected="c"), tokenizer, data_of(), ends_with_eos=True)
    assert pair is not None
    assert show(tokenizer, pair.rejected).endswith("[[c<eos>]]")


def test_a_bos_that_the_row_and_the_template_write_stands_there_once(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    prompt = render_prompt(row_of("<bos>hi"), tokenizer, data_of())
    assert prompt is not None
    assert tokenizer.convert_ids_to_tokens(prompt.token_ids) == ["<bos>", "h", "i"]


def test_where_padding_is_eos_the_end_of_a_completion_is_trained_on_and_padding_is_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, DEAF_TO_SYSTEM, pad="<eos>")
    examples = [render_example(row_of("a", completion=text), tokenizer, data_of()) for text in ("b", "bcd")]
    assert all(isinstance(example, Example) for example in examples)
    batch = collate_examples(examples, tokenizer.pad_token_id, packing=False, row_tokens=64)  # type: ignore[arg-type]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert batch.completion_mask.sum(1).tolist() == [2, 4]
    assert all(batch.input_ids[row][batch.completion_mask[row]][-1] == tokenizer.eos_token_id for row in (0, 1))
    assert not batch.completion_mask[~batch.attention_mask].any()


# Thinking, and several answers in one row

TALK = [
    turn("user", "one"),
    turn("assistant", "<think>a</think>two"),
    turn("user", "three"),
    turn("assistant", "<think>b</think>four"),
    turn("user", "five"),
]


def test_one_row_learns_all_answers_where_the_history_is_what_was_said(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML, eos="<|im_end|>")
    made = render_example(row_of(TALK, completion="six"), tokenizer, data_of(train_on="all"))
    assert isinstance(made, list)
    (example,) = made
    assert show(tokenizer, example) == (
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n[[<think>a</think>two<|im_end|>]]\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n[[<think>b</think>four<|im_end|>]]\n"
        "<|im_start|>user\nfive<|im_end|>\n<|im_start|>assistant\n[[six<|im_end|>]]"
    )
    last = render_example(row_of(TALK, completion="six"), tokenizer, data_of())
    assert show(tokenizer, last).count("[[") == 1


def test_where_the_history_forgets_thinking_each_answer_stands_behind_what_generation_sees(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, FORGETS_THINKING, eos="<|im_end|>")
    made = render_example(row_of(TALK, completion="six"), tokenizer, data_of(train_on="all"))
    assert isinstance(made, list)
    assert [show(tokenizer, example).rpartition("assistant\n")[2] for example in made] == [
        "[[<think>a</think>two<|im_end|>]]",
        "[[<think>b</think>four<|im_end|>]]",
        "[[six<|im_end|>]]",
    ]
    for number, example in enumerate(made):
        prompt = render_prompt(row_of(TALK[: 2 * number + 1]), tokenizer, data_of())
        assert prompt is not None
        assert example.token_ids[: len(prompt.token_ids)] == prompt.token_ids
        assert "<think>" not in prompt.text


def test_rows_are_merged_only_where_one_begins_with_the_other() -> None:
    first, second = Example([1, 2, 3], [False, True, True]), Example([1, 2, 3, 4, 5], [False] * 4 + [True])
    other = Example([1, 9, 3, 4], [False, False, False, True])
    assert merge_turns([first, second, other]) == [Example([1, 2, 3, 4, 5], [False, True, True, False, True]), other]
    assert merge_turns([]) == []


def test_a_conversation_that_ends_with_the_user_still_teaches_the_answers_inside_it(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML, eos="<|im_end|>")
    (example,) = render_example(row_of(TALK[:3]), tokenizer, data_of(train_on="all"))  # type: ignore[misc]
    assert show(tokenizer, example).endswith("[[<think>a</think>two<|im_end|>]]")


def test_a_thinking_tag_that_the_template_opens_is_not_opened_twice(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, OPENS_THINKING, eos="<|im_end|>")
    for completion in ("<think>\na</think>b", "a</think>b"):
        example = render_example(row_of("q", completion=completion), tokenizer, data_of())
        assert show(tokenizer, example).endswith("assistant\n<think>\n[[a</think>b<|im_end|>]]")
    assert without_opened_thinking("q", "<think>a") == "<think>a"


# What is too long


@pytest.mark.parametrize(
    ("overlong", "shown", "kind"),
    [("left", "<bos>def[[xyz<eos>]]", "cut"), ("right", "<bos>abcdef[[x]]", "cut"), ("drop", None, "too_long")],
)
def test_an_example_that_is_too_long_is_cut_where_the_configuration_says(
    tmp_path: Path, overlong: str, shown: str | None, kind: str
) -> None:
    tokenizer, notes = tokenizer_of(tmp_path, "{{ bos_token }}{{ messages[-1].content }}"), RenderNotes()
    data, row = data_of(max_length=8, overlong=overlong), row_of("abcdef", completion="xyz", label=True)
    example = render_example(row, tokenizer, data, notes=notes)
    assert (None if example is None else show(tokenizer, example)) == shown
    assert dict(notes.counts) == {kind: 1}
    labeled = render_labeled(row, tokenizer, data)
    assert (labeled is None) == (shown is None)
    if labeled is not None and isinstance(example, Example):
        assert labeled.prompt_ids + labeled.completion_ids == example.token_ids


def test_a_prompt_that_is_too_long_loses_its_beginning_and_keeps_bos(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "{{ bos_token }}{{ messages[-1].content }}")
    for overlong in ("left", "right"):  # its end is what the model goes on from
        notes = RenderNotes()
        prompt = render_prompt(
            row_of("abcdef"), tokenizer, data_of(max_prompt_tokens=4, overlong=overlong), notes=notes
        )
        assert prompt is not None
        assert prompt.text == "<bos>def" == tokenizer.decode(prompt.token_ids)
        assert notes.counts["cut"] == 1


def test_what_a_cut_would_leave_nothing_of_is_dropped_and_counted(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "{{ messages[-1].content }}")
    for overlong, row in (
        ("left", row_of("a", completion="bcdefgh")),  # no room for a prompt
        ("right", row_of("abcdefgh", completion="x")),  # no room for a completion
    ):
        notes = RenderNotes()
        assert render_example(row, tokenizer, data_of(max_length=4, overlong=overlong), notes=notes) is None
        assert dict(notes.counts) == {"too_long": 1}


def test_a_pair_keeps_one_prompt_and_is_dropped_where_the_cut_makes_its_sides_the_same(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "{{ messages[-1].content }}")
    row = row_of("abcd", chosen="xxy", rejected="xxz")
    pair = render_pair(row, tokenizer, data_of(max_length=6, overlong="left"))
    assert pair is not None
    assert [show(tokenizer, side) for side in (pair.chosen, pair.rejected)] == ["cd[[xxy<eos>]]", "cd[[xxz<eos>]]"]
    notes = RenderNotes()
    assert render_pair(row, tokenizer, data_of(max_length=6, overlong="right"), notes=notes) is None
    assert notes.counts["same_pair"] == 1


# Masks that cannot be right


def test_a_mask_of_nothing_or_of_everything_is_refused_with_the_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML)
    ids = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    check_masks([Example(ids, [False, False, True, True])], tokenizer)
    check_masks([], tokenizer)
    with pytest.raises(DataError, match=r"covers 0 % .* in \[\[ \]\]: abcd"):
        check_masks([Example(ids, [False] * 4)], tokenizer)
    for mask in ([True] * 4, [False, True, True, True]):
        with pytest.raises(DataError, match=r"covers 100 % "):
            check_masks([Example(ids, mask)], tokenizer)
    check_masks([Example(ids, [False] * 4), Example(ids, [False, False, False, True])], tokenizer)  # one row may be odd


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([False, False, True, True], ("", "")),
        ([False, True, True, True], ("mask_coverage", "a[[bcd]]")),
        ([True, True, False, False], ("mask_coverage", "[[ab]]cd")),
        ([False, False, True, False], ("no_eos", "ab[[c]]d")),
        ([False, False, False, True], ("mask_coverage", "abc[[d]]")),
    ],
)
def test_a_mask_is_what_stands_behind_the_prompt(mask: list[bool], said: tuple[str, str], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHATML)
    ids = tokenizer("abcd", add_special_tokens=False)["input_ids"]
    assert misplaced_mask([(ids[:2], Example(ids, mask))], tokenizer) == said
    assert misplaced_mask([(ids[1:3], Example(ids, mask))], tokenizer) == ("", "")  # it does not begin with its prompt
