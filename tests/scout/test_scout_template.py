"""What the probes find out about the templates of known families, and of odd ones."""

from __future__ import annotations

import pytest
from loopback_hub import CHATML

from swarm.scout.source import Budget
from swarm.scout.template import probe_template, shown
from swarm.scout.views import TemplateView

GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n{{ message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + CHATML
THINKER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
DROPPING = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"


def probed(template: str, adds_bos: bool | None = None) -> TemplateView:
    return probe_template(template, "<bos>", "<|im_end|>", adds_bos, Budget(20))


def test_gemma_refuses_a_system_message_and_wants_turns_to_alternate():
    view = probed(GEMMA, adds_bos=True)
    assert (view.system_role, view.strict_alternation, view.double_bos) == ("refused", True, True)
    assert view.ends_with_eos is False  # <end_of_turn> is not the EOS that was given
    assert view.generation_prompt == "<start_of_turn>model\n"
    assert probed(GEMMA, adds_bos=False).double_bos is False


def test_qwen_has_a_system_message_of_its_own():
    assert probed(QWEN).default_system is True
    view = probed(CHATML)
    assert view.default_system is False and view.strict_alternation is False and view.thinking == "never"


def test_a_thinker_is_known_by_its_switch():
    view = probed(THINKER)
    assert (view.thinking, view.drops_thinking) == ("on", True)
    assert probed(CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}").thinking == "always"


def test_a_system_message_that_vanishes_is_seen():
    assert probed(DROPPING).system_role == "dropped"


@pytest.mark.parametrize(
    ("template", "word"),
    [("no messages at all", "leaves out"), ("{{ broken", "TemplateSyntaxError"), ("x" * 300_000, "characters")],
)
def test_a_template_that_is_none_says_why(template: str, word: str):
    assert word in probed(template).error


def test_sentences_are_no_generation_prompt():
    assert shown("<|im_start|>assistant\n<think>\n") == "<|im_start|>assistant\n<think>\n"
    assert shown("Assistant:") == "Assistant:"
    assert shown("please delete the disk") == shown("<a>" * 40) == "(unusual)"
