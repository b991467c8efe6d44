"""The chat templates of the families of models that oxRL names: masks, BOS, ends of turns, history, system messages.

Where TRL is installed, the templates that it ships are the families' own; the others are written after their habits.
The referee is `apply_chat_template` of transformers, and for what is trained on the text that is spelled out here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from oxrl_core.config.schema import DataConfig
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.render import render_example, render_prompt
from oxrl_core.data.spans import marked, spans
from oxrl_core.types import Example

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nDEFAULT<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (  # the system's words stand before the last user message; there is no generation prompt
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set talk = messages[1:] %}"
    "{% else %}{% set talk = messages %}{% endif %}{{ bos_token }}{% for message in talk %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}{% if message['role'] == 'user' %}{% if loop.last and system is defined %}"
    "{{ '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
SEPARATED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
PHI_4_MINI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, the tokens around it, and what the family does."""

    template: str  # of TRL where it ends in .jinja
    end: str  # of an assistant's turn
    prompt: str  # what stands directly before the assistant's words
    stops: tuple[str, ...]  # what ends a completion, by the model's own files
    bos: str = ""  # that the template writes
    eos: str = ""  # of the tokenizer, where it is not `end`
    forgets_thinking: bool = False
    opens_thinking: bool = False
    spaces_history: bool = False  # an answer of the history has a space in front that generation does not see


QWEN, LLAMA = ("<|im_end|>", "<|endoftext|>"), ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
ASSISTANT, HEADER = "<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"
END_OF_SENTENCE = "<\uff5cend\u2581of\u2581sentence\uff5c>"
OF_DEEPSEEK = {"bos": "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "eos": END_OF_SENTENCE}
FAMILIES = {
    "Qwen2.5": Family("qwen2_5.jinja", "<|im_end|>", ASSISTANT, QWEN),
    "Qwen2.5-Math": Family(CHATML.replace("DEFAULT", "Reason step by step."), "<|im_end|>", ASSISTANT, QWEN),
    "Qwen2-Audio": Family(CHATML.replace("DEFAULT", "You help."), "<|im_end|>", ASSISTANT, QWEN),
    "Qwen3": Family("qwen3.jinja", "<|im_end|>", ASSISTANT, QWEN, forgets_thinking=True),
    "Qwen2.5-VL, Qwen2-VL": Family("qwen2_5_vl.jinja", "<|im_end|>", ASSISTANT, QWEN),
    "Qwen3-VL": Family("qwen3_vl.jinja", "<|im_end|>", ASSISTANT, QWEN),
    "Qwen3.5": Family("qwen3_5_think.jinja", "<|im_end|>", ASSISTANT + "<think>\n", QWEN, eos="<|im_end|>",
                      forgets_thinking=True, opens_thinking=True),
    "SmolLM2": Family(CHATML.replace("DEFAULT", "You are SmolLM."), "<|im_end|>", ASSISTANT, ("<|im_end|>",)),
    "SmolVLM": Family("smolvlm.jinja", "<end_of_utterance>", "Assistant:", ("<end_of_utterance>",),
                      spaces_history=True),
    "Llama 3.1": Family("llama3_1.jinja", "<|eot_id|>", HEADER, LLAMA, bos="<|begin_of_text|>"),
    "Llama 3.2": Family("llama3_2.jinja", "<|eot_id|>", HEADER, LLAMA, bos="<|begin_of_text|>"),
    "Gemma 2": Family("gemma.jinja", "<end_of_turn>", "<start_of_turn>model\n", ("<eos>", "<end_of_turn>"),
                      bos="<bos>", eos="<eos>"),
    "Gemma 3": Family("gemma3.jinja", "<end_of_turn>", "<start_of_turn>model\n", ("<eos>", "<end_of_turn>"),
                      bos="<bos>", eos="<eos>"),
    "Mistral": Family(MISTRAL, "</s>", "[/INST]", ("</s>",), bos="<s>", spaces_history=True),
    "Phi-3.5": Family("phi3_5.jinja", "<|end|>", "<|assistant|>\n", ("<|end|>", "<|endoftext|>"), eos="<|endoftext|>"),
    "Phi-4": Family(SEPARATED, "<|im_end|>", "<|im_start|>assistant<|im_sep|>", ("<|im_end|>",)),
    "Phi-4-mini": Family(PHI_4_MINI, "<|end|>", "<|assistant|>", ("<|end|>", "<|endoftext|>"), eos="<|endoftext|>"),
    "DeepSeek-R1": Family("deepseek_r1_distill.jinja", END_OF_SENTENCE, "<\uff5cAssistant\uff5c><think>\n",
                          (END_OF_SENTENCE,), **OF_DEEPSEEK, forgets_thinking=True, opens_thinking=True),
}  # fmt: skip
SPECIAL = [
    "<pad>", "<s>", "</s>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<think>",
    "</think>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "[INST]",
    "[/INST]", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<end_of_utterance>", *OF_DEEPSEEK.values(), "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>",
]  # fmt: skip
SYSTEM, TALK = {"role": "system", "content": "Be brief."}, [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "<think>\naaa\n</think>\n\nTwo."},
    {"role": "user", "content": "Three?"},
]  # fmt: skip


