"""Token ids of prompts and examples: templates, masks, EOS and BOS."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from oxrl_core.config.schema import DataConfig
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.render import render_example, render_prompt, without_empty
from oxrl_core.errors import ConfigError, DataError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789>+= []\n"


def tokenizer_of(*, adds: str = "", template: str | None = None) -> PreTrainedTokenizerFast:
    """One token per character; `adds` is what it puts around text of its own accord: "bos", "eos" or both."""
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{char: 3 + index for index, char in enumerate(CHARACTERS)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    before, after = ("<bos> " if "bos" in adds else ""), (" <eos>" if "eos" in adds else "")
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{after}", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = template
    return tokenizer


def data_of(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"train": [{"name": "reverse3"}], **settings})


def row_of(prompt: Any, **rest: Any) -> dict[str, Any]:
    return {"id": "t/train/7", "prompt": prompt, "row": {"n": 1}, **rest}


def show(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(token_ids))


def test_a_plain_prompt_is_its_text() -> None:
    tokenizer = tokenizer_of()
    prompt = render_prompt(row_of("420>", answer="024"), tokenizer, data_of())
    assert prompt is not None
    assert show(tokenizer, prompt.token_ids) == "420>"
    assert (prompt.id, prompt.text, prompt.answer, prompt.row) == ("t/train/7", "420>", "024", {"n": 1})
    assert show(tokenizer, prompt.answer_ids) == "024<eos>"
    without = render_prompt(row_of("420>"), tokenizer, data_of())
    assert without is not None
    assert (without.answer, without.answer_ids) == ("", [])


@pytest.mark.parametrize(
    ("adds", "text", "rendered"),
    [
        ("bos", "ab", "<bos>ab"),
        ("bos eos", "ab", "<bos>ab"),  # an EOS after the prompt would tell the model that all is said
        ("bos", "<bos>ab", "<bos>ab"),
        ("eos", "ab", "ab"),
        ("", "ab", "ab"),
    ],
)
def test_a_plain_prompt_has_one_bos_where_the_model_has_one_and_never_an_eos(
    adds: str, text: str, rendered: str
) -> None:
    tokenizer = tokenizer_of(adds=adds)
    prompt = render_prompt(row_of(text), tokenizer, data_of())
    assert prompt is not None
    assert show(tokenizer, prompt.token_ids) == rendered


def test_a_chat_prompt_has_the_templates_bos_and_no_other() -> None:
    tokenizer = tokenizer_of(adds="bos eos", template=TEMPLATE)
    prompt = render_prompt(row_of("hi"), tokenizer, data_of())
    assert prompt is not None
    assert show(tokenizer, prompt.token_ids) == prompt.text == "<bos>[u]hi[a]"


def test_the_system_prompt_stands_before_prompts_that_have_none() -> None:
    tokenizer, data = tokenizer_of(template=TEMPLATE), data_of(system_prompt="be kind")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    texts = []
    for prompt in ("hi", messages[1:], messages):
        rendered = render_prompt(row_of(prompt), tokenizer, data)
        assert rendered is not None
        texts.append(rendered.text)
    assert texts == ["<bos>[s]be kind[u]hi[a]", "<bos>[s]be kind[u]hi[a]", "<bos>[s]be brief[u]hi[a]"]
    plain = render_prompt(row_of("hi"), tokenizer_of(), data)
    assert plain is not None
    assert plain.text == "be kind\n\nhi"
    assert len(messages) == 2  # the row is as it was


def test_the_template_can_be_left_alone() -> None:
    prompt = render_prompt(row_of("hi"), tokenizer_of(template=TEMPLATE), data_of(apply_chat_template=False))
    assert prompt is not None
    assert prompt.text == "hi"


def test_what_no_template_can_render_is_refused() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        render_prompt(row_of("hi"), tokenizer_of(), data_of(apply_chat_template=True))
    with pytest.raises(DataError, match="list of messages") as caught:
        render_prompt(row_of([{"role": "user", "content": "hi"}]), tokenizer_of(), data_of())
    assert caught.value.where == "t/train/7"
    refusing = tokenizer_of(template="{{ raise_exception('no system role') }}")
    with pytest.raises(DataError, match="refuses messages of the roles user: no system role"):
        render_prompt(row_of("hi"), refusing, data_of())


def test_prompts_that_are_too_long_are_dropped_or_stop_the_run() -> None:
    tokenizer = tokenizer_of()
    assert render_prompt(row_of("abcd"), tokenizer, data_of(max_prompt_tokens=4)) is not None
    assert render_prompt(row_of("abcde"), tokenizer, data_of(max_prompt_tokens=4)) is None
    with pytest.raises(DataError, match=r"5 tokens, and data\.max_prompt_tokens is 4") as caught:
        render_prompt(row_of("abcde"), tokenizer, data_of(max_prompt_tokens=4, overlong="error"))
    assert caught.value.where == "t/train/7"


@pytest.mark.parametrize("template", [None, TEMPLATE])
@pytest.mark.parametrize("adds", ["", "bos", "bos eos"])
def test_an_example_is_the_prompt_of_generation_and_the_masked_completion_with_one_eos(
    adds: str, template: str | None
) -> None:
    tokenizer = tokenizer_of(adds=adds, template=template)
    row = row_of("12+3=", completion="15")
    prompt = render_prompt(row, tokenizer, data_of())
    example = render_example(row, tokenizer, data_of())
    assert prompt is not None
    assert example is not None
    count = len(prompt.token_ids)
    assert example.token_ids[:count] == prompt.token_ids
    assert show(tokenizer, example.token_ids[count:]) == "15<eos>"
    assert example.completion_mask == [False] * count + [True] * 3


def test_a_completion_that_ends_with_eos_gets_no_second_one() -> None:
    tokenizer = tokenizer_of()
    example = render_example(row_of("a", completion="b<eos>"), tokenizer, data_of())
    assert example is not None
    assert show(tokenizer, example.token_ids) == "ab<eos>"


def test_examples_that_are_too_long_are_dropped_or_stop_the_run() -> None:
    tokenizer, row = tokenizer_of(), row_of("abc", completion="de")
    assert render_example(row, tokenizer, data_of(max_length=6)) is not None
    assert render_example(row, tokenizer, data_of(max_length=5)) is None
    with pytest.raises(DataError, match=r"6 tokens, and data\.max_length is 5"):
        render_example(row, tokenizer, data_of(max_length=5, overlong="error"))


@pytest.mark.parametrize(
    ("completion", "what"), [("", "0 trainable tokens"), ("<eos>", "0 trainable tokens"), (None, "no completion")]
)
def test_an_example_without_a_token_to_train_on_names_its_row(completion: str | None, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        render_example(row_of("a", completion=completion), tokenizer_of(), data_of())
    assert caught.value.where == "t/train/7"


def test_the_mask_covers_the_completion_and_nothing_else_when_read_back() -> None:
    tokenizer = tokenizer_of(template=TEMPLATE)
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    example = render_example(row_of(messages, completion="four"), tokenizer, data_of())
    assert example is not None
    trained = [token for token, mask in zip(example.token_ids, example.completion_mask, strict=True) if mask]
    assert show(tokenizer, trained) == "four<eos>"
    assert show(tokenizer, example.token_ids) == "<bos>[u]one[a]two<eos>[u]three[a]four<eos>"


def test_a_row_with_a_character_that_the_tokenizer_has_no_token_for_is_left_out_and_counted() -> None:
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.model = models.WordLevel({"<pad>": 0, "a": 1})  # it knows no other, and no unknown one
    render: Any = partial(render_example, tokenizer=tokenizer, data=data_of())
    notes = RenderNotes()
    row = row_of("a", completion="ä")
    assert without_empty(row, render=render, strict=False, notes=notes) is None
    assert (notes.counts["refused"], notes.first["refused"]) == (1, "t/train/7")
    with pytest.raises(DataError, match=r"the tokenizer refuses it: .*UNK") as caught:
        without_empty(row, render=render, strict=True, notes=notes)
    assert caught.value.where == "t/train/7"
    with pytest.raises(KeyError):  # a defect is none of a row's
        without_empty({"prompt": "a"}, render=render, strict=False, notes=notes)