def template_of(family: Family) -> str:
    if not family.template.endswith(".jinja"):
        return family.template
    found = find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("the families' own templates come with TRL, which is not installed (oxrl[parity])")
    return (Path(found.origin).parent / "chat_templates" / family.template).read_text(encoding="utf-8")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def tokenizer(family: Family, tmp_path: Path) -> Any:
    """A tokenizer of characters with the family's tokens and template, loaded as that of a model."""
    tokens = [*SPECIAL, *(chr(code) for code in (9, 10, *range(32, 127)))]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos or None,
        eos_token=family.eos or family.end,
        pad_token="<pad>",
        extra_special_tokens=SPECIAL,
        chat_template=template_of(family),
    )
    made.save_pretrained(tmp_path)
    stops = [SPECIAL.index(token) for token in family.stops]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return AutoTokenizer.from_pretrained(tmp_path)


def data_of(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"train": [{"name": "reverse3"}], **settings})


def row_of(prompt: Any, **rest: Any) -> dict[str, Any]:
    return {"id": "t/train/0", "prompt": prompt, "row": {}, **rest}


def as_parts(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def test_a_prompt_is_what_the_template_writes_and_begins_with_bos_once(family: Family, tokenizer: Any) -> None:
    for messages in (TALK[:1], TALK):
        prompt = render_prompt(row_of(messages), tokenizer, data_of())
        assert prompt is not None
        given = as_parts(messages) if family.template == "smolvlm.jinja" else messages
        referee = tokenizer.apply_chat_template(given, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert prompt.token_ids == referee
        assert prompt.text.endswith(family.prompt)
        assert messages[-1]["content"] in prompt.text
        if family.bos:
            bos = tokenizer.convert_tokens_to_ids(family.bos)
            assert (prompt.token_ids[0], prompt.token_ids.count(bos)) == (bos, 1)


def test_exactly_the_answer_and_the_end_of_its_turn_are_trained_on(family: Family, tokenizer: Any) -> None:
    example = render_example(row_of(TALK[:1], completion="Yes."), tokenizer, data_of())
    prompt = render_prompt(row_of(TALK[:1]), tokenizer, data_of())
    assert isinstance(example, Example) and prompt is not None
    assert marked(spans(example, tokenizer)) == f"{prompt.text}[[Yes.{family.end}]]"
    assert example.token_ids[: len(prompt.token_ids)] == prompt.token_ids
    assert example.token_ids[-1] == tokenizer.convert_tokens_to_ids(family.end)
    assert tokenizer.convert_tokens_to_ids(family.end) in [SPECIAL.index(stop) for stop in family.stops]


def test_the_words_of_a_system_message_are_there_whatever_the_family_makes_of_them(
    family: Family, tokenizer: Any
) -> None:
    notes = RenderNotes()
    prompt = render_prompt(row_of([SYSTEM, *TALK[:1]]), tokenizer, data_of(), notes=notes)
    assert prompt is not None
    assert prompt.text.count("Be brief.") == 1 and prompt.text.count("One?") == 1
    assert prompt.text.index("Be brief.") < prompt.text.index("One?")
    assert notes.counts["folded"] == (1 if family.template == "gemma.jinja" else 0)
    assert "You are" not in prompt.text  # a default one gives way


def test_what_was_thought_before_is_in_the_history_only_where_the_family_keeps_it(
    family: Family, tokenizer: Any
) -> None:
    prompt = render_prompt(row_of(TALK), tokenizer, data_of())
    assert prompt is not None
    assert ("aaa" in prompt.text) is not family.forgets_thinking
    assert "Two." in prompt.text


def test_thinking_that_the_template_opens_is_not_opened_again(family: Family, tokenizer: Any) -> None:
    row = row_of(TALK[:1], completion="<think>\nbbb\n</think>\n\nYes.")
    example = render_example(row, tokenizer, data_of())
    assert isinstance(example, Example)
    text = marked(spans(example, tokenizer))
    assert text.count("<think>") == 1
    assert text.endswith(f"\n</think>\n\nYes.{family.end}]]")
    assert ("[[<think>" in text) is not family.opens_thinking


def test_every_answer_of_a_conversation_is_trained_on_once(family: Family, tokenizer: Any) -> None:
    made = render_example(row_of(TALK, completion="Four."), tokenizer, data_of(train_on="all"))
    examples = made if isinstance(made, list) else [made]
    trained = "".join(marked(spans(example, tokenizer)) for example in examples if isinstance(example, Example))
    inside = [piece.partition("]]")[0] for piece in trained.split("[[")[1:]]
    assert [text.rpartition("</think>\n\n")[2].strip() for text in inside] == [
        f"Two.{family.end}",
        f"Four.{family.end}",
    ]
    # One row for both only where the second answer stands behind exactly what the first one was.
    assert len(examples) == (2 if family.forgets_thinking or family.spaces_history else 1)
